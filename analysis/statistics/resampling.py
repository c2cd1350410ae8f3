"""The BCa bootstrap, stratified by task: for statistics without a simpler interval, and to be held against them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from analysis.statistics.student import CONFIDENCE, Floats, Interval, _checked

RESAMPLES = 9999


def bca(strata: Sequence[ArrayLike], statistic: Callable[..., Floats], rng: np.random.Generator) -> Interval:
    """Bias-corrected and accelerated interval (Efron 1987), every stratum resampled on its own.

    For several samples: Davison & Hinkley 1997, "Bootstrap Methods and their Application", section 5.3.2. Where BCa is
    undefined the percentile interval of the same resamples stands in.

    Args:
        strata: values by task, one per seed; each at least one.
        statistic: of one array a stratum, vectorised over all but the keyword `axis`.
        rng: draws the resamples.
    """
    samples = [_checked(stratum) for stratum in strata]
    n = min((len(sample) for sample in samples), default=0)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan, 0)
    estimate = float(statistic(*samples, axis=-1))
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
            vectorized=True,
            axis=-1,
            confidence_level=CONFIDENCE,
            method="BCa",
            rng=rng,
        )
    low, high = map(float, found.confidence_interval)
    if math.isnan(low) or math.isnan(high):
        tail = (1 - CONFIDENCE) / 2
        low, high = map(float, np.nanquantile(found.bootstrap_distribution, [tail, 1 - tail]))
    return Interval(estimate, low, high, n)


def iqm_over_tasks(tasks: Sequence[ArrayLike], rng: np.random.Generator) -> Interval:
    """Interquartile mean of all runs of a model on all tasks (Agarwal et al. 2021), with its BCa interval.

    With tens of runs there is enough to resample, which five seeds of one task are not.
    """

    def middle(*samples: Floats, axis: int = -1) -> Floats:
        return np.asarray(stats.trim_mean(np.concatenate(samples, axis=axis), 0.25, axis=axis))

    return bca(tasks, middle, rng)
