"""What a grid may state of tuning: every model gets the same number of trials on each task, over ranges of its own.

A grid states it beside ``fixed`` and ``compare``::

    tune:
      trials: 6         # of each model on each task
      seed: 100         # of the trials, and of what is drawn for them; none of the final phase
      sampler: tpe      # where their settings come from; without it, random
      pruner: median    # what ends a trial early; without it, none
      startup: 3        # trials before the sampler learns from them, and the pruner ends any
      ranges:
        lstm:        {training: {learning_rate: {log_uniform: [1e-3, 1e-2]}}, model: {layers: {choices: [1, 2]}}}
        transformer: {training: {learning_rate: {log_uniform: [3e-4, 3e-3]}}, model: {dropout: {uniform: [0, 0.3]}}}

A trial is a run with settings from these ranges. By ``random`` search (Bergstra & Bengio 2012) no two of a model are
the same, every combination is tried where there are just as many choices as trials, and a model has the same trials on
every task. By ``tpe`` (Bergstra et al. 2011) each follows from what became of those before it. More `trials` add to
those that were there. experiments.trials makes the trials.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import math
from random import Random
from typing import Any, Literal

from pydantic import Field

from experiments.config import LIMITS
from experiments.schema import RANDOM, TPE
from experiments.settings import Settings, refuse, suggestion, validate
from models.registry import MODELS

DIGITS = 3  # of a number that is drawn, so that it can be read and written
DRAWS = 50  # for each trial, before the ranges are taken to hold no more settings
COMBINATIONS = 1000  # of choices, at most, where each is looked at before anything is run
SEEDS = 2**32  # that Optuna's samplers tell apart
NEEDS_OPTUNA = "needs Optuna: pip install -e '.[optuna]' -c constraints.txt"

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
            return self.rounded(random.uniform(*self.uniform))
        return self.rounded(math.exp(random.uniform(*map(math.log, self.bounds))))

    @property
    def bounds(self) -> tuple[float, float]:
        """Of a range of numbers: the least and the largest."""
        bounds = self.uniform or self.log_uniform
        assert bounds is not None
        return bounds

    def rounded(self, number: float) -> float:
        """A number of the range with few digits."""
        low, high = self.bounds
        return min(max(float(f"{number:.{DIGITS}g}"), low), high)


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
        sampler: where the settings of a trial come from: drawn at random, or asked of Optuna's TPE.
        pruner: "median" ends a trial where its headline on validation, the best so far, is worse than the median that
            the earlier trials of the same model and task had at that step (Optuna's MedianPruner).
        startup: trials that must be finished before "tpe" learns from them, or "median" ends another; until then the
            first draws at random. Those that failed do not count, those that were ended count for "tpe".
    """

    trials: int = Field(ge=2, le=1000)
    seed: int = Field(ge=0)
    ranges: dict[str, Ranges]
    sampler: Literal["random", "tpe"] = "random"
    pruner: Literal["none", "median"] = "none"
    startup: int = Field(default=3, ge=1)

    def model_post_init(self, context: Any) -> None:
        """Refuses what would never be looked at."""
        if not self.in_turn and "startup" in self.model_fields_set:
            raise ValueError("startup is that of the sampler tpe and of the pruner median: state one of them")
        if self.in_turn and self.startup >= self.trials:
            whom = "tpe to ask for" if self.sampler == TPE else "median to end"
            raise ValueError(f"startup: of {self.trials} trials the first {self.startup} leave none for {whom}")
        if self.sampler == TPE and self.seed >= SEEDS:
            raise ValueError(f"seed: the sampler tpe takes one below {SEEDS:,}")

    @property
    def in_turn(self) -> bool:
        """Whether the trials of a model on a task follow each other; else they may be executed side by side."""
        return self.sampler == TPE or self.prunes

    @property
    def prunes(self) -> bool:
        """Whether trials are ended early."""
        return self.pruner != "none"

    @property
    def words(self) -> str:
        """What must be equal for all models of a task: ``"6"``, ``"6 (tpe, median after 3)"``."""
        asked = [self.sampler] * (self.sampler != RANDOM) + [self.pruner] * self.prunes
        return f"{self.trials}" + (f" ({', '.join(asked)} after {self.startup})" if asked else "")

    def drawn(self, model: str) -> list[Setting]:
        """The settings of a model's trials at random, in order; the first are the same however many there are.

        Raises:
            SettingsError: there are no ranges for the model, or they hold fewer settings than there are trials.
        """
        ranges, random = self.paths(model), Random(self.seed)
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

    def extremes(self, model: str) -> list[Setting]:
        """Settings that stand for all: each combination of choices, with every number at its least and at its largest.

        Raises:
            SettingsError: as `drawn`; or there are too many.
        """
        ranges = self.paths(model)
        choices = math.prod(len(range_.choices) for range_ in ranges.values() if range_.choices is not None)
        numbers = any(range_.choices is None for range_ in ranges.values())
        if choices > COMBINATIONS:
            allowed = f"with the sampler {self.sampler} {COMBINATIONS:,} are allowed, since all are looked at before"
            raise refuse(("tune", "ranges", model), f"{choices:,} combinations of choices; {allowed}")
        if choices < self.trials and not numbers:
            words = f"hold {choices} settings, fewer than the {self.trials} trials that every model gets"
            raise refuse(("tune", "ranges", model), words)
        found = []
        for end in (0, 1) if numbers else (0,):
            values = ([range_.bounds[end]] if range_.choices is None else range_.choices for range_ in ranges.values())
            found += [dict(zip(ranges, combination, strict=True)) for combination in itertools.product(*values)]
        return found

    def paths(self, model: str) -> dict[tuple[str, str], Range]:
        """Range of every path that is tuned of a model.

        Raises:
            SettingsError: there are none.
        """
        if model not in self.ranges:
            raise refuse(("tune", "ranges"), f"no ranges for the model {model!r}; all are tuned alike, or none")
        return self.ranges[model].paths()


def parse_tune(tree: Any) -> Tune:
    """How ``tune`` says that models are tuned.

    Raises:
        SettingsError: a key is unknown or missing, a value impossible, or asks for Optuna where it is not installed.
    """
    tune: Tune = validate(Tune, tree, ("tune",))
    for name in tune.ranges:
        if name not in MODELS:
            raise refuse(("tune", "ranges", name), f"no such model{suggestion(name, MODELS)}")
    if tune.in_turn and importlib.util.find_spec("optuna") is None:
        asked = "sampler" if tune.sampler == TPE else "pruner"
        raise refuse(("tune", asked), f"{getattr(tune, asked)} {NEEDS_OPTUNA}")
    return tune


def in_words(setting: Setting) -> str:
    """``"learning_rate=0.003, dropout=0.1"``."""
    return ", ".join(f"{name}={value}" for (_, name), value in setting.items())
