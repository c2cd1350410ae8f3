"""The rules that all claims share: from differences to a verdict, of one task, of several and of a family."""

import math

import numpy as np
import pytest
from ledger_runs import around
from scipy import stats

from analysis.claims import rules
from analysis.claims.rules import Part, Rule, Sample, Verdict
from analysis.statistics import student

FIVE = Rule(above=0.05, below=0.05, margin=0.05)


@pytest.mark.parametrize(
    ("middle", "expected"), [(0.20, "supported"), (0.0, "tie"), (-0.2, "refuted"), (0.05, "undecided")]
)
def test_sides_of_a_rule(middle: float, expected: str) -> None:
    found = rules.part(Sample("t", around(middle)), FIVE)
    assert found.verdict == expected
    assert math.isnan(found.p) == (expected == "undecided")


def test_a_side_is_where_the_interval_lies() -> None:
    rng = np.random.default_rng(3)
    seen = set()
    for _ in range(300):
        values = rng.normal(rng.uniform(-0.1, 0.15), 0.03, size=5)
        effect = student([values])
        found, p = FIVE.side(effect)
        seen.add(found)
        low, high = effect.interval.low, effect.interval.high
        inner = effect.at(0.90)
        if low > 0.05:
            assert found is Verdict.SUPPORTED
            assert p == pytest.approx(stats.ttest_1samp(values, 0.05).pvalue)
        elif inner.low > -0.05 and inner.high < 0.05:
            assert found is Verdict.TIE
        else:
            assert found is (Verdict.REFUTED if high < 0.05 else Verdict.UNDECIDED)
    assert seen == {Verdict.SUPPORTED, Verdict.TIE, Verdict.REFUTED, Verdict.UNDECIDED}


@pytest.mark.parametrize("seeds", [1, 2, 3, 4])
def test_fewer_than_five_seeds_decide_nothing(seeds: int) -> None:
    ruling = rules.pooled([Sample("a", [0.5] * seeds), Sample("b", [0.5] * seeds)], FIVE)
    assert ruling.verdict is Verdict.UNDECIDED
    assert ruling.effect.estimate == 0.5


def test_a_task_with_few_seeds_is_shown_and_does_not_count() -> None:
    ruling = rules.pooled([Sample("a", around(0.2)), Sample("b", [-0.9, -0.9])], FIVE)
    assert (ruling.verdict, ruling.effect.estimate) == (Verdict.SUPPORTED, pytest.approx(0.2))
    assert [part.verdict for part in ruling.parts] == [Verdict.SUPPORTED, Verdict.UNDECIDED]


def test_support_needs_the_majority_where_it_is_asked_for() -> None:
    samples = [Sample("a", around(0.9)), Sample("b", around(0.0)), Sample("c", around(0.0))]
    assert rules.pooled(samples, FIVE).verdict is Verdict.SUPPORTED
    ruling = rules.pooled(samples, FIVE, majority=True)
    assert ruling.verdict is Verdict.CONDITIONAL
    assert ruling.condition == "holds on a; not on b, c"


def test_a_claim_on_each_task_is_conditional_where_they_differ() -> None:
    samples = [Sample("a", around(0.9)), Sample("b", around(0.0)), Sample("c", around(0.0))]
    ruling = rules.pooled(samples, FIVE, each=True)
    assert (ruling.verdict, ruling.condition) == (Verdict.CONDITIONAL, "holds on a; not on b, c")
    assert rules.pooled(samples[:1] * 3, FIVE, each=True).verdict is Verdict.SUPPORTED
    assert rules.pooled(samples[1:], FIVE, each=True).verdict is Verdict.TIE


def test_parts_that_cannot_be_averaged() -> None:
    def part(name: str, found: Verdict, p: float) -> Part:
        return Part(name, student([around(0.1)]), found, p)

    yes, no = part("a", Verdict.SUPPORTED, 0.01), part("b", Verdict.REFUTED, 0.02)
    open_, tie = part("c", Verdict.UNDECIDED, math.nan), part("d", Verdict.TIE, 0.03)
    assert (rules.together([yes, yes]).verdict, rules.together([yes]).p) == (Verdict.SUPPORTED, 0.01)
    assert (rules.together([yes, no]).verdict, rules.together([yes, no]).p) == (Verdict.CONDITIONAL, 0.02)
    mixed = rules.together([yes, open_])
    assert (mixed.verdict, mixed.effect) == (Verdict.UNDECIDED, open_.effect)
    assert mixed.condition == f"supported elsewhere, undecided at {open_.where}"
    nowhere = rules.together([no, tie])
    assert (nowhere.verdict, nowhere.p) == (Verdict.CONDITIONAL, 0.03)
    assert nowhere.condition == "refuted on b; tie on d"
    assert rules.together([no, tie, open_]).verdict is Verdict.UNDECIDED
    assert rules.together([yes, no, open_]).condition == "holds on a; not on b"
    assert rules.together([tie, tie]).verdict is Verdict.TIE
    assert rules.together([open_]).verdict is Verdict.UNDECIDED


