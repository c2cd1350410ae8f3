"""CUDA graphs: trainings and generations that are recorded are those that are not, on a GPU and as simulated_graphs."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import torch
from model_settings import dimensions_of, sized, source_of, target_of
from simulated_graphs import Simulated, simulate
from torch import Tensor

from experiments import efficiency, graphs, phases
from experiments.config import Efficiency, Training
from experiments.data import Batch
from experiments.graphs import GraphRecorder, RecordedUpdate, Recording
from experiments.timing import timed
from experiments.training import Update, optimizer_for, update
from models.config import LSTMConfig, ModelConfig, TransformerConfig
from models.decoding import greedy
from models.interface import EOS, PAD, EncoderDecoder
from models.registry import build

Result = TypeVar("Result")
SETTINGS = Training(steps=9, batch_size=4, learning_rate=0.01, evaluate_every=9)
MODELS = [
    sized(LSTMConfig(layers=2, attention="none", dropout=0.3), 24, 16),
    sized(LSTMConfig(attention="general", input_feeding=True), 24, 16),
    sized(TransformerConfig(positions="rotary", dropout=0.3), 24, 16),
    sized(TransformerConfig(positions="sinusoidal"), 24, 16),
]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]
    ),
]


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> torch.device:
    if request.param == "cpu":
        simulate(monkeypatch)
    return torch.device(request.param)


def built(config: ModelConfig, device: torch.device) -> EncoderDecoder:
    torch.manual_seed(0)
    return build(config, replace(dimensions_of(config), max_length=64)).to(device)


def batches(config: ModelConfig, device: torch.device, lengths: list[tuple[int, bool]]) -> list[Batch]:
    """Of these lengths, padded or not; both sides' rows end somewhere."""
    found = []
    for seed, (length, padded) in enumerate(lengths):
        source, target = source_of(config, 4, length, seed, padded=padded), target_of(4, length, seed)
        target[1, length // 2 :] = PAD
        batch = Batch(source, target_of(4, length, seed + 99), target, (source != PAD).sum(1))
        found.append(batch.to(device))
    return found


def trained(config: ModelConfig, batches: list[Batch], step: Update, device: torch.device) -> list[tuple[float, float]]:
    """The loss and the gradient's norm at each step; the learning rate is another at each."""
    model = built(config, device).train()
    optimizer = optimizer_for(model, SETTINGS)
    torch.manual_seed(1)
    found = []
    for number, batch in enumerate(batches):
        optimizer.param_groups[0]["lr"] = 0.01 / (1 + number)
        loss, norm = step(model, optimizer, batch, clip=0.5, label_smoothing=0.1, bfloat16=False)
        found.append((loss.item(), norm.item()))
    return found


SHAPES = [(5, False), (7, True), (5, False), (7, True), (5, False), (12, False), (5, False), (7, True), (5, True)]


@pytest.mark.parametrize("config", MODELS, ids=str)
def test_a_recorded_training_is_the_same(config: ModelConfig, device: torch.device) -> None:
    """Loss by loss: other batches and learning rates, dropout drawn anew, and longer ones in between.

    On a GPU without dropout, whose random numbers are others in a graph.
    """
    if device.type == "cuda":
        config = replace(config, dropout=0.0)
    given = batches(config, device, SHAPES)
    tolerance = 1e-6 if device.type == "cpu" else 1e-3
    recorded, plain = (trained(config, given, step, device) for step in (RecordedUpdate(device), update))
    torch.testing.assert_close(recorded, plain, rtol=tolerance, atol=tolerance)


def test_a_shape_is_recorded_when_it_has_come_twice(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of padded and unpadded ones apart; of so many shapes."""
    asked: list[tuple[int, bool]] = []

    def counting(model: EncoderDecoder, optimizer: Any, batch: Batch, **settings: Any) -> tuple[Tensor, Tensor]:
        asked.append((batch.source.shape[1], int(batch.source_lengths.min()) < batch.source.shape[1]))
        return update(model, optimizer, batch, **settings)

    monkeypatch.setattr(graphs, "update", counting)
    monkeypatch.setattr(graphs, "MOST_SHAPES", 2)
    config = MODELS[0]
    lengths = [*4 * [(5, False)], *4 * [(5, True)], *4 * [(6, False)], (5, True), (5, False)]
    trained(config, batches(config, device, lengths), RecordedUpdate(device), device)
    assert asked == [*3 * [(5, False)], *3 * [(5, True)], *4 * [(6, False)]]  # the third time it is recorded


def test_what_a_recording_reads_outlives_what_takes_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """A longer batch makes another table of waves; a graph that was recorded before has the address of the old one."""

    class Forgetful(Simulated):
        def record(self, work: Callable[[], Result]) -> Recording[Result]:
            return Recording(lambda: None, work())

    monkeypatch.setattr(graphs, "GraphRecorder", Forgetful)
    config, device = MODELS[3], torch.device("cpu")
    model = built(config, device).train()
    optimizer, step = optimizer_for(model, SETTINGS), RecordedUpdate(device)
    tables = []
    for batch in batches(config, device, [(5, False), (5, False), (50, False)]):
        step(model, optimizer, batch, clip=0.5, label_smoothing=0.0, bfloat16=False)
        tables.append(weakref.ref(next(model.buffers())))
    gc.collect()
    assert tables[2]() is next(model.buffers())
    assert tables[1]() is not None
    assert tables[1]() is not tables[2]()


@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("config", MODELS, ids=str)
def test_a_recorded_generation_is_that_of_greedy_decoding(
    config: ModelConfig, device: torch.device, bfloat16: bool
) -> None:
    """Of the source that is there when it is replayed."""
    if bfloat16 and device.type == "cpu":
        pytest.skip("what autocast makes for a recording is a GPU's")
    model = built(config, device).eval()
    model.decoder.output.bias.data[[EOS, PAD]] = -1e9  # nothing ends early
    first, second = batches(config, device, [(6, False), (6, False)])
    with phases.inferring(device, bfloat16):
        generation = phases.RecordedGeneration(model, first, 10)
        assert len(generation()) == 10
        first.source.copy_(second.source)
        assert len(generation()) == 10
        written = generation.written
        assert torch.equal(written, greedy(model, second.source, 10, second.source_lengths))
        assert len(written.unique()) > 1


def test_a_recorded_sweep_has_every_phase(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    """Training steps and generation are replayed, and nothing else is recorded."""
    recorded: list[int] = []
    recorder = phases.GraphRecorder
    record = recorder.record

    def counting(self: Any, work: Callable[[], Result]) -> Recording[Result]:
        recorded.append(1)
        return record(self, work)

    monkeypatch.setattr(recorder, "record", counting)
    settings = Efficiency(lengths=(4,), batch_size=2, decode_tokens=3, cuda_graphs=True)

    def thrice(works: Mapping[Any, Callable[[], object]], *_: object) -> dict[Any, list[float]]:
        return {key: [timed(work, device) for _ in range(3)] for key, work in works.items()}

    monkeypatch.setattr(efficiency, "interleaved", thrice)
    config = MODELS[2]
    points: dict[str, float] = {}

    class Recorder:
        def point(self, name: str, value: float, step: int) -> None:
            points[name] = value

        def tag(self, name: str, value: str) -> None:
            pytest.fail(f"{name} {value}")

    class Keeper:
        def load(self) -> None:
            return None

        def due(self) -> bool:
            return False

        def save(self, state: Any) -> None:
            pass

    subject = efficiency.Subject(config, 0, Recorder(), Keeper())
    assert efficiency.measure([subject], settings, device=device, watch=lambda *_: None) == [None]
    assert {"efficiency/train_step_seconds", "efficiency/generate_seconds"} <= points.keys()
    assert len(recorded) >= 1 + 1 + 3  # the step; before generation; each of its steps; again where energy is counted


def test_there_are_none_without_a_gpu() -> None:
    with pytest.raises(ValueError, match="cuda_graphs: there are none on a cpu; they need --device cuda"):
        GraphRecorder(torch.device("cpu"))


def test_what_cannot_be_recorded_is_refused() -> None:
    with pytest.raises(ValueError, match="cuda_graphs: of one device, not of 2"):
        Training(steps=9, batch_size=4, learning_rate=0.01, evaluate_every=9, devices=2, cuda_graphs=True)
    with pytest.raises(ValueError, match="state a warmup of 2 or more"):
        Efficiency(lengths=(4,), batch_size=2, warmup=1, cuda_graphs=True)


@pytest.mark.parametrize("settings", [SETTINGS, Efficiency(lengths=(4,), batch_size=2)], ids=["training", "efficiency"])
def test_runs_without_recordings_keep_their_keys(settings: Training | Efficiency) -> None:
    assert "cuda_graphs" not in settings.model_dump(mode="json")
    assert settings.model_copy(update={"cuda_graphs": True}).model_dump(mode="json")["cuda_graphs"] is True
