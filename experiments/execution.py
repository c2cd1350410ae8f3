"""Executes the runs of a grid through an engine: one run's crash is that run's failure only.

Efficiency runs come last: those with the same settings go to one worker, which measures them side by side.

Several grids may be executed on one store at once: each run is claimed by one process (experiments.state), and one that
another process has claimed is looked at again when everything else is done.
"""

from __future__ import annotations

import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Protocol

from experiments import schema, tracking
from experiments.attempts import Job, Outcome, Place, jobs
from experiments.config import EfficiencyRun, Run, run_key
from experiments.engine import Begun, Engine, Event, Lost
from experiments.processes import Processes
from experiments.training import Status

CLAIMED_AGAIN = 2.0  # seconds until a run that another process executes is tried again
ATTEMPTS = 5  # at a job whose machines are lost, the first included


class Observer(Protocol):
    """Watches a grid (experiments.progress)."""

    def started(self, run: Run) -> None:
        """A worker has begun the run."""

    def advanced(self, run: Run, status: Status) -> None:
        """The run is so far."""

    def ended(self, run: Run, reason: str) -> None:
        """The run is finished or, for a reason, has failed."""

    def left(self, run: Run, why: str) -> None:
        """The run, which was begun, is not executed now: another process does, or it was interrupted."""


@dataclass(frozen=True)
class Limits:
    """When a run is given up.

    Attributes:
        seconds: that an attempt to execute it may take; None: as long as it likes.
        silence: seconds without a sign of progress after which it is taken to hang.
    """

    seconds: float | None = None
    silence: float = 3600.0


class Stopped(Exception):
    """The grid was interrupted; what was begun is kept and goes on when the grid is run again."""


@dataclass
class _Task:
    """A job that an engine has."""

    todo: list[Run]  # runs of it that have not ended
    begun: float | None = None  # time.monotonic() when a worker began it …
    heard: float = 0.0  # … and of the last sign of progress
    host: str | None = None  # the worker's machine
    stopping: bool = False


def execute_grid(
    runs: Sequence[Run],
    place: Place,
    workers: int,
    observer: Observer,
    limits: Limits = Limits(),
    engine: Callable[[Place, int], Engine] = Processes,
    follow: Callable[[Run, str], Sequence[Run]] = lambda run, reason: (),
) -> dict[Run, str]:
    """Executes runs and returns those that failed, and why.

    A first interrupt (Ctrl-C, SIGTERM) lets every worker write a checkpoint and mark its run as killed; a second one
    ends the workers at once. Either way the runs go on, from their last checkpoint, when the grid is run again.

    Args:
        runs: in the order in which they are begun, efficiency runs last.
        place: device, store and data.
        workers: runs at once: on this machine or, of an engine that has several, on each GPU.
        observer: told what happens.
        limits: of each run.
        engine: what executes them.
        follow: told of each run that is over ("" or the reason of its failure); the runs that are executed because of
            that. What it raises ends the workers at once.

    Raises:
        Stopped: after an interrupt.
    """
    return _Execution(place, engine(place, workers), observer, limits, follow).run(runs)


