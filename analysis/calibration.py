"""Calibration by simulation: how often intervals cover and verdicts err, on synthetic grids whose truth is known.

A grid is drawn as differences of two models' scores by task and seed, the way `analysis.claims` pairs them, and ruled
by the same functions. ``python -m analysis.calibration`` prints the table that the documentation quotes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from analysis import scaling
from analysis.claims.rules import ACCURACY_MARGIN, LEAST_SEEDS, Rule, Sample, Verdict, pooled
from analysis.statistics import Interval, bca, student
from analysis.statistics.student import Floats

TASKS = 4
RULE = Rule(above=ACCURACY_MARGIN, below=ACCURACY_MARGIN, margin=ACCURACY_MARGIN)  # claim 2.1
EFFECTS = {"none": 0.0, "small": 0.03, "large": 0.30}  # of accuracy, A minus B; small is inside the margin
SEEDS = (3, 5, 10)
SHAPES = ("normal", "skewed", "bimodal")
MISSING = 0.1  # of runs, where some are missing
SOLVED, FAILED = 0.99, 0.30  # what a seed reaches that solves the task, and one that does not
_RATE = 0.55  # of seeds that solve it, where the models do not differ


@dataclass(frozen=True)
class Scenario:
    """One truth: the effect, the seeds, how scores spread and whether runs are missing."""

    effect: str
    seeds: int
    shape: str
    missing: bool

    @property
    def truth(self) -> float:
        """Mean difference of every task."""
        return EFFECTS[self.effect]

    @property
    def right(self) -> frozenset[Verdict]:
        """Verdicts that are not wrong: to be undecided never is."""
        false = {Verdict.REFUTED, Verdict.TIE}
        return frozenset({Verdict.UNDECIDED} | ({Verdict.SUPPORTED} if self.truth > RULE.above else false))


def scenarios() -> Iterator[Scenario]:
    """All combinations."""
    for effect, seeds, shape, missing in product(EFFECTS, SEEDS, SHAPES, (False, True)):
        yield Scenario(effect, seeds, shape, missing)


def draw(scenario: Scenario, rng: np.random.Generator) -> list[Floats]:
    """Paired differences by task; each task spreads in its own way."""
    differences = []
    for _ in range(TASKS):
        a, b = _scores(scenario, scenario.truth, rng), _scores(scenario, 0.0, rng)
        kept = np.ones(scenario.seeds, dtype=bool)
        if scenario.missing:
            kept = rng.random((2, scenario.seeds)).min(axis=0) >= MISSING  # of both models
        differences.append((a - b)[kept])
    return differences


def _scores(scenario: Scenario, ahead: float, rng: np.random.Generator) -> Floats:
    n = scenario.seeds
    if scenario.shape == "bimodal":
        rate = _RATE + ahead / (SOLVED - FAILED)
        return np.where(rng.random(n) < rate, SOLVED, FAILED) - rng.uniform(-0.01, 0.01, n)
    spread = rng.uniform(0.005, 0.05)
    if scenario.shape == "normal":
        return 0.6 + ahead + spread * rng.normal(size=n)
    return 0.6 + ahead - spread * (rng.exponential(size=n) - 1.0)  # a long tail of bad seeds


def trial(scenario: Scenario, rng: np.random.Generator, *, bootstrap: bool = False) -> dict[str, float]:
    """One synthetic grid: whether the interval covers the truth, whether the verdict is wrong, whether it decides.

    Each 1 or 0; where there is no interval (a task with one seed), whether it covers is NaN.
    """
    differences = [task for task in draw(scenario, rng) if len(task)]
    interval = student(differences).interval
    ruling = pooled([Sample(f"task {i}", values) for i, values in enumerate(differences)], RULE)
    found = {
        "covered": _covers(interval, scenario.truth),
        "wrong": float(ruling.verdict not in scenario.right),
        "decided": float(ruling.verdict is not Verdict.UNDECIDED),
    }
    if bootstrap:
        found["covered by BCa"] = _covers(bca(differences, _mean_of_means, rng), scenario.truth)
    return found


def _covers(interval: Interval, truth: float) -> float:
    return float(interval.low <= truth <= interval.high) if interval.known else math.nan


def _mean_of_means(*samples: Floats, axis: int = -1) -> Floats:
    return np.asarray(sum(sample.mean(axis=axis) for sample in samples) / len(samples))


def simulate(each: int, rng: np.random.Generator, *, bootstrap: bool = False) -> pd.DataFrame:
    """`each` grids of every scenario.

    Returns:
        A row a scenario: its attributes, `grids`, and the shares `covered`, `wrong`, `decided` (and `covered by BCa`).
        Those covered are of the grids that have an interval.
    """
    rows = []
    for scenario in scenarios():
        trials = pd.DataFrame([trial(scenario, rng, bootstrap=bootstrap) for _ in range(each)])
        rows.append(vars(scenario) | {"grids": each} | trials.mean().to_dict())
    return pd.DataFrame(rows)


def summary(found: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Means over scenarios, all of which weigh the same."""
    shares = [name for name in ("covered", "covered by BCa", "wrong", "decided") if name in found]
    return found.groupby(list(by))[shares].mean()


