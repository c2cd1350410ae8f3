"""How each model's time and memory grow with length in the sweeps, and where the models change places."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis import scaling
from analysis.evidence import LEAST_LENGTHS, Sweep, admitted, in_common, sweeps
from experiments import schema

# Training, prefill and decoding, apart. Generation is both of these: encoding, and a few tokens after it.
COSTS = {
    "training time": schema.TRAIN_STEP_SECONDS,
    "training memory": schema.PEAK_MEMORY,
    "prefill time": schema.ENCODE_SECONDS,
    "prefill memory": schema.ENCODE_PEAK_MEMORY,
    "decoding time": schema.DECODE_SECONDS_PER_TOKEN,
    "decoding time by position": schema.STEP_SECONDS,
    "teacher forcing time": schema.DECODE_SECONDS,
    "generation time": schema.GENERATE_SECONDS,
    "generation memory": schema.GENERATE_PEAK_MEMORY,
}
COLUMNS = ["sweep", "cost", "what", "model", "other", "estimate", "low", "high", "n", "shortest", "longest"]


def growth(runs: pd.DataFrame) -> pd.DataFrame:
    """Exponents, local slopes and crossovers of every cost of every sweep.

    Returns:
        Columns `COLUMNS`. `what` is "exponent" of a model, "slope" of a model from `shortest` to `longest`, its
        neighbour, or "crossover" of a model with an `other`, a length (missing where they do not cross in the range);
        `low` and `high` as in analysis.scaling, `n` the number of seeds.
    """
    rows = [row for sweep in sweeps(admitted(runs)) for cost in COSTS for row in _rows(sweep, cost)]
    return pd.DataFrame(rows, columns=COLUMNS)


def _rows(sweep: Sweep, cost: str) -> Iterator[dict[str, object]]:
    curves = {model: sweep.curve(model, COSTS[cost]) for model in sorted(set(sweep.rows["model"]))}
    curves = {model: curve for model, curve in curves.items() if curve.shape[1] >= LEAST_LENGTHS}
    same: dict[str, object] = {"sweep": sweep.where, "cost": cost, "other": ""}
    for model, curve in curves.items():
        lengths = curve.columns.to_numpy(dtype=float)
        ends = {"shortest": lengths[0], "longest": lengths[-1]}
        found = scaling.exponent(lengths, curve)
        yield same | {"what": "exponent", "model": model} | vars(found) | ends
        slopes = scaling.local_slopes(lengths, np.exp(np.log(curve).mean()))
        for (_, slope), shortest, longest in zip(slopes, lengths[:-1], lengths[1:], strict=True):
            ends = {"shortest": shortest, "longest": longest}
            yield same | {"what": "slope", "model": model, "estimate": slope, "n": len(curve)} | ends
    for first, second in itertools.combinations(curves, 2):
        a, b = in_common(curves[first], curves[second])
        if len(a) and a.shape[1] >= 2:
            turn = scaling.crossover_interval(a.columns, a, b)
            ends = {"shortest": a.columns[0], "longest": a.columns[-1]}
            numbers = {"n": len(a)} if turn is None else vars(turn)
            yield same | {"what": "crossover", "model": first, "other": second} | numbers | ends
