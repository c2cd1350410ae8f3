"""Tests of paired differences, corrected for their number, and the probability of improvement."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from analysis.statistics.student import CONFIDENCE, Floats, Interval, _checked

RESAMPLES = 9999
EXACT = 16  # pairs up to which all 2^n signs are counted out


def permutation_p(strata: Sequence[ArrayLike], rng: np.random.Generator) -> float:
    """Two-sided p of the mean over strata of their mean differences, by flipping the signs of pairs (Fisher 1935).

    Without a difference between two models, which of a pair was which is a coin's throw, whatever the distribution. Up
    to 16 pairs are counted out; of more, 9,999 throws are drawn (and one is what was seen; Phipson & Smyth 2010).

    Args:
        strata: differences by task, one per seed.
        rng: used where throws are drawn.

    Returns:
        At least ``2 / 2 ** pairs``: five pairs cannot fall below 0.0625. NaN without a pair.
    """
    samples = [_checked(stratum) for stratum in strata]
    weighted = np.concatenate([sample / len(sample) for sample in samples if len(sample)] or [np.array([])])
    n = len(weighted)
    if n == 0:
        return math.nan
    seen = abs(weighted.sum()) * (1 - 1e-12)  # what rounding makes of equal sums
    if n <= EXACT:
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=n)))
        return float(np.mean(np.abs(signs @ weighted) >= seen))
    signs = rng.choice((-1.0, 1.0), size=(RESAMPLES, n))
    return float((1 + np.sum(np.abs(signs @ weighted) >= seen)) / (1 + RESAMPLES))


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """The p-values of a family, adjusted so that the chance of any false finding in it holds (Holm 1979).

    NaN (what was not tested) stays NaN and does not count.
    """
    tested = sorted((p, name) for name, p in p_values.items() if not math.isnan(p))
    adjusted = dict(p_values)
    highest = 0.0
    for place, (p, name) in enumerate(tested):
        highest = max(highest, min(1.0, (len(tested) - place) * p))
        adjusted[name] = highest
    return adjusted


def improvement(a: Sequence[ArrayLike], b: Sequence[ArrayLike]) -> Interval:
    """Probability that a run of A is better than a run of B, ties half, mean over tasks (Agarwal et al. 2021).

    The interval of a task is that of Newcombe (2006, "Confidence intervals for an effect size measure based on the
    Mann–Whitney statistic", method 5), which does not collapse where one model always wins; those of several tasks are
    joined by the squares of their arms (MOVER; Zou & Donner 2008).

    Args:
        a: scores of A by task, one per seed, more is better.
        b: likewise of B; the numbers of seeds may differ.
    """
    parts = [_superiority(_checked(x), _checked(y)) for x, y in zip(a, b, strict=True)]
    if not parts or not all(part.n for part in parts):
        return Interval(math.nan, math.nan, math.nan, 0)
    estimate, n = float(np.mean([part.estimate for part in parts])), min(part.n for part in parts)
    if n == 1:
        return Interval(estimate, math.nan, math.nan, 1)
    down = math.sqrt(sum((part.estimate - part.low) ** 2 for part in parts)) / len(parts)
    up = math.sqrt(sum((part.high - part.estimate) ** 2 for part in parts)) / len(parts)
    return Interval(estimate, estimate - down, estimate + up, n)


def _superiority(a: Floats, b: Floats) -> Interval:
    n = min(len(a), len(b))
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    sign = np.sign(a[:, None] - b[None, :])
    estimate = float((1 + sign.mean()) / 2)
    z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
    spare = (len(a) + len(b)) / 2 - 1

    def error(theta: float) -> float:
        shape = 1 + spare * (1 - theta) / (2 - theta) + spare * theta / (1 + theta)
        return z * math.sqrt(theta * (1 - theta) * shape / (len(a) * len(b)))

    def end(start: float) -> float:
        """Bisects for the theta between the estimate and `start` whose error just reaches the estimate."""
        near, far = estimate, start
        for _ in range(60):
            middle = (near + far) / 2
            near, far = (middle, far) if abs(middle - estimate) < error(middle) else (near, middle)
        return near

    return Interval(estimate, end(0.0), end(1.0), n)
