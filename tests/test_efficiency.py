"""Efficiency runs: real measurements of tiny models, and the arithmetic around them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace

import pytest
import torch

from experiments import efficiency, schema
from experiments.config import Efficiency
from models.config import LSTMConfig, ModelConfig, TransformerConfig
from models.cost import state_bytes, training_flops

CPU = torch.device("cpu")
SETTINGS = Efficiency(lengths=(4, 16), tokens_per_batch=256, repeats=3, warmup=1, decode_tokens=4)
CONFIGS: list[ModelConfig] = [
    LSTMConfig(attention="general", hidden_size=16, embedding_size=16),
    TransformerConfig(positions="sinusoidal", hidden_size=16, feedforward_size=32),
    TransformerConfig(positions="learned", hidden_size=16, feedforward_size=32),
]


@dataclass
class Points:
    values: dict[str, dict[int, float]] = field(default_factory=dict)

    def __call__(self, name: str, value: float, length: int) -> None:
        self.values.setdefault(name, {})[length] = value


@pytest.mark.parametrize("config", CONFIGS, ids=["lstm", "sinusoidal", "learned"])
def test_everything_is_measured_at_every_length(config: ModelConfig) -> None:
    points = Points()
    watched: list[tuple[int, int]] = []
    efficiency.measure(
        config, SETTINGS, seed=0, device=CPU, log=points, watch=lambda done, all_: watched.append((done, all_))
    )
    assert watched == [(0, 2), (1, 2), (2, 2)]
    values = points.values
    assert all(set(curve) == {4, 16} for name, curve in values.items() if name != schema.DECODE_SECONDS_PER_TOKEN)
    for length in (4, 16):
        batch = 128 // length
        seconds = values[schema.TRAIN_STEP_SECONDS][length]
        assert values[schema.BATCH_SIZE][length] == batch
        assert (
            0
            < values[schema.TRAIN_STEP_SECONDS_LOW][length]
            <= seconds
            <= values[schema.TRAIN_STEP_SECONDS_HIGH][length]
        )
        assert values[schema.EFFICIENCY_TRAIN_TOKENS_PER_SECOND][length] == pytest.approx(256 / seconds)
        assert values[schema.TRAIN_STEP_FLOPS][length] == batch * training_flops(config, length, length, 32)
        assert values[schema.STATE_BYTES][length] == state_bytes(config, length, length)
        assert values[schema.ENCODE_SECONDS][length] > 0
        assert 0 < values[schema.PEAK_SHARE][length] < 1
        if sys.platform == "linux":
            assert values[schema.PEAK_MEMORY][length] > 0


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process's memory")
def test_peak_memory_sees_what_a_step_holds() -> None:
    """A hundred megabytes of logits more or less, on top of whatever else a step needs."""
    small = replace(CONFIGS[1], hidden_size=4, feedforward_size=4, num_heads=1)  # type: ignore[arg-type]
    vocabulary = 4_000

    def peak(tokens: int) -> float:
        settings = Efficiency(lengths=(10,), tokens_per_batch=2 * tokens, vocabulary=vocabulary)
        measured = efficiency.peak_memory(small, settings, 10, CPU, False)
        assert measured is not None
        return measured

    grown = peak(12_000) - peak(4_000)
    logits = 8_000 * vocabulary * 4
    assert 1.5 * logits < grown < 5 * logits  # the logits, their softmax, and the gradient


def test_the_clock_leaves_warm_up_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that stands still but for the work, of which each repetition takes a known time."""
    now = 100.0
    durations = iter([50.0, 20.0, 1.0, 3.0, 2.0])

    def work() -> None:
        nonlocal now
        now += next(durations)

    monkeypatch.setattr("experiments.efficiency.time.perf_counter", lambda: now)
    settings = Efficiency(lengths=(1,), tokens_per_batch=2, repeats=3, warmup=2)
    assert efficiency.timed(work, settings, CPU) == [1.0, 3.0, 2.0]


def test_quartiles_by_hand() -> None:
    assert efficiency.quartiles([4, 1, 2, 3, 5]) == (2, 3, 4)
    assert efficiency.quartiles([7]) == (7, 7, 7)


def test_matmul_peak_counts_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best repetition of the best size."""
    seconds = iter([[0.5, 2.0], [0.25, 4.0], [8.0, 1.0], [64.0, 128.0]])  # sizes 256, 512, 1024, 2048
    monkeypatch.setattr(efficiency, "timed", lambda work, settings, device: next(seconds))
    assert efficiency.matmul_flops_per_second(CPU, False, SETTINGS) == 2 * 1024**3 / 1.0


def test_impossible_sweeps_are_refused() -> None:
    with pytest.raises(ValueError, match="length 33 does not fit into batches of 64 tokens"):
        Efficiency(lengths=(33,), tokens_per_batch=64)
    with pytest.raises(ValueError, match="lengths must rise"):
        Efficiency(lengths=(8, 4), tokens_per_batch=64)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("config", CONFIGS, ids=["lstm", "sinusoidal", "learned"])
def test_everything_is_measured_on_cuda(config: ModelConfig) -> None:
    points = Points()
    efficiency.measure(config, SETTINGS, seed=0, device=torch.device("cuda"), log=points, watch=lambda done, all_: None)
    assert points.values[schema.PEAK_MEMORY][16] > 0
    assert points.values[schema.TRAIN_STEP_SECONDS][16] > 0
