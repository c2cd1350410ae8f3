"""The curves of many runs: all values of those of their metrics that have an axis, read at once."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from experiments import schema

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

SQLITE = "sqlite:///"
COLUMNS = ("run_id", "metric", "at", "value")
REQUESTS = 8  # at once, to a server
Point = tuple[str, str, int, float]


def read(client: MlflowClient, tracking_uri: str, experiment_id: str, runs: Sequence[Run]) -> pd.DataFrame:
    """A row for each place on the axis of each metric of `runs`, columns `COLUMNS`.

    Where a value was logged again at the same place (after a resumption), the later one stands.

    Of a SQLite store they are read from its table in one query: MLflow's client asks for one metric of one run at a
    time, which for ten thousand runs takes minutes. Any other store is asked so, and this one, should its table ever be
    another.
    """
    found = pd.DataFrame(_points(client, tracking_uri, experiment_id, runs), columns=list(COLUMNS))
    have_axis = [name for name in found["metric"].unique() if schema.axis_of(name)]
    found = found[found["run_id"].isin([run.info.run_id for run in runs]) & found["metric"].isin(have_axis)]
    return found.drop_duplicates(["run_id", "metric", "at"], keep="last")


def _points(client: MlflowClient, tracking_uri: str, experiment_id: str, runs: Sequence[Run]) -> Iterable[Point]:
    if tracking_uri.startswith(SQLITE):
        with suppress(sqlite3.Error):
            return _in_file(tracking_uri, experiment_id)
    return _one_by_one(client, runs)


def _in_file(tracking_uri: str, experiment_id: str) -> list[Point]:
    """From the table of a SQLite store, in the order in which MLflow returns them."""
    query = """
        SELECT metrics.run_uuid, key, step, CASE WHEN is_nan THEN NULL ELSE value END
        FROM metrics JOIN runs ON runs.run_uuid = metrics.run_uuid
        WHERE runs.experiment_id = ? ORDER BY timestamp, step, value
    """
    address = f"{Path(tracking_uri.removeprefix(SQLITE)).resolve().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, timeout=20, uri=True)) as file:
        return file.execute(query, (int(experiment_id),)).fetchall()


def _one_by_one(client: MlflowClient, runs: Sequence[Run]) -> Iterator[Point]:
    wanted = [(run.info.run_id, name) for run in runs for name in run.data.metrics if schema.axis_of(name)]
    with ThreadPoolExecutor(REQUESTS) as pool:
        histories = pool.map(lambda one: client.get_metric_history(*one), wanted)
        for (run_id, name), history in zip(wanted, histories, strict=True):
            for point in sorted(history, key=lambda point: point.timestamp):
                yield run_id, name, point.step, point.value
