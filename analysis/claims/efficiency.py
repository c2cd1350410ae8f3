"""Family 4: time and memory at the longest lengths, accuracy at equal cost, and the gain from more data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis import scaling
from analysis.claims.base import (
    LSTM,
    POINTS,
    TRANSFORMER,
    TRANSFORMER_TO_LSTM,
    Claim,
    Decision,
    Finding,
    LeftOut,
    NotDecided,
    not_matched,
    several_models,
    untrained_in_range,
)
from analysis.claims.costs import (
    at_longest,
    comparable,
    crossing,
    crossing_words,
    log_ratio,
    on_which,
    runs_of,
    unfit,
)
from analysis.claims.rules import (
    ACCURACY_MARGIN,
    COST_MARGIN,
    LEAST_REPEATS,
    Part,
    Rule,
    Ruling,
    Sample,
    Verdict,
    by_place,
    pooled,
    together,
)
from analysis.claims.wording import LONGER, MEMORY, WORK, factor, lengths_of, tasks_count, the
from analysis.evidence import Contest, Sweep, contests, ratio_at, stand_in, sweeps
from analysis.statistics import Interval
from experiments import schema

# Of the logarithm of LSTM / Transformer: supported where Transformer / LSTM is below 0.9, refuted where above 1.1.
RATIO = Rule(above=-math.log(1 - COST_MARGIN), below=-math.log(1 + COST_MARGIN), margin=math.log(1 + COST_MARGIN))
EQUAL_COST = Rule(above=ACCURACY_MARGIN, below=-ACCURACY_MARGIN, margin=ACCURACY_MARGIN)
TIMES = {
    schema.TRAIN_STEP_SECONDS: "a training step",
    schema.ENCODE_SECONDS: "encoding",
    schema.GENERATE_SECONDS: "generation",
}
MEMORIES = {
    schema.PEAK_MEMORY: "training",
    schema.GENERATE_PEAK_MEMORY: "generation",
    schema.STATE_BYTES: "the decoding state",
}
MEMORY_ENDS = {"train_step": "training", "generate": "generation"}
CLOCKS = {schema.TRAIN_SECONDS: "seconds", schema.TRAIN_FLOPS: "FLOPs"}
QUARTILES = (0.25, 0.5, 0.75, 1.0)


# --- time and memory at the longest length ---------------------------------------------------------------------------
def decide_time(evidence: pd.DataFrame) -> Decision | NotDecided:
    """4.1: ratio Transformer / LSTM at the longest common length of the sweeps in which all batches are of one size.

    Conditional where the curves cross before it: the whole interval of the crossover must lie inside the range.
    """
    return _decide_at_longest(evidence, TIMES, "time", "takes")


def decide_memory(evidence: pd.DataFrame) -> Decision | NotDecided:
    """4.2: likewise for peak memory and the decoding state; and for which lengths there was no memory."""
    found = _decide_at_longest(evidence, MEMORIES, "memory", "needs")
    among = [sweep for sweep in comparable(evidence, TRANSFORMER, LSTM)[0] if sweep.fixed_batch]
    ends = [
        f"{on_which(sweep, among)}{work} with {the(base)} finds no memory at length {at:,.0f}"
        for sweep in among
        for phase, work in MEMORY_ENDS.items()
        for base in (TRANSFORMER, LSTM)
        if (at := sweep.memory_ends(base, phase)) is not None
    ]
    return replace(found, clause="; ".join([found.clause, *ends])) if isinstance(found, Decision) else found


def _decide_at_longest(evidence: pd.DataFrame, metrics: dict[str, str], what: str, verb: str) -> Decision | NotDecided:
    parts, turns = [], []
    said: list[tuple[Sweep, float, str]] = []
    every, left_out = comparable(evidence, TRANSFORMER, LSTM)
    among = [sweep for sweep in every if sweep.fixed_batch]
    for sweep in among:
        for metric, work in metrics.items():
            pair = sweep.pair(TRANSFORMER, LSTM, metric)
            if pair is None:
                continue
            lengths = lengths_of(pair[0])
            shortest, longest = lengths[0], lengths[-1]
            effect = log_ratio(sweep, LSTM, TRANSFORMER, metric, longest)
            verdict, p = RATIO.side(effect) if effect.n >= LEAST_REPEATS else (Verdict.UNDECIDED, math.nan)
            parts.append(Part(f"{work}, {sweep.where}", effect, verdict, p, runs_of(sweep, TRANSFORMER, LSTM)))
            said.append((sweep, longest, f"{TRANSFORMER_TO_LSTM.said(effect.interval)} for {work}"))
            turn = crossing(sweep, TRANSFORMER, LSTM, metric)
            if turn is not None and shortest < turn.low and turn.high < longest:  # an unknown end is NaN
                cheaper = LSTM if effect.estimate > 0 else TRANSFORMER  # below, where at the longest the other is
                words = f"{crossing_words(turn)}, {the(cheaper)} {verb} less below"
                turns.append((parts[-1], f"{on_which(sweep, among)}{work}: {words}"))
    if not parts:
        varying = (sweep for sweep in every if not sweep.fixed_batch)
        return NotDecided((*left_out, *unfit(varying, "the number of sequences a batch varies")))
    ruling = together(parts)
    decided = [part for part in parts if part.verdict in (Verdict.SUPPORTED, Verdict.REFUTED)]
    crossed = [(part, words) for part, words in turns if part in decided]
    if crossed and Verdict.UNDECIDED not in {part.verdict for part in parts}:
        p = max(part.p for part in decided)
        words = f"on the length: {'; '.join(words for _, words in crossed)}"
        if ruling.verdict is Verdict.CONDITIONAL:
            words = f"{ruling.condition}; {words}"
        ruling = Ruling(Verdict.CONDITIONAL, ruling.effect, p, words, ruling.parts)
    return Decision(ruling, f"Transformer / LSTM in {what}, {at_longest(said)}", left_out)


# --- accuracy at equal cost ------------------------------------------------------------------------------------------
def decide_equal_cost(evidence: pd.DataFrame) -> Decision | NotDecided:
    """4.3: Δ of the validation score at each quartile of the budget that both models spent, in seconds and in FLOPs.

    A model's score at a budget is the best that it had reached by then: that of the checkpoint it would be stopped at.
    Seconds are compared on one piece of hardware only. The claim is one on each quartile: where no task counts it is
    undecided. Its effect is that of the quartile on which the verdict hangs, the least sure of those that are decided.
    """
    samples: dict[str, list[Sample]] = {}
    left_out: list[LeftOut] = []
    for contest in contests(evidence):
        if contest.quantity.unit != "%":
            continue
        if several := several_models(contest.rows["model"], contest.name, TRANSFORMER, LSTM):
            left_out.append(several)
        transformer, lstm = (stand_in(contest.rows["model"], base) for base in (TRANSFORMER, LSTM))
        if transformer is None or lstm is None:
            continue
        if reason := contest.unmatched(transformer, lstm):
            left_out.append(not_matched(contest.name, reason))
            continue
        if untrained := untrained_in_range(contest, transformer, lstm):
            left_out.append(untrained)
            continue
        machines = contest.hardware(transformer, lstm)
        for clock, name in CLOCKS.items():
            if clock == schema.TRAIN_SECONDS and len(machines) > 1:
                sentence = f"{contest.name} at equal {name}: runs on {' and '.join(machines)}"
                left_out.append(LeftOut(f"{name} of several machines", sentence))
                continue
            for quartile, gaps in equal_cost(contest, transformer, lstm, clock).items():
                sample = Sample(contest.name, gaps, contest.runs_of(transformer, lstm), task=contest.family)
                samples.setdefault(_place(quartile, name), []).append(sample)
    if not samples:
        return NotDecided(tuple(left_out))
    places = [_place(quartile, name) for name in CLOCKS.values() for quartile in QUARTILES]
    rulings = {place: pooled(samples.get(place, []), EQUAL_COST) for place in places}
    said = []
    for name in CLOCKS.values():
        if not any(_place(quartile, name) in samples for quartile in QUARTILES):
            left_out.append(LeftOut(f"nothing at equal {name}", f"at equal {name} no task counts"))
        numbers = [words for quartile in QUARTILES if (words := _lead_at(quartile, rulings[_place(quartile, name)]))]
        if numbers:
            ends = dict.fromkeys((numbers[0], numbers[-1]))
            said.append(f"at equal {name} {' and '.join(ends)} of the budget")
    clause = f"the Transformer's lead is {', '.join(said)}" if said else "no task has five seeds at equal cost"
    return Decision(by_place(rulings), clause, tuple(left_out))


def _place(quartile: float, clock: str) -> str:
    return f"{quartile:.0%} of the {clock}"


def _lead_at(quartile: float, ruling: Ruling) -> str:
    """``"+7.5 points [+6.2, +8.8] at 100% (6 tasks)"``; "" where no task has five seeds."""
    if not any(part.enough for part in ruling.parts):
        return ""
    return f"{POINTS.said(ruling.effect.interval)} at {quartile:.0%} ({tasks_count(ruling.counting)})"


def equal_cost(contest: Contest, first: str, second: str, clock: str) -> dict[float, np.ndarray]:
    """First minus second, by seed, at each quartile of the smaller of their budgets; absent where a seed has no score.

    The seeds are those that both have, the same at every quartile.
    """
    score = schema.metric(schema.VALIDATION, contest.headline)
    curves: dict[tuple[str, int], pd.DataFrame] = {}
    for label in (first, second):
        if (label, score) in contest.measured and (label, clock) in contest.measured:
            points = [
                contest.measured[label, name].set_index(["seed", "at"])["value"].rename(name) for name in (score, clock)
            ]
            for seed, curve in pd.concat(points, axis="columns", join="inner").groupby(level="seed"):
                curves[label, int(str(seed))] = curve.sort_index()
    found: dict[float, list[float]] = {}
    direction = contest.quantity.direction
    for run_seed in sorted({seed for _, seed in curves}):
        pair = [curves.get((label, run_seed)) for label in (first, second)]
        if pair[0] is None or pair[1] is None or pair[0].empty or pair[1].empty:
            continue
        budget = min(curve[clock].max() for curve in pair if curve is not None)
        for quartile in QUARTILES:
            reached = [
                (direction * curve.loc[curve[clock] <= quartile * budget * (1 + 1e-9), score]).max()
                for curve in pair
                if curve is not None
            ]
            found.setdefault(quartile, []).append(float(reached[0] - reached[1]))
    return {quartile: np.array(gaps) for quartile, gaps in found.items() if not np.isnan(gaps).any()}


# --- what was measured -----------------------------------------------------------------------------------------------
def time(evidence: pd.DataFrame) -> Iterator[Finding]:
    """4.1: time at the longest common length, and where the order of the curves turns."""
    for sweep in sweeps(evidence):
        for metric in (schema.TRAIN_STEP_SECONDS, schema.ENCODE_SECONDS):
            yield from _at_longest(sweep, metric, WORK[metric], LONGER)


def memory(evidence: pd.DataFrame) -> Iterator[Finding]:
    """4.2: peak memory of a training step and decoding state at the longest common length."""
    for sweep in sweeps(evidence):
        yield from _at_longest(sweep, schema.PEAK_MEMORY, "a training step", MEMORY)
        yield from _at_longest(sweep, schema.STATE_BYTES, "the decoding state of a sequence", MEMORY)


def _at_longest(sweep: Sweep, metric: str, work: str, verb: str) -> Iterator[Finding]:
    pair = sweep.pair(TRANSFORMER, LSTM, metric)
    if pair is None:
        return
    lengths = lengths_of(pair[0])
    shortest, longest = lengths[0], lengths[-1]
    ratio = ratio_at(*pair, longest)
    sentence = f"At length {longest:,.0f} {factor(ratio, TRANSFORMER, LSTM, verb)} for {work}"
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


CLAIMS: Sequence[Claim] = (
    Claim(
        "4.1",
        "LSTMs are less efficient for very long sequences, Transformers more: time",
        "time at the longest length",
        "Transformer / LSTM < 0.9 at the longest common length, fixed batch",
        "> 1.1; conditional where a crossover lies inside the range",
        "the Transformer is faster on long sequences",
        "the LSTM is faster on long sequences",
        TRANSFORMER_TO_LSTM,
        decide_time,
        time,
    ),
    Claim(
        "4.2",
        "… memory",
        "memory at the longest length",
        "Transformer / LSTM < 0.9 at the longest common length, fixed batch",
        "> 1.1; conditional where a crossover lies inside the range",
        "the Transformer needs less memory for long sequences",
        "the LSTM needs less memory for long sequences",
        TRANSFORMER_TO_LSTM,
        decide_memory,
        memory,
    ),
    Claim(
        "4.3",
        "… at equal cost",
        "scores at equal seconds and equal FLOPs",
        "Δ > 5 points at each quartile of the budget",
        "Δ < −5 points at each",
        "the Transformer scores higher at equal cost",
        "the LSTM scores higher at equal cost",
        POINTS,
        decide_equal_cost,
    ),
)
