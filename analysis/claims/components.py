"""Family 5: each component matters. One claim for each variant of a full model that a grid holds."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis import ablations, units
from analysis.claims.base import GAIN, Claim, Decision, LeftOut, NotDecided, not_matched, untrained_in_range
from analysis.claims.rules import ACCURACY_MARGIN, Rule, Sample, pooled
from analysis.claims.wording import tasks_count
from analysis.evidence import contests
from analysis.variants import change
from experiments import schema

MATTERS = Rule(above=ACCURACY_MARGIN, below=-ACCURACY_MARGIN, margin=ACCURACY_MARGIN)


def claims(runs: pd.DataFrame) -> list[Claim]:
    """The claims 5.* of these runs: "<full model>: <what is changed> matters", in the order of the models."""
    pairs = [
        (full, variant)
        for of_grid in ablations.variants(runs).values()
        for full, others in of_grid.items()
        for variant in others
    ]
    return [_claim(full, variant) for full, variant in dict.fromkeys(pairs)]


def _claim(full: str, variant: str) -> Claim:
    def decide(evidence: pd.DataFrame) -> Decision | NotDecided:
        return decide_component(evidence, full, variant)

    return Claim(
        f"5.{full}: {change(full, variant)}",
        f"in the {units.model_name(full)}, {change(full, variant)} costs accuracy",
        "what each component buys",
        "Δ(full − variant) > 5 points, pooled over tasks",
        "tie: the component makes no difference; Δ < −5 points: it harms; conditional on the task where tasks differ",
        f"in the {units.model_name(full)}, {change(full, variant)} costs accuracy",
        f"in the {units.model_name(full)}, {change(full, variant)} raises accuracy",
        GAIN,
        decide,
    )


def decide_component(evidence: pd.DataFrame, full: str, variant: str) -> Decision | NotDecided:
    """5.*: full model minus variant in range, pooled over the tasks on which the full model is trained."""
    samples: list[Sample] = []
    left_out: list[LeftOut] = []
    for contest in contests(evidence):
        if contest.quantity.unit != "%":
            continue
        gaps: np.ndarray = ablations.gaps(contest, full, variant, schema.TEST)
        if not len(gaps):
            continue
        if untrained := untrained_in_range(contest, full):
            left_out.append(untrained)
        elif reason := contest.unmatched(full, variant):
            left_out.append(not_matched(contest.name, reason))
        else:
            samples.append(Sample(contest.name, gaps, contest.runs_of(full, variant), task=contest.family))
    if not samples:
        return NotDecided(tuple(left_out))
    ruling = pooled(samples, MATTERS, each=True)
    clause = (
        f"{units.model_name(full)} minus {change(full, variant)}: {GAIN.said(ruling.effect.interval)}"
        f" on {tasks_count(ruling.counting)}"
    )
    return Decision(ruling, clause, tuple(left_out))
