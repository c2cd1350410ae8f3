"""The figures of a report: what each is called, what it shows in words, and the numbers that it draws."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from analysis import ablations, attention_maps, claims, figures, inside, overview, profiles, sweep_figures, tuning
from analysis.attention_maps import AttentionMap
from analysis.evidence import contests
from analysis.gradients import curves
from analysis.runs import results
from analysis.variants import side_by_side
from experiments import schema


@dataclass(frozen=True)
class Plot:
    """A figure of the report: file name, heading, caption, the function that draws it and that of its numbers.

    `data` returns what is drawn as a table; the runs behind it stand in a column "run_id" (one) or "runs" (several).
    """

    name: str
    title: str
    caption: str
    draw: Callable[[pd.DataFrame], Figure | None]
    data: Callable[[pd.DataFrame], pd.DataFrame]


def runs_behind(data: pd.DataFrame) -> set[str]:
    """Identifiers of the runs that the numbers of a figure are from."""
    if "runs" in data:
        return {run for runs in data["runs"] for run in str(runs).split()}
    return set(data["run_id"]) if "run_id" in data else set()


_KEPT = ["grid", "task", "model", "seed", "run_id", "metric", "at", "value"]


def _scores(runs: pd.DataFrame) -> pd.DataFrame:
    """Points of the curves of the headline scores along each axis."""
    shown = results(side_by_side(runs))
    names = {
        schema.metric(split, contest.headline, axis)
        for contest in contests(shown)
        for split in (schema.TEST, schema.LONGER)
        for axis in contest.axes(split)
    }
    return shown.loc[shown["metric"].isin(names), _KEPT]


def _learning(runs: pd.DataFrame, clock: str | None) -> pd.DataFrame:
    """Validation scores by step, with what the clock showed at that step."""
    shown = results(side_by_side(runs))
    curves = shown.loc[shown["metric"] == schema.VALIDATION + "/" + shown["headline"], _KEPT]
    if clock is None:
        return curves
    spent = shown.loc[shown["metric"] == clock, ["run_id", "at", "value"]]
    return curves.merge(spent.rename(columns={"value": clock}), on=["run_id", "at"])


def _costs(runs: pd.DataFrame) -> pd.DataFrame:
    """All that the efficiency runs measured."""
    measured = results(runs)
    return measured.loc[measured["kind"] == schema.EFFICIENCY, _KEPT]


def forest(entries: Sequence[claims.Entry]) -> Plot:
    """The claims of families 1 to 4; `entries` is the ledger of the runs, which is not made twice."""
    return Plot(
        "claims",
        "The claims, with their intervals",
        "Effect of every claim that was measured, with its 95 % interval, coloured by verdict; hollow: undecided. The"
        " shaded band is the margin of ±5 points inside which two models are called tied.",
        lambda _: overview.forest(entries),
        lambda _: claims.as_frame(entries),
    )


def attention(maps: Sequence[AttentionMap]) -> Plot:
    """Of maps that were read from the store."""
    drawn = [one for row in inside.shown(maps) for one in row]
    return Plot(
        "attention",
        "Where attention looks",
        "With which weight each output symbol looks at each symbol of the source, the right answers given: a test"
        " sequence of middling length, the same for every model. Mean over layers and heads, of the first seed.",
        lambda _: inside.attention(maps),
        lambda _: attention_maps.as_frame(drawn),
    )


COMPONENTS = Plot(
    "components",
    "What each component buys",
    "Headline score of the full model minus that of the variant named on the left: to the right of zero the"
    " full model is better. Large: mean over tasks with its 95 % interval over seeds. Small: means over seeds by task."
    " Filled: in the range of training. Hollow: out of it.",
    figures.components,
    ablations.effects,
)
TUNING = Plot(
    "tuning",
    "What tuning would have found with fewer trials",
    "Expected best score on validation of so many of a model's trials, over all choices of that many, or by TPE"
    " of the first so many; the last point is the best of all. A line that still rises says that more trials would find"
    " better settings. A trial that failed or was ended early counts as the worst of its model.",
    tuning.curves,
    tuning.expected,
)
PROFILE = Plot(
    "profile",
    "Where the time of a training step goes",
    "Milliseconds of a training step, part by part: medians over runs.",
    profiles.bars,
    profiles.step_parts,
)
PLOTS: Sequence[Plot] = (
    Plot(
        "tasks",
        "Tasks and models at a glance",
        "Share of right answers on the test sets (accuracy, or 1 minus an error rate), mean over seeds.",
        overview.heat_map,
        overview.task_scores,
    ),
    Plot(
        "categories",
        "Scores by category",
        "Share of right answers on each named part of a test set (a kind of sentence, an operation), mean over seeds.",
        overview.category_map,
        overview.category_scores,
    ),
    Plot(
        "scores",
        "Scores along each axis",
        "Headline score on the test sets against distance, length or number of items; a bin stands at its upper edge."
        " Lines are means over seeds, bands their 95 % intervals. Solid: in the range of training. Dashed: out of it."
        " In a grid of more than six models only the full one of each family is drawn.",
        figures.score_by_axis,
        _scores,
    ),
    Plot(
        "learning_by_step",
        "Learning, by training step",
        "Validation score at each evaluation. Thin lines are seeds, thick ones their mean.",
        figures.learning_by_step,
        partial(_learning, clock=None),
    ),
    Plot(
        "learning_by_seconds",
        "Learning, by time spent in training",
        "The same evaluations against the seconds spent in training until then, evaluation left out.",
        figures.learning_by_seconds,
        partial(_learning, clock=schema.TRAIN_SECONDS),
    ),
    Plot(
        "learning_by_flops",
        "Learning, by operations spent in training",
        "The same evaluations against the analytic number of floating-point operations spent in training until then.",
        figures.learning_by_flops,
        partial(_learning, clock=schema.TRAIN_FLOPS),
    ),
    Plot(
        "pareto",
        "Accuracy against the cost of training",
        "Test score of every run (small) and mean over seeds (large) against what its whole training cost. The dotted"
        " line is the front: what no other model beats in both.",
        overview.pareto,
        overview.costs_and_scores,
    ),
    Plot(
        "cost",
        "Time and memory against length",
        "Both axes are logarithmic, so that a power law is a straight line: fitted, it is dashed, its exponent at"
        " the line's end. A ring marks the length at which two models change places, a bar its 95 % interval over"
        " seeds. Encoding is of a batch of sources; a decoding step is one token of every sequence in it. Bands are"
        " 95 % intervals over seeds or, with one seed, the quartiles of the repeats of a training step.",
        sweep_figures.cost_by_length,
        _costs,
    ),
    Plot(
        "gradients",
        "Gradient reach",
        "Norm of the gradient of the loss with respect to the embedded symbol that decides the answer, by its distance"
        " from the question, over the norm at the shortest distance; streams of one length. Geometric means over seeds,"
        " bands their 95 % intervals; the dotted line is one half. A cross at the bottom: a seed's norm is exactly 0."
        " On the right over the norm with which it starts, that of the gradient with respect to the logits: the surer a"
        " model is of the answer, the smaller it is.",
        inside.gradient_reach,
        curves,
    ),
    COMPONENTS,
    TUNING,
    PROFILE,
)
