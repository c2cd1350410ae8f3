"""Figures of the sweeps: time and memory against length, fitted slopes, and where the models change places."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from analysis import drawing, scaling, units
from analysis.drawing import INK, MUTED, Look
from analysis.evidence import LEAST_LENGTHS, Sweep, in_common, sweeps
from analysis.runs import results
from experiments import schema

_COSTS = (
    schema.TRAIN_STEP_SECONDS,
    schema.ENCODE_SECONDS,
    schema.DECODE_SECONDS_PER_TOKEN,
    schema.PEAK_MEMORY,
)


def cost_by_length(runs: pd.DataFrame) -> Figure | None:
    """Time and memory against length, both logarithmic: power laws, fitted and dashed, their exponents, crossovers."""
    measured = results(runs)
    found = list(sweeps(measured[measured["value"] > 0]))  # 0 is a peak below the resolution of its measurement
    panels = [(sweep, metric) for sweep in found for metric in _COSTS if (sweep.rows["metric"] == metric).any()]
    if not panels:
        return None
    style = drawing.look_of(measured, schema.EFFICIENCY)
    figure, axes = drawing.panels(len(panels), columns=2)
    for ax, (sweep, metric) in zip(axes, panels, strict=True):
        quantity = units.of(metric)
        curve = sweep.rows[sweep.rows["metric"] == metric]
        drawing.lines(ax, curve.assign(value=curve["value"] * quantity.scale), style)
        if metric == schema.TRAIN_STEP_SECONDS:
            _quartiles(ax, sweep, style, quantity)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        drawing.scale_x(ax, curve["at"], logarithmic=True)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        ax.yaxis.set_minor_locator(NullLocator())
        _exponents(ax, sweep, metric, quantity, style)
        _crossovers(ax, sweep, metric, quantity)
        title = f"{quantity.name}\n{sweep.where}" if len(found) > 1 else quantity.name
        drawing.finish(ax, title, "length, tokens", quantity.unit)
    if len(found) == 1:
        place = ", ".join(filter(None, (found[0].hardware, found[0].where)))
        figure.supxlabel(place, fontsize=9, color=MUTED, parse_math=False)
    drawing.legend_of_models(figure, style, {model for sweep, _ in panels for model in sweep.rows["model"]})
    return figure


def _quartiles(ax: Axes, sweep: Sweep, style: Look, quantity: units.Quantity) -> None:
    """With one seed there is no interval over seeds: the band is the quartiles of the repeats."""
    for model, rows in sweep.rows.groupby("model"):
        if len(rows["run_id"].unique()) > 1:
            continue
        ends = [
            rows[rows["metric"] == name].set_index("at")["value"].sort_index() * quantity.scale
            for name in (schema.TRAIN_STEP_SECONDS_LOW, schema.TRAIN_STEP_SECONDS_HIGH)
        ]
        low, high = ends[0].align(ends[1], join="inner")
        ax.fill_between(low.index, low, high, color=style.color[str(model)], alpha=0.18, linewidth=0)


def _exponents(ax: Axes, sweep: Sweep, metric: str, quantity: units.Quantity, style: Look) -> None:
    """The fitted laws, whose exponents are those that the sentences on the claims state and growth.csv holds."""
    labels = []
    for model in units.in_order(sweep.rows["model"]):
        curve = sweep.curve(model, metric)
        if curve.shape[1] >= LEAST_LENGTHS:
            law = scaling.mean_law(curve.columns, curve)
            ends = np.array([curve.columns.min(), curve.columns.max()])
            fitted = [quantity.scale * law.at(end) for end in ends]
            ax.plot(ends, fitted, color=style.color[model], linewidth=1, linestyle=(0, (4, 3)), alpha=0.7, zorder=1)
            label = f"$\\mathregular{{n^{{{law.exponent:.2f}}}}}$"
            labels.append((math.log(quantity.scale * curve[ends[1]].mean()), ends[1], label, model))
    low, high = np.log(ax.get_ylim())
    height, place = 0.075 * (high - low), -np.inf
    for y, x, text, model in sorted(labels):
        place = max(y, place + height)  # labels of neighbouring lines are pushed apart
        ax.annotate(
            text,
            (x, np.exp(place)),
            xytext=(7, 0),
            textcoords="offset points",
            va="center",
            fontsize=11,
            color=style.color[model],
            annotation_clip=False,
        )


def _crossovers(ax: Axes, sweep: Sweep, metric: str, quantity: units.Quantity) -> None:
    """Where two curves change places: a ring and the length; the interval as a bar, up to the ends of the range."""
    for models in itertools.combinations(units.in_order(sweep.rows["model"]), 2):
        a, b = in_common(*(sweep.curve(model, metric) for model in models))
        if a.empty or a.shape[1] < 2:
            continue
        lengths = a.columns.to_numpy(dtype=float)
        turn = scaling.crossover_interval(lengths, a, b)
        if turn is None:
            continue
        mean = np.log(a.to_numpy(dtype=float)).mean(axis=0)
        height = quantity.scale * math.exp(np.interp(math.log(turn.estimate), np.log(lengths), mean))
        if turn.known:
            ends = np.clip([turn.low, turn.high], lengths[0], lengths[-1])
            ax.plot(ends, [height, height], color=INK, linewidth=1.4, zorder=4)
        ax.plot([turn.estimate], [height], marker="o", markersize=9, color=INK, markerfacecolor="none", zorder=4)
        ax.annotate(
            f"{turn.estimate:,.0f}",
            (turn.estimate, height),
            xytext=(0, 9),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=INK,
        )
