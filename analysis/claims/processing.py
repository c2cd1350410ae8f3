"""Family 1: parallel or step by step, and what follows for the time of training and of generating."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import pandas as pd

from analysis import statistics, units
from analysis.claims.base import (
    LSTM,
    LSTM_MINUS_TRANSFORMER,
    LSTM_TO_TRANSFORMER,
    TRANSFORMER,
    TRANSFORMER_MINUS_LSTM,
    Claim,
    Decision,
    Finding,
    NotDecided,
)
from analysis.claims.costs import (
    QUADRATIC,
    by_batching,
    comparable,
    cost_samples,
    crossing,
    crossing_words,
    exponent_difference,
    exponent_of,
    on_which,
    runs_of,
    unfit,
)
from analysis.claims.rules import (
    ALPHA,
    COST_MARGIN,
    EXPONENT_MARGIN,
    LEAST_REPEATS,
    Part,
    Rule,
    Ruling,
    Verdict,
    by_place,
    together,
)
from analysis.claims.wording import WORK, lengths_of, ratio_finding, times
from analysis.evidence import LEAST_LENGTHS, Sweep, exponents, sweeps
from analysis.statistics import Student
from experiments import schema

GROWTH = Rule(above=EXPONENT_MARGIN, below=EXPONENT_MARGIN)
CLEAR_GROWTH = 0.3  # the least difference of exponents that supports 1.1
FEW_LINEAR = f"fewer than {LEAST_LENGTHS} lengths at which attention is under {QUADRATIC:.0%} of the operations"
RATIO = Rule(above=math.log(1 + COST_MARGIN), below=math.log(1 - COST_MARGIN), margin=math.log(1 + COST_MARGIN))


def decide_growth(evidence: pd.DataFrame) -> Decision | NotDecided:
    """1.1: exponent of time against length at a fixed number of tokens per batch, LSTM minus Transformer."""
    parts: list[Part] = []
    said: dict[str, list[str]] = {}
    unclear: list[str] = []
    every, left_out = comparable(evidence, LSTM, TRANSFORMER)
    among = [sweep for sweep in every if sweep.fixed_tokens]
    for sweep in among:
        for metric in (schema.TRAIN_STEP_SECONDS, schema.ENCODE_SECONDS):
            found = exponent_difference(sweep, LSTM, TRANSFORMER, metric)
            if found is None:
                continue
            effect, (shortest, longest) = found
            verdict, p = _ruled(effect, GROWTH)
            where = f"{WORK[metric]}, {sweep.where}"
            if verdict is Verdict.SUPPORTED and effect.estimate < CLEAR_GROWTH:
                verdict, p = Verdict.UNDECIDED, math.nan
                unclear.append(f"{where}: above {EXPONENT_MARGIN:g}, but no clear {CLEAR_GROWTH:g}")
            parts.append(Part(where, effect, verdict, p, runs_of(sweep, LSTM, TRANSFORMER)))
            exponent = f"{LSTM_MINUS_TRANSFORMER.said(effect.interval)} ({WORK[metric]})"
            place = f"{on_which(sweep, among)}from length {shortest:,.0f} to {longest:,.0f}"
            said.setdefault(place, []).append(exponent)
    if not parts:
        other = unfit((sweep for sweep in every if not sweep.fixed_tokens), "the number of tokens per batch varies")
        return NotDecided((*left_out, *other, *unfit(among, FEW_LINEAR)))
    ruling = together(parts)
    if ruling.verdict is Verdict.UNDECIDED and unclear:
        ruling = replace(ruling, condition="; ".join(filter(None, (ruling.condition, *unclear))))
    numbers = "; ".join(f"{' and '.join(same)} {place}" for place, same in said.items())
    clause = f"at the same tokens per batch, the LSTM's exponent of time minus the Transformer's is {numbers}"
    return Decision(ruling, clause, left_out)


def _ruled(effect: Student, rule: Rule) -> tuple[Verdict, float]:
    return rule.side(effect) if effect.n >= LEAST_REPEATS else (Verdict.UNDECIDED, math.nan)


def decide_speed(evidence: pd.DataFrame) -> Decision | NotDecided:
    """1.2: ratio of the training steps, LSTM / Transformer, at every length; conditional where it is not one side's."""
    by_sweep: dict[str, tuple[Sweep, list[Part]]] = {}
    among, left_out = comparable(evidence, LSTM, TRANSFORMER)
    for sample in cost_samples(among, LSTM, TRANSFORMER, schema.TRAIN_STEP_SECONDS, every_length=True):
        verdict, p = _ruled(sample.effect, RATIO)
        part = Part(f"length {sample.length:,.0f}", sample.effect, verdict, p, sample.runs)
        by_sweep.setdefault(sample.sweep.where, (sample.sweep, []))[1].append(part)
    if not by_sweep:
        return NotDecided(left_out)
    rulings = {where: _on_the_length(sweep, parts) for where, (sweep, parts) in by_sweep.items()}
    ruling = next(iter(rulings.values())) if len(rulings) == 1 else by_place(rulings)
    every = [replace(part, where=f"{part.where}, {where}") for where, (_, parts) in by_sweep.items() for part in parts]
    ruling = replace(ruling, parts=tuple(every))
    words = by_batching([(sweep, _at_ends(parts)) for sweep, parts in by_sweep.values()])
    return Decision(ruling, f"for a training step the LSTM takes {words}", left_out)


