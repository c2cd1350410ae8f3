"""Claim 4.4: Transformers gain more from large data sets. Errors of one task against the size of its training set."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis import units
from analysis.claims.base import (
    LSTM,
    TRANSFORMER,
    Claim,
    Decision,
    LeftOut,
    NotDecided,
    Scale,
    not_matched,
    several_models,
)
from analysis.claims.rules import Part, Rule, Sample, Verdict, part, together
from analysis.evidence import LEAST_LENGTHS, contests, stand_in, unmatched, without_size
from analysis.runs import groups, names
from experiments import schema

MOST_DOUBLINGS = 40  # of one sequence: more than all data there are
STEEPER = Rule(above=0.0, below=0.0)
PER_DOUBLING = Scale(units.Quantity("gain of the Transformer over the LSTM", "points per doubling", 100.0, "+z.2f"))


@dataclass(frozen=True)
class DataCurve:
    """Errors (0..1) of both models on one task by seed (rows) and number of training sequences (columns)."""

    task: str  # and the grid, where several have it
    lstm: pd.DataFrame
    transformer: pd.DataFrame
    runs: tuple[str, ...]

    @property
    def gain(self) -> np.ndarray:
        """By seed, how much more of the error the Transformer loses with every doubling of the data."""
        return _slopes(self.lstm) - _slopes(self.transformer)

    @property
    def crossover(self) -> float:
        """Training sequences from which on the Transformer's fitted error is the smaller; NaN or infinite if never."""
        lstm, transformer = _fit(self.lstm.mean()), _fit(self.transformer.mean())
        steeper = lstm[0] - transformer[0]
        doublings = (transformer[1] - lstm[1]) / steeper if steeper > 0 else math.nan
        return math.inf if doublings > MOST_DOUBLINGS else 2**doublings


def curves(evidence: pd.DataFrame) -> Iterator[DataCurve | LeftOut]:
    """The tasks that were learnt from at least three sizes of training set, in one grid, or why one does not count."""
    learnt = evidence[evidence["kind"] == schema.LEARN]
    learnt = learnt.assign(whole=learnt["task"].map(without_size))
    called = names(learnt.assign(task=learnt["whole"]))
    for (grid, whole), rows in groups(learnt, "grid", "whole"):
        if rows["task"].nunique() < LEAST_LENGTHS:
            continue
        name = called[grid, whole]
        if several := several_models(rows["model"], name, LSTM, TRANSFORMER):
            yield several
        lstm, transformer = stand_in(rows["model"], LSTM), stand_in(rows["model"], TRANSFORMER)
        if lstm is None or transformer is None:
            continue
        reasons = {task: unmatched(same, (lstm, transformer)) for task, same in rows.groupby("task")}
        if any(reasons.values()):
            yield from (not_matched(str(task), reason) for task, reason in reasons.items() if reason)
            continue
        a, b = _errors(rows, lstm), _errors(rows, transformer)
        seeds, sizes = a.index.intersection(b.index), a.columns.intersection(b.columns)
        a, b = a.loc[seeds, sizes], b.loc[seeds, sizes]
        if len(seeds) and len(sizes) >= LEAST_LENGTHS:
            runs = rows.loc[rows["model"].isin([lstm, transformer]), "run_id"].unique()
            yield DataCurve(name, a, b, tuple(runs))


def _errors(rows: pd.DataFrame, label: str) -> pd.DataFrame:
    """Headline on the test set as an error, seed × training sequences, seeds that have all sizes."""
    found = {}
    for contest in contests(rows[rows["model"] == label]):
        size = contest.rows.loc[contest.rows["metric"] == schema.TRAINING_SEQUENCES, "value"]
        name = schema.metric(schema.TEST, contest.headline)
        scores = contest.rows[contest.rows["metric"] == name].set_index("seed")["value"]
        if len(size) and contest.quantity.unit == "%":
            found[float(size.median())] = scores if contest.quantity.lower_is_better else 1 - scores
    return pd.DataFrame(found).sort_index(axis="columns").dropna()


def _fit(errors: pd.Series) -> tuple[float, float]:
    """Slope per doubling and error at one sequence, by least squares."""
    slope, start = np.polyfit(np.log2(errors.index.to_numpy(dtype=float)), errors.to_numpy(dtype=float), 1)
    return float(slope), float(start)


def _slopes(errors: pd.DataFrame) -> np.ndarray:
    return np.array([_fit(row)[0] for _, row in errors.iterrows()])


def decide_data(evidence: pd.DataFrame) -> Decision | NotDecided:
    """4.4: slope of the error against log data size, LSTM minus Transformer, and where the Transformer becomes better.

    What gains more and would still be behind at the largest training set is not called supported.
    """
    parts: list[Part] = []
    said: list[str] = []
    beyond: list[str] = []
    left_out: list[LeftOut] = []
    for curve in curves(evidence):
        if isinstance(curve, LeftOut):
            left_out.append(curve)
            continue
        found = part(Sample(curve.task, curve.gain, curve.runs), STEEPER)
        sizes = curve.lstm.columns.to_numpy(dtype=float)
        if found.verdict is Verdict.SUPPORTED and not curve.crossover <= sizes[-1]:
            where = f", at {curve.crossover:,.0f} sequences" if math.isfinite(curve.crossover) else ""
            beyond.append(f"{curve.task}: the lines cross beyond the data{where}")
            found = replace(found, verdict=Verdict.UNDECIDED, p=math.nan)
        parts.append(found)
        words = f"{PER_DOUBLING.said(found.effect.interval)} of the data on {curve.task}"
        if not math.isnan(curve.crossover) and sizes[0] <= curve.crossover <= sizes[-1]:
            words += f" (the fitted lines cross at {curve.crossover:,.0f} sequences)"
        said.append(words)
    if not parts:
        return NotDecided(tuple(left_out))
    ruling = together(parts)
    if beyond and ruling.verdict is Verdict.UNDECIDED:
        ruling = replace(ruling, condition="; ".join(beyond))
    return Decision(ruling, f"the Transformer gains {' and '.join(said)}", tuple(left_out))


CLAIMS = (
    Claim(
        "4.4",
        "Transformers gain more from large data sets",
        "the gain from larger data sets",
        "slope of the error against log data size steeper than the LSTM's, crossover inside or below the range",
        "slope less steep",
        "the Transformer gains more from more data",
        "the LSTM gains more from more data",
        PER_DOUBLING,
        decide_data,
        sizes=True,
    ),
)
