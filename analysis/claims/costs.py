"""Times and memory of two models against length: ratios, exponents and crossovers with their errors.

Where a sweep has at least two seeds (measured side by side, they are its interleaved repeats), an error is that over
seeds, paired. Where it has one, it comes from the 95 % intervals of the medians of its repetitions, if these were
tracked.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis import scaling
from analysis.claims.base import LeftOut, not_matched, several_models
from analysis.claims.rules import LEAST_REPEATS
from analysis.evidence import LEAST_LENGTHS, Sweep, exponents, sweeps, unmatched
from analysis.statistics import CONFIDENCE, Interval, Student, student
from experiments import schema

_Z = float(stats.norm.ppf((1 + CONFIDENCE) / 2))
_MANY = 1e6  # degrees of freedom of an error that is not estimated from seeds


@dataclass(frozen=True)
class CostSample:
    """Logarithm of the ratio of two models' costs at one length of one sweep."""

    sweep: Sweep
    length: float
    effect: Student
    runs: tuple[str, ...]


def log_ratio(sweep: Sweep, first: str, second: str, metric: str, length: float) -> Student:
    """``log(first / second)`` at one length."""
    pair = sweep.pair(first, second, metric)
    assert pair is not None
    a, b = (np.log(curve[length].to_numpy(dtype=float)) for curve in pair)
    found = student([a - b])
    if len(a) > 1:
        return found
    if metric == schema.STATE_BYTES:  # counted, not measured
        return Student(found.estimate, 0.0, _MANY, LEAST_REPEATS)
    errors = [_error(sweep, base, metric, length) for base in (first, second)]
    if any(math.isnan(error) for error in errors):
        return found
    return Student(found.estimate, math.hypot(*errors), _MANY, LEAST_REPEATS)


def _error(sweep: Sweep, base: str, metric: str, length: float) -> float:
    """Standard error of the logarithm of a median, from the relative width of its 95 % interval; NaN if not tracked."""
    label = sweep.model(base)
    name = schema.spread(metric, schema.INTERVAL)
    rows = sweep.rows[(sweep.rows["model"] == label) & (sweep.rows["metric"] == name) & (sweep.rows["at"] == length)]
    return float(rows["value"].iloc[0]) / (2 * _Z) if len(rows) else math.nan


def comparable(evidence: pd.DataFrame, first: str, second: str) -> tuple[list[Sweep], tuple[LeftOut, ...]]:
    """The sweeps in which two families have a model each, of the same size; and why others do not count."""
    found: list[Sweep] = []
    left_out: list[LeftOut] = []
    for sweep in sweeps(evidence):
        if several := several_models(sweep.rows["model"], sweep.where, first, second):
            left_out.append(several)
        labels = sweep.model(first), sweep.model(second)
        if labels[0] is None or labels[1] is None:
            continue
        if reason := unmatched(sweep.rows, (labels[0], labels[1])):
            left_out.append(not_matched(sweep.where, reason))
        else:
            found.append(sweep)
    return found, tuple(left_out)


def unfit(among: Iterable[Sweep], cause: str) -> tuple[LeftOut, ...]:
    """Sweeps that do not have what a claim asks for, all for one cause."""
    return tuple(LeftOut(cause, f"{sweep.where}: {cause}") for sweep in among)


def cost_samples(
    among: Sequence[Sweep], first: str, second: str, metric: str, *, every_length: bool = False
) -> Iterator[CostSample]:
    """The ratio of each sweep at the longest length that both models have, or at every common length."""
    for sweep in among:
        pair = sweep.pair(first, second, metric)
        if pair is None:
            continue
        lengths = sorted(map(float, pair[0].columns))
        for length in lengths if every_length else lengths[-1:]:
            effect = log_ratio(sweep, first, second, metric, length)
            yield CostSample(sweep, length, effect, runs_of(sweep, first, second))


def by_batching(said: Sequence[tuple[Sweep, str]]) -> str:
    """What was said of each sweep, with how its batches were chosen."""
    among = [sweep for sweep, _ in said]
    by_sweep: dict[str, list[str]] = {}
    for sweep, words in said:
        by_sweep.setdefault(on_which(sweep, among, batching=True), []).append(words)
    return "; ".join(f"{where}{', '.join(same)}" for where, same in by_sweep.items())


def on_which(sweep: Sweep, among: Sequence[Sweep], *, batching: bool = False) -> str:
    """What tells a sweep from others, with a space behind: ``"on <hardware> with 2 sequences a batch "``; "" if alone.

    `batching`: say how its batches were chosen in any case.
    """
    words = ""
    alike = list(among)
    if len({one.hardware for one in alike}) > 1:
        words += f"on {sweep.hardware or 'unknown hardware'} "
        alike = [one for one in alike if one.hardware == sweep.hardware]
    if batching or len({one.batching for one in alike}) > 1:
        words += f"with {sweep.batching} "
        alike = [one for one in alike if one.batching == sweep.batching]
    if len({one.name for one in alike}) > 1:
        words += f"in {sweep.name} "
    return words


