"""The tables of a report: tidy numbers first, then one formatter for the terminal, Markdown and HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from tabulate import tabulate

from analysis import units, variants
from analysis.runs import each, groups, names, results
from analysis.statistics import Interval, geometric_mean, mean
from experiments import schema

MATCHED_WITHIN = 0.01  # of the budget
SCORE, COST = "score", "cost"
COMPARISON_COLUMNS = (
    *("grid", "task", "group", "metric", "split", "axis", "at"),
    *("model", "shown", "estimate", "low", "high", "n"),
)
_SPEEDS = (schema.TRAIN_TOKENS_PER_SECOND, schema.RUN_SECONDS)
_COSTS = (schema.PARAMETERS, schema.MATCH_ERROR, *_SPEEDS)


def seed_mean(values: pd.Series) -> Interval:
    """Mean over seeds with its interval, the same whenever and wherever it is asked for."""
    return mean(values.to_numpy(dtype=float))


def comparison(runs: pd.DataFrame) -> pd.DataFrame:
    """What was measured on each task, model by model, over seeds.

    Of a task there are the score in range (split "test") and, where the task has one, out of range ("longer"), each
    overall (`axis` "") and in its hardest slice: the largest value on each axis, the farthest distance or most pairs.
    After these come the costs: parameters, match error, training throughput (median over a run), seconds of the run;
    of the last two the mean over seeds is geometric, so that no interval reaches 0.

    Returns:
        A row per task, measure and model with the columns of `COMPARISON_COLUMNS`; `shown` says whether the model has a
        column in a table (`variants.side_by_side`); `estimate`, `low` and `high` in the metric's own unit (shares as
        0..1), `n` seeds. What was not measured has no row.
    """
    learnt = results(runs).query("kind == @schema.LEARN")
    shown = set(variants.side_by_side(runs)[["grid", "model"]].itertuples(index=False, name=None))
    rows: list[dict[str, Any]] = []

    def add(block: pd.DataFrame, **labels: object) -> None:
        for model in units.in_order(block["model"]):
            values = block.loc[block["model"] == model, "value"]
            over_seeds = geometric_mean(values) if labels["metric"] in _SPEEDS else seed_mean(values)
            found = units.of(str(labels["metric"])).within(over_seeds)
            rows.append(labels | {"model": model, "shown": (labels["grid"], model) in shown} | vars(found))

    for (grid, task), block in groups(learnt, "grid", "task"):
        labels = {"grid": grid, "task": task}
        headline = block["headline"].iloc[0]
        for split in (schema.TEST, schema.LONGER):
            name = schema.metric(split, headline)
            measured = labels | {"group": SCORE, "split": split}
            add(block[block["metric"] == name], **measured, metric=name, axis="", at=np.nan)
            sliced = block[block["metric"].str.startswith(f"{name}_by_")]
            for (metric, axis), curve in groups(sliced, "metric", "axis"):
                hardest = curve["at"].max()
                add(curve[curve["at"] == hardest], **measured, metric=metric, axis=axis, at=hardest)
        for metric in _COSTS:
            cost = block[block["metric"] == metric]
            cost = cost.groupby(["model", "run_id"], as_index=False)[["value"]].median()  # one value a run
            add(cost, **labels, group=COST, metric=metric, split="", axis="", at=np.nan)
    return pd.DataFrame(rows, columns=list(COMPARISON_COLUMNS))


def models_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Parameters of each model on each task, and in each sweep and profile.

    Returns:
        Columns grid, task, model, parameters, budget, budget_of (what the budget counts, in words), match_error,
        matching ("matched" within ±1 % of the budget, "not matched" outside, "no budget" where none was asked for) and
        one for each part: embedding, encoder, …; missing where the model has no such part.
    """
    measured = results(runs)
    built = measured[measured["kind"].isin([schema.LEARN, schema.GRADIENTS, schema.EFFICIENCY, schema.PROFILE])]
    parts = {f"{schema.PARAMETERS}_{part}": part for part in schema.PARAMETER_PARTS}
    names = {schema.PARAMETERS: "parameters", schema.BUDGET: "budget", schema.MATCH_ERROR: "match_error"} | parts
    scalars = built[built["metric"].isin(names)]
    labels = ["grid", "task", "model", "budget_of", "run_id"]
    wide = scalars.pivot_table(index=labels, columns="metric", values="value").rename(columns=names).reset_index()
    columns = ["grid", "task", "model", "parameters", "budget", "budget_of", "match_error", *schema.PARAMETER_PARTS]
    wide = wide.reindex(columns=columns).drop_duplicates(ignore_index=True)  # the same for every seed
    wide["budget_of"] = wide["budget_of"].replace("", None)
    error = wide["match_error"]
    within = [error.isna(), error.abs() <= MATCHED_WITHIN]
    matching = np.select(within, ["no budget", "matched"], default="not matched")
    wide.insert(list(wide.columns).index("match_error") + 1, "matching", matching)
    place = wide["model"].map({model: i for i, model in enumerate(units.in_order(wide["model"]))})
    return wide.iloc[np.lexsort((place, wide["task"], wide["grid"]))].reset_index(drop=True)


