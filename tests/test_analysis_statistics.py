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
    nothing, one = statistics.mean([]), statistics.mean([0.4])
    assert math.isnan(nothing.estimate)
    assert nothing.n == 0
    assert (one.estimate, one.n, one.known) == (0.4, 1, False)
    assert math.isnan(one.low)
    assert math.isnan(one.high)


def test_two_seeds_give_a_wide_interval() -> None:
    found = statistics.mean([0.6, 0.64])
    half = 12.7062047 * 0.02  # the 97.5 % quantile of Student's t with one degree of freedom; standard error 0.02
    assert (found.estimate, found.n) == (0.62, 2)
    assert (found.low, found.high) == (pytest.approx(0.62 - half), pytest.approx(0.62 + half))
    cut = found.inside(0.5, 0.7)
    assert (cut.estimate, cut.low, cut.high, cut.n) == (0.62, 0.5, 0.7, 2)


def test_equal_values_give_an_interval_without_width() -> None:
    assert statistics.mean([0.5, 0.5, 0.5]) == Interval(0.5, 0.5, 0.5, 3)


def grand_mean(*samples: Any, axis: int = -1) -> Any:
    return np.asarray(sum(sample.mean(axis=axis) for sample in samples) / len(samples))


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


def test_the_interval_of_a_mean_is_scipys() -> None:
    values = rng(5).normal(size=8)
    low, high = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    found = statistics.mean(values)
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


def test_bca_is_that_of_the_paper_over_all_resamples() -> None:
    values = [1.0, 2.0, 2.5, 3.0, 9.0]
    found, (low, high) = statistics.bca([values], grand_mean, rng()), bca_by_hand(values)
    assert found.estimate == pytest.approx(3.5)
    assert found.low == pytest.approx(low, abs=0.1)
    assert found.high == pytest.approx(high, abs=0.25)
    percentiles = np.quantile([np.mean(r) for r in product(values, repeat=5)], [0.025, 0.975])
    assert found.low > percentiles[0] + 0.05  # the correction for skewness is there
    assert found.high > percentiles[1] + 0.25


def test_the_generator_is_used() -> None:
    values = rng(5).normal(size=8)
    assert statistics.bca([values], grand_mean, rng(1)) == statistics.bca([values], grand_mean, rng(1))
    assert statistics.bca([values], grand_mean, rng(1)) != statistics.bca([values], grand_mean, rng(2))


def test_differences_are_paired() -> None:
    # Unpaired, these two overlap widely; paired, the difference is 1 in every pair.
    found = statistics.difference([11, 21, 31, 41], [10, 20, 30, 40])
    assert found == Interval(1, 1, 1, 4)


def test_a_ratio_is_a_geometric_mean_and_inverts_exactly() -> None:
    found, inverse = statistics.ratio([2, 8], [1, 1]), statistics.ratio([1, 1], [2, 8])
    assert found.estimate == pytest.approx(4)
    half = 12.7062047 * math.log(2)  # of the logarithms ln 2 and ln 8: standard error ln 2, one degree of freedom
    assert (math.log(found.low), math.log(found.high)) == (
        pytest.approx(math.log(4) - half),
        pytest.approx(math.log(4) + half),
    )
    assert inverse.estimate == pytest.approx(1 / found.estimate)
    assert (inverse.low, inverse.high) == (pytest.approx(1 / found.high), pytest.approx(1 / found.low))


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
    found = statistics.student([[1.0, 1.0, 1.0, 1.0], [4.0, 6.0]])
    assert (found.estimate, found.n) == (3.0, 2)
    # Only the second stratum varies: its mean has the standard error 1, half of which is left, and one degree.
    assert (found.error, found.df) == (pytest.approx(0.5), pytest.approx(1))


def test_two_strata_are_welchs() -> None:
    a, b = rng(1).normal(size=7), rng(2).normal(3, 4, size=5)
    welch = stats.ttest_ind(a, b, equal_var=False)
    found = statistics.student([a, -b])  # half the difference of the means
    low, high = welch.confidence_interval(0.95)
    assert found.df == pytest.approx(welch.df)
    assert (2 * found.interval.low, 2 * found.interval.high) == (pytest.approx(low), pytest.approx(high))
    assert 2 * min(found.p_above(0), found.p_below(0)) == pytest.approx(welch.pvalue)


def test_the_stratified_bootstrap_is_bca_over_all_resamples() -> None:
    strata = [[1.0, 2.0, 9.0], [0.0, 0.5, 1.0, 4.0]]
    found, (low, high) = statistics.bca(strata, grand_mean, rng()), stratified_bca_by_hand(*strata)
    assert found.estimate == pytest.approx((4 + 5.5 / 4) / 2)
    assert found.low == pytest.approx(low, abs=0.05)
    assert found.high == pytest.approx(high, abs=0.1)


