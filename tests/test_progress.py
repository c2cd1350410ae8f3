"""What is seen of a grid while it runs."""

from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from experiments.config import Run
from experiments.grid import load_grid
from experiments.progress import Progress
from experiments.training import Status


@pytest.fixture(scope="module")
def runs() -> tuple[Run, ...]:
    return load_grid("smoke").runs


def test_plain_lines_without_a_terminal(runs: tuple[Run, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.progress.LINE_EVERY", 0.0)
    written = io.StringIO()
    with Progress(Console(file=written, width=200), total=2) as progress:
        progress.started(runs[0])
        progress.advanced(runs[0], Status(475, 1000, 1.4567, 28_208.4, 82.0))
        progress.ended(runs[0], "")
        progress.started(runs[1])
        progress.advanced(runs[1], Status(1, 5, math.nan, math.nan, math.nan))
        progress.ended(runs[1], "Diverged: [red]")
    lines = written.getvalue().splitlines()
    name, other = "lstm · running_parity(max_length=8) · seed 0", "lstm · reverse(max_length=6) · seed 0"
    assert lines == [
        f"[0/2] started   {name}",
        f"[0/2] running   {name}: step 475/1,000, loss 1.457, 28,208 tokens/s, 1 min 22 s left",
        f"[1/2] finished  {name} in 0 s",
        f"[1/2] started   {other}",
        f"[1/2] running   {other}: step 1/5",
        f"[2/2] FAILED    {other}: Diverged: [red]",
    ]


def test_a_live_table_in_a_terminal(runs: tuple[Run, ...]) -> None:
    written = io.StringIO()
    with Progress(Console(file=written, width=120, force_terminal=True), total=3) as progress:
        progress.started(runs[0])
        progress.advanced(runs[0], Status(475, 1000, 1.4567, 28_208.4, 82.0))
        progress.started(runs[1])
        progress.ended(runs[1], "")
        progress.started(runs[2])
    shown = written.getvalue()
    assert "1 done, 2 running, 0 failed of 3" in shown
    for cell in ("lstm · running_parity(max_length=8) · seed 0", "475/1,000", "1.457", "28,208", "1 min 22 s"):
        assert cell in shown
    assert "started" not in shown