def failures(runs: pd.DataFrame) -> pd.DataFrame:
    """What did not finish, or finished and failed a gate.

    Returns:
        Columns grid, kind, task, model, seed, status, reason (of a trial with its number) and later: "finished" where
        the same run (by key) finished in the end.
    """
    every = each(runs)
    finished = every["status"] == schema.FINISHED
    gated = finished & ~every["gates"].isin(["", schema.GATE_PASSED])
    failed = every[(~finished & (every["status"] != schema.RUNNING)) | gated].copy()
    failed["reason"] = failed["reason"].where(failed["status"] != schema.FINISHED, "gate " + failed["gates"])
    trial = failed["phase"] == schema.TUNING
    failed.loc[trial, "reason"] = "trial " + failed["trial"].astype(str) + ": " + failed["reason"]
    done = set(every.loc[finished, "key"])
    failed["later"] = [
        "finished" if s != schema.FINISHED and k in done else ""
        for s, k in zip(failed["status"], failed["key"], strict=True)
    ]
    columns = ["grid", "kind", "task", "model", "seed", "status", "reason", "later"]
    return failed[columns].reset_index(drop=True)


@dataclass(frozen=True)
class Table:
    """A table of texts: what `plain`, `markdown` and `html` all show."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[int] = frozenset()  # columns set flush right
    best: frozenset[tuple[int, int]] = frozenset()  # cells (row, column) set in bold

    def plain(self) -> str:
        """For a terminal."""
        return self._tabulate(self.rows, self.header, "simple")

    def markdown(self) -> str:
        """A pipe table."""
        header, *safe = [[cell.replace("|", "\\|") for cell in row] for row in (self.header, *self.rows)]
        rows = [[f"**{c}**" if (i, j) in self.best else c for j, c in enumerate(row)] for i, row in enumerate(safe)]
        return self._tabulate(rows, header, "pipe")

    def latex(self) -> str:
        """A tabular for the package booktabs; the best in bold."""
        rows = [
            [rf"\textbf{{{_latex(c)}}}" if (i, j) in self.best else _latex(c) for j, c in enumerate(row)]
            for i, row in enumerate(self.rows)
        ]
        align = "".join("r" if j in self.numeric else "l" for j in range(len(self.header)))
        lines = [
            rf"\begin{{tabular}}{{{align}}}",
            r"\toprule",
            " & ".join(map(_latex, self.header)) + r" \\",
            r"\midrule",
            *(" & ".join(row) + r" \\" for row in rows),
            r"\bottomrule",
            r"\end{tabular}",
        ]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """A ``<table class="sortable">``, everything in it escaped."""
        rows = [
            [f"<strong>{html.escape(c)}</strong>" if (i, j) in self.best else html.escape(c) for j, c in enumerate(row)]
            for i, row in enumerate(self.rows)
        ]
        table = self._tabulate(rows, [html.escape(name) for name in self.header], "unsafehtml")
        table = re.sub(r"<th(?=[ >])", '<th scope="col"', table)
        return table.replace("<table>", '<table class="sortable">', 1)

    def _tabulate(self, rows: Iterable[Iterable[str]], header: Iterable[str], form: str) -> str:
        align = ["right" if j in self.numeric else "left" for j in range(len(self.header))]
        return str(tabulate(rows, list(header), form, colalign=align if self.rows else None, disable_numparse=True))


_LATEX = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "[": "{[}", "]": "{]}"},
    **{"↑": r"$\uparrow$", "↓": r"$\downarrow$", "→": r"$\rightarrow$", "±": r"$\pm$", "×": r"$\times$"},
    **{"·": r"$\cdot$", "Δ": r"$\Delta$", "≥": r"$\geq$", "−": "$-$", "–": "--", "…": r"\ldots{}", "†": r"$\dagger$"},
}


def _latex(text: str) -> str:
    """Text in which every sign that LaTeX reads otherwise is escaped."""
    return "".join(_LATEX.get(sign, sign) for sign in text)


def comparison_table(numbers: pd.DataFrame, show: Iterable[str] = (SCORE, COST), *, overall: bool = False) -> Table:
    """The numbers of `comparison` as a table: a row per task and measure, a column per model, and the number of seeds.

    In a large grid only the full models have a column (`shown`). Tasks that the models of the first columns have stand
    first. The best score of a row is bold, several where they
    read the same, none where all do.

    Args:
        numbers: what `comparison` returned.
        show: which of "score" and "cost".
        overall: leave the slices out.
    """
    shown = numbers[numbers["shown"] & numbers["group"].isin(list(show))]
    if overall:
        shown = shown[shown["axis"] == ""]
    models = units.plain_first(shown["model"])
    column = shown["model"].map({model: i for i, model in enumerate(models)})
    first = column.groupby([shown["grid"], shown["task"]]).transform("min")
    shown = shown.iloc[np.argsort(first.to_numpy(), kind="stable")]
    called = names(shown)
    rows: list[tuple[str, ...]] = []
    best: set[tuple[int, int]] = set()
    keys = ("grid", "task", "group", "metric", "split", "axis", "at")
    for (grid, task, group, metric, split, axis, at), block in groups(shown, *keys, sort=False):
        quantity = units.of(metric)
        found = {
            str(model): Interval(*numbers)
            for model, *numbers in block[["model", "estimate", "low", "high", "n"]].itertuples(index=False, name=None)
        }
        cells = [quantity.interval(found[model]) if model in found else units.MISSING for model in models]
        if group == SCORE:
            best |= {(len(rows), 2 + models.index(model)) for model in _best(found, quantity)}
        counts = [str(found[model].n) if model in found else units.MISSING for model in models]
        place = called[grid, task]
        rows.append((place, measure(quantity, split, axis, at), *cells, seeds_cell(counts)))
    header = ("task", "measure", *map(units.model_name, models), "seeds")
    return Table(header, tuple(rows), frozenset(range(2, len(header))), frozenset(best))


def seeds_cell(counts: Sequence[str]) -> str:
    """Numbers of seeds, model by model: one where all have the same, else ``"5 / 3 / –"``."""
    return counts[0] if len(set(counts)) == 1 else " / ".join(counts)


def comparison_text(numbers: pd.DataFrame) -> str:
    """The whole of `comparison` for a terminal."""
    return comparison_table(numbers).plain()


def measure(quantity: units.Quantity, split: str, axis: str, at: float) -> str:
    """What a row measures: ``"word error rate, % ↓ · test, length 12"``."""
    if not split:
        return quantity.title
    arrow = "↓" if quantity.lower_is_better else "↑"
    where = f"{split}, {axis} {at:g}" if axis else split
    return f"{quantity.title} {arrow} · {where}"


def _best(found: dict[str, Interval], quantity: units.Quantity) -> set[str]:
    top = max(interval.estimate * quantity.direction for interval in found.values())
    shown = quantity.number(top * quantity.direction)
    winners = {model for model, interval in found.items() if quantity.number(interval.estimate) == shown}
    return winners if len(winners) < len(found) else set()


def as_table(frame: pd.DataFrame, quantities: dict[str, units.Quantity] | None = None) -> Table:
    """Any frame as a table of texts; numbers of a column in `quantities` are shown in that quantity's way."""
    quantities = quantities or {}

    def text(column: str, value: Any) -> str:
        if pd.isna(value):
            return units.MISSING
        if column in quantities:
            return quantities[column].number(value)
        return units.model_name(value) if column == "model" else str(value)

    rows = tuple(
        tuple(text(column, value) for column, value in zip(frame.columns, row, strict=True))
        for row in frame.itertuples(index=False, name=None)
    )
    header = tuple(quantities[c].title if c in quantities else c.replace("_", " ") for c in frame.columns)
    numeric = frozenset(j for j, column in enumerate(frame.columns) if column in quantities)
    return Table(header, rows, numeric)


