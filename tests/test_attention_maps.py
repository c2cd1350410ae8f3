"""Attention maps: the weights that a model really used, of the same few test sequences, kept small and read back."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.collections import QuadMesh

from analysis import inside, runs
from analysis.attention_maps import AttentionMap, as_frame, fetch_maps
from experiments import schema
from experiments.attempts import Place
from experiments.attention_maps import LONGEST, SEQUENCES, attention_maps, source_attention
from experiments.config import parse_run
from experiments.data import TaskData
from experiments.inputs import load_task
from experiments.run import execute
from experiments.stores import open_store
from experiments.tasks import TASKS
from models.config import LSTMConfig, ModelConfig, TransformerConfig
from models.interface import PAD, EncoderDecoder
from models.registry import build

CPU = torch.device("cpu")
LSTM = LSTMConfig(hidden_size=12, embedding_size=8, attention="general")
TRANSFORMER = TransformerConfig(hidden_size=12, feedforward_size=16, num_heads=3)
CONFIGS: dict[str, ModelConfig] = {
    "general": LSTM,
    "additive": replace(LSTM, attention="additive"),
    "fed": replace(LSTM, input_feeding=True),
    "heads": replace(LSTM, attention="multi_head", num_heads=2, input_feeding=True),
    "transformer": TRANSFORMER,
    "shared": replace(TRANSFORMER, share_layers=True),
}


def data_of(task: str, **options: object) -> TaskData:
    return load_task(TASKS[task](**options), None)


def model_of(config: ModelConfig, data: TaskData) -> EncoderDecoder:
    torch.manual_seed(0)
    return build(config, data.dimensions).eval()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_row_is_where_its_answer_looked(config: ModelConfig) -> None:
    """A row a position of the target, a column a symbol of the source; what comes later changes nothing before."""
    data = data_of("reverse", max_length=6, longer_lengths=())
    model = model_of(config, data)
    batch = data.evaluation[schema.TEST][-1]
    source, target_in = batch.source[:2], batch.target_in[:2]
    weights = source_attention(model, source, target_in)
    assert weights.shape == (2, target_in.shape[1], source.shape[1])
    torch.testing.assert_close(weights.sum(-1), torch.ones(weights.shape[:2]))
    assert (weights.std(-1) > 0).all()
    step = target_in.shape[1] // 2
    torch.testing.assert_close(source_attention(model, source, target_in[:, :step]), weights[:, :step])


def test_it_is_the_mean_over_layers_and_heads() -> None:
    data = data_of("reverse", max_length=6, longer_lengths=())
    model = model_of(TRANSFORMER, data)
    batch = data.evaluation[schema.TEST][-1]
    source, target_in = batch.source[:2], batch.target_in[:2]
    kept = model.attention_weights(source, target_in)
    layers = [kept[f"decoder.layers.{i}.cross_attention"][0] for i in range(2)]  # (B, 3, T, S)
    expected = (layers[0] + layers[1]).mean(1) / 2
    torch.testing.assert_close(source_attention(model, source, target_in), expected)


def test_the_sequences_are_the_same_for_every_model_and_their_answers_those_of_the_task() -> None:
    data = data_of("associative_recall")
    first, second = (attention_maps(model_of(config, data), data, CPU) for config in (LSTM, TRANSFORMER))
    assert len(first) == SEQUENCES
    assert [one["source"] for one in first] == [one["source"] for one in second]
    for one, other in zip(first, second, strict=True):
        assert one["target"] == other["target"]
        assert one["weights"] != other["weights"]
        pairs = dict(zip(one["source"][::2], one["source"][1::2], strict=True))
        assert one["target"] == [f"{key} → {pairs[key]}" for key in [row.split()[0] for row in one["target"]]]
        assert np.array(one["weights"]).shape == (len(one["target"]), len(one["source"]))
        assert np.array(one["weights"]).sum(1) == pytest.approx(1, abs=0.01)
    assert len({tuple(one["source"]) for one in first}) == SEQUENCES


def test_only_what_is_asked_and_no_padding_is_shown() -> None:
    data = data_of("needle", max_noise=20)
    maps = attention_maps(model_of(TRANSFORMER, data), data, CPU)
    for one in maps:
        assert PAD not in one["source"]
        assert one["source"][-1] == "?"
        marked = one["source"][one["source"].index("!") + 1]
        assert one["target"] == [f"? → {marked}"]
        assert np.array(one["weights"]).shape == (1, len(one["source"]))


def test_without_attention_or_short_sequences_there_is_no_map() -> None:
    short = data_of("reverse", max_length=6, longer_lengths=())
    assert attention_maps(model_of(replace(LSTM, attention="none"), short), short, CPU) == []
    assert attention_maps(model_of(replace(TRANSFORMER, cross_attention=False), short), short, CPU) == []
    answers = data_of("copy_memory", min_delay=LONGEST, max_delay=LONGEST)
    sources = data_of("needle", min_noise=LONGEST, max_noise=LONGEST)  # a single answer
    for long in (answers, sources):
        assert attention_maps(model_of(TRANSFORMER, long), long, CPU) == []


# --- kept by runs, read by the analysis ------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with tiny runs of four models on a task, two seeds of one."""
    folder = tmp_path_factory.mktemp("maps")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    place = Place(open_store(uri, "g", "For tests."), "g", "cpu", None)
    training = {"steps": 2, "batch_size": 4, "evaluate_every": 2, "learning_rate": 4e-3}
    task = {"name": "reverse", "max_length": 6, "longer_lengths": []}
    for model, seed in (("lstm", 0), ("lstm_attention", 1), ("lstm_attention", 0), ("transformer", 0)):
        tree = {"kind": "learn", "model": model, "seed": seed, "task": task, "training": training}
        (outcome,) = execute(
            (parse_run(tree | {"budget": {"parameters": 5_000}}),), place, lambda run, status: None
        ).values()
        assert outcome.kind == "finished"
    return uri


