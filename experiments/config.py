"""The settings of one run, strictly checked, and the key that stands for all that decides its result.

A run is a tree of settings: ``kind``, ``model``, ``budget``, ``seed`` and, by kind, ``task``, ``training`` and
``decoding`` (learn), ``efficiency``, ``task``, ``training`` and ``gradients``, or ``task`` and ``profile``. Grids
(experiments.grid) are made of these trees.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal

from pydantic import BaseModel, Field, SerializerFunctionWrapHandler, model_serializer

from experiments.data import Tokens
from experiments.schema import (
    EFFICIENCY,
    FINAL,
    GRADIENTS,
    LEARN,
    PROFILE,
    RANDOM,
    SEQUENCE_ACCURACY,
    STEP_PARTS,
    STEPS_IN_A_ROW,
    TUNING,
    WER,
)
from experiments.settings import Problem, Settings, SettingsError, choice, part, refuse, suggestion, validate
from experiments.tasks import TASKS, Task
from experiments.tasks.streams import Needle
from models.config import Budget, ModelConfig
from models.registry import MODELS

RESULT_VERSION = 6  # part of every key: raised when a change of the code changes results, so that runs are done anew

LIMITS = ("steps", "tokens", "seconds", "flops")  # of a training
SOLVED = 0.999  # share of exact matches from which a task is taken to be solved


class Training(Settings):
    """How a model is trained. AdamW (Loshchilov & Hutter 2019), betas 0.9 and 0.98.

    It ends when one limit is reached: `steps`, `tokens`, `seconds` or `flops`; exactly one is stated. The schedule
    falls over what is left of that limit after the warm-up.

    Attributes:
        steps: number of updates.
        tokens: source and target tokens, padding included.
        seconds: spent in updates; evaluations and checkpoints do not count.
        flops: analytic, of forward and backward passes.
        stop_when_solved: end when two evaluations in a row get `SOLVED` of the validation sequences exactly right.
        batch_size: sequences per update; or, in its place,
        batch_tokens: source and target tokens per update, at most, padding included.
        learning_rate: at its highest, after warm-up.
        evaluate_every: steps between two evaluations on validation; one follows the last step always.
        schedule: after warm-up, "cosine" to zero or "inverse_square_root" (Vaswani et al. 2017, section 5.3).
        warmup_steps: linear from zero.
        weight_decay: decoupled.
        clip: largest gradient norm.
        label_smoothing: share of the target's probability spread over the vocabulary, in training only.
        precision: "bfloat16" runs the matrix products under autocast; "auto" does so on CUDA.
        devices: processes that share every batch, each on a GPU of its own or, on the CPU, with a thread of its own.
        cuda_graphs: updates are recorded, and each launched as a whole, for shapes of batches that come again and again
            (experiments.graphs); for small models, whose kernels take less time than their launches.
    """

    steps: int | None = Field(default=None, ge=1)
    tokens: int | None = Field(default=None, ge=1)
    seconds: float | None = Field(default=None, gt=0)
    flops: float | None = Field(default=None, gt=0)
    stop_when_solved: bool = False
    batch_size: int | None = Field(default=None, ge=1)
    batch_tokens: int | None = Field(default=None, ge=2)
    learning_rate: float = Field(gt=0)
    evaluate_every: int = Field(ge=1)
    schedule: Literal["cosine", "inverse_square_root"] = "cosine"
    warmup_steps: int = Field(default=100, ge=0)
    weight_decay: float = Field(default=0.01, ge=0)
    clip: float = Field(default=1.0, gt=0)
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    devices: int = Field(default=1, ge=1)
    cuda_graphs: bool = False

    def model_post_init(self, context: Any) -> None:
        """Refuses two limits and two sizes of a batch, and none."""
        stated = [name for name in LIMITS if getattr(self, name) is not None]
        if len(stated) != 1:
            raise ValueError(f"state exactly one of {', '.join(LIMITS)}, not {' and '.join(stated) or 'none'}")
        if (self.batch_size is None) == (self.batch_tokens is None):
            raise ValueError("state either batch_size or batch_tokens")
        if self.devices > 1 and (self.batch_size is None or self.batch_size % self.devices):
            raise ValueError(f"devices: {self.devices} share a batch evenly: state a batch_size that they divide")
        if self.devices > 1 and self.cuda_graphs:
            raise ValueError(f"cuda_graphs: of one device, not of {self.devices}")

    @model_serializer(mode="wrap")
    def _stated(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Limits that are not stated, and what is not asked for, change nothing: not the key of a run either."""
        unasked = {**dict.fromkeys(LIMITS), "stop_when_solved": False, "devices": 1, "cuda_graphs": False}
        return {name: value for name, value in dump(self).items() if name not in unasked or value != unasked[name]}

    @property
    def limit(self) -> tuple[str, float]:
        """What is limited, and to how much."""
        return next((name, amount) for name in LIMITS if (amount := getattr(self, name)) is not None)

    @property
    def batch(self) -> int | Tokens:
        """The size of a batch."""
        if self.batch_tokens is not None:
            return Tokens(self.batch_tokens)
        assert self.batch_size is not None
        return self.batch_size


