"""A grid's page in the dashboard: its views, and a report on it, out of the way of everything that reads runs."""

import base64
import json
import zlib
from pathlib import Path

import example_runs
import pytest
import tracked_runs as truth
from mlflow.tracking import MlflowClient

from analysis import claims, runs
from experiments import page
from experiments import schema as s
from experiments.publishing import SUMMARY_TITLE, publish
from experiments.stores import StoreError, open_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return truth.build(tmp_path_factory.mktemp("published"))


def test_a_report_is_published_and_replaced(store: str, tmp_path: Path) -> None:
    client = MlflowClient(store)
    known = client.get_experiment_by_name(truth.GRID)
    assert known is not None
    kinds = {s.LEARN, s.EFFICIENCY}
    page.describe(client, known.experiment_id, "What it compares.", kinds, first="no verdicts yet")
    before = runs.load(store, [truth.GRID])
    answers = claims.folklore(before, claims.ledger(before))
    headline, summary = claims.headline(answers), claims.summary(answers)
    (tmp_path / "figures").mkdir()
    (tmp_path / "report.html").write_text("<h1>r</h1>")
    (tmp_path / "figures" / "a.csv").write_text("a")
    first = publish(store, truth.GRID, kinds, headline, summary, tmp_path)
    second = publish(store, truth.GRID, kinds, headline, summary, tmp_path)
    note = client.get_experiment(known.experiment_id).tags[s.NOTE]
    first_line, described, rest = note.split("\n\n", 2)
    assert first_line.startswith("[accuracy by model](#/experiments/")
    assert first_line.endswith(f" · {headline}")
    assert f"/runs/{second}/artifacts/report.html" in first_line
    assert "no verdicts yet" not in note
    assert described == "What it compares."
    assert rest == f"{SUMMARY_TITLE}\n\n{summary}"
    assert "1.1 **undecided**" in summary
    found = client.search_runs([known.experiment_id], f"tags.{s.KIND} = '{s.REPORT}'")
    assert [run.info.run_id for run in found] == [second] != [first]
    assert found[0].info.run_name == "report"
    assert {file.path for file in client.list_artifacts(second)} == {"report.html", "figures"}
    assert runs.load(store, [truth.GRID]).equals(before)  # nothing that is measured has changed


def test_the_headline_names_what_is_decided() -> None:
    entries = claims.ledger(example_runs.store(evaluations=3))
    line = claims.headline(claims.folklore(example_runs.store(evaluations=3), entries))
    verdicts = {entry.claim.id: str(entry.verdict) for entry in entries}
    assert verdicts["2.1"] == "supported"
    assert "dependencies: 2.1 supported, 2.2 supported" in line
    count = sum(verdict == "not measured" for verdict in verdicts.values())
    assert line.endswith(f"{count} not measured")


def test_views_are_saved_for_the_kinds_of_runs_that_there_are(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    opened = open_store(uri, "g", "What it compares.", [s.EFFICIENCY])
    tags = MlflowClient(uri).get_experiment(opened.experiment_id).tags
    (name,) = [name for name in tags if name.startswith(page.PREFIX)]
    assert page.first_views(uri) == {"g": page.address(opened.experiment_id, page.VIEWS[2])}
    assert tags[s.NOTE].startswith(f"[throughput against length](#{page.first_views(uri)['g']}) · ")
    assert tags[s.NOTE].endswith("\n\nWhat it compares.")
    saved = json.loads(tags[name])
    scheme, _, packed = saved["state"].partition(";")
    state = json.loads(zlib.decompress(base64.b64decode(packed)))
    assert (saved["name"], scheme) == ("throughput against length", "deflate")
    assert state["searchFilter"] == "tags.kind = 'efficiency'"
    sections = {section["uuid"] for section in state["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in state["compareRunCharts"]} < sections
    charts = {chart["metricKey"]: chart for chart in state["compareRunCharts"]}
    assert set(charts) >= {s.EFFICIENCY_TRAIN_TOKENS_PER_SECOND, s.PEAK_MEMORY}
    assert charts[s.PEAK_MEMORY]["scaleType"] == charts[s.PEAK_MEMORY]["xAxisScaleType"] == "log"


def test_a_grid_that_is_not_there(store: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no grid 'nowhere'"):
        publish(store, "nowhere", [], "", "", tmp_path)
