"""The engine of a Ray cluster: each job is a task, executed on whatever machine has room for it.

A learning run takes a core or, on GPUs, a share of one; a job of efficiency runs has a GPU, or without GPUs a machine,
for itself. The code is shipped with the tasks, results go to the tracking server. Checkpoints stay on the machine of
the run (or in the home folder that the machines share): a run whose machine is lost begins anew (or goes on).
"""

from __future__ import annotations

import itertools
import math
import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import LocalRayletDiedError, NodeDiedError, OutOfMemoryError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from experiments.attempts import Job, Outcome, Place, devices_of, reason
from experiments.config import EfficiencyRun, Run, run_key
from experiments.engine import LOOK_EVERY, Begun, Event, Lost
from experiments.environment import prepare_process
from experiments.run import execute
from experiments.state import left_to_send, state_folder
from experiments.tracking import send_patiently
from experiments.training import Status

CODE = Path(__file__).parents[1]
NOT_SHIPPED = [".git", "tests", "docs"]  # nor what .gitignore names
ASK_EVERY = 1.0  # seconds between two questions of a task whether to stop


def connect(address: str | None) -> str:
    """Connects this process to the cluster at `address` ("auto": that of this machine) or, without one, to a new one.

    Returns:
        The device of its runs, "cuda" where it has GPUs, else "cpu".

    Raises:
        ConnectionError: there is no such cluster.
    """
    settings = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
    shipped = {"working_dir": str(CODE), "excludes": NOT_SHIPPED, "env_vars": settings}
    ray.init(address=address or "local", runtime_env=shipped)
    return "cuda" if ray.cluster_resources().get("GPU") else "cpu"


class Tasks:
    """An experiments.engine.Engine on the cluster to which this process is connected."""

    def __init__(self, place: Place, workers: int) -> None:
        """`workers`: learning runs that share a GPU."""
        self._place, self._workers = place, workers
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._desk: Any = ray.remote(_Desk).options(num_cpus=0, scheduling_strategy=here).remote()
        self._tickets = itertools.count()
        self._tasks: dict[Any, int] = {}  # what Ray promises → the ticket
        self._nodes: dict[int, str] = {}  # by ticket, those on which jobs were begun

    def takes(self, job: Job) -> bool:
        """See `Engine`: Ray keeps what has no room yet."""
        return True

    def begin(self, job: Job) -> int:
        """See `Engine`."""
        ticket = next(self._tickets)
        task = ray.remote(_execute).options(max_retries=0, **needs(job, self._place.device, self._workers))
        self._tasks[task.remote(job, self._place, self._desk, ticket)] = ticket
        return ticket

    def hear(self) -> list[Event]:
        """See `Engine`."""
        if not self._tasks:
            return []
        ray.wait(list(self._tasks), timeout=LOOK_EVERY)
        over, _ = ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0)
        events = []
        for ticket, run, news, node in ray.get(self._desk.take.remote()):
            events.append(Event(ticket, news, run))
            self._nodes[ticket] = node
        for task in over:
            ticket = self._tasks.pop(task)
            try:
                events += [Event(ticket, outcome, run) for run, outcome in ray.get(task).items()]
            except RayError as error:
                events.append(Event(ticket, self._lost(error, self._nodes.get(ticket))))
        return events

    def ask_to_stop(self, ticket: int) -> None:
        """See `Engine`."""
        self._desk.stop.remote(ticket)

    def kill(self, ticket: int) -> None:
        """See `Engine`."""
        for task, its in list(self._tasks.items()):
            if its == ticket:
                ray.cancel(task, force=True)
                del self._tasks[task]

    def close(self) -> None:
        """See `Engine`."""
        ray.kill(self._desk)

    def _lost(self, error: RayError, node: str | None) -> Lost:
        """Why a task has no outcome: its machine is gone, or it is the job that has ended its process."""
        alive = {found["NodeID"] for found in ray.nodes() if found["Alive"]}
        if isinstance(error, NodeDiedError | LocalRayletDiedError) or (node is not None and node not in alive):
            return Lost("its machine was lost", again=True)
        if isinstance(error, OutOfMemoryError):
            return Lost("out of memory: Ray ended the worker")
        return Lost(reason(error))


def needs(job: Job, device: str, workers: int) -> dict[str, float]:
    """What a job is given, in the terms of Ray: what is measured has its device for itself."""
    alone, devices = isinstance(job[0], EfficiencyRun), devices_of(job)
    if device == "cuda":
        return {"num_cpus": devices, "num_gpus": devices if alone or devices > 1 else 1 / workers}
    most = max(node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"])
    return {"num_cpus": most if alone else devices}


class _Desk:
    """Where the tasks leave what they have to say, and see whether they are to stop; beside the parent, as an actor."""

    def __init__(self) -> None:
        self._said: list[tuple[int, Run | None, Begun | Status, str]] = []
        self._to_stop: set[int] = set()

    def tell(self, ticket: int, run: Run | None, news: Begun | Status, node: str) -> None:
        self._said.append((ticket, run, news, node))

    def take(self) -> list[tuple[int, Run | None, Begun | Status, str]]:
        said, self._said = self._said, []
        return said

    def stop(self, ticket: int) -> None:
        self._to_stop.add(ticket)

    def is_to_stop(self, ticket: int) -> bool:
        return ticket in self._to_stop


def _execute(job: Job, place: Place, desk: Any, ticket: int) -> dict[Run, Outcome]:
    """Executes a job as a task, on a machine whose home folder may be another one than the parent's."""
    prepare_process()
    store = place.store
    place = replace(place, store=replace(store, states=state_folder(store.tracking_uri) / store.states.name))
    node = ray.get_runtime_context().get_node_id()
    asked, stopping = -math.inf, False

    def tell(run: Run | None, news: Begun | Status) -> None:
        desk.tell.remote(ticket, run, news, node)

    def stop() -> bool:
        nonlocal asked, stopping
        if not stopping and time.monotonic() - asked >= ASK_EVERY:
            asked = time.monotonic()
            try:
                stopping = ray.get(desk.is_to_stop.remote(ticket))
            except RayError:  # the parent is gone
                stopping = True
        return stopping

    if stop():
        return dict.fromkeys(job, Outcome("interrupted"))
    tell(None, Begun(platform.node()))
    outcomes = execute(job, place, watch=tell, stop=stop)
    if send_patiently(place.store):  # nobody else sees this machine's disk
        kept = Outcome("failed", f"the store does not take its results, which are kept on {platform.node()}")
        unsent = {folder.name for folder in left_to_send(place.store.states)}
        outcomes |= {run: kept for run in job if run_key(run, place.device) in unsent}
    return outcomes
