"""Tracking stores: one experiment a grid, and what a store knows of the grid's earlier runs.

MLflow takes a second to import and another to open a SQLite store: it is imported where it is needed, and what a
command first asks of such a store is read from its tables.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments import schema
from experiments.schema import FAILED, FINISHED
from experiments.state import SQLITE, exclusively, state_folder
from experiments.trials import Result

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as StoredRun

MLARTIFACTS = "mlartifacts"  # folder beside a SQLite store
RUNS_AT_ONCE = 1000  # of a search
IS_FINISHED = f"attributes.status = '{FINISHED}'"


class StoreError(Exception):
    """The tracking store cannot be used; the message says which and why."""


@dataclass(frozen=True)
class Store:
    """A tracking store and the experiment of one grid in it.

    Attributes:
        tracking_uri: MLflow's address of the store.
        experiment_id: of the grid.
        states: folder in which the grid's runs keep their state (experiments.state).
    """

    tracking_uri: str
    experiment_id: str
    states: Path

    def client(self) -> MlflowClient:
        """MLflow's client of the store."""
        return _client(self.tracking_uri)


def open_store(
    tracking_uri: str, grid: str, description: str, kinds: Collection[str] = (schema.LEARN, schema.EFFICIENCY)
) -> Store:
    """Creates the store and the grid's experiment where they do not exist yet, and writes the grid's page.

    One process at a time: two that create one SQLite store at once break it.

    Args:
        tracking_uri: MLflow's address of the store.
        grid: its name.
        description: what it compares.
        kinds: of its runs, which decide on the views of its page.

    Raises:
        StoreError: it cannot be reached or written.
    """
    from experiments import index, page

    states = state_folder(tracking_uri)
    with _reaching(tracking_uri), exclusively(states / "creation.lock"):
        if tracking_uri.startswith(SQLITE):
            _make(Path(tracking_uri.removeprefix(SQLITE)))
        client = _client(tracking_uri)
        experiment = client.get_experiment_by_name(grid)
        if experiment is None:
            experiment_id = client.create_experiment(grid, artifact_location=_artifact_location(tracking_uri, grid))
        elif experiment.lifecycle_stage != "active":
            raise StoreError(f"{tracking_uri}: the experiment {grid!r} was deleted; restore it or use another store")
        else:
            experiment_id = experiment.experiment_id
        page.describe(client, experiment_id, description, kinds, first=f"verdicts: `lvt report {grid} --publish`")
        client.set_experiment_tag(experiment_id, schema.EXPERIMENT_KIND, schema.TRAINING_EXPERIMENT)
        if not tracking_uri.startswith(SQLITE) and index.read(client, experiment_id) is None:
            runs = [run for run in _runs(client, experiment_id, IS_FINISHED) if schema.KEY in run.data.tags]
            index.make(client, experiment_id, {run.data.tags[schema.KEY]: run.info.run_id for run in runs})
    return Store(tracking_uri, experiment_id, states / grid)


