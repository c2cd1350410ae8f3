"""A grid's page in the dashboard: its description, and chart views saved in advance.

MLflow's page lists an experiment's saved views, and opens the one that its address names (``?viewStateShareKey=KEY``).
It reads them from tags whose form is documented nowhere: `_tag` writes what the page of MLflow 3.17 writes itself when
a user saves a view. A page that does not understand it shows its own charts; nothing else depends on it.
"""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from mlflow import MlflowClient

from experiments import schema

NOTE_LENGTH = 5000  # of a tag
PREFIX = "mlflow.sharedViewState."  # of a tag, followed by the key of the view
SCORES = (
    *(schema.TOKEN_ACCURACY, schema.SEQUENCE_ACCURACY, schema.WER, schema.PER, schema.CER),
    *(schema.BLEU, schema.CHRF),
)
TRAINING = "workflowType=machine_learning"  # in an address: MLflow's pages for training, not those for agents
STEP = "step"  # what the axis of a metric is counted on (`schema.axis_of`)
# MLflow's own sections, one for each first part of a metric's name, stand below those of the view: folded.
FOLDED = (
    *("data", schema.EFFICIENCY, schema.LONGER, "model", schema.PROFILE, "run", schema.SELECTED, "solved", "stopped"),
    *(schema.TEST, "train", schema.VALIDATION),
)


@dataclass(frozen=True)
class Charts:
    """A section: a chart for each metric, which the page leaves out where no run has it.

    Attributes:
        title: of the section.
        metrics: their full names.
        against: of curves, `STEP` or the metric along which they are drawn; "" for bars, one a run.
        logarithmic: both axes of curves.
    """

    title: str
    metrics: tuple[str, ...]
    against: str = ""
    logarithmic: bool = False


@dataclass(frozen=True)
class View:
    """Sections of charts of the runs of one kind; `columns` are shown where the page is switched to a table."""

    key: str
    title: str
    kind: str
    sections: tuple[Charts, ...]
    columns: tuple[str, ...]  # full names of metrics


# Along the axes that most tasks have: how far, how long, how many.
_ALONG = tuple(
    schema.metric(split, name, axis)
    for name in (schema.TOKEN_ACCURACY, schema.SEQUENCE_ACCURACY, schema.WER)
    for axis in ("distance", "length", "pairs", "items")
    for split in (schema.TEST, schema.LONGER)
)
_VALIDATION = tuple(schema.metric(schema.VALIDATION, name) for name in (*SCORES, schema.LOSS))
_TESTS = tuple(schema.metric(split, name) for name in SCORES for split in (schema.TEST, schema.LONGER))
_FINAL_AND_BEST = tuple(
    schema.metric(part, name)
    for name in (schema.TOKEN_ACCURACY, schema.SEQUENCE_ACCURACY)
    for part in (schema.VALIDATION, schema.SELECTED)
)
_THROUGHPUT = (schema.EFFICIENCY_TRAIN_TOKENS_PER_SECOND, schema.GENERATE_TOKENS_PER_SECOND)
_COSTS = (
    *_THROUGHPUT,
    *(schema.TRAIN_STEP_SECONDS, schema.ENCODE_SECONDS, schema.DECODE_SECONDS_PER_TOKEN),
    *(schema.PEAK_MEMORY, schema.STATE_BYTES),
)
VIEWS = (
    View(
        "accuracy",
        "accuracy by model",
        schema.LEARN,
        (
            Charts("Every run: test in range, longer out of it", _TESTS),
            Charts("By distance, length or number (the step)", _ALONG, STEP),
        ),
        _TESTS[:4],
    ),
    View(
        "learning",
        "learning curves",
        schema.LEARN,
        (
            Charts("Validation by training step", _VALIDATION, STEP),
            Charts("Validation by seconds of training", _VALIDATION, schema.TRAIN_SECONDS),
        ),
        _FINAL_AND_BEST,
    ),
    View(
        "length",
        "throughput against length",
        schema.EFFICIENCY,
        (Charts("Tokens per second, time and memory by length (the step)", _COSTS, STEP, logarithmic=True),),
        _THROUGHPUT,
    ),
)


