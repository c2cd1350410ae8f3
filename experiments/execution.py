"""Executes the runs of a grid in worker processes: one run's crash is that run's failure only.

Each worker has one thread, imports torch once and takes job after job. Efficiency runs come last, while every other
worker is idle: those with the same settings go to one worker, which measures them side by side.

Several grids may be executed on one store at once: each run is claimed by one process (experiments.state), and one that
another process has claimed is looked at again when everything else is done.
"""

from __future__ import annotations

import multiprocessing
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from types import FrameType
from typing import Protocol

from experiments import schema, tracking
from experiments.config import EfficiencyRun, Run, run_key
from experiments.environment import prepare_processor
from experiments.run import Job, Outcome, Place, execute, jobs
from experiments.training import Status

_context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork

LOOK_EVERY = 1.0  # seconds at most between two looks at the clock and at what the user wants
START_LIMIT = 600.0  # seconds that a new process may take to import what it needs
STOP = "stop"
CLAIMED_AGAIN = 2.0  # seconds until a run that another process executes is tried again


class Observer(Protocol):
    """Watches a grid (experiments.progress)."""

    def started(self, run: Run) -> None:
        """A worker has begun the run."""

    def advanced(self, run: Run, status: Status) -> None:
        """The run is so far."""

    def ended(self, run: Run, reason: str) -> None:
        """The run is finished or, for a reason, has failed."""

    def left(self, run: Run, why: str) -> None:
        """The run is not executed now: another process does, or the grid is being stopped."""


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
class _Worker:
    """A process, and what it is doing."""

    process: SpawnProcess
    connection: Connection
    todo: list[Run] = field(default_factory=list)  # runs of its job that have not ended
    given: float = 0.0  # time.monotonic() when it got the job …
    begun: float | None = None  # … when it began, which in a new process takes seconds …
    heard: float = 0.0  # … and of the last sign of progress
    stopping: bool = False


def execute_grid(
    runs: Sequence[Run], place: Place, workers: int, observer: Observer, limits: Limits = Limits()
) -> dict[Run, str]:
    """Executes runs and returns those that failed, and why.

    A first interrupt (Ctrl-C, SIGTERM) lets every worker write a checkpoint and mark its run as killed; a second one
    ends the workers at once. Either way the runs go on, from their last checkpoint, when the grid is run again.

    Args:
        runs: in the order in which they are begun, efficiency runs last.
        place: device, store and data.
        workers: processes at once.
        observer: told what happens.
        limits: of each run.

    Raises:
        Stopped: after an interrupt.
    """
    return _Execution(place, workers, observer, limits).run(runs)


