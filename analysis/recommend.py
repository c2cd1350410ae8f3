"""Which model to take for a stated need: what the store knows at the nearest measured place, with intervals.

Nothing is extrapolated in silence: a number that was measured at another length or number of items says so, and where
there is no evidence the answer is that there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import scaling, units
from analysis.claims.base import ATTENTION, LSTM, TRANSFORMER
from analysis.evidence import LEAST_LENGTHS, Sweep, admitted, contests, stand_in, sweeps, with_most_data
from analysis.scaling import Floats
from analysis.statistics import Interval, geometric_mean, mean
from experiments import schema

CANDIDATES = (LSTM, ATTENTION, TRANSFORMER)
GOOD_ENOUGH = 0.05  # a model this far behind the best is not recommended for its speed
LEAST_SEEDS = 5
POSITIONS = 64  # at which the decoding step is read off, at most
NO_GROWTH = "growth of the step with its position not measured"
_MEASURES = {
    schema.TRAIN_STEP_SECONDS: "time",
    schema.ENCODE_SECONDS: "time",
    schema.DECODE_SECONDS_PER_TOKEN: "time",
    schema.PEAK_MEMORY: "memory",
}


@dataclass(frozen=True)
class Need:
    """What a user asks: source length in tokens, items to keep apart, tokens to generate, device ("cpu", "cuda").

    The device is that of times and memory; a model learns the same on any.
    """

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
    decides: str  # "accuracy", "answer", "time" (where there is no time to an answer) or "memory" (nothing)
    distant: str = ""  # how far from what was asked it was measured
    task: str = ""  # of an accuracy, without its settings: several of them weigh together as one task
    hardware: str = ""  # of a cost
    unlearnt: frozenset[str] = frozenset()  # models that are not trained on the task, by the test of the claims


@dataclass(frozen=True)
class Advice:
    """The model to take ("" where nothing speaks for one), why, and the evidence."""

    model: str
    because: tuple[str, ...]
    evidence: tuple[Evidence, ...]


def recommend(runs: pd.DataFrame, need: Need) -> Advice:
    """The model that the evidence speaks for: first accuracy, then time among those that are not clearly worse.

    Models are compared on the measures that all of them have. Where tokens are to be generated and it was measured how
    long an answer takes, that is the time that decides.
    """
    known = with_most_data(admitted(runs))
    there = known if need.device is None else known[known["device"] == need.device]
    found = [*_accuracies(known, need), *_costs(there, need)]
    scores, answers, times = ([one for one in found if one.decides == what] for what in ("accuracy", "answer", "time"))
    because: list[str] = []
    timed = _having([*answers, *times])
    models = _having(scores) or timed
    comparable = _shared(scores, models)
    if comparable:
        lost = {base: _behind(base, comparable) for base in models}
        kept = [base for base in models if lost[base] <= min(lost.values()) + GOOD_ENOUGH]
        tasks = len({one.task for one in comparable})
        measures = f"mean over {tasks} tasks" if tasks > 1 else "in accuracy"
        because += [
            f"{units.model_name(base)} is {100 * lost[base]:.0f} points behind the best, {measures}"
            + _not_learnt(base, comparable)
            for base in models
            if base not in kept
        ]
        models = kept
        if len(kept) > 1:
            because.append(f"{_names(kept)} are within {100 * GOOD_ENOUGH:.0f} points of each other, {measures}")
    elif scores:
        because.append(f"no measure of accuracy is shared by {_names(models)}")
    else:
        because.append("there is no evidence on accuracy at this number of items or distance")
    unknown = [base for base in timed if base not in _having(scores)]
    if scores and unknown:
        because.append(f"there is no evidence on the accuracy of {_names(unknown)}")
    costs = _shared(answers, models) or _shared(times, models)
    if need.generate is not None and times and not answers:
        because.append("there is no evidence on the time to generate")
    if not answers and not times:
        because.append("there is no evidence on time" + (f" on the device {need.device}" if need.device else ""))
    elif len(models) > 1 and not costs:
        because.append(f"no measure of time is shared by {_names(models)}")
    elif len(models) > 1:
        slow = {base: _slower(base, models, costs) for base in models}
        first = min(models, key=lambda base: slow[base])
        what = ", ".join(dict.fromkeys(one.what for one in costs))
        rest = ", ".join(f"{units.model_name(b)} takes {slow[b]:.2f} times as long" for b in models if b != first)
        on = " and ".join(dict.fromkeys(one.hardware for one in costs if one.hardware))
        place = f"{what} on {on}" if on else what
        because.append(f"{units.model_name(first)} is the fastest of them, {place}: {rest}")
        models = [first]
    far = [one for one in comparable if one.distant]
    if far:
        words = "at other distances or numbers of items than asked"
        because.append(f"with caution: {len(far)} of {len(comparable)} accuracies were measured {words}")
    few = [one for one in comparable if min(interval.n for interval in one.numbers.values()) < LEAST_SEEDS]
    if few:
        because.append(
            f"with caution: {len(few)} of {len(comparable)} accuracies are of fewer than {LEAST_SEEDS} seeds"
        )
    chosen = models[0] if len(models) == 1 and (comparable or not scores) else ""
    return Advice(chosen, tuple(because), tuple(found))


def _having(evidence: Iterable[Evidence]) -> list[str]:
    """The models of which there is any of this evidence."""
    measured = {base for one in evidence for base in one.numbers}
    return [base for base in CANDIDATES if base in measured]


def _shared(evidence: Iterable[Evidence], models: Iterable[str]) -> list[Evidence]:
    """What was measured of all these models."""
    return [one for one in evidence if one.numbers.keys() >= set(models)]


def _names(models: Iterable[str]) -> str:
    """``"LSTM, LSTM + attention and Transformer"``."""
    *before, last = map(units.model_name, models)
    return f"{', '.join(before)} and {last}" if before else last


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
            yield Evidence(
                contest.quantity.name,
                where,
                contest.quantity,
                numbers,
                "accuracy",
                _distance(at, wanted),
                contest.family,
                unlearnt=frozenset(
                    base
                    for base in tables
                    if contest.untrained(contest.in_range(str(stand_in(contest.rows["model"], base))))
                ),
            )


def _distance(at: float, wanted: float) -> str:
    """Says so where a number was not measured near what was asked (within a factor of two)."""
    return "" if 0.5 <= (at + 1) / (wanted + 1) <= 2 else f"measured at {at:g}, not near {wanted:g}"


def _costs(known: pd.DataFrame, need: Need) -> Iterator[Evidence]:
    """Times and memory at the length, and the time to an answer of the tokens that are to be generated.

    Where the growth of the decoding step with its position was measured, answers without it are left out.
    """
    answers: list[Evidence] = []
    for sweep in sweeps(known):
        where = f"length {need.length:,}, {sweep.where}"
        for metric, kind in _MEASURES.items():
            if metric == schema.DECODE_SECONDS_PER_TOKEN and need.generate is None:
                continue
            curves = {base: curve for base in CANDIDATES if not (curve := _curve(sweep, base, metric)).empty}
            if len(curves) > 1:
                numbers = {b: geometric_mean(_at(curve, [need.length])[need.length]) for b, curve in curves.items()}
                cautions = _of_models({base: _outside(curve, need.length) for base, curve in curves.items()})
                what, quantity = units.of(metric).name, units.of(metric)
                yield Evidence(what, where, quantity, numbers, kind, cautions, hardware=sweep.hardware)
        if need.generate is not None:
            answered = {base: one for base in CANDIDATES if (one := _answer(sweep, base, need.length, need.generate))}
            if len(answered) > 1:
                what = f"encoding and {need.generate:,} decoding step" + ("s" if need.generate > 1 else "")
                quantity = units.Quantity(what, "ms", 1e3, ",.1f", lower_is_better=True)
                numbers = {base: interval for base, (interval, _) in answered.items()}
                cautions = _of_models({base: words for base, (_, words) in answered.items()})
                found = Evidence(what, where, quantity, numbers, "answer", cautions, hardware=sweep.hardware)
                answers.append(found)
    yield from [one for one in answers if NO_GROWTH not in one.distant] or answers


def _answer(sweep: Sweep, base: str, length: int, generate: int) -> tuple[Interval, str] | None:
    """Seconds to encode a source and generate so many tokens, with a caution; None where they were not measured.

    The decoding step is that at the length of the source. In batches of that size it may have been measured by position
    as well: then it is as much longer as the mean over the positions is than the first.
    """
    encode, decode = (_curve(sweep, base, name) for name in (schema.ENCODE_SECONDS, schema.DECODE_SECONDS_PER_TOKEN))
    if encode.empty or decode.empty:
        return None
    step = _at(decode, [length])[length]
    cautions = [_outside(encode, length), _outside(decode, length)]
    by_position = _curve(sweep, base, schema.STEP_SECONDS) if sweep.fixed_batch else pd.DataFrame()
    if not by_position.empty:
        positions = np.linspace(1, generate, min(generate, POSITIONS))
        steps = _at(by_position, positions)
        step = step + (steps.mean(axis="columns") - steps[1]).clip(lower=0)
        cautions.append(_beyond(by_position, generate, "position"))
    elif generate > 1:
        cautions.append(NO_GROWTH)
    seconds = (_at(encode, [length])[length] + generate * step).dropna()
    return (geometric_mean(seconds), ", ".join(dict.fromkeys(filter(None, cautions)))) if len(seconds) else None


def _curve(sweep: Sweep, base: str, metric: str) -> pd.DataFrame:
    """A family's values by seed and length; empty where there are too few lengths to go by."""
    label = sweep.model(base)
    curve = sweep.curve(label, metric) if label is not None else pd.DataFrame()
    return curve if curve.shape[1] >= LEAST_LENGTHS else pd.DataFrame()


