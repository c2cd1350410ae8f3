"""Estimates with intervals: pure functions over one value per seed.

The interval is a 95 % bootstrap interval over seeds, bias-corrected and accelerated (BCa; Efron 1987, "Better Bootstrap
Confidence Intervals"). Where BCa is undefined the percentile interval of the same resamples stands in for it. Two
consequences for few seeds: one seed gives no interval at all (NaN), and with two the interval is the range of the two,
which covers the true mean in about half of all cases only.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 9999

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate from `n` seeds and its 95 % interval; `low` and `high` are NaN where there is no interval."""

    estimate: float
    low: float
    high: float
    n: int

    @property
    def known(self) -> bool:
        """Whether there is an interval, not only an estimate."""
        return not (math.isnan(self.low) or math.isnan(self.high))


def mean(values: ArrayLike, rng: np.random.Generator) -> Interval:
    """Mean of `values`, one per seed. No value gives NaN with n = 0: a missing result stays missing."""
    return _interval([_checked(values)], np.mean, rng)


def difference(a: ArrayLike, b: ArrayLike, rng: np.random.Generator) -> Interval:
    """Mean of ``a - b``, paired by seed: ``a[i]`` and ``b[i]`` belong together."""
    first, second = _paired(a, b)
    return mean(first - second, rng)


def stratified_mean(strata: Sequence[ArrayLike], rng: np.random.Generator) -> Interval:
    """Mean over the strata of each one's mean: every stratum (a task) weighs the same, however many seeds it has.

    The bootstrap resamples the values (one per seed) of each stratum on their own, as many as there are; the strata are
    fixed. BCa for several samples: Davison & Hinkley 1997, "Bootstrap Methods and their Application", section 5.3.2.

    Returns:
        `n` is the number of seeds of the stratum with the fewest; where that is one there is no interval. Without a
        stratum NaN with n = 0.

    Raises:
        ValueError: a stratum without a value; leave out what was not measured.
    """
    samples = [_checked(stratum) for stratum in strata]
    if not all(len(sample) for sample in samples):
        raise ValueError("a stratum has no value; leave it out")

    def grand_mean(*samples: Floats, axis: int = -1) -> Floats:
        return np.asarray(sum(sample.mean(axis=axis) for sample in samples) / len(samples))

    return _interval(samples or [np.array([])], grand_mean, rng, paired=False)


def ratio(a: ArrayLike, b: ArrayLike, rng: np.random.Generator) -> Interval:
    """Geometric mean of ``a / b``, paired by seed; the interval is computed in log space. All values positive."""
    first, second = _paired(a, b)
    if (first <= 0).any() or (second <= 0).any():
        raise ValueError("a ratio in log space needs positive values")
    logarithm = mean(np.log(first) - np.log(second), rng)
    return Interval(math.exp(logarithm.estimate), math.exp(logarithm.low), math.exp(logarithm.high), logarithm.n)


def gap_closed(base: ArrayLike, variant: ArrayLike, goal: ArrayLike, rng: np.random.Generator) -> Interval:
    """Share of the gap from `base` to `goal` that `variant` closes, of means over seeds, all three paired by seed.

    ``(mean(variant) - mean(base)) / (mean(goal) - mean(base))``: 0 at the base, 1 at the goal, NaN without a gap.
    """
    samples = list(_paired(base, variant, goal))

    def share(base: Floats, variant: Floats, goal: Floats, axis: int = -1) -> Floats:
        start = base.mean(axis=axis)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((variant.mean(axis=axis) - start) / (goal.mean(axis=axis) - start))

    return _interval(samples, share, rng)


def _checked(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"one value per seed is needed, found the shape {array.shape}")
    if not np.isfinite(array).all():
        raise ValueError("a value is missing or not finite; leave such runs out before averaging")
    return array


def _paired(*samples: ArrayLike) -> tuple[Floats, ...]:
    arrays = tuple(_checked(sample) for sample in samples)
    if len({len(array) for array in arrays}) != 1:
        raise ValueError(f"paired samples differ in length: {[len(array) for array in arrays]}")
    return arrays


def _interval(
    samples: Sequence[Floats], statistic: Callable[..., Floats], rng: np.random.Generator, *, paired: bool = True
) -> Interval:
    n = min(len(sample) for sample in samples)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    estimate = float(statistic(*samples))
    if n == 1 or not math.isfinite(estimate):
        return Interval(estimate, math.nan, math.nan, n)
    if all((sample == sample[0]).all() for sample in samples):  # every resample is the sample itself
        return Interval(estimate, estimate, estimate, n)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=stats.DegenerateDataWarning)
        warnings.filterwarnings("ignore", category=RuntimeWarning)
        found = stats.bootstrap(
            samples,
            statistic,
            n_resamples=RESAMPLES,
            paired=paired and len(samples) > 1,
            vectorized=True,
            axis=-1,
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=rng,
        )
    low, high = map(float, found.confidence_interval)
    if math.isnan(low) or math.isnan(high):
        resampled = found.bootstrap_distribution
        tail = (1 - CONFIDENCE) / 2
        low, high = map(float, np.quantile(resampled[~np.isnan(resampled)], [tail, 1 - tail]))
    return Interval(estimate, low, high, n)
