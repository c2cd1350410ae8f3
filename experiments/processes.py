"""The engine of this machine: processes with one thread each, which import torch once and take job after job."""

from __future__ import annotations

import itertools
import multiprocessing
import platform
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from experiments.attempts import Job, Outcome, Place, devices_of
from experiments.config import EfficiencyRun, Run
from experiments.engine import LOOK_EVERY, Begun, Event, Lost
from experiments.environment import prepare_process, take_gpu
from experiments.run import execute
from experiments.training import Status

_context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork

START_LIMIT = 600.0  # seconds that a new process may take to import what it needs
STOP = "stop"
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)  # which a terminal or a scheduler sends to all: the parent decides


@dataclass
class _Worker:
    """A process, and what it is doing."""

    process: SpawnProcess
    connection: Connection
    number: int  # from 0, of those in the pool; which GPU it has follows from it …
    devices: int = 1  # … and that, of a job of several processes, those after it are taken, too
    ticket: int | None = None  # of its job
    left: int = 0  # runs of the job that have not ended
    given: float = 0.0  # time.monotonic() when it got the job …
    begun: bool = False  # … which in a new process it begins seconds later


class Processes:
    """An experiments.engine.Engine; efficiency runs are executed while every other worker is idle."""

    def __init__(self, place: Place, workers: int) -> None:
        self._place, self._workers = place, workers
        self._pool: list[_Worker] = []
        self._tickets = itertools.count()

    def takes(self, job: Job) -> bool:
        """See `Engine`: a job of several processes counts as so many workers, and is begun alone if it is too large."""
        left = self._workers - sum(worker.devices for worker in self._busy())
        return not self._busy() or (not isinstance(job[0], EfficiencyRun) and devices_of(job) <= left)

    def begin(self, job: Job) -> int:
        """See `Engine`: it goes to an idle worker that is alive, or to a new one."""
        for worker in [worker for worker in self._pool if worker.ticket is None]:
            try:
                worker.connection.send(job)
                break
            except OSError:  # it died while it was idle
                self._bury(worker)
        else:
            worker = _start(self._place, self._free_number(devices_of(job)))
            self._pool.append(worker)
            worker.connection.send(job)
        if isinstance(job[0], EfficiencyRun):  # who waits holds memory and, on a GPU, counts as one who shares it
            for other in [other for other in self._pool if other is not worker]:
                other.connection.close()  # then it ends by itself
                self._bury(other)
        worker.ticket, worker.left, worker.devices = next(self._tickets), len(job), devices_of(job)
        worker.given, worker.begun = time.monotonic(), False
        return worker.ticket

    def hear(self) -> list[Event]:
        """See `Engine`."""
        speaking = wait([worker.connection for worker in self._busy()], LOOK_EVERY)
        events = [self._heard(worker) for worker in self._busy() if worker.connection in speaking]
        for worker in self._busy():
            if not worker.begun and time.monotonic() - worker.given > START_LIMIT:
                assert worker.ticket is not None
                events.append(Event(worker.ticket, Lost(f"hangs: its process did not start in {START_LIMIT:g} s")))
                self.kill(worker.ticket)
        return events

    def _heard(self, worker: _Worker) -> Event:
        """Takes one message."""
        assert worker.ticket is not None
        try:
            run, news = worker.connection.recv()
        except (EOFError, OSError):  # it is dead: its end of the connection is closed
            self._bury(worker)
            return Event(worker.ticket, Lost(_death(worker.process.exitcode)))
        event = Event(worker.ticket, news, run)
        if isinstance(news, Begun):
            worker.begun = True
        elif isinstance(news, Outcome):
            worker.left -= 1
            if not worker.left:
                worker.ticket = None
        return event

    def ask_to_stop(self, ticket: int) -> None:
        """See `Engine`."""
        for worker in self._busy():
            if worker.ticket == ticket:
                with suppress(OSError):  # it is dead, which is heard of soon
                    worker.connection.send(STOP)

    def kill(self, ticket: int) -> None:
        """See `Engine`."""
        for worker in self._busy():
            if worker.ticket == ticket:
                worker.process.kill()
                self._bury(worker)

    def close(self) -> None:
        """See `Engine`."""
        for worker in self._pool:
            worker.connection.close()  # an idle worker then ends by itself
        for worker in self._pool:
            worker.process.join()

    def _busy(self) -> list[_Worker]:
        return [worker for worker in self._pool if worker.ticket is not None]

    def _free_number(self, devices: int) -> int:
        """The first number from which on so many are free."""
        taken = {worker.number + i for worker in self._pool for i in range(worker.devices)}
        return next(first for first in itertools.count() if taken.isdisjoint(range(first, first + devices)))

    def _bury(self, worker: _Worker) -> None:
        worker.process.join()
        worker.connection.close()
        self._pool.remove(worker)


def _start(place: Place, number: int) -> _Worker:
    ours, theirs = _context.Pipe()
    process = _context.Process(target=_work, args=(theirs, place, number), daemon=False)  # it has children of its own
    resource_tracker.ensure_running()  # which unblocks them when it is started
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, INTERRUPTS)  # inherited: it imports for seconds before it ignores
    try:
        process.start()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    theirs.close()
    return _Worker(process, ours, number)


def _death(exit_code: int | None) -> str:
    if exit_code is not None and exit_code < 0:
        hint = " (out of memory?)" if -exit_code == signal.SIGKILL else ""
        return f"the worker was killed by {signal.Signals(-exit_code).name}{hint}"
    return f"the worker ended with exit code {exit_code}"


def _work(connection: Connection, place: Place, number: int) -> None:
    """The life of a worker: job after job, until the parent says `STOP` or hangs up.

    While a run is executed nothing but that can arrive, so that a look at the connection tells whether to stop: no lock
    is shared between processes, which one that is killed might take with it.
    """
    for interrupt in INTERRUPTS:
        signal.signal(interrupt, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, INTERRUPTS)
    prepare_process()
    if place.device == "cuda":
        take_gpu(number)

    def tell(run: Run | None, news: Begun | Status | Outcome) -> None:
        with suppress(OSError):  # the parent is gone; a training sees that itself and keeps what it has
            connection.send((run, news))

    while True:
        try:
            job = connection.recv()
        except (EOFError, OSError):
            return
        if job == STOP:
            return
        tell(None, Begun(platform.node()))
        for run, outcome in execute(job, place, watch=tell, stop=connection.poll).items():
            tell(run, outcome)