def _at(curve: pd.DataFrame, places: Sequence[float] | Floats) -> pd.DataFrame:
    """Each seed's values at these places: interpolated, as at the first before it, by a power law beyond the last."""
    measured, wanted = curve.columns.to_numpy(dtype=float), np.asarray(places, dtype=float)
    upper = len(measured) // 2 if len(measured) > LEAST_LENGTHS else 0  # this half of the curve says how it goes on
    rows = []
    for row in curve.to_numpy(dtype=float):
        values = np.exp(np.interp(np.log(wanted), np.log(measured), np.log(row)))
        if wanted.max() > measured[-1]:
            law = scaling.fit(measured[upper:], row[upper:])
            values = np.where(wanted > measured[-1], law.coefficient * wanted**law.exponent, values)
        rows.append(values)
    return pd.DataFrame(rows, curve.index, wanted)


def _outside(curve: pd.DataFrame, length: float) -> str:
    """Says so where a length lies outside of what was measured."""
    shortest = float(curve.columns[0])
    return f"as at length {shortest:,.0f}, the shortest" if length < shortest else _beyond(curve, length, "length")


def _beyond(curve: pd.DataFrame, place: float, axis: str) -> str:
    longest = float(curve.columns[-1])
    return f"extrapolated from {axis} {longest:,.0f}" if place > longest else ""


