"""The folklore table, row by row, with the measured numbers that speak to each row.

A row is a list of claims (numbered as in CLAIMS.md), a claim is a function of the table of runs that returns findings:
numbers with their intervals, and a sentence made of them. A claim on which the runs hold no evidence has no findings
and is reported as not measured. Verdicts are not given here.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import scaling, statistics, units
from analysis.evidence import (
    LEAST_LENGTHS,
    Contest,
    Sweep,
    admitted,
    contests,
    exponents,
    gated_out,
    generator,
    ratio_at,
    sweeps,
)
from analysis.statistics import Interval
from experiments import schema

LSTM, ATTENTION, TRANSFORMER = "lstm", "lstm_attention", "transformer"
ITEM_AXES = frozenset({"pairs", "items"})  # how many things are to be kept; every other axis is how far or how long
WORTH_CLOSING = 0.10  # the gap from which on the share that attention closes is asked for


@dataclass(frozen=True)
class Finding:
    """Numbers that speak to a claim, and the sentence that states them."""

    sentence: str
    where: str  # task and slice, or hardware and batches
    numbers: Mapping[str, Interval]  # by statistic; shares as 0..1, differences positive where the Transformer is ahead
    setting: str = ""  # of a sweep: hardware and batches, which its sentence leaves out


@dataclass(frozen=True)
class Claim:
    """One claim: its number in CLAIMS.md, what is asked, and the function that answers from the runs."""

    id: str
    asks: str
    evidence: Callable[[pd.DataFrame], Iterator[Finding]]


@dataclass(frozen=True)
class Row:
    """One row of the folklore table."""

    name: str
    lstm: str
    transformer: str
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Answer:
    """What the runs say to a row: findings by claim, in the order of the row's claims."""

    row: Row
    findings: Mapping[str, tuple[Finding, ...]]

    @property
    def paragraphs(self) -> list[tuple[str, list[str]]]:
        """The sentences in order, under what they were measured on ("" where the sentence says it itself)."""
        found = [finding for findings in self.findings.values() for finding in findings]
        return [
            (setting, [finding.sentence for finding in same])
            for setting, same in itertools.groupby(found, lambda finding: finding.setting)
        ]

    @property
    def unmeasured(self) -> list[str]:
        """What the row's claims ask and the runs do not answer."""
        return [claim.asks for claim in self.row.claims if not self.findings[claim.id]]


def folklore(runs: pd.DataFrame) -> list[Answer]:
    """The answers to the four rows of `FOLKLORE`, from the table of runs."""
    evidence = admitted(runs)
    return [Answer(row, {claim.id: tuple(claim.evidence(evidence)) for claim in row.claims}) for row in FOLKLORE]


def left_out(runs: pd.DataFrame) -> list[str]:
    """A sentence for each model that does not count because a gate failed."""
    columns = ["grid", "kind", "task", "model", "gates"]
    return [
        f"{units.model_name(model)} is left out on {task or grid} ({kind}): {gates}."
        for grid, kind, task, model, gates in gated_out(runs)[columns].itertuples(index=False, name=None)
    ]


def table(answers: list[Answer]) -> pd.DataFrame:
    """The numbers behind the sentences: columns row, claim, where, statistic, estimate, low, high, n."""
    rows = [
        {"row": answer.row.name, "claim": claim, "where": finding.where, "statistic": statistic} | vars(interval)
        for answer in answers
        for claim, found in answer.findings.items()
        for finding in found
        for statistic, interval in finding.numbers.items()
    ]
    return pd.DataFrame(rows, columns=["row", "claim", "where", "statistic", "estimate", "low", "high", "n"])


# --- wording ---------------------------------------------------------------------------------------------------------
_LONGER, _MEMORY = "takes {} as long as", "needs {} the memory of"
_WORK = {
    schema.TRAIN_STEP_SECONDS: "a training step",
    schema.ENCODE_SECONDS: "encoding",
    schema.DECODE_SECONDS_PER_TOKEN: "a decoding step",
}


def _the(base: str) -> str:
    return f"the {units.model_name(base).replace('+', 'with')}"


