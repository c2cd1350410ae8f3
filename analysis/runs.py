"""The tracked runs as one tidy table: a row per measured value.

The store is read once (`load`); everything after that is a function of the table, which also travels as a file
(`write` and `read`: Parquet or CSV).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pandas as pd

from analysis import curves
from experiments import schema

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

PAGE = 1000  # runs a request
NO_GRID = "Default"  # the experiment that MLflow makes in every store

_DTYPES = {
    "run_id": "str",
    "run_name": "str",
    "grid": "str",
    "key": "str",
    "settings": "str",
    "kind": "str",
    "task": "str",
    "model": "str",
    "seed": "Int64",
    "phase": "str",
    "trial": "Int64",
    "tuned": "str",
    "sampler": "str",
    "device": "str",
    "hardware": "str",
    "git_commit": "str",
    "git_dirty": "str",
    "versions": "str",
    "command": "str",
    "status": "str",
    "reason": "str",
    "headline": "str",
    "budget_of": "str",
    "chance": "float64",
    "memoryless_loss": "float64",
    "measures": "str",
    "language_class": "str",
    "gates": "str",
    "stops": "str",
    "start_time": "datetime64[ms, UTC]",
    "metric": "str",
    "axis": "str",
    "at": "float64",
    "value": "float64",
}
COLUMNS = tuple(_DTYPES)
_IN_EARLIER_TABLES = {"phase": schema.FINAL, "trial": None} | dict.fromkeys(
    ("tuned", "sampler", "command", "settings", "stops"), ""
)
RUN_COLUMNS = COLUMNS[: COLUMNS.index("metric")]  # one value a run
_TIMED = (schema.EFFICIENCY, schema.PROFILE)  # kinds whose models are compared on one machine, with the same settings
LABELS = ("grid", "kind", "task", "model")  # what stands for a configuration in tables and figures


class StoreReadError(Exception):
    """The store or the grid is not there, or a run in it was not written by this suite; the message says what to do."""


def load(tracking_uri: str, grids: Sequence[str]) -> pd.DataFrame:
    """Reads the runs of `grids` from an MLflow store.

    Of several FINISHED runs with the same key the newest is kept; failed ones are all kept, so that they stay visible.

    Returns:
        A row per measured value, sorted by grid, task, model, seed, start, metric and place on the axis. `metric` and
        `value` are missing in the one row of a run that logged nothing. `axis` is "" and `at` missing for a scalar.
        `settings` stands for those in which the seeds of one configuration agree ("" where they are not known).
        `gates` is "pass" if every gate of the run did, else the failed ones with their reasons, "" if none was run.
        `stops` is a JSON object, the phases of an efficiency run that ended early and why ("" if none did).

    Raises:
        StoreReadError: no store at `tracking_uri`, no such grid in it, or a run without the tags of experiments.schema.
    """
    client = _client(tracking_uri)
    known = {experiment.name: experiment.experiment_id for experiment in _experiments(client)}
    tables = []
    for grid in dict.fromkeys(grids):
        if grid not in known:
            names = ", ".join(sorted(set(known) - {NO_GRID})) or "none"
            raise StoreReadError(f"no runs of grid {grid!r} in {tracking_uri}; grids with runs: {names}")
        found = _newest_of_each_key(_search(client, known[grid]))
        measured = pd.concat([_scalars(found), curves.read(client, tracking_uri, known[grid], found)])
        tables.append(_joined(found, grid, measured))
    return tidy(pd.concat(tables) if tables else [])


def tidy(rows: pd.DataFrame | Iterable[dict[str, Any]]) -> pd.DataFrame:
    """The table of `load` from its rows: columns, their types and the order."""
    return in_order(pd.DataFrame(rows, columns=list(COLUMNS)).astype(_DTYPES))


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """The rows in the order of `load`."""
    order = ["grid", "kind", "task", "model", "seed", "start_time", "run_id", "metric", "at"]
    return table.sort_values(order, kind="stable", ignore_index=True)


def known_grids(tracking_uri: str) -> list[str]:
    """Names of the grids of which the store may hold runs, sorted.

    Raises:
        StoreReadError: no store at `tracking_uri`.
    """
    return sorted({experiment.name for experiment in _experiments(_client(tracking_uri))} - {NO_GRID})


def _client(tracking_uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    if tracking_uri.startswith(curves.SQLITE):  # MLflow would create an empty one
        database = Path(tracking_uri.removeprefix(curves.SQLITE))
        if not database.is_file():
            raise StoreReadError(f"no runs are stored in {database}: run a grid first (lvt run GRID)")
    return MlflowClient(tracking_uri)


def _experiments(client: MlflowClient) -> Iterator[Any]:
    token: str | None = None
    while True:
        page = client.search_experiments(max_results=PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _search(client: MlflowClient, experiment_id: str) -> Iterator[Run]:
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], max_results=PAGE, page_token=token)
        yield from (run for run in page if run.data.tags.get(schema.KIND) not in (schema.REPORT, schema.INDEX))
        token = page.token
        if not token:
            return


def _newest_of_each_key(found: Iterable[Run]) -> list[Run]:
    newest: dict[str, Run] = {}
    others: list[Run] = []
    for run in sorted(found, key=lambda run: run.info.start_time):
        if run.info.status == schema.FINISHED:
            newest[_tag(run, schema.KEY)] = run
        else:
            others.append(run)
    return [*newest.values(), *others]


def _tag(run: Run, name: str) -> str:
    if name not in run.data.tags:
        raise StoreReadError(
            f"run {run.info.run_id} lacks the tag {name!r}: this suite did not write it; delete it there"
        )
    return str(run.data.tags[name])


def _scalars(runs: Sequence[Run]) -> pd.DataFrame:
    """What was measured once, as `curves.read` returns the rest."""
    found = [
        (run.info.run_id, name, math.nan, value)
        for run in runs
        for name, value in run.data.metrics.items()
        if not schema.axis_of(name)
    ]
    return pd.DataFrame(found, columns=list(curves.COLUMNS))


def _joined(runs: Sequence[Run], grid: str, measured: pd.DataFrame) -> pd.DataFrame:
    """What each run is, beside what was measured in it; one row of a run that logged nothing."""
    labels = pd.DataFrame([_labels(run, grid) for run in runs], columns=list(RUN_COLUMNS))
    axes = measured["metric"].map({name: schema.axis_of(name) for name in measured["metric"].unique()})
    table = labels.merge(measured.assign(axis=axes), on="run_id", how="left")
    return table.assign(axis=table["axis"].fillna(""))


def _labels(run: Run, grid: str) -> dict[str, Any]:
    """The columns of a run that have one value."""
    tags = run.data.tags
    gates, stops = _with_prefix(tags, schema.GATE_PREFIX), _with_prefix(tags, schema.STOPPED_BY)
    failed = [f"{name}: {outcome}" for name, outcome in gates.items() if outcome != schema.GATE_PASSED]
    return {
        "run_id": run.info.run_id,
        "run_name": run.info.run_name,
        "grid": grid,
        "key": _tag(run, schema.KEY),
        "settings": _fingerprint(run),
        "kind": _tag(run, schema.KIND),
        "task": tags.get(schema.TASK, ""),  # an efficiency run may have none
        "model": _tag(run, schema.MODEL),
        "seed": int(_tag(run, schema.SEED)),
        "phase": tags.get(schema.PHASE, schema.FINAL),
        "trial": int(tags[schema.TRIAL]) if schema.TRIAL in tags else None,
        "tuned": tags.get(schema.TUNED, ""),
        "sampler": tags.get(schema.SAMPLER, ""),
        "device": tags.get(schema.DEVICE, ""),  # known only once the run has found its device
        "hardware": tags.get(schema.HARDWARE, ""),
        "git_commit": tags.get(schema.GIT_COMMIT, ""),
        "git_dirty": tags.get(schema.GIT_DIRTY, ""),
        "versions": tags.get(schema.VERSIONS, ""),
        "command": tags.get(schema.COMMAND, ""),
        "status": run.info.status,
        "reason": tags.get(schema.REASON, ""),
        "headline": tags.get(schema.HEADLINE, ""),
        "budget_of": tags.get(schema.BUDGET_OF, ""),
        "chance": float(tags[schema.CHANCE]) if schema.CHANCE in tags else None,
        "memoryless_loss": float(tags[schema.MEMORYLESS_LOSS]) if schema.MEMORYLESS_LOSS in tags else None,
        "measures": tags.get(schema.MEASURES, ""),
        "language_class": tags.get(schema.LANGUAGE_CLASS, ""),
        "gates": "; ".join(failed) or (schema.GATE_PASSED if gates else ""),
        "stops": json.dumps(stops, ensure_ascii=False) if stops else "",
        "start_time": pd.Timestamp(run.info.start_time, unit="ms", tz="UTC"),
    }


def _with_prefix(tags: Mapping[str, str], prefix: str) -> dict[str, str]:
    """The tags that begin so, without it."""
    return {name.removeprefix(prefix): text for name, text in sorted(tags.items()) if name.startswith(prefix)}


def _fingerprint(run: Run) -> str:
    """Of what the seeds of one configuration agree in, of sweeps and profiles also the models; 12 hex digits.

    What the label of the task says is left to that: of a run's own data it also holds where they lie.
    """
    of_run = ("task.", "tuned.", *(("model.",) if _tag(run, schema.KIND) in _TIMED else ()))
    shared = {k: v for k, v in run.data.params.items() if k != "seed" and not k.startswith(of_run)}
    return hashlib.sha256(json.dumps(shared, sort_keys=True).encode()).hexdigest()[:12]


def to_parquet(runs: pd.DataFrame, file: str | os.PathLike[str]) -> None:
    """Writes the table to `file` as Parquet, whatever the file is called."""
    runs.to_parquet(file, index=False)


def write(runs: pd.DataFrame, file: str | os.PathLike[str]) -> Path:
    """Writes the table to `file`, as Parquet (.parquet) or CSV (.csv)."""
    path = Path(file)
    if path.suffix == ".parquet":
        to_parquet(runs, path)
    elif path.suffix == ".csv":
        runs.to_csv(path, index=False, date_format="%Y-%m-%dT%H:%M:%S.%f%z")
    else:
        raise StoreReadError(f"{path}: a table is written as .parquet or .csv")
    return path


def read(file: str | os.PathLike[str]) -> pd.DataFrame:
    """Reads a table that `write` wrote."""
    path = Path(file)
    if path.suffix == ".parquet":
        return _typed(pd.read_parquet(path))
    if path.suffix == ".csv":
        text = [name for name, dtype in _DTYPES.items() if dtype == "str"]
        # An empty text is a text; only the metric of a run that logged nothing is missing.
        table = pd.read_csv(
            path,
            dtype=dict.fromkeys(text, "str"),
            keep_default_na=False,
            na_values={name: [""] for name, dtype in _DTYPES.items() if dtype != "str" or name == "metric"},
        )
        return _typed(table.assign(start_time=pd.to_datetime(table["start_time"], utc=True)))
    raise StoreReadError(f"{path}: a table is read from .parquet or .csv")


def _typed(table: pd.DataFrame) -> pd.DataFrame:
    missing = {name: value for name, value in _IN_EARLIER_TABLES.items() if name not in table}
    return table.assign(**missing)[list(COLUMNS)].astype(_DTYPES)


def each(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a run: the columns of `RUN_COLUMNS`."""
    return runs.drop_duplicates("run_id")[list(RUN_COLUMNS)].reset_index(drop=True)


