import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_runs import Rows, run_rows, sweep_rows, table

from analysis import claims, scaling, tables
from analysis.claims.rules import Verdict
from experiments import schema as s

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


T1 = 12.706204736  # 97.5 % quantile of Student's t with one degree of freedom


def test_the_exponent_of_samples_by_hand() -> None:
    """Of two samples with exponents 1 and 2: mean 1.5, standard error 0.5."""
    samples = [[3.0 * n for n in LENGTHS], [0.1 * n**2 for n in LENGTHS]]
    found = scaling.exponent(LENGTHS, samples)
    assert found.n == 2
    assert [found.estimate, found.low, found.high] == pytest.approx([1.5, 1.5 - 0.5 * T1, 1.5 + 0.5 * T1])
    alone = scaling.exponent(LENGTHS, samples[:1])
    assert alone.estimate == pytest.approx(1.0)
    assert not alone.known


def test_the_law_of_samples_is_the_geometric_mean_of_theirs() -> None:
    """Of 3·n and 12·n²: 6·n^1.5, whatever order the lengths are in."""
    law = scaling.mean_law(LENGTHS[::-1], [[3.0 * n for n in LENGTHS[::-1]], [12.0 * n**2 for n in LENGTHS[::-1]]])
    assert [law.exponent, law.coefficient, law.n] == pytest.approx([1.5, 6, 5])


@given(st.lists(st.lists(st.floats(0.1, 10), min_size=5, max_size=5), min_size=1, max_size=4))
def test_the_exponent_that_is_drawn_is_the_one_that_is_stated(samples: list[list[float]]) -> None:
    drawn, stated = scaling.mean_law(LENGTHS, samples).exponent, scaling.exponent(LENGTHS, samples).estimate
    assert drawn == pytest.approx(stated, abs=1e-9)


def test_an_outlier_among_the_lengths_of_samples_is_borne() -> None:
    samples = np.array([[float(n) ** 1.5 for n in LENGTHS]] * 3)
    samples[:, 3] *= 10
    found = scaling.exponent(LENGTHS, samples)
    assert [found.estimate, found.low, found.high] == pytest.approx([1.5] * 3)


def test_local_slopes_by_hand() -> None:
    """A constant, then a line, then a square."""
    assert scaling.local_slopes([2, 8, 32, 128], [5, 5, 20, 320]) == [
        (pytest.approx(4), pytest.approx(0)),
        (pytest.approx(16), pytest.approx(1)),
        (pytest.approx(64), pytest.approx(2)),
    ]


def test_the_interval_of_a_crossover_by_hand() -> None:
    """Gaps of equal slope 1 whose zeros lie at 40·e^±d: those of Student's t around the mean of their logarithms."""
    lengths = [10, 20, 40, 80, 160]
    d = 0.02
    a = [[n**2 for n in lengths]] * 2
    b = [[40 * math.exp(sign * d) * n for n in lengths] for sign in (1, -1)]
    found = scaling.crossover_interval(lengths, a, b)
    assert found is not None
    half = T1 * d  # the standard error of two values ±d is d
    assert [found.estimate, found.low, found.high] == pytest.approx([40, 40 * math.exp(-half), 40 * math.exp(half)])
    assert found.n == 2
    alone = scaling.crossover_interval(lengths, a[:1], b[:1])
    assert alone is not None
    assert not alone.known
    same = scaling.crossover_interval(lengths, a, [b[0]] * 2)
    assert same is not None
    assert same.low == same.estimate == same.high == pytest.approx(40 * math.exp(d))


@pytest.mark.parametrize(("factors", "ends"), [((20, 80), (0, math.inf)), ((2, 5), None)])
def test_where_the_curves_may_cross_beyond_the_range_the_interval_is_open(
    factors: tuple[float, float], ends: tuple[float, float] | None
) -> None:
    """Two samples that cross at 20 and at 80 say nothing of where their mean does."""
    lengths = [10, 20, 40, 80, 160]
    a = [[n**2 for n in lengths]] * 2
    b = [[factor * n for n in lengths] for factor in factors]
    found = scaling.crossover_interval(lengths, a, b)
    assert (None if found is None else (found.low, found.high)) == ends


