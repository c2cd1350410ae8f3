import json
import math
import os
import re
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tracked_runs as truth
from ledger_runs import run_rows, table
from mlflow.entities import Param, Run, RunData, RunInfo, RunTag
from mlflow.tracking import MlflowClient

from analysis import curves, runs
from analysis.runs import StoreReadError
from experiments import schema as s

ROOT = Path(__file__).parents[1]
ANALYSIS = sorted((ROOT / "analysis").glob("*.py"))

WITHOUT_TORCH = """
import sys

class Finder:
    def find_spec(self, name, path, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch cannot be imported here")

sys.meta_path.insert(0, Finder())
"""


def pick(table: pd.DataFrame, key: str, metric: str) -> pd.DataFrame:
    return table[(table["key"] == key) & (table["metric"] == metric)]


def test_a_row_per_measured_value(known: pd.DataFrame) -> None:
    assert list(known.columns) == list(runs.COLUMNS)
    curve = pick(known, "recall-transformer-1", "test/token_accuracy_by_distance")
    assert curve["axis"].unique().tolist() == ["distance"]
    assert dict(zip(curve["at"], curve["value"], strict=True)) == pytest.approx(
        {1: 0.97 + 0.03 * 63 / 64, 4: 0.97 + 0.03 * 60 / 64, 16: 0.97 + 0.03 * 48 / 64, 64: 0.97}
    )
    learning = pick(known, "g2p-lstm-0", "validation/wer")
    assert learning["axis"].unique().tolist() == ["step"]
    assert learning["at"].tolist() == [100, 200, 300]
    time = pick(known, "sweep-lstm", s.TRAIN_STEP_SECONDS)
    assert time["axis"].unique().tolist() == ["length"]
    assert time["value"].tolist() == pytest.approx([1e-4 * n**0.9 for n in truth.LENGTHS])
    scalar = pick(known, "g2p-lstm-0", "test/wer").iloc[0]
    assert (scalar["axis"], scalar["value"], pd.isna(scalar["at"])) == ("", 0.12, True)


def test_what_a_run_is(known: pd.DataFrame) -> None:
    run = runs.each(known).set_index("key").loc["parity-lstm-1"]
    assert (run["grid"], run["kind"], run["task"], run["model"]) == ("known", "learn", "running_parity", "lstm")
    assert (run["seed"], run["chance"], run["headline"]) == (1, 0.5, "token_accuracy")
    assert run["budget_of"] == "parameters"
    assert runs.each(known).set_index("key").loc["sweep-lstm", "budget_of"] == ""  # no such tag
    assert (run["device"], run["hardware"], run["gates"]) == ("cpu", truth.HARDWARE, "")
    assert run["start_time"].tzinfo is not None
    assert known["seed"].dtype == "Int64"
    g2p = runs.each(known).set_index("key").loc["g2p-lstm-1"]
    assert pd.isna(g2p["chance"])  # unknown stays missing
    assert runs.each(known).set_index("key").loc["sweep-lstm", "task"] == ""


def test_of_a_key_the_newest_finished_run_counts(known: pd.DataFrame) -> None:
    assert runs.each(known)["key"].tolist().count("recall-lstm-0") == 1
    assert pick(known, "recall-lstm-0", "test/token_accuracy")["value"].tolist() == [0.60]  # not 0.111


def test_a_failed_run_without_metrics_stays_visible(known: pd.DataFrame) -> None:
    row = known[known["status"] == "FAILED"]
    assert len(row) == 1
    assert row["reason"].item() == "loss is NaN at step 40"
    assert row["metric"].isna().item()
    assert row["value"].isna().item()
    assert "parity-lstm_attention-0" not in set(runs.results(known)["key"])


def test_a_run_with_older_settings_is_no_further_seed(known: pd.DataFrame) -> None:
    assert runs.superseded(known)["key"].tolist() == ["old-settings-1", "old-settings-9"]
    kept = runs.results(known)
    assert not kept["key"].str.startswith("old-settings").any()
    assert not kept.groupby(["kind", "task", "model", "seed"])["run_id"].nunique().gt(1).any()


def fingerprint(settings: dict[str, str], kind: str = s.LEARN) -> str:
    info = RunInfo("r", "0", "u", "FINISHED", 0, 1, "active")
    tags = [RunTag(s.KIND, kind)]
    return runs._fingerprint(Run(info, RunData(params=[Param(*one) for one in settings.items()], tags=tags)))


