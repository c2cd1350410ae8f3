"""Figures of the whole: the claims as a forest plot, tasks × models and categories × models, accuracy against cost."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis import drawing, units
from analysis.claims import Entry, Verdict
from analysis.drawing import INK, MUTED
from analysis.evidence import contests
from analysis.runs import groups, results
from analysis.variants import side_by_side
from experiments import schema

VERDICT_COLORS = {
    Verdict.SUPPORTED: "#009E73",
    Verdict.REFUTED: "#D55E00",
    Verdict.CONDITIONAL: "#8C6BB1",
    Verdict.TIE: "#0072B2",
    Verdict.UNDECIDED: MUTED,
    Verdict.REPORTED: INK,
}
_ROW = 0.42  # inches of a row
_DARK, _LIGHT = "#15181d", "#fdfdfd"  # on the cells of a heat map, whatever the page's colours are


# --- claims ----------------------------------------------------------------------------------------------------------
def forest(entries: Sequence[Entry]) -> Figure | None:
    """Effect and interval of every measured claim of families 1 to 4, a panel for each unit; coloured by verdict."""
    shown = [one for one in entries if one.claim.family != "5"]
    measured = [one for one in shown if one.measured and not np.isnan(one.effect.estimate)]
    if not measured:
        return None
    kinds: dict[str, list[Entry]] = {}
    for one in measured:
        kinds.setdefault(_kind(one), []).append(one)
    counts = [len(same) for same in kinds.values()]
    height = _ROW * sum(counts) + 0.75 * len(kinds) + 0.6
    figure = Figure(figsize=(drawing.WIDTH, height), facecolor="none")
    figure.set_layout_engine("constrained", h_pad=0.08)
    axes = figure.subplots(len(kinds), squeeze=False, height_ratios=[count + 0.6 for count in counts])
    for ax, (kind, same) in zip(axes.flat, kinds.items(), strict=True):
        _forest_panel(ax, kind, same)
    verdicts = list(dict.fromkeys(one.verdict for one in measured))
    handles = [Line2D([], [], color=VERDICT_COLORS[v], marker="o", linewidth=2, label=str(v)) for v in verdicts]
    drawing.legend(figure, handles)
    return figure


def _kind(entry: Entry) -> str:
    quantity = entry.claim.scale.quantity
    return {"times": "ratio", "": "exponents"}.get(quantity.unit, quantity.unit)


def _forest_panel(ax: Axes, kind: str, entries: Sequence[Entry]) -> None:
    none = 1.0 if kind == "ratio" else 0.0
    for place, one in enumerate(entries):
        scale, color = one.claim.scale.quantity.scale, VERDICT_COLORS[one.verdict]
        if one.effect.known:
            ax.plot([scale * one.effect.low, scale * one.effect.high], [place, place], color=color, linewidth=2.4)
        hollow = one.verdict is Verdict.UNDECIDED
        ax.plot(
            [scale * one.effect.estimate],
            [place],
            marker="o",
            markersize=8,
            color=color,
            markerfacecolor="none" if hollow else color,
        )
    titles = {
        "exponents": "difference of exponents: right of zero the first named grows more",
        "ratio": "ratio: right of 1 the first named is larger",
        "points": "points of accuracy: right of zero the Transformer is ahead, left of it the LSTM",
        "%": "%: right of the line attention closes more than half of the gap",
        "points per doubling": "points per doubling of the data: right of zero the Transformer gains more",
    }
    if kind == "points":
        ax.axvspan(-5, 5, color=MUTED, alpha=0.14, linewidth=0, zorder=0)
    if kind == "ratio":
        ax.set_xscale("log", base=2)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.4g}"))
        ax.xaxis.set_minor_locator(NullLocator())
    if kind == "%":
        none = 50.0
    ax.axvline(none, color=INK, linewidth=1, zorder=1)
    drawing.finish(ax, titles.get(kind, kind), "", "")
    effects = [one.claim.scale.quantity.name for one in entries]
    labels = [f"{one.claim.id}  {one.claim.asks}\n{of}" for one, of in zip(entries, effects, strict=True)]
    ax.set_yticks(range(len(entries)), labels)
    ax.set_ylim(len(entries) - 0.5, -0.5)
    ax.tick_params(axis="y", length=0)
    ax.grid(visible=False, axis="y")


# --- tasks × models --------------------------------------------------------------------------------------------------
def task_scores(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean share right (accuracy, or 1 minus an error rate) by grid, task, split and model, in per cent, with runs."""
    rows = []
    for contest in contests(results(side_by_side(runs))):
        if contest.quantity.unit != "%":
            continue
        for split in (schema.TEST, schema.LONGER):
            for model in units.in_order(contest.rows["model"]):
                part = contest.measured.get((model, schema.metric(split, contest.headline)))
                if part is not None:
                    score = float(part["value"].mean())
                    right = 1 - score if contest.quantity.lower_is_better else score
                    found = {"task": contest.name, "split": split, "model": model, "right": 100 * right}
                    rows.append(found | {"n": len(part), "runs": " ".join(part["run_id"])})
    return pd.DataFrame(rows, columns=["task", "split", "model", "right", "n", "runs"])


