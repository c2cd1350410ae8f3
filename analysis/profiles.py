"""Where the time of a training step goes: the parts of a step in profile runs, as a table and as stacked bars.

Pure functions of the table of runs (`analysis.runs.load`). A part on which no model spends time has no row.
"""

from __future__ import annotations

import math

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis import drawing, units
from analysis.runs import groups, names, results
from analysis.tables import Table
from experiments import schema

COLUMNS = ("grid", "task", "hardware", "model", "seed", "run_id", "part", "seconds", "share")
STEP = "the whole step"
NOTE = (
    "Medians over profile runs, milliseconds a step and its share of the step; forward and backward pass together. "
    "Attention is all of it: with the projections of the source and, in an LSTM decoder, the layer that merges "
    "context and state. Embedding: with positions that are added. Recurrence: with what inputs add to the gates. "
    "Other: residual connections, dropout, sums of gradients. Between operations: Python, autograd and the profiler "
    "itself, which makes a step longer than it is; on a GPU its own work counts, and the time when it has none is "
    "“device idle”."
)
_PLACE = ["grid", "task", "hardware"]
_MILLISECONDS = units.Quantity("ms", scale=1e3, form=",.2f")
_SHARE = units.Quantity("%", scale=100.0, form=".1f")
_PARTS = {name: part for part, name in schema.PART_SECONDS.items()}
_COLORS = dict(
    zip(
        schema.STEP_PARTS,
        (
            *("#0072B2", "#56B4E9", "#D55E00", "#009E73", "#E69F00", "#F0E442", "#CC79A7"),  # of models
            *("#8C6BB1", "#999933", "#7a4b1e", drawing.MUTED, drawing.RULE, drawing.INK),  # of every training
        ),
        strict=True,
    )
)


def step_parts(runs: pd.DataFrame) -> pd.DataFrame:
    """What each part of a training step took in each profile run.

    Returns:
        A row per run and part, columns `COLUMNS`, parts in the order of schema.STEP_PARTS; `share` of the step, 0..1.
    """
    measured = results(runs).query("kind == @schema.PROFILE")
    found = measured[measured["metric"].isin(_PARTS)].rename(columns={"value": "seconds"})
    found = found.assign(part=pd.Categorical(found["metric"].map(_PARTS), schema.STEP_PARTS))
    found = found.assign(share=found["seconds"] / found.groupby("run_id")["seconds"].transform("sum"))
    found = found.sort_values([*_PLACE, "model", "seed", "run_id", "part"], kind="stable", ignore_index=True)
    return found.assign(part=found["part"].astype("str"))[list(COLUMNS)]


def as_table(found: pd.DataFrame) -> Table:
    """The frame of `step_parts`: a row per part, two columns per model, medians over runs.

    Grid, task and hardware stand there as far as they differ.
    """
    models = units.in_order(found["model"])
    labels = [name for name in _PLACE if len(found[name].unique()) > 1]
    rows = []
    for values, block in groups(found, *_PLACE):
        said = dict(zip(_PLACE, values, strict=True))
        whole = block.groupby(["model", "run_id"], as_index=False)[["seconds", "share"]].sum().assign(part=STEP)
        every = pd.concat([block, whole])
        medians = every.groupby(["part", "model"])[["seconds", "share"]].median().T.to_dict("list")
        for part in [*_shown(block), STEP]:
            cells = []
            for model in models:
                seconds, share = medians.get((part, model), (math.nan, math.nan))
                cells += [_MILLISECONDS.number(seconds), _SHARE.number(share)]
            rows.append((*(str(said[name]) for name in labels), part, *cells))
    titles = [f"{units.model_name(model)}, {unit}" for model in models for unit in ("ms", "%")]
    header = (*labels, "part", *titles)
    return Table(header, tuple(rows), frozenset(range(len(labels) + 1, len(header))))


def _shown(block: pd.DataFrame) -> list[str]:
    """Parts that take time in any run, in their order."""
    taken = set(block.loc[block["seconds"] > 0, "part"])
    return [part for part in schema.STEP_PARTS if part in taken]


def bars(runs: pd.DataFrame) -> Figure | None:
    """A bar per model, its parts side by side in milliseconds (medians over runs); a panel per task and hardware."""
    found = step_parts(runs)
    if found.empty:
        return None
    called = names(found)
    several = len(found["hardware"].unique()) > 1
    panels = [(values, part) for values, part in groups(found, *_PLACE)]
    most = found.groupby(_PLACE)["model"].nunique().max()
    figure, axes = drawing.panels(len(panels), columns=1, height=0.9 + 0.42 * most)
    figure.set_figwidth(drawing.WIDTH)
    for ax, ((grid, task, hardware), block) in zip(axes, panels, strict=True):
        models = units.in_order(block["model"])
        medians = block.groupby(["model", "part"])["seconds"].median()
        for place, model in enumerate(models):
            left = 0.0
            for part in _shown(block):
                width = 1e3 * float(medians.get((model, part), 0.0))
                ax.barh(place, width, left=left, height=0.7, color=_COLORS[part], linewidth=0)
                left += width
        drawing.finish(ax, called[grid, task] + (f", {hardware}" if several else ""), "ms a step", "")
        ax.set_yticks(range(len(models)), [units.model_name(model) for model in models], parse_math=False)
        ax.set_ylim(len(models) - 0.5, -0.5)
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False, axis="y")
    handles: list[Artist] = [Patch(color=_COLORS[part], linewidth=0, label=part) for part in _shown(found)]
    drawing.legend(figure, handles)
    return figure