def _on_the_length(sweep: Sweep, parts: Sequence[Part]) -> Ruling:
    """What all lengths of a sweep say; where they differ, with the length at which the order turns."""
    ruling = together(parts)
    turn = crossing(sweep, LSTM, TRANSFORMER, schema.TRAIN_STEP_SECONDS)
    if ruling.verdict is Verdict.CONDITIONAL and turn is not None:
        return replace(ruling, condition=f"on the length: {crossing_words(turn)}")
    return ruling


def _at_ends(parts: Sequence[Part]) -> str:
    first, *rest = dict.fromkeys((parts[0], parts[-1]))

    def at(part: Part, what: str) -> str:
        return f"{LSTM_TO_TRANSFORMER.said(part.effect.interval)}{what} at {part.where}"

    return " and ".join([at(first, " the Transformer's time"), *(at(part, "") for part in rest)])


def decide_generation(evidence: pd.DataFrame) -> Decision | NotDecided:
    """1.3: exponent of a step's time against the position: the LSTM's within ±0.1 of 0, the Transformer's above 0.1.

    The Transformer's is that of the upper half of the positions. Where steps were not timed by position, the length
    stands in for it, in sweeps of a fixed batch.
    """
    parts, said = [], []
    among, left_out = comparable(evidence, LSTM, TRANSFORMER)
    timed = [(sweep, found) for sweep in among if (found := _step_exponents(sweep)) is not None]
    for sweep, (lstm, transformer) in timed:
        verdict, p = _constant_and_growing(lstm, transformer)
        gap = Student(
            transformer.estimate - lstm.estimate,
            math.hypot(transformer.error, lstm.error),
            min(transformer.df, lstm.df) if not math.isnan(lstm.df) else math.nan,
            min(transformer.n, lstm.n),
        )
        parts.append(Part(sweep.where, gap, verdict, p, runs_of(sweep, LSTM, TRANSFORMER)))
        exponent = units.EXPONENT.interval
        both = f"{exponent(lstm.interval)} for the LSTM and {exponent(transformer.interval)} for the Transformer"
        said.append(f"{on_which(sweep, [one for one, _ in timed])}{both}")
    if not parts:
        return NotDecided((*left_out, *unfit(among, f"no decoding step timed at {LEAST_LENGTHS} positions")))
    clause = f"a decoding step grows with the position to the power {'; '.join(said)}"
    return Decision(together(parts), clause, left_out)


def _step_exponents(sweep: Sweep) -> tuple[Student, Student] | None:
    for metric in (schema.STEP_SECONDS, schema.DECODE_SECONDS_PER_TOKEN):
        if metric == schema.DECODE_SECONDS_PER_TOKEN and not sweep.fixed_batch:
            continue
        found = exponent_of(sweep, LSTM, metric), exponent_of(sweep, TRANSFORMER, metric, upper_half=True)
        if found[0] is not None and found[1] is not None:
            return found[0], found[1]
    return None


def _constant_and_growing(lstm: Student, transformer: Student) -> tuple[Verdict, float]:
    if min(lstm.n, transformer.n) < LEAST_REPEATS:
        return Verdict.UNDECIDED, math.nan
    holds = max(lstm.p_within(EXPONENT_MARGIN), 2 * transformer.p_above(EXPONENT_MARGIN))
    fails = 2 * min(lstm.p_above(EXPONENT_MARGIN), lstm.p_below(-EXPONENT_MARGIN), transformer.p_below(EXPONENT_MARGIN))
    if holds <= ALPHA:
        return Verdict.SUPPORTED, holds
    return (Verdict.REFUTED, fails) if fails <= ALPHA else (Verdict.UNDECIDED, math.nan)


