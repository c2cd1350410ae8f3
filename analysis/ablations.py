"""What each component buys: in every grid that holds a model and variants of it, the full model against each variant.

A number is full model minus variant in the headline score of a task, paired by seed, positive where the full model is
better (claims 5.* of CLAIMS.md). Verdicts are not given here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis import statistics, units
from analysis.evidence import TRAINED, Contest, admitted, contests
from analysis.runs import family, groups
from analysis.statistics import Interval
from analysis.tables import Table
from analysis.variants import change, full_models
from experiments import schema

MARGIN = 0.05  # of a share: 5 points
COLUMNS = (
    *("grid", "family", "reference", "variant", "change", "task", "split"),
    *("estimate", "low", "high", "n", "tasks", "of_tasks", "headline", "trained", "reached"),
)


def effects(runs: pd.DataFrame) -> pd.DataFrame:
    """What every variant lacks against the full model of its family, on each task and pooled over tasks.

    Only runs that passed the gates count. A task on which the full model is not trained (`Contest.untrained`), or on
    whose split neither it nor a variant gets anything right, does not enter the pooled number, which is the mean over
    tasks of the mean over seeds; several settings of a task weigh together as one.

    Returns:
        A row per grid, variant, task and split ("test"; "longer" where the task has it). After these, for each split, a
        row of the tasks pooled, its `task` "": one for each unit that headline scores have. All variants of a model
        have the same rows in the same order.

        `reference` is the label of the full model, `change` what the variant does differently. `estimate`, `low` and
        `high` are in the score's own unit (shares as 0..1), of `n` seeds (pooled: of the task with the fewest), `tasks`
        tasks of the `of_tasks` that count. `headline` names the score; pooled, all of them with ", " between. `trained`
        is False where the full model is not trained on the task, `reached` where no model of the family has an accuracy
        above 0 on the split. What was not measured is missing, `n` and `tasks` 0.

        A family with one label in the grid, or without any number, has no rows.
    """
    evidence, of_grids = admitted(runs), variants(runs)
    rows: list[dict[str, Any]] = []
    for grid, measured in evidence[evidence["kind"] == schema.LEARN].groupby("grid"):
        tasks = list(contests(measured))
        for full, others in of_grids[str(grid)].items():
            found = [
                {"grid": grid, "family": family(full), "reference": full, "variant": variant} | numbers
                for variant in others
                for numbers in _effects(tasks, full, variant)
            ]
            if any(row["n"] for row in found):
                rows += found
    return pd.DataFrame(rows, columns=list(COLUMNS))


def variants(runs: pd.DataFrame) -> dict[str, dict[str, list[str]]]:
    """Grid → full model of each family → its variants there, in order.

    Of all that were to learn, failed runs too: which model is the full one is the grid's matter.
    """
    found: dict[str, dict[str, list[str]]] = {}
    for grid, labels in runs[runs["kind"] == schema.LEARN].groupby("grid")["model"]:
        found[str(grid)] = {
            full: [label for label in units.in_order(labels) if label != full and family(label) == family(full)]
            for full in units.in_order(full_models(labels.unique()).values())
        }
    return found


def _effects(tasks: Sequence[Contest], full: str, variant: str) -> Iterator[dict[str, Any]]:
    same = {"change": change(full, variant)}
    pools: dict[tuple[str, str], list[tuple[dict[str, Any], str, np.ndarray]]] = {}  # by split and unit
    for task in tasks:
        trained = not task.untrained(_scores(task, full, schema.TEST).mean())
        for split in (schema.TEST, schema.LONGER):
            if (task.rows["metric"] == schema.metric(split, task.headline)).any():
                lost = gaps(task, full, variant, split)
                labels = same | {"task": task.name, "split": split, "headline": task.headline, "trained": trained}
                labels |= {"reached": _reached(task, family(full), split)}
                mean = gap(task.headline).within(statistics.mean(lost))
                yield labels | {"tasks": int(len(lost) > 0), "of_tasks": 1} | vars(mean)
                pools.setdefault((split, task.quantity.unit), []).append((labels, task.family, lost))
    for (split, _), pool in sorted(pools.items(), key=lambda item: item[0][0] != schema.TEST):
        counting = [(lost, of) for labels, of, lost in pool if labels["trained"] and labels["reached"]]
        measured = [(lost, of) for lost, of in counting if len(lost)]
        headline = ", ".join(dict.fromkeys(labels["headline"] for labels, *_ in pool))
        labels = same | {"task": "", "split": split, "headline": headline, "trained": True, "reached": True}
        counts = {"tasks": len(measured), "of_tasks": len(counting)}
        mean = statistics.stratified_mean([lost for lost, _ in measured], [of for _, of in measured])
        yield labels | counts | vars(gap(headline).within(mean))


def _reached(task: Contest, base: str, split: str) -> bool:
    """Whether a model of the family has any answer right: where none has, no difference says what a component buys."""
    rows = task.rows[task.rows["metric"] == schema.metric(split, task.headline)]
    own = rows.loc[rows["model"].map(family) == base, "value"]
    return task.quantity.lower_is_better or own.empty or bool((own > 0).any())


def _scores(task: Contest, label: str, split: str) -> pd.Series:
    """The headline score of one model, by seed."""
    name = schema.metric(split, task.headline)
    return task.rows[(task.rows["model"] == label) & (task.rows["metric"] == name)].set_index("seed")["value"]


def gaps(task: Contest, full: str, variant: str, split: str) -> np.ndarray:
    """Full model minus variant at each seed that both have, positive where the full model is better."""
    paired = (_scores(task, full, split) - _scores(task, variant, split)).dropna()
    return task.quantity.direction * paired.to_numpy(dtype=float)


# --- as a report shows them ------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Section:
    """The variants of one full model."""

    name: str  # of the full model, and of the grid where there are several
    sentences: tuple[str, ...]
    table: Table
    notes: tuple[str, ...]


def sections(found: pd.DataFrame) -> list[Section]:
    """A section for each full model in `found` (`effects`)."""
    several = len(found["grid"].unique()) > 1
    return [
        Section(
            units.model_name(full) + (f", grid {grid}" if several else ""),
            tuple(_sentences(rows)),
            as_table(rows),
            tuple(_notes(rows)),
        )
        for (grid, full), rows in groups(found, "grid", "reference", sort=False)
    ]


def by_effect(rows: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The rows of one full model by variant: the largest pooled effect (in range) first, missing ones last."""
    pooled = rows[rows["task"] == ""].drop_duplicates("variant")
    order = pooled.sort_values("estimate", ascending=False, kind="stable")["variant"]
    return {variant: rows[rows["variant"] == variant] for variant in order}


