"""How many workers pay: the choice from known throughputs, and a real calibration."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from experiments import packing
from experiments.console import console
from experiments.grid import load_grid
from experiments.launching import _paying_workers
from experiments.packing import KINDS, paying, sample, throughputs

GRID = """
description: For tests.
fixed:
  kind: learn
  budget: {parameters: 5_000}
  training: {steps: 25, batch_size: 8, evaluate_every: 25, learning_rate: 4e-3}
compare:
  task: [{name: running_parity, max_length: 6}, {name: reverse, max_length: 6}]
  model: [lstm, lstm_attention, transformer]
  seed: [0, 1]
"""
LVT = Path(sys.executable).parent / "lvt"


@pytest.mark.parametrize(
    ("rates", "count"),
    [
        ({1: 10.0}, 1),
        ({1: 10.0, 2: 19.0, 4: 36.0}, 4),
        ({1: 10.0, 2: 19.0, 4: 19.5}, 2),  # more is not worth it
        ({1: 10.0, 2: 10.3}, 1),
        ({1: 10.0, 2: 19.0, 4: 12.0}, 2),
    ],
)
def test_the_fewest_that_nothing_exceeds(rates: dict[int, float], count: int) -> None:
    assert paying(rates) == count


def test_what_is_tried_are_kinds_of_runs_of_the_grid(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(GRID, encoding="utf-8")
    runs = load_grid(str(tmp_path / "g.yaml")).runs
    tried = sample(runs)
    assert len(tried) == KINDS
    assert len({(run.model.label, run.task_label) for run in tried}) == KINDS
    assert {run.task_label for run in tried} == {run.task_label for run in runs}
    assert sample(load_grid("smoke").runs[-3:]) == []  # sweeps are measured alone


def test_throughputs_are_measured_until_more_do_not_pay(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(GRID, encoding="utf-8")
    tried = sample(load_grid(str(tmp_path / "g.yaml")).runs)
    rates = throughputs(tried, None, "cpu", 2)
    assert set(rates) == {1, 2}
    assert all(rate > 0 for rate in rates.values())


class Unused:
    """Stands where processes and their connections stand."""

    def __init__(self, **settings: object) -> None:
        pass

    def start(self) -> None:
        pass

    close = kill = join = start


@pytest.mark.parametrize(
    ("rates", "tried"),
    [
        ({1: 10.0, 2: 19.0, 4: 36.0, 6: 50.0}, [1, 2, 4, 6]),  # to the most that are asked for
        ({1: 10.0, 2: 19.0, 4: 19.5, 6: 50.0}, [1, 2, 4]),  # till more do not pay
        ({1: 10.0, 2: 9.0, 4: 36.0, 6: 50.0}, [1, 2]),
        ({1: 10.0, 2: 19.0, 6: 50.0}, [1, 2]),  # till one dies
    ],
)
def test_more_workers_are_tried_until_they_do_not_pay(
    rates: dict[int, float], tried: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def together(connections: list[object]) -> float:
        if len(connections) not in rates:
            raise EOFError
        return rates[len(connections)]

    monkeypatch.setattr(packing, "_together", together)
    monkeypatch.setattr(packing._context, "Pipe", lambda: (Unused(), Unused()))
    monkeypatch.setattr(packing._context, "Process", Unused)
    assert throughputs([], None, "cpu", 6) == {count: rates[count] for count in tried}


def test_runs_that_no_worker_can_train_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As for want of memory: the only worker that tries them dies."""
    monkeypatch.setattr(packing, "_together", dead)
    (tmp_path / "g.yaml").write_text(GRID, encoding="utf-8")
    with pytest.raises(typer.Exit) as end:
        _paying_workers(console(), list(load_grid(str(tmp_path / "g.yaml")).runs), None, "cpu")
    assert end.value.exit_code == 2
    assert capsys.readouterr().err == "lvt: --workers auto: not even one worker can train the runs of this grid\n"


def dead(connections: object) -> float:
    raise EOFError


def test_workers_that_are_chosen_are_used(tmp_path: Path) -> None:
    (tmp_path / "g.yaml").write_text(GRID, encoding="utf-8")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def lvt(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(LVT), "run", "g.yaml", "--device", "cpu", "--tracking-uri", store, *arguments]
        return subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=600)

    result = lvt("--workers", "auto", "--set", "compare.model=[lstm]")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "workers: " in result.stdout
    assert "1.00 with 1, " in result.stdout
    assert "all 4 runs are finished" in result.stdout
    for wrong in ("0", "-1", "2.5", "many"):
        refused = lvt("--workers", wrong)
        assert refused.returncode == 2
        assert "a whole number from 1 on, or auto" in refused.stdout + refused.stderr