# --- what was measured -----------------------------------------------------------------------------------------------
def growth(evidence: pd.DataFrame) -> Iterator[Finding]:
    """1.1: exponents of time against length at a fixed number of tokens per batch."""
    for sweep in sweeps(evidence):
        for metric in (schema.TRAIN_STEP_SECONDS, schema.ENCODE_SECONDS):
            pair = sweep.pair(LSTM, TRANSFORMER, metric)
            if not sweep.fixed_tokens or pair is None or pair[0].shape[1] < LEAST_LENGTHS:
                continue
            a, b = (exponents(curve) for curve in pair)
            lstm, transformer = (statistics.mean(values) for values in (a, b))
            apart = statistics.difference(a, b)
            lengths = lengths_of(pair[0])
            sentence = (
                f"From length {lengths[0]:,.0f} to {lengths[-1]:,.0f} the time of {WORK[metric]} grows with"
                f" the length to the power {units.EXPONENT.interval(lstm)} for the LSTM and"
                f" {units.EXPONENT.interval(transformer)} for the Transformer."
            )
            name = f"exponent of {WORK[metric]}"
            numbers = {f"{name}, {LSTM}": lstm, f"{name}, {TRANSFORMER}": transformer}
            yield Finding(sentence, sweep.where, numbers | {f"{name}, difference": apart}, sweep.where)


def speed(evidence: pd.DataFrame) -> Iterator[Finding]:
    """1.2: ratio of the training steps at the shortest and at the longest common length."""
    for sweep in sweeps(evidence):
        yield from ratio_finding(sweep, schema.TRAIN_STEP_SECONDS, LSTM, TRANSFORMER)


def generation(evidence: pd.DataFrame) -> Iterator[Finding]:
    """1.3: ratio of the decoding steps at both ends and, where the batch is fixed, how much each model's step grows."""
    for sweep in sweeps(evidence):
        yield from ratio_finding(sweep, schema.DECODE_SECONDS_PER_TOKEN, LSTM, TRANSFORMER)
        pair = sweep.pair(LSTM, TRANSFORMER, schema.DECODE_SECONDS_PER_TOKEN)
        if pair is None or not sweep.fixed_batch or pair[0].shape[1] < 2:
            continue
        first, last = lengths_of(pair[0])[0], lengths_of(pair[0])[-1]
        grown = [statistics.ratio(curve[last], curve[first]) for curve in pair]
        sentence = (
            f"From length {first:,.0f} to {last:,.0f} a decoding step becomes {times(grown[0])} as long with the LSTM"
            f" and {times(grown[1])} with the Transformer."
        )
        numbers = {f"growth of a decoding step, {m}": g for m, g in zip((LSTM, TRANSFORMER), grown, strict=True)}
        yield Finding(sentence, sweep.where, numbers, sweep.where)


CLAIMS = (
    Claim(
        "1.1",
        "Transformers process a sequence in parallel, LSTMs step by step (training, encoding)",
        "growth of time with length at a fixed number of tokens per batch",
        "exponent of time against length, LSTM minus Transformer, ≥ 0.3 and its interval > 0.1",
        "interval < 0.1",
        "the Transformer's time grows less with the length",
        "the Transformer's time grows no less with the length than the LSTM's",
        LSTM_MINUS_TRANSFORMER,
        decide_growth,
        growth,
    ),
    Claim(
        "1.2",
        "… and therefore train faster",
        "time of a training step",
        "LSTM / Transformer > 1.1 at all lengths",
        "< 0.9 at all lengths; else conditional, with the crossover",
        "the Transformer trains faster",
        "the LSTM trains faster",
        LSTM_TO_TRANSFORMER,
        decide_speed,
        speed,
    ),
    Claim(
        "1.3",
        "generation is sequential for both; the LSTM's step is constant, the Transformer's grows",
        "time of a decoding step",
        "exponent of a step against the position: LSTM within ±0.1 of 0, Transformer > 0.1 over the upper half",
        "either fails",
        "the LSTM's decoding step is constant, the Transformer's grows",
        "the LSTM's decoding step grows, or the Transformer's does not",
        TRANSFORMER_MINUS_LSTM,
        decide_generation,
        generation,
    ),
)
