"""What a token costs in the sweeps: speed, share of the device's peak, latency, memory, energy, kernel launches.

Pure functions of the table of runs (`analysis.runs.load`). What no run measured has no column: energy and launches are
known on a GPU only.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import pandas as pd

from analysis import units
from analysis.runs import groups, results
from analysis.tables import Table
from experiments import schema

_RATE = units.Quantity("training, tokens/s", form=",.0f")
_MILLISECONDS = units.Quantity("ms", scale=1e3, form=",.2f")
_JOULES = units.Quantity("J", form=",.3g")
_COUNT = units.Quantity("count", form=",.0f")


@dataclass(frozen=True)
class Column:
    """A column of the table: its heading, the metrics whose numbers stand in it, with a stroke between them."""

    title: str
    metrics: tuple[str, ...]
    quantity: units.Quantity


TABLE = (
    Column("sequences a batch", (schema.BATCH_SIZE,), _COUNT),
    Column("training, tokens/s", (schema.EFFICIENCY_TRAIN_TOKENS_PER_SECOND,), _RATE),
    Column("MFU, %", (schema.PEAK_SHARE,), units.Quantity("share", "%", 100.0, ",.1f")),
    Column(
        "ms a token: p50 / p95",
        (schema.DECODE_SECONDS_PER_TOKEN, schema.DECODE_SECONDS_PER_TOKEN_P95),
        _MILLISECONDS,
    ),
    Column(
        "ms without cache: p50 / p95",
        (schema.DECODE_NAIVE_SECONDS_PER_TOKEN, schema.DECODE_NAIVE_SECONDS_PER_TOKEN_P95),
        _MILLISECONDS,
    ),
    Column("memory of training, MiB", (schema.PEAK_MEMORY,), units.OTHERS[schema.PEAK_MEMORY]),
    Column("decoding state, KiB", (schema.STATE_BYTES,), units.OTHERS[schema.STATE_BYTES]),
    Column(
        "J for 1,000 tokens: training / generation",
        (schema.ENERGIES["train_step"], schema.ENERGIES["generate"]),
        _JOULES,
    ),
    Column("launches: training step / token", tuple(schema.SWEEP_LAUNCHES.values()), _COUNT),
)
_METRICS = [metric for column in TABLE for metric in column.metrics]
_REACHED = (
    schema.EFFICIENCY_TRAIN_TOKENS_PER_SECOND,
    schema.DECODE_SECONDS_PER_TOKEN,
)  # where a model reaches a length
_SWEEP = ["grid", "task", "hardware"]
COLUMNS = (*_SWEEP, "length", "model", "seed", "run_id", "metric", "value", "disturbed")
NOTE = (
    "Medians over seeds, at the shortest length of a sweep, at the longest that all models reach and at one between. "
    "Training: tokens of source and target; MFU: its analytic operations a second, over those of the best square "
    "matrix product in the same process. A generated token is one for every sequence of the batch; p50 and p95 are "
    "over all of all repetitions. Memory: the peak of a training step. Decoding state: counted, of one sequence, "
    "after as many tokens of source and target. Energy (NVIDIA's own counter) and launches of kernels are known on a "
    "GPU only."
)
MARK = "†"  # behind a length at which others used the machine


def token_costs(runs: pd.DataFrame) -> pd.DataFrame:
    """What a token costs each run of a sweep at its shortest length, at the longest that all models reach, and between.

    The one between is the nearest to the middle of the two on a logarithmic axis.

    Returns:
        A row per run, length and metric of `TABLE`, columns `COLUMNS`: `value` in the metric's own unit, `disturbed`
        whether others used the machine while that length was measured. What was not measured has no row.
    """
    measured = results(runs).query("kind == @schema.EFFICIENCY").rename(columns={"at": "length"})
    parts = []
    for _, sweep in groups(measured, *_SWEEP):
        at = sweep[sweep["length"].isin(_lengths(sweep))]
        disturbed = at[at["metric"] == schema.DISTURBED].set_index(["run_id", "length"])["value"].rename("disturbed")
        parts.append(at[at["metric"].isin(_METRICS)].join(disturbed, on=["run_id", "length"]))
    found = pd.concat([*parts, measured[:0]]).reindex(columns=list(COLUMNS))
    return found.assign(disturbed=found["disturbed"] == 1).reset_index(drop=True)


def _lengths(sweep: pd.DataFrame) -> list[float]:
    """Those at which costs are stated, ascending; none where no two phases were measured at a common length."""
    reached = sweep[sweep["metric"].isin(_REACHED)]
    of_each = [set(rows["length"]) for _, rows in groups(reached, "run_id", "metric")]
    common = sorted(set.intersection(*of_each)) if of_each else []
    if not common:
        return []
    middle = math.sqrt(common[0] * common[-1])
    return sorted({common[0], min(common, key=lambda length: abs(math.log(length / middle))), common[-1]})


def as_table(found: pd.DataFrame) -> Table:
    """The frame of `token_costs`: a row per length and model, medians over seeds; grid and task as far as they differ.

    A length is marked where the machine was used by others meanwhile, in whichever run.
    """
    columns = [column for column in TABLE if found["metric"].isin(column.metrics).any()]
    names = [name for name in _SWEEP if len(found[name].unique()) > 1]
    rows = []
    for labels, block in groups(found, *_SWEEP, "length"):
        said = dict(zip([*_SWEEP, "length"], labels, strict=True))
        place = f"{said['length']:,.0f}" + (f" {MARK}" if block["disturbed"].any() else "")
        for model in units.in_order(block["model"]):
            own = block[block["model"] == model]
            medians = own.groupby("metric")["value"].median()
            cells = [_cell(column, medians) for column in columns]
            seeds = str(own["seed"].nunique())
            rows.append((*(str(said[name]) for name in names), place, units.model_name(model), *cells, seeds))
    header = (*names, "length", "model", *(column.title for column in columns), "seeds")
    first = len(names)
    return Table(header, tuple(rows), frozenset({first, *range(first + 2, len(header))}))


def _cell(column: Column, medians: pd.Series) -> str:
    return " / ".join(column.quantity.number(medians.get(metric, math.nan)) for metric in column.metrics)


def machines(runs: pd.DataFrame) -> list[str]:
    """Of each machine with sweeps, a sentence: by how many threads, and how many points were taken beside others."""
    measured = results(runs).query("kind == @schema.EFFICIENCY")
    sentences = []
    for hardware in sorted(measured["hardware"].unique()):
        rows = measured[measured["hardware"] == hardware]
        points = rows.loc[rows["metric"].isin([schema.DISTURBED, schema.by_position(schema.DISTURBED)]), "value"]
        threads = [f"{count:.0f}" for count in sorted(rows.loc[rows["metric"] == schema.THREADS, "value"].unique())]
        if threads:
            by = f"{' or '.join(threads)} thread{'s' if threads != ['1'] else ''}"
            sentences.append(
                f"{hardware or 'Unknown hardware'}, {by}: {points.sum():,.0f} of {len(points):,} points were measured"
                " while others used the machine."
            )
    return sentences
