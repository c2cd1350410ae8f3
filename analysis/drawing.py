"""What all figures share: colours and markers of models, panels, lines over seeds, axes and legends.

Nothing here touches pyplot's global state; backgrounds are transparent and the neutral colours are `INK`, `MUTED` and
`RULE`, so that a page can exchange them in the dark. A dollar in a name or symbol of the user's is a dollar: such text
is never parsed as mathematics.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from analysis import units
from analysis.runs import family
from analysis.tables import seed_mean
from experiments import schema

INK, MUTED, RULE = "#1f2430", "#6a7282", "#d5d9e0"
COLUMNS = 3
MOST_TICKS = 9
LEAST_FACTOR = 1.6  # from one tick of a logarithmic axis to the next
BOLD_PER_INCH, AXIS = 11, 7  # characters: of a title, and of the width that numbers and name of a vertical axis take
WIDTH, PANEL_WIDTH = 11.1, 5.4  # inches: of a figure, of a panel at most
_MARKERS = {"lstm": "o", "lstm_attention": "s", "transformer": "D", "lstm_transformer": "P", "transformer_lstm": "X"}
_OTHER_MARKERS = ("^", "v", "<", ">", "p", "h")


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


def panels(count: int, columns: int = COLUMNS, height: float = 3.0) -> tuple[Figure, list[Axes]]:
    """A figure of `count` panels, each at least `height` inches high, in up to `columns` columns."""
    columns = min(columns, count)
    width = min(WIDTH / columns, PANEL_WIDTH)
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns, height * rows + 0.5), facecolor="none")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.1)  # inches
    grid = figure.subplots(rows, columns, squeeze=False)
    for empty in grid.flat[count:]:
        empty.remove()
    return figure, list(grid.flat[:count])


def lines(ax: Axes, curve: pd.DataFrame, style: Look, linestyle: object = "-") -> None:
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


def scale_x(ax: Axes, places: pd.Series, logarithmic: bool | None = None) -> None:
    """Logarithmic where the values span four doublings; ticks at measured values."""
    values = np.unique(places)
    if logarithmic is None:
        logarithmic = bool(values[0] > 0 and values[-1] >= 16 * values[0])
    if logarithmic:
        ax.set_xscale("log", base=2)
        powers = values[np.log2(values) % 1 == 0]
        values = powers if len(powers) > 1 else values
        values = _apart(values, lambda last, value: value >= LEAST_FACTOR * last)
        values = values[:: -(-len(values) // MOST_TICKS)]
    else:
        least = (values[-1] - values[0]) / MOST_TICKS
        values = _apart(values, lambda last, value: value - last >= least)
    ax.xaxis.set_major_locator(FixedLocator(list(values)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def _apart(values: np.ndarray, room: Callable[[float, float], bool]) -> np.ndarray:
    """Those of ascending values that leave room for their numbers."""
    kept = [values[0]]
    for value in values[1:]:
        if room(kept[-1], value):
            kept.append(value)
    return np.array(kept)


def score_limits(ax: Axes, quantity: units.Quantity) -> None:
    """All of an accuracy's range; of anything else, from zero."""
    if quantity.unit == "%" and not quantity.lower_is_better:
        ax.set_ylim(-3, 103)
    else:
        ax.set_ylim(0, 1.06 * ax.get_ylim()[1])


def finish(ax: Axes, title: str, x: str, y: str) -> None:
    """Title, names of the axes, and the colours that a page can exchange."""
    title = _wrapped(ax, title)
    ax.set_title(title, loc="left", fontsize=10.5, fontweight="bold", color=INK, parse_math=False)
    ax.set_xlabel(x, fontsize=9.5, color=INK, parse_math=False)
    ax.set_ylabel(y, fontsize=9.5, color=INK, parse_math=False)
    ax.set_facecolor("none")
    ax.grid(visible=True, color=RULE, linewidth=0.7)
    ax.set_axisbelow(True)
    # Explicitly, not by a style: ticks are made when drawn, long after a style's context has ended.
    ax.tick_params(colors=MUTED, labelcolor=INK, labelsize=8.5, length=3)
    ax.spines[:].set_color(MUTED)
    sns.despine(ax=ax)


def _wrapped(ax: Axes, title: str) -> str:
    """In lines that end before the next panel."""
    place, figure = ax.get_subplotspec(), ax.get_figure(root=True)
    assert place is not None
    assert figure is not None
    inches = figure.get_figwidth() / place.get_gridspec().ncols
    return "\n".join(textwrap.fill(line, int(inches * BOLD_PER_INCH) - AXIS) for line in title.split("\n"))


def legend_of_models(figure: Figure, style: Look, models: Iterable[str], *, markers: bool = True) -> None:
    """Above the panels, the models in their order."""
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
    legend(figure, handles)


def legend(figure: Figure, handles: Sequence[Artist]) -> None:
    """Above the panels."""
    made = figure.legend(
        handles=handles,
        loc="outside upper left",
        ncols=max(1, min(len(handles), 5)),
        frameon=False,
        labelcolor=INK,
        fontsize=10,
    )
    for text in made.get_texts():
        text.set_parse_math(False)


def save(figure: Figure, files: Sequence[Path]) -> None:
    """Writes a figure to .svg and .png, the same bytes for the same drawing."""
    for file in files:
        with mpl.rc_context({"svg.hashsalt": file.stem, "svg.fonttype": "path"}):
            figure.savefig(file, facecolor="white", dpi=160, metadata={"Date": None} if file.suffix == ".svg" else None)
        figure.set_layout_engine("none")  # where everything goes is known now, and takes as long as to draw it