def heat_map(runs: pd.DataFrame) -> Figure | None:
    """Tasks × models, in range and out of it."""
    found = task_scores(runs)
    splits = [split for split in (schema.TEST, schema.LONGER) if (found["split"] == split).any()]
    if not splits:
        return None
    tasks = list(dict.fromkeys(found["task"]))
    models = units.in_order(found["model"])
    named = [textwrap.fill(task, _TASK_WIDTH) for task in tasks]
    lines = sum(name.count("\n") + 1 for name in named)
    figure = Figure(figsize=(drawing.WIDTH, 0.18 * (len(tasks) + lines) + 1.9), facecolor="none")
    figure.set_layout_engine("constrained", w_pad=0.1)
    axes = figure.subplots(1, len(splits), squeeze=False, sharey=True)
    for ax, split in zip(axes.flat, splits, strict=True):
        cells = found[found["split"] == split].pivot_table(index="task", columns="model", values="right")
        _heat(ax, cells.reindex(index=tasks, columns=models).set_axis(named, axis="index"), units.RANGES[split])
    drawing.legend(figure, [Line2D([], [], linestyle="", label=_RIGHT)])
    return figure


_RIGHT = "mean over seeds, % right"
_TASK_WIDTH = 42  # characters of a task's label before it goes on in the next line


def _heat(ax: Axes, cells: pd.DataFrame, title: str) -> None:
    numbers = cells.to_numpy(dtype=float)  # without names, which seaborn would parse as mathematics
    sns.heatmap(numbers, vmin=0, vmax=100, cmap="cividis", annot=True, fmt=".0f", ax=ax, cbar=False, linewidths=1)
    for text in ax.texts:
        text.set_color(_DARK if text.get_color() == ".15" else _LIGHT)
    drawing.finish(ax, title, "", "")
    ax.grid(visible=False)
    ax.tick_params(length=0)
    models = [units.model_name(model) for model in cells.columns]
    ax.set_xticks(np.arange(len(models)) + 0.5, models, rotation=20, ha="right", parse_math=False)
    ax.set_yticks(np.arange(len(cells)) + 0.5, cells.index, rotation=0, parse_math=False)
    ax.spines[:].set_visible(False)


