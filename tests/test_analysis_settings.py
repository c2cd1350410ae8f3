"""Several settings of a task are one task: to a mean over tasks, to a majority of them and to words that count them."""

import numpy as np
import pandas as pd
import pytest
from ledger_runs import Point, Rows, around, run_rows, table, task_rows

from analysis import ablations, claims, statistics
from analysis.claims import Verdict, rules
from analysis.claims.rules import Rule, Sample
from experiments import schema as s

FIVE = Rule(above=0.05, below=0.05, margin=0.05)


def entry(runs: pd.DataFrame, claim: str) -> claims.Entry:
    return next(one for one in claims.ledger(runs) if one.claim.id == claim)


def test_a_task_with_two_settings_weighs_as_one_with_one() -> None:
    """Where these are measured alike it is their average by seed that is held beside the other task."""
    rng = np.random.default_rng(0)
    copy, longer, needle = rng.normal([[0.3], [0.5], [0.1]], 0.05, size=(3, 2000))
    found = statistics.student([copy, longer, needle], ["copy", "copy", "needle"])
    averaged = statistics.student([(copy + longer) / 2, needle])
    assert found.estimate == pytest.approx(averaged.estimate)
    assert found.error == pytest.approx(averaged.error, rel=0.05)  # but for what chance correlates them by
    assert found.estimate != pytest.approx(statistics.student([copy, longer, needle]).estimate, abs=0.01)
    assert statistics.student([copy, needle], ["copy", "needle"]) == statistics.student([copy, needle])


def test_variances_of_settings_by_hand() -> None:
    """Weights 1/4, 1/4 and 1/2; variances of the means 1, 4 and 9, each of two values."""
    strata = [[1.0, 3.0], [0.0, 4.0], [-3.0, 3.0]]
    found = statistics.student(strata, ["copy", "copy", "needle"])
    assert found.estimate == pytest.approx(2 / 4 + 2 / 4)
    parts = np.array([1 / 16, 4 / 16, 9 / 4])
    assert found.error == pytest.approx(np.sqrt(parts.sum()))
    assert found.df == pytest.approx(parts.sum() ** 2 / (parts**2).sum())


def test_the_share_of_a_gap_sums_over_tasks() -> None:
    def scores(gap: float, closed: float) -> tuple[list[float], list[float], list[float]]:
        return around(0.2), around(0.2 + gap * closed, shift=1), around(0.2 + gap, shift=2)

    three = [scores(0.6, 1.0), scores(0.2, 1.0), scores(0.4, 0.0)]
    assert statistics.pooled_gap_closed(three).estimate == pytest.approx(0.8 / 1.2)
    found = statistics.pooled_gap_closed(three, ["copy", "copy", "needle"])
    assert found.estimate == pytest.approx(0.4 / 0.8)
    assert found.low < 0.5 < found.high
    # Fieller's interval is of all shares that Student's test of the residual does not reject.
    for share, at_the_end in ((found.low, True), (found.high, True), (found.estimate, False)):
        residual = [np.subtract(v, b) - share * np.subtract(g, b) for b, v, g in three]
        test = statistics.student(residual, ["copy", "copy", "needle"])
        assert (2 * min(test.p_above(0), test.p_below(0)) < 0.1) is at_the_end


def test_a_majority_is_one_of_tasks() -> None:
    def ruled(*tasks: str) -> rules.Ruling:
        effects = (0.9, 0.8, 0.7, 0.05, 0.05)  # the last two are open
        spread = (0.01, 0.01, 0.01, 0.02, 0.02)
        samples = [
            Sample(f"{task} {place}", around(effect, spread=width), task=task)
            for place, (task, effect, width) in enumerate(zip(tasks, effects, spread, strict=True))
        ]
        return rules.pooled(samples, FIVE, majority=True)

    assert ruled("a", "b", "c", "d", "e").verdict is Verdict.SUPPORTED
    found = ruled("copy", "copy", "copy", "d", "e")
    assert (found.verdict, found.condition, found.counting) == (Verdict.UNDECIDED, "it holds on 1 of 3 tasks", 3)
    assert len(found.parts) == 5
    half = ruled("copy", "a", "b", "copy", "e")
    assert (half.verdict, half.counting) == (Verdict.SUPPORTED, 4)  # two and a half of four
    assert ruled("copy", "copy", "copy", "copy", "e").condition == "it holds on 0.75 of 2 tasks"


def scored(task: str, lstm: float, attention: float, transformer: float, grid: str = "grid") -> Rows:
    ends = {"lstm": around(lstm), "lstm_attention": around(attention, shift=1), "transformer": around(transformer)}
    rows = task_rows(task, ends, hardest=ends, longer=ends, measures="distance=distance items=pairs", grid=grid)
    return [row | {"language_class": "regular"} for row in rows]


def test_settings_of_a_task_are_one_task_to_every_claim_that_pools() -> None:
    """In one grid or in two; each of them is shown."""
    runs = table(
        scored("copy(max_delay=8)", 0.92, 0.95, 0.96),
        scored("copy(max_delay=20)", 0.92, 0.95, 0.96, grid="other"),
        scored("copy", 0.92, 0.95, 0.96),
        scored("needle", 0.91, 0.92, 0.99),
    )
    for claim in ("2.1", "2.2", "2.3"):
        found = entry(runs, claim)
        assert found.effect.estimate == pytest.approx((0.04 + 0.08) / 2), claim
        assert "on 2 tasks" in found.clause
    assert len(entry(runs, "2.1").parts) == 4
    far = table(
        *(scored(task, 0.5, 0.9, 0.98) for task in ("copy", "copy(max_delay=8)")), scored("needle", 0.5, 0.5, 0.98)
    )
    closed = entry(far, "3.1")
    assert closed.effect.estimate == pytest.approx((0.4 / 0.48) / 2)
    assert closed.clause.endswith("on 2 tasks")
    assert len(closed.parts) == 3


def test_settings_of_a_task_are_one_task_at_equal_cost() -> None:
    def learnt(task: str, lead: float) -> Rows:
        rows: Rows = []
        for model, score in (("lstm", 0.5), ("transformer", 0.5 + lead)):
            for seed in range(5):
                points: list[Point] = [(s.metric(s.TEST, s.TOKEN_ACCURACY), None, 0.99), (s.TRAIN_SECONDS, 4, 1.0)]
                points += [(s.metric(s.VALIDATION, s.TOKEN_ACCURACY), 4, score + 0.001 * seed)]
                rows += run_rows(s.LEARN, task, model, seed, points)
        return rows

    found = entry(table(learnt("copy", 0.1), learnt("copy(max_delay=8)", 0.3), learnt("needle", 0.4)), "4.3")
    assert "+30.0 points [+30.0, +30.0] at 100% (2 tasks)" in found.clause


def test_settings_of_a_task_are_one_task_to_a_component() -> None:
    def of(task: str, lost: float) -> Rows:
        return task_rows(task, {"lstm": around(0.95), "lstm(norm=none)": around(0.95 - lost, shift=1)})

    runs = table(of("copy", 0.1), of("copy(max_delay=8)", 0.3), of("needle", 0.6))
    found = entry(runs, "5.lstm: norm=none")
    assert found.effect.estimate == pytest.approx(0.4)
    assert found.counting == 2
    pooled = ablations.effects(runs).query("task == ''")
    assert pooled["estimate"].item() == pytest.approx(0.4)
