"""What the claims are decided on: measured values of models set against each other, paired by seed.

An efficiency sweep is cut into `Sweep`s (one grid, one task, one piece of hardware), the scores of the learning runs
into `Contest`s (one grid, one task). Only FINISHED runs count, and a model of which a run failed an integrity gate is
left out there (`gated_out`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis import scaling, statistics, units
from analysis.runs import LABELS, each, family, final, groups, names, results, stopped_by, superseded
from analysis.statistics import Interval
from analysis.tables import MATCHED_WITHIN
from analysis.variants import options
from experiments import schema

# What is kept of the table: the other columns are text, which is slow to select from.
_OF_ALL = ("run_id", "model", "seed", "metric", "axis", "at", "value")
_OF_SWEEPS = (*_OF_ALL, "stops")
_OF_CONTESTS = (*_OF_ALL, "hardware", "headline", "chance", "memoryless_loss", "measures", "language_class")
LEAST_LENGTHS = 3  # for an exponent
SIZE_OPTIONS = frozenset({"words", "size", "fraction", "examples"})  # of tasks: how much of their data they train on
SAME_TOKENS = 1.1  # most tokens per batch / fewest, for "a fixed number of tokens": lengths do not divide all budgets
TRAINED = 0.90  # of the ceiling in range; below, a model is not trained on the task and decides nothing there


def gated_out(runs: pd.DataFrame) -> pd.DataFrame:
    """One row (grid, kind, task, model, gates) a model left out because a finished run of it failed a gate.

    A run that newer ones stand in for (`superseded`) takes no model out.
    """
    every = each(final(runs))
    counting = (every["status"] == schema.FINISHED) & ~every["run_id"].isin(superseded(runs)["run_id"])
    failed = every[counting & ~every["gates"].isin(["", schema.GATE_PASSED])]
    return failed[[*LABELS, "gates"]].drop_duplicates([*LABELS]).reset_index(drop=True)


def admitted(runs: pd.DataFrame) -> pd.DataFrame:
    """The measured values that may speak to a claim."""
    kept = results(runs)
    out = set(gated_out(runs)[list(LABELS)].itertuples(index=False, name=None))
    left_out = [run for run, *labels in each(kept)[["run_id", *LABELS]].itertuples(index=False) if tuple(labels) in out]
    return kept[~kept["run_id"].isin(left_out)]


def stand_in(models: pd.Series, base: str) -> str | None:
    """The label that stands for the family `base` among `models`: the plain one, else the only one, else None."""
    labels = sorted(label for label in models.unique() if family(label) == base)
    if base in labels:
        return base
    return labels[0] if len(labels) == 1 else None


@dataclass(frozen=True)
class Sweep:
    """Efficiency runs of one grid and task on one piece of hardware."""

    name: str  # of the sweep where hardware and batches do not tell it, and of the grid where several have it
    hardware: str
    machine: str  # that hardware in words, where there are several
    rows: pd.DataFrame

    @property
    def where(self) -> str:
        """For a sentence: what tells the sweep from the others, and how its batches were chosen."""
        return ", ".join(filter(None, (self.name, self.machine, self.batching)))

    @property
    def tokens(self) -> pd.Series:
        """Source and target tokens a batch by length, which is that of both; empty if the batch was not recorded."""
        return 2 * self._sizes * self._sizes.index.to_numpy()

    @property
    def _sizes(self) -> pd.Series:
        """Sequences a batch by length."""
        return self.rows[self.rows["metric"] == schema.BATCH_SIZE].groupby("at")["value"].median()

    @property
    def fixed_tokens(self) -> bool:
        """Whether every batch held the same number of tokens, so that time shows what cannot be done in parallel."""
        tokens = self.tokens
        return bool(len(tokens)) and tokens.max() <= SAME_TOKENS * tokens.min()

    @property
    def fixed_batch(self) -> bool:
        """Whether every batch held the same number of sequences."""
        return len(self._sizes.unique()) == 1

    @property
    def batching(self) -> str:
        """How the batches were chosen, in words."""
        sizes = self._sizes
        if sizes.empty:
            return "batch size not recorded"
        if self.fixed_batch:
            return f"{sizes.iloc[0]:,.0f} sequences a batch"
        if self.fixed_tokens:
            return f"{self.tokens.median():,.0f} tokens a batch"
        return f"{sizes.iloc[0]:,.0f} to {sizes.iloc[-1]:,.0f} sequences a batch"

    @functools.cached_property
    def _measured(self) -> dict[tuple[str, str], pd.DataFrame]:
        return by_model_and_metric(self.rows)

    def model(self, base: str) -> str | None:
        """Label of the family's model in this sweep."""
        return stand_in(self.rows["model"], base)

    def curve(self, model: str, metric: str) -> pd.DataFrame:
        """Values by seed (rows) and length (columns, ascending), the lengths that every seed has."""
        chosen = self._measured.get((model, metric), self.rows[:0])
        return _by_seed(chosen[chosen["value"] > 0])  # 0 is a peak below the resolution of its measurement

    def pair(self, first: str, second: str, metric: str) -> tuple[pd.DataFrame, pd.DataFrame] | None:
        """The curves of two families at their common seeds and lengths; None if there is nothing in common."""
        labels = self.model(first), self.model(second)
        if labels[0] is None or labels[1] is None:
            return None
        a, b = in_common(self.curve(labels[0], metric), self.curve(labels[1], metric))
        return None if a.empty else (a, b)

    def memory_ends(self, base: str, phase: str) -> float | None:
        """The first length for which a phase (`schema.PHASES`) of the family's model had no memory; None if it had."""
        rows = self.rows[(self.rows["model"] == self.model(base)) & (self.rows["metric"] == schema.STOPPED_AT + phase)]
        reasons = [stopped_by(stops, phase) for stops in rows["stops"]]
        ends = zip(rows["value"], reasons, strict=True)
        return min((at for at, reason in ends if reason.startswith(schema.BY_MEMORY)), default=None)


