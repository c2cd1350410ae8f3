"""How far back the loss reaches: against closed forms, against autograd position by position, and as tracked runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from mlflow import MlflowClient
from torch import Tensor, nn

from analysis import gradients as fading
from analysis import runs as runs_table
from experiments import gradients, schema
from experiments.attempts import Outcome, Place
from experiments.config import Gradients, parse_run, run_key
from experiments.data import Batch
from experiments.environment import prepare_process
from experiments.gradients import input_gradients, reach_of_loss
from experiments.grid import load_grid
from experiments.run import execute
from experiments.settings import SettingsError
from experiments.stores import open_store
from experiments.tasks.streams import Needle
from models.config import LSTMConfig, ModelConfig, TransformerConfig
from models.embeddings import TokenEmbedding
from models.interface import EncoderDecoder
from models.registry import build

CPU = torch.device("cpu")
TASK = Needle(max_noise=12)
LSTM = LSTMConfig(hidden_size=12, embedding_size=8)
CONFIGS: dict[str, ModelConfig] = {
    "lstm": LSTM,
    "lstm_attention": replace(LSTM, attention="general"),
    "transformer": TransformerConfig(hidden_size=8, feedforward_size=16, num_heads=2),
    "shared": TransformerConfig(hidden_size=8, feedforward_size=16, num_heads=2, share_embeddings="all"),
}
SETTINGS = Gradients(distances=(1, 3, 13), sequences=4)


def model_of(config: ModelConfig, seed: int = 0) -> EncoderDecoder:
    torch.manual_seed(seed)
    return build(config, TASK.load(None).dimensions)


# --- the streams -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("distance", [1, 2, 7, 13])
def test_what_is_asked_for_stands_at_the_distance(distance: int) -> None:
    source, _ = TASK.vocabularies()
    batch = TASK.at_distance(20, distance, torch.Generator().manual_seed(1))
    assert batch.source.shape == (20, 12 + 3)  # the noise, the needle, the mark, the question
    assert torch.equal(batch.source, batch.target_in)
    for tokens, target in zip(batch.source.tolist(), batch.target.tolist(), strict=True):
        stream = [source.symbols[token] for token in tokens]
        assert stream.count("!") == 1
        assert stream[-1] == "?"
        assert stream.index("!") + 1 == len(stream) - 1 - distance
        assert target[:-1] == [0] * 14
        assert target[-1] == tokens[-1 - distance]


# --- the gradient ----------------------------------------------------------------------------------------------------
class Decaying(nn.Module):
    """A linear recurrence h ← a·h + x over the embedded stream; its last state is the logits of two symbols."""

    def __init__(self, kept: float, of_source: float) -> None:
        super().__init__()
        self.encoder = nn.Module()
        self.decoder = nn.Module()
        self.encoder.embedding = TokenEmbedding(20, 2)
        self.decoder.embedding = TokenEmbedding(20, 2)
        self.kept, self.of_source = kept, of_source

    def forward(self, source: Tensor, target_in: Tensor, lengths: Tensor) -> Tensor:
        embedded = self.decoder.embedding(target_in) + self.of_source * self.encoder.embedding(source)  # type: ignore[operator]
        state, states = torch.zeros(len(source), 2), []
        for x in embedded.unbind(1):
            state = self.kept * state + x
            states.append(state)
        return torch.stack(states, dim=1)


@pytest.mark.parametrize(("kept", "of_source"), [(0.5, 0.0), (0.9, 3.0), (1.0, 0.0)])
def test_of_a_linear_recurrence_the_gradient_is_a_power_of_the_distance(kept: float, of_source: float) -> None:
    """∂loss/∂x at distance d is aᵈ (p - y), once in what the decoder is fed and `of_source` times in the source."""
    torch.manual_seed(3)
    model = Decaying(kept, of_source)
    tokens = torch.randint(3, 20, (5, 9))
    target = torch.zeros_like(tokens)
    target[:, -1] = torch.tensor([0, 1, 1, 0, 1])
    norms, output_norms, answers = input_gradients(model, Batch(tokens, tokens, target, torch.full((5,), 9)))  # type: ignore[arg-type]
    logits = model(tokens, tokens, tokens)[:, -1]
    off = (logits.softmax(-1) - F.one_hot(target[:, -1], 2)).norm(dim=-1)  # (5,)
    powers = kept ** torch.arange(8, -1, -1.0)
    expected = off[:, None] * powers * (1 + of_source**2) ** 0.5
    torch.testing.assert_close(norms, expected.double(), rtol=1e-5, atol=0)
    torch.testing.assert_close(output_norms, off.double(), rtol=1e-5, atol=0)
    assert torch.equal(answers, logits.argmax(-1))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_it_is_what_autograd_says_sequence_by_sequence(config: ModelConfig) -> None:
    """Brute force: each sequence alone, the embeddings replaced by leaves, the loss written out."""
    model = model_of(config).eval()
    batch = TASK.at_distance(3, 5, torch.Generator().manual_seed(2))
    norms = input_gradients(model, batch).norms
    for row in range(batch.size):
        leaves = []
        handles = []
        for half in (model.encoder, model.decoder):
            leaf = half.embedding(batch.source[row : row + 1]).detach().requires_grad_()
            leaves.append(leaf)
            read = (
                leaf.transpose(0, 1) if isinstance(config, LSTMConfig) else leaf
            )  # an LSTM reads position by position
            handles.append(half.embedding.register_forward_hook(lambda m, i, o, read=read: read))
        logits = model(batch.source[row : row + 1], batch.target_in[row : row + 1])[0, -1]
        for handle in handles:
            handle.remove()
        loss = logits.exp().sum().log() - logits[batch.target[row, -1]]
        loss.backward()
        for position in range(batch.source.shape[1]):
            total = sum(float(leaf.grad[0, position].double().pow(2).sum()) for leaf in leaves if leaf.grad is not None)
            assert float(norms[row, position]) == pytest.approx(total**0.5, rel=1e-4)


def test_a_recurrent_decoder_without_attention_forgets_and_one_with_it_does_not() -> None:
    """At initialisation, over a hundred tokens: the one loses all but a millionth, the other all but a part in n."""
    task = Needle(max_noise=100)
    settings = Gradients(distances=(1, 100), sequences=8)
    left = {}
    for name in ("lstm", "lstm_attention", "transformer"):
        torch.manual_seed(0)
        model = build(CONFIGS[name], task.load(None).dimensions)
        found = reach_of_loss(model, task, settings, CPU)
        left[name] = found[100].norm.value / found[1].norm.value
    assert left["lstm"] < 1e-6
    assert left["lstm_attention"] > 1e-4
    assert left["transformer"] > 0.1


def test_sums_and_counts_and_the_same_streams_every_time() -> None:
    model = model_of(replace(LSTM, dropout=0.5)).train()
    first, second = (reach_of_loss(model, TASK, SETTINGS, CPU) for _ in range(2))
    assert first == second  # dropout is off, and the streams are the same
    assert model.training
    assert list(first) == [1, 3, 13]
    for distance, (norm, output_norm, right) in first.items():
        batch = TASK.at_distance(4, distance, torch.Generator().manual_seed(4))
        norms, output_norms, answers = input_gradients(model.eval(), batch)
        assert norm.count == output_norm.count == right.count == 4
        assert norm.total == pytest.approx(norms[:, -1 - distance].sum().item())
        assert output_norm.total == pytest.approx(output_norms.sum().item())
        assert right.total == (answers == batch.target[:, -1]).sum().item()
    assert all(parameter.grad is None for parameter in model.parameters())


def test_few_at_a_time_streams_are_what_they_are_together(monkeypatch: pytest.MonkeyPatch) -> None:
    model = model_of(CONFIGS["transformer"])
    together = reach_of_loss(model, TASK, SETTINGS, CPU)
    monkeypatch.setattr(gradients, "EVALUATED_TOKENS", 3 * 2 * 15)  # three streams, then the fourth
    apart = reach_of_loss(model, TASK, SETTINGS, CPU)
    for distance, found in together.items():
        for whole, parts in zip(found, apart[distance], strict=True):
            assert (parts.total, parts.count) == (pytest.approx(whole.total, rel=1e-5), whole.count)


@pytest.mark.parametrize("flushed", [True, False], ids=["on a processor", "on a GPU"])
def test_small_numbers_are_not_lost_in_their_squares_and_vanished_ones_are_zero(flushed: bool) -> None:
    """Whether the device makes zeros of numbers below 1e-38, as a processor does in every run, or does not."""
    prepare_process()
    torch.set_flush_denormal(flushed)
    tokens = torch.full((1, 4), 5)
    target = torch.tensor([[0, 0, 0, 1]])
    norms = input_gradients(Decaying(1e-13, 0.0), Batch(tokens, tokens, target, torch.tensor([4]))).norms  # type: ignore[arg-type]
    torch.set_flush_denormal(False)
    relative = (norms / norms[0, -1])[0].tolist()
    assert relative[2] == pytest.approx(1e-13)
    assert relative[1] == pytest.approx(1e-26)  # whose square is no number of float32
    assert relative[0] == 0  # 1e-39 would be one below the normal ones


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_on_cuda_it_is_the_same(config: ModelConfig) -> None:
    model = model_of(config)
    here = reach_of_loss(model, TASK, SETTINGS, CPU)
    there = reach_of_loss(model.to("cuda"), TASK, SETTINGS, torch.device("cuda"))
    for distance in SETTINGS.distances:
        assert there[distance].norm.value == pytest.approx(here[distance].norm.value, rel=1e-2)


# --- the runs --------------------------------------------------------------------------------------------------------
GRID = """
description: Tiny.
fixed:
  kind: gradients
  budget: {parameters: 5_000}
  task: {name: needle, max_noise: 12}
  training: {steps: 4, batch_size: 4, evaluate_every: 2, learning_rate: 4e-3, warmup_steps: 1}
  gradients: {distances: [1, 4, 13], sequences: 4}