def scalars(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a run: the columns of `RUN_COLUMNS`, then one for each scalar that any run has; curves are left out."""
    single = runs[(runs["axis"] == "") & runs["value"].notna()]
    wide = single.groupby(["run_id", "metric"])["value"].last().unstack()  # noqa: PD010, it knows the index of no rows
    return each(runs).merge(wide.reset_index(), on="run_id", how="left")


def final(runs: pd.DataFrame) -> pd.DataFrame:
    """What may be compared: all but the trials of tuning, which only choose settings."""
    return runs[runs["phase"] != schema.TUNING]


def trials_that_count(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a trial of tuning that is over; of several with the same number (it was tuned again) the newest."""
    over = runs[(runs["phase"] == schema.TUNING) & runs["status"].isin([schema.FINISHED, schema.FAILED])]
    return each(over).sort_values("start_time", kind="stable").drop_duplicates([*LABELS, "trial"], keep="last")


def results(runs: pd.DataFrame) -> pd.DataFrame:
    """The rows that may stand in a table: measured values of FINISHED runs, without the trials of tuning.

    Of several runs with the same labels and seed the newest is kept, and of a configuration only the runs that have the
    settings of its newest: where a grid was run again with others, the runs before are no further seeds of it.
    `superseded` names the others. Efficiency runs and profiles on different hardware are different measurements.
    """
    runs = final(runs)
    finished = runs[(runs["status"] == schema.FINISHED) & runs["value"].notna()]
    return finished[~finished["run_id"].isin(superseded(runs)["run_id"])].reset_index(drop=True)


def superseded(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a FINISHED run that newer ones stand in for, with the same labels (and hardware).

    These have its seed, or other settings; the models of a sweep or of profiles, which are compared, must all have the
    same.
    """
    runs = final(runs)
    finished = each(runs[runs["status"] == schema.FINISHED]).sort_values("start_time", kind="stable")
    timed = finished["kind"].isin(_TIMED)
    finished = finished.assign(
        place=finished["hardware"].where(timed, ""),
        of=finished["model"].mask(timed, ""),
        settings=finished["settings"].fillna(""),
    )
    newest = finished.groupby(["grid", "kind", "task", "place", "of"])["settings"].transform("last")
    repeated = finished.duplicated([*LABELS, "seed", "place"], keep="last")
    return finished.loc[repeated | (finished["settings"] != newest), list(RUN_COLUMNS)].reset_index(drop=True)


def groups(frame: pd.DataFrame, *keys: str, sort: bool = True) -> Iterator[tuple[tuple[Any, ...], pd.DataFrame]]:
    """The parts of `frame` that share the values of two or more `keys`; missing is a value too.

    In ascending order of these values, or unsorted in the order of their first rows.
    """
    for values, part in frame.groupby(list(keys), sort=sort, dropna=False):
        yield cast("tuple[Any, ...]", values), part


def names(rows: pd.DataFrame) -> dict[tuple[str, str], str]:
    """What the task of each (grid, task) is called: by its label, with the grid where several grids have that task."""
    places = rows[["grid", "task"]].drop_duplicates()
    shared = places["task"].duplicated(keep=False)
    return {
        (grid, task): (f"{task} ({grid})" if task else grid) if several else task
        for grid, task, several in zip(places["grid"], places["task"], shared, strict=True)
    }


def stopped_by(stops: str, phase: str) -> str:
    """Why a phase ended early, of a run's column `stops`: ``"memory: …"`` or ``"time: …"``; "" if it did not."""
    return str(json.loads(stops or "{}").get(phase, ""))


def family(model: str) -> str:
    """Name of a model without its options: ``"transformer(layers=4)"`` → ``"transformer"``."""
    return model.partition("(")[0]
