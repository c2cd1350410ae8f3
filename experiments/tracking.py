"""Tracking in MLflow: one store, one experiment a grid, one flat run a run, found by its tags.

Points are buffered and sent in batches at evaluations, so that tracking takes next to nothing of a training.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported

import torch
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, ViewType
from mlflow.exceptions import MlflowException

from experiments import schema
from experiments.evaluation import Prediction

logging.getLogger("mlflow").setLevel(logging.WARNING)
logging.getLogger("alembic").setLevel(logging.WARNING)

ARTIFACTS = "mlartifacts"  # folder beside a SQLite store
POINTS_AT_ONCE = 1000  # MLflow's limits on one log_batch
PARAMETERS_AT_ONCE = 100
VALUE_LENGTH = 6000
DIGEST_LENGTH = 36


class StoreError(Exception):
    """The tracking store cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Store:
    """A tracking store and the experiment of one grid in it."""

    tracking_uri: str
    experiment_id: str


def open_store(tracking_uri: str, grid: str, description: str) -> Store:
    """Creates the store and the grid's experiment where they do not exist yet.

    Called by the parent before any worker starts: two processes that create one SQLite store at once break it.

    Raises:
        StoreError: it cannot be reached or written.
    """
    try:
        client = MlflowClient(tracking_uri)
        experiment = client.get_experiment_by_name(grid)
        if experiment is None:
            experiment_id = client.create_experiment(grid, artifact_location=_artifact_location(tracking_uri, grid))
        elif experiment.lifecycle_stage != "active":
            raise StoreError(f"{tracking_uri}: the experiment {grid!r} was deleted; restore it or use another store")
        else:
            experiment_id = experiment.experiment_id
        client.set_experiment_tag(experiment_id, schema.NOTE, description)
        client.set_experiment_tag(experiment_id, schema.EXPERIMENT_KIND, schema.TRAINING_EXPERIMENT)
    except (MlflowException, OSError) as error:
        raise StoreError(f"{tracking_uri}: {error}") from error
    return Store(tracking_uri, experiment_id)


@dataclass(frozen=True)
class Past:
    """What a store knows of a grid's earlier runs.

    Attributes:
        finished: keys of the runs that are finished.
        failed: key → why, of the runs that failed, also of those that finished another time.
    """

    finished: frozenset[str]
    failed: Mapping[str, str]


def past_runs(store: Store) -> Past:
    """Reads the grid's runs once."""
    finished, failed = set(), {}
    for status, tags in _runs(store):
        key = tags.get(schema.KEY)
        if key is not None and status == "FINISHED":
            finished.add(key)
        elif key is not None and status == "FAILED":
            failed[key] = tags.get(schema.REASON, "")
    return Past(frozenset(finished), failed)


def fail(store: Store, run_id: str, reason: str) -> None:
    """Marks a run as failed whose process can no longer do so."""
    client = MlflowClient(store.tracking_uri)
    client.set_tag(run_id, schema.REASON, reason)
    client.set_terminated(run_id, "FAILED")


def kill(store: Store, run_id: str) -> None:
    """Marks a run as killed: it was interrupted, and is run anew next time."""
    MlflowClient(store.tracking_uri).set_terminated(run_id, "KILLED")


class TrackedRun:
    """One run in the store, from its start until `finish`."""

    def __init__(self, store: Store, name: str, tags: Mapping[str, str], settings: Mapping[str, Any]) -> None:
        self._client = MlflowClient(store.tracking_uri)
        self.id: str = self._client.create_run(store.experiment_id, run_name=name, tags=dict(tags)).info.run_id
        self._points: list[Metric] = []
        self._started = time.perf_counter()
        parameters = [Param(key, value[:VALUE_LENGTH]) for key, value in _flatten(settings)]
        for start in range(0, len(parameters), PARAMETERS_AT_ONCE):
            self._client.log_batch(self.id, params=parameters[start : start + PARAMETERS_AT_ONCE])

    def point(self, name: str, value: float, step: int = 0) -> None:
        """Buffers one point of a metric; `step` as experiments.schema says of its axis."""
        self._points.append(Metric(name, float(value), int(time.time() * 1000), step))
        if len(self._points) == POINTS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Sends what is buffered."""
        points, self._points = self._points, []
        if points:
            self._client.log_batch(self.id, metrics=points)

    def tag(self, name: str, value: str) -> None:
        """Sets a tag."""
        self._client.set_tag(self.id, name, value)

    def dataset(self, name: str, description: Mapping[str, str]) -> None:
        """Shows the data as the run's dataset input; `description` as in experiments.data.TaskData."""
        digest = description["digest"][:DIGEST_LENGTH]
        dataset = Dataset(name, digest, "lvt", description["source"], profile=json.dumps(dict(description)))
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
        try:
            self._client.log_inputs(self.id, inputs)
        except MlflowException:
            # Of two runs that bring the same new data set at once, the store refuses one; then it is there for both.
            self._client.log_inputs(self.id, inputs)

    def json(self, value: Mapping[str, Any], artifact: str) -> None:
        """Stores a JSON artifact."""
        self._client.log_dict(self.id, dict(value), artifact)

    @contextmanager
    def file(self, artifact: str) -> Iterator[Path]:
        """Stores the artifact that is written to the path given."""
        with _artifact_file(artifact) as (path, folder):
            yield path
            self._client.log_artifact(self.id, str(path), folder)

    def checkpoint(self, weights: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> None:
        """Stores weights (a state_dict, on the CPU) and the settings that rebuild the model."""
        with self.file(schema.CHECKPOINT_ARTIFACT) as path:
            torch.save({name: tensor.cpu() for name, tensor in weights.items()}, path)
        self.json(config, schema.MODEL_CONFIG_ARTIFACT)

    def predictions(self, predictions: Sequence[Prediction]) -> None:
        """Stores a table that the dashboard can show."""
        columns = ("source", "reference", "prediction", "correct")
        table = {column: [getattr(prediction, column) for prediction in predictions] for column in columns}
        self._client.log_table(self.id, table, schema.PREDICTIONS_ARTIFACT)

    def finish(self, status: str, reason: str = "") -> None:
        """Ends the run as FINISHED or, for a reason, as FAILED."""
        self.point(schema.RUN_SECONDS, time.perf_counter() - self._started)
        self.flush()
        if reason:
            self.tag(schema.REASON, reason[:VALUE_LENGTH])
        self._client.set_terminated(self.id, status)


def _runs(store: Store) -> Iterator[tuple[str, dict[str, str]]]:
    """Status and tags of every run of the grid."""
    client = MlflowClient(store.tracking_uri)
    token = None
    while True:
        page = client.search_runs(
            [store.experiment_id], run_view_type=ViewType.ACTIVE_ONLY, max_results=1000, page_token=token
        )
        yield from ((run.info.status, run.data.tags) for run in page)
        token = page.token
        if not token:
            return


def _artifact_location(tracking_uri: str, grid: str) -> str | None:
    """A folder beside a SQLite file; a server decides for itself."""
    if not tracking_uri.startswith("sqlite:///"):
        return None
    return (Path(tracking_uri.removeprefix("sqlite:///")).resolve().parent / ARTIFACTS / grid).as_uri()


@contextmanager
def _artifact_file(artifact: str) -> Iterator[tuple[Path, str]]:
    """A temporary file of the artifact's name, and the artifact's folder."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / Path(artifact).name, str(Path(artifact).parent)


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """``{"training": {"steps": 5}}`` → ``("training.steps", "5")``."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, str(value)