def test_strata_are_resampled_independently() -> None:
    # Resampled together (seed 0 with seed 0), every mean of means would be 0.5; apart they are 0, 0.25, … 1.
    found = statistics.bca([[0.0, 1.0], [1.0, 0.0]], grand_mean, rng())
    assert (found.estimate, found.low, found.high) == (0.5, 0.0, 1.0)


def test_tests_are_dual_to_the_interval() -> None:
    found = statistics.student([rng(3).normal(0.1, 1, size=6), rng(4).normal(0.3, 2, size=9)])
    low, high = found.interval.low, found.interval.high
    assert found.p_above(low) == pytest.approx(0.025)
    assert found.p_below(high) == pytest.approx(0.025)
    inner = found.at(0.90)
    assert found.p_within(max(-inner.low, inner.high)) == pytest.approx(0.05)  # TOST at 5 %: the 90 % interval
    assert found.p_within(100) < 1e-6


def test_values_without_spread_are_certain() -> None:
    found = statistics.student([[0.3] * 5])
    assert (found.p_above(0.2), found.p_above(0.3), found.p_below(0.4), found.p_within(0.5)) == (0, 1, 0, 0)


def test_one_seed_in_a_stratum_gives_no_interval_and_none_is_refused() -> None:
    found = statistics.stratified_mean([[1.0, 2.0], [4.0]])
    assert (found.estimate, found.n, found.known) == (2.75, 1, False)
    nothing = statistics.stratified_mean([])
    assert math.isnan(nothing.estimate)
    assert nothing.n == 0
    with pytest.raises(ValueError, match="a stratum has no value"):
        statistics.stratified_mean([[1.0], []])


@given(st.lists(st.floats(0.1, 10), min_size=2, max_size=6), st.floats(0.1, 10))
@settings(max_examples=25, deadline=None)
def test_a_ratio_to_a_multiple_is_that_multiple(values: Any, factor: float) -> None:
    found = statistics.ratio([factor * value for value in values], values)
    assert found.estimate == pytest.approx(factor)
    assert found.low == pytest.approx(factor)
    assert found.high == pytest.approx(factor)


def test_the_share_of_a_gap_closed() -> None:
    base, variant, goal = [0.60, 0.64, 0.61, 0.66], [0.95, 0.97, 0.90, 0.99], [0.98, 1.00, 0.97, 0.98]
    found = statistics.gap_closed(base, variant, goal)
    closed, gap = np.subtract(variant, base), np.subtract(goal, base)
    assert found.estimate == pytest.approx(closed.mean() / gap.mean())
    # Fieller's ends are the shares that a t-test of closed - share · gap just does not reject.
    for end in (found.low, found.high):
        assert stats.ttest_1samp(closed - end * gap, 0).pvalue == pytest.approx(0.05, abs=1e-6)
    assert found.low < found.estimate < found.high


def test_shares_are_of_the_gaps_summed_over_tasks() -> None:
    one = ([0.0, 0.1], [0.5, 0.6], [1.0, 1.1])  # closes half of 1.0
    other = ([0.0, 0.0], [0.2, 0.2], [0.2, 0.2])  # all of 0.2
    assert statistics.pooled_gap_closed([one, other]).estimate == pytest.approx(0.7 / 1.2)


def test_a_gap_that_is_not_there_has_no_share() -> None:
    found = statistics.gap_closed([0.5, 0.5], [0.6, 0.7], [0.5, 0.5])
    assert not math.isfinite(found.estimate)
    assert not found.known
    noisy = statistics.gap_closed([0.5, 0.6, 0.4], [0.6, 0.7, 0.6], [0.6, 0.5, 0.55])
    assert math.isfinite(noisy.estimate)
    assert not noisy.known  # the gap may be nothing: the share may be anything


@pytest.mark.parametrize("values", [[1.0, math.nan], [math.inf], [[1.0, 2.0]]])
def test_missing_values_are_refused(values: Any) -> None:
    with pytest.raises(ValueError, match=r"missing|shape"):
        statistics.mean(values)


def test_what_is_not_paired_or_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        statistics.difference([1, 2], [1])
    with pytest.raises(ValueError, match="positive"):
        statistics.ratio([1, 2], [1, 0])


# --- what else one says of seeds -------------------------------------------------------------------------------------
def test_the_median_and_its_interval_of_ranks() -> None:
    values = [9.0, 1.0, 5.0, 3.0, 7.0, 8.0]
    assert statistics.median(values) == Interval(6.0, 1.0, 9.0, 6)  # covers 1 - 2 / 64
    assert not statistics.median(values[:5]).known  # 1 - 2 / 32 is less than 95 %
    ten = statistics.median(list(range(10)))
    assert (ten.low, ten.high) == (1, 8)  # 1 - 2 · 11 / 1024 = 97.9 %; the next pair of ranks covers 89 %
    assert statistics.median([]).n == 0