def in_common(a: pd.DataFrame, b: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two curves at the seeds and lengths that both have."""
    seeds, lengths = a.index.intersection(b.index), a.columns.intersection(b.columns)
    return a.loc[seeds, lengths], b.loc[seeds, lengths]


def sweeps(evidence: pd.DataFrame) -> Iterator[Sweep]:
    """The efficiency sweeps in `evidence` (`admitted` rows)."""
    chosen = evidence[evidence["kind"] == schema.EFFICIENCY]
    if len(chosen["task"].unique()) == 1:
        chosen = chosen.assign(task="")
    called, several = names(chosen), len(chosen["hardware"].unique()) > 1
    found = []
    for (grid, task, hardware), rows in groups(chosen, "grid", "task", "hardware"):
        machine = (hardware or "unknown hardware") if several else ""
        found.append(Sweep(called[grid, task], hardware, machine, rows[list(_OF_SWEEPS)]))
    told = len({(sweep.hardware, sweep.batching) for sweep in found}) == len(found)
    yield from (replace(sweep, name="") for sweep in found) if told else found


def by_model_and_metric(rows: pd.DataFrame) -> dict[tuple[str, str], pd.DataFrame]:
    """The rows of each model and metric."""
    return {(str(model), str(metric)): part for (model, metric), part in groups(rows, "model", "metric")}


def _by_seed(rows: pd.DataFrame) -> pd.DataFrame:
    """Values by seed (rows) and place (columns, ascending), the places that every seed has."""
    return rows.groupby(["seed", "at"])["value"].mean().unstack().dropna(axis="columns")  # noqa: PD010, many times faster


def exponents(curve: pd.DataFrame) -> np.ndarray:
    """Exponent of each seed's curve against length, shape (seeds,)."""
    return np.array([scaling.fit(curve.columns, row).exponent for row in curve.to_numpy()])


def ratio_at(a: pd.DataFrame, b: pd.DataFrame, length: float) -> Interval:
    """Ratio of two paired curves at one length."""
    return statistics.ratio(a[length], b[length])


@dataclass(frozen=True)
class Contest:
    """Scores of the learning runs of one grid and task."""

    name: str  # of the task, and of the grid, if there are several
    grid: str
    task: str
    headline: str
    rows: pd.DataFrame

    @functools.cached_property
    def measured(self) -> dict[tuple[str, str], pd.DataFrame]:
        """The rows of each model and metric."""
        return by_model_and_metric(self.rows)

    @property
    def family(self) -> str:
        """Name of the task without its settings, several of which are one task to a claim."""
        return family(self.task)

    @property
    def quantity(self) -> units.Quantity:
        """How the headline is written."""
        return units.of(self.headline)

    def untrained(self, score: float) -> bool:
        """Whether a model's mean score in range shows that it is not trained on this; a missing one does not.

        Nor does an error rate: the ceiling of an accuracy is 1, the least error that real data allow is not known.
        """
        return self.headline in (schema.TOKEN_ACCURACY, schema.SEQUENCE_ACCURACY) and score < TRAINED

    @property
    def measures(self) -> dict[str, str]:
        """Kinds of long dependency that the task measures, each with its axis."""
        return schema.dependencies(self.rows["measures"].iloc[0])

    @property
    def language_class(self) -> str:
        """Of a formal language: "regular", "context_free", "context_sensitive"; "" of any other task."""
        return str(self.rows["language_class"].iloc[0])

    @property
    def memoryless_loss(self) -> float:
        """Loss of a predictor that remembers nothing; NaN where it is not known."""
        return float(self.rows["memoryless_loss"].iloc[0])

    def axes(self, split: str) -> list[str]:
        """Axes along which the headline was measured on `split`."""
        prefix = f"{schema.metric(split, self.headline)}_by_"
        return sorted({m.removeprefix(prefix) for m in self.rows["metric"] if m.startswith(prefix)})

    def scores(self, base: str, split: str, axis: str | None = None) -> pd.DataFrame | None:
        """Headline of a family's model by seed (rows) and value on the axis (columns; one, 0, without axis)."""
        label = stand_in(self.rows["model"], base)
        name = schema.metric(split, self.headline, axis)
        chosen = self.measured.get((str(label), name))
        return None if chosen is None else _by_seed(chosen.assign(at=chosen["at"].fillna(0.0)))

    def runs_of(self, *labels: str) -> tuple[str, ...]:
        """Runs of these models, by label."""
        return tuple(self.rows.loc[self.rows["model"].isin(labels), "run_id"].unique())

    def hardware(self, *labels: str) -> list[str]:
        """What these models, by label, ran on."""
        return sorted(self.rows.loc[self.rows["model"].isin(labels), "hardware"].unique())

    def unmatched(self, *labels: str) -> str:
        """Why these models may not be compared: which of them is off the budget by more than 1 %; "" if none is."""
        return unmatched(self.rows, labels)

    def in_range(self, label: str) -> float:
        """A model's mean score on the test set; NaN where it has none."""
        chosen = self.measured.get((label, schema.metric(schema.TEST, self.headline)))
        return math.nan if chosen is None else float(chosen["value"].mean())

    def easiest(self, base: str, axis: str) -> tuple[float, float] | None:
        """The smallest value on the axis in range, and the mean score of the family's model there."""
        scores = self.scores(base, schema.TEST, axis)
        if scores is None or not scores.shape[1]:
            return None
        return float(scores.columns.min()), float(scores[scores.columns.min()].mean())

    def over_lengths(self, first: str, second: str) -> tuple[pd.Series, pd.Series]:
        """Two models' means over the lengths out of range that both have, by seed, each length the same.

        Where one has no lengths, the scores of the whole split.
        """
        axis = self.measures.get(schema.LENGTH, schema.LENGTH)
        names = [schema.metric(schema.LONGER, self.headline, by) for by in (axis, None)]
        name = next((name for name in names if {(first, name), (second, name)} <= self.measured.keys()), "")
        found = [self.measured.get((label, name), self.rows[:0]) for label in (first, second)]
        a, b = in_common(*(_by_seed(rows.assign(at=rows["at"].fillna(0.0))) for rows in found))
        return a.mean(axis="columns"), b.mean(axis="columns")

    def hardest(self, *bases: str, split: str, axis: str | None = None) -> tuple[float, list[np.ndarray]] | None:
        """Scores of several families at the largest value on the axis that all have, paired by seed.

        Returns:
            That value (0 without an axis) and an array (seeds,) for each family; None if one of them lacks it.
        """
        tables = [self.scores(base, split, axis) for base in bases]
        found = [table for table in tables if table is not None]
        if len(found) < len(tables):
            return None
        seeds, places = found[0].index, found[0].columns
        for table in found[1:]:
            seeds, places = seeds.intersection(table.index), places.intersection(table.columns)
        if seeds.empty or places.empty:
            return None
        return float(places.max()), [table.loc[seeds, places.max()].to_numpy(dtype=float) for table in found]


def unmatched(rows: pd.DataFrame, labels: Iterable[str]) -> str:
    """Which of `labels` is off its budget by more than 1 %, or that they differ in size; "" where all are matched.

    "Matched" is what the claims compare (CLAIMS.md); what is not matched decides nothing.
    """
    found = {}
    for label in dict.fromkeys(labels):
        own = rows[rows["model"] == label].groupby("metric")["value"].median()
        if schema.MATCH_ERROR in own:
            if abs(own[schema.MATCH_ERROR]) > MATCHED_WITHIN:
                return f"{units.model_name(label)} is {own[schema.MATCH_ERROR]:+.1%} off its budget"
            found[label] = own[schema.BUDGET]
        elif schema.PARAMETERS in own:
            found[label] = own[schema.PARAMETERS]
    sizes = list(found.values())
    if sizes and max(sizes) > (1 + MATCHED_WITHIN) * min(sizes):
        return "the models differ in size"
    return ""


def with_most_data(evidence: pd.DataFrame) -> pd.DataFrame:
    """The rows without those of tasks that were learnt from more data, too, in the same grid.

    A task that draws afresh at every step has the most.
    """
    learnt = evidence[evidence["kind"] == schema.LEARN]
    sizes = learnt[learnt["metric"] == schema.TRAINING_SEQUENCES].groupby(["grid", "task"])["value"].median()
    tasks = pd.MultiIndex.from_frame(learnt[["grid", "task"]].drop_duplicates())
    size = sizes.reindex(tasks).fillna(math.inf)
    largest = size.groupby([tasks.get_level_values("grid"), tasks.get_level_values("task").map(without_size)])
    smaller = set(size.index[(size < largest.transform("max")).to_numpy()])
    if not smaller:
        return evidence
    places = pd.MultiIndex.from_frame(evidence[["grid", "task"]])
    return evidence[(evidence["kind"] != schema.LEARN).to_numpy() | ~places.isin(smaller)]


@functools.cache
def without_size(task: str) -> str:
    """The label of a task without how much data it has: ``"g2p_english(words=1000)"`` → ``"g2p_english"``."""
    rest = {name: value for name, value in options(task).items() if name not in SIZE_OPTIONS}
    return family(task) + (f"({', '.join(f'{name}={value}' for name, value in rest.items())})" if rest else "")


def contests(evidence: pd.DataFrame) -> Iterator[Contest]:
    """The tasks in `evidence` (`admitted` rows) that models learnt."""
    chosen = evidence[evidence["kind"] == schema.LEARN]
    called = names(chosen)
    for (grid, task), rows in groups(chosen, "grid", "task"):
        yield Contest(called[grid, task], grid, task, rows["headline"].iloc[0], rows[list(_OF_CONTESTS)])
