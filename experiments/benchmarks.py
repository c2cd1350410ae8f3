"""The benchmarks of tests/benchmarks/ as tracked runs: a JSON file of pytest-benchmark → a run for each model."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from experiments import schema
from experiments.state import RunState
from experiments.stores import Store
from experiments.tracking import AlreadyOver, TrackedRun

GRID = "benchmarks"  # under which they are kept
NOTED = (  # in `extra_info`
    *("model", "phase", "length", "batch_size", "parameters", "flops", "dtype", "threads"),
    "hardware",  # as of every run; pytest-benchmark counts the cores otherwise
)


class BenchmarkError(Exception):
    """A file that is not one of this suite's benchmarks; the message says what is missing."""


def read(path: Path) -> dict[str, list[dict[str, Any]]]:
    """The benchmarks in a file, by model.

    Raises:
        BenchmarkError: the file cannot be read or is none of pytest-benchmark, or a benchmark of a model in it lacks
            what the suite's own note, or it has none.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        date = content["datetime"]
        _milliseconds(date)  # a date that is none is refused here
        benchmarks = [(one, dict(one["extra_info"]), one["name"]) for one in content["benchmarks"]]
    except OSError as error:
        raise BenchmarkError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError):
        raise BenchmarkError(f"{path}: not a JSON file of pytest-benchmark (make bench writes one)") from None
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for benchmark, noted, name in benchmarks:
        if not noted.keys() & set(NOTED):
            continue  # about something else: how long it takes to draw a batch
        missing = [one for one in NOTED if one not in noted]
        if missing or noted["phase"] not in schema.PHASES:
            raise BenchmarkError(f"{path}: {name} does not note {', '.join(missing) or 'a known phase'}")
        found[noted["model"]].append({"datetime": date, **noted, **benchmark})
    if not found:
        raise BenchmarkError(f"{path}: no benchmark in it is about a model (make bench writes some)")
    return dict(found)


def _milliseconds(date: str) -> int:
    """Since 1970, of a date as pytest-benchmark writes it: of UTC, which it may leave unsaid."""
    read = datetime.fromisoformat(date)
    return int((read if read.tzinfo is not None else read.replace(tzinfo=UTC)).timestamp() * 1000)


def track(found: dict[str, list[dict[str, Any]]], store: Store) -> list[str]:
    """Tracks a run for each model, its times as ``efficiency/`` curves by length.

    A run starts when its file was written, not when that is imported: of several the newest counts (analysis.runs).

    Returns:
        The models whose benchmarks the store did not have yet.
    """
    new = []
    for model, benchmarks in found.items():
        first = benchmarks[0]
        key = hashlib.sha256(json.dumps([model, first["hardware"], first["datetime"]]).encode()).hexdigest()[:12]
        tags = {
            schema.GRID: GRID,
            schema.KIND: schema.EFFICIENCY,
            schema.TASK: f"length_sweep(batch_size={first['batch_size']})",
            schema.MODEL: model,
            schema.SEED: "0",
            schema.DEVICE: "cpu",
            schema.HARDWARE: first["hardware"],
        }
        if model in schema.MODEL_COLORS:
            tags[schema.RUN_COLOR] = schema.MODEL_COLORS[model]
        state = RunState.claim(store.states / key)
        if state is None:
            continue  # another process imports the same file
        settings = {"dtype": first["dtype"], "date": first["datetime"]}
        try:
            tracked = TrackedRun(
                store, state, key, f"{model} · benchmarks", tags, settings, started=_milliseconds(first["datetime"])
            )
        except AlreadyOver:
            state.discard()
            continue
        tracked.point(schema.PARAMETERS, first["parameters"])
        for benchmark in benchmarks:
            name, length, stats = schema.PHASES[benchmark["phase"]], benchmark["length"], benchmark["stats"]
            tracked.point(name, stats["median"], length)
            tracked.point(schema.spread(name, schema.LOWER_QUARTILE), stats["q1"], length)
            tracked.point(schema.spread(name, schema.UPPER_QUARTILE), stats["q3"], length)
            if benchmark["phase"] in schema.PHASE_FLOPS:
                tracked.point(schema.PHASE_FLOPS[benchmark["phase"]], benchmark["flops"], length)
            if benchmark["phase"] == "train_step":
                tracked.point(schema.BATCH_SIZE, benchmark["batch_size"], length)
                tracked.point(schema.THREADS, benchmark["threads"], length)
        if tracked.finish(schema.FINISHED):
            state.discard()
        else:
            state.release()  # sent when the store is back (tracking.send_left)
        new.append(model)
    return new