def test_in_which_settings_the_seeds_of_a_configuration_agree() -> None:
    plain = {"seed": "0", "task.max_length": "8", "model.dropout": "0.1", "training.steps": "10", "tuned.trial": "1"}
    known = fingerprint(plain)
    assert fingerprint({"seed": "1", **{k: v for k, v in plain.items() if k != "seed"}}) == known
    assert all(fingerprint(plain | {name: "7"}) == known for name in ("seed", "task.max_length", "tuned.trial"))
    assert all(fingerprint(plain | {name: "7"}) != known for name in ("model.dropout", "training.steps", "decoding.x"))
    sweep = {"seed": "0", "model.layers": "1", "efficiency.precision": "auto"}
    assert fingerprint(sweep | {"model.layers": "2"}, s.EFFICIENCY) == fingerprint(sweep, s.EFFICIENCY)
    assert fingerprint(sweep | {"efficiency.precision": "bfloat16"}, s.EFFICIENCY) != fingerprint(sweep, s.EFFICIENCY)


def test_the_models_of_a_sweep_have_the_same_settings() -> None:
    """One that was measured anew, in another way, is not held against those that were not."""

    def one(model: str, settings: str, day: int, kind: str = s.EFFICIENCY, seed: int = 0) -> list[dict[str, Any]]:
        began = pd.Timestamp(day, unit="D", tz="UTC")
        key = f"{kind} {model} {settings} {seed}"
        more = {"settings": settings, "start_time": began, "run_id": key, "key": key}
        return run_rows(kind, "t", model, seed, [("x", None, 1.0)], **more)

    def left(*rows: list[dict[str, Any]]) -> list[str]:
        return runs.each(runs.results(table(*rows)))["key"].tolist()

    before = [one("lstm", "a", 0), one("transformer", "a", 1)]
    assert left(*before, one("transformer", "b", 2)) == ["efficiency transformer b 0"]
    assert len(left(*before, one("transformer", "b", 2), one("lstm", "b", 3))) == 2
    learnt = [one("lstm", "a", day, s.LEARN, seed=day) for day in range(3)]
    assert len(left(*learnt, one("transformer", "b", 5, s.LEARN))) == 4  # its learning rate is its own
    assert left(*learnt, one("lstm", "b", 5, s.LEARN, seed=9)) == ["learn lstm b 9"]
    unknown = [one("lstm", "", day, s.LEARN, seed=day) for day in range(3)]
    assert len(left(*unknown)) == 3


def test_gates(tracked: str) -> None:
    found = runs.each(runs.load(tracked, [truth.OTHER])).set_index("key")["gates"]
    assert found.to_dict() == {"gated": "padding: differs by 0.3", "passed": "pass"}


def test_why_a_sweep_stopped(known: pd.DataFrame) -> None:
    found = runs.each(known).set_index("key")["stops"]
    assert json.loads(found["sweep-transformer"]) == {"generate_naive": truth.STOPPED}
    assert set(found.drop("sweep-transformer")) == {""}


def test_several_grids_and_the_order_of_rows(tracked: str, known: pd.DataFrame) -> None:
    both = runs.load(tracked, [truth.OTHER, truth.GRID, truth.GRID])
    assert set(both["grid"]) == {truth.OTHER, truth.GRID}
    assert len(both[both["grid"] == truth.GRID]) == len(known)
    sorted_by = ["grid", "kind", "task", "model", "seed", "start_time", "run_id", "metric"]
    assert both[sorted_by].fillna("").apply(tuple, axis="columns").is_monotonic_increasing
    assert all(
        places.is_monotonic_increasing for _, places in both.dropna(subset="at").groupby(["run_id", "metric"])["at"]
    )
    assert both["start_time"].nunique() > 20
    shuffled = both.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(runs.tidy(shuffled), both)


def test_pages_are_turned(tracked: str, known: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "PAGE", 3)
    pd.testing.assert_frame_equal(runs.load(tracked, [truth.GRID]), known)


