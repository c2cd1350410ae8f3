"""A report, shown in the dashboard: a summary on the page of its grid, and its files as artifacts of a run."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from experiments import schema
from experiments.stores import StoreError

NOTE_LENGTH = 5000  # of a tag
HEADLINE_BEGINS = "**Verdicts:** "  # the page shows the first line of a description, the rest when it is unfolded
SUMMARY_BEGINS = "### What the runs show"
RUN_NAME = "report"


def publish(tracking_uri: str, grid: str, headline: str, summary: str, report: Path) -> str:
    """Shows a report in the dashboard. The run of an earlier report of the grid is deleted.

    The summary stays until runs are added to the grid (`experiments.tracking.open_store` states the description anew),
    so that no verdict stands above runs that it does not know.

    Args:
        tracking_uri: of the store.
        grid: name of its experiment.
        headline: one line; stands above the grid's own description.
        summary: Markdown; stands below it.
        report: folder with the report's files.

    Returns:
        Identifier of the run.

    Raises:
        StoreError: no such grid, or the store cannot be written.
    """
    try:
        client = MlflowClient(tracking_uri)
        experiment = client.get_experiment_by_name(grid)
        if experiment is None:
            raise StoreError(f"{tracking_uri}: no grid {grid!r}")
        described = experiment.tags.get(schema.NOTE, "").partition(SUMMARY_BEGINS)[0].rstrip()
        if described.startswith(HEADLINE_BEGINS):
            described = described.partition("\n\n")[2]
        note = f"{HEADLINE_BEGINS}{headline}\n\n{described}\n\n{SUMMARY_BEGINS}\n\n{summary}"
        client.set_experiment_tag(experiment.experiment_id, schema.NOTE, note[:NOTE_LENGTH])
        for earlier in client.search_runs([experiment.experiment_id], f"tags.{schema.KIND} = '{schema.REPORT}'"):
            client.delete_run(earlier.info.run_id)
        tags = {schema.GRID: grid, schema.KIND: schema.REPORT, schema.NOTE: summary[:NOTE_LENGTH]}
        run = client.create_run(experiment.experiment_id, run_name=RUN_NAME, tags=tags)
        client.log_artifacts(run.info.run_id, str(report))
        client.set_terminated(run.info.run_id)
    except (MlflowException, OSError) as error:
        raise StoreError(f"{tracking_uri}: {error}") from error
    return str(run.info.run_id)
