import math
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from analysis import statistics
from analysis.statistics import Interval


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_no_value_stays_missing_and_one_value_has_no_interval() -> None:
    nothing, one = statistics.mean([], rng()), statistics.mean([0.4], rng())
    assert math.isnan(nothing.estimate)
    assert nothing.n == 0
    assert (one.estimate, one.n, one.known) == (0.4, 1, False)
    assert math.isnan(one.low)
    assert math.isnan(one.high)


def test_two_seeds_give_the_range_of_the_two() -> None:
    # Of the resamples a quarter is (a, a) and a quarter (b, b): every quantile beyond 25 % is an end.
    assert statistics.mean([0.6, 0.64], rng()) == Interval(0.62, 0.6, 0.64, 2)


def test_equal_values_give_an_interval_without_width() -> None:
    assert statistics.mean([0.5, 0.5, 0.5], rng()) == Interval(0.5, 0.5, 0.5, 3)


def bca_by_hand(values: list[float]) -> tuple[float, float]:
    """BCa from the formulae of Efron (1987), over all n^n resamples instead of a sample of them."""
    n, observed = len(values), np.mean(values)
    means = np.sort([np.mean(resample) for resample in product(values, repeat=n)])
    z0 = stats.norm.ppf((np.sum(means < observed - 1e-12) + np.sum(means <= observed + 1e-12)) / (2 * len(means)))
    left_out = np.array([np.mean(values[:i] + values[i + 1 :]) for i in range(n)])
    pull = left_out.mean() - left_out
    a = np.sum(pull**3) / (6 * np.sum(pull**2) ** 1.5)
    z = stats.norm.ppf([0.025, 0.975])
    low, high = np.quantile(means, stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z))))
    return float(low), float(high)


def test_the_interval_is_bca_over_all_resamples() -> None:
    values = [1.0, 2.0, 2.5, 3.0, 9.0]
    found, (low, high) = statistics.mean(values, rng()), bca_by_hand(values)
    assert found.estimate == pytest.approx(3.5)
    assert found.low == pytest.approx(low, abs=0.1)
    assert found.high == pytest.approx(high, abs=0.25)
    percentiles = np.quantile([np.mean(r) for r in product(values, repeat=5)], [0.025, 0.975])
    assert found.low > percentiles[0] + 0.05  # the correction for skewness is there
    assert found.high > percentiles[1] + 0.25


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    draws = rng(1).normal(3.0, 2.0, size=(300, 20))
    found = [statistics.mean(sample, rng(i)) for i, sample in enumerate(draws)]
    covered = np.mean([interval.low <= 3.0 <= interval.high for interval in found])
    assert (
        0.90 <= covered <= 0.97
    )  # a t interval would say 0.95; the bootstrap at n = 20 is known to fall short a little


def test_the_generator_is_used() -> None:
    values = rng(5).normal(size=8)
    assert statistics.mean(values, rng(1)) == statistics.mean(values, rng(1))
    assert statistics.mean(values, rng(1)) != statistics.mean(values, rng(2))


def test_differences_are_paired() -> None:
    # Unpaired, these two overlap widely; paired, the difference is 1 in every pair.
    found = statistics.difference([11, 21, 31, 41], [10, 20, 30, 40], rng())
    assert found == Interval(1, 1, 1, 4)


def test_a_ratio_is_a_geometric_mean_and_inverts_exactly() -> None:
    found, inverse = statistics.ratio([2, 8], [1, 1], rng()), statistics.ratio([1, 1], [2, 8], rng())
    assert found.estimate == pytest.approx(4)
    assert (found.low, found.high) == (pytest.approx(2), pytest.approx(8))
    assert (inverse.estimate, inverse.low, inverse.high) == (
        pytest.approx(1 / 4),
        pytest.approx(1 / 8),
        pytest.approx(1 / 2),
    )


def stratified_bca_by_hand(*strata: list[float]) -> tuple[float, float]:
    """As `bca_by_hand`, over all combinations of all resamples of each stratum.

    Acceleration of several samples from the empirical influence values (Davison & Hinkley 1997): with k strata, those
    of the mean of means are (value - mean of its stratum) / k.
    """
    k, observed = len(strata), np.mean([np.mean(stratum) for stratum in strata])
    resampled = [[np.mean(resample) for resample in product(stratum, repeat=len(stratum))] for stratum in strata]
    means = np.sort([np.mean(combination) for combination in product(*resampled)])
    z0 = stats.norm.ppf((np.sum(means < observed - 1e-12) + np.sum(means <= observed + 1e-12)) / (2 * len(means)))
    influence = [(np.array(stratum) - np.mean(stratum)) / k for stratum in strata]
    third = sum(np.sum(values**3) / len(values) ** 3 for values in influence)
    second = sum(np.sum(values**2) / len(values) ** 2 for values in influence)
    a = third / (6 * second**1.5)
    z = stats.norm.ppf([0.025, 0.975])
    low, high = np.quantile(means, stats.norm.cdf(z0 + (z0 + z) / (1 - a * (z0 + z))))
    return float(low), float(high)


