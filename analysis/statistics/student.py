"""Means over seeds and over tasks with Student's intervals, and the tests that are dual to them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

CONFIDENCE = 0.95

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

    def inside(self, low: float, high: float) -> Interval:
        """Cut to the values that the quantity can have: no accuracy above 1, no error below 0."""
        return Interval(self.estimate, max(self.low, low), min(self.high, high), self.n) if self.known else self


@dataclass(frozen=True)
class Student:
    """An estimate whose error follows Student's t: of `n` seeds, with its standard error and degrees of freedom.

    `error` and `df` are NaN where there are too few seeds for them. The p-values are one-sided and dual to the
    interval: the 95 % interval lies above a value where ``p_above`` of it is below 2.5 %.
    """

    estimate: float
    error: float
    df: float
    n: int

    @property
    def interval(self) -> Interval:
        """The 95 % interval."""
        return self.at(CONFIDENCE)

    def at(self, confidence: float) -> Interval:
        """The two-sided interval at another confidence."""
        if math.isnan(self.error):
            return Interval(self.estimate, math.nan, math.nan, self.n)
        half = 0.0 if self.error == 0 else float(stats.t.ppf((1 + confidence) / 2, self.df)) * self.error
        return Interval(self.estimate, self.estimate - half, self.estimate + half, self.n)

    def p_above(self, value: float) -> float:
        """Of the hypothesis that the truth is at most `value`; small where it is above."""
        if math.isnan(self.error):
            return math.nan
        if self.error == 0:
            return 0.0 if self.estimate > value else 1.0
        return float(stats.t.sf((self.estimate - value) / self.error, self.df))

    def p_below(self, value: float) -> float:
        """Of the hypothesis that the truth is at least `value`; small where it is below."""
        return Student(-self.estimate, self.error, self.df, self.n).p_above(-value)

    def p_within(self, margin: float) -> float:
        """Of the hypothesis that the truth is `margin` or more away from 0: two one-sided tests (Schuirmann 1987)."""
        return max(self.p_above(-margin), self.p_below(margin))


def student(strata: Sequence[ArrayLike], tasks: Sequence[str] | None = None) -> Student:
    """Mean over tasks of each one's mean over seeds: every task weighs the same.

    The variances of the strata are estimated apart; degrees of freedom of their sum by Welch (1947) and Satterthwaite
    (1946, "An Approximate Distribution of Estimates of Variance Components").

    Args:
        strata: values, one per seed.
        tasks: the name of each one's task; those of one name, settings of it, weigh as much together as any other
            task. Each is a task of its own where they are not given.

    Returns:
        `n` is the number of seeds of the stratum with the fewest; where that is one there is no error. Without a
        stratum, or of one without values, NaN with n = 0.

    Raises:
        ValueError: of several strata one has no value; leave out what was not measured.
    """
    samples = [_checked(stratum) for stratum in strata]
    if len(samples) > 1 and not all(len(sample) for sample in samples):
        raise ValueError("a stratum has no value; leave it out")
    if not samples or not len(samples[0]):
        return Student(math.nan, math.nan, math.nan, 0)
    n = min(len(sample) for sample in samples)
    weights = _weights(samples, tasks)
    estimate = float(np.average([sample.mean() for sample in samples], weights=weights))
    if n == 1:
        return Student(estimate, math.nan, math.nan, 1)
    variances = np.array([_variance(sample) / len(sample) for sample in samples]) * weights**2
    return Student(estimate, math.sqrt(variances.sum()), _satterthwaite(variances, [len(s) for s in samples]), n)


def mean(values: ArrayLike) -> Interval:
    """Mean of `values`, one per seed. No value gives NaN with n = 0: a missing result stays missing."""
    return student([values]).interval


def stratified_mean(strata: Sequence[ArrayLike], tasks: Sequence[str] | None = None) -> Interval:
    """`student` as an interval."""
    return student(strata, tasks).interval


def difference(a: ArrayLike, b: ArrayLike) -> Interval:
    """Mean of ``a - b``, paired by seed: ``a[i]`` and ``b[i]`` belong together."""
    first, second = _paired(a, b)
    return mean(first - second)


def geometric_mean(values: ArrayLike) -> Interval:
    """Of times and throughputs, one per seed: the interval is computed in log space, where it cannot reach 0.

    Raises:
        ValueError: a value is not positive.
    """
    array = _checked(values)
    if (array <= 0).any():
        raise ValueError("a mean in log space needs positive values")
    logarithm = mean(np.log(array))
    return Interval(math.exp(logarithm.estimate), math.exp(logarithm.low), math.exp(logarithm.high), logarithm.n)


def ratio(a: ArrayLike, b: ArrayLike) -> Interval:
    """Geometric mean of ``a / b``, paired by seed; the interval is computed in log space. All values positive."""
    first, second = _paired(a, b)
    if (second <= 0).any():
        raise ValueError("a ratio in log space needs positive values")
    return geometric_mean(first / second)


def gap_closed(base: ArrayLike, variant: ArrayLike, goal: ArrayLike) -> Interval:
    """Share of the gap from `base` to `goal` that `variant` closes, of means over seeds, all three paired by seed.

    ``(mean(variant) - mean(base)) / (mean(goal) - mean(base))``: 0 at the base, 1 at the goal, NaN without a gap.
    """
    return pooled_gap_closed([(base, variant, goal)])


def pooled_gap_closed(
    scores: Sequence[tuple[ArrayLike, ArrayLike, ArrayLike]], tasks: Sequence[str] | None = None
) -> Interval:
    """`gap_closed` of the gaps summed over tasks (`student`), each given as (base, variant, goal).

    A ratio of two means, for which the interval is Fieller's (1954, "Some Problems in Interval Estimation"): all
    shares r for which the mean of ``(variant - base) - r · (goal - base)`` may be 0. Where the gap itself may be 0 they
    have no bounds, and there is no interval.
    """
    samples = [_paired(*one) for one in scores]
    closed, gap = [v - b for b, v, _ in samples], [g - b for b, _, g in samples]
    top, bottom = student(closed, tasks), student(gap, tasks)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = float(np.float64(top.estimate) / np.float64(bottom.estimate))
    if top.n < 2 or not math.isfinite(share):
        return Interval(share, math.nan, math.nan, top.n)
    residual = student([v - share * g for v, g in zip(closed, gap, strict=True)], tasks)
    if residual.error == 0 and bottom.error == 0:
        return Interval(share, share, share, top.n)
    df = residual.df if residual.error > 0 else bottom.df
    t2 = float(stats.t.ppf((1 + CONFIDENCE) / 2, df)) ** 2
    parts = zip(closed, gap, _weights(samples, tasks), strict=True)
    shared = sum(float(np.cov(v, g)[0, 1]) / len(v) * weight**2 for v, g, weight in parts)
    # (top - r·bottom)² = t²·(var(top) - 2·r·cov + r²·var(bottom)), as a·r² - 2·b·r + c = 0
    a = bottom.estimate**2 - t2 * bottom.error**2
    b = top.estimate * bottom.estimate - t2 * shared
    c = top.estimate**2 - t2 * top.error**2
    if a <= 0:
        return Interval(share, math.nan, math.nan, top.n)
    half = math.sqrt(max(b * b - a * c, 0.0))
    return Interval(share, (b - half) / a, (b + half) / a, top.n)


def _weights(strata: Sequence[object], tasks: Sequence[str] | None) -> Floats:
    """Of each stratum in the mean over tasks; their sum is 1."""
    names = [str(place) for place in range(len(strata))] if tasks is None else list(tasks)
    return np.array([1 / (len(set(names)) * names.count(name)) for name in names])


def _satterthwaite(variances: Floats, counts: Sequence[int]) -> float:
    total = variances.sum()
    if total == 0:
        return float(sum(count - 1 for count in counts))
    shares = variances / total  # first, so that no square underflows
    return float(1 / np.sum(shares**2 / (np.array(counts) - 1)))


def _variance(sample: Floats) -> float:
    """Of equal values exactly 0, which rounding of their mean would spoil."""
    return 0.0 if (sample == sample[0]).all() else float(sample.var(ddof=1))


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
