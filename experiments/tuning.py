"""Tuning: every model gets the same number of trials on each task, and validation chooses whose settings are kept.

A grid states it beside ``fixed`` and ``compare``, with ranges for each of its models::

    tune:
      trials: 6     # of each model on each task
      seed: 100     # of the trials, and of what is drawn for them; none of the final phase
      ranges:
        lstm:        {training: {learning_rate: {log_uniform: [1e-3, 1e-2]}}, model: {layers: {choices: [1, 2]}}}
        transformer: {training: {learning_rate: {log_uniform: [3e-4, 3e-3]}}, model: {dropout: {uniform: [0, 0.3]}}}

A trial is a run with settings drawn from these ranges, no two of a model the same: random search (Bergstra & Bengio
2012), which tries every combination where there are just as many choices as trials. A model has the same trials on
every task, and more `trials` add to those that were there. The runs of the final phase have the settings of the best
trial, and the seeds of ``compare``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from pydantic import Field

from experiments.config import LIMITS, LearnRun, Settings, Tuned, refuse, run_key, suggestion, validate
from experiments.schema import FINAL, LOWER_IS_BETTER, TUNING
from models.registry import MODELS

DIGITS = 3  # of a number that is drawn, so that it can be read and written
DRAWS = 50  # for each trial, before the ranges are taken to hold no more settings

Setting = dict[tuple[str, str], Any]  # a value for each path that is tuned: ("training", "learning_rate")


class Range(Settings):
    """What a setting is drawn from: one of these.

    Attributes:
        choices: values, each as likely as another.
        uniform: between two numbers.
        log_uniform: between two positive numbers, every factor as likely as another.
    """

    choices: list[Any] | None = Field(default=None, min_length=1, max_length=1000)
    uniform: tuple[float, float] | None = None
    log_uniform: tuple[float, float] | None = None

    def model_post_init(self, context: Any) -> None:
        """Refuses two of them, none, and ranges that hold nothing."""
        stated = [name for name in Range.model_fields if getattr(self, name) is not None]
        if len(stated) != 1:
            raise ValueError(f"state one of {', '.join(Range.model_fields)}, not {' and '.join(stated) or 'none'}")
        bounds = self.uniform or self.log_uniform
        if bounds is not None and bounds[0] >= bounds[1]:
            raise ValueError(f"{stated[0]} goes from a smaller number to a larger, not from {bounds[0]} to {bounds[1]}")
        if self.log_uniform is not None and self.log_uniform[0] <= 0:
            raise ValueError(f"log_uniform begins above 0, not with {self.log_uniform[0]}")
        if self.choices is not None and any(value in self.choices[:i] for i, value in enumerate(self.choices)):
            raise ValueError("a choice stands twice")

    def draw(self, random: Random) -> Any:
        """One value."""
        if self.choices is not None:
            return random.choice(self.choices)
        if self.uniform is not None:
            (low, high), drawn = self.uniform, random.uniform(*self.uniform)
        else:
            assert self.log_uniform is not None
            (low, high), drawn = self.log_uniform, math.exp(random.uniform(*map(math.log, self.log_uniform)))
        return min(max(float(f"{drawn:.{DIGITS}g}"), low), high)


class Ranges(Settings):
    """What is tuned of a model: settings of its training, and of itself."""

    training: dict[str, Range] = Field(default_factory=dict)
    model: dict[str, Range] = Field(default_factory=dict)

    def model_post_init(self, context: Any) -> None:
        """Refuses nothing at all, and what would make trials of unequal cost or of another model."""
        if not self.training and not self.model:
            raise ValueError("state ranges of training, of model or of both")
        for name in LIMITS:
            if name in self.training:
                raise ValueError(f"{name} is what a training may take, the same for every trial")
        if "name" in self.model:
            raise ValueError("a model is tuned, not chosen: state ranges for each model")

    def paths(self) -> dict[tuple[str, str], Range]:
        """Range of every path that is tuned."""
        halves = {"training": self.training, "model": self.model}
        return {(half, name): range_ for half, ranges in halves.items() for name, range_ in ranges.items()}


class Tune(Settings):
    """How the models of a grid are tuned.

    Attributes:
        trials: of each model on each task.
        seed: of every trial, and of the draw.
        ranges: by name of the model.
    """

    trials: int = Field(ge=2, le=1000)
    seed: int = Field(ge=0)
    ranges: dict[str, Ranges]

    def drawn(self, model: str) -> list[Setting]:
        """The settings of a model's trials, in order; the first are the same however many there are.

        Raises:
            SettingsError: there are no ranges for the model, or they hold fewer settings than there are trials.
        """
        if model not in self.ranges:
            raise refuse(("tune", "ranges"), f"no ranges for the model {model!r}; all are tuned alike, or none")
        ranges, random = self.ranges[model].paths(), Random(self.seed)
        found: dict[str, Setting] = {}
        for _ in range(DRAWS * self.trials):
            setting = {path: range_.draw(random) for path, range_ in ranges.items()}
            found.setdefault(json.dumps(list(setting.values()), default=str), setting)
            if len(found) == self.trials:
                return list(found.values())
        raise refuse(
            ("tune", "ranges", model),
            f"hold {len(found)} settings, and every model gets {self.trials} trials, no two of them the same",
        )


def parse_tune(tree: Any) -> Tune:
    """How ``tune`` says that models are tuned.

    Raises:
        SettingsError: a key is unknown or missing, or a value impossible.
    """
    tune: Tune = validate(Tune, tree, ("tune",))
    for name in tune.ranges:
        if name not in MODELS:
            raise refuse(("tune", "ranges", name), f"no such model{suggestion(name, MODELS)}")
    return tune


@dataclass(frozen=True)
class Tuning:
    """A model on a task, under a budget: its trials, and the seeds of the final phase."""

    trials: tuple[LearnRun, ...]
    seeds: tuple[int, ...]

    def choose(self, scores: Mapping[str, float], device: str) -> Choice:
        """What validation chooses.

        Args:
            scores: headline metric on validation by key of the trial, of those that are finished.
            device: on which they are run.
        """
        found = {trial: scores[key] for trial in self.trials if (key := run_key(trial, device)) in scores}
        sign = -1 if self.trials[0].task.headline in LOWER_IS_BETTER else 1
        best = max(found, key=lambda trial: sign * found[trial], default=None)
        return Choice(self, found, best)


@dataclass(frozen=True)
class Choice:
    """The finished trials of a tuning with their scores, and the best: of several the first, None where there is none.

    A trial that failed has no score, and is worse than any that has one.
    """

    tuning: Tuning
    scores: Mapping[LearnRun, float]
    best: LearnRun | None

    @property
    def final(self) -> tuple[LearnRun, ...]:
        """The runs of the final phase: the settings of the best trial, with seeds of their own."""
        if self.best is None or self.best.tuned is None:
            return ()
        tuned = replace(self.best.tuned, phase=FINAL)
        return tuple(replace(self.best, seed=seed, tuned=tuned) for seed in self.tuning.seeds)


def as_trial(run: LearnRun, number: int, setting: Setting) -> LearnRun:
    """A run that has the settings drawn for the trial of that number, marked as such."""
    options = tuple(name for half, name in setting if half == "model")
    return replace(run, model=replace(run.model, tuned=options), tuned=Tuned(TUNING, number, in_words(setting)))


def in_words(setting: Setting) -> str:
    """``"learning_rate=0.003, dropout=0.1"``."""
    return ", ".join(f"{name}={value}" for (_, name), value in setting.items())