def test_strata_weigh_the_same_whatever_their_size() -> None:
    found = statistics.stratified_mean([[1.0, 1.0, 1.0, 1.0], [4.0, 6.0]], rng())
    assert (found.estimate, found.n) == (3.0, 2)
    # Only the second stratum varies: its mean is 4, 5 or 6, each end with a quarter of the resamples.
    assert (found.low, found.high) == (2.5, 3.5)


def test_the_stratified_interval_is_bca_over_all_resamples() -> None:
    strata = [[1.0, 2.0, 9.0], [0.0, 0.5, 1.0, 4.0]]
    found, (low, high) = statistics.stratified_mean(strata, rng()), stratified_bca_by_hand(*strata)
    assert found.estimate == pytest.approx((4 + 5.5 / 4) / 2)
    assert found.low == pytest.approx(low, abs=0.05)
    assert found.high == pytest.approx(high, abs=0.1)


def test_strata_are_resampled_independently() -> None:
    # Resampled together (seed 0 with seed 0), every mean of means would be 0.5; apart they are 0, 0.25, … 1.
    found = statistics.stratified_mean([[0.0, 1.0], [1.0, 0.0]], rng())
    assert (found.estimate, found.low, found.high) == (0.5, 0.0, 1.0)


def test_one_stratum_is_a_mean() -> None:
    values = rng(5).normal(size=8)
    assert statistics.stratified_mean([values], rng(1)) == statistics.mean(values, rng(1))


def test_the_stratified_interval_covers_about_as_often_as_it_says() -> None:
    generator, centres, spreads, sizes = rng(2), (0.0, 3.0, -1.0), (1.0, 0.2, 2.0), (8, 5, 12)
    covered = []
    for i in range(300):
        strata = [generator.normal(c, s, size=n) for c, s, n in zip(centres, spreads, sizes, strict=True)]
        found = statistics.stratified_mean(strata, rng(i))
        covered.append(found.low <= np.mean(centres) <= found.high)
    assert 0.88 <= np.mean(covered) <= 0.97  # short of 0.95 by what a bootstrap of a dozen values is known to be


def test_the_stratified_interval_is_that_of_the_normal_law_for_many_seeds() -> None:
    strata = [rng(3).normal(0, 1, size=400), rng(4).normal(5, 3, size=900)]
    found = statistics.stratified_mean(strata, rng())
    error = math.sqrt(sum(np.var(stratum) / len(stratum) for stratum in strata)) / 2
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.04)


def test_one_seed_in_a_stratum_gives_no_interval_and_none_is_refused() -> None:
    found = statistics.stratified_mean([[1.0, 2.0], [4.0]], rng())
    assert (found.estimate, found.n, found.known) == (2.75, 1, False)
    nothing = statistics.stratified_mean([], rng())
    assert math.isnan(nothing.estimate)
    assert nothing.n == 0
    with pytest.raises(ValueError, match="a stratum has no value"):
        statistics.stratified_mean([[1.0], []], rng())


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=6), st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_a_ratio_to_a_multiple_is_that_multiple(values: Any, factor: float) -> None:
    found = statistics.ratio([factor * value for value in values], values, rng())
    assert found.estimate == pytest.approx(factor)
    assert found.low == pytest.approx(factor)
    assert found.high == pytest.approx(factor)


def test_the_share_of_a_gap_closed() -> None:
    found = statistics.gap_closed([0.60, 0.64], [0.95, 0.97], [0.98, 1.00], rng())
    assert found.estimate == pytest.approx((0.96 - 0.62) / (0.99 - 0.62))
    # Each seed resampled with itself: the ends are the shares of seed 1 and of seed 0.
    assert found.low == pytest.approx((0.97 - 0.64) / (1.00 - 0.64))
    assert found.high == pytest.approx((0.95 - 0.60) / (0.98 - 0.60))


def test_a_gap_that_is_not_there_has_no_share() -> None:
    found = statistics.gap_closed([0.5, 0.5], [0.6, 0.7], [0.5, 0.5], rng())
    assert not math.isfinite(found.estimate)
    assert not found.known


@pytest.mark.parametrize("values", [[1.0, math.nan], [math.inf], [[1.0, 2.0]]])
def test_missing_values_are_refused(values: Any) -> None:
    with pytest.raises(ValueError, match=r"missing|shape"):
        statistics.mean(values, rng())


def test_what_is_not_paired_or_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        statistics.difference([1, 2], [1], rng())
    with pytest.raises(ValueError, match="positive"):
        statistics.ratio([1, 2], [1, 0], rng())