def _of_models(cautions: dict[str, str]) -> str:
    """One caution where it is that of all models, else each with its model."""
    if len(set(cautions.values())) == 1:
        return next(iter(cautions.values()))
    return "; ".join(f"{units.model_name(base)}: {words}" for base, words in cautions.items() if words)


def _behind(base: str, scores: Sequence[Evidence]) -> float:
    """How far behind the best a model is in accuracy, mean over tasks."""
    gaps: dict[str, list[float]] = {}
    for one in scores:
        best = max(n.estimate for n in one.numbers.values())
        gaps.setdefault(one.task, []).append(best - one.numbers[base].estimate)
    return float(np.mean([np.mean(of_task) for of_task in gaps.values()]))


def _not_learnt(base: str, scores: Sequence[Evidence]) -> str:
    """``", and not trained on copy_memory"``: tasks that a model has not learnt at all; "" if there are none."""
    tasks = list(dict.fromkeys(one.task for one in scores if base in one.unlearnt))
    return f", and not trained on {', '.join(tasks)}" if tasks else ""


def _slower(base: str, models: Sequence[str], costs: Sequence[Evidence]) -> float:
    """Time against the fastest of `models`, geometric mean over these measures."""
    ratios = [np.log(one.numbers[base].estimate / min(one.numbers[m].estimate for m in models)) for one in costs]
    return float(np.exp(np.mean(ratios)))