def test_curves_of_a_file_are_those_that_mlflow_returns(
    tracked: str, known: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SQLite store's are read from its table; should MLflow change it, this fails."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.create_experiment("curves")
    run_id, deleted = (client.create_run(experiment).info.run_id for _ in range(2))
    for run, at, value, time in (
        *((run_id, 2, 0.5, 30), (run_id, 1, math.nan, 10), (run_id, 3, 0.1, 20)),
        *((run_id, 3, 0.9, 40), (run_id, 3, 0.2, 30), (deleted, 1, 0.3, 10)),
    ):
        client.log_metric(run, "test/wer_by_length", value, timestamp=time, step=at)
    client.log_metric(run_id, "test/wer", 0.5)
    client.delete_run(deleted)
    found = client.search_runs([experiment])

    def asked(*of_whom: object) -> list[curves.Point]:
        raise AssertionError("MLflow is asked for what stands in the file")

    with monkeypatch.context() as patched:
        patched.setattr(curves, "_one_by_one", asked)
        in_file = curves.read(client, uri, experiment, found).sort_values("at", ignore_index=True)
    assert [run.info.run_id for run in found] == [run_id]
    assert in_file["value"].tolist() == pytest.approx([math.nan, 0.5, 0.9], nan_ok=True)
    assert set(in_file["metric"]) == {"test/wer_by_length"}

    def unreadable(*of_what: object) -> list[curves.Point]:
        raise sqlite3.OperationalError("no such table: metrics")

    monkeypatch.setattr(curves, "_in_file", unreadable)
    asked_for = curves.read(client, uri, experiment, found).sort_values("at", ignore_index=True)
    pd.testing.assert_frame_equal(asked_for, in_file)
    pd.testing.assert_frame_equal(runs.load(tracked, [truth.GRID]), known)


def test_a_grid_that_is_not_there(tracked: str) -> None:
    with pytest.raises(StoreReadError, match=r"no runs of grid 'knwon' .*grids with runs: known, other, strange"):
        runs.load(tracked, ["knwon"])


def test_grids_that_are_there(tracked: str) -> None:
    assert runs.known_grids(tracked) == ["known", "other", "strange"]


def test_a_store_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(StoreReadError, match="run a grid first"):
        runs.load(f"sqlite:///{tmp_path / 'none.db'}", [truth.GRID])
    with pytest.raises(StoreReadError, match="run a grid first"):
        runs.known_grids(f"sqlite:///{tmp_path / 'none.db'}")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_the_suite_did_not_write(tracked: str) -> None:
    with pytest.raises(StoreReadError, match=r"lacks the tag 'kind'"):
        runs.load(tracked, [truth.STRANGE])


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_the_table_travels_as_a_file(known: pd.DataFrame, tmp_path: Path, kind: str) -> None:
    pd.testing.assert_frame_equal(runs.read(runs.write(known, tmp_path / f"runs.{kind}")), known)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_tables_of_before_a_column_was_kept_are_read(known: pd.DataFrame, tmp_path: Path, kind: str) -> None:
    earlier = runs.read(runs.write(known.drop(columns="stops"), tmp_path / f"runs.{kind}"))
    pd.testing.assert_frame_equal(earlier, known.assign(stops=""))


def test_other_files_are_refused(known: pd.DataFrame, tmp_path: Path) -> None:
    with pytest.raises(StoreReadError, match=r"\.parquet or \.csv"):
        runs.write(known, tmp_path / "runs.xlsx")
    with pytest.raises(StoreReadError, match=r"\.parquet or \.csv"):
        runs.read(tmp_path / "runs.xlsx")


def test_families() -> None:
    assert runs.family("transformer(layers=4, heads=2)") == "transformer"
    assert runs.family("lstm_attention") == "lstm_attention"


def test_analysis_is_imported_where_torch_cannot_be() -> None:
    assert len(ANALYSIS) > 8
    modules = "\n".join(f"import analysis.{file.stem}" for file in ANALYSIS if file.stem != "__init__")
    program = f"{WITHOUT_TORCH}\n{modules}\nprint('mlflow' in sys.modules)"
    path = os.pathsep.join([str(ROOT), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "False"  # and mlflow only when a store is read


@pytest.mark.parametrize("file", ANALYSIS, ids=lambda file: file.stem)
def test_analysis_knows_nothing_of_the_project_but_the_schema(file: Path) -> None:
    imports = re.findall(r"^\s*(?:from|import) ((?:torch|models|experiments|lvt)\b.*)$", file.read_text(), re.M)
    assert set(imports) <= {"experiments import schema"}


def test_a_task_is_called_by_its_grid_too_where_several_have_it() -> None:
    places = [("g", "parity"), ("g", "recall"), ("h", "recall"), ("g", ""), ("h", ""), ("g", "parity")]
    assert runs.names(pd.DataFrame(places, columns=["grid", "task"])) == {
        ("g", "parity"): "parity",
        ("g", "recall"): "recall (g)",
        ("h", "recall"): "recall (h)",
        ("g", ""): "g",
        ("h", ""): "h",
    }
