"""A report in the dashboard: on the grid's page, as a run, and out of the way of everything that reads runs."""

from pathlib import Path

import pytest
import tracked_runs as truth
from mlflow.tracking import MlflowClient

from analysis import claims, runs
from experiments import schema as s
from experiments.publishing import HEADLINE_BEGINS, SUMMARY_BEGINS, publish
from experiments.stores import StoreError


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return truth.build(tmp_path_factory.mktemp("published"))


def test_a_report_is_published_and_replaced(store: str, tmp_path: Path) -> None:
    client = MlflowClient(store)
    known = client.get_experiment_by_name(truth.GRID)
    assert known is not None
    client.set_experiment_tag(known.experiment_id, s.NOTE, "What it compares.")
    before = runs.load(store, [truth.GRID])
    entries = claims.ledger(before)
    headline, summary = claims.headline(entries), claims.summary(claims.folklore(before, entries))
    counted = [sum(entry.verdict == verdict for entry in entries) for verdict in ("undecided", "not measured")]
    assert f"{counted[0]} undecided, {counted[1]} not measured" in headline
    (tmp_path / "figures").mkdir()
    (tmp_path / "report.html").write_text("<h1>r</h1>")
    (tmp_path / "figures" / "a.csv").write_text("a")
    first = publish(store, truth.GRID, headline, summary, tmp_path)
    second = publish(store, truth.GRID, headline, summary, tmp_path)
    note = client.get_experiment(known.experiment_id).tags[s.NOTE]
    first_line, described, rest = note.split("\n\n", 2)
    assert (first_line, described) == (f"{HEADLINE_BEGINS}{headline}", "What it compares.")
    assert rest.startswith(f"{SUMMARY_BEGINS}\n\n| | verdicts | measured |")
    assert note.count(SUMMARY_BEGINS) == 1
    assert "1.1 **undecided**" in note
    found = client.search_runs([known.experiment_id], f"tags.{s.KIND} = '{s.REPORT}'")
    assert [run.info.run_id for run in found] == [second] != [first]
    assert found[0].info.run_name == "report"
    assert {file.path for file in client.list_artifacts(second)} == {"report.html", "figures"}
    assert runs.load(store, [truth.GRID]).equals(before)  # nothing that is measured has changed


def test_a_grid_that_is_not_there(store: str, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no grid 'nowhere'"):
        publish(store, "nowhere", "", "", tmp_path)