def test_a_sample_that_does_not_cross_counts() -> None:
    """Three samples cross at 20, at 26 and far beyond the range; open above, not left out."""
    lengths = [10, 20, 40]
    a = [[n**2 for n in lengths]] * 3
    b = [[factor * n for n in lengths] for factor in (20, 26, 50)]
    found = scaling.crossover_interval(lengths, a, b)
    assert found is not None
    assert found.estimate == pytest.approx((20 * 26 * 50) ** (1 / 3))
    assert found.high == math.inf


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [([[1.0, 2.0]], [[1.0, 2.0]] * 2, "not paired"), ([1.0, 2.0], [1.0, 2.0], "shape"), ([], [], "shape")],
)
def test_samples_that_do_not_belong_together_are_refused(a: Any, b: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scaling.crossover_interval([1, 2], a, b)


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


# --- where a sweep ends ----------------------------------------------------------------------------------------------
def stopped(model: str, seed: int, at: int, phase: str = "train_step", **more: Any) -> Rows:
    """A sweep of a phase that was measured up to half of where it stopped."""
    lengths = [n for n in (32, 64, 128) if n < at]
    points = [(s.PHASES[phase], n, 0.1) for n in lengths]
    why = {"stops": json.dumps({phase: f"memory: not {at}"})} | more
    return run_rows(s.EFFICIENCY, "", model, seed, [*points, (f"{s.STOPPED_AT}{phase}", None, at)], **why)


def test_where_each_model_stops() -> None:
    runs = table(
        *(stopped("transformer", seed, at) for seed, at in enumerate((256, 128, 256))),
        stopped("lstm", 0, 64, "step", stops=""),  # of a table of before the reasons were kept
        stopped("lstm", 1, 32, hardware="another"),
        run_rows(s.EFFICIENCY, "", "lstm_attention", 0, [(s.TRAIN_STEP_SECONDS, 256, 0.1)]),
    )
    found = scaling.stops(runs)
    shown = found[["model", "phase", "stopped_at", "longest", "reason"]].fillna(0).to_numpy().tolist()
    assert shown == [
        ["lstm", "step", 64, 32, ""],
        ["transformer", "train_step", 128, 64, "memory: not 128"],  # of the seed that stopped first
        ["lstm", "train_step", 32, 0, "memory: not 32"],
    ]
    assert tables.stops_as_table(found).rows[2] == ("another", "LSTM", "train step", "–", "32", "memory: not 32")
    assert scaling.stops(runs[runs["model"] == "lstm_attention"]).empty


# --- what stands side by side ----------------------------------------------------------------------------------------
def test_sweeps_in_two_precisions_are_two_parts_of_a_claim() -> None:
    """Each with its own ratio and its own five repeats: nothing is averaged over both."""
    rows: Rows = []
    for precision, ratio in (("bfloat16", 0.5), ("float32", 2.0)):
        laws = {"lstm": {s.TRAIN_STEP_SECONDS: (1e-3, 1.0)}, "transformer": {s.TRAIN_STEP_SECONDS: (ratio * 1e-3, 1.0)}}
        labels = {"task": f"length_sweep(batch_size=64, precision={precision})"}
        rows += [row | labels | {"run_id": f"{row['run_id']}-{precision}"} for row in sweep_rows(laws, tokens=None)]
    (entry,) = [one for one in claims.ledger(table(rows)) if one.claim.id == "4.1"]
    half, double = sorted(entry.parts, key=lambda part: part[0])
    assert ("precision=bfloat16" in half[0], "precision=float32" in double[0]) == (True, True)
    assert [half[2], double[2]] == [Verdict.SUPPORTED, Verdict.REFUTED]
    assert entry.verdict is Verdict.CONDITIONAL
    assert len(entry.runs) == 2 * 2 * 5