def _client(tracking_uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    return MlflowClient(tracking_uri)


@contextmanager
def _reaching(tracking_uri: str) -> Iterator[None]:
    """Says, where something goes wrong with the store, which it is."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, OSError) as error:
        raise StoreError(f"{tracking_uri}: {error}") from error
    except SQLAlchemyError as error:  # a file that is no database, or a broken one
        raise StoreError(f"{tracking_uri}: {error}".splitlines()[0]) from error


def _make(database: Path) -> None:
    """Makes a new SQLite store, whole or not at all.

    MLflow makes its tables one by one; killed in the middle, it leaves a store that it refuses from then on. Nor is it
    waited until each part is on the disk, a thousand times and for seconds: once the whole is there, it is.
    """
    if database.exists():
        return
    beginning = database.with_name(f"{database.name}.new")
    beginning.unlink(missing_ok=True)
    with _unsynchronised():
        _client(f"{SQLITE}{beginning}")
    with beginning.open("rb+") as file:
        os.fsync(file.fileno())
    beginning.rename(database)


@contextmanager
def _unsynchronised() -> Iterator[None]:
    """SQLite hands what it writes to the system and goes on, in all connections that are opened meanwhile."""
    from sqlalchemy import Engine, event

    def set_pragma(connection: sqlite3.Connection, _record: object) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", set_pragma)
    try:
        yield
    finally:
        event.remove(Engine, "connect", set_pragma)


def existing_store(tracking_uri: str, grid: str) -> Store | None:
    """The store, if it has runs of the grid; nothing is created.

    Raises:
        StoreError: it cannot be reached.
    """
    if tracking_uri.startswith(SQLITE) and not Path(tracking_uri.removeprefix(SQLITE)).exists():
        return None
    experiment_id = _experiment(tracking_uri, grid)
    return None if experiment_id is None else Store(tracking_uri, experiment_id, state_folder(tracking_uri) / grid)


def _experiment(tracking_uri: str, grid: str) -> str | None:
    """The id of the grid's experiment, if there is one."""
    if tracking_uri.startswith(SQLITE):
        with suppress(sqlite3.Error):
            found = _query(tracking_uri, "SELECT experiment_id FROM experiments WHERE name = ?", grid)
            return str(found[0][0]) if found else None
    with _reaching(tracking_uri):
        experiment = _client(tracking_uri).get_experiment_by_name(grid)
        return None if experiment is None else experiment.experiment_id


@dataclass(frozen=True)
class Past:
    """What a store knows of a grid's earlier runs.

    Of a run that was attempted several times a finished attempt counts, else the last.

    Attributes:
        finished: keys of the runs that are finished.
        failed: key → why, of the runs that failed.
        begun: keys of the runs that were begun and are neither: they run somewhere, or were interrupted.
    """

    finished: frozenset[str] = frozenset()
    failed: Mapping[str, str] = field(default_factory=dict)
    begun: frozenset[str] = frozenset()


def past_runs(store: Store) -> Past:
    """Reads the grid's runs once, of each its status and two tags.

    Raises:
        StoreError: the store cannot be reached.
    """
    last: dict[str, tuple[str, str]] = {}  # key → status and reason
    for status, key, reason in _states(store):
        if status == FINISHED or key not in last:
            last[key] = status, reason
    return Past(
        frozenset(key for key, (status, _) in last.items() if status == FINISHED),
        {key: reason for key, (status, reason) in last.items() if status == FAILED},
        frozenset(key for key, (status, _) in last.items() if status not in (FINISHED, FAILED)),
    )


def trial_results(store: Store, *, curves: bool, key: str | None = None) -> dict[str, Result]:
    """Key → what became of it, of every trial of the grid that has finished or was pruned, or of one.

    Args:
        store: in which they are.
        curves: whether their headline at each evaluation is asked for: a request for each trial.
        key: of that one.

    Raises:
        StoreError: it cannot be reached.
    """
    which = f"tags.`{schema.PHASE}` = '{schema.TUNING}' and {IS_FINISHED}"
    if key is not None:
        which += f" and tags.`{schema.KEY}` = '{key}'"
    client, found = store.client(), {}
    with _reaching(store.tracking_uri):
        for run in _runs(client, store.experiment_id, which):
            tags, metrics, headline = run.data.tags, run.data.metrics, run.data.tags[schema.HEADLINE]
            found[tags[schema.KEY]] = Result(
                metrics.get(schema.metric(schema.SELECTED, headline)),
                _curve(client, run.info.run_id, schema.metric(schema.VALIDATION, headline)) if curves else {},
                schema.PRUNED_STEP in metrics,
            )
    return found


def _curve(client: MlflowClient, run_id: str, metric: str) -> dict[int, float]:
    """Step → value; of several at one step the last."""
    history = client.get_metric_history(run_id, metric)
    return {point.step: point.value for point in sorted(history, key=lambda point: (point.step, point.timestamp))}


def _states(store: Store) -> list[tuple[str, str, str]]:
    """Status, key and reason of every run of the grid that has a key; those that have not finished, the newest first.

    Of a SQLite store they are read from its tables: MLflow's search brings all metrics and parameters along, which for
    ten thousand runs takes half a minute. Should the tables ever be others, all are searched for.
    """
    if store.tracking_uri.startswith(SQLITE):
        with suppress(sqlite3.Error):
            return _states_in_file(store)
    with _reaching(store.tracking_uri):
        return list(_states_by_search(store.client(), store))


def _states_by_search(client: MlflowClient, store: Store) -> Iterator[tuple[str, str, str]]:
    """The finished ones, which are most, come from the grid's index; where that is missing, all are searched for."""
    from mlflow.entities import ViewType

    from experiments import index

    unknown = ""
    finished = index.read(client, store.experiment_id)
    if finished is not None:
        deleted = {run.info.run_id for run in _runs(client, store.experiment_id, IS_FINISHED, ViewType.DELETED_ONLY)}
        yield from ((FINISHED, key, "") for key, run_id in finished.items() if run_id not in deleted)
        unknown = f"attributes.status != '{FINISHED}'"
    for run in _runs(client, store.experiment_id, unknown):
        if schema.KEY in run.data.tags:
            yield run.info.status, run.data.tags[schema.KEY], run.data.tags.get(schema.REASON, "")


def _states_in_file(store: Store) -> list[tuple[str, str, str]]:
    query = """
        SELECT runs.status, keys.value, coalesce(reasons.value, '')
        FROM runs JOIN tags AS keys ON keys.run_uuid = runs.run_uuid AND keys.key = ?
        LEFT JOIN tags AS reasons ON reasons.run_uuid = runs.run_uuid AND reasons.key = ?
        WHERE runs.experiment_id = ? AND runs.lifecycle_stage = 'active' ORDER BY runs.start_time DESC, runs.run_uuid
    """
    return _query(store.tracking_uri, query, schema.KEY, schema.REASON, int(store.experiment_id))


def _query(tracking_uri: str, query: str, *values: str | int) -> list[Any]:
    """The rows that a SQLite store has for a query."""
    address = f"{Path(tracking_uri.removeprefix(SQLITE)).resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, timeout=20, uri=True)) as file:
        return file.execute(query, values).fetchall()


def _runs(client: MlflowClient, experiment_id: str, which: str, view: int | None = None) -> Iterator[StoredRun]:
    """Runs of the grid; `which` is a filter of MLflow, `view` one of its views (default: what is not deleted)."""
    from mlflow.entities import ViewType

    token, view = None, view or ViewType.ACTIVE_ONLY
    while True:
        found = client.search_runs([experiment_id], which, view, RUNS_AT_ONCE, page_token=token)
        yield from found
        token = found.token
        if not token:
            return


def _artifact_location(tracking_uri: str, grid: str) -> str | None:
    """A folder beside a SQLite file; a server decides for itself."""
    if not tracking_uri.startswith(SQLITE):
        return None
    return (Path(tracking_uri.removeprefix(SQLITE)).resolve().parent / MLARTIFACTS / grid).as_uri()
