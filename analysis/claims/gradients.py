"""Family 2, from the inside: how far back the loss reaches in an LSTM and in a Transformer.

The half-distance of a model is the distance at which the norm of ∂loss/∂(embedded input) is down to half of what it is
at the shortest. Where the norm stays above half at every distance that was measured, it is at least the longest of them
(censored): a ratio with it is a bound, which may speak for the side that it bounds and not for the other.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis import statistics, units
from analysis.claims.base import (
    LSTM,
    TRANSFORMER,
    Claim,
    Decision,
    Finding,
    LeftOut,
    NotDecided,
    Scale,
    not_matched,
    not_trained,
    several_models,
)
from analysis.claims.rules import LEAST_SEEDS, Part, Rule, Sample, Verdict, exponential, part, together
from analysis.claims.wording import the, times
from analysis.evidence import TRAINED, stand_in, unmatched
from analysis.gradients import NORM, PHASES, SHARE, curves, half_distances
from analysis.runs import groups, names
from analysis.statistics import Interval, student
from experiments import schema

RATIO = Rule(above=math.log(2.0), below=math.log(1.1))
HALF_DISTANCES = Scale(units.Ratio("half-distance, Transformer / LSTM"), exponential)
_TOKENS = units.Quantity("half-distance", "tokens", 1.0, ",.1f")
_LEFT = units.Quantity("what is left", "", 1.0, ".2g")
_WEIGHTS = {schema.INITIAL: "the initial weights", schema.TRAINED: "the trained weights"}


@dataclass(frozen=True)
class Fading:
    """Half-distances of models in one phase of the gradients runs of one grid and task.

    Attributes:
        where: the task, and the grid where there are several.
        phase: schema.INITIAL or schema.TRAINED.
        rows: of analysis.gradients.half_distances, those without a half-distance left out.
        runs: the table's rows behind them.
    """

    where: str
    phase: str
    rows: pd.DataFrame
    runs: pd.DataFrame

    @property
    def shortest(self) -> float:
        """The shortest distance that was measured."""
        return float(self.rows["shortest"].min())

    @property
    def longest(self) -> float:
        """The longest distance that was measured."""
        return float(self.rows["longest"].max())

    def label(self, base: str) -> str | None:
        """The label of the family's model."""
        return stand_in(self.rows["model"], base)

    def of(self, label: str | None) -> pd.DataFrame:
        """Half-distance and whether it is censored, by seed."""
        return self.rows[self.rows["model"] == label].set_index("seed")[["half_distance", "censored"]].sort_index()

    def untrained(self, label: str) -> LeftOut | None:
        """Why the trained weights of a model are not: it fails at the shortest distance already; None if they are."""
        if self.phase != schema.TRAINED:
            return None
        name = schema.GRADIENT_ACCURACY[schema.TRAINED]
        rows = self.runs[(self.runs["model"] == label) & (self.runs["metric"] == name)]
        at = rows["at"].min()
        right = float(rows.loc[rows["at"] == at, "value"].mean())
        if right < TRAINED:
            return not_trained(label, self.where, f"{100 * right:.1f}", f"at distance {at:g} already")
        return None


def fadings(evidence: pd.DataFrame, what: str = NORM) -> Iterator[Fading]:
    """What the gradients runs in `evidence` (`admitted` rows) measured, phase by phase."""
    chosen = evidence[evidence["kind"] == schema.GRADIENTS]
    found = half_distances(chosen, what)
    known, called = found[found["half_distance"].notna()], names(chosen)
    for (grid, task), rows in groups(chosen, "grid", "task"):
        for phase in PHASES:
            own = known[(known["grid"] == grid) & (known["task"] == task) & (known["phase"] == phase)]
            if len(own):
                yield Fading(called[grid, task], phase, own, rows)


def decide_gradient(evidence: pd.DataFrame) -> Decision | NotDecided:
    """2.4: ratio of the half-distances, Transformer / LSTM, at initialisation and after training.

    The claim is one on both: with nothing that counts in one of these phases it is undecided.
    """
    parts: list[Part] = []
    phases: set[str] = set()
    said: list[str] = []
    bounds: list[str] = []
    left_out: list[LeftOut] = []
    for fading in fadings(evidence):
        if several := several_models(fading.rows["model"], fading.where, LSTM, TRANSFORMER):
            left_out.append(several)
        lstm, transformer = fading.label(LSTM), fading.label(TRANSFORMER)
        if lstm is None or transformer is None:
            continue
        reasons = [reason for label in (lstm, transformer) if (reason := fading.untrained(label)) is not None]
        if unfit := unmatched(fading.runs, (lstm, transformer)):
            reasons.append(not_matched(fading.where, unfit))
        if reasons:
            left_out += reasons
            continue
        far, near = fading.of(transformer), fading.of(lstm)
        both = far.merge(near, left_index=True, right_index=True, suffixes=("_far", "_near"))
        if both.empty:
            continue
        found = _ruled(fading, both, (transformer, lstm))
        parts.append(found)
        phases.add(fading.phase)
        said.append(_words(fading, both, found))
        if both["censored_far"].any() or both["censored_near"].any():
            bounds.append(f"{found.where}: {_bound(both)}, norms stay above half up to distance {fading.longest:,.0f}")
    if not parts:
        return NotDecided(tuple(dict.fromkeys(left_out)))
    ruling = together(parts)
    counted = " and ".join(_WEIGHTS[phase] for phase in PHASES if phase in phases)
    missing = [
        f"{ruling.verdict} at {counted}, nothing counts at {_WEIGHTS[phase]}" for phase in PHASES if phase not in phases
    ]
    if missing:
        ruling = replace(ruling, verdict=Verdict.UNDECIDED, p=math.nan)
    ruling = replace(ruling, condition="; ".join(filter(None, (ruling.condition, *missing, *bounds))))
    clause = f"with the distance the norm of the loss's gradient falls to half: {'; '.join(said)}"
    return Decision(ruling, clause, tuple(dict.fromkeys(left_out)))


