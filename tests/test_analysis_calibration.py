"""A thousand synthetic grids with a known truth: intervals cover as often as they say, and verdicts err as seldom."""

import math

import numpy as np
import pandas as pd
import pytest

from analysis import calibration
from analysis.claims.rules import Verdict


@pytest.fixture(scope="module")
def found() -> pd.DataFrame:
    return calibration.simulate(19, np.random.default_rng(2024))


def test_the_truths_are_those_that_matter(found: pd.DataFrame) -> None:
    assert found["grids"].sum() >= 1000
    assert set(found["seeds"]) == {3, 5, 10}
    assert set(found["effect"]) == {"none", "small", "large"}
    assert "bimodal" in set(found["shape"])
    assert set(found["missing"]) == {False, True}


def test_intervals_cover(found: pd.DataFrame) -> None:
    assert found["covered"].mean() >= 0.93
    assert calibration.summary(found, ["seeds"])["covered"].min() >= 0.93


def test_few_verdicts_are_wrong(found: pd.DataFrame) -> None:
    assert found["wrong"].mean() <= 0.05
    assert calibration.summary(found, ["seeds"])["wrong"].max() <= 0.05


def test_three_seeds_are_undecided_and_more_do_decide(found: pd.DataFrame) -> None:
    decided = calibration.summary(found, ["seeds"])["decided"]
    assert decided[3] == 0
    assert 0.5 < decided[5] < decided[10]


def test_a_drawn_grid_has_the_truth_it_says() -> None:
    rng = np.random.default_rng(1)
    for shape in calibration.SHAPES:
        scenario = calibration.Scenario("large", 10, shape, missing=False)
        draws = [np.mean([task.mean() for task in calibration.draw(scenario, rng)]) for _ in range(300)]
        assert np.mean(draws) == pytest.approx(scenario.truth, abs=0.015)
    gone = calibration.Scenario("none", 10, "normal", missing=True)
    counts = [len(task) for _ in range(100) for task in calibration.draw(gone, rng)]
    assert np.mean(counts) == pytest.approx(10 * (1 - calibration.MISSING) ** 2, abs=0.3)
    assert Verdict.TIE in gone.right
    assert Verdict.TIE not in calibration.Scenario("large", 5, "normal", missing=False).right


def test_intervals_of_exponents_and_crossovers_cover() -> None:
    """As often as they say, at three seeds, too."""
    found = calibration.simulate_curves(60, np.random.default_rng(2024))
    assert set(found["seeds"]) == {3, 5, 10}
    assert found.groupby("seeds")[["exponent", "crossing"]].mean().to_numpy().min() >= 0.93
    assert found.groupby("noise")[["exponent", "crossing"]].mean().to_numpy().min() >= 0.92
    assert found[["exponent", "crossing"]].to_numpy().mean() <= 0.985  # nor are they so wide that they say nothing


def test_a_grid_without_an_interval_covers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two seeds with missing runs many a grid has a task with one: the share covered is that of the others."""
    rng = np.random.default_rng(3)
    alone = calibration.trial(calibration.Scenario("none", 1, "normal", missing=False), rng, bootstrap=True)
    assert math.isnan(alone["covered"])
    assert math.isnan(alone["covered by BCa"])
    few = calibration.Scenario("none", 2, "normal", missing=True)
    known = np.array([calibration.trial(few, np.random.default_rng(i))["covered"] for i in range(200)])
    drawn = [calibration.draw(few, np.random.default_rng(i)) for i in range(200)]
    fewest = np.array([min(len(task) for task in grid if len(task)) for grid in drawn])
    assert 20 < (fewest == 1).sum() < 180
    np.testing.assert_array_equal(np.isnan(known), fewest == 1)
    monkeypatch.setattr(calibration, "scenarios", lambda: iter([few]))
    answers = iter([1.0, math.nan, 0.0, math.nan])
    monkeypatch.setattr(calibration, "trial", lambda _, rng, **__: {"covered": next(answers)})
    assert calibration.simulate(4, rng)["covered"].item() == 0.5
