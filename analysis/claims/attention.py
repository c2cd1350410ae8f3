"""Family 3: attention can be added to an LSTM, closes the gap, and has a price."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis import statistics, units
from analysis.claims.base import (
    ATTENTION,
    ATTENTION_TO_LSTM,
    LSTM,
    SHARE,
    TRANSFORMER,
    Claim,
    Decision,
    Finding,
    LeftOut,
    NotDecided,
    not_matched,
    several_models,
    untrained_in_range,
)
from analysis.claims.costs import at_longest, comparable, cost_samples
from analysis.claims.rules import LEAST_SEEDS, Part, Rule, Ruling, Sample, Verdict, pooled
from analysis.claims.wording import lead, ratio_finding, tasks_count
from analysis.evidence import Contest, Sweep, contests, stand_in, sweeps
from experiments import schema

WORTH_CLOSING = 0.10  # the gap from which on the share that attention closes is asked for
HALF = 0.5
_BEYOND_HALF = Rule(above=0.0, below=0.0)  # of what is closed minus half of the gap


def _paired_scores(contest: Contest) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """LSTM, LSTM with attention and Transformer in range, more is better, paired by seed."""
    found = contest.hardest(LSTM, ATTENTION, TRANSFORMER, split=schema.TEST)
    if found is None or contest.quantity.unit != "%":
        return None
    lstm, attention, transformer = (contest.quantity.direction * scores for scores in found[1])
    return lstm, attention, transformer


def decide_gap_closed(evidence: pd.DataFrame) -> Decision | NotDecided:
    """3.1: share of the gap that attention closes, of the gaps summed over tasks where it is 10 points or more.

    More than half is closed where ``(attention - lstm) - ½ (transformer - lstm)`` is above 0, which is what is tested;
    the interval shown is that of the share (Fieller). The Transformer must be trained on the task; the LSTM need not
    be: what it lacks is the gap.
    """
    samples, scores = [], []
    left_out: list[LeftOut] = []
    for contest in contests(evidence):
        several = several_models(contest.rows["model"], contest.name, LSTM, ATTENTION, TRANSFORMER)
        if contest.quantity.unit == "%" and several:
            left_out.append(several)
        found = _paired_scores(contest)
        if found is None or float(np.mean(found[2] - found[0])) < WORTH_CLOSING:
            continue
        labels = [str(stand_in(contest.rows["model"], base)) for base in (LSTM, ATTENTION, TRANSFORMER)]
        if reason := contest.unmatched(*labels):
            left_out.append(not_matched(contest.name, reason))
        elif untrained := untrained_in_range(contest, labels[2]):
            left_out.append(untrained)
        else:
            lstm, attention, transformer = found
            half = (attention - lstm) - HALF * (transformer - lstm)
            share = statistics.gap_closed(*found)
            samples.append(Sample(contest.name, half, contest.runs_of(*labels), share, contest.family))
            scores.append((found, contest.family))
    if not samples:
        return NotDecided(tuple(left_out))
    ruling = pooled(samples, _BEYOND_HALF)
    enough = [one for one in scores if len(one[0][0]) >= LEAST_SEEDS] or scores
    share = statistics.pooled_gap_closed(*zip(*enough, strict=True))
    clause = (
        f"attention closes {units.SHARE.said(share)} of the gap between the LSTM and the Transformer"
        f" on {tasks_count(ruling.counting)}"
    )
    return Decision(ruling, clause, tuple(left_out), share)


def decide_price(evidence: pd.DataFrame) -> Decision | NotDecided:
    """3.2, reported only: what attention adds to a training step, a decoding step and the state, at the longest."""
    words = {
        schema.TRAIN_STEP_SECONDS: "a training step",
        schema.DECODE_SECONDS_PER_TOKEN: "a decoding step",
        schema.STATE_BYTES: "the state",
    }
    parts: list[Part] = []
    said: list[tuple[Sweep, float, str]] = []
    among, left_out = comparable(evidence, ATTENTION, LSTM)
    for metric, name in words.items():
        for sample in cost_samples(among, ATTENTION, LSTM, metric):
            parts.append(Part(f"{name}, {sample.sweep.where}", sample.effect, Verdict.REPORTED, math.nan, sample.runs))
            said.append((sample.sweep, sample.length, f"{ATTENTION_TO_LSTM.said(sample.effect.interval)} for {name}"))
    if not parts:
        return NotDecided(left_out)
    ruling = Ruling(Verdict.REPORTED, parts[0].effect, math.nan, "", tuple(parts))
    return Decision(ruling, f"LSTM + attention / LSTM in cost, {at_longest(said)}", left_out)


# --- what was measured -----------------------------------------------------------------------------------------------
def closed(evidence: pd.DataFrame) -> Iterator[Finding]:
    """3.1: share of the gap from the LSTM to the Transformer that attention closes, where the gap is worth closing."""
    for contest in contests(evidence):
        found = _paired_scores(contest)
        if found is None:
            continue
        lstm, attention, transformer = found
        gap = statistics.difference(transformer, lstm)
        if gap.estimate < WORTH_CLOSING:
            sentence = (
                f"{contest.name}: no gap of {contest.quantity.number(WORTH_CLOSING)} points to close;"
                f" {lead(gap, contest.quantity, TRANSFORMER, LSTM)}."
            )
            yield Finding(sentence, contest.name, {f"gap, {TRANSFORMER} - {LSTM}": gap})
            continue
        share = statistics.gap_closed(lstm, attention, transformer)
        sentence = (
            f"{contest.name}: attention closes {units.SHARE.said(share)} of the gap of"
            f" {contest.quantity.said(gap, 'points')} between the LSTM and the Transformer."
        )
        yield Finding(sentence, contest.name, {f"gap, {TRANSFORMER} - {LSTM}": gap, "share of the gap closed": share})


def price(evidence: pd.DataFrame) -> Iterator[Finding]:
    """3.2: what attention adds to the LSTM's training and decoding steps."""
    for sweep in sweeps(evidence):
        yield from ratio_finding(sweep, schema.TRAIN_STEP_SECONDS, ATTENTION, LSTM)
        yield from ratio_finding(sweep, schema.DECODE_SECONDS_PER_TOKEN, ATTENTION, LSTM)


CLAIMS = (
    Claim(
        "3.1",
        "attention is not inherent in an LSTM but can be added, and closes the gap",
        "share of the gap that added attention closes",
        "more than half of the gap, where it is 10 points or more",
        "less than half",
        "added attention closes the gap to the Transformer",
        "added attention does not close the gap to the Transformer",
        SHARE,
        decide_gap_closed,
        closed,
    ),
    Claim(
        "3.2",
        "… at a price",
        "price of added attention",
        "reported",
        "–",
        "",  # nothing is decided
        "",
        ATTENTION_TO_LSTM,
        decide_price,
        price,
    ),
)
