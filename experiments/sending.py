"""What is sent to MLflow of one run, in a form that may be repeated: the store then has everything once.

A record (experiments.state keeps it) is what the store is to be told of a run, in plain values: its id there (None
while it has none), when it started (milliseconds since 1970; None or absent: when the store hears of it), status,
reason, name, tags, parameters (none once the store has taken them), dataset and points.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.exceptions import MlflowException

from experiments import index, schema
from experiments.state import ARTIFACTS, RunState

POINTS_AT_ONCE = 1000  # MLflow's limits on one log_batch
PARAMETERS_AT_ONCE = 100
VALUE_LENGTH = 6000
DIGEST_LENGTH = 36


def send_record(client: MlflowClient, experiment_id: str, state: RunState, record: dict[str, Any]) -> bool:
    """Tells the store all of a run that is over; may be repeated, the store then has it once.

    Returns:
        Whether the store took it; the run's state is gone then.
    """
    try:
        create(client, experiment_id, state, record)
        run_id = record["run_id"]
        _log_dataset(client, run_id, record["dataset"])
        client.log_batch(run_id, tags=[RunTag(name, value) for name, value in record["tags"].items()])
        log_points(client, run_id, [Metric(*point) for point in record["points"]])
        if (state.folder / ARTIFACTS).exists():
            client.log_artifacts(run_id, str(state.folder / ARTIFACTS))
        mark(client, run_id, record["status"], record["reason"])
        if record["status"] == schema.FINISHED:
            index.note(client, experiment_id, record["tags"][schema.KEY], run_id)
    except (MlflowException, OSError) as error:
        logging.getLogger(__name__).warning("what is left of a run cannot be sent yet: %s", error)
        return False
    state.forget()
    return True


def create(client: MlflowClient, experiment_id: str, state: RunState, record: dict[str, Any]) -> None:
    """Creates the run and notes its id, sends its parameters: what of this the store has not taken yet."""
    if record["run_id"] is None:
        run = client.create_run(
            experiment_id, start_time=record.get("started"), run_name=record["name"], tags=record["tags"]
        )
        record["run_id"] = run.info.run_id
        state.write_record(record)
    parameters = [Param(name, value) for name, value in record["parameters"]]
    for start in range(0, len(parameters), PARAMETERS_AT_ONCE):
        client.log_batch(record["run_id"], params=parameters[start : start + PARAMETERS_AT_ONCE])
    record["parameters"] = []


def log_points(client: MlflowClient, run_id: str, points: Sequence[Metric]) -> None:
    """Sends points; those that the store has already, to the millisecond and the bit, it does not take twice."""
    for start in range(0, len(points), POINTS_AT_ONCE):
        client.log_batch(run_id, metrics=points[start : start + POINTS_AT_ONCE])


def _log_dataset(client: MlflowClient, run_id: str, described: Sequence[Any] | None) -> None:
    if described is None:
        return
    name, description = described
    digest = description["digest"][:DIGEST_LENGTH]
    dataset = Dataset(name, digest, "lvt", description["source"], profile=json.dumps(description))
    inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])]
    try:
        client.log_inputs(run_id, inputs)
    except MlflowException:
        # Of two runs that bring the same new data set at once, the store refuses one; then it is there for both.
        client.log_inputs(run_id, inputs)


def plain(point: Metric) -> list[Any]:
    """A point as a record holds it: the arguments of `Metric`."""
    return [point.key, point.value, point.timestamp, point.step]


def mark(client: MlflowClient, run_id: str, status: str, reason: str) -> None:
    """Ends a run with a status of MLflow and, if there is one, a reason."""
    if reason:
        client.set_tag(run_id, schema.REASON, reason[:VALUE_LENGTH])
    client.set_terminated(run_id, status)
