"""Integrity gates: they pass for sound models and see what is broken."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.data import TaskData
from experiments.gates import GATES, integrity_gates
from experiments.tasks.strings import RunningParity
from models.config import Budget, ModelConfig
from models.interface import EncoderDecoder
from models.matching import match
from models.registry import MODELS, build

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Subject:
    model: EncoderDecoder
    config: ModelConfig
    data: TaskData


def subject(name: str) -> Subject:
    data = RunningParity(max_length=6, longer_lengths=(9,)).load(None)
    config = match(replace(MODELS[name], dropout=0.1), Budget(parameters=10_000), data.dimensions)
    torch.manual_seed(0)
    return Subject(build(config, data.dimensions), config, data)


@pytest.mark.parametrize("name", MODELS)
def test_gates_pass_for_sound_models(name: str) -> None:
    sound = subject(name)
    outcomes = integrity_gates(sound.model, sound.config, sound.data, CPU)
    assert outcomes == dict.fromkeys(GATES, "pass")


def plus_noise(module: EncoderDecoder) -> Callable[..., Tensor]:
    forward = module.decoder.forward
    return lambda target_in, memory: forward(target_in, memory) + torch.rand(())


def plus_little_noise(module: EncoderDecoder) -> Callable[..., Tensor]:
    forward = module.decoder.forward
    return lambda target_in, memory: forward(target_in, memory) * (1 + 1e-5 * torch.rand(()))


def plus_all_inputs(module: EncoderDecoder) -> Callable[..., Tensor]:
    forward = module.decoder.forward
    return lambda target_in, memory: forward(target_in, memory) + target_in.sum()


def other_steps(module: EncoderDecoder) -> Callable[..., Any]:
    step = module.decoder.step

    def other(tokens: Tensor, state: Any) -> tuple[Tensor, Any]:
        logits, state = step(tokens, state)
        return logits + 1, state

    return other


def blind_to_padding(module: EncoderDecoder) -> Callable[..., Any]:
    return lambda source, lengths=None: module.encoder(source, None)


@pytest.mark.parametrize(
    ("gate", "part", "breakage"),
    [
        ("dropout_off", "decoder.forward", plus_noise),
        ("dropout_off", "decoder.forward", plus_little_noise),
        ("no_look_ahead", "decoder.forward", plus_all_inputs),
        ("stepwise", "decoder.step", other_steps),
        ("padding_invariant", "encode", blind_to_padding),
    ],
)
def test_a_gate_catches_what_it_is_for(
    gate: str, part: str, breakage: Callable[[EncoderDecoder], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sound = subject("transformer")
    owner: Any = sound.model.decoder if part.startswith("decoder") else sound.model
    monkeypatch.setattr(owner, part.rpartition(".")[2], breakage(sound.model))
    assert integrity_gates(sound.model, sound.config, sound.data, CPU)[gate] != "pass"


def test_the_other_gates_catch_what_they_are_for(monkeypatch: pytest.MonkeyPatch) -> None:
    sound = subject("transformer")
    other = {name: value + 1 for name, value in sound.model.state_dict().items()}
    monkeypatch.setattr("experiments.gates.torch.load", lambda file, weights_only: other)
    data = replace(sound.data, overlap=3)
    outcomes = integrity_gates(sound.model, sound.config, data, CPU)
    assert outcomes["no_overlap"] == "3 test sequences occur in training"
    assert outcomes["reloads"].startswith("the reloaded checkpoint differs by")
    assert [name for name, found in outcomes.items() if found != "pass"] == ["reloads", "no_overlap"]