class Decoding(Settings):
    """How answers are decoded on the test sets; on validation always greedily.

    Attributes:
        beam_size: beginnings kept at each position; 1 is greedy decoding.
        length_penalty: α of ((5 + length) / 6)^α, by which a beam's log-probabilities are divided (Wu et al. 2016).
    """

    beam_size: int = Field(default=1, ge=1)
    length_penalty: float = Field(default=0.0, ge=0)

    def model_post_init(self, context: Any) -> None:
        """Refuses a penalty that nothing would apply."""
        if self.beam_size == 1 and self.length_penalty:
            raise ValueError("a length_penalty needs a beam_size above 1")


class Efficiency(Settings):
    """What a length sweep measures, on random tokens, source and target of the same length.

    Attributes:
        lengths: of source and target, each.
        tokens_per_batch: source and target tokens; the batch has tokens_per_batch / (2 · length) sequences.
        batch_size: sequences per batch at every length; one of these two is stated.
        positions: of the target, from 1, for which a single cached `step` is timed, after a source of the first length.
        vocabulary: number of symbols of each side.
        decode_tokens: generated one by one after a source of each length.
        repeats: timed repetitions of everything, at least.
        seconds_per_point: what one model may spend on one phase at one length beyond the least repetitions: they go on
            until the interval of their median is narrow (experiments.timing) or this is spent. A model of which a
            single repetition takes longer is not measured there nor at any longer length.
        warmup: repetitions before, not counted.
        precision: as in `Training`.
        cuda_graphs: whether training steps, and greedy decoding with a cache, are recorded and launched as a whole;
            peaks of memory are of single launches all the same.
    """

    lengths: tuple[int, ...] = Field(min_length=1)
    tokens_per_batch: int | None = Field(default=None, ge=2)
    batch_size: int | None = Field(default=None, ge=1)
    positions: tuple[int, ...] = ()
    vocabulary: int = Field(default=32, ge=4)
    decode_tokens: int = Field(default=32, ge=1)
    repeats: int = Field(default=7, ge=1)
    seconds_per_point: float = Field(default=10.0, gt=0)
    warmup: int = Field(default=2, ge=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    cuda_graphs: bool = False

    def model_post_init(self, context: Any) -> None:
        """Refuses what cannot be measured."""
        if self.cuda_graphs and self.warmup < 2:
            raise ValueError("cuda_graphs: work is recorded when it has been done twice: state a warmup of 2 or more")
        if (self.tokens_per_batch is None) == (self.batch_size is None):
            raise ValueError("state either tokens_per_batch or batch_size")
        for name, values in (("lengths", self.lengths), ("positions", self.positions)):
            if sorted(set(values)) != list(values):
                raise ValueError(f"{name} must rise")
            if values and values[0] < 1:
                raise ValueError(f"{name} begin with 1, not {values[0]}")
        if self.tokens_per_batch is not None and 2 * self.lengths[-1] > self.tokens_per_batch:
            raise ValueError(f"length {self.lengths[-1]} does not fit into batches of {self.tokens_per_batch} tokens")
        if self.positions and self.batch_size is None:
            raise ValueError("positions are compared at a fixed batch: state batch_size, not tokens_per_batch")

    @model_serializer(mode="wrap")
    def _stated(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is not asked for changes nothing: not the key of a run either."""
        return {name: value for name, value in dump(self).items() if name != "cuda_graphs" or value}

    def batch_at(self, length: int) -> int:
        """Sequences per batch, source and target of `length`."""
        if self.batch_size is not None:
            return self.batch_size
        assert self.tokens_per_batch is not None
        return self.tokens_per_batch // (2 * length)


class Gradients(Settings):
    """Where the gradient of the loss is measured, before training and after it (experiments.gradients).

    Attributes:
        distances: from what decides the answer to the question, in tokens.
        sequences: streams at each distance.
    """

    distances: tuple[int, ...] = Field(min_length=2)
    sequences: int = Field(default=32, ge=1)

    def model_post_init(self, context: Any) -> None:
        """Refuses what is no distance."""
        if sorted(set(self.distances)) != list(self.distances):
            raise ValueError("distances must rise")
        if self.distances[0] < 1:
            raise ValueError(f"distances begin with 1, not {self.distances[0]}")


class Profile(Settings):
    """What a profile of training steps is made of.

    Attributes:
        steps: under the profiler.
        batch_size: sequences per step.
        warmup: steps before, not looked at.
        precision: as in `Training`.
    """

    steps: int = Field(default=10, ge=1)
    batch_size: int = Field(default=64, ge=1)
    warmup: int = Field(default=3, ge=1)
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


def _values(settings: ModelConfig | Budget) -> dict[str, Any]:
    """Name → value: plain ones, so that nothing is to be copied, as `dataclasses.asdict` does at length."""
    return {field.name: getattr(settings, field.name) for field in fields(settings)}


@dataclass(frozen=True)
class NamedModel:
    """A model of the registry, possibly with other settings than it has there; `tuned` names those that tuning sets."""

    name: str
    config: ModelConfig
    tuned: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The name, and the settings that differ from the registry's: ``transformer(layers=4)``.

        What tuning sets is no part of it: a model is the same in all its trials and in the final phase.
        """
        registered = _values(MODELS[self.name])
        options = [f"{k}={v}" for k, v in _values(self.config).items() if v != registered[k] and k not in self.tuned]
        return f"{self.name}({', '.join(options)})" if options else self.name


@dataclass(frozen=True)
class Pruning:
    """When a trial is ended early: see `pruner` of experiments.tuning.Tune.

    Attributes:
        startup: trials that must be finished before.
        earlier: of each trial before that is finished, step → headline on validation. It is given to a trial when that
            is executed, and is no part of what the trial is, nor of its key.
    """

    startup: int
    earlier: tuple[Mapping[int, float], ...] = dataclasses.field(default=(), compare=False)


@dataclass(frozen=True)
class Tuned:
    """What a run owes to the tuning of its model (experiments.tuning).

    Attributes:
        phase: "tuning" of a trial, "final" of a run that has the settings of the chosen one.
        trial: its number, from 1.
        words: what was drawn for it, ``"learning_rate=0.003, dropout=0.1"``.
        sampler: that did.
        pruning: of a trial that may be ended early.
    """

    phase: str
    trial: int
    words: str
    sampler: str = RANDOM
    pruning: Pruning | None = None

    def settings(self) -> dict[str, Any]:
        """What of it decides the result; the rest stands where it is used."""
        pruner = {} if self.pruning is None else {"pruner": "median", "startup": self.pruning.startup}
        return {"phase": self.phase, "trial": self.trial, **pruner}


@dataclass(frozen=True)
class _Run:
    """What all runs have.

    `condition`: what else tells it apart from a run of its grid with the same model and task, ``"batch_size=64"``.
    """

    model: NamedModel
    budget: Budget | None
    seed: int
    condition: str = dataclasses.field(default="", kw_only=True)

    def settings(self) -> dict[str, Any]:
        """The tree of all settings, defaults filled in: plain values, as JSON has them; what is None is left out."""
        tree: dict[str, Any] = {"kind": self.kind}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, BaseModel):
                tree[field.name] = value.model_dump(mode="json", exclude_none=True)
            elif isinstance(value, NamedModel):
                tree[field.name] = {"name": value.name, **_values(value.config)}
            elif isinstance(value, Budget):
                tree[field.name] = {name: amount for name, amount in _values(value).items() if amount is not None}
            elif isinstance(value, Tuned):
                tree[field.name] = value.settings()
            elif value is not None and field.name != "condition":
                tree[field.name] = value
        return tree

    @property
    def kind(self) -> str:
        raise NotImplementedError

    @property
    def task_label(self) -> str:
        """Of the task, with the condition as one more option: ``"reverse(max_length=40, batch_size=64)"``."""
        label = self.plain_task_label
        if not self.condition:
            return label
        return f"{label[:-1]}, {self.condition})" if label.endswith(")") else f"{label}({self.condition})"

    @property
    def plain_task_label(self) -> str:
        """Of the task, whatever else the grid compares."""
        raise NotImplementedError

    @property
    def phase(self) -> str:
        """Of its grid: "tuning" or "final"."""
        return FINAL


@dataclass(frozen=True)
class LearnRun(_Run):
    """Train, select on validation, test once."""

    task: Task
    training: Training
    decoding: Decoding = dataclasses.field(default_factory=Decoding)
    tuned: Tuned | None = None

    @property
    def kind(self) -> str:
        """Of the run."""
        return LEARN

    @property
    def phase(self) -> str:
        """Of its grid: "tuning" or "final"."""
        return FINAL if self.tuned is None else self.tuned.phase

    @property
    def plain_task_label(self) -> str:
        """Of the task."""
        return self.task.label


@dataclass(frozen=True)
class EfficiencyRun(_Run):
    """Speed and memory against length; alone on the device but for the runs with the same `efficiency` settings."""

    efficiency: Efficiency

    @property
    def kind(self) -> str:
        """Of the run."""
        return EFFICIENCY

    @property
    def plain_task_label(self) -> str:
        """A sweep has no task: what its batches hold, ``"length_sweep(batch_size=8)"``."""
        batch = self.efficiency.batch_size
        fixed = f"tokens_per_batch={self.efficiency.tokens_per_batch}" if batch is None else f"batch_size={batch}"
        return f"length_sweep({fixed})"


@dataclass(frozen=True)
class GradientsRun(_Run):
    """How far back the loss reaches, before a training and after it."""

    task: Needle
    training: Training
    gradients: Gradients

    @property
    def kind(self) -> str:
        """Of the run."""
        return GRADIENTS

    @property
    def plain_task_label(self) -> str:
        """Of the task."""
        return self.task.label


@dataclass(frozen=True)
class ProfileRun(_Run):
    """Where the time of a training step goes, part by part."""

    task: Task
    profile: Profile

    @property
    def kind(self) -> str:
        """Of the run."""
        return PROFILE

    @property
    def plain_task_label(self) -> str:
        """Of the task."""
        return self.task.label


Run = LearnRun | EfficiencyRun | GradientsRun | ProfileRun
RUNS: dict[str, type[Run]] = {
    LEARN: LearnRun,
    EFFICIENCY: EfficiencyRun,
    GRADIENTS: GradientsRun,
    PROFILE: ProfileRun,
}
RUN_KEYS: dict[str, tuple[str, ...]] = {  # what a grid states of a run
    kind: ("kind", *(field.name for field in fields(run) if field.name not in ("condition", "tuned")))
    for kind, run in RUNS.items()
}


def run_key(run: Run, device: str) -> str:
    """What stands for a run wherever it is looked for: a hash of all that decides its result (12 hex digits).

    Args:
        run: every setting of it counts, defaults included.
        device: "cpu" or "cuda".
    """
    decisive = {"version": RESULT_VERSION, "device": device, **run.settings()}
    if isinstance(run, LearnRun | GradientsRun):
        decisive["task"] = run.task.decisive()
    if isinstance(run, EfficiencyRun) and run.efficiency.positions:
        decisive["steps_in_a_row"] = STEPS_IN_A_ROW  # steps that were timed one by one took longer
    if isinstance(run, ProfileRun):
        decisive["parts"] = STEP_PARTS  # what an earlier list of them left out is in none of its results
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:12]


