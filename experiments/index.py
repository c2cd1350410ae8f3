"""Which runs of a grid are finished, as the tags of one run in the store: key → the id of the run.

A search brings all metrics, parameters and tags of a run along, which through a server takes a minute for ten thousand
runs; reading this one run takes a second. It only saves time: a run that is missing here is asked for by its key before
it is executed (experiments.tracking) and then noted. A SQLite file needs none, since its tables are read
(experiments.stores).
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, RunTag
from mlflow.exceptions import MlflowException

from experiments import schema
from experiments.state import SQLITE

TAGS_AT_ONCE = 100  # MLflow's limit on one log_batch
NOTE = (
    "Which runs of this grid are finished, by their keys, so that `lvt` need not search for them. Nothing was measured."
)


def read(client: MlflowClient, experiment_id: str) -> dict[str, str] | None:
    """Key → id of the run; None where there is no index."""
    index = _index(client, experiment_id)
    if index is None:
        return None
    found = client.get_run(index)
    if found.info.lifecycle_stage != LifecycleStage.ACTIVE:
        return None
    prefix = schema.FINISHED_KEY
    return {tag.removeprefix(prefix): run_id for tag, run_id in found.data.tags.items() if tag.startswith(prefix)}


def make(client: MlflowClient, experiment_id: str, finished: Mapping[str, str]) -> None:
    """Makes the index of a grid of which these runs (key → id) are finished.

    It counts when it is whole: the experiment then names it. Of two that are made at once one is forgotten.
    """
    tags = {schema.KIND: schema.INDEX, schema.NOTE: NOTE}
    index = client.create_run(experiment_id, run_name=schema.INDEX, tags=tags).info.run_id
    noted = [RunTag(schema.FINISHED_KEY + key, run) for key, run in finished.items()]
    for start in range(0, len(noted), TAGS_AT_ONCE):
        client.log_batch(index, tags=noted[start : start + TAGS_AT_ONCE])
    client.set_terminated(index)
    client.set_experiment_tag(experiment_id, schema.INDEX_RUN, index)


def note(client: MlflowClient, experiment_id: str, key: str, run_id: str) -> None:
    """Notes that a run is finished, if there is an index that takes it."""
    if client.tracking_uri.startswith(SQLITE):
        return
    with suppress(MlflowException):
        index = _index(client, experiment_id)
        if index is not None:
            client.set_tag(index, schema.FINISHED_KEY + key, run_id)


def _index(client: MlflowClient, experiment_id: str) -> str | None:
    return client.get_experiment(experiment_id).tags.get(schema.INDEX_RUN)
