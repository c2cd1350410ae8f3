import json
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from example_runs import store
from test_analysis_runs import WITHOUT_TORCH

from analysis import report
from analysis.runs import StoreReadError, write
from analysis.sources import commands, export, fetch, read_manifest, slug
from experiments import schema as s

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    """Two grids, on two pieces of hardware, one run of which failed."""
    table = store(seeds=2, copies=2, evaluations=2)
    second = table["grid"] == "grid1"
    table.loc[second, "hardware"] = "NVIDIA H200 (1 GPU)"
    table.loc[table["run_id"] == table["run_id"].iloc[0], "status"] = s.FAILED
    return table


@pytest.fixture(scope="module")
def results(runs: pd.DataFrame, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    export(runs, folder)
    return folder


def ordered(runs: pd.DataFrame) -> pd.DataFrame:
    return runs.sort_values(["run_id", "metric", "at"], ignore_index=True)


def test_what_was_exported_is_read_back(runs: pd.DataFrame, results: Path) -> None:
    finished = runs[runs["status"] == s.FINISHED]
    assert len(finished) < len(runs)
    pd.testing.assert_frame_equal(ordered(fetch(results)), ordered(finished))
    pd.testing.assert_frame_equal(ordered(fetch(str(results), ["grid1"])), ordered(finished.query("grid == 'grid1'")))


def test_the_report_of_an_export_is_that_of_the_store(runs: pd.DataFrame, tmp_path: Path) -> None:
    """Byte by byte, though the export leaves histories out that no figure needs."""
    table = runs[(runs["grid"] == "grid") & (runs["status"] == s.FINISHED)]
    steps = table[table["metric"] == s.TRAIN_SECONDS]
    whole = pd.concat([table, steps.assign(metric=s.TRAIN_LOSS), steps.assign(metric=s.TRAIN_GRADIENT_NORM)])
    whole = whole.sort_values(["kind", "task", "model", "seed", "run_id", "metric", "at"], ignore_index=True)
    export(whole, tmp_path / "results")
    exported = fetch(tmp_path / "results")
    assert len(exported) == len(table)
    for name, source in (("store", whole), ("export", exported)):
        report.write(source, tmp_path / name, title="t", command="c")
    files = sorted(file.relative_to(tmp_path / "store") for file in (tmp_path / "store").rglob("*.*"))
    assert len(files) > 30
    for file in files:
        if file.name != "runs.parquet":  # every value that its source has
            assert (tmp_path / "store" / file).read_bytes() == (tmp_path / "export" / file).read_bytes(), file


def test_a_manifest_says_where_a_table_comes_from(runs: pd.DataFrame, results: Path, tmp_path: Path) -> None:
    places = sorted(path.name for path in results.iterdir())
    assert places == sorted({slug(hardware) for hardware in runs["hardware"]})
    manifest = json.loads((results / "nvidia-h200-1-gpu" / "manifest.json").read_text(encoding="utf-8"))
    assert list(manifest) == ["grid1"]
    entry, table = manifest["grid1"], runs.query("grid == 'grid1'")
    assert entry["commands"] == ["lvt run grid1"]
    assert entry["hardware"] == "NVIDIA H200 (1 GPU)"
    assert (entry["runs"], entry["values"]) == (table["run_id"].nunique(), len(table))
    changed = table["seed"] == 1
    commits = table.assign(
        git_commit=["b" if one else "a" for one in changed], git_dirty=changed.map({True: "true", False: "false"})
    )
    twice = pd.concat([commits, commits.assign(run_id=commits["run_id"] + "x", seed=7, git_commit="c", git_dirty="")])
    (file,) = export(twice, tmp_path / "commits")
    assert read_manifest(file.parent)["grid1"]["commits"] == ["a", "b with changes", "c"]
    assert entry["first"] == f"{table['start_time'].min():%Y-%m-%d}"
    assert entry["wall_seconds"] is None  # no run says how long it took
    began = table["start_time"].min()
    timed = [  # a minute alone, a minute in which nothing ran, and two that overlap by 20 seconds
        table.assign(metric=s.RUN_SECONDS, value=seconds, start_time=began + pd.Timedelta(seconds=after)).assign(
            run_id=str(after), seed=after
        )
        for after, seconds in ((130, 40.0), (0, 60.0), (120, 30.0))
    ]
    (file,) = export(pd.concat(timed), tmp_path)
    assert read_manifest(file.parent)["grid1"]["wall_seconds"] == 60 + 50


def test_what_asked_for_the_runs_of_a_grid(runs: pd.DataFrame) -> None:
    assert commands(runs, "grid1") == ["lvt run grid1"]
    assert commands(runs, "capacity-full") == ["lvt run capacity --profile full"]
    asked = runs[runs["grid"] == "grid1"].head(3)
    asked = asked.assign(command=["lvt run b.yaml", "lvt run a.yaml --set seed=1", ""])
    assert commands(asked, "grid1") == ["lvt run a.yaml --set seed=1", "lvt run b.yaml"]


def test_a_grid_may_be_exported_in_pieces(runs: pd.DataFrame, results: Path, tmp_path: Path) -> None:
    """From stores that each hold a part: in the end there is what one store would have given, to the byte."""
    export(runs[runs["seed"] == 0], tmp_path)
    export(runs[(runs["seed"] != 0) | (runs["task"] == "needle")], tmp_path)  # some of it again
    for file in results.rglob("*.*"):
        assert (tmp_path / file.relative_to(results)).read_bytes() == file.read_bytes()
    (table,) = tmp_path.glob("nvidia*/grid1.parquet")
    changed = pd.read_parquet(table)
    changed.assign(value=changed["value"] + 0.01).to_parquet(table, index=False)
    with pytest.raises(StoreReadError, match="its checksum is another"):
        export(runs, tmp_path)
    table.unlink()
    export(runs[runs["seed"] == 0], tmp_path)  # begun anew
    read = fetch(tmp_path)
    assert set(read.loc[read["grid"] == "grid1", "seed"]) == {0}
    assert set(read.loc[read["grid"] == "grid", "seed"]) == set(runs["seed"])


def test_what_an_earlier_export_has_of_older_settings_goes(runs: pd.DataFrame, tmp_path: Path) -> None:
    older = runs[(runs["grid"] == "grid1") & (runs["status"] == s.FINISHED)]
    newer = older[older["seed"] == 0].assign(settings="others")
    newer = newer.assign(run_id=newer["run_id"] + "x", start_time=newer["start_time"] + pd.Timedelta(hours=1))
    export(older, tmp_path)
    export(newer, tmp_path)
    assert set(fetch(tmp_path)["run_id"]) == set(newer["run_id"])


def test_what_a_newer_run_stands_in_for_is_not_exported(runs: pd.DataFrame, tmp_path: Path) -> None:
    older = runs[(runs["grid"] == "grid1") & (runs["status"] == s.FINISHED)]
    assert len(older)
    newer = older.assign(run_id=older["run_id"] + "x", start_time=older["start_time"] + pd.Timedelta(hours=1))
    export(pd.concat([runs, newer]), tmp_path)
    read = fetch(tmp_path)
    assert set(older["run_id"]).isdisjoint(read["run_id"])
    assert set(newer["run_id"]) <= set(read["run_id"])


def test_a_training_repeated_on_another_machine_is_exported_once(runs: pd.DataFrame, tmp_path: Path) -> None:
    older = runs[(runs["kind"] == s.LEARN) & (runs["status"] == s.FINISHED)]
    assert len(older)
    newer = older.assign(run_id=older["run_id"] + "x", start_time=older["start_time"] + pd.Timedelta(hours=1))
    export(pd.concat([older, newer.assign(hardware="Another")]), tmp_path)
    assert set(fetch(tmp_path)["hardware"]) == {"Another"}


def test_a_table_that_is_missing_or_was_changed_is_refused(runs: pd.DataFrame, results: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(results, copy)
    (table,) = copy.glob("nvidia*/grid1.parquet")
    changed = pd.read_parquet(table)
    changed.assign(value=changed["value"] + 0.01).to_parquet(table, index=False)
    with pytest.raises(StoreReadError, match="its checksum is another"):
        fetch(copy)
    table.unlink()
    with pytest.raises(StoreReadError, match=r"grid1.parquet is missing"):
        fetch(copy)
    (table.parent / "manifest.json").write_text("{", encoding="utf-8")
    with pytest.raises(StoreReadError, match=r"manifest\.json"):
        fetch(copy)
    (tmp_path / "empty").mkdir()
    with pytest.raises(StoreReadError, match="holds no exported tables"):
        fetch(tmp_path / "empty")
    with pytest.raises(StoreReadError, match="holds no runs of other; it holds grid, grid1"):
        fetch(results, ["other"])


def test_a_single_table_is_a_source_too(runs: pd.DataFrame, tmp_path: Path) -> None:
    for ending in ("parquet", "csv"):
        pd.testing.assert_frame_equal(fetch(write(runs, tmp_path / f"runs.{ending}")), runs)


def test_the_claims_are_read_from_results_without_torch(results: Path, tmp_path: Path) -> None:
    arguments = ["lvt", "claims", "--json", "--results", str(results)]
    code = f"{WITHOUT_TORCH}\nsys.argv = {arguments!r}\nimport lvt\nlvt.main()"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert {entry["id"] for entry in json.loads(found.stdout)} >= {"1.1", "2.1", "3.1", "4.1"}


def test_names_of_hardware_become_names_of_folders() -> None:
    assert slug("Intel(R) Xeon(R) Processor (2 cores)") == "intel-xeon-processor-2-cores"
    assert slug("") == "unknown-hardware"
