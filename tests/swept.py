"""Sweeps of tiny models for tests: what they are told, kept, and measured without a clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch

from experiments import efficiency, memory
from experiments.config import Efficiency
from experiments.efficiency import Subject
from models.config import LSTMConfig, ModelConfig, TransformerConfig

CPU = torch.device("cpu")
SETTINGS = Efficiency(lengths=(4, 16), tokens_per_batch=256, repeats=6, warmup=1, decode_tokens=4, seconds_per_point=60)
BY_POSITION = Efficiency(lengths=(4,), batch_size=3, positions=(1, 3, 7), repeats=3, warmup=1, decode_tokens=4)
LSTM = LSTMConfig(attention="general", hidden_size=16, embedding_size=16)
SINUSOIDAL = TransformerConfig(positions="sinusoidal", hidden_size=16, feedforward_size=32)
LEARNED = replace(SINUSOIDAL, positions="learned")
CONFIGS: list[ModelConfig] = [LSTM, SINUSOIDAL, LEARNED]


@dataclass
class Recorder:
    """Remembers what it is told."""

    values: dict[str, dict[int, float]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def point(self, name: str, value: float, step: int) -> None:
        curve = self.values.setdefault(name, {})
        assert step not in curve
        curve[step] = value

    def tag(self, name: str, value: str) -> None:
        self.tags[name] = value


@dataclass
class Kept:
    """Keeps how far a sweep is, as a file does."""

    state: Mapping[str, Any] | None = None

    def load(self) -> Mapping[str, Any] | None:
        return self.state

    def due(self) -> bool:
        raise AssertionError  # a sweep is kept at every length

    def save(self, state: Mapping[str, Any]) -> None:
        self.state = json.loads(json.dumps(state))


def measured(
    configs: list[ModelConfig],
    settings: Efficiency,
    watch: Callable[[int, int], None] = lambda done, total: None,
    *,
    kept: list[Kept] | None = None,
    device: torch.device = CPU,
) -> tuple[list[Recorder], list[Exception | None]]:
    recorders, keepers = [Recorder() for _ in configs], kept or [Kept() for _ in configs]
    subjects = [
        Subject(config, 7, recorder, keeper)
        for config, recorder, keeper in zip(configs, recorders, keepers, strict=True)
    ]
    return recorders, efficiency.measure(subjects, settings, device=device, watch=watch)


def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what takes long: repetitions, peaks of memory in processes of their own, and that of the machine."""
    monkeypatch.setattr(efficiency, "interleaved", twice)
    monkeypatch.setattr(memory, "peak", lambda rehearsal, work, device: None)
    monkeypatch.setattr(efficiency, "matmul_flops_per_second", lambda device, bfloat16: 1e15)


def twice(works: dict[Any, Callable[[], object]], *_: object) -> dict[Any, Any]:
    """In the place of the clock: two repetitions of one and three seconds."""
    found: dict[Any, Any] = {}
    for key, work in works.items():
        try:
            work()
            work()
            found[key] = [1.0, 3.0]
        except Exception as error:
            found[key] = error
    return found