def run_name(run: Run) -> str:
    """What a person calls the run."""
    name = f"{run.model.label} · {run.task_label} · seed {run.seed}"
    if isinstance(run, LearnRun) and run.tuned is not None and run.phase == TUNING:
        name += f" · trial {run.tuned.trial}"
    return name


def parse_run(tree: Mapping[str, Any]) -> Run:
    """The run that a tree of settings describes.

    Raises:
        SettingsError: keys are unknown or missing, or values impossible (all that are); or values do not go together.
    """
    kind = choice(tree, ("kind",), RUNS)
    of_kind = RUN_KEYS[kind]
    unknown = f"unknown key for a run of kind {kind}"
    problems = [Problem((key,), unknown + suggestion(key, of_kind)) for key in tree if key not in of_kind]
    parts: dict[str, Any] = {}
    for key in of_kind[1:]:
        try:
            parts[key] = _PARTS[key](tree)
        except SettingsError as error:
            problems += error.problems
    if problems:
        raise SettingsError(problems)
    run = RUNS[kind](**parts)
    _check(run)
    return run


def _check(run: Run) -> None:
    """Refuses settings that are possible each, but not together."""
    if (run.budget is None) == (run.model.config.hidden_size is None):
        raise refuse(("budget",), "state either a budget or the model's widths (hidden_size, …), not both")
    if isinstance(run, LearnRun) and run.task.given_inputs and run.decoding.beam_size > 1:
        words = f"the decoder of {run.task.label} answers given inputs; nothing is decoded"
        raise refuse(("decoding", "beam_size"), words)
    if (
        isinstance(run, LearnRun)
        and run.training.stop_when_solved
        and not {SEQUENCE_ACCURACY, WER} & {*run.task.metrics}
    ):
        words = f"{run.task.label} reports no exact match, only {', '.join(run.task.metrics)}"
        raise refuse(("training", "stop_when_solved"), f"{words}; {SEQUENCE_ACCURACY} would be needed")
    if isinstance(run, GradientsRun):
        if not isinstance(run.task, Needle):
            needed = "the task must let what decides the answer stand at any distance in streams of one length"
            raise refuse(("task", "name"), f"{needed}; for a run of kind gradients only needle does")
        farthest, asked = run.task.max_noise + 1, run.gradients.distances[-1]
        if asked > farthest:
            words = f"{asked}; with max_noise {run.task.max_noise} the farthest is {farthest}"
            raise refuse(("gradients", "distances"), words)


