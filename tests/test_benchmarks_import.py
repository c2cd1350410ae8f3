"""Files of pytest-benchmark in the store, and files that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from analysis import runs
from experiments import benchmarks, schema
from experiments.stores import open_store


def benchmark(model: str, phase: str, length: int, median: float) -> dict[str, Any]:
    """An entry as pytest-benchmark writes it, with what the suite notes."""
    return {
        "name": f"test[{model}-{length}]",
        "group": f"{phase}, length {length}",
        "stats": {"median": median, "q1": 0.9 * median, "q3": 1.2 * median, "rounds": 7},
        "extra_info": {
            **{"model": model, "phase": phase, "length": length, "batch_size": 64, "parameters": 300_000},
            **{"flops": 1000 * length, "dtype": "float32", "threads": 1, "hardware": "a processor (1 cores)"},
        },
    }


def written(folder: Path, entries: list[dict[str, Any]], **more: object) -> Path:
    machine = {"cpu": {"brand_raw": "a processor", "count": 2}}
    path = folder / "bench.json"
    content = {"machine_info": machine, "datetime": "2026-01-02T03:04:05", "benchmarks": entries} | more
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_a_model_becomes_a_run_with_curves_by_length(tmp_path: Path) -> None:
    entries = [
        benchmark(model, phase, length, factor * length)
        for model, factor in (("lstm", 2.0), ("transformer", 3.0))
        for phase in ("train_step", "generate")
        for length in (32, 128)
    ]
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    found = benchmarks.read(written(tmp_path, entries))
    assert len(benchmarks.track(found, open_store(uri, benchmarks.GRID, ""))) == 2
    table = runs.load(uri, [benchmarks.GRID])
    assert set(table["status"]) == {"FINISHED"}
    assert set(table["hardware"]) == {"a processor (1 cores)"}
    assert set(table["kind"]) == {schema.EFFICIENCY}
    assert set(table["task"]) == {"length_sweep(batch_size=64)"}
    values = table.set_index(["model", "metric", "at"])["value"]
    for model, factor in (("lstm", 2.0), ("transformer", 3.0)):
        for length in (32, 128):
            assert values[model, schema.TRAIN_STEP_SECONDS, length] == factor * length
            assert values[model, schema.GENERATE_SECONDS, length] == factor * length
            assert values[model, schema.TRAIN_STEP_SECONDS_LOW, length] == pytest.approx(0.9 * factor * length)
            assert values[model, schema.TRAIN_STEP_SECONDS_HIGH, length] == pytest.approx(1.2 * factor * length)
            for phase in ("train_step", "generate"):
                assert values[model, schema.PHASE_FLOPS[phase], length] == 1000 * length
            assert values[model, schema.BATCH_SIZE, length] == 64


def test_a_phase_whose_operations_are_not_recorded_is_taken_too(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    found = benchmarks.read(written(tmp_path, [benchmark("lstm", "generate_naive", 32, 1.0)]))
    assert benchmarks.track(found, open_store(uri, benchmarks.GRID, "")) == ["lstm"]
    assert schema.GENERATE_NAIVE_SECONDS in set(runs.load(uri, [benchmarks.GRID])["metric"])


def test_the_same_file_twice_is_one_result(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    found = benchmarks.read(written(tmp_path, [benchmark("lstm", "encode", 32, 1.0)]))
    assert benchmarks.track(found, open_store(uri, benchmarks.GRID, "")) == ["lstm"]
    assert benchmarks.track(found, open_store(uri, benchmarks.GRID, "")) == []
    assert runs.load(uri, [benchmarks.GRID])["run_id"].nunique() == 1


def test_the_newest_file_counts_whenever_it_is_imported(tmp_path: Path) -> None:
    """Dates of UTC, said or not."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    for date, seconds in (("2026-03-01T00:00:00.5", 2.0), ("2026-02-01T01:00:00+01:00", 1.0)):
        found = benchmarks.read(written(tmp_path, [benchmark("lstm", "encode", 32, seconds)], datetime=date))
        assert benchmarks.track(found, open_store(uri, benchmarks.GRID, "")) == ["lstm"]
    table = runs.load(uri, [benchmarks.GRID])
    starts = sorted(set(table["start_time"]))
    assert [str(start) for start in starts] == ["2026-02-01 00:00:00+00:00", "2026-03-01 00:00:00.500000+00:00"]
    kept = runs.results(table)
    assert kept.loc[kept["metric"] == schema.ENCODE_SECONDS, "value"].tolist() == [2.0]


def test_what_is_not_about_a_model_is_left_out(tmp_path: Path) -> None:
    """`make bench` times the drawing of batches, too, in the same file."""
    drawing = {"name": "test_drawing[reverse]", "stats": {"median": 1.0}, "extra_info": {"batches": 640, "ratio": 0.01}}
    found = benchmarks.read(written(tmp_path, [drawing, benchmark("lstm", "encode", 32, 1.0)]))
    assert list(found) == ["lstm"]
    with pytest.raises(benchmarks.BenchmarkError, match="no benchmark in it is about a model"):
        benchmarks.read(written(tmp_path, [drawing]))


def test_what_is_no_benchmark_of_this_suite_is_refused(tmp_path: Path) -> None:
    strange = benchmark("lstm", "encode", 32, 1.0)
    del strange["extra_info"]["model"], strange["extra_info"]["flops"]
    for entries, message in (
        ([strange], r"test\[lstm-32\] does not note model, flops"),
        ([benchmark("lstm", "sleep", 32, 1.0)], "does not note a known phase"),
    ):
        with pytest.raises(benchmarks.BenchmarkError, match=message):
            benchmarks.read(written(tmp_path, entries))
    bare = {name: value for name, value in benchmark("lstm", "encode", 32, 1.0).items() if name != "extra_info"}
    for content in ({"benchmarks": None}, {"benchmarks": [bare]}, {"benchmarks": [None]}, {"datetime": "some day"}):
        with pytest.raises(benchmarks.BenchmarkError, match="not a JSON file of pytest-benchmark"):
            benchmarks.read(written(tmp_path, [benchmark("lstm", "encode", 32, 1.0)], **content))
    (tmp_path / "other.json").write_text('["benchmarks"]', encoding="utf-8")
    with pytest.raises(benchmarks.BenchmarkError, match="not a JSON file of pytest-benchmark"):
        benchmarks.read(tmp_path / "other.json")
    with pytest.raises(benchmarks.BenchmarkError, match="No such file"):
        benchmarks.read(tmp_path / "none.json")