def describe(
    client: MlflowClient, experiment_id: str, description: str, kinds: Collection[str], *, first: str, rest: str = ""
) -> None:
    """Writes the page of an experiment and saves its views.

    Args:
        client: of the store.
        experiment_id: of the grid.
        description: what the grid compares.
        kinds: of the runs that it has, or will have.
        first: what stands in the first line, to which the page folds a description, after the links to the views.
        rest: Markdown that follows the description.
    """
    chosen = [view for view in VIEWS if view.kind in kinds]
    for place, view in enumerate(chosen):
        client.set_experiment_tag(experiment_id, PREFIX + view.key, _tag(view, len(chosen) - place))
    links = [f"[{view.title}](#{address(experiment_id, view)})" for view in chosen]
    note = "\n\n".join(filter(None, (" · ".join((*links, first)), description, rest)))
    client.set_experiment_tag(experiment_id, schema.DESCRIPTION, description)
    client.set_experiment_tag(experiment_id, schema.NOTE, note[:NOTE_LENGTH])


def first_views(tracking_uri: str) -> dict[str, str]:
    """The grids of a store that have views → the address of the first of these within the dashboard."""
    found = {}
    for experiment in MlflowClient(tracking_uri).search_experiments(order_by=["name"]):
        saved = [view for view in VIEWS if PREFIX + view.key in experiment.tags]
        if saved:
            found[experiment.name] = address(experiment.experiment_id, saved[0])
    return found


def address(experiment_id: str, view: View) -> str:
    """Of a view within the dashboard: what follows the ``#``."""
    query = f"viewStateShareKey={view.key}&compareRunsMode=CHART&{TRAINING}"
    return f"/experiments/{experiment_id}/runs?{query}"


def _tag(view: View, age: int) -> str:
    """A view as MLflow's page saves it: its name and, as JSON compressed by zlib in base64, its state."""
    charts = [
        _chart(metric, section) | {"uuid": f"{section.title}-{metric}", "metricSectionId": section.title}
        for section in view.sections
        for metric in section.metrics
    ]
    shown = [(section.title, True) for section in view.sections] + [(name, False) for name in FOLDED]
    sections = [{"uuid": name, "name": name, "display": display, "isReordered": True} for name, display in shown]
    columns = [f"tags.`{name}`" for name in (schema.TASK, schema.MODEL, schema.SEED)]
    state = {
        "searchFilter": f"tags.{schema.KIND} = '{view.kind}'",
        "orderByKey": "tags.`mlflow.runName`",  # so that the runs of a model stand side by side
        "orderByAsc": True,
        "runsHiddenMode": "SHOW_ALL",
        "selectedColumns": columns + [f"metrics.`{name}`" for name in view.columns],
        "compareRunCharts": charts,
        "compareRunSections": sections,
        "isAccordionReordered": True,
    }
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    return json.dumps({"name": view.title, "createdAt": age, "state": f"deflate;{packed}"})


def _chart(metric: str, section: Charts) -> dict[str, Any]:
    chart: dict[str, Any] = {"metricKey": metric, "deleted": False, "isGenerated": False, "runsCountToCompare": 100}
    if not section.against:
        return chart | {"type": "BAR"}
    scale = "log" if section.logarithmic else "linear"
    chart |= {"type": "LINE", "scaleType": scale, "xAxisScaleType": scale, "range": {}, "lineSmoothness": 0}
    chart |= {"useGlobalXaxisKey": False, "useGlobalLineSmoothing": True, "yAxisKey": "metric", "yAxisExpressions": []}
    if section.against == STEP:
        return chart | {"xAxisKey": "step"}
    return chart | {"xAxisKey": "metric", "selectedXAxisMetricKey": section.against}