def _times(ratio: Interval) -> str:
    return units.FACTOR.said(ratio, "times")


def _inverse(ratio: Interval) -> Interval:
    return Interval(1 / ratio.estimate, 1 / ratio.high, 1 / ratio.low, ratio.n)


def _factor(ratio: Interval, first: str, second: str, verb: str) -> str:
    """The ratio first / second in words, the larger one first: ``"the LSTM takes 3.20 times as long as …"``."""
    if ratio.estimate < 1:
        return _factor(_inverse(ratio), second, first, verb)
    return f"{_the(first)} {verb.format(_times(ratio))} {_the(second)}"


def _lead(gap: Interval, quantity: units.Quantity, ahead: str, behind: str) -> str:
    """The gap (positive: `ahead` is better) in words."""
    unit = "points" if quantity.unit == "%" else quantity.unit
    if quantity.number(abs(gap.estimate)) == quantity.number(0.0):
        return f"neither is ahead ({quantity.said(gap, unit)})"
    if gap.estimate < 0:
        return _lead(Interval(-gap.estimate, -gap.high, -gap.low, gap.n), quantity, behind, ahead)
    return f"{_the(ahead)} is ahead by {quantity.said(gap, unit)}"


def _lengths(curve: pd.DataFrame) -> list[float]:
    return sorted(map(float, curve.columns))


# --- processing ------------------------------------------------------------------------------------------------------
def _growth(evidence: pd.DataFrame) -> Iterator[Finding]:
    """1.1: exponents of time against length at a fixed number of tokens per batch."""
    for sweep in sweeps(evidence):
        for metric in (schema.TRAIN_STEP_SECONDS, schema.ENCODE_SECONDS):
            pair = sweep.pair(LSTM, TRANSFORMER, metric)
            if not sweep.fixed_tokens or pair is None or pair[0].shape[1] < LEAST_LENGTHS:
                continue
            a, b = (exponents(curve) for curve in pair)
            lstm, transformer = (statistics.mean(values, generator()) for values in (a, b))
            apart = statistics.difference(a, b, generator())
            lengths = _lengths(pair[0])
            sentence = (
                f"From length {lengths[0]:,.0f} to {lengths[-1]:,.0f} the time of {_WORK[metric]} grows with"
                f" the length to the power {units.EXPONENT.interval(lstm)} for the LSTM and"
                f" {units.EXPONENT.interval(transformer)} for the Transformer."
            )
            name = f"exponent of {_WORK[metric]}"
            numbers = {f"{name}, {LSTM}": lstm, f"{name}, {TRANSFORMER}": transformer}
            yield Finding(sentence, sweep.where, numbers | {f"{name}, difference": apart}, sweep.where)


def _speed(evidence: pd.DataFrame) -> Iterator[Finding]:
    """1.2: ratio of the training steps at the shortest and at the longest common length."""
    for sweep in sweeps(evidence):
        yield from _ratios(sweep, schema.TRAIN_STEP_SECONDS, LSTM, TRANSFORMER)


def _generation(evidence: pd.DataFrame) -> Iterator[Finding]:
    """1.3: ratio of the decoding steps at both ends and, where the batch is fixed, how much each model's step grows."""
    for sweep in sweeps(evidence):
        yield from _ratios(sweep, schema.DECODE_SECONDS_PER_TOKEN, LSTM, TRANSFORMER)
        pair = sweep.pair(LSTM, TRANSFORMER, schema.DECODE_SECONDS_PER_TOKEN)
        if pair is None or not sweep.fixed_batch or pair[0].shape[1] < 2:
            continue
        first, last = _lengths(pair[0])[0], _lengths(pair[0])[-1]
        grown = [statistics.ratio(curve[last], curve[first], generator()) for curve in pair]
        sentence = (
            f"From length {first:,.0f} to {last:,.0f} a decoding step becomes {_times(grown[0])} as long with the LSTM"
            f" and {_times(grown[1])} with the Transformer."
        )
        numbers = {f"growth of a decoding step, {m}": g for m, g in zip((LSTM, TRANSFORMER), grown, strict=True)}
        yield Finding(sentence, sweep.where, numbers, sweep.where)


