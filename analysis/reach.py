"""How soon a threshold is reached while learning, and how far along an axis a model holds.

Pure functions of the table of runs (`analysis.runs.load`). What is not reached stays missing: neither zero nor the
end of the training.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from analysis import units
from analysis.runs import groups, names, results
from analysis.tables import Table, seeds_cell
from analysis.variants import side_by_side
from experiments import schema

BUDGETS = {"tokens": schema.TRAIN_TOKENS, "seconds": schema.TRAIN_SECONDS, "flops": schema.TRAIN_FLOPS}
SPENT = {
    "step": units.Quantity("steps", form=",.0f"),
    "seconds": units.Quantity("seconds of training", form=",.0f"),
    "flops": units.Quantity("TFLOP of training", scale=1e-12, form=",.2f"),
}
_STATE = units.OTHERS[schema.STATE]
HOLDS = 0.9  # accuracy
RIGHT = f"{100 * HOLDS:.0f} % are right"
_LABELS = ["grid", "task", "model", "seed", "run_id"]
_NEEDED = [*_LABELS, "headline", "metric", "at", "value"]
REACH_COLUMNS = (*_LABELS, "axis", "reach", "smallest", "largest")


def to_reach(runs: pd.DataFrame, threshold: float, metric: str | None = None) -> pd.DataFrame:
    """What each run had spent when its validation score first reached a threshold.

    Args:
        runs: the table.
        threshold: of the score, in its own unit (shares as 0..1); from below, or from above where lower is better.
        metric: name of the score without its split; None for the headline of each run's task.

    Returns:
        A row per learning run that evaluated the score: grid, task, model, seed, run_id, metric, then step, tokens,
        seconds and flops, of the first evaluation that reached it; missing where none did.
    """
    learnt = results(runs).query("kind == @schema.LEARN")
    needed = learnt["metric"].isin(BUDGETS.values()) | learnt["metric"].str.startswith(schema.VALIDATION)
    rows: list[dict[str, Any]] = []
    for (_, _), run in groups(learnt.loc[needed, _NEEDED], "grid", "run_id"):
        labels = run.iloc[0]
        name = metric or labels["headline"]
        curve = _curve(run, schema.metric(schema.VALIDATION, name))
        if curve.empty:
            continue
        there = curve <= threshold if name in schema.LOWER_IS_BETTER else curve >= threshold
        step = curve.index[there].min() if there.any() else None
        row = {key: labels[key] for key in _LABELS} | {"metric": name, "step": step}
        for budget, spent in BUDGETS.items():
            row[budget] = _curve(run, spent).get(step) if step is not None else None
        rows.append(row)
    columns = [*_LABELS, "metric", "step", *BUDGETS]
    numbers = dict.fromkeys(["step", *BUDGETS], "float64")
    return pd.DataFrame(rows, columns=columns).astype(numbers)


def reach(runs: pd.DataFrame, axis: str, metric: str | None = None, holds: float = HOLDS) -> pd.DataFrame:
    """How far along an axis (a distance, a length, a number of pairs) each run holds.

    Beyond the range of training, too, where that goes on along the axis; where the other split begins anew (with more
    pairs at the same distances, say), what it lacks is something else.

    The reach is the largest value up to which the score is at least `holds` at every value that was measured: one
    success beyond a failure is not counted. Only for scores of which more is better.

    Args:
        runs: the table.
        axis: as in "token_accuracy_by_<axis>".
        metric: name of the score without split and axis; None for the headline of each run's task.
        holds: the share that counts as holding.

    Returns:
        A row per learning run with such a curve, columns `REACH_COLUMNS`. `smallest` and `largest` are the ends of what
        was measured: a reach of `largest` means at least that; a missing one, that already `smallest` fails.
    """
    learnt = results(runs).query("kind == @schema.LEARN and axis == @axis")
    rows: list[dict[str, Any]] = []
    for (_, _), run in groups(learnt[_NEEDED], "grid", "run_id"):
        labels = run.iloc[0]
        name = metric or labels["headline"]
        if name in schema.LOWER_IS_BETTER:
            continue
        points, beyond = (_curve(run, schema.metric(split, name, axis)) for split in (schema.TEST, schema.LONGER))
        if points.empty:
            continue
        if len(beyond) and beyond.index.min() > points.index.max():
            points = pd.concat([points, beyond])
        failed = points.index[points < holds]
        held = points.index[points.index < failed.min()] if len(failed) else points.index
        ends = {"smallest": points.index.min(), "largest": points.index.max()}
        found = {"axis": axis, "reach": held.max() if len(held) else None, **ends}
        rows.append({key: labels[key] for key in _LABELS} | found)
    numbers = dict.fromkeys(["reach", "smallest", "largest"], "float64")
    return pd.DataFrame(rows, columns=list(REACH_COLUMNS)).astype(numbers)


def reached(runs: pd.DataFrame) -> pd.DataFrame:
    """How far along each axis, and how soon, every run that is scored by an accuracy got at least `HOLDS` right.

    On a task that measures how many items are kept, what they are kept in stands beside it: the decoding state.

    Returns:
        A row per run and measure: grid, task, model, seed, run_id, measure (an axis, `schema.STATE` or a key of
        `SPENT`), value (where it did, or bytes), and of an axis the smallest and largest value that was measured.
    """
    scored = side_by_side(runs)
    scored = scored[scored["headline"].isin([schema.TOKEN_ACCURACY, schema.SEQUENCE_ACCURACY])]
    far = [reach(measured, str(axis)) for axis, measured in scored.groupby("axis") if axis]
    soon = to_reach(scored, HOLDS).melt(_LABELS, list(SPENT), "axis", "reach")
    state = _states(scored).assign(axis=schema.STATE)
    together = pd.concat([*far, state, soon]).rename(columns={"axis": "measure", "reach": "value"})
    return together.reindex(columns=[*_LABELS, "measure", "value", "smallest", "largest"]).reset_index(drop=True)


def _states(runs: pd.DataFrame) -> pd.DataFrame:
    """Bytes of decoding state, as `reach`, of the runs on tasks with a number of items."""
    measured = results(runs)
    with_items = {tag for tag in measured["measures"].dropna().unique() if schema.ITEMS in schema.dependencies(tag)}
    rows = measured[measured["measures"].isin(with_items) & (measured["metric"] == schema.STATE)]
    return rows[[*_LABELS, "value"]].rename(columns={"value": "reach"})


def as_table(found: pd.DataFrame) -> Table:
    """The frame of `reached`: a row per task and measure, a column per model, medians over seeds.

    A seed that never gets there is worse than all that do, so that there is no median where most do not; how many do
    stands behind it. Of an even number of seeds the worse of the two in the middle is shown.
    """
    models, called = units.plain_first(found["model"]), names(found)
    ordered = found.sort_values(["grid", "task"], kind="stable")
    rows: list[tuple[str, ...]] = []
    for (grid, task, measure), block in groups(ordered, "grid", "task", "measure", sort=False):
        of_models = {str(model): own for model, own in block.groupby("model")}
        if measure in SPENT:
            if block["value"].isna().all():
                continue
            what = f"{SPENT[measure].name} until {RIGHT}"
            cell: Callable[[pd.DataFrame], str] = partial(_how_soon, SPENT[measure])
        elif measure == schema.STATE:
            what, cell = _STATE.title, lambda own: _STATE.number(own["value"].median())
        else:
            what, cell = f"{measure} up to which {RIGHT}", _how_far
        counts = [str(len(of_models[model])) if model in of_models else units.MISSING for model in models]
        cells = [cell(of_models[model]) if model in of_models else units.MISSING for model in models]
        rows.append((called[grid, task], what, *cells, seeds_cell(counts)))
    header = ("task", "measure", *map(units.model_name, models), "seeds")
    return Table(header, tuple(rows), frozenset(range(2, len(header))))


def _how_far(block: pd.DataFrame) -> str:
    middle = block["value"].sort_values(na_position="first").iloc[(len(block) - 1) // 2]
    if math.isnan(middle):
        return f"< {block['smallest'].min():g}"
    return f"≥ {middle:g}" if middle == block["largest"].max() else f"{middle:g}"


def _how_soon(quantity: units.Quantity, block: pd.DataFrame) -> str:
    middle = quantity.number(block["value"].sort_values().iloc[len(block) // 2])
    there = block["value"].count()
    return middle if there == len(block) else f"{middle} ({there} of {len(block)})"


def _curve(run: pd.DataFrame, metric: str) -> pd.Series:
    """A run's curve: place on the axis → value."""
    points = run[run["metric"] == metric]
    return pd.Series(points["value"].to_numpy(), index=points["at"].to_numpy(dtype=float)).sort_index()
