"""Family 2: dependencies that are long in distance, in the number of items, and in length out of range.

Three curves, never one. In range, a model that fails even at the nearest distance (or the fewest items) is not trained
on the task: its failure says nothing of distance. Out of range, one that fails in range is not trained.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import statistics, units
from analysis.claims.base import (
    LSTM,
    POINTS,
    TRANSFORMER,
    Claim,
    Decision,
    Finding,
    LeftOut,
    NotDecided,
    not_matched,
    not_trained,
    several_models,
    untrained_in_range,
)
from analysis.claims.rules import (
    ACCURACY_MARGIN,
    DECIDED,
    Rule,
    Ruling,
    Sample,
    by_place,
    pooled,
)
from analysis.claims.wording import lead, tasks_count, the
from analysis.evidence import Contest, contests, stand_in
from analysis.runs import family
from experiments import schema

IN_RANGE = Rule(above=ACCURACY_MARGIN, below=ACCURACY_MARGIN, margin=ACCURACY_MARGIN)
OUT_OF_RANGE = Rule(above=ACCURACY_MARGIN, below=-ACCURACY_MARGIN, margin=ACCURACY_MARGIN)
_CLASS_NAMES = {
    schema.REGULAR: "regular languages",
    schema.CONTEXT_FREE: "context-free languages",
    schema.CONTEXT_SENSITIVE: "context-sensitive languages",
}


# --- in range: distance and items ------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Gap:
    """A model's lead over another at one place, or why there is none that counts."""

    sample: Sample | None
    left_out: LeftOut | None = None
    at: float = math.nan


def in_range_gap(contest: Contest, among: Sequence[Contest], kind: str, first: str, second: str) -> Gap | None:
    """First minus second at the hardest place of the axis that shows `kind`; None if the task does not measure it.

    A model is trained that is right at the nearest place which the grid asks of this task, in whichever setting: one
    that copies after a delay of 10 and fails after 1,000 has shown something of distance.

    Args:
        contest: the task in one of its settings.
        among: all tasks of all grids, itself included.
        kind: of dependency.
        first, second: the families.
    """
    axis = contest.measures.get(kind)
    if axis is None:
        return None
    if several := several_models(contest.rows["model"], contest.name, first, second):
        return Gap(None, several)
    found = contest.hardest(first, second, split=schema.TEST, axis=axis)
    labels = [stand_in(contest.rows["model"], base) for base in (first, second)]
    if found is None or labels[0] is None or labels[1] is None:
        return None
    at, (a, b) = found
    if reason := contest.unmatched(labels[0], labels[1]):
        return Gap(None, not_matched(contest.name, reason))
    settings = [other for other in among if (other.grid, other.family) == (contest.grid, contest.family)]
    for base, label in zip((first, second), labels, strict=True):
        nearest = [place for other in settings if (place := other.easiest(base, axis)) is not None]
        easiest = min(nearest, default=None)
        if easiest is not None and contest.untrained(easiest[1]):
            percent = contest.quantity.number(easiest[1])
            return Gap(None, not_trained(str(label), contest.name, percent, f"at {axis} {easiest[0]:g} already"))
    gap = contest.quantity.direction * (a - b)
    runs = contest.runs_of(labels[0], labels[1])
    return Gap(Sample(f"{contest.name}, {axis} {at:g}", gap, runs, task=contest.family), at=at)


def _decide_in_range(evidence: pd.DataFrame, kind: str, words: str) -> Decision | NotDecided:
    scored = [contest for contest in contests(evidence) if contest.quantity.unit == "%"]
    gaps = [gap for contest in scored if (gap := in_range_gap(contest, scored, kind, TRANSFORMER, LSTM)) is not None]
    samples = [gap.sample for gap in gaps if gap.sample is not None]
    left_out = tuple(gap.left_out for gap in gaps if gap.left_out is not None)
    if not samples:
        return NotDecided(left_out)
    ruling = pooled(samples, IN_RANGE, majority=True)
    places = sorted({gap.at for gap in gaps if gap.sample is not None})
    ends = " to ".join(f"{place:g}" for place in dict.fromkeys((places[0], places[-1])))
    return Decision(ruling, f"{words} ({ends}), {_lead_words(ruling)}{_disagreement(ruling)}", left_out)