def at_longest(costs: Sequence[tuple[Sweep, float, str]]) -> str:
    """What was said of each sweep at the longest length of a quantity, which is named once where it is one."""
    lengths = {length for _, length, _ in costs}
    if len(lengths) == 1:
        return f"at length {lengths.pop():,.0f} {by_batching([(sweep, words) for sweep, _, words in costs])}"
    return by_batching([(sweep, f"{words} at length {length:,.0f}") for sweep, length, words in costs])


def runs_of(sweep: Sweep, *bases: str) -> tuple[str, ...]:
    """Runs of these families' models in the sweep."""
    labels = {sweep.model(base) for base in bases}
    return tuple(sweep.rows.loc[sweep.rows["model"].isin(labels), "run_id"].unique())


def exponent_difference(
    sweep: Sweep, first: str, second: str, metric: str
) -> tuple[Student, tuple[float, float]] | None:
    """Exponent of the first model's curve minus that of the second's, and between which lengths.

    Only lengths count at which the second model's attention is under 20 % of its operations, where these are tracked.
    None with fewer than three of them that both have.
    """
    pair = sweep.pair(first, second, metric)
    if pair is None:
        return None
    lengths = [at for at in map(float, pair[0].columns) if at not in _quadratic(sweep, second)]
    if len(lengths) < LEAST_LENGTHS:
        return None
    a, b, ends = pair[0][lengths], pair[1][lengths], (lengths[0], lengths[-1])
    if len(a) > 1:
        return student([exponents(a) - exponents(b)]), ends
    estimate = float((exponents(a) - exponents(b))[0])
    errors = [[_error(sweep, base, metric, at) for at in lengths] for base in (first, second)]
    error = math.hypot(*(slope_error(lengths, one) for one in errors))
    if math.isnan(error):
        return Student(estimate, math.nan, math.nan, 1), ends
    return Student(estimate, error, _MANY, LEAST_REPEATS), ends


def exponent_of(sweep: Sweep, base: str, metric: str, *, upper_half: bool = False) -> Student | None:
    """Exponent of one family's curve; None without a model of the family or with fewer than three places.

    `upper_half`: of the upper half of the places only, with at least two of them.
    """
    label = sweep.model(base)
    if label is None:
        return None
    curve = sweep.curve(label, metric)
    if curve.empty or curve.shape[1] < LEAST_LENGTHS:
        return None
    if upper_half:
        curve = curve.iloc[:, curve.shape[1] // 2 if curve.shape[1] > LEAST_LENGTHS else 1 :]
    found = student([exponents(curve)])
    if len(curve) > 1:
        return found
    lengths = list(map(float, curve.columns))
    error = slope_error(lengths, [_error(sweep, base, metric, at) for at in lengths])
    if math.isnan(error):
        return found
    return Student(found.estimate, error, _MANY, LEAST_REPEATS)


def slope_error(lengths: list[float], errors: list[float]) -> float:
    """Standard error of a slope in log–log space whose points have these errors (least squares weights)."""
    x = np.log(lengths) - np.mean(np.log(lengths))
    return float(np.sqrt(np.sum((x / np.sum(x**2) * np.array(errors)) ** 2)))


QUADRATIC = 0.20  # share of attention in a step's operations from which on a length shows the quadratic part


def _quadratic(sweep: Sweep, base: str) -> set[float]:
    label = sweep.model(base)
    rows = sweep.rows[(sweep.rows["model"] == label) & (sweep.rows["metric"] == schema.ATTENTION_SHARE)]
    return set(rows.loc[rows["value"] >= QUADRATIC, "at"])


def crossing(sweep: Sweep, first: str, second: str, metric: str) -> Interval | None:
    """Length at which the order of two curves turns; None where it does not."""
    pair = sweep.pair(first, second, metric)
    if pair is None or pair[0].shape[1] < 2:
        return None
    return scaling.crossover_interval(list(map(float, pair[0].columns)), *pair)


def crossing_words(turn: Interval) -> str:
    """``"crossover at length 128 [96, 160]"``; where that reaches an end of what was measured, that it is open."""
    middle = f"crossover at length {turn.estimate:,.0f}"
    if not turn.known:
        return middle
    if turn.low == 0 or math.isinf(turn.high):
        return f"{middle} (its interval is open)"
    return f"{middle} [{turn.low:,.0f}, {turn.high:,.0f}]"
