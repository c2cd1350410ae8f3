"""How a cost grows with length: power laws, local slopes and crossovers, all in log–log space; and where it ends.

Samples are repeated measurements of one curve, shape (samples, lengths): the seeds of a sweep, or its repetitions.
Their curve is the geometric mean. Intervals are Student's over the samples; `analysis.calibration` checks by simulation
that they cover.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.runs import results, stopped_by
from analysis.statistics import CONFIDENCE, Interval, mean
from experiments import schema

STOPS_COLUMNS = ("grid", "task", "hardware", "model", "phase", "stopped_at", "longest", "reason")
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """``value = coefficient · length ** exponent``, fitted to `n` lengths."""

    exponent: float
    coefficient: float
    n: int

    def at(self, length: float) -> float:
        """The fitted value at `length`."""
        return float(self.coefficient * length**self.exponent)


def fit(lengths: ArrayLike, values: ArrayLike) -> PowerLaw:
    """Fits a power law by the Theil–Sen estimator: the median of the slopes of all pairs (Sen 1968).

    Timings have outliers, of one sign; a median bears almost a third of them where least squares bear none.

    Raises:
        ValueError: fewer than two distinct lengths, or anything that is not positive and finite.
    """
    x, y = _logarithms(lengths, values)
    slope, intercept = stats.theilslopes(y, x)[:2]
    return PowerLaw(float(slope), float(np.exp(intercept)), len(x))


def exponent(lengths: ArrayLike, samples: ArrayLike) -> Interval:
    """Mean of the samples' exponents, each by Theil–Sen as in `fit`, with its interval.

    Raises:
        ValueError: as `fit`.
    """
    x, y = _sampled(lengths, samples)
    first, second = np.triu_indices(len(x), 1)
    return mean(np.median((y[:, second] - y[:, first]) / (x[second] - x[first]), axis=1))


def mean_law(lengths: ArrayLike, samples: ArrayLike) -> PowerLaw:
    """The geometric mean of the samples' power laws, each as by `fit`: its exponent is the estimate of `exponent`.

    Raises:
        ValueError: as `fit`.
    """
    x, y = _sampled(lengths, samples)
    laws = [fit(np.exp(x), np.exp(row)) for row in y]
    exponents, coefficients = [law.exponent for law in laws], [law.coefficient for law in laws]
    return PowerLaw(float(np.mean(exponents)), float(stats.gmean(coefficients)), len(x))


def local_slopes(lengths: ArrayLike, values: ArrayLike) -> list[tuple[float, float]]:
    """Exponent between each two neighbouring lengths, at their geometric mean: where a power law bends, they differ."""
    x, y = _logarithms(lengths, values)
    slopes = np.diff(y) / np.diff(x)
    return [(float(np.exp(at)), float(slope)) for at, slope in zip((x[1:] + x[:-1]) / 2, slopes, strict=True)]


def crossover(lengths: ArrayLike, a: ArrayLike, b: ArrayLike) -> float | None:
    """Length from which on the order of the curves `a` and `b` stays what it is at the longest length.

    The logarithm of ``a / b`` is interpolated linearly in the logarithm of the length. Of several crossings the last
    counts; curves that only touch, or meet at an end of the range, do not cross: None.
    """
    x, log_a = _logarithms(lengths, a)
    _, log_b = _logarithms(lengths, b)
    gap = log_a - log_b
    apart = np.flatnonzero(gap)
    turns = np.flatnonzero(np.diff(np.sign(gap[apart])))
    if not len(turns):
        return None
    before, after = apart[turns[-1]], apart[turns[-1] + 1]
    if after > before + 1:  # the curves are equal at the lengths between
        return float(np.exp(x[after - 1]))
    share = gap[before] / (gap[before] - gap[after])
    return float(np.exp(x[before] + share * (x[after] - x[before])))


def crossover_interval(lengths: ArrayLike, a: ArrayLike, b: ArrayLike) -> Interval | None:
    """The `crossover` of the curves of two models' samples, which are paired: row i of both was measured side by side.

    The interval is Fieller's (1954), as in `analysis.statistics.gap_closed`: the lengths around the crossover at which
    the mean of ``log(a / b)`` over the samples may be 0 by Student's t. So samples that do not cross in the range count
    as well. Where these lengths reach an end of the range the interval is open there: it ends at 0, or at infinity.

    Returns:
        None if the curves themselves do not cross.

    Raises:
        ValueError: as `fit`, or the samples are not paired.
    """
    x, first = _sampled(lengths, a)
    _, second = _sampled(lengths, b)
    if first.shape != second.shape:
        raise ValueError(f"samples {first.shape} and {second.shape} are not paired")
    n, gaps = len(first), first - second
    estimate = crossover(np.exp(x), np.exp(first.mean(axis=0)), np.exp(second.mean(axis=0)))
    if estimate is None:
        return None
    if n == 1:
        return Interval(estimate, math.nan, math.nan, n)
    if (gaps == gaps[0]).all():
        return Interval(estimate, estimate, estimate, n)
    edges = [edge for here in range(len(x) - 1) for edge in _edges(x[here : here + 2], gaps[:, here : here + 2])]
    low = [edge for edge in edges if edge <= math.log(estimate)]
    high = [edge for edge in edges if edge >= math.log(estimate)]
    return Interval(estimate, math.exp(max(low, default=-math.inf)), math.exp(min(high, default=math.inf)), n)


def stops(runs: pd.DataFrame) -> pd.DataFrame:
    """Where the sweep of a model's phase ended before the last length or position, as there was no memory or no time.

    Returns:
        A row per grid, task, hardware, model and phase (`schema.PHASES`) that ended, columns `STOPS_COLUMNS`:
        `stopped_at` is the first length (of "step": position) that was not measured and `longest` the last that was,
        missing where the first already failed, of the seed that stopped first; `reason` "memory: …" or "time: …".
    """
    measured = results(runs).query("kind == @schema.EFFICIENCY")
    found = measured[measured["metric"].str.startswith(schema.STOPPED_AT)].rename(columns={"value": "stopped_at"})
    found = found.assign(phase=found["metric"].str.removeprefix(schema.STOPPED_AT))
    last = measured.groupby(["run_id", "metric"])["at"].max()
    of_phase = pd.MultiIndex.from_arrays([found["run_id"], found["phase"].map(schema.PHASES)])
    reasons = [stopped_by(stops, phase) for stops, phase in zip(found["stops"], found["phase"], strict=True)]
    found = found.assign(longest=last.reindex(of_phase).to_numpy(), reason=reasons)
    first = found.sort_values(["stopped_at", "seed"], kind="stable").drop_duplicates(list(STOPS_COLUMNS[:5]))
    return first.sort_values(list(STOPS_COLUMNS[:5]))[list(STOPS_COLUMNS)].reset_index(drop=True)


def _edges(x: Floats, gaps: Floats) -> list[float]:
    """Between two lengths (logarithms), where 0 enters or leaves the interval of the gap's mean; gaps (samples, 2)."""
    n = len(gaps)
    start, slope = gaps[:, 0], gaps[:, 1] - gaps[:, 0]
    t2 = float(stats.t.ppf((1 + CONFIDENCE) / 2, n - 1)) ** 2 / n
    (v, c), (_, w) = np.cov(start, slope)
    # (start + u·slope)² = t²·(v + 2·u·c + u²·w), u from 0 to 1
    roots = np.roots(
        [slope.mean() ** 2 - t2 * w, 2 * (start.mean() * slope.mean() - t2 * c), start.mean() ** 2 - t2 * v]
    )
    return [float(x[0] + u.real * (x[1] - x[0])) for u in roots if abs(u.imag) < 1e-9 and 0 <= u.real <= 1]


def _sampled(lengths: ArrayLike, samples: ArrayLike) -> tuple[Floats, Floats]:
    """Logarithms of the lengths, ascending, and of the samples (samples, lengths)."""
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"samples are of the shape (samples, lengths), not {values.shape}")
    curves = [_logarithms(lengths, row) for row in values]
    return curves[0][0], np.array([y for _, y in curves])


def _logarithms(lengths: ArrayLike, values: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(lengths, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"lengths {x.shape} and values {y.shape} do not belong together")
    if len(np.unique(x)) != len(x) or len(x) < 2:
        raise ValueError("at least two lengths are needed, each once")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (x > 0).all() and (y > 0).all()):
        raise ValueError("a power law needs positive, finite lengths and values")
    order = np.argsort(x)
    return np.log(x[order]), np.log(y[order])
