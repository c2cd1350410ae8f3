"""How soon a threshold is reached while learning, and how far along an axis a model holds.

Pure functions of the table of runs (`analysis.runs.load`). What is not reached stays missing: neither zero nor the
end of the training.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.runs import groups, results
from experiments import schema

BUDGETS = {"tokens": schema.TRAIN_TOKENS, "seconds": schema.TRAIN_SECONDS, "flops": schema.TRAIN_FLOPS}
HOLDS = 0.9  # accuracy
REACH_COLUMNS = ("grid", "task", "model", "seed", "run_id", "axis", "reach", "smallest", "largest")


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
    rows: list[dict[str, Any]] = []
    for (_, _), run in groups(learnt, "grid", "run_id"):
        labels = run.iloc[0]
        name = metric or labels["headline"]
        curve = _curve(run, schema.metric(schema.VALIDATION, name))
        if curve.empty:
            continue
        there = curve <= threshold if name in schema.LOWER_IS_BETTER else curve >= threshold
        step = curve.index[there].min() if there.any() else None
        row = {key: labels[key] for key in ("grid", "task", "model", "seed", "run_id")} | {"metric": name, "step": step}
        for budget, spent in BUDGETS.items():
            row[budget] = _curve(run, spent).get(step) if step is not None else None
        rows.append(row)
    columns = ["grid", "task", "model", "seed", "run_id", "metric", "step", *BUDGETS]
    numbers = dict.fromkeys(["step", *BUDGETS], "float64")
    return pd.DataFrame(rows, columns=columns).astype(numbers)


def reach(runs: pd.DataFrame, axis: str, metric: str | None = None, holds: float = HOLDS) -> pd.DataFrame:
    """How far along an axis (a distance, a length, a number of pairs) each run holds, in and out of range together.

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
    learnt = results(runs).query("kind == @schema.LEARN")
    rows: list[dict[str, Any]] = []
    for (_, _), run in groups(learnt, "grid", "run_id"):
        labels = run.iloc[0]
        name = metric or labels["headline"]
        if name in schema.LOWER_IS_BETTER:
            continue
        curves = [_curve(run, schema.metric(split, name, axis)) for split in (schema.TEST, schema.LONGER)]
        points = pd.concat(curves).groupby(level=0).min()  # of a value that stands in both, the worse counts
        if points.empty:
            continue
        failed = points.index[points < holds]
        held = points.index[points.index < failed.min()] if len(failed) else points.index
        ends = {"smallest": points.index.min(), "largest": points.index.max()}
        found = {"axis": axis, "reach": held.max() if len(held) else None, **ends}
        rows.append({key: labels[key] for key in ("grid", "task", "model", "seed", "run_id")} | found)
    numbers = dict.fromkeys(["reach", "smallest", "largest"], "float64")
    return pd.DataFrame(rows, columns=list(REACH_COLUMNS)).astype(numbers)


def by_category(runs: pd.DataFrame) -> pd.DataFrame:
    """Scores on axes whose values have names (COGS's 21 types).

    Returns:
        A row per run and name: grid, task, model, seed, run_id, metric (with its split), axis, category, value.
    """
    learnt = results(runs).query("kind == @schema.LEARN")
    parts = {name: schema.category_of(name) for name in learnt["metric"].unique()}
    known = {name: part for name, part in parts.items() if part is not None}
    found = learnt[learnt["metric"].isin(known)]
    named = pd.DataFrame(
        [known[name] for name in found["metric"]], columns=["metric", "axis", "category"], index=found.index
    )
    table = found[["grid", "task", "model", "seed", "run_id", "value"]].join(named)
    order = ["grid", "task", "model", "seed", "run_id", "metric", "axis", "category"]
    return table[[*order, "value"]].sort_values(order, ignore_index=True)


def _curve(run: pd.DataFrame, metric: str) -> pd.Series:
    """A run's curve: place on the axis → value."""
    points = run[run["metric"] == metric]
    return pd.Series(points["value"].to_numpy(), index=points["at"].to_numpy(dtype=float)).sort_index()