def _ratios(sweep: Sweep, metric: str, first: str, second: str) -> Iterator[Finding]:
    pair = sweep.pair(first, second, metric)
    if pair is None:
        return
    lengths = _lengths(pair[0])
    ends = list(dict.fromkeys((lengths[0], lengths[-1])))
    ratios = {length: ratio_at(*pair, length) for length in ends}
    numbers = {f"{_WORK[metric]}, {first} / {second}, length {at:g}": ratio for at, ratio in ratios.items()}
    if all(ratio.estimate < 1 for ratio in ratios.values()):  # the larger one first
        first, second, ratios = second, first, {at: _inverse(ratio) for at, ratio in ratios.items()}
    if all(ratio.estimate >= 1 for ratio in ratios.values()):
        (start, ratio), *rest = ratios.items()
        words = f"{_factor(ratio, first, second, _LONGER)} at length {start:,.0f}"
        words += "".join(f" and {_times(ratio)} at length {at:,.0f}" for at, ratio in rest)
    else:
        words = "; ".join(f"at length {at:,.0f} {_factor(r, first, second, _LONGER)}" for at, r in ratios.items())
    sentence = f"For {_WORK[metric]}, {words}."
    yield Finding(sentence, sweep.where, numbers, sweep.where)


# --- dependencies ----------------------------------------------------------------------------------------------------
def _far(evidence: pd.DataFrame) -> Iterator[Finding]:
    """2.1: lead of the Transformer in range, at the farthest or longest."""
    for contest in contests(evidence):
        for axis in contest.axes(schema.TEST):
            if axis not in ITEM_AXES:
                yield from _lead_on(contest, schema.TEST, axis)


def _many(evidence: pd.DataFrame) -> Iterator[Finding]:
    """2.2: lead of the Transformer in range, at the largest number of items."""
    for contest in contests(evidence):
        for axis in contest.axes(schema.TEST):
            if axis in ITEM_AXES:
                yield from _lead_on(contest, schema.TEST, axis)


def _out_of_range(evidence: pd.DataFrame) -> Iterator[Finding]:
    """2.3: lead of the Transformer on sequences longer than any in training."""
    for contest in contests(evidence):
        yield from _lead_on(contest, schema.LONGER, None)