compare:
  model: [lstm, transformer]
  seed: [0]
"""


def tree(**more: object) -> dict[str, object]:
    return {
        "kind": "gradients",
        "model": "lstm",
        "budget": {"parameters": 5_000},
        "seed": 0,
        "task": {"name": "needle", "max_noise": 12},
        "training": {"steps": 4, "batch_size": 4, "evaluate_every": 2, "learning_rate": 4e-3},
        "gradients": {"distances": [1, 4, 13]},
    } | more


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"gradients": {"distances": [1, 14]}}, r"gradients\.distances: 14; with max_noise 12 the farthest is 13"),
        ({"gradients": {"distances": [4, 1]}}, "distances must rise"),
        ({"gradients": {"distances": [0, 1]}}, "distances begin with 1, not 0"),
        ({"gradients": {"distances": [1]}}, r"gradients\.distances: .* at least 2 items"),
        ({"gradients": {"distances": [1, 2], "sequence": 3}}, r"gradients\.sequence: unknown key; did you mean seq"),
        ({"task": {"name": "delayed_match"}}, r"task\.name: .*for a run of kind gradients only needle does"),
        ({"decoding": {"beam_size": 2}}, "decoding: unknown key for a run of kind gradients"),
    ],
)
def test_what_cannot_be_measured_is_refused(more: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        parse_run(tree(**more))


def test_all_its_settings_are_in_its_key() -> None:
    keys = {
        run_key(parse_run(tree(**more)), "cpu")
        for more in (
            {},
            {"gradients": {"distances": [1, 4]}},
            {"gradients": {"distances": [1, 4, 13], "sequences": 5}},
            {"task": {"name": "needle", "max_noise": 13}},
            {"training": {"steps": 5, "batch_size": 4, "evaluate_every": 2, "learning_rate": 4e-3}},
        )
    }
    assert len(keys) == 5


def executed(folder: Path, stop_after: int | None = None) -> tuple[str, dict[str, str]]:
    """Address of a store in which the grid was run, and how each run ended; stopped first after so many steps."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    place = Place(open_store(uri, "g", "For tests."), "g", "cpu", None)
    path = folder / "g.yaml"
    path.write_text(GRID, encoding="utf-8")
    ends: dict[str, str] = {}
    for run in load_grid(str(path)).runs:
        if stop_after is not None:
            answers = iter([False] * stop_after)
            (stopped,) = execute((run,), place, lambda r, s: None, lambda answers=answers: next(answers, True)).values()  # type: ignore[misc]
            assert stopped == Outcome("interrupted")
        (outcome,) = execute((run,), place, lambda r, s: None).values()
        ends[run.model.label] = outcome.kind
    return uri, ends