def test_the_effect_shown_is_the_one_that_the_verdict_hangs_on() -> None:
    def part(name: str, middle: float, found: Verdict, p: float = math.nan, seeds: int = 5) -> Part:
        return Part(name, student([around(middle, seeds)]), found, p)

    yes, no = part("a", 0.2, Verdict.SUPPORTED, 0.01), part("b", -0.2, Verdict.REFUTED, 0.02)
    open_, nothing = part("c", 0.05, Verdict.UNDECIDED), part("d", 0.0, Verdict.UNDECIDED, seeds=0)
    for parts in ([yes, no], [no, yes], [nothing, yes, no]):
        assert (rules.together(parts).effect, rules.together(parts).p) == (no.effect, 0.02)
    assert rules.together([nothing, yes, open_]).effect == open_.effect
    assert rules.together([nothing, yes]).effect == yes.effect
    assert rules.together([nothing, yes]).condition == "supported elsewhere, undecided at d"
    assert rules.together([nothing, open_]).effect == open_.effect
    assert rules.together([nothing]).verdict is Verdict.UNDECIDED


def test_places_that_are_ruled_on_each_by_itself() -> None:
    yes, no = Sample("a", around(0.2), ("1",)), Sample("b", around(-0.2), ("2", "1"))
    rulings = {"early": rules.pooled([], FIVE), "late": rules.pooled([yes], FIVE)}
    found = rules.by_place(rulings)
    assert (found.verdict, found.condition) == (Verdict.UNDECIDED, "supported elsewhere, undecided at early")
    assert [(one.where, one.effect.n, one.runs) for one in found.parts] == [("early", 0, ()), ("late", 5, ("1",))]
    split = rules.pooled([yes, no], Rule(above=0.05, below=-0.05, margin=0.0))
    assert split.verdict is Verdict.CONDITIONAL
    found = rules.by_place(rulings | {"end": split})
    assert found.verdict is Verdict.CONDITIONAL
    assert found.condition == "end: holds on a; not on b; supported elsewhere, undecided at early"
    assert rules.by_place({"start": rulings["late"], "end": split}).condition.endswith("; supported elsewhere")
    assert rules.by_place({"end": split}).condition == "end: holds on a; not on b"
    assert (found.effect, found.p) == (split.effect, split.p)
    assert found.parts[-1].runs == ("1", "2")


def test_holm_takes_verdicts_back() -> None:
    ruling = rules.pooled([Sample("a", around(0.2))], FIVE)
    weak = rules.Ruling(Verdict.SUPPORTED, ruling.effect, 0.03, "", ruling.parts)
    strong = rules.Ruling(Verdict.REFUTED, ruling.effect, 0.001, "", ruling.parts)
    kept = rules.after_holm({"x.1": weak, "x.2": weak, "x.3": strong})
    assert [one.verdict for one in kept.values()] == [Verdict.UNDECIDED, Verdict.UNDECIDED, Verdict.REFUTED]
    assert [one.p for one in kept.values()] == pytest.approx([0.06, 0.06, 0.003])
    assert "Holm" in kept["x.1"].condition
    assert rules.after_holm({"x.1": weak})["x.1"].verdict is Verdict.SUPPORTED


def test_what_was_tested_and_is_undecided_counts_among_the_tests() -> None:
    found = rules.pooled([Sample("a", around(0.2))], FIVE)
    weak = rules.Ruling(Verdict.SUPPORTED, found.effect, 0.03, "", found.parts)
    open_ = rules.pooled([Sample("a", around(0.05, spread=0.1))], FIVE)
    few = rules.pooled([Sample("a", around(0.2, 3))], FIVE)
    reported = rules.Ruling(Verdict.REPORTED, found.effect, math.nan, "", found.parts)
    assert (open_.verdict, few.verdict) == (Verdict.UNDECIDED, Verdict.UNDECIDED)
    kept = rules.after_holm({"x.1": weak, "x.2": open_})
    assert (kept["x.1"].verdict, kept["x.1"].p) == (Verdict.UNDECIDED, pytest.approx(0.06))
    assert math.isnan(kept["x.2"].p)
    assert kept["x.2"].condition == ""
    kept = rules.after_holm({"x.1": weak, "x.2": few, "x.3": reported})  # of these nothing was tested
    assert (kept["x.1"].verdict, kept["x.1"].p) == (Verdict.SUPPORTED, pytest.approx(0.03))
