from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from analysis import scaling

LENGTHS = [32, 64, 128, 256, 512]


@given(st.floats(-2, 3), st.floats(1e-6, 1e6))
def test_a_power_law_is_found_exactly(exponent: float, coefficient: float) -> None:
    law = scaling.fit(LENGTHS, [coefficient * n**exponent for n in LENGTHS])
    assert law.exponent == pytest.approx(exponent, abs=1e-9)
    assert law.coefficient == pytest.approx(coefficient)
    assert law.at(1000) == pytest.approx(coefficient * 1000**exponent)
    assert law.n == 5


def test_one_outlier_does_not_move_the_exponent() -> None:
    values = np.array([float(n) ** 1.5 for n in LENGTHS])
    values[3] *= 10
    assert scaling.fit(LENGTHS, values).exponent == pytest.approx(1.5)
    assert abs(np.polyfit(np.log(LENGTHS), np.log(values), 1)[0] - 1.5) > 0.3  # least squares would


@given(st.floats(33, 500))
def test_the_crossover_of_power_laws_is_exact(where: float) -> None:
    a = [n**2.0 for n in LENGTHS]
    b = [where * n for n in LENGTHS]
    assert scaling.crossover(LENGTHS, a, b) == pytest.approx(where)
    assert scaling.crossover(LENGTHS, b, a) == pytest.approx(where)


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([2, 3, 4], None),  # never
        ([0.5, 1, 2], 20),  # at a measured length
        ([1, 2, 2], None),  # from an end
        ([2, 2, 1], None),
        ([2, 1, 2], None),  # a touch
        ([1, 1, 1], None),  # the same curve
        ([0.5, 2, 0.5], 10 * 2**1.5),  # the last of two: half way in log space from 20 to 40
    ],
)
def test_crossovers_by_hand(ratios: list[float], expected: float | None) -> None:
    found = scaling.crossover([10, 20, 40], ratios, [1, 1, 1])
    assert found == (None if expected is None else pytest.approx(expected))


@pytest.mark.parametrize(
    ("lengths", "values", "message"),
    [
        ([32], [1.0], "two lengths"),
        ([32, 32], [1.0, 2.0], "two lengths"),
        ([32, 64], [1.0], "belong together"),
        ([32, 64], [0.0, 1.0], "positive"),
        ([32, 64], [1.0, float("nan")], "positive"),
    ],
)
def test_what_has_no_power_law_is_refused(lengths: list[int], values: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scaling.fit(lengths, values)
