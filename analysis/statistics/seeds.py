"""What one says of a handful of seeds beside their mean: median, interquartile mean, maximum, solved fraction."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from analysis.statistics.student import CONFIDENCE, Interval, _checked


def median(values: ArrayLike) -> Interval:
    """Median over seeds; the interval lies between two of the sorted values (sign test; Conover 1999, section 3.2).

    Of all such intervals it is the narrowest symmetric one that covers at least 95 %. Fewer than six seeds have none.
    """
    array = np.sort(_checked(values))
    n = len(array)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    # the r-th smallest and r-th largest value cover with 1 - 2·P(Binomial(n, 1/2) < r)
    ranks = [r for r in range(1, n // 2 + 1) if 1 - 2 * stats.binom.cdf(r - 1, n, 0.5) >= CONFIDENCE]
    if not ranks:
        return Interval(float(np.median(array)), math.nan, math.nan, n)
    r = ranks[-1]
    return Interval(float(np.median(array)), float(array[r - 1]), float(array[n - r]), n)


def iqm(values: ArrayLike) -> Interval:
    """Interquartile mean over seeds: the mean without the lowest and the highest quarter.

    A quarter is cut to whole seeds. The interval is that of Tukey & McLaughlin (1963) for trimmed means: Student's,
    with the variance of the winsorised values and a degree of freedom for each value kept. Fewer than four seeds have
    none to trim; theirs is the mean.
    """
    array = np.sort(_checked(values))
    n, cut = len(array), len(array) // 4
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    kept = array[cut : n - cut]
    estimate = float(kept.mean())
    if n == 1:
        return Interval(estimate, math.nan, math.nan, 1)
    winsorised = np.clip(array, kept[0], kept[-1])
    error = float(winsorised.std(ddof=1)) * math.sqrt(n) / len(kept) if kept[0] < kept[-1] else 0.0
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(kept) - 1)) * error
    return Interval(estimate, estimate - half, estimate + half, n)


def maximum(values: ArrayLike) -> float:
    """The best seed: what luck can do, never a result. NaN without a value. It has no interval."""
    array = _checked(values)
    return float(array.max()) if len(array) else math.nan


def solved(values: ArrayLike, threshold: float) -> Interval:
    """Fraction of the seeds with at least `threshold`, with the interval of Wilson (1927).

    It does not collapse where all or none are solved: five of five is 1.00 [0.57, 1.00].
    """
    array = _checked(values)
    n = len(array)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    found = stats.binomtest(int((array >= threshold).sum()), n).proportion_ci(CONFIDENCE, method="wilson")
    return Interval(float((array >= threshold).mean()), float(found.low), float(found.high), n)