class _Execution:
    def __init__(
        self,
        place: Place,
        engine: Engine,
        observer: Observer,
        limits: Limits,
        follow: Callable[[Run, str], Sequence[Run]],
    ) -> None:
        self._place, self._engine, self._observer, self._limits = place, engine, observer, limits
        self._follow = follow
        self._tasks: dict[int, _Task] = {}  # by their tickets
        self._queue: deque[Job] = deque()
        self._interrupts = 0
        self._failures: dict[Run, str] = {}
        self._claimed: list[Run] = []  # by other processes
        self._losses: Counter[Run] = Counter()

    def run(self, runs: Sequence[Run]) -> dict[Run, str]:
        shared = jobs(run for run in runs if not isinstance(run, EfficiencyRun))
        alone = jobs(run for run in runs if isinstance(run, EfficiencyRun))
        with self._interruptible():
            try:
                for phase in (shared, alone):
                    self._work_off(phase)
                    while self._claimed and not self._interrupts:
                        time.sleep(CLAIMED_AGAIN)
                        again, self._claimed = jobs(self._claimed), []
                        self._work_off(again)
                if self._interrupts:
                    raise Stopped
            except BaseException:
                self._end_at_once()
                raise
            finally:
                self._engine.close()
        return self._failures

    def _work_off(self, new: Sequence[Job]) -> None:
        """Executes jobs; after an interrupt only waits for those begun to stop."""
        self._queue.extend(new)
        while self._queue or self._tasks:
            if self._interrupts > 1:
                raise Stopped
            if self._interrupts:
                self._queue.clear()
                self._ask_to_stop()
            while self._queue and self._engine.takes(self._queue[0]):
                job = self._queue.popleft()
                self._tasks[self._engine.begin(job)] = _Task(list(job))
            for event in self._engine.hear():
                self._take(event)
            for ticket in list(self._tasks):
                self._check(ticket)

    def _ask_to_stop(self) -> None:
        for ticket, task in self._tasks.items():
            if not task.stopping:
                task.stopping = True
                self._engine.ask_to_stop(ticket)

    def _take(self, event: Event) -> None:
        """Passes on what happened."""
        task = self._tasks.get(event.ticket)
        if task is None:  # it was given up meanwhile
            return
        task.heard = time.monotonic()
        match event.news:
            case Begun(host):
                self._begin(task, host)
            case Lost():
                self._lost(event.ticket, event.news)
            case Status():
                assert event.run is not None
                self._observer.advanced(event.run, event.news)
            case Outcome():
                assert event.run is not None
                self._over(task, event.run, event.news)
                if not task.todo:
                    del self._tasks[event.ticket]

    def _begin(self, task: _Task, host: str | None) -> None:
        task.begun, task.host = task.heard, host
        for run in task.todo:
            self._observer.started(run)

    def _over(self, task: _Task, run: Run, outcome: Outcome) -> None:
        if task.begun is None:  # it ended before a beginning was heard of
            if outcome.kind == "interrupted":
                task.todo.remove(run)
                return
            self._begin(task, None)
        task.todo.remove(run)
        if outcome.kind == "claimed":
            self._claimed.append(run)
            self._observer.left(run, "another process executes it")
        elif outcome.kind == "interrupted":
            self._observer.left(run, "stopped")
        else:
            if outcome.reason:
                self._failures[run] = outcome.reason
            self._observer.ended(run, outcome.reason)
            if not self._interrupts:
                self._queue.extend(jobs(self._follow(run, outcome.reason)))

    def _check(self, ticket: int) -> None:
        """Gives a job up that takes too long, or hangs."""
        now, task = time.monotonic(), self._tasks[ticket]
        if task.begun is None:
            return
        if self._limits.seconds is not None and now - task.begun > self._limits.seconds:
            reason = f"timeout: not finished after {self._limits.seconds:g} s"
        elif now - task.heard > self._limits.silence:
            reason = f"hangs: no sign of progress for {self._limits.silence:g} s"
        else:
            return
        self._engine.kill(ticket)
        self._lost(ticket, Lost(reason))

    def _lost(self, ticket: int, lost: Lost) -> None:
        """What a worker that is gone was doing has failed or is done again, unless only results were to be sent."""
        task = self._tasks.pop(ticket)
        again = []
        for run in list(task.todo):
            self._losses[run] += 1
            repeat = lost.again and self._losses[run] < ATTEMPTS and not self._interrupts
            status, reason = (schema.KILLED, "") if repeat else (schema.FAILED, lost.reason)
            if self._leave(run, status, reason, task.host):
                self._over(task, run, Outcome("finished"))
            elif not repeat:
                self._over(task, run, Outcome("failed", lost.reason))
            else:
                again.append(run)
                if task.begun is not None:
                    self._observer.left(run, f"{lost.reason}; it is executed again")
        if again:
            self._queue.append(tuple(again))

    def _end_at_once(self) -> None:
        for ticket in self._tasks:
            self._engine.kill(ticket)
        for task in self._tasks.values():
            for run in task.todo:
                self._leave(run, schema.KILLED, "", task.host)

    def _leave(self, run: Run, status: str, reason: str, host: str | None) -> bool:
        return tracking.leave(self._place.store, run_key(run, self._place.device), status, reason, host)

    @contextmanager
    def _interruptible(self) -> Iterator[None]:
        """Counts interrupts instead of raising them, where this is the main thread (elsewhere none arrive)."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def count(number: int, frame: FrameType | None) -> None:
            self._interrupts += 1

        before = {number: signal.signal(number, count) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