def _disagreement(ruling: Ruling) -> str:
    """The least and the largest lead, where the mean decides but tasks are decided otherwise; else ""."""
    counting = sorted((part for part in ruling.parts if part.enough), key=lambda part: part.effect.estimate)
    if ruling.verdict not in DECIDED or not {part.verdict for part in counting} > {ruling.verdict}:
        return ""
    ends = [f"{POINTS.said(part.effect.interval)} on {part.where}" for part in (counting[0], counting[-1])]
    return f"; the Transformer's lead is from {' to '.join(ends)}"


def _lead_words(ruling: Ruling) -> str:
    """Who is ahead, on how many of the tasks that count."""
    gap = ruling.effect.interval
    words = lead(gap, units.SCORES[schema.TOKEN_ACCURACY], TRANSFORMER, LSTM)
    return f"{words} on {tasks_count(ruling.counting)}"


def decide_distance(evidence: pd.DataFrame) -> Decision | NotDecided:
    """2.1: Δ in the farthest bin, pooled over the tasks that measure distance; a majority of them must agree."""
    return _decide_in_range(evidence, schema.DISTANCE, "in range at the farthest distance")


def decide_items(evidence: pd.DataFrame) -> Decision | NotDecided:
    """2.2: Δ at the largest number of items, likewise."""
    return _decide_in_range(evidence, schema.ITEMS, "with the most items to keep")


# --- out of range ----------------------------------------------------------------------------------------------------
def out_of_range_gaps(contest: Contest) -> Iterator[tuple[str, Gap]]:
    """Every Transformer (its positions differ) with its Δ of the mean over lengths out of range against the LSTM."""
    name = schema.metric(schema.LONGER, contest.headline)
    lstm = stand_in(contest.rows["model"], LSTM)
    present = contest.rows.loc[contest.rows["metric"].str.startswith(name), "model"]
    several = several_models(contest.rows["model"], contest.name, LSTM)
    for label in sorted(label for label in present.unique() if family(label) == TRANSFORMER):
        if several:
            yield label, Gap(None, several)
        if lstm is None or lstm not in set(present):
            continue
        if reason := contest.unmatched(label, lstm):
            yield label, Gap(None, not_matched(contest.name, reason))
            continue
        if untrained := untrained_in_range(contest, lstm, label):
            yield label, Gap(None, untrained)
            continue
        a, b = contest.over_lengths(label, lstm)
        gap = contest.quantity.direction * (a - b).dropna().to_numpy(dtype=float)
        if len(gap):
            yield label, Gap(Sample(contest.name, gap, contest.runs_of(label, lstm), task=contest.family))


def decide_length(evidence: pd.DataFrame) -> Decision | NotDecided:
    """2.3: Δ of the mean over lengths out of range, pooled within each class of languages; conditional on the class.

    Support needs the majority of the tasks of a class. It is asked of formal languages alone: elsewhere what is out of
    range is not always longer (SCAN's new words). And of all classes: one without a task that counts is undecided.
    Transformers with other positions are ruled on apart, as they are held against the same runs of the LSTM.
    """
    samples: dict[tuple[str, str], list[Sample]] = {}
    left_out: list[LeftOut] = []
    for contest in contests(evidence):
        if contest.quantity.unit != "%" or not contest.language_class:
            continue
        for label, gap in out_of_range_gaps(contest):
            if gap.sample is not None:
                samples.setdefault((contest.language_class, label), []).append(gap.sample)
            elif gap.left_out is not None:
                left_out.append(gap.left_out)
    left = tuple(dict.fromkeys(left_out))
    if not samples:
        return NotDecided(left)
    several = len({label for _, label in samples}) > 1
    rulings: dict[str, Ruling] = {}
    for language, name in _CLASS_NAMES.items():
        labels = units.in_order(label for of, label in samples if of == language)
        if not labels:
            rulings[name] = pooled([], OUT_OF_RANGE)
        for label in labels:
            where = f"{name} with {units.model_name(label)}" if several else name
            rulings[where] = pooled(samples[language, label], OUT_OF_RANGE, majority=True)
    clauses = [f"on {where} {_lead_words(ruling)}" for where, ruling in rulings.items() if ruling.parts]
    return Decision(by_place(rulings), f"out of range {' and '.join(clauses)}", left)