def test_runs_from_the_grid_to_the_table(tmp_path: Path) -> None:
    """Two phases at every distance, the training between them, the gates; then half-distances from the store."""
    uri, ends = executed(tmp_path)
    assert ends == {"lstm": "finished", "transformer": "finished"}
    table = runs_table.load(uri, ["g"])
    assert set(table["kind"]) == {schema.GRADIENTS}
    assert set(table["task"]) == {"needle(max_noise=12)"}
    assert set(table["gates"]) == {"pass"}
    for _, run in table.groupby("run_id"):
        for names in (schema.GRADIENT_NORM, schema.GRADIENT_OUTPUT_NORM, schema.GRADIENT_ACCURACY):
            for name in names.values():
                points = run[run["metric"] == name]
                assert points["at"].tolist() == [1, 4, 13]
                assert set(points["axis"]) == {schema.DISTANCE}
        first, last = (run.loc[run["metric"] == name, "value"] for name in schema.GRADIENT_NORM.values())
        assert (first.to_numpy() != last.to_numpy()).all()  # it was trained in between
        assert {"train/loss", "validation/token_accuracy", "selected/step", "model/match_error"} <= set(run["metric"])
        assert not any(name.startswith("test/") for name in run["metric"])
    found = fading.half_distances(table)
    assert len(found) == 2 * 2
    client = MlflowClient(uri)
    files = {file.path for file in client.list_artifacts(str(table["run_id"].iloc[0]))}
    assert {"checkpoint", schema.CONFIG_ARTIFACT} <= files


def test_an_interrupted_run_says_nothing_twice(tmp_path: Path) -> None:
    """Stopped after two steps and resumed: the points of an undisturbed run, each once."""
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    undisturbed, _ = executed(tmp_path / "a")
    resumed, ends = executed(tmp_path / "b", stop_after=1)
    assert set(ends.values()) == {"finished"}
    tables = [runs_table.load(uri, ["g"]) for uri in (undisturbed, resumed)]
    values = [
        table.loc[~table["metric"].str.contains("second"), ["model", "metric", "at", "value"]].reset_index(drop=True)
        for table in tables
    ]
    assert values[0].equals(values[1])
    client = MlflowClient(resumed)
    for run_id in tables[1]["run_id"].unique():
        for name in schema.GRADIENT_NORM.values():
            assert len(client.get_metric_history(run_id, name)) == 3
