"""How long a run will take: steps and evaluations, counted by hand, times what one takes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import typer

from experiments import planning
from experiments.config import LearnRun, Training, parse_run
from experiments.estimate import _steps, estimated_seconds
from experiments.inputs import load_task, sized_model

TREE: dict[str, Any] = {
    "kind": "learn",
    "model": "lstm",
    "budget": {"parameters": 5_000},
    "seed": 0,
    "task": {"name": "running_parity", "max_length": 6, "longer_lengths": [9]},
    "training": {"steps": 101, "batch_size": 8, "evaluate_every": 25, "learning_rate": 1e-3},
}


@pytest.mark.parametrize(("task", "end", "beam_size"), [("running_parity", 0, 1), ("reverse", 1, 1), ("reverse", 1, 4)])
def test_an_estimate_is_a_sum_of_parts(task: str, end: int, beam_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock says that eight steps take 16 s and an evaluation 3 s. Tests alone are decoded with a beam."""
    clock = iter([0.0, 16.0, 100.0, 103.0])
    monkeypatch.setattr("experiments.estimate._now", lambda device: next(clock))
    of_task = {"name": task, "min_length": 1, "max_length": 6, "longer_lengths": [9]}
    run = parse_run(TREE | {"task": of_task, "decoding": {"beam_size": beam_size}})
    assert isinstance(run, LearnRun)
    data = load_task(run.task, None)
    lengths = range(1 + end, 7 + end)  # of answers
    tests = 128 * (sum(lengths) + 9 + end) / (32 * sum(lengths))  # in evaluations: of 32 sequences a length, not 128
    expected = 101 * 2.0 + (5 + beam_size * tests) * 3.0
    assert estimated_seconds(run, sized_model(run, None)[0], data, torch.device("cpu")) == pytest.approx(expected)


def test_a_run_that_cannot_make_a_step_ends_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def no_bfloat16(*_: object) -> float:
        raise ValueError("this processor has no bfloat16")

    monkeypatch.setattr(planning, "estimated_seconds", no_bfloat16)
    run = parse_run(TREE)
    assert isinstance(run, LearnRun)
    with pytest.raises(typer.Exit):
        planning._seconds_of(run, sized_model(run, None)[0], data=None, device="cpu")
    assert (
        "--estimate: lstm · running_parity(max_length=6) · seed 0: no step can be made: this" in capsys.readouterr().err
    )


def test_every_limit_is_a_number_of_steps() -> None:
    def steps(**limit: Any) -> float:
        training = Training(batch_size=1, learning_rate=1, evaluate_every=1, **limit)
        return _steps(training, tokens=50.0, flops=1e6, seconds=0.25)

    assert steps(steps=7) == 7
    assert steps(tokens=500) == 10
    assert steps(flops=2e6) == 2
    assert steps(seconds=2.0) == 8