def models_as_table(numbers: pd.DataFrame) -> Table:
    """The frame of `models_table`, grid left out where there is one only."""
    counts = {name: units.Quantity(name, form=",.0f") for name in ("parameters", *schema.PARAMETER_PARTS, "budget")}
    quantities = counts | {"match_error": units.OTHERS[schema.MATCH_ERROR]}
    return as_table(_without_single_grid(numbers), quantities)


def failures_as_table(found: pd.DataFrame) -> Table:
    """The frame of `failures`, grid left out where there is one only."""
    return as_table(_without_single_grid(found))


def stops_as_table(found: pd.DataFrame) -> Table:
    """The frame of `scaling.stops`, grid and task left out where there is one only."""
    counts = {name: units.Quantity(name.replace("_", " "), form=",.0f") for name in ("longest", "stopped_at")}
    columns = ["grid", "task", "hardware", "model", "phase", *counts, "reason"]
    alike = [name for name in ("grid", "task") if len(found[name].unique()) < 2]
    phase = found["phase"].str.replace("_", " ")
    return as_table(found.assign(phase=phase)[columns].drop(columns=alike), counts)


def _without_single_grid(frame: pd.DataFrame) -> pd.DataFrame:
    return frame if len(frame["grid"].unique()) > 1 else frame.drop(columns="grid")
