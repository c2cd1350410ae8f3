"""How a cost grows with length: power laws, local slopes and crossovers, all in log–log space.

Samples are repeated measurements of one curve, shape (samples, lengths): the seeds of a sweep, or its repetitions.
Their curve is the geometric mean. Intervals are 95 % percentile intervals of a bootstrap over the samples. Of a handful
of samples they are too narrow: they describe, and claims are not decided by them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from analysis.statistics import CONFIDENCE, Interval

Floats = NDArray[np.float64]
RESAMPLES = 999


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


def exponent(lengths: ArrayLike, samples: ArrayLike, rng: np.random.Generator) -> Interval:
    """Exponent of the samples' curve by Theil–Sen, as in `fit`, with its interval.

    Raises:
        ValueError: as `fit`.
    """
    x, y = _sampled(lengths, samples)
    first, second = np.triu_indices(len(x), 1)

    def slopes(curves: Floats) -> Floats:
        """(…, lengths) → (…)."""
        return np.median((curves[..., second] - curves[..., first]) / (x[second] - x[first]), axis=-1)

    resampled = np.array([]) if len(y) == 1 else slopes(y[_resamples(len(y), rng)].mean(axis=1))
    return _interval(float(slopes(y.mean(axis=0))), resampled, len(y))


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


def crossover_interval(lengths: ArrayLike, a: ArrayLike, b: ArrayLike, rng: np.random.Generator) -> Interval | None:
    """The `crossover` of the curves of two models' samples, which are paired: row i of both was measured side by side.

    A resample whose curves do not cross lies beyond the range: at infinity if the order is that of the shortest length,
    so that they may cross later, and at 0 if it is that of the longest. An interval that ends there is open on that
    side.

    Returns:
        None if the curves themselves do not cross.

    Raises:
        ValueError: as `fit`, or the samples are not paired.
    """
    x, first = _sampled(lengths, a)
    _, second = _sampled(lengths, b)
    if first.shape != second.shape:
        raise ValueError(f"samples {first.shape} and {second.shape} are not paired")
    places = np.exp(x)

    def turn(rows: NDArray[np.int64]) -> float | None:
        return crossover(places, np.exp(first[rows].mean(axis=0)), np.exp(second[rows].mean(axis=0)))

    estimate = turn(np.arange(len(first)))
    if estimate is None:
        return None
    at_longest = np.sign((first - second).mean(axis=0)[-1])

    def beyond(rows: NDArray[np.int64]) -> float:
        return 0.0 if np.sign((first - second)[rows].mean(axis=0)[-1]) == at_longest else math.inf

    resampled = []
    if len(first) > 1:
        for rows in _resamples(len(first), rng):
            found = turn(rows)
            resampled.append(beyond(rows) if found is None else found)
    return _interval(estimate, resampled, len(first))


def _sampled(lengths: ArrayLike, samples: ArrayLike) -> tuple[Floats, Floats]:
    """Logarithms of the lengths, ascending, and of the samples (samples, lengths)."""
    values = np.asarray(samples, dtype=np.float64)
    if values.ndim != 2 or not len(values):
        raise ValueError(f"samples are of the shape (samples, lengths), not {values.shape}")
    curves = [_logarithms(lengths, row) for row in values]
    return curves[0][0], np.array([y for _, y in curves])


def _resamples(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """(RESAMPLES, n) rows, drawn with replacement."""
    return rng.integers(n, size=(RESAMPLES, n))


def _interval(estimate: float, resampled: ArrayLike, n: int) -> Interval:
    values = np.asarray(resampled, dtype=np.float64)
    if not len(values):
        return Interval(estimate, math.nan, math.nan, n)
    tail = (1 - CONFIDENCE) / 2
    # Values that occurred, no interpolation: between a number and infinity there is none.
    low, high = np.quantile(values, [tail, 1 - tail], method="inverted_cdf")
    return Interval(estimate, float(low), float(high), n)


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