def test_maps_come_from_the_store_and_not_from_a_table(store: str, tmp_path: Path) -> None:
    table = runs.load(store, ["g"])
    maps = fetch_maps(store, table)
    assert [(one.model, one.seed, one.example) for one in maps] == [
        (model, 0, example) for model in ("lstm_attention", "transformer") for example in range(SEQUENCES)
    ]
    for one in maps:
        assert one.weights.shape == (len(one.target), len(one.source))
        assert one.target[-1] == one.source[-1] == "<eos>"
        assert one.target[:-1] == one.source[-2::-1]
    assert fetch_maps(str(runs.write(table, tmp_path / "t.parquet")), table) == []


def test_the_artifact_is_small(store: str) -> None:
    files = list(Path(store.removeprefix("sqlite:///")).parent.rglob(schema.ATTENTION_ARTIFACT))
    assert len(files) == 3  # none of the plain LSTM
    for file in files:
        assert file.stat().st_size < 30_000
        assert set(json.loads(file.read_text(encoding="utf-8"))) == {"examples"}


# --- the figure ------------------------------------------------------------------------------------------------------
def a_map(model: str, task: str = "g2p", example: int = 0, source: str = "bon", target: str = "bɔ̃") -> AttentionMap:
    weights = np.arange(1.0, 1 + len(source) * len(target)).reshape(len(target), len(source))
    return AttentionMap(
        "g", task, model, 0, f"{task}-{model}", example, tuple(source), tuple(target), weights / weights.sum()
    )


def test_maps_stand_side_by_side() -> None:
    maps = [a_map(model, example=example) for model in ("transformer", "lstm_attention") for example in range(3)]
    figure = inside.attention(maps)
    assert figure is not None
    left, right = figure.axes
    assert [ax.get_title(loc="left") for ax in (left, right)] == ["LSTM + attention\ng2p", "Transformer\ng2p"]
    for ax in (left, right):
        assert [text.get_text() for text in ax.get_xticklabels()] == ["b", "o", "n"]
        assert [text.get_text() for text in ax.get_yticklabels()] == list("bɔ̃")
        assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first answer on top
        (mesh,) = (child for child in ax.collections if isinstance(child, QuadMesh))
        np.testing.assert_allclose(np.asarray(mesh.get_array()).ravel(), maps[0].weights.ravel())
        assert mesh.get_clim() == (0, 1)


def test_which_maps_are_drawn() -> None:
    assert inside.attention([]) is None
    lone = [a_map("transformer", f"t{i}") for i in range(6)]
    both = [a_map("transformer"), a_map("lstm_attention"), a_map("lstm_transformer", source="bin")]
    rows = inside.shown([*lone, *both])
    assert [len(row) for row in rows] == [2, 1, 1, 1]  # most models first; one on other data is left out
    assert [one.model for one in rows[0]] == ["lstm_attention", "transformer"]
    examples = [a_map("transformer", example=example) for example in range(3)]
    assert [one.example for one in inside.shown(examples)[0]] == [1]


def test_the_numbers_of_the_figure() -> None:
    one = a_map("transformer")
    frame = as_frame([one])
    assert len(frame) == one.weights.size
    assert frame["weight"].to_numpy().reshape(one.weights.shape).tolist() == one.weights.tolist()
    assert set(frame["run_id"]) == {"g2p-transformer"}
    assert frame["target"].tolist()[::3] == list("bɔ̃")
