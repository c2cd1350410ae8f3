"""How far back the loss reaches in each gradients run: the distance at which its gradient has fallen to half."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.runs import groups, results
from experiments import schema

PHASES = {schema.INITIAL: "at initialisation", schema.TRAINED: "after training"}
NORM, SHARE = "norm", "share"  # what is looked at: the gradient's norm, or that over the norm with which it starts
COLUMNS = ("grid", "task", "model", "seed", "run_id", "phase", "half_distance", "censored", "shortest", "longest")
_LABELS = ["grid", "task", "model", "seed", "run_id"]


def half_distance(distances: ArrayLike, norms: ArrayLike) -> tuple[float, bool]:
    """The first distance at which the norm is down to half of what it is at the shortest.

    Between two distances the norm is taken to be linear in the logarithm of the distance, so that a norm that has
    vanished to exactly 0 is a value like any other.

    Args:
        distances: ascending, positive.
        norms: at each; at the shortest above 0.

    Returns:
        That distance and False; the longest and True where the norm stays above half: the true one is at least that.
        NaN where there is nothing at the shortest to be half of.
    """
    at, y = np.asarray(distances, dtype=float), np.asarray(norms, dtype=float)
    if not y[0] > 0:
        return float("nan"), False
    share = y / y[0]
    down = np.flatnonzero(share <= 0.5)
    if not len(down):
        return float(at[-1]), True
    after, x = down[0], np.log(at)
    part = (share[after - 1] - 0.5) / (share[after - 1] - share[after])
    return float(np.exp(x[after - 1] + part * (x[after] - x[after - 1]))), False


def curves(runs: pd.DataFrame) -> pd.DataFrame:
    """Norms of the gradient by distance.

    Returns:
        A row per run, phase and distance: grid, task, model, seed, run_id, phase, at; `norm`, of the gradient; `share`,
        that over the norm of the gradient with respect to the logits, with which it starts (a model that is surer of
        the answer at one distance than at another has the smaller one there); and both relative to the shortest
        distance, missing where they are 0 there.
    """
    measured = results(runs)
    kinds = {"norm": schema.GRADIENT_NORM, "output": schema.GRADIENT_OUTPUT_NORM}
    names = {name: (kind, phase) for kind, phases in kinds.items() for phase, name in phases.items()}
    measured = measured[measured["metric"].isin(names)]
    kind, phase = (measured["metric"].map({name: found[i] for name, found in names.items()}) for i in range(2))
    index = [*_LABELS, "phase", "at"]
    wide = measured.assign(kind=kind, phase=phase).pivot_table(index=index, columns="kind", values="value")
    found = wide.reindex(columns=list(kinds)).reset_index().rename_axis(columns=None)
    found["share"] = found["norm"] / found["output"].where(found["output"] > 0)
    for name in (NORM, SHARE):
        nearest = found.groupby(["run_id", "phase"])[name].transform("first")
        found[f"relative_{name}"] = found[name] / nearest.where(nearest > 0)
    return found.drop(columns="output")


def half_distances(runs: pd.DataFrame, what: str = NORM) -> pd.DataFrame:
    """`half_distance` of every run in each phase, of `NORM` or `SHARE`, columns `COLUMNS`; NaN where it has none.

    `shortest` and `longest` are the ends of what was measured.
    """
    return pd.DataFrame(list(_half_distances(curves(runs), what)), columns=list(COLUMNS))


def _half_distances(found: pd.DataFrame, what: str) -> Iterator[dict[str, Any]]:
    for (_, phase), curve in groups(found.dropna(subset=what), "run_id", "phase", sort=False):
        labels = {key: curve[key].iloc[0] for key in _LABELS}
        half, censored = half_distance(curve["at"], curve[what])
        ends = {"shortest": curve["at"].iloc[0], "longest": curve["at"].iloc[-1]}
        yield labels | {"phase": phase, "half_distance": half, "censored": censored} | ends
