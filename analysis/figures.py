"""The figures of a report, each a function of the table of runs.

A figure function returns None where the runs hold nothing to draw. A model has the same colour and marker in all of
them. Nothing here touches pyplot's global state; backgrounds are transparent and the neutral colours are `INK`,
`MUTED` and `RULE`, so that a page can exchange them in the dark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator

from analysis import scaling, units
from analysis.evidence import LEAST_LENGTHS, Sweep, contests, sweeps
from analysis.runs import family, results
from analysis.tables import seed_mean
from experiments import schema

INK, MUTED, RULE = "#1f2430", "#6a7282", "#d5d9e0"
COLUMNS = 3
WIDTH, PANEL_WIDTH = 11.1, 5.4  # inches: of a figure, of a panel at most
_MARKERS = {"lstm": "o", "lstm_attention": "s", "transformer": "D"}
_OTHER_MARKERS = ("^", "v", "P", "X", "<", ">")
_LINES = {schema.TEST: "-", schema.LONGER: (0, (4, 2))}


@dataclass(frozen=True)
class Plot:
    """A figure of the report: file name, heading, caption and the function that draws it."""

    name: str
    title: str
    caption: str
    draw: Callable[[pd.DataFrame], Figure | None]


@dataclass(frozen=True)
class Look:
    """Colour and marker of each model, by label."""

    color: dict[str, str]
    marker: dict[str, str]


def look(models: Iterable[str]) -> Look:
    """Fixed by schema.MODEL_COLORS for the plain models; variants take the other colours in the order of their labels.

    A variant that is the only one of its family among them takes the family's.
    """
    labels = units.in_order(models)
    families = [family(label) for label in labels]
    color, marker, others = {}, {}, 0
    for label, base in zip(labels, families, strict=True):
        if base in schema.MODEL_COLORS and (label == base or families.count(base) == 1):
            color[label], marker[label] = schema.MODEL_COLORS[base], _MARKERS[base]
        else:
            color[label] = schema.OTHER_COLORS[others % len(schema.OTHER_COLORS)]
            marker[label] = _OTHER_MARKERS[others % len(_OTHER_MARKERS)]
            others += 1
    return Look(color, marker)


def look_of(runs: pd.DataFrame, kind: str) -> Look:
    """Of the models that have runs of this kind: those are the ones that stand side by side in a figure."""
    return look(runs.loc[runs["kind"] == kind, "model"])


# --- scores ----------------------------------------------------------------------------------------------------------
def score_by_axis(runs: pd.DataFrame) -> Figure | None:
    """Headline score against each axis, a panel per task and axis; out of range dashed on a shaded ground."""
    measured = results(runs)
    panels = [
        (contest, axis)
        for contest in contests(measured)
        for axis in sorted({*contest.axes(schema.TEST), *contest.axes(schema.LONGER)})
    ]
    if not panels:
        return None
    style = look_of(measured, schema.LEARN)
    figure, axes = _panels(len(panels))
    drawn: set[str] = set()
    for ax, (contest, axis) in zip(axes, panels, strict=True):
        curves = {}
        for split, line in _LINES.items():
            rows = contest.rows[contest.rows["metric"] == schema.metric(split, contest.headline, axis)]
            if not rows.empty:
                curves[split] = rows.assign(value=rows["value"] * contest.quantity.scale)
                _lines(ax, curves[split], style, linestyle=line)
                drawn |= set(rows["model"])
        _score_limits(ax, contest.quantity)
        _scale_x(ax, pd.concat(curves)["at"])
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
        _finish(ax, contest.name, axis, contest.quantity.title)
    _legend(figure, style, drawn)
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


def _learning(runs: pd.DataFrame, clock: str | None) -> Figure | None:
    measured = results(runs)
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
    style = look_of(measured, schema.LEARN)
    figure, axes = _panels(len(panels))
    for ax, (contest, curve) in zip(axes, panels, strict=True):
        scaled = curve.assign(value=curve["value"] * contest.quantity.scale)
        sns.lineplot(
            scaled,
            x="x",
            y="value",
            hue="model",
            units="run_id",
            estimator=None,
            ax=ax,
            palette=style.color,
            linewidth=0.8,
            alpha=0.45,
            legend=False,
        )
        # At a step that every seed of a model reached, so that the mean does not jump where one of them ends.
        seeds = scaled.groupby("model")["run_id"].transform("nunique")
        shared = scaled[scaled.groupby(["model", "at"])["run_id"].transform("nunique") == seeds]
        means = shared.groupby(["model", "at"], as_index=False)[["x", "value"]].mean()
        sns.lineplot(
            means, x="x", y="value", hue="model", ax=ax, palette=style.color, linewidth=2, legend=False, errorbar=None
        )
        ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        ax.set_xlim(left=0)
        name = "training step" if clock is None else "training time, s"
        _finish(ax, contest.name, name, f"validation {contest.quantity.title}")
        _score_limits(ax, contest.quantity)
    _legend(figure, style, {model for _, curve in panels for model in curve["model"]}, markers=False)
    return figure


# --- cost ------------------------------------------------------------------------------------------------------------
_COSTS = (
    schema.TRAIN_STEP_SECONDS,
    schema.ENCODE_SECONDS,
    schema.DECODE_SECONDS_PER_TOKEN,
    schema.PEAK_MEMORY,
)


def cost_by_length(runs: pd.DataFrame) -> Figure | None:
    """Time and memory against length, both logarithmic, the fitted exponent at the end of each line."""
    measured = results(runs)
    found = list(sweeps(measured))
    panels = [(sweep, metric) for sweep in found for metric in _COSTS if (sweep.rows["metric"] == metric).any()]
    if not panels:
        return None
    style = look_of(measured, schema.EFFICIENCY)
    figure, axes = _panels(len(panels), columns=2)
    for ax, (sweep, metric) in zip(axes, panels, strict=True):
        quantity = units.of(metric)
        curve = sweep.rows[(sweep.rows["metric"] == metric) & (sweep.rows["value"] > 0)]
        _lines(ax, curve.assign(value=curve["value"] * quantity.scale), style)
        if metric == schema.TRAIN_STEP_SECONDS:
            _quartiles(ax, sweep, style, quantity)
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        _scale_x(ax, curve["at"], logarithmic=True)
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5), numticks=8))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
        ax.yaxis.set_minor_locator(NullLocator())
        _exponents(ax, curve.assign(value=curve["value"] * quantity.scale), style)
        title = f"{quantity.name}\n{sweep.where}" if len(found) > 1 else quantity.name
        _finish(ax, title, "length, tokens", quantity.unit)
    if len(found) == 1:
        figure.supxlabel(found[0].where, fontsize=9, color=MUTED)
    _legend(figure, style, {model for sweep, _ in panels for model in sweep.rows["model"]})
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


def _exponents(ax: Axes, curve: pd.DataFrame, style: Look) -> None:
    labels = []
    for model, rows in curve.groupby("model"):
        means = rows.groupby("at")["value"].mean()
        if len(means) >= LEAST_LENGTHS:
            exponent = scaling.fit(means.index, means).exponent
            labels.append(
                (float(np.log(means.iloc[-1])), means.index[-1], f"$\\mathregular{{n^{{{exponent:.2f}}}}}$", str(model))
            )
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


# --- shared ----------------------------------------------------------------------------------------------------------
def _panels(count: int, columns: int = COLUMNS, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    columns = min(columns, count)
    width = min(WIDTH / columns, PANEL_WIDTH)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows + 0.5), facecolor="none")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)  # inches
    grid = figure.subplots(rows, columns, squeeze=False)
    for empty in grid.flat[count:]:
        empty.remove()
    return figure, list(grid.flat[:count])


def _lines(ax: Axes, curve: pd.DataFrame, style: Look, linestyle: object = "-") -> None:
    """Mean over seeds with its 95 % interval as a band, a line per model."""

    def interval(values: pd.Series) -> tuple[float, float]:
        found = seed_mean(values)
        return found.low, found.high

    order = units.in_order(curve["model"])
    sns.lineplot(
        curve,
        x="at",
        y="value",
        hue="model",
        hue_order=order,
        style="model",
        style_order=order,
        dashes=False,
        markers=style.marker,
        palette=style.color,
        errorbar=interval,
        ax=ax,
        linewidth=1.8,
        markersize=5.5,
        markeredgewidth=0,
        linestyle=linestyle,
        err_kws={"alpha": 0.18, "linewidth": 0},
        legend=False,
    )


def _scale_x(ax: Axes, places: pd.Series, logarithmic: bool | None = None) -> None:
    """Logarithmic where the values span four doublings; ticks at measured values."""
    values = np.unique(places)
    if logarithmic is None:
        logarithmic = bool(values[0] > 0 and values[-1] >= 16 * values[0])
    if logarithmic:
        ax.set_xscale("log", base=2)
        powers = values[np.log2(values) % 1 == 0]
        values = powers if len(powers) > 1 else values
    if logarithmic or len(values) <= 7:
        ax.xaxis.set_major_locator(FixedLocator(list(values[:: -(-len(values) // 9)])))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _score_limits(ax: Axes, quantity: units.Quantity) -> None:
    if quantity.unit == "%" and not quantity.lower_is_better:
        ax.set_ylim(-3, 103)
    else:
        ax.set_ylim(bottom=0)


def _finish(ax: Axes, title: str, x: str, y: str) -> None:
    ax.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK)
    ax.set_xlabel(x, fontsize=9.5, color=INK)
    ax.set_ylabel(y, fontsize=9.5, color=INK)
    ax.set_facecolor("none")
    ax.grid(visible=True, color=RULE, linewidth=0.7)
    ax.set_axisbelow(True)
    # Explicitly, not by a style: ticks are made when drawn, long after a style's context has ended.
    ax.tick_params(colors=MUTED, labelcolor=INK, labelsize=8.5, length=3)
    ax.spines[:].set_color(MUTED)
    sns.despine(ax=ax)


def _legend(figure: Figure, style: Look, models: Iterable[str], *, markers: bool = True) -> None:
    handles = [
        Line2D(
            [],
            [],
            color=style.color[m],
            marker=style.marker[m] if markers else "",
            markeredgewidth=0,
            linewidth=2,
            label=units.model_name(m),
        )
        for m in units.in_order(models)
    ]
    figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=max(1, min(len(handles), 5)),
        frameon=False,
        labelcolor=INK,
        fontsize=10,
    )


PLOTS: Sequence[Plot] = (
    Plot(
        "scores",
        "Scores along each axis",
        "Headline score on the test sets against distance, length or number of items; a bin stands at its upper edge."
        " Lines are means over seeds, bands their 95 % intervals. Solid: in the range of training. Dashed: out of it.",
        score_by_axis,
    ),
    Plot(
        "learning_by_step",
        "Learning, by training step",
        "Validation score at each evaluation. Thin lines are seeds, thick ones their mean.",
        learning_by_step,
    ),
    Plot(
        "learning_by_seconds",
        "Learning, by time spent in training",
        "The same evaluations against the seconds spent in training until then, evaluation left out.",
        learning_by_seconds,
    ),
    Plot(
        "cost",
        "Time and memory against length",
        "Both axes are logarithmic, so that a power law is a straight line; its fitted exponent stands at the line's"
        " end. Encoding is of a batch of sources; a decoding step is one token of every sequence in it. Bands are"
        " 95 % intervals over seeds or, with one seed, the quartiles of the repeats of a training step.",
        cost_by_length,
    ),
)