class _Execution:
    def __init__(self, place: Place, workers: int, observer: Observer, limits: Limits) -> None:
        self._place, self._workers, self._observer, self._limits = place, workers, observer, limits
        self._pool: list[_Worker] = []
        self._interrupts = 0
        self._failures: dict[Run, str] = {}
        self._claimed: list[Run] = []  # by other processes

    def run(self, runs: Sequence[Run]) -> dict[Run, str]:
        shared = deque(jobs(run for run in runs if not isinstance(run, EfficiencyRun)))
        alone = deque(jobs(run for run in runs if isinstance(run, EfficiencyRun)))
        with self._interruptible():
            try:
                for queue, count in ((shared, self._workers), (alone, 1)):
                    self._work_off(queue, count)
                    while self._claimed and not self._interrupts:
                        time.sleep(CLAIMED_AGAIN)
                        again, self._claimed = deque(jobs(self._claimed)), []
                        self._work_off(again, count)
                if self._interrupts:
                    raise Stopped
            except BaseException:
                self._end_at_once()
                raise
            finally:
                for worker in self._pool:
                    worker.connection.close()  # an idle worker then ends by itself
                for worker in self._pool:
                    worker.process.join()
        return self._failures

    def _work_off(self, queue: deque[Job], count: int) -> None:
        """Executes the jobs of a queue, `count` at once; after an interrupt only waits for those begun to stop."""
        while queue or self._busy():
            if self._interrupts > 1:
                raise Stopped
            if self._interrupts:
                queue.clear()
                self._ask_to_stop()
            while queue and len(self._busy()) < count:
                self._begin(queue.popleft())
            speaking = wait([worker.connection for worker in self._busy()], LOOK_EVERY)
            for worker in [worker for worker in self._busy() if worker.connection in speaking]:
                self._hear(worker)
            for worker in self._busy():
                self._check(worker)

    def _ask_to_stop(self) -> None:
        for worker in self._busy():
            if not worker.stopping:
                worker.stopping = True
                with suppress(OSError):  # it is dead, which is heard of soon
                    worker.connection.send(STOP)

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._pool if worker.todo]

    def _begin(self, job: Job) -> None:
        """Gives the job to an idle worker that is alive, or to a new one."""
        for worker in [worker for worker in self._pool if not worker.todo]:
            try:
                worker.connection.send(job)
                break
            except OSError:  # it died while it was idle
                self._bury(worker)
        else:
            worker = _start(self._place)
            self._pool.append(worker)
            worker.connection.send(job)
        worker.todo = list(job)
        worker.given, worker.begun = time.monotonic(), None
        for run in job:
            self._observer.started(run)

    def _hear(self, worker: _Worker) -> None:
        """Takes one message."""
        worker.heard = time.monotonic()
        try:
            run, news = worker.connection.recv()
        except (EOFError, OSError):  # it is dead: its end of the connection is closed
            self._bury(worker)
            self._lost(worker, _death(worker.process.exitcode))
            return
        if news is None:
            worker.begun = worker.heard
        elif isinstance(news, Status):
            self._observer.advanced(run, news)
        else:
            worker.todo.remove(run)
            self._over(run, news)

    def _over(self, run: Run, outcome: Outcome) -> None:
        if outcome.kind == "claimed":
            self._claimed.append(run)
            self._observer.left(run, "another process executes it")
        elif outcome.kind == "interrupted":
            self._observer.left(run, "stopped")
        else:
            if outcome.reason:
                self._failures[run] = outcome.reason
            self._observer.ended(run, outcome.reason)

    def _check(self, worker: _Worker) -> None:
        """Ends a worker whose job takes too long, or hangs."""
        now = time.monotonic()
        if worker.begun is None:
            if now - worker.given < START_LIMIT:
                return
            reason = f"hangs: its process did not start in {START_LIMIT:g} s"
        elif self._limits.seconds is not None and now - worker.begun > self._limits.seconds:
            reason = f"timeout: not finished after {self._limits.seconds:g} s"
        elif now - worker.heard > self._limits.silence:
            reason = f"hangs: no sign of progress for {self._limits.silence:g} s"
        else:
            return
        worker.process.kill()
        self._bury(worker)
        self._lost(worker, reason)

    def _lost(self, worker: _Worker, reason: str) -> None:
        """Marks what a worker that is gone was doing as failed, unless only its results were still to be sent."""
        for run in worker.todo:
            over = tracking.leave(self._place.store, run_key(run, self._place.device), schema.FAILED, reason)
            self._over(run, Outcome("finished") if over else Outcome("failed", reason))

    def _bury(self, worker: _Worker) -> None:
        worker.process.join()
        worker.connection.close()
        self._pool.remove(worker)

    def _end_at_once(self) -> None:
        for worker in self._busy():
            worker.process.kill()
        for worker in self._busy():
            worker.process.join()
            for run in worker.todo:
                tracking.leave(self._place.store, run_key(run, self._place.device), schema.KILLED, "")

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


def _start(place: Place) -> _Worker:
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_work, args=(theirs, place), daemon=False)  # it has children of its own
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        hint = " (out of memory?)" if -exit_code == signal.SIGKILL else ""
        return f"the worker was killed by {signal.Signals(-exit_code).name}{hint}"
    return f"the worker ended with exit code {exit_code}"


def _work(connection: Connection, place: Place) -> None:
    """The life of a worker: job after job, until the parent says `STOP` or hangs up.

    While a run is executed nothing but that can arrive, so that a look at the connection tells whether to stop: no lock
    is shared between processes, which one that is killed might take with it.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # which a terminal or a scheduler sends to all: the parent decides
        signal.signal(number, signal.SIG_IGN)
    prepare_processor()

    def tell(run: Run, news: Status | Outcome | None) -> None:
        with suppress(OSError):  # the parent is gone; a training sees that itself and keeps what it has
            connection.send((run, news))

    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        if job == STOP:
            return
        tell(job[0], None)  # it begins
        for run, outcome in execute(job, place, watch=tell, stop=connection.poll).items():
            tell(run, outcome)
