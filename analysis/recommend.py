"""Which model to take for a stated need: what the store knows at the nearest measured place, with intervals.

Nothing is extrapolated in silence: a number that was measured at another length or number of items says so, and where
there is no evidence the answer is that there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import scaling, units
from analysis.claims.base import ATTENTION, LSTM, TRANSFORMER
from analysis.evidence import LEAST_LENGTHS, Sweep, admitted, contests, sweeps
from analysis.statistics import Interval, mean, student
from experiments import schema

CANDIDATES = (LSTM, ATTENTION, TRANSFORMER)
GOOD_ENOUGH = 0.05  # a model this far behind the best is not recommended for its speed
LEAST_SEEDS = 5


@dataclass(frozen=True)
class Need:
    """What a user asks: source length in tokens, items to keep apart, tokens to generate, device ("cpu", "cuda")."""

    length: int
    items: int | None = None
    generate: int | None = None
    device: str | None = None


@dataclass(frozen=True)
class Evidence:
    """One number for each model that has it, of one measure at one place."""

    what: str
    where: str
    quantity: units.Quantity
    numbers: dict[str, Interval]
    decides: str  # "accuracy", "time" or "memory"
    distant: str = ""  # how far from what was asked it was measured


@dataclass(frozen=True)
class Advice:
    """The model to take ("" where nothing speaks for one), why, and the evidence."""

    model: str
    because: tuple[str, ...]
    evidence: tuple[Evidence, ...]


def recommend(runs: pd.DataFrame, need: Need) -> Advice:
    """The model that the evidence speaks for: first accuracy, then time among those that are not clearly worse."""
    known = admitted(runs)
    if need.device is not None:
        known = known[known["device"] == need.device]
    found = [*_accuracies(known, need), *_costs(known, need)]
    scores = [one for one in found if one.decides == "accuracy"]
    costs = [one for one in found if one.decides == "time"]
    because: list[str] = []
    models = [base for base in CANDIDATES if any(base in one.numbers for one in found)]
    if scores:
        lost = {base: _behind(base, scores) for base in models}
        best = min((value for value in lost.values() if value is not None), default=0.0)
        kept = [base for base, value in lost.items() if value is not None and value <= best + GOOD_ENOUGH]
        for base in models:
            value = lost[base]
            if value is not None and base not in kept:
                words = units.model_name(base)
                because.append(
                    f"{words} is {100 * value:.0f} points behind the best, mean over {len(scores)} measures of accuracy"
                )
        models = kept
        if len(kept) > 1:
            names = " and ".join(map(units.model_name, kept))
            because.append(f"{names} are within {100 * GOOD_ENOUGH:.0f} points of each other in accuracy")
    else:
        because.append("there is no evidence on accuracy at this number of items or distance")
    if costs and len(models) > 1:
        slow = {base: _slower(base, models, costs) for base in models}
        timed = {base: value for base, value in slow.items() if value is not None}
        if timed:
            first = min(timed, key=lambda base: timed[base])
            rest = ", ".join(
                f"{units.model_name(b)} takes {v:.2f} times as long" for b, v in timed.items() if b != first
            )
            because.append(f"{units.model_name(first)} is the fastest of them" + (f": {rest}" if rest else ""))
            models = [first]
    elif not costs:
        because.append("there is no evidence on time" + (f" on the device {need.device}" if need.device else ""))
    few = [one for one in scores if min(interval.n for interval in one.numbers.values()) < LEAST_SEEDS]
    if few and scores:
        because.append(f"with caution: {len(few)} of {len(scores)} accuracies are of fewer than {LEAST_SEEDS} seeds")
    chosen = models[0] if len(models) == 1 and (scores or costs) else ""
    return Advice(chosen, tuple(because), tuple(found))


def _accuracies(known: pd.DataFrame, need: Need) -> Iterator[Evidence]:
    """Scores by distance near the length, and by items near their number, on the tasks that measure these."""
    asked = {schema.DISTANCE: need.length, schema.ITEMS: need.items}
    for contest in contests(known):
        for kind, wanted in asked.items():
            axis = contest.measures.get(kind)
            if axis is None or wanted is None or contest.quantity.unit != "%" or contest.quantity.lower_is_better:
                continue
            found = {base: contest.scores(base, schema.TEST, axis) for base in CANDIDATES}
            tables = {base: table for base, table in found.items() if table is not None and table.shape[1]}
            places = (
                set.intersection(*(set(map(float, table.columns)) for table in tables.values())) if tables else set()
            )
            if len(tables) < 2 or not places:
                continue
            at = min(places, key=lambda place: abs(np.log((place + 1) / (wanted + 1))))
            numbers = {b: contest.quantity.within(mean(t[at].to_numpy(dtype=float))) for b, t in tables.items()}
            where = f"{contest.name}, {axis} {at:g}"
            yield Evidence(contest.quantity.name, where, contest.quantity, numbers, "accuracy", _distance(at, wanted))


def _distance(at: float, wanted: float) -> str:
    """Says so where a number was not measured near what was asked (within a factor of two)."""
    return "" if 0.5 <= (at + 1) / (wanted + 1) <= 2 else f"measured at {at:g}, not near {wanted:g}"


def _costs(known: pd.DataFrame, need: Need) -> Iterator[Evidence]:
    """Times and memory at the length, read off the fitted power laws where it lies between or beyond the lengths."""
    measures = {schema.TRAIN_STEP_SECONDS: "time", schema.ENCODE_SECONDS: "time", schema.PEAK_MEMORY: "memory"}
    if need.generate is not None:
        measures |= {schema.DECODE_SECONDS_PER_TOKEN: "time", schema.GENERATE_SECONDS: "time"}
    for sweep in sweeps(known):
        for metric, kind in measures.items():
            numbers: dict[str, Interval] = {}
            longest = 0.0
            for base in CANDIDATES:
                found = _at_length(sweep, base, metric, need.length)
                if found is not None:
                    numbers[base], longest = found[0], max(longest, found[1])
            if len(numbers) > 1:
                beyond = f"extrapolated from length {longest:,.0f}" if need.length > longest else ""
                where = f"length {need.length:,}, {sweep.where}"
                yield Evidence(units.of(metric).name, where, units.of(metric), numbers, kind, beyond)


def _at_length(sweep: Sweep, base: str, metric: str, length: int) -> tuple[Interval, float] | None:
    label = sweep.model(base)
    curve = sweep.curve(label, metric) if label is not None else pd.DataFrame()
    if curve.empty or curve.shape[1] < LEAST_LENGTHS:
        return None
    values = []
    for row in curve.to_numpy():
        lengths = curve.columns.to_numpy(dtype=float)
        if length <= lengths[-1]:
            values.append(float(np.interp(np.log(length), np.log(lengths), np.log(row))))
        else:  # the upper half of the curve says how it goes on
            upper = len(lengths) // 2 if len(lengths) > LEAST_LENGTHS else 0
            law = scaling.fit(lengths[upper:], row[upper:])
            values.append(float(np.log(law.at(length))))
    found = student([np.array(values)]).interval
    interval = Interval(float(np.exp(found.estimate)), float(np.exp(found.low)), float(np.exp(found.high)), found.n)
    return interval, float(curve.columns[-1])


def _behind(base: str, scores: list[Evidence]) -> float | None:
    """How far behind the best a model is, mean over the measures of accuracy that it has."""
    gaps = [
        max(n.estimate for n in one.numbers.values()) - one.numbers[base].estimate
        for one in scores
        if base in one.numbers
    ]
    return float(np.mean(gaps)) if gaps else None


def _slower(base: str, models: list[str], costs: list[Evidence]) -> float | None:
    """Time against the fastest of `models`, geometric mean over the measures that all of them have."""
    shared = [one for one in costs if all(model in one.numbers for model in models)]
    ratios = [
        np.log(one.numbers[base].estimate / min(one.numbers[model].estimate for model in models)) for one in shared
    ]
    return float(np.exp(np.mean(ratios))) if ratios else None