def test_the_interquartile_mean_and_its_interval() -> None:
    values = [0.0, 10.0, 11.0, 12.0, 100.0]
    found = statistics.iqm(values)
    assert found.estimate == 11.0
    winsorised = np.array([10, 10, 11, 12, 12.0])  # Tukey & McLaughlin: s_w / ((1 - 2γ) √n), γ = 1/5, two degrees
    half = stats.t.ppf(0.975, 2) * winsorised.std(ddof=1) / (0.6 * math.sqrt(5))
    assert (found.low, found.high) == (pytest.approx(11 - half), pytest.approx(11 + half))
    three, mean = statistics.iqm([1.0, 2.0, 6.0]), statistics.mean([1.0, 2.0, 6.0])  # nothing to trim
    assert (three.estimate, three.low, three.high) == pytest.approx((mean.estimate, mean.low, mean.high))
    assert statistics.iqm([2.0] * 4) == Interval(2.0, 2.0, 2.0, 4)
    assert not statistics.iqm([2.0]).known
    assert math.isnan(statistics.iqm([]).estimate)


def test_the_maximum_is_a_number_without_interval() -> None:
    assert statistics.maximum([0.1, 0.9, 0.5]) == 0.9
    assert math.isnan(statistics.maximum([]))


def test_the_solved_fraction_does_not_collapse() -> None:
    found = statistics.solved([1.0, 0.99, 1.0, 0.98, 1.0], 0.95)
    z2 = 1.959963985**2
    assert (found.estimate, found.n) == (1.0, 5)
    assert (found.low, found.high) == pytest.approx((5 / (5 + z2), 1.0))  # Wilson at n of n
    assert statistics.solved([0.2, 0.95], 0.95).estimate == 0.5
    assert statistics.solved([], 0.9).n == 0


def test_iqm_over_tasks_is_of_all_runs() -> None:
    tasks = [[0.0, 0.1, 0.2, 0.3], [0.9, 1.0, 0.8, 0.7]]
    found = statistics.iqm_over_tasks(tasks, rng())
    assert found.estimate == pytest.approx(np.mean([0.2, 0.3, 0.7, 0.8]))
    assert found.low < found.estimate < found.high


# --- tests -----------------------------------------------------------------------------------------------------------
def test_signs_are_counted_out() -> None:
    assert statistics.permutation_p([[1.0, 2.0, 3.0]], rng()) == 2 / 8  # only +++ and --- reach the sum
    # ±1 ±2 ±3 reaches |1 + 2 - 3| = 0 always
    assert statistics.permutation_p([[1.0, 2.0, -3.0]], rng()) == 1.0
    brute = [abs((a * 1 + b * 5) / 2 + c * 4) for a, b, c in product((-1, 1), repeat=3)]
    assert statistics.permutation_p([[1.0, 5.0], [-4.0]], rng()) == np.mean([x >= 1.0 for x in brute])
    assert math.isnan(statistics.permutation_p([], rng()))


def test_many_pairs_are_drawn_and_agree_with_scipy() -> None:
    values = rng(7).normal(0.45, 1, size=20)
    expected = stats.permutation_test((values,), np.mean, permutation_type="samples", n_resamples=20_000, rng=rng(9))
    assert statistics.permutation_p([values], rng()) == pytest.approx(expected.pvalue, abs=0.01)
    assert statistics.permutation_p([values + 100], rng()) == 1 / 10_000  # never zero


def test_holm_by_hand() -> None:
    found = statistics.holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": math.nan, "e": 0.9})
    assert [found[name] for name in "ace"] == [0.04, pytest.approx(0.09), 0.9]
    assert found["b"] == pytest.approx(0.09)  # 2 · 0.04 is less than what a smaller p got
    assert math.isnan(found["d"])


def test_the_probability_of_improvement() -> None:
    found = statistics.improvement([[3.0, 1.0], [5.0]], [[2.0, 1.0], [5.0]])
    # first task: 3>2, 3>1, 1<2, 1=1 → 2.5 / 4; second: a tie
    assert found.estimate == pytest.approx((2.5 / 4 + 0.5) / 2)
    always = statistics.improvement([[3.0, 4.0, 5.0, 6.0, 7.0]], [[0.0, 1.0, 2.0, 1.5, 0.5]])
    assert always.estimate == always.high == 1.0
    assert 0.5 < always.low < 0.85
    mirrored = statistics.improvement([[0.0, 1.0, 2.0, 1.5, 0.5]], [[3.0, 4.0, 5.0, 6.0, 7.0]])
    assert (mirrored.estimate, mirrored.high) == (0.0, pytest.approx(1 - always.low))
    assert statistics.improvement([], []).n == 0
    assert not statistics.improvement([[1.0]], [[0.0]]).known


def test_the_interval_of_the_probability_of_improvement_covers() -> None:
    truth = float(stats.norm.cdf(1 / math.sqrt(2)))  # of N(1, 1) above N(0, 1)
    generator, covered = rng(11), []
    for _ in range(300):
        found = statistics.improvement([generator.normal(1, 1, 6)], [generator.normal(0, 1, 6)])
        covered.append(found.low <= truth <= found.high)
    assert 0.92 <= np.mean(covered) <= 0.995