def as_table(rows: pd.DataFrame) -> Table:
    """The rows of one full model as a table: a row per variant, a column per task and split, then the pooled ones.

    A pooled cell says of how many of the tasks that count it is. † marks a task on which the full model is not trained,
    ‡ one with nothing right.
    """
    variants = by_effect(rows)
    columns = next(iter(variants.values()))
    beyond = set(columns.loc[columns["split"] == schema.LONGER, "task"])  # what stands there for several splits
    several_units = len({gap(headline).unit for headline in columns["headline"]}) > 1

    def heading(column: Any) -> str:
        name = column.task or "pooled"
        dagger = ("" if column.trained else " †") + ("" if column.reached else " ‡")
        split = f", {column.split}" if column.task in beyond else ""
        unit = f", {gap(column.headline).unit}" if several_units else ""
        return f"{name}{dagger}{split}{unit}"

    def cell(row: Any) -> str:
        return _number(row) if row.task else f"{_number(row)}, {_coverage(row)}"

    body = tuple((part["change"].iloc[0], *map(cell, part.itertuples())) for part in variants.values())
    header = ("changed", *map(heading, columns.itertuples()))
    return Table(header, body, frozenset(range(1, len(header))))


def _number(row: Any) -> str:
    return gap(row.headline).interval(Interval(row.estimate, row.low, row.high, row.n))


def _coverage(row: Any) -> str:
    return f"{row.tasks} of {row.of_tasks} task{'s' if row.of_tasks > 1 else ''}"


def gap(headline: str) -> units.Quantity:
    """How a difference of `headline`, or of the first of several with the same unit, is written."""
    return units.of(headline.partition(", ")[0]).gap


def _sentences(rows: pd.DataFrame) -> Iterator[str]:
    """Which pooled intervals lie beyond the margin on either side, and which inside it."""
    ordered = pd.concat(by_effect(rows).values())
    pooled = ordered[
        (ordered["task"] == "") & (ordered["headline"].map(lambda headline: gap(headline).unit) == "points")
    ]
    margin = f"{100 * MARGIN:.0f} points"

    def name(row: Any) -> str:
        fewer = f", {_coverage(row)}" if row.tasks < row.of_tasks else ""
        return f"{row.change} ({_number(row)}{fewer})"

    for split, where in ((schema.TEST, "In range"), (schema.LONGER, "Out of range")):
        part = pooled[pooled["split"] == split]
        for side, chosen in (
            (f"above {margin}", part["low"] > MARGIN),
            (f"inside ±{margin}", (part["low"] >= -MARGIN) & (part["high"] <= MARGIN)),
            (f"below -{margin}", part["high"] < -MARGIN),
        ):
            said = [name(row) for row in part[chosen].itertuples()]
            if said:
                yield f"{where}, pooled over tasks, the whole interval lies {side} for {'; '.join(said)}."


def _notes(rows: pd.DataFrame) -> Iterator[str]:
    """How many seeds the numbers are of, and what † and ‡ stand for."""
    fewest, most = rows.loc[rows["n"] > 0, "n"].agg(["min", "max"])
    seeds = f"{fewest}" if fewest == most else f"{fewest} to {most}"
    yield f"Each number is of {seeds} seed{'s' if most > 1 else ''}."
    if not rows["trained"].all():
        yield (
            f"† In range the full model stays under {100 * TRAINED:.0f} % of the ceiling: it is not trained on this"
            " task, which is left out of the pooled number."
        )
    if not rows["reached"].all():
        yield "‡ Neither the full model nor a variant gets anything right there: it is left out of the pooled number."
