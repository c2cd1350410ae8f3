"""From an estimate to a verdict: the rules that all claims share, as functions of one array of differences a task.

Effects are turned so that the claim holds where they are large. What a verdict says of the truth, and how sure it is:

- supported: above the rule's upper threshold, the 95 % interval wholly so;
- tie: within the margin of no difference, by two one-sided tests at 5 %;
- refuted: below the lower threshold, the 95 % interval wholly so, and no tie;
- conditional: parts that have enough seeds say different things, supported, refuted or tied;
- undecided: anything else, and always with fewer than five seeds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from numpy.typing import ArrayLike

from analysis.statistics import CONFIDENCE, Interval, Student, holm, student

LEAST_SEEDS = 5  # for a verdict on accuracy
LEAST_REPEATS = 5  # for one on cost
ALPHA = 1 - CONFIDENCE
ACCURACY_MARGIN = 0.05  # 5 points
COST_MARGIN = 0.10  # of a time or a memory figure
EXPONENT_MARGIN = 0.1


class Verdict(StrEnum):
    """What a claim comes to."""

    SUPPORTED = "supported"
    REFUTED = "refuted"
    CONDITIONAL = "conditional"
    TIE = "tie"
    UNDECIDED = "undecided"
    NOT_MEASURED = "not measured"
    REPORTED = "reported"  # numbers without a criterion: claim 3.2


DECIDED = frozenset({Verdict.SUPPORTED, Verdict.REFUTED, Verdict.TIE})


@dataclass(frozen=True)
class Rule:
    """Thresholds of an effect: supported above one, refuted below another, tied within a margin (None: no such)."""

    above: float
    below: float
    margin: float | None = None

    def side(self, effect: Student) -> tuple[Verdict, float]:
        """Verdict on one effect, however few its seeds, and its p-value (two-sided, but that of a tie)."""
        above, below = 2 * effect.p_above(self.above), 2 * effect.p_below(self.below)
        tied = math.nan if self.margin is None else effect.p_within(self.margin)
        for verdict, p in ((Verdict.SUPPORTED, above), (Verdict.TIE, tied), (Verdict.REFUTED, below)):
            if p <= ALPHA:  # NaN is not
                return verdict, min(p, 1.0)
        return Verdict.UNDECIDED, math.nan


@dataclass(frozen=True)
class Part:
    """What one task, or one piece of hardware, says to a claim; `shown` where its number is not the effect ruled on.

    Where a part does not count beside others (`pooled`) it has no `runs`.
    """

    where: str
    effect: Student
    verdict: Verdict
    p: float
    runs: tuple[str, ...] = ()
    shown: Interval | None = None
    task: str = ""  # of which this is a setting; else the part stands for itself

    @property
    def enough(self) -> bool:
        """Whether there are seeds enough for a verdict."""
        return self.effect.n >= LEAST_SEEDS


@dataclass(frozen=True)
class Ruling:
    """Verdict on several parts together, the effect it stands on, its p-value and, where it is conditional, on what."""

    verdict: Verdict
    effect: Student
    p: float
    condition: str
    parts: tuple[Part, ...]

    @property
    def runs(self) -> tuple[str, ...]:
        """Those of all parts, each once."""
        return tuple(dict.fromkeys(run for part in self.parts for run in part.runs))

    @property
    def counting(self) -> int:
        """Number of tasks (pieces of hardware, …) that have seeds enough; of all where none has."""
        counting = [part for part in self.parts if part.enough] or self.parts
        return len({part.task or part.where for part in counting})


@dataclass(frozen=True)
class Sample:
    """Differences of one task (or logarithms of ratios on one piece of hardware), one per seed, and their runs.

    `task` is the name of the task without its settings, which several samples may share; "" where it is `where`.
    `shown` is the task's number where it is not the mean of the differences (a share of a gap).
    """

    where: str
    differences: ArrayLike
    runs: tuple[str, ...] = ()
    shown: Interval | None = None
    task: str = ""


def part(sample: Sample, rule: Rule, least: int = LEAST_SEEDS) -> Part:
    """The verdict on one sample; undecided with fewer than `least` values."""
    effect = student([sample.differences])
    verdict, p = rule.side(effect) if effect.n >= least else (Verdict.UNDECIDED, math.nan)
    return Part(sample.where, effect, verdict, p, sample.runs, sample.shown, sample.task or sample.where)


def pooled(samples: Sequence[Sample], rule: Rule, *, majority: bool = False, each: bool = False) -> Ruling:
    """A claim on several tasks of the same kind: what the mean over tasks says; undecided where there is none.

    Several settings of a task weigh together as one task. What has fewer than five seeds is shown and does not count.
    Where the pooled interval decides nothing, or supports
    without a majority of the tasks, tasks that are decided on both sides make the claim conditional on the task.

    Args:
        samples: the tasks.
        rule: its thresholds, for every task and for their mean.
        majority: whether support needs more than half of the tasks as well.
        each: whether the claim is one on each task: then these make it conditional whatever their mean says.
    """
    parts = tuple(part(sample, rule) for sample in samples)
    if not any(one.enough for one in parts):
        effect = student([sample.differences for sample in samples], [one.task for one in parts])
        return Ruling(Verdict.UNDECIDED, effect, math.nan, "", parts)
    parts = tuple(one if one.enough else replace(one, runs=()) for one in parts)
    counting = [one for one in parts if one.enough]
    tasks = [one.task for one in counting]
    strata = [sample.differences for sample, one in zip(samples, parts, strict=True) if one.enough]
    effect = student(strata, tasks)
    verdict, p = rule.side(effect)
    holds = [one for one in parts if one.verdict is Verdict.SUPPORTED]
    fails = [one for one in parts if one.verdict in (Verdict.REFUTED, Verdict.TIE)]
    held = sum(1 / tasks.count(one.task) for one in holds)  # a task half, where one of its two settings holds
    majority_missing = majority and verdict is Verdict.SUPPORTED and 2 * held <= len(set(tasks))
    if (verdict is Verdict.UNDECIDED or majority_missing or each) and holds and fails:
        return conditional(parts, effect)
    if majority_missing:
        words = f"it holds on {held:.2g} of {len(set(tasks))} tasks"
        return Ruling(Verdict.UNDECIDED, effect, math.nan, words, parts)
    return Ruling(verdict, effect, p, "", parts)


def together(parts: Sequence[Part]) -> Ruling:
    """A claim on parts that cannot be averaged (hardware, metrics): what they all say, else conditional or undecided.

    The effect shown is that of the part on which the verdict hangs: of the decided ones the least sure, which gives the
    p-value, too; where the claim is undecided, the first open one that was measured.
    """
    verdicts = {one.verdict for one in parts}
    open_parts = [one for one in parts if one.verdict is Verdict.UNDECIDED]
    decided = [one for one in parts if one.verdict in DECIDED]
    last = max(decided, key=lambda one: one.p, default=parts[0])
    if decided and len(verdicts) == 1:
        return Ruling(last.verdict, last.effect, last.p, "", tuple(parts))
    if decided and (not open_parts or verdicts > {Verdict.SUPPORTED, Verdict.UNDECIDED}):
        return conditional(parts, last.effect)
    said = " or ".join(sorted(str(verdict) for verdict in verdicts - {Verdict.UNDECIDED}))
    words = f"{said} elsewhere, undecided at {', '.join(one.where for one in open_parts)}" if decided else ""
    effect = next((one.effect for one in open_parts if one.effect.n), last.effect)
    return Ruling(Verdict.UNDECIDED, effect, math.nan, words, tuple(parts))


def by_place(rulings: Mapping[str, Ruling]) -> Ruling:
    """A claim on several places, each ruled on by itself (quartiles of a budget, classes of languages): `together`.

    Where one of them is conditional, so is the claim, on what that one hangs on; of several the least sure is shown.
    """
    parts = tuple(Part(where, one.effect, one.verdict, one.p, one.runs) for where, one in rulings.items())
    split = [part for part in parts if part.verdict is Verdict.CONDITIONAL]
    if not split:
        return together(parts)
    last = max(split, key=lambda one: one.p)
    words = [f"{part.where}: {rulings[part.where].condition}" for part in split]
    if others := [part for part in parts if part not in split]:
        rest = together(others)
        words.append(rest.condition or f"{rest.verdict} elsewhere")
    return Ruling(Verdict.CONDITIONAL, last.effect, last.p, "; ".join(words), parts)


def conditional(parts: Sequence[Part], effect: Student) -> Ruling:
    """Parts say different things; the least sure of the decided ones gives the p-value."""

    def names(*verdicts: Verdict) -> str:
        return ", ".join(one.where for one in parts if one.verdict in verdicts)

    words = f"holds on {names(Verdict.SUPPORTED)}; not on {names(Verdict.REFUTED, Verdict.TIE)}"
    if not names(Verdict.SUPPORTED):
        words = f"refuted on {names(Verdict.REFUTED)}; tie on {names(Verdict.TIE)}"
    p = max(one.p for one in parts if one.verdict in DECIDED)
    return Ruling(Verdict.CONDITIONAL, effect, p, words, tuple(parts))


def after_holm(rulings: Mapping[str, Ruling]) -> dict[str, Ruling]:
    """The rulings of one family with p-values by Holm (1979); what is above 5 % then becomes undecided.

    A claim that had seeds enough and is undecided on its own was tested, too: it counts among the tests.
    """
    tested = {
        name: 1.0 if math.isnan(ruling.p) else ruling.p
        for name, ruling in rulings.items()
        if ruling.verdict is not Verdict.REPORTED and any(one.enough for one in ruling.parts)
    }
    adjusted = holm(tested)
    kept = {}
    for name, ruling in rulings.items():
        p = math.nan if math.isnan(ruling.p) else adjusted[name]
        if p > ALPHA:
            ruling = replace(
                ruling,
                verdict=Verdict.UNDECIDED,
                condition=f"{ruling.verdict} on its own, not after correction for several claims (Holm)",
            )
        kept[name] = replace(ruling, p=p)
    return kept


def exponential(interval: Interval) -> Interval:
    """From the logarithm of a ratio to the ratio."""
    return Interval(math.exp(interval.estimate), math.exp(interval.low), math.exp(interval.high), interval.n)
