"""What is seen of a grid while it runs: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table

from experiments.config import Run, run_name
from experiments.training import Status

LINE_EVERY = 30.0  # seconds between two plain lines about a running run


class Progress:
    """Runs done, running and failed; for each running one its step, loss, speed and time left."""

    def __init__(self, console: Console, total: int) -> None:
        self._console = console
        self._total = total
        self._done = self._failed = 0
        self._running: dict[Run, Status | None] = {}
        self._begun: dict[Run, float] = {}
        self._said: dict[Run, float] = {}
        self._left: dict[Run, str] = {}
        self._start = time.monotonic()
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=2, transient=True)

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._console.is_terminal:
            self._live.stop()

    def started(self, run: Run) -> None:
        """See experiments.execution.Observer."""
        self._running[run] = None
        self._begun[run] = self._said[run] = time.monotonic()
        if not self._console.is_terminal and run not in self._left:
            self._line(f"started   {run_name(run)}")

    def advanced(self, run: Run, status: Status) -> None:
        """See experiments.execution.Observer."""
        self._running[run] = status
        if not self._console.is_terminal and time.monotonic() - self._said[run] >= LINE_EVERY:
            self._said[run] = time.monotonic()
            self._line(f"running   {run_name(run)}: {_in_a_line(status)}")

    def ended(self, run: Run, reason: str) -> None:
        """See experiments.execution.Observer."""
        self._running.pop(run)
        seconds = time.monotonic() - self._begun.pop(run)
        if reason:
            self._failed += 1
            self._line(f"FAILED    {run_name(run)}: {reason}", style="red")
        else:
            self._done += 1
            self._line(f"finished  {run_name(run)} in {duration(seconds)}")

    def left(self, run: Run, why: str) -> None:
        """See experiments.execution.Observer."""
        self._running.pop(run)
        self._begun.pop(run)
        if why != self._left.get(run):  # another process's run is looked at again and again
            self._left[run] = why
            self._line(f"left      {run_name(run)}: {why}")

    def _line(self, text: str, style: str | None = None) -> None:
        self._console.print(f"[{self._done + self._failed}/{self._total}] {text}", style=style, markup=False)

    def _render(self) -> Group:
        bar = Table.grid(padding=(0, 1))
        elapsed = duration(time.monotonic() - self._start)
        counts = f"{self._done} done, {len(self._running)} running, {self._failed} failed of {self._total} · {elapsed}"
        bar.add_row(ProgressBar(total=self._total, completed=self._done + self._failed, width=30), counts)
        table = Table(box=None, pad_edge=False)
        for title in ("running", "step", "loss", "tokens/s", "left"):
            table.add_column(title, justify="left" if title == "running" else "right", style="dim")
        for run, status in self._running.items():
            table.add_row(escape(run_name(run)), *(_cells(status) if status else ("…", "", "", "")))
        return Group(bar, table)


def _cells(status: Status) -> tuple[str, str, str, str]:
    """Step, loss, tokens per second and time left; what is not known is empty."""
    loss, speed, left = status.loss, status.tokens_per_second, status.seconds_left
    return (
        f"{status.step:,}/{status.steps:,}",
        "" if math.isnan(loss) else f"{loss:.3f}",
        "" if math.isnan(speed) else f"{speed:,.0f}",
        "" if math.isnan(left) else duration(left),
    )


def _in_a_line(status: Status) -> str:
    """``step 475/1,000, loss 1.457, 28,208 tokens/s, 22 s left``."""
    step, loss, speed, left = _cells(status)
    words = (f"step {step}", loss and f"loss {loss}", speed and f"{speed} tokens/s", left and f"{left} left")
    return ", ".join(filter(None, words))


def duration(seconds: float) -> str:
    """``75`` → ``1 min 15 s``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