# --- categories × models ---------------------------------------------------------------------------------------------
def category_scores(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean share right as in `task_scores` on each value of an axis that has names (COGS's types), with runs."""
    rows = []
    for contest in contests(results(side_by_side(runs))):
        for (model, metric), part in contest.measured.items():
            name, axis, category = schema.category_of(metric) or ("", "", "")
            split = name.partition("/")[0]
            if (
                contest.quantity.unit != "%"
                or split not in units.RANGES
                or name != schema.metric(split, contest.headline)
            ):
                continue
            score = float(part["value"].mean())
            right = 1 - score if contest.quantity.lower_is_better else score
            found = {"task": contest.name, "split": split, "axis": axis, "category": category, "model": model}
            rows.append(found | {"right": 100 * right, "n": len(part), "runs": " ".join(part["run_id"])})
    return pd.DataFrame(rows, columns=["task", "split", "axis", "category", "model", "right", "n", "runs"])


def category_map(runs: pd.DataFrame) -> Figure | None:
    """Categories × models, a panel for each task, split and axis that has names."""
    found = category_scores(runs)
    panels = [(labels, part) for labels, part in groups(found, "task", "split", "axis", sort=False)]
    if not panels:
        return None
    models = units.in_order(found["model"])
    counts = [part["category"].nunique() for _, part in panels]
    figure = Figure(figsize=(drawing.WIDTH, 0.3 * sum(counts) + 1.2 * len(panels) + 0.4), facecolor="none")
    figure.set_layout_engine("constrained", h_pad=0.08)
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=[count + 1 for count in counts])
    for ax, ((task, split, axis), part) in zip(axes.flat, panels, strict=True):
        cells = part.pivot_table(index="category", columns="model", values="right").reindex(columns=models)
        _heat(ax, cells, f"{task}, {units.RANGES[split]}, by {axis}")
    drawing.legend(figure, [Line2D([], [], linestyle="", label=_RIGHT)])
    return figure


# --- accuracy against cost -------------------------------------------------------------------------------------------
ROOM = 2.3  # the least factor on either side of the points: two numbers of 1, 2, 5, 10, … fit in any case
COSTS = ((schema.TRAIN_FLOPS, "training FLOPs"), (schema.TRAIN_SECONDS, "training time, s"))


def costs_and_scores(runs: pd.DataFrame) -> pd.DataFrame:
    """Of every run the test score and what its training cost in all, in FLOPs or else in seconds (`of`)."""
    rows = []
    for contest in contests(results(side_by_side(runs))):
        name = schema.metric(schema.TEST, contest.headline)
        metric, words = next(((m, w) for m, w in COSTS if (contest.rows["metric"] == m).any()), COSTS[-1])
        spent = contest.rows[contest.rows["metric"] == metric].groupby("run_id")["value"].max()
        scores = contest.rows.loc[contest.rows["metric"] == name, ["model", "seed", "run_id", "value"]]
        both = scores.rename(columns={"value": "score"}).merge(spent.rename("cost").reset_index(), on="run_id")
        rows.append(both.assign(task=contest.name, of=words, metric=contest.headline))
    columns = ["task", "model", "seed", "run_id", "cost", "of", "score", "metric"]
    return pd.concat(rows, ignore_index=True)[columns] if rows else pd.DataFrame(columns=columns)


def pareto(runs: pd.DataFrame) -> Figure | None:
    """Test score against the cost of training, a panel per task: seeds small, means large, the front as a line."""
    found = costs_and_scores(runs)
    if found.empty:
        return None
    style = drawing.look(found["model"])
    tasks = list(dict.fromkeys(found["task"]))
    figure, axes = drawing.panels(len(tasks))
    for ax, task in zip(axes, tasks, strict=True):
        own = found[found["task"] == task]
        quantity = units.of(own["metric"].iloc[0])
        means = own.groupby("model")[["cost", "score"]].mean()
        for model, seeds in own.groupby("model"):
            look: dict[str, Any] = {"color": style.color[str(model)], "marker": style.marker[str(model)]}
            look |= {"linestyle": "", "markeredgewidth": 0}
            ax.plot(seeds["cost"], seeds["score"] * quantity.scale, markersize=4, alpha=0.5, **look)
            mean = means.loc[model]
            ax.plot([mean["cost"]], [mean["score"] * quantity.scale], markersize=9, **look)
        edge = front(means["cost"].to_numpy(), quantity.direction * means["score"].to_numpy())
        line = means.iloc[edge]
        best = line["score"] * quantity.scale
        ax.step(line["cost"], best, where="post", color=MUTED, linewidth=1, linestyle=":", zorder=0)
        ax.set_xscale("log")
        ax.set_xlim(own["cost"].min() / ROOM, own["cost"].max() * ROOM)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=5))
        ax.xaxis.set_major_formatter(FuncFormatter(_cost))
        ax.xaxis.set_minor_locator(NullLocator())
        drawing.score_limits(ax, quantity)
        drawing.finish(ax, task, own["of"].iloc[0], f"test {quantity.title}")
    drawing.legend_of_models(figure, style, found["model"])
    return figure


def _cost(value: float, _: int) -> str:
    """``"2,000"``, ``"2e11"``."""
    return f"{value:,.0f}" if value < 1e5 else f"{value:.0e}".replace("e+", "e")


def front(cost: np.ndarray, score: np.ndarray) -> list[int]:
    """Places of the points that no other beats in both cost (less) and score (more), by ascending cost."""
    order = np.lexsort((-score, cost))
    kept: list[int] = []
    for place in order:
        if not kept or score[place] > score[kept[-1]]:
            kept.append(int(place))
    return kept
