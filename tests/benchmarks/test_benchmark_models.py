"""The models side by side, phase by phase: ``make bench`` (one thread, 300,000 parameters each)."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture

from models.config import Budget, Dimensions, ModelConfig
from models.cost import count_parameters, training_flops
from models.decoding import greedy
from models.interface import EOS, EncoderDecoder
from models.matching import match
from models.registry import MODELS, build

VOCABULARY, BATCH = 32, 64


def prepared(name: str, length: int) -> tuple[EncoderDecoder, ModelConfig, torch.Tensor]:
    torch.manual_seed(0)
    dimensions = Dimensions(VOCABULARY, VOCABULARY, same_symbols=False, max_length=length)
    config = match(MODELS[name], Budget(parameters=300_000), dimensions)
    return build(config, dimensions), config, torch.randint(3, VOCABULARY, (3, BATCH, length))


def time_it(
    benchmark: BenchmarkFixture, phase: str, length: int, model: EncoderDecoder, work: Callable[[], object]
) -> None:
    benchmark.group = f"{phase}, length {length}"
    benchmark.extra_info |= {
        "batch": BATCH,
        "vocabulary": VOCABULARY,
        "parameters": count_parameters(model),
        "dtype": "float32",
        "threads": torch.get_num_threads(),
    }
    benchmark.pedantic(work, rounds=7, warmup_rounds=2)


@pytest.mark.parametrize("length", [32, 128])
@pytest.mark.parametrize("name", MODELS)
def test_training_step(benchmark: BenchmarkFixture, name: str, length: int) -> None:
    model, config, (source, target_in, target) = prepared(name, length)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    lengths = torch.full((BATCH,), length)

    def step() -> None:
        loss = F.cross_entropy(model(source, target_in, lengths).flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    benchmark.extra_info["flops"] = BATCH * training_flops(config, length, length, VOCABULARY)
    time_it(benchmark, "training step", length, model, step)


@pytest.mark.parametrize("length", [32, 128])
@pytest.mark.parametrize("name", MODELS)
def test_encode(benchmark: BenchmarkFixture, name: str, length: int) -> None:
    model, _, (source, _, _) = prepared(name, length)
    lengths = torch.full((BATCH,), length)
    with torch.no_grad():
        time_it(benchmark, "encode", length, model.eval(), lambda: model.encode(source, lengths))


@pytest.mark.parametrize("length", [32, 128])
@pytest.mark.parametrize("name", MODELS)
def test_greedy_decoding(benchmark: BenchmarkFixture, name: str, length: int) -> None:
    """Nothing ends early: the end of sequence is made impossible."""
    model, _, (source, _, _) = prepared(name, length)
    model.decoder.output.bias.data[EOS] = -1e9
    lengths = torch.full((BATCH,), length)
    time_it(benchmark, "greedy decoding", length, model.eval(), lambda: greedy(model, source, length, lengths))
