"""Figures of what goes on inside the models: how far back the loss reaches, and where attention looks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator

from analysis import drawing, units
from analysis.attention_maps import AttentionMap
from analysis.drawing import MUTED, Look
from analysis.gradients import NORM, PHASES, SHARE, curves
from analysis.runs import groups
from analysis.tables import seed_mean
from experiments import schema

# What the panels of the gradients show, from left to right.
_PANELS = (
    (schema.INITIAL, NORM, PHASES[schema.INITIAL]),
    (schema.TRAINED, NORM, PHASES[schema.TRAINED]),
    (schema.TRAINED, SHARE, f"{PHASES[schema.TRAINED]}, over the logits'"),
)


# --- gradients -------------------------------------------------------------------------------------------------------
def gradient_reach(runs: pd.DataFrame) -> Figure | None:
    """Norm of the gradient against distance, relative to the shortest; a row of panels per task."""
    found = curves(runs)
    tasks = list(groups(found, "grid", "task"))
    if not tasks:
        return None
    style = drawing.look(found["model"])
    figure, axes = drawing.panels(len(_PANELS) * len(tasks), columns=len(_PANELS))
    for ax, (((grid, task), rows), (phase, what, words)) in zip(axes, itertools.product(tasks, _PANELS), strict=True):
        curve = rows[rows["phase"] == phase].rename(columns={f"relative_{what}": "relative"})
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        _reach_of_models(ax, curve.dropna(subset="relative"), style)
        drawing.scale_x(ax, rows["at"], logarithmic=True)
        ax.yaxis.set_major_locator(LogLocator(numticks=7))
        ax.yaxis.set_minor_locator(NullLocator())
        ax.axhline(0.5, color=MUTED, linestyle=":", linewidth=1.2, zorder=1)
        name = ", ".join(filter(None, (task if len(tasks) > 1 else "", grid if len(set(found["grid"])) > 1 else "")))
        title = f"{name}\n{words}" if name else words
        drawing.finish(ax, title, "distance, tokens", f"norm, over that at distance {rows['at'].min():g}")
    drawing.legend_of_models(figure, style, found["model"])
    return figure


def _reach_of_models(ax: Axes, curve: pd.DataFrame, style: Look) -> None:
    """Geometric means over seeds with their intervals; a cross below where a seed has exactly 0."""
    for model in units.in_order(curve["model"]):
        own = curve[curve["model"] == model]
        by_distance = {at: own.loc[own["at"] == at, "relative"] for at in sorted(own["at"].unique())}
        left = {at: values for at, values in by_distance.items() if (values > 0).all()}
        vanished = [at for at in by_distance if at not in left]
        logarithms = [seed_mean(np.log(values)) for values in left.values()]
        color, marker = style.color[model], style.marker[model]
        means = np.exp([one.estimate for one in logarithms])
        ax.plot(list(left), means, color=color, marker=marker, linewidth=1.8, markersize=5, markeredgewidth=0)
        ends = np.exp([[one.low for one in logarithms], [one.high for one in logarithms]])
        ax.fill_between(list(left), *ends, color=color, alpha=0.18, linewidth=0)
        bottom = ax.get_xaxis_transform()
        ax.plot(vanished, [0.02] * len(vanished), color=color, marker="x", linestyle="", transform=bottom)


# --- attention -------------------------------------------------------------------------------------------------------
MOST_TASKS = 4
_CELL = 0.24  # inches of a row of a map


def shown(maps: Sequence[AttentionMap]) -> list[list[AttentionMap]]:
    """The maps that are drawn: of up to `MOST_TASKS` tasks, those with most models first, the middle sequence.

    A list a task, a map a model, all of the same sequence; a model that was run on other data is left out.
    """
    tasks: dict[tuple[str, str], list[AttentionMap]] = {}
    for one in maps:
        tasks.setdefault((one.grid, one.task), []).append(one)
    found = []
    for same in tasks.values():
        example = sorted({one.example for one in same})
        middle = [one for one in same if one.example == example[len(example) // 2]]
        first = middle[0]
        alike = {one.model: one for one in middle if (one.source, one.target) == (first.source, first.target)}
        found.append([alike[model] for model in units.in_order(alike)])
    return sorted(found, key=lambda row: -len(row))[:MOST_TASKS]


def attention(maps: Sequence[AttentionMap]) -> Figure | None:
    """Source symbols from left to right, output symbols from top to bottom; the models of a task side by side."""
    rows = shown(maps)
    if not rows:
        return None
    columns = max(map(len, rows))
    heights = [1.4 + _CELL * max(len(row[0].target), 2) for row in rows]
    figure = Figure(figsize=(drawing.WIDTH * max(columns, 2) / max(columns, 3), sum(heights) + 0.5), facecolor="none")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for axes, row in zip(grid, rows, strict=True):
        for empty in axes[len(row) :]:
            empty.remove()
        for ax, one in zip(axes, row, strict=False):
            sns.heatmap(one.weights, vmin=0, vmax=1, cmap="cividis", ax=ax, cbar=False)
            drawing.finish(ax, f"{units.model_name(one.model)}\n{one.task}", "source", "output")
            ax.grid(visible=False)
            ax.tick_params(length=0)
            turned = 90 if _wide(one.source) else 0
            ax.set_xticks(np.arange(len(one.source)) + 0.5, one.source, rotation=turned, parse_math=False)
            ax.set_yticks(np.arange(len(one.target)) + 0.5, one.target, rotation=0, parse_math=False)
            ax.spines[:].set_visible(False)
    drawing.legend(figure, [Line2D([], [], linestyle="", label="weight: 0 dark, 1 bright")])
    return figure


def _wide(symbols: Sequence[str]) -> bool:
    """Whether the symbols would touch each other side by side."""
    return max(map(len, symbols)) * len(symbols) > 45