# --- what was measured, task by task ---------------------------------------------------------------------------------
def far(evidence: pd.DataFrame) -> Iterator[Finding]:
    """2.1: lead of the Transformer in range, at the farthest."""
    for contest in contests(evidence):
        yield from _lead_on(contest, schema.TEST, contest.measures.get(schema.DISTANCE))


def many(evidence: pd.DataFrame) -> Iterator[Finding]:
    """2.2: lead of the Transformer in range, at the largest number of items."""
    for contest in contests(evidence):
        yield from _lead_on(contest, schema.TEST, contest.measures.get(schema.ITEMS))


def out_of_range(evidence: pd.DataFrame) -> Iterator[Finding]:
    """2.3: lead of the Transformer on sequences longer than any in training."""
    for contest in contests(evidence):
        yield from _lead_on(contest, schema.LONGER, None)


def _lead_on(contest: Contest, split: str, axis: str | None) -> Iterator[Finding]:
    if split == schema.TEST and axis is None:
        return
    found = contest.hardest(LSTM, TRANSFORMER, split=split, axis=axis)
    if found is None:
        return
    at, (lstm, transformer) = found
    quantity = contest.quantity
    gap = statistics.difference(quantity.direction * transformer, quantity.direction * lstm)
    means = [quantity.within(statistics.mean(scores)) for scores in (lstm, transformer)]
    place = f"{axis} {at:g}" if axis else units.RANGES[split]
    sentence = (
        f"{contest.name}, {place}: {quantity.name} {quantity.said(means[0])} for the LSTM,"
        f" {quantity.said(means[1])} for the Transformer; {lead(gap, quantity, TRANSFORMER, LSTM)}."
    )
    if split == schema.LONGER:
        sentence += "".join(_untrained(contest))
    numbers = {f"{quantity.name}, {m}": mean for m, mean in zip((LSTM, TRANSFORMER), means, strict=True)}
    yield Finding(sentence, f"{contest.name}, {place}", numbers | {f"{quantity.name}, lead of {TRANSFORMER}": gap})


def _untrained(contest: Contest) -> Iterator[str]:
    """Names the models that failed in range already: their failure out of range says nothing about generalisation."""
    for base in (LSTM, TRANSFORMER):
        found = contest.hardest(base, split=schema.TEST)
        if found is not None and contest.untrained(score := float(np.mean(found[1][0]))):
            reached = contest.quantity.number(score)
            yield f" In range {the(base)} reaches only {reached} %: it is not trained on this."


CLAIMS = (
    Claim(
        "2.1",
        "LSTMs struggle with long-term dependencies, Transformers excel: distance",
        "distance in range",
        "Δ > 5 points in the farthest bin, pooled and on the majority of tasks",
        "pooled Δ < 5 points; else conditional on the task where tasks differ",
        "the Transformer looks farther back",
        "the Transformer looks no farther back",
        POINTS,
        decide_distance,
        far,
    ),
    Claim(
        "2.2",
        "… number of items",
        "number of items",
        "Δ > 5 points at the most items, pooled and on the majority of tasks",
        "pooled Δ < 5 points; else conditional on the task where tasks differ",
        "the Transformer keeps more items",
        "the Transformer keeps no more items",
        POINTS,
        decide_items,
        many,
    ),
    Claim(
        "2.3",
        "… length out of range",
        "length out of range",
        "Δ of the mean over lengths > 5 points, in every class of languages",
        "Δ < −5 points: the reverse holds; conditional on the class where classes differ",
        "the Transformer is better on longer sequences than it was trained on",
        "the LSTM is better on longer sequences than it was trained on",
        POINTS,
        decide_length,
        out_of_range,
    ),
)
