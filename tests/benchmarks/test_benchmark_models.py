"""The models side by side, phase by phase: ``make bench`` (one thread, 300,000 parameters each)."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture

from experiments import benchmarks
from experiments.environment import flushes_denormals, hardware
from models.config import Budget, Dimensions, ModelConfig
from models.cost import count_parameters, decode_flops, encode_flops, generate_flops, training_flops
from models.decoding import greedy
from models.interface import EOS, EncoderDecoder
from models.matching import match
from models.registry import MODELS, build

VOCABULARY, BATCH = 32, 64

every_model = pytest.mark.parametrize("name", MODELS)
every_length = pytest.mark.parametrize("length", [32, 128])


def prepared(name: str, length: int) -> tuple[EncoderDecoder, ModelConfig, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    dimensions = Dimensions(VOCABULARY, VOCABULARY, same_symbols=False, max_length=length)
    config = match(MODELS[name], Budget(parameters=300_000), dimensions)
    tokens = torch.randint(3, VOCABULARY, (3, BATCH, length))
    return build(config, dimensions), config, tokens, torch.full((BATCH,), length)


def time_it(
    benchmark: BenchmarkFixture,
    name: str,
    phase: str,
    length: int,
    model: EncoderDecoder,
    flops: int,
    work: Callable[[], object],
) -> None:
    """Times `work`, of so many operations; `phase` is one of experiments.schema.PHASES."""
    benchmark.group = f"{phase}, length {length}"
    benchmark.extra_info |= {
        "model": name,
        "phase": phase,
        "length": length,
        "batch_size": BATCH,
        "shapes": {"source": [BATCH, length], "target": [BATCH, length]},
        "vocabulary": VOCABULARY,
        "parameters": count_parameters(model),
        "flops": flops,
        "dtype": "float32",
        "threads": torch.get_num_threads(),
        "hardware": hardware(torch.device("cpu")),
    }
    benchmark.pedantic(work, rounds=7, warmup_rounds=2)


def test_what_is_noted_is_what_an_import_asks_for() -> None:
    noted = SimpleNamespace(extra_info={}, pedantic=lambda work, **more: work())
    model, *_ = prepared("lstm", 4)
    time_it(noted, "lstm", "encode", 4, model, 1, lambda: None)  # type: ignore[arg-type]
    assert set(benchmarks.NOTED) <= noted.extra_info.keys()
    assert noted.extra_info["hardware"] == hardware(torch.device("cpu"))


def test_what_is_timed_is_computed_as_in_a_run() -> None:
    assert flushes_denormals()


@every_length
@every_model
def test_training_step(benchmark: BenchmarkFixture, name: str, length: int) -> None:
    model, config, (source, target_in, target), lengths = prepared(name, length)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)

    def step() -> None:
        loss = F.cross_entropy(model(source, target_in, lengths).flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    flops = BATCH * training_flops(config, length, length, VOCABULARY)
    time_it(benchmark, name, "train_step", length, model, flops, step)


@every_length
@every_model
def test_encode(benchmark: BenchmarkFixture, name: str, length: int) -> None:
    model, config, (source, _, _), lengths = prepared(name, length)
    model.eval()
    with torch.inference_mode():
        flops = BATCH * encode_flops(config, length)
        time_it(benchmark, name, "encode", length, model, flops, lambda: model.encode(source, lengths))


@every_length
@every_model
def test_decode(benchmark: BenchmarkFixture, name: str, length: int) -> None:
    """Teacher forcing: all positions at once."""
    model, config, (source, target_in, _), lengths = prepared(name, length)
    model.eval()
    with torch.inference_mode():
        memory = model.encode(source, lengths)
        flops = BATCH * decode_flops(config, length, length, VOCABULARY)
        time_it(benchmark, name, "decode", length, model, flops, lambda: model.decoder(target_in, memory))


@every_length
@every_model
def test_greedy_decoding(benchmark: BenchmarkFixture, name: str, length: int) -> None:
    """Nothing ends early: the end of sequence is made impossible."""
    model, config, (source, _, _), lengths = prepared(name, length)
    model.eval()
    model.decoder.output.bias.data[EOS] = -1e9
    flops = generate_flops(config, length, length, VOCABULARY, BATCH)
    time_it(benchmark, name, "generate", length, model, flops, lambda: greedy(model, source, length, lengths))
