"""Tracking in MLflow: one flat run a run, found by its tags.

What a run has to say is kept on disk first (experiments.state) and sent to the store by a thread of its own, so that
training waits for no store: one that is locked, full or away gets everything when it is back. Nothing is sent twice:
points are sent when two checkpoints hold them, and a training that goes on from either makes only those after it anew.
"""

from __future__ import annotations

import json
import logging
import math
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.entities import Run as StoredRun
from mlflow.exceptions import MlflowException

from experiments import index, schema
from experiments.evaluation import Prediction
from experiments.schema import FAILED, FINISHED, KILLED, RUNNING
from experiments.sending import VALUE_LENGTH, create, log_points, mark, plain, send_record
from experiments.state import RunState, left_to_send
from experiments.stores import Store, StoreError, trial_results
from experiments.trials import Result

STORE_PATIENCE = 60.0  # seconds to wait for a store that is away when there is nothing else to do
LEASE = 3600  # seconds; how long a run of another machine that has not been heard of is taken to be alive


class AlreadyOver(Exception):
    """Another process executed this run meanwhile; the message is the reason of its failure, "" if it finished."""


class Elsewhere(Exception):
    """A process on another machine executes this run."""


class TrackedRun:
    """One run in the store, from its beginning, or from where it was interrupted, until `finish`."""

    def __init__(
        self,
        store: Store,
        state: RunState,
        key: str,
        name: str,
        tags: Mapping[str, str],
        settings: Mapping[str, Any],
        since: float = math.inf,
        started: int | None = None,
    ) -> None:
        """Begins the run, or takes it up again if its state is there.

        Args:
            store: where to.
            state: of the run, claimed.
            key: of the run.
            name: what a person calls it.
            tags: of experiments.schema, but for the key and the host.
            settings: of the run, as its parameters.
            since: seconds since 1970; a failure after that is not to be tried again.
            started: milliseconds since 1970, of what was measured before it is tracked; None: now.

        Raises:
            AlreadyOver: it is finished, or has failed since.
            Elsewhere: another machine executes it.
        """
        self._store, self._state = store, state
        self._client = store.client()
        self._sender = ThreadPoolExecutor(1, "sender")
        self._sending: Future[int] | None = None
        self._points: list[Metric] = []
        self._kept = 0  # of them, in the last checkpoint
        self._seconds = 0.0  # of earlier attempts
        self._started = time.perf_counter()
        record = state.read_record()
        if record is not None and record["status"] != RUNNING:
            send_record(self._client, store.experiment_id, state, record)
            raise AlreadyOver(record["reason"])
        try:
            known = _runs_of_key(self._client, store, key)
        except MlflowException:
            known = None  # the store is away: it is told later
        if known is not None:
            record = _to_take_up(self._client, known, record, since)
            if record is None:
                state.forget()
        self.resumed = record is not None
        self._record: dict[str, Any] = record or {
            "run_id": None,
            "started": started,
            "status": RUNNING,
            "reason": "",
            "name": name,
            "tags": {**tags, schema.KEY: key, schema.HOST: platform.node()},
            "parameters": [[key, value[:VALUE_LENGTH]] for key, value in _flatten(settings)],
            "dataset": None,
            "points": [],
        }
        self._write()
        if known is not None:
            self._try(self._send, [])

    @property
    def id(self) -> str | None:
        """The run's id in the store; None while the store has not heard of it."""
        return self._record["run_id"]

    def point(self, name: str, value: float, step: int = 0) -> None:
        """Buffers one point of a metric; `step` as experiments.schema says of its axis."""
        self._points.append(Metric(name, float(value), int(time.time() * 1000), step))

    def tag(self, name: str, value: str) -> None:
        """Sets a tag, at the end."""
        self._record["tags"][name] = value

    def dataset(self, name: str, description: Mapping[str, str]) -> None:
        """Shows the data as the run's dataset input; `description` as in experiments.data.TaskData."""
        self._record["dataset"] = [name, dict(description)]

    def json(self, value: Mapping[str, Any], artifact: str) -> None:
        """Stores a JSON artifact."""
        self._state.artifact(artifact).write_text(json.dumps(value, indent=2), encoding="utf-8")

    def file(self, artifact: str) -> Path:
        """Where to write an artifact, which is stored when the run ends."""
        return self._state.artifact(artifact)

    def table(self, columns: Sequence[str], data: Sequence[Sequence[Any]], artifact: str) -> None:
        """Stores a table that the dashboard can show, in the form that MLflow gives to its tables."""
        self.json({"columns": list(columns), "data": [list(row) for row in data]}, artifact)
        tables = json.loads(self._record["tags"].get(schema.LOGGED_ARTIFACTS, "[]"))
        table = {"path": artifact, "type": "table"}
        self.tag(schema.LOGGED_ARTIFACTS, json.dumps([*(one for one in tables if one != table), table]))

    def checkpoint(self, weights: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> None:
        """Stores weights (a state_dict, on the CPU) and the settings that rebuild the model."""
        torch.save({name: tensor.cpu() for name, tensor in weights.items()}, self.file(schema.CHECKPOINT_ARTIFACT))
        self.json(config, schema.MODEL_CONFIG_ARTIFACT)

    def predictions(self, split: str, predictions: Sequence[Prediction]) -> None:
        """Stores the predictions of a split as a table, if there are any."""
        if not predictions:
            return
        columns = ["source", "reference", "prediction", "correct"]
        axes = list(predictions[0].categories)
        data = [
            [getattr(one, column) for column in columns] + [one.categories[axis] for axis in axes]
            for one in predictions
        ]
        self.table([*columns, *axes], data, schema.PREDICTIONS_ARTIFACTS[split])

    def to_keep(self) -> dict[str, Any]:
        """What a checkpoint must hold of this run: the points that the store does not have, tags, the time it took."""
        self._forget_sent()
        points, tags = [plain(point) for point in self._points], dict(self._record["tags"])
        return {"points": points, "tags": tags, "seconds": self._seconds + time.perf_counter() - self._started}

    def take_up(self, kept: Mapping[str, Any]) -> None:
        """Puts back what a checkpoint held."""
        self._points = [Metric(*point) for point in kept["points"]]
        self._record["tags"] |= kept.get("tags", {})  # of which older checkpoints have none
        self._kept = 0
        self._seconds = kept["seconds"]
        self._started = time.perf_counter()

    def kept(self) -> None:
        """A checkpoint now holds all points: sends, without waiting, those that the one before it held already."""
        self._forget_sent()
        if self._sending is None:
            self._sending = self._sender.submit(self._try, self._send, self._points[: self._kept])
        self._kept = len(self._points)

    def finish(self, status: str, reason: str = "") -> bool:
        """Ends the run as FINISHED or, for a reason, as FAILED.

        Returns:
            Whether the store has all of it now; otherwise it is left to `send_left`.

        Raises:
            OSError: neither the disk nor the store takes it.
        """
        if self._sending is not None:
            self._sending.result()
        self._forget_sent()
        self.point(schema.RUN_SECONDS, self._seconds + time.perf_counter() - self._started)
        self._record |= {"status": status, "reason": reason[:VALUE_LENGTH]}
        self._record["points"] = [plain(point) for point in self._points]
        self._sender.shutdown()
        try:
            self._write()
        except OSError:
            if not send_record(self._client, self._store.experiment_id, self._state, self._record):
                raise
            return True
        return send_record(self._client, self._store.experiment_id, self._state, self._record)

    def leave(self, status: str, reason: str = "") -> None:
        """Ends this attempt, to be taken up later: marks the run if the store can be reached."""
        if self._sending is not None:
            self._sending.result()
        self._sender.shutdown()
        if self.id is not None:
            self._try(mark, self._client, self.id, status, reason)

    def _write(self) -> None:
        self._state.write_record(self._record)

    def _forget_sent(self) -> None:
        """Drops the points that the store has got."""
        if self._sending is not None and self._sending.done():
            sent = self._sending.result()
            self._points, self._kept = self._points[sent:], self._kept - sent
            self._sending = None

    def _try(self, send: Any, *arguments: Any) -> int:
        """Calls `send`; how many points it sent, none where the store did not take them."""
        try:
            return send(*arguments) or 0
        except Exception as error:  # whatever it is, training goes on
            logging.getLogger(__name__).warning("the store did not answer, it is tried again later: %s", error)
            return 0

    def _send(self, points: Sequence[Metric]) -> int:
        """Creates the run where the store has not heard of it yet, renews its lease, sends points."""
        create(self._client, self._store.experiment_id, self._state, self._record)
        assert self.id is not None
        self._client.set_tag(self.id, schema.LEASE, str(int(time.time()) + LEASE))
        log_points(self._client, self.id, points)
        return len(points)


def send_left(store: Store) -> int:
    """Sends what earlier runs could not; how many of them the store still does not take."""
    missing = 0
    for folder in left_to_send(store.states):
        state = RunState.claim(folder)
        if state is None:
            continue
        record = state.read_record()
        if record is None:
            state.release()
            continue
        if send_record(store.client(), store.experiment_id, state, record):
            state.discard()
        else:
            state.release()
            missing += 1
    return missing


def send_patiently(store: Store) -> int:
    """As `send_left`, but waits a while for a store that is away."""
    until = time.monotonic() + STORE_PATIENCE
    while (missing := send_left(store)) and time.monotonic() < until:
        time.sleep(2)
    return missing


def result_of(store: Store, key: str) -> Result:
    """What became of a trial that has finished; waits a while for a store that is away.

    Raises:
        StoreError: the store does not have it.
    """
    until = time.monotonic() + STORE_PATIENCE
    while True:
        try:
            found, why = trial_results(store, curves=True, key=key), "it does not take it"
        except StoreError as error:
            found, why = {}, str(error)
        if key in found:
            return found[key]
        if time.monotonic() >= until:
            raise StoreError(f"{store.tracking_uri}: what became of the trial {key} is not known: {why}")
        time.sleep(2)
        send_left(store)


def leave(store: Store, key: str, status: str, reason: str, host: str | None = None) -> bool:
    """Marks a run whose process can no longer do so; its state stays, so that it can go on.

    Args:
        store: in which it is.
        key: of the run.
        status: for it.
        reason: of a failure.
        host: the machine that executed it, where that may be another one, which then has its state.

    Returns:
        Whether the run had finished, and its process only could not say so any more.
    """
    try:
        state = RunState.claim(store.states / key)
    except OSError as error:
        logging.getLogger(__name__).warning("a run could not be marked as %s: %s", status, error)
        return False
    if state is None:
        return False
    record = state.read_record()
    client = store.client()
    finished = False
    try:
        if record is None:  # it has not begun, or is over and its process died before it could say so; or is elsewhere
            found = _runs_of_key(client, store, key)
            finished = any(run.info.status == FINISHED for run in found)
            for run in found:
                if run.info.status == RUNNING and host is not None and run.data.tags.get(schema.HOST) == host:
                    mark(client, run.info.run_id, status, reason)
        elif record["status"] != RUNNING:
            finished = record["status"] == FINISHED
        elif record["run_id"] is not None:
            mark(client, record["run_id"], status, reason)
    except (MlflowException, OSError) as error:
        logging.getLogger(__name__).warning("a run could not be marked as %s: %s", status, error)
    if record is None:
        state.discard()
    else:
        state.release()
    return finished


def _to_take_up(
    client: MlflowClient, known: list[StoredRun], record: dict[str, Any] | None, since: float
) -> dict[str, Any] | None:
    """The record with which a run goes on, if it does; its other attempts in the store are marked as killed.

    Raises:
        AlreadyOver: one of them is finished, or has failed since.
        Elsewhere: one of them runs on another machine.
    """
    ours = None
    for run in known:
        run_id, status, tags = run.info.run_id, run.info.status, run.data.tags
        if status == FINISHED:
            index.note(client, run.info.experiment_id, tags[schema.KEY], run_id)
            raise AlreadyOver("")
        if status == FAILED and (run.info.end_time or 0) / 1000 > since:
            raise AlreadyOver(tags.get(schema.REASON, "failed"))
        if record is not None and run_id == record["run_id"]:
            ours = run
        elif status == RUNNING:
            if tags.get(schema.HOST) != platform.node() and float(tags.get(schema.LEASE, 0)) > time.time():
                raise Elsewhere
            client.set_terminated(run_id, KILLED)
    if record is None or (record["run_id"] is not None and ours is None):
        return None
    if ours is not None and ours.info.status != RUNNING:
        client.update_run(ours.info.run_id, status=RUNNING)
        if schema.REASON in ours.data.tags:
            client.delete_tag(ours.info.run_id, schema.REASON)
    return record


def _runs_of_key(client: MlflowClient, store: Store, key: str) -> list[StoredRun]:
    return list(client.search_runs([store.experiment_id], f"tags.`{schema.KEY}` = '{key}'"))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """``{"training": {"steps": 5}}`` → ``("training.steps", "5")``."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)
