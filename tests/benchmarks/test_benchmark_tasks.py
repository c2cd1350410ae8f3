"""Drawing a batch beside the training step that it is for: ``make bench`` (one thread, batches of 64).

``ratio`` in the extra information (``--benchmark-json``) is the time to draw a batch over the time of a training step
with 300,000 parameters, of the faster of the LSTM and the Transformer, both over the sizes of training as they come. It
is meant to stay below 0.01.
"""

from __future__ import annotations

import dataclasses
import statistics
import time

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from experiments.data import Batch, TaskData
from experiments.tasks import TASKS
from experiments.tasks.synthetic import SyntheticTask
from experiments.training import update
from models.config import Budget, TransformerConfig
from models.matching import match
from models.registry import MODELS, build

BATCH = 64
DRAWN = 640  # batches that are timed together: whatever is drawn ahead is drawn, and mostly used, in between
SYNTHETIC = [name for name, task in TASKS.items() if issubclass(task, SyntheticTask)]


def step_seconds(data: TaskData, batches: list[Batch]) -> float:
    """Mean time of a training step over these batches, of the faster model."""
    means = []
    for config in (MODELS["lstm"], MODELS["transformer"]):
        if isinstance(config, TransformerConfig):
            config = dataclasses.replace(config, positions="sinusoidal")
        torch.manual_seed(0)
        model = build(match(config, Budget(parameters=300_000), data.dimensions), data.dimensions)
        optimizer = torch.optim.AdamW(model.parameters(), fused=True)
        times = []
        for batch in [batches[0], *batches]:
            begin = time.perf_counter()
            update(model, optimizer, batch, clip=1.0, label_smoothing=0.0, bfloat16=False)
            times.append(time.perf_counter() - begin)
        means.append(statistics.mean(times[1:]))  # the first is to warm up
    return min(means)


@pytest.mark.parametrize("name", SYNTHETIC)
def test_drawing(benchmark: BenchmarkFixture, name: str) -> None:
    data = TASKS[name]().load(None)
    batches = data.training(BATCH, torch.Generator().manual_seed(0))
    kept: list[Batch] = []

    def draw() -> None:
        for number in range(DRAWN):
            batch = next(batches)
            if number % 40 == 0:
                kept.append(batch)

    benchmark.group = "drawing batches"
    benchmark.pedantic(draw, rounds=3, warmup_rounds=1)
    seconds = step_seconds(data, kept[:16])
    benchmark.extra_info |= {"batches": DRAWN, "step_seconds": seconds}
    assert benchmark.stats is not None
    benchmark.extra_info["ratio"] = benchmark.stats.stats.median / DRAWN / seconds