# --- curves against length: exponents and crossovers ------------------------------------------------------------------
LENGTHS = (32, 64, 128, 256, 512, 1024)
EXPONENTS = (1.0, 1.5)  # of two models
CROSSOVERS = (45.0, 200.0, 700.0)
NOISES = ("normal", "skewed", "shifted")  # of the logarithm of a time: by length, likewise with a tail, by seed


def simulate_curves(each: int, rng: np.random.Generator) -> pd.DataFrame:
    """`each` sweeps of two models for every number of seeds, crossover and noise.

    Returns:
        A row a combination: seeds, crossover, noise, and how often the intervals cover the exponent of the second
        model and the crossover (`exponent`, `crossing`); where the curves of a sweep do not cross it has no interval.
    """
    rows = []
    for seeds, crossover, noise in product(SEEDS, CROSSOVERS, NOISES):
        covered: dict[str, list[bool]] = {"exponent": [], "crossing": []}
        for _ in range(each):
            a, b = (_curves(seeds, exponent, crossover, noise, rng) for exponent in EXPONENTS)
            grown = scaling.exponent(LENGTHS, b)
            covered["exponent"].append(grown.low <= EXPONENTS[1] <= grown.high)
            turn = scaling.crossover_interval(LENGTHS, a, b)
            if turn is not None:
                covered["crossing"].append(turn.low <= crossover <= turn.high)
        shares = {name: float(np.mean(found)) for name, found in covered.items()}
        rows.append({"seeds": seeds, "crossover": crossover, "noise": noise} | shares)
    return pd.DataFrame(rows)


def _curves(seeds: int, exponent: float, crossover: float, noise: str, rng: np.random.Generator) -> Floats:
    """Times by seed and length whose power law is 1 at the crossover."""
    shape = (seeds, len(LENGTHS))
    off = {"normal": rng.normal(size=shape), "skewed": rng.exponential(size=shape) - 1.0}
    off["shifted"] = rng.normal(size=(seeds, 1)) + 0.3 * off["normal"]
    return np.asarray(np.exp(exponent * np.log(np.array(LENGTHS) / crossover) + 0.1 * off[noise]))


def main() -> None:
    """Prints coverage and errors by number of seeds and shape."""
    found = simulate(200, np.random.default_rng(0), bootstrap=True)
    print(f"{found['grids'].sum():,} grids of {TASKS} tasks; a verdict needs {LEAST_SEEDS} seeds")
    for by in (["seeds"], ["seeds", "shape"], ["seeds", "effect"], ["missing"]):
        print(f"\n{summary(found, by).round(3).to_string()}")
    curves = simulate_curves(400, np.random.default_rng(0))
    print(
        f"\nexponents and crossovers\n{curves.groupby('seeds')[['exponent', 'crossing']].mean().round(3).to_string()}"
    )


if __name__ == "__main__":
    main()
