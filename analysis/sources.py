"""Where the table of runs comes from: a store, a file, or a folder of exported tables.

Exported tables hold what was measured in files that need no store, no GPU and no torch: a table a grid and a manifest
for each piece of hardware::

    analysis/results/<hardware>/<grid>.parquet
    analysis/results/<hardware>/manifest.json

The manifest says of each table where it comes from: the commits and versions of its runs, the device, the first and
last day, the commands that ran it, the time in which any of its runs ran, and the checksum of the file, so that a table
that was changed by hand is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.runs import (
    StoreReadError,
    each,
    groups,
    in_order,
    known_grids,
    load,
    read,
    superseded,
    to_parquet,
    trials_that_count,
)
from experiments import schema

MANIFEST = "manifest.json"
GRIDS = Path(__file__).parents[1] / "experiments" / "grids"
# Logged at every few steps, and not asked for by any table, figure or claim: the store keeps them.
LEFT_IN_THE_STORE = (schema.TRAIN_LOSS, schema.TRAIN_LEARNING_RATE, schema.TRAIN_GRADIENT_NORM)
UNKNOWN = "unknown hardware"
TABLES = (".parquet", ".csv")  # files that analysis.runs.write writes


def fetch(source: str | Path, grids: Sequence[str] = ()) -> pd.DataFrame:
    """The runs of `grids`, or all.

    Args:
        source: a folder that `export` wrote, a table that analysis.runs.write wrote (.parquet, .csv) or, if it is
            neither and no `Path`, the address of an MLflow store.
        grids: names under which the runs of grids are kept.

    Raises:
        StoreReadError: as `analysis.runs.load` and `read_results`; a table holds no run of one of the grids.
    """
    if is_store(source):
        return load(str(source), list(grids) or known_grids(str(source)))
    table = read(source) if Path(source).suffix in TABLES else read_results(source)
    missing = set(grids) - set(table["grid"])
    if missing:
        there = ", ".join(sorted(table["grid"].unique()))
        raise StoreReadError(f"{source} holds no runs of {', '.join(sorted(missing))}; it holds {there}")
    return table[table["grid"].isin(grids)].reset_index(drop=True) if grids else table


def is_store(source: str | Path) -> bool:
    """Whether it is the address of a store, not a table or a folder of tables."""
    return not (isinstance(source, Path) or Path(source).suffix in TABLES or Path(source).is_dir())


def export(runs: pd.DataFrame, folder: str | os.PathLike[str]) -> list[Path]:
    """Writes a table of each grid on each piece of hardware into `folder`, and what the manifests say of them.

    Runs that did not finish have no part in it, but for trials of tuning that failed, which count among the trials; nor
    have runs and trials that a newer one stands in for (`superseded`, `trials_that_count`), and the histories
    `LEFT_IN_THE_STORE`. What was exported before stays, so that a grid may be run in pieces, on machines with stores of
    their own.

    Args:
        runs: what analysis.runs.load returned.
        folder: made if need be.

    Returns:
        The tables that were written.

    Raises:
        StoreReadError: a table that was exported before is not the one that its manifest describes.
    """
    failed_trial = (runs["phase"] == schema.TUNING) & (runs["status"] == schema.FAILED)
    over = (runs["status"] == schema.FINISHED) | failed_trial
    kept = _counting(runs[over & ~runs["metric"].isin(LEFT_IN_THE_STORE)])
    written = []
    for (hardware, grid), found in groups(kept, "hardware", "grid"):
        place = Path(folder) / slug(str(hardware))
        place.mkdir(parents=True, exist_ok=True)
        file = place / f"{grid}.parquet"
        before = _exported(file)
        table = found if before is None else _joined(before, found)
        to_parquet(table, file)
        manifest = read_manifest(place) | {str(grid): _entry(table, file, str(grid))}
        text = json.dumps(dict(sorted(manifest.items())), indent=2, ensure_ascii=False)
        (place / MANIFEST).write_text(text + "\n", encoding="utf-8")
        written.append(file)
    return written


def commands(runs: pd.DataFrame, grid: str) -> list[str]:
    """What asked for the runs of a grid; of runs that do not know it, what the grid's name stands for.

    ``capacity-full`` → ``lvt run capacity --profile full``.
    """
    stem, _, profile = grid.rpartition("-")
    named = f"lvt run {stem} --profile {profile}" if (GRIDS / f"{stem}.yaml").exists() else f"lvt run {grid}"
    return sorted(set(runs.loc[runs["grid"] == grid, "command"]) - {""}) or [named]


def slug(hardware: str) -> str:
    """A name for a folder: ``"Intel(R) Xeon(R) Processor (2 cores)"`` → ``"intel-xeon-processor-2-cores"``."""
    plain = re.sub(r"\((?:R|TM)\)", "", hardware or UNKNOWN)
    return re.sub(r"[^a-z0-9]+", "-", plain.lower()).strip("-")


def read_manifest(place: Path) -> dict[str, dict[str, Any]]:
    """Grid → where its table comes from; empty where nothing was exported yet."""
    path = place / MANIFEST
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise StoreReadError(f"{path}: {error}") from None


def described(folder: str | os.PathLike[str]) -> dict[Path, dict[str, Any]]:
    """Table → what its manifest says of it, for all exported tables of a folder."""
    return {
        manifest.parent / f"{grid}.parquet": entry
        for manifest in sorted(Path(folder).glob(f"*/{MANIFEST}"))
        for grid, entry in read_manifest(manifest.parent).items()
    }


def read_results(folder: str | os.PathLike[str]) -> pd.DataFrame:
    """All tables of a folder in one, as analysis.runs.load returns it.

    Raises:
        StoreReadError: there is none, or one is missing or not the one that its manifest describes.
    """
    tables = []
    for file, entry in described(folder).items():
        if not file.exists():
            raise StoreReadError(f"{file} is missing, though {MANIFEST} describes it")
        tables.append(_read_described(file, entry))
    if not tables:
        raise StoreReadError(f"{folder} holds no exported tables; `lvt export` writes them")
    return in_order(pd.concat(tables))


def _read_described(file: Path, entry: dict[str, Any]) -> pd.DataFrame:
    if entry.get("sha256") != _sha256(file):
        raise StoreReadError(f"{file} is not the table that {MANIFEST} describes: its checksum is another")
    return read(file)


def _exported(file: Path) -> pd.DataFrame | None:
    """The table that was exported there before; None where there is none, or it was removed."""
    entry = read_manifest(file.parent).get(file.stem)
    return None if entry is None or not file.exists() else _read_described(file, entry)


def _joined(before: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """The runs of both tables that count, those in both as they are `found`."""
    return _counting(in_order(pd.concat([before[~before["run_id"].isin(found["run_id"])], found])))


def _counting(table: pd.DataFrame) -> pd.DataFrame:
    """Without runs and trials that newer ones stand in for."""
    old = table["run_id"].isin(superseded(table)["run_id"])
    trial = table["phase"] == schema.TUNING
    counts = ~trial | table["run_id"].isin(trials_that_count(table)["run_id"])
    return table[~old & counts].reset_index(drop=True)


def _entry(table: pd.DataFrame, file: Path, grid: str) -> dict[str, Any]:
    runs = each(table)
    changed = runs["git_dirty"] == "true"
    commits = runs["git_commit"].where(~changed, runs["git_commit"] + " with changes")
    return {
        "commands": commands(table, grid),
        "runs": len(runs),
        "values": len(table),
        "hardware": str(runs["hardware"].iloc[0]),
        "device": sorted(set(runs["device"])),
        "commits": sorted(set(commits)),
        "versions": sorted(set(runs["versions"])),
        "first": f"{runs['start_time'].min():%Y-%m-%d}",
        "last": f"{runs['start_time'].max():%Y-%m-%d}",
        "wall_seconds": _wall_seconds(table[table["metric"] == schema.RUN_SECONDS]),
        "sha256": _sha256(file),
    }


def _wall_seconds(spent: pd.DataFrame) -> int | None:
    """In which at least one run ran, of rows that say how long each did; None where there is none."""
    if spent.empty:
        return None
    spent = spent.sort_values("start_time")
    ends = spent["start_time"] + pd.to_timedelta(spent["value"], unit="s")
    gaps = (spent["start_time"] - ends.cummax().shift()).dt.total_seconds().clip(lower=0)
    return round((ends.max() - spent["start_time"].min()).total_seconds() - gaps.sum())


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
