"""A report, shown in the dashboard: a summary on the page of its grid, and its files as artifacts of a run."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from experiments import page, schema
from experiments.stores import StoreError

SUMMARY_TITLE = "### What the runs show"
RUN_NAME = "report"


def publish(tracking_uri: str, grid: str, kinds: Collection[str], headline: str, summary: str, report: Path) -> str:
    """Shows a report in the dashboard. The run of an earlier report of the grid is deleted.

    The summary stays until runs are added to the grid (`experiments.tracking.open_store` writes the page anew), so that
    no verdict stands above runs that it does not know.

    Args:
        tracking_uri: of the store.
        grid: name of its experiment.
        kinds: of its runs.
        headline: a few words; they open the grid's description.
        summary: Markdown; stands below it.
        report: folder with the report's files, of which report.html is opened.

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
        for earlier in client.search_runs([experiment.experiment_id], f"tags.{schema.KIND} = '{schema.REPORT}'"):
            client.delete_run(earlier.info.run_id)
        tags = {schema.GRID: grid, schema.KIND: schema.REPORT, schema.NOTE: summary[: page.NOTE_LENGTH]}
        run = client.create_run(experiment.experiment_id, run_name=RUN_NAME, tags=tags)
        client.log_artifacts(run.info.run_id, str(report))
        client.set_terminated(run.info.run_id)
        address = (
            f"#/experiments/{experiment.experiment_id}/runs/{run.info.run_id}/artifacts/report.html?{page.TRAINING}"
        )
        page.describe(
            client,
            experiment.experiment_id,
            experiment.tags.get(schema.DESCRIPTION, ""),
            kinds,
            first=f"[report]({address}) · {headline}",
            rest=f"{SUMMARY_TITLE}\n\n{summary}",
        )
    except (MlflowException, OSError) as error:
        raise StoreError(f"{tracking_uri}: {error}") from error
    return str(run.info.run_id)