def _lead_on(contest: Contest, split: str, axis: str | None) -> Iterator[Finding]:
    found = contest.hardest(LSTM, TRANSFORMER, split=split, axis=axis)
    if found is None:
        return
    at, (lstm, transformer) = found
    quantity = contest.quantity
    gap = statistics.difference(quantity.direction * transformer, quantity.direction * lstm, generator())
    means = [statistics.mean(scores, generator()) for scores in (lstm, transformer)]
    place = f"{axis} {at:g}" if axis else "longer than in training"
    sentence = (
        f"{contest.name}, {place}: {quantity.name} {quantity.said(means[0])} for the LSTM,"
        f" {quantity.said(means[1])} for the Transformer; {_lead(gap, quantity, TRANSFORMER, LSTM)}."
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
            yield f" In range {_the(base)} reaches only {reached} %: it is not trained on this."


# --- attention -------------------------------------------------------------------------------------------------------
def _closed(evidence: pd.DataFrame) -> Iterator[Finding]:
    """3.1: share of the gap from the LSTM to the Transformer that attention closes, where the gap is worth closing."""
    for contest in contests(evidence):
        quantity = contest.quantity
        found = contest.hardest(LSTM, ATTENTION, TRANSFORMER, split=schema.TEST)
        if found is None or quantity.unit != "%":
            continue
        lstm, attention, transformer = found[1]
        gap = statistics.difference(quantity.direction * transformer, quantity.direction * lstm, generator())
        if gap.estimate < WORTH_CLOSING:
            sentence = (
                f"{contest.name}: no gap of {quantity.number(WORTH_CLOSING)} points to close;"
                f" {_lead(gap, quantity, TRANSFORMER, LSTM)}."
            )
            yield Finding(sentence, contest.name, {f"gap, {TRANSFORMER} - {LSTM}": gap})
            continue
        share = statistics.gap_closed(lstm, attention, transformer, generator())
        sentence = (
            f"{contest.name}: attention closes {units.SHARE.said(share)} of the gap of"
            f" {quantity.said(gap, 'points')} between the LSTM and the Transformer."
        )
        yield Finding(sentence, contest.name, {f"gap, {TRANSFORMER} - {LSTM}": gap, "share of the gap closed": share})


def _price(evidence: pd.DataFrame) -> Iterator[Finding]:
    """3.2: what attention adds to the LSTM's training and decoding steps."""
    for sweep in sweeps(evidence):
        yield from _ratios(sweep, schema.TRAIN_STEP_SECONDS, ATTENTION, LSTM)
        yield from _ratios(sweep, schema.DECODE_SECONDS_PER_TOKEN, ATTENTION, LSTM)


# --- efficiency and scalability --------------------------------------------------------------------------------------
def _time(evidence: pd.DataFrame) -> Iterator[Finding]:
    """4.1: time at the longest common length, and where the order of the curves turns."""
    for sweep in sweeps(evidence):
        for metric in (schema.TRAIN_STEP_SECONDS, schema.ENCODE_SECONDS):
            yield from _at_longest(sweep, metric, _WORK[metric], _LONGER)


def _memory(evidence: pd.DataFrame) -> Iterator[Finding]:
    """4.2: peak memory of a training step and decoding state at the longest common length."""
    for sweep in sweeps(evidence):
        yield from _at_longest(sweep, schema.PEAK_MEMORY, "a training step", _MEMORY)
        yield from _at_longest(sweep, schema.STATE_BYTES, "the decoding state of a sequence", _MEMORY)


def _at_longest(sweep: Sweep, metric: str, work: str, verb: str) -> Iterator[Finding]:
    pair = sweep.pair(TRANSFORMER, LSTM, metric)
    if pair is None:
        return
    lengths = _lengths(pair[0])
    shortest, longest = lengths[0], lengths[-1]
    ratio = ratio_at(*pair, longest)
    sentence = f"At length {longest:,.0f} {_factor(ratio, TRANSFORMER, LSTM, verb)} for {work}"
    name = metric.rpartition("/")[2]
    numbers = {f"{name}, {TRANSFORMER} / {LSTM}, length {longest:g}": ratio}
    if len(lengths) > 1:
        turn = scaling.crossover(lengths, pair[0].mean(), pair[1].mean())
        if turn is None:
            sentence += f", and the curves do not cross from length {shortest:,.0f} on"
        else:
            sentence += f", and the curves cross at length {turn:,.0f}"
            numbers[f"{name}, crossover length"] = Interval(turn, np.nan, np.nan, len(pair[0]))
    yield Finding(f"{sentence}.", sweep.where, numbers, sweep.where)


FOLKLORE = (
    Row(
        "processing",
        "sequential, one token at a time",
        "parallel, all tokens at once",
        (
            Claim("1.1", "growth of time with length at a fixed number of tokens per batch", _growth),
            Claim("1.2", "time of a training step", _speed),
            Claim("1.3", "time of a decoding step", _generation),
        ),
    ),
    Row(
        "dependencies",
        "can struggle with long-term dependencies",
        "excels at long-term dependencies",
        (
            Claim("2.1", "distance in range", _far),
            Claim("2.2", "number of items", _many),
            Claim("2.3", "length out of range", _out_of_range),
        ),
    ),
    Row(
        "attention",
        "none inherent, can be added",
        "inherent multi-head self-attention",
        (
            Claim("3.1", "share of the gap that added attention closes", _closed),
            Claim("3.2", "price of added attention", _price),
        ),
    ),
    Row(
        "efficiency and scalability",
        "less, for very long sequences",
        "more, for long sequences and large data sets",
        (
            Claim("4.1", "time at the longest length", _time),
            Claim("4.2", "memory at the longest length", _memory),
        ),
    ),
)
# Asked by the folklore, answered by no kind of run yet; a report says so.
BEYOND = (
    "how gradients fade with distance (2.4)",
    "scores at equal time and equal FLOPs (4.3)",
    "the gain from larger data sets (4.4)",
)
