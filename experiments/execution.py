"""Executes the runs of a grid in worker processes: one run's crash is that run's failure only.

Each worker has one thread, imports torch once and takes job after job. Efficiency runs come last, while every other
worker is idle: those with the same settings go to one worker, which measures them side by side.
"""

from __future__ import annotations

import multiprocessing
import signal
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Protocol

import torch

from experiments import tracking
from experiments.config import EfficiencyRun, Run
from experiments.run import Job, Place, execute, jobs
from experiments.training import Status

_context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork


class Observer(Protocol):
    """Watches a grid (experiments.progress)."""

    def started(self, run: Run) -> None:
        """A worker has begun the run."""

    def advanced(self, run: Run, status: Status) -> None:
        """The run is so far."""

    def ended(self, run: Run, reason: str) -> None:
        """The run is finished or, for a reason, has failed."""


@dataclass
class _Worker:
    """A process, and what it is doing."""

    process: SpawnProcess
    connection: Connection
    todo: list[Run] = field(default_factory=list)  # runs of its job that have not ended
    run_ids: dict[Run, str] = field(default_factory=dict)


def execute_grid(runs: Sequence[Run], place: Place, workers: int, observer: Observer) -> dict[Run, str]:
    """Executes runs and returns those that failed, and why.

    On an interrupt (Ctrl-C) the workers are ended and their runs are marked as killed, to be run anew next time.

    Args:
        runs: in the order in which they are begun, efficiency runs last.
        place: device, store and data.
        workers: processes at once.
        observer: told what happens.
    """
    failures: dict[Run, str] = {}
    shared = deque(jobs([run for run in runs if not isinstance(run, EfficiencyRun)]))
    alone = deque(jobs([run for run in runs if isinstance(run, EfficiencyRun)]))
    pool: list[_Worker] = []
    try:
        for queue, count in ((shared, workers), (alone, 1)):
            while queue or any(worker.todo for worker in pool):
                while queue and sum(bool(worker.todo) for worker in pool) < count:
                    idle = next((worker for worker in pool if not worker.todo), None)
                    if idle is None:
                        idle = _start(place)
                        pool.append(idle)
                    job = queue.popleft()
                    idle.todo = list(job)
                    idle.connection.send(job)
                    for run in job:
                        observer.started(run)
                for worker in _ready(pool):
                    _hear(worker, pool, place, observer, failures)
    except KeyboardInterrupt:
        for worker in pool:
            worker.process.kill()
            worker.process.join()
            for run in worker.todo:
                if run in worker.run_ids:
                    tracking.kill(place.store, worker.run_ids[run])
        raise
    finally:
        for worker in pool:
            worker.connection.close()  # an idle worker then ends by itself
        for worker in pool:
            worker.process.join()
    return failures


def _start(place: Place) -> _Worker:
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_work, args=(theirs, place), daemon=False)  # it has children of its own
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _ready(pool: list[_Worker]) -> list[_Worker]:
    """Waits until a busy worker has something to say, or has died (its end of the connection is then closed)."""
    speaking = wait([worker.connection for worker in pool if worker.todo])
    return [worker for worker in pool if worker.connection in speaking]


def _hear(worker: _Worker, pool: list[_Worker], place: Place, observer: Observer, failures: dict[Run, str]) -> None:
    """Takes one message."""

    def end(run: Run, reason: str) -> None:
        if reason:
            failures[run] = reason
        worker.todo.remove(run)
        observer.ended(run, reason)

    try:
        message, run, content = worker.connection.recv()
    except (EOFError, ConnectionResetError):
        worker.process.join()
        pool.remove(worker)
        reason = _death(worker.process.exitcode)
        for run in list(worker.todo):
            if run in worker.run_ids:
                tracking.fail(place.store, worker.run_ids[run], reason)
            end(run, reason)
        return
    if message == "started":
        worker.run_ids[run] = content
    elif message == "advanced":
        observer.advanced(run, content)
    else:
        end(run, content)


def _death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        hint = " (out of memory?)" if -exit_code == signal.SIGKILL else ""
        return f"the worker was killed by {signal.Signals(-exit_code).name}{hint}"
    return f"the worker ended with exit code {exit_code}"


def _work(connection: Connection, place: Place) -> None:
    """The life of a worker: job after job, until the parent hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interrupt means
    torch.set_num_threads(1)

    def tell(message: str, run: Run, content: object) -> None:
        try:
            connection.send((message, run, content))
        except OSError:  # the parent is gone: leave the run as it is, to be run anew
            raise SystemExit(1) from None

    while True:
        try:
            job: Job = connection.recv()
        except (EOFError, OSError):
            return
        for run, reason in execute(
            job, place, started=partial(tell, "started"), watch=partial(tell, "advanced")
        ).items():
            tell("ended", run, reason)