def _ruled(fading: Fading, both: pd.DataFrame, labels: tuple[str, str]) -> Part:
    """The verdict on one phase; what a bound does not bound, it does not decide."""
    logarithms = np.log((both["half_distance_far"] / both["half_distance_near"]).to_numpy(dtype=float))
    chosen = fading.runs["model"].isin(labels) & fading.runs["seed"].isin(both.index)
    runs = tuple(fading.runs.loc[chosen, "run_id"].unique())
    found = part(Sample(f"{_WEIGHTS[fading.phase]}, {fading.where}", logarithms, runs), RATIO, LEAST_SEEDS)
    beyond = {Verdict.SUPPORTED: both["censored_near"].any(), Verdict.REFUTED: both["censored_far"].any()}
    if beyond.get(found.verdict, False):
        return replace(found, verdict=Verdict.UNDECIDED, p=math.nan)
    return found


def _bound(both: pd.DataFrame) -> str:
    """What a ratio of half-distances is where some are censored."""
    far, near = both["censored_far"].any(), both["censored_near"].any()
    if far and near:
        return "no bound"
    return "at least that" if far else "at most that"


def _words(fading: Fading, both: pd.DataFrame, found: Part) -> str:
    """``"at initialisation after 2.7 tokens [2.6, 2.8] in the LSTM and not within 256 in the Transformer (…)"``."""
    ends = [
        f"{_half(both[f'half_distance_{side}'], both[f'censored_{side}'], fading.longest)} in {the(base)}"
        for side, base in (("near", LSTM), ("far", TRANSFORMER))
    ]
    censored = both["censored_far"].any() or both["censored_near"].any()
    bound = {"at least that": "at least ", "at most that": "at most "}.get(_bound(both), "") if censored else ""
    ratio = f"{bound}{times(exponential(found.effect.interval))} as far"
    return f"{PHASES[fading.phase]} {' and '.join(ends)} ({ratio})"


def _half(values: pd.Series, censored: pd.Series, longest: float) -> str:
    if censored.all():
        return f"not within {longest:,.0f} tokens"
    bound = "at least " if censored.any() else ""
    return f"after {bound}{_TOKENS.said(_geometric(values))}"


def _geometric(values: pd.Series) -> Interval:
    """Geometric mean over seeds."""
    return exponential(student([np.log(values.to_numpy(dtype=float))]).interval)


# --- what was measured -----------------------------------------------------------------------------------------------
_SAYS = {
    NORM: "the norm of the gradient",
    SHARE: "what arrives of the gradient at the logits",
}


def faded(evidence: pd.DataFrame) -> Iterator[Finding]:
    """2.4: half-distances of every model, and which part is left at the longest distance.

    After training, a second time as a share of the gradient with which it starts, at the logits: of what a model is
    surer of the loss, and with it every gradient, is smaller.
    """
    chosen = curves(evidence)
    for what in (NORM, SHARE):
        for fading in fadings(evidence, what):
            if what == SHARE and fading.phase == schema.INITIAL:  # where no model is sure of anything, they are alike
                continue
            sentences: list[str] = []
            numbers: dict[str, Interval] = {}
            for label in units.in_order(fading.rows["model"]):
                own = fading.of(label)
                at_end = chosen[(chosen["phase"] == fading.phase) & (chosen["at"] == fading.longest)]
                ids = fading.rows.loc[fading.rows["model"] == label, "run_id"]
                parts = at_end.loc[at_end["run_id"].isin(ids), f"relative_{what}"].dropna()
                left = statistics.mean(parts.to_numpy(dtype=float)).inside(0.0, math.inf)
                half = _half(own["half_distance"], own["censored"], fading.longest)
                sentences.append(f"{half} in {the(label)} ({_LEFT.said(left)} left at {fading.longest:,.0f})")
                numbers |= {f"half-distance, {label}": _geometric(own["half_distance"]), f"left, {label}": left}
            where = f"{fading.where}, {PHASES[fading.phase]}" + (", share of the logits'" if what == SHARE else "")
            sentence = (
                f"{fading.where}, {PHASES[fading.phase]}: {_SAYS[what]} falls to half of that at distance"
                f" {fading.shortest:,.0f} {', '.join(sentences)}."
            )
            yield Finding(sentence, where, numbers)


CLAIMS = (
    Claim(
        "2.4",
        "the LSTM's gradient vanishes with distance",
        "how gradients fade with distance",
        "half-distance of the gradient norm, Transformer / LSTM, > 2, at initialisation and after training",
        "ratio < 1.1; conditional where the weights at initialisation and after training differ",
        "the LSTM's gradient fades sooner",
        "the LSTM's gradient fades no sooner",
        HALF_DISTANCES,
        decide_gradient,
        faded,
    ),
)
