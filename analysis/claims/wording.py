"""Numbers in words, shared by all claims."""

from __future__ import annotations

import pandas as pd

from analysis import units
from analysis.claims.base import Finding
from analysis.evidence import Sweep, ratio_at
from analysis.statistics import Interval
from experiments import schema

LONGER, MEMORY = "takes {} as long as", "needs {} the memory of"
WORK = {
    schema.TRAIN_STEP_SECONDS: "a training step",
    schema.ENCODE_SECONDS: "encoding",
    schema.DECODE_SECONDS_PER_TOKEN: "a decoding step",
}


def the(base: str) -> str:
    """``"lstm_attention"`` → ``"the LSTM with attention"``."""
    return f"the {units.model_name(base).replace('+', 'with')}"


def times(ratio: Interval) -> str:
    """``"2.10 times [2.00, 2.20]"``."""
    return units.FACTOR.said(ratio)


def inverse(ratio: Interval) -> Interval:
    """Of a / b that of b / a."""
    return Interval(1 / ratio.estimate, 1 / ratio.high, 1 / ratio.low, ratio.n)


def factor(ratio: Interval, first: str, second: str, verb: str) -> str:
    """The ratio first / second in words, the larger one first: ``"the LSTM takes 3.20 times as long as …"``."""
    if ratio.estimate < 1:
        return factor(inverse(ratio), second, first, verb)
    return f"{the(first)} {verb.format(times(ratio))} {the(second)}"


def lead(gap: Interval, quantity: units.Quantity, ahead: str, behind: str) -> str:
    """The gap (positive: `ahead` is better) in words."""
    unit = quantity.unit
    if unit == "%":
        unit, gap = "points", gap.inside(-1.0, 1.0)
    if quantity.number(abs(gap.estimate)) == quantity.number(0.0):
        return f"neither is ahead ({quantity.said(gap, unit)})"
    if gap.estimate < 0:
        return lead(Interval(-gap.estimate, -gap.high, -gap.low, gap.n), quantity, behind, ahead)
    return f"{the(ahead)} is ahead by {quantity.said(gap, unit)}"


def lengths_of(curve: pd.DataFrame) -> list[float]:
    """Lengths of a curve, ascending."""
    return sorted(map(float, curve.columns))


def ratio_finding(sweep: Sweep, metric: str, first: str, second: str) -> list[Finding]:
    """The ratio of two models' times at the shortest and the longest common length; nothing where they have none."""
    pair = sweep.pair(first, second, metric)
    if pair is None:
        return []
    lengths = lengths_of(pair[0])
    ends = list(dict.fromkeys((lengths[0], lengths[-1])))
    ratios = {length: ratio_at(*pair, length) for length in ends}
    numbers = {f"{WORK[metric]}, {first} / {second}, length {at:g}": ratio for at, ratio in ratios.items()}
    if all(ratio.estimate < 1 for ratio in ratios.values()):  # the larger one first
        first, second, ratios = second, first, {at: inverse(ratio) for at, ratio in ratios.items()}
    if all(ratio.estimate >= 1 for ratio in ratios.values()):
        (start, ratio), *rest = ratios.items()
        words = f"{factor(ratio, first, second, LONGER)} at length {start:,.0f}"
        words += "".join(f" and {times(ratio)} at length {at:,.0f}" for at, ratio in rest)
    else:
        words = "; ".join(f"at length {at:,.0f} {factor(r, first, second, LONGER)}" for at, r in ratios.items())
    return [Finding(f"For {WORK[metric]}, {words}.", sweep.where, numbers, sweep.where)]


def tasks_count(count: int) -> str:
    """``"1 task"``, ``"3 tasks"``."""
    return f"{count} task{'' if count == 1 else 's'}"