def parse_seed(tree: Mapping[str, Any]) -> int:
    """The seed that ``tree["seed"]`` states.

    Raises:
        SettingsError: it is missing, or no seed.
    """
    seed = validate(int, tree["seed"], ("seed",)) if "seed" in tree else None
    if seed is None or seed < 0:
        raise refuse(("seed",), "a whole number from 0 on is needed")
    return seed


def parse_task(tree: Mapping[str, Any]) -> Task:
    """The task that ``tree["task"]`` describes.

    Raises:
        SettingsError: a key is unknown or missing, or a value impossible.
    """
    name = choice(tree, ("task", "name"), TASKS)
    return validate(TASKS[name], tree["task"], ("task",))


def _model(tree: Mapping[str, Any]) -> NamedModel:
    given = tree.get("model")
    if isinstance(given, str):
        given = {"name": given}
    name = choice({"model": given}, ("model", "name"), MODELS)
    assert isinstance(given, Mapping)
    registered = MODELS[name]
    options = {key: value for key, value in given.items() if key != "name"}
    return NamedModel(name, validate(type(registered), _values(registered) | options, ("model",)))


_PARTS: dict[str, Callable[[Mapping[str, Any]], Any]] = {  # how each key of a run is read
    "model": _model,
    "budget": lambda tree: part(tree, "budget", Budget) if "budget" in tree else None,
    "seed": parse_seed,
    "task": parse_task,
    "training": partial(part, key="training", kind=Training),
    "decoding": lambda tree: part(tree, "decoding", Decoding) if "decoding" in tree else Decoding(),
    "efficiency": partial(part, key="efficiency", kind=Efficiency),
    "gradients": partial(part, key="gradients", kind=Gradients),
    "profile": partial(part, key="profile", kind=Profile),
}
