"""The figures of what models learnt, each a function of the table of runs.

A figure function returns None where the runs hold nothing to draw. A model has the same colour and marker in all of
them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis import ablations, drawing, units
from analysis.drawing import INK, MUTED, RULE
from analysis.evidence import contests
from analysis.runs import family, groups, results
from analysis.variants import side_by_side
from experiments import schema

_LINES = {schema.TEST: "-", schema.LONGER: (0, (4, 2))}


# --- scores ----------------------------------------------------------------------------------------------------------
def score_by_axis(runs: pd.DataFrame) -> Figure | None:
    """Headline score against each axis, a panel per task and axis; out of range dashed on a shaded ground."""
    measured = results(side_by_side(runs))
    panels = [
        (contest, axis)
        for contest in contests(measured)
        for axis in sorted({*contest.axes(schema.TEST), *contest.axes(schema.LONGER)})
    ]
    if not panels:
        return None
    style = drawing.look_of(measured, schema.LEARN)
    figure, axes = drawing.panels(len(panels))
    drawn: set[str] = set()
    for ax, (contest, axis) in zip(axes, panels, strict=True):
        curves = {}
        for split, line in _LINES.items():
            rows = contest.rows[contest.rows["metric"] == schema.metric(split, contest.headline, axis)]
            if not rows.empty:
                curves[split] = rows.assign(value=rows["value"] * contest.quantity.scale)
                drawing.lines(ax, curves[split], style, linestyle=line)
                drawn |= set(rows["model"])
        drawing.score_limits(ax, contest.quantity)
        drawing.scale_x(ax, pd.concat(curves)["at"])
        if schema.LONGER in curves:
            _out_of_range(ax, curves)
        if contest.headline == schema.TOKEN_ACCURACY:
            for chance in contest.rows["chance"].dropna().unique()[:1]:
                ax.axhline(100 * chance, color=MUTED, linestyle=":", linewidth=1.2, zorder=1)
                ax.annotate(
                    "chance",
                    (0, 100 * chance),
                    xycoords=("axes fraction", "data"),
                    xytext=(3, 2),
                    textcoords="offset points",
                    color=MUTED,
                    fontsize=8,
                )
        drawing.finish(ax, contest.name, axis, contest.quantity.title)
    drawing.legend_of_models(figure, style, drawn)
    return figure


def _out_of_range(ax: Axes, curves: dict[str, pd.DataFrame]) -> None:
    """Shades what lies beyond training; where the two ranges overlap on this axis, dashes alone tell them apart."""
    left, right = ax.get_xlim()
    beyond = curves[schema.LONGER]
    if schema.TEST in curves and beyond["at"].min() > curves[schema.TEST]["at"].max():
        edge = (curves[schema.TEST]["at"].max() + beyond["at"].min()) / 2
        ax.axvspan(edge, right, color=MUTED, alpha=0.10, linewidth=0, zorder=0)
        ax.set_xlim(left, right)
    low = bool(beyond["value"].mean() < np.mean(ax.get_ylim()))  # then the words stand above the curves
    ax.annotate(
        "out of range",
        (1, 1 if low else 0),
        xycoords="axes fraction",
        xytext=(-4, -4 if low else 4),
        textcoords="offset points",
        ha="right",
        va="top" if low else "bottom",
        color=MUTED,
        fontsize=8,
    )


# --- learning curves -------------------------------------------------------------------------------------------------
def learning_by_step(runs: pd.DataFrame) -> Figure | None:
    """Validation score against the training step: every seed thin, their mean thick."""
    return _learning(runs, None)


def learning_by_seconds(runs: pd.DataFrame) -> Figure | None:
    """Validation score against the seconds spent in training, evaluation left out."""
    return _learning(runs, schema.TRAIN_SECONDS)


def learning_by_flops(runs: pd.DataFrame) -> Figure | None:
    """Validation score against the operations spent in training, analytic."""
    return _learning(runs, schema.TRAIN_FLOPS)


_CLOCKS = {None: "training step", schema.TRAIN_SECONDS: "training time, s", schema.TRAIN_FLOPS: "training FLOPs"}


def _learning(runs: pd.DataFrame, clock: str | None) -> Figure | None:
    measured = results(side_by_side(runs))
    panels = []
    for contest in contests(measured):
        curve = contest.rows[contest.rows["metric"] == schema.metric(schema.VALIDATION, contest.headline)]
        curve = curve.assign(x=curve["at"])
        if clock is not None:
            spent = contest.rows.loc[contest.rows["metric"] == clock, ["run_id", "at", "value"]]
            curve = curve.drop(columns="x").merge(spent.rename(columns={"value": "x"}), on=["run_id", "at"])
        if not curve.empty:
            panels.append((contest, curve))
    if not panels:
        return None
    style = drawing.look_of(measured, schema.LEARN)
    figure, axes = drawing.panels(len(panels))
    for ax, (contest, curve) in zip(axes, panels, strict=True):
        scaled = curve.assign(value=curve["value"] * contest.quantity.scale)
        for (model, _), seed in groups(scaled.sort_values("x"), "model", "run_id"):
            ax.plot(seed["x"], seed["value"], color=style.color[model], linewidth=0.8, alpha=0.45)
        # At a step that every seed of a model reached, so that the mean does not jump where one of them ends.
        seeds = scaled.groupby("model")["run_id"].transform("nunique")
        shared = scaled[scaled.groupby(["model", "at"])["run_id"].transform("nunique") == seeds]
        means = shared.groupby(["model", "at"], as_index=False)[["x", "value"]].mean()
        for model, mean in means.groupby("model"):
            ax.plot(mean["x"], mean["value"], color=style.color[str(model)], linewidth=2)
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        ax.set_xlim(left=0)
        drawing.finish(ax, contest.name, _CLOCKS[clock], f"validation {contest.quantity.title}")
        drawing.score_limits(ax, contest.quantity)
    drawing.legend_of_models(figure, style, {model for _, curve in panels for model in curve["model"]}, markers=False)
    return figure


# --- components ------------------------------------------------------------------------------------------------------
def components(runs: pd.DataFrame) -> Figure | None:
    """By how much the full model leads each variant: a panel per full model, a row per variant, pooled and by task."""
    found = ablations.effects(runs)
    found = found.assign(unit=[ablations.gap(headline).unit for headline in found["headline"]])
    panels = []
    for (grid, full, unit), rows in groups(found, "grid", "reference", "unit", sort=False):
        measured = [variant for variant in ablations.by_effect(rows).values() if variant["n"].any()]
        if measured:
            panels.append((grid, full, unit, measured))
    if not panels:
        return None
    lanes = {schema.TEST: 0.0} | ({schema.LONGER: 0.36} if (found["split"] == schema.LONGER).any() else {})
    middle = sum(lanes.values()) / 2
    counts = [len(variants) for *_, variants in panels]
    height = (0.18 + 0.16 * len(lanes)) * sum(counts) + 0.85 * len(panels) + 0.5  # inches
    figure = Figure(figsize=(drawing.WIDTH, height), facecolor="none")
    figure.set_layout_engine("constrained", h_pad=0.1)
    axes = list(figure.subplots(len(panels), squeeze=False, height_ratios=[count + 0.3 for count in counts]).flat)
    several_grids = len(found["grid"].unique()) > 1
    first: dict[str, Axes] = {}  # of a unit: the panels after it have the same scale
    for ax, (grid, full, unit, variants) in zip(axes, panels, strict=True):
        if first.setdefault(unit, ax) is not ax:
            ax.sharex(first[unit])
        for place, rows in enumerate(variants):
            ax.axhline(place + middle + 0.5, color=RULE, linewidth=0.7, zorder=0)
            for split, lane in lanes.items():
                _forest(ax, place + lane, rows[rows["split"] == split], schema.MODEL_COLORS.get(family(full), INK))
        ax.axvline(0, color=INK, linewidth=1, zorder=1)
        if unit == "points":
            ax.axvspan(-100 * ablations.MARGIN, 100 * ablations.MARGIN, color=MUTED, alpha=0.14, linewidth=0, zorder=0)
        name = units.model_name(full) + (f", grid {grid}" if several_grids else "")
        drawing.finish(ax, name, f"full model minus variant, {unit}", "")
        places = [place + middle for place in range(len(variants))]
        ax.set_yticks(places, [_component(rows) for rows in variants], parse_math=False)
        ax.set_ylim(len(variants) - 0.5 + middle, middle - 0.5)  # the first variant on top
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False, axis="y")
    _forest_legend(figure, found)
    return figure


def _component(rows: pd.DataFrame) -> str:
    """What a variant changes and, where it was not measured on all tasks that count, on how many it was."""
    pooled = rows[rows["task"] == ""].iloc[0]
    fewer = pooled["tasks"] < pooled["of_tasks"]
    return pooled["change"] + (f" ({pooled['tasks']} of {pooled['of_tasks']} tasks)" if fewer else "")


_POOLED: dict[str, Any] = {"marker": "D", "markersize": 7.5}
_TASK: dict[str, Any] = {"marker": "o", "markersize": 4.5, "linestyle": "", "alpha": 0.85}
_UNPOOLED: dict[str, Any] = _TASK | {"marker": "x", "markeredgewidth": 1.5}
_WIDTHS = {schema.TEST: 2.6, schema.LONGER: 1.4}  # of an interval's line


def _forest(ax: Axes, height: float, rows: pd.DataFrame, color: str) -> None:
    """The numbers of one variant on one split: hollow out of range."""
    row: Any  # a named tuple
    for row in rows.itertuples():
        scale = ablations.gap(row.headline).scale
        fill: dict[str, Any] = {"color": color, "markerfacecolor": "none" if row.split == schema.LONGER else color}
        if row.task:
            ax.plot([scale * row.estimate], [height], **fill, **_TASK if row.trained and row.reached else _UNPOOLED)
        else:
            ends = [scale * row.low, scale * row.high]
            ax.plot(ends, [height, height], color=color, linewidth=_WIDTHS[row.split], zorder=3)
            ax.plot([scale * row.estimate], [height], **fill, **_POOLED, zorder=3)


def _forest_legend(figure: Figure, found: pd.DataFrame) -> None:
    def handle(label: str, **look: Any) -> Line2D:
        return Line2D([], [], color=MUTED, label=label, **look)

    handles: list[Artist] = [handle("pooled over tasks, in range", linewidth=_WIDTHS[schema.TEST], **_POOLED)]
    if (found["split"] == schema.LONGER).any():
        hollow = _POOLED | {"linewidth": _WIDTHS[schema.LONGER], "markerfacecolor": "none"}
        handles.append(handle("out of range", **hollow))
    handles.append(handle("one task", **_TASK))
    if not found["trained"].all():
        handles.append(handle("a task on which the full model is not trained", **_UNPOOLED))
    if not found["reached"].all():
        handles.append(handle("a task with nothing right", **_UNPOOLED))
    if (found["unit"] == "points").any():
        handles.append(Patch(color=MUTED, alpha=0.14, linewidth=0, label=f"±{100 * ablations.MARGIN:.0f} points"))
    drawing.legend(figure, handles)
