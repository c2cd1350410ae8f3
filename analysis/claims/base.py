"""What a claim is, and what the runs answer to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import pandas as pd

from analysis import units
from analysis.claims.rules import Ruling, exponential
from analysis.evidence import Contest, stand_in
from analysis.runs import family
from analysis.statistics import Interval

LSTM, ATTENTION, TRANSFORMER = "lstm", "lstm_attention", "transformer"


@dataclass(frozen=True)
class Finding:
    """Numbers that speak to a claim, and the sentence that states them."""

    sentence: str
    where: str  # task and slice, or hardware and batches
    numbers: Mapping[str, Interval]  # by statistic; shares as 0..1, differences positive where the Transformer is ahead
    setting: str = ""  # of a sweep: hardware and batches, which its sentence leaves out


@dataclass(frozen=True)
class Scale:
    """How the effect of a claim is shown: the quantity, and what makes its number of the effect that is ruled on."""

    quantity: units.Quantity
    shown: Callable[[Interval], Interval] = lambda interval: interval

    def said(self, interval: Interval) -> str:
        """``"+41.0 points [+33.0, +48.0]"``."""
        return self.quantity.said(self.shown(interval))


def _inverted(interval: Interval) -> Interval:
    return exponential(Interval(-interval.estimate, -interval.high, -interval.low, interval.n))


def _of_shares(interval: Interval) -> Interval:
    """No two shares differ by more than 1."""
    return interval.inside(-1.0, 1.0)


POINTS = Scale(units.Quantity("lead of the Transformer", "points", 100.0, "+z.1f"), _of_shares)
GAIN = Scale(units.Quantity("full model minus variant", "points", 100.0, "+z.1f"), _of_shares)
LSTM_TO_TRANSFORMER = Scale(units.Ratio("LSTM / Transformer"), exponential)
TRANSFORMER_TO_LSTM = Scale(units.Ratio("Transformer / LSTM"), _inverted)
ATTENTION_TO_LSTM = Scale(units.Ratio("LSTM + attention / LSTM"), exponential)
LSTM_MINUS_TRANSFORMER = Scale(units.Quantity("exponent of the LSTM minus the Transformer's", "", 1.0, "+z.2f"))
TRANSFORMER_MINUS_LSTM = Scale(units.Quantity("exponent of the Transformer minus the LSTM's", "", 1.0, "+z.2f"))
SHARE = Scale(units.Quantity("share of the gap closed", "%", 100.0, ".0f"))


@dataclass(frozen=True)
class LeftOut:
    """Something that a claim does not count.

    Attributes:
        cause: in a few words: ``"LSTM not trained"``.
        sentence: of which task, and the number behind it.
    """

    cause: str
    sentence: str

    def __str__(self) -> str:
        return self.sentence


def not_trained(model: str, task: str, percent: str, where: str) -> LeftOut:
    """A model (its label) that reached no more than `percent` of the `task`, which decides nothing there."""
    name = units.model_name(model)
    return LeftOut(f"{name} not trained", f"{name} is not trained on {task}: {percent} % {where}")


def untrained_in_range(contest: Contest, *labels: str) -> LeftOut | None:
    """Of one or two models of a task those that fail in the range of training; None if none does."""
    found = [
        not_trained(label, contest.name, contest.quantity.number(score), "in range")
        for label in labels
        if contest.untrained(score := contest.in_range(label))
    ]
    if len(found) > 1:
        return LeftOut("neither is trained", "; ".join(one.sentence for one in found))
    return found[0] if found else None


def several_models(models: pd.Series, where: str, *bases: str) -> LeftOut | None:
    """A task on which one of these families has several models, none of which stands for it.

    None if all have one that does, or if one has no model at all.

    Args:
        models: labels of those that ran there.
        where: name of the task.
        bases: the families.
    """
    members = {base: [label for label in models.unique() if family(label) == base] for base in bases}
    several = [label for base, same in members.items() if stand_in(models, base) is None for label in same]
    if not several or not all(members.values()):
        return None
    cause, labels = "several models of the family", ", ".join(map(units.model_name, units.in_order(several)))
    return LeftOut(cause, f"{where}: {cause}: {labels}")


def not_matched(task: str, reason: str) -> LeftOut:
    """A task whose models are of other sizes than they should be."""
    return LeftOut("models not matched", f"{task}: {reason}")


@dataclass(frozen=True)
class Decision:
    """A claim decided: the ruling, the clause that states its numbers, and what does not count, with the reason.

    `effect` stands in for the ruling's where its interval is of another form (a share of a gap).
    """

    ruling: Ruling
    clause: str  # "pooled over 3 tasks the Transformer leads by …", without a full stop
    left_out: tuple[LeftOut, ...] = ()
    effect: Interval | None = None


@dataclass(frozen=True)
class NotDecided:
    """Nothing to decide a claim on, and why."""

    left_out: tuple[LeftOut, ...] = field(default=())


@dataclass(frozen=True)
class Claim:
    """One claim of CLAIMS.md: what people say, what decides it in words, and the function that is that criterion.

    `holds` and `fails` say in a few words what is the case where the claim is supported and where it is refuted.
    """

    id: str
    says: str
    asks: str
    supported: str
    refuted: str
    holds: str
    fails: str
    scale: Scale
    decide: Callable[[pd.DataFrame], Decision | NotDecided]
    findings: Callable[[pd.DataFrame], Iterator[Finding]] = lambda _: iter(())
    sizes: bool = False  # whether it compares sizes of training sets; for the others the largest of a task counts

    @property
    def family(self) -> str:
        """The number before the point: claims are corrected for each other within it."""
        return self.id.partition(".")[0]
