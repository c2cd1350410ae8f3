"""Runs, from their settings to their results in the store: one, or several that are measured side by side."""

from __future__ import annotations

import functools
import gc
import logging
import math
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from experiments import efficiency, profiling, schema
from experiments.attention_maps import attention_maps
from experiments.config import EfficiencyRun, GradientsRun, LearnRun, ProfileRun, Run, run_key
from experiments.data import TaskData
from experiments.environment import environment, git_state, hardware, versions
from experiments.evaluation import Prediction, evaluate
from experiments.gates import integrity_gates
from experiments.gradients import reach_of_loss
from experiments.schema import FAILED, FINISHED, KILLED
from experiments.state import RunState, UnreadableError
from experiments.stores import Store
from experiments.tasks import Task
from experiments.team import Team
from experiments.text_metrics import signatures
from experiments.tracking import AlreadyOver, Elsewhere, TrackedRun
from experiments.training import Diverged, Pruned, Status, train, update
from models.config import Dimensions, ModelConfig, ModelError
from models.cost import count_parameters, on_meta, parameter_parts
from models.interface import EncoderDecoder
from models.matching import match, match_error
from models.registry import build

PREDICTIONS = 2_000  # of a split, at most so many are kept


@dataclass(frozen=True)
class Place:
    """Where runs are executed, and where their results go."""

    store: Store
    grid: str
    device: str  # "cpu" or "cuda"
    data_root: Path | None
    checkpoint_every: float = 30.0  # seconds between two checkpoints of a training
    since: float = math.inf  # seconds since 1970; what failed later, in another process, is not tried again
    command: str = ""  # that asked for them; "" where none did
    code: tuple[str, bool] | None = field(default_factory=git_state)  # that is executed; a cluster has no checkout


@functools.lru_cache(maxsize=32)
def load_task(task: Task, data_root: Path | None) -> TaskData:
    """The task's data; kept, since the runs of a grid share them."""
    return task.load(data_root)


def sized_model(run: Run, data_root: Path | None) -> tuple[ModelConfig, Dimensions]:
    """The model's settings with the widths that its budget asks for, and what the task asks of it.

    Raises:
        ModelError: the budget cannot be met, it cannot be built, or the task's symbols do not suit the model.
        DataError: the vocabularies are those of a corpus that cannot be read.
    """
    if isinstance(run, LearnRun | GradientsRun | ProfileRun):
        dimensions = run.task.dimensions or load_task(run.task, data_root).dimensions
    else:
        dimensions = efficiency.dimensions(run.efficiency)
    config = run.model.config
    try:
        if run.budget is not None:
            config = match(config, run.budget, dimensions)
        on_meta(config, dimensions)
    except (RuntimeError, OverflowError, MemoryError) as error:  # numbers that torch cannot even count with
        raise ModelError(f"the model is too large: {_reason(error)}") from None
    return config, dimensions


class Interrupted(Exception):
    """The run was asked to stop; its state is kept."""


class Outcome(NamedTuple):
    """How an attempt to execute a run ended.

    "finished"; "failed", for a reason; "claimed": another process executes it; "interrupted": its state is kept.
    """

    kind: Literal["finished", "failed", "claimed", "interrupted"]
    reason: str = ""


class Checkpoints:
    """Keeps how far a run is (experiments.training.Keeper), with the points that are not yet tracked."""

    def __init__(
        self,
        state: RunState,
        checkpoint: Mapping[str, Any] | None,
        tracked: TrackedRun,
        every: float,
        stop: Callable[[], bool],
    ) -> None:
        self._state, self._checkpoint, self._tracked = state, checkpoint, tracked
        self._every, self._stop = every, stop
        self._saved = time.monotonic()

    def load(self) -> Mapping[str, Any] | None:
        """See `Keeper`."""
        if self._checkpoint is None:
            return None
        self._tracked.take_up(self._checkpoint["tracked"])
        return self._checkpoint["training"]

    def due(self) -> bool:
        """See `Keeper`."""
        return time.monotonic() - self._saved >= self._every or self._stop()

    def save(self, state: Mapping[str, Any]) -> None:
        """See `Keeper`; on a disk that takes no more the training goes on without.

        Raises:
            Interrupted: the run is asked to stop.
        """
        try:
            self._state.save_checkpoint({"training": state, "tracked": self._tracked.to_keep()})
        except OSError as error:
            logging.getLogger(__name__).warning("no checkpoint could be written, training goes on: %s", error)
        else:
            self._tracked.kept()
        self._saved = time.monotonic()
        if self._stop():
            raise Interrupted


Job = tuple[Run, ...]  # what a worker does at once: one run, or efficiency runs that are measured side by side


def jobs(runs: Iterable[Run]) -> list[Job]:
    """The runs, in order, those together that are measured side by side: of the same efficiency settings."""
    found: dict[object, list[Run]] = {}
    for run in runs:
        found.setdefault(run.efficiency if isinstance(run, EfficiencyRun) else run, []).append(run)
    return [tuple(together) for together in found.values()]


@dataclass
class _Attempt:
    """A run that this process has claimed and begun."""

    state: RunState
    tracked: TrackedRun
    checkpoint: Mapping[str, Any] | None  # from which it goes on

    def end(self, error: Exception | None) -> Outcome:
        """Tells the store how it ended, and keeps what the store cannot be told now."""
        if isinstance(error, Interrupted):
            self.tracked.leave(KILLED)
            self.state.release()
            return Outcome("interrupted")
        outcome = Outcome("finished") if error is None else Outcome("failed", _reason(error))
        if error is not None and not isinstance(error, Diverged):
            traceback.print_exception(error)
        try:
            told = self.tracked.finish(FINISHED if error is None else FAILED, outcome.reason)
        except OSError as full:
            traceback.print_exc()
            outcome, told = Outcome("failed", _reason(full)), False
        if told:
            self.state.discard()
        else:
            self.state.release()
        return outcome


def execute(
    job: Job, place: Place, watch: Callable[[Run, Status], None], stop: Callable[[], bool] = lambda: False
) -> dict[Run, Outcome]:
    """Executes the runs of a job and tracks each, unless another process does.

    What an earlier attempt kept is taken up. A run that fails is marked so in the store; nothing is raised but what
    ends the process.

    Args:
        job: what to do.
        place: where.
        watch: told how far each is.
        stop: whether to stop and keep the state; asked after every step of training and at every point of a sweep.
    """
    claims = {run: RunState.claim(place.store.states / run_key(run, place.device)) for run in job}
    if None in claims.values():  # all or nothing: what is measured side by side is measured by one process
        for state in claims.values():
            if state is not None:
                state.release()
        return dict.fromkeys(job, Outcome("claimed"))
    outcomes: dict[Run, Outcome] = {}
    attempts: dict[Run, _Attempt] = {}
    for run, state in claims.items():
        assert state is not None
        begun = _begin(run, state, place)
        if isinstance(begun, Outcome):
            outcomes[run] = begun
        else:
            attempts[run] = begun
    errors: dict[Run, Exception] = {}
    sized: dict[Run, ModelConfig] = {}
    for run, attempt in attempts.items():
        try:
            attempt.tracked.json(run.settings(), schema.CONFIG_ARTIFACT)
            attempt.tracked.json(environment(torch.device(place.device)), schema.ENVIRONMENT_ARTIFACT)
            sized[run], dimensions = sized_model(run, place.data_root)
            _log_size(run, sized[run], dimensions, attempt.tracked)
            if isinstance(run, LearnRun | GradientsRun):
                _execute_training(run, sized[run], place, attempt, stop, partial(watch, run))
            elif isinstance(run, ProfileRun):
                _execute_profile(run, sized[run], place, attempt.tracked)
        except Exception as error:
            errors[run] = error
    sweeps = {run: attempts[run] for run in sized if isinstance(run, EfficiencyRun) and run not in errors}
    if sweeps:
        errors |= _execute_efficiency(sweeps, sized, place, watch, stop)
    for run, attempt in attempts.items():
        outcomes[run] = attempt.end(errors.get(run))
    errors.clear()  # their frames may hold what took the memory
    gc.collect()
    if place.device == "cuda":
        torch.cuda.empty_cache()
    return outcomes


def _begin(run: Run, state: RunState, place: Place) -> Outcome | _Attempt:
    """Begins a claimed run or takes it up again, unless it is over."""
    try:
        try:
            checkpoint = state.load_checkpoint()
        except UnreadableError:
            checkpoint = None
            state.forget()  # some of its points may be sent: the run begins anew, under another id
        tags = _tags(run, place, torch.device(place.device))
        key = run_key(run, place.device)
        tracked = TrackedRun(place.store, state, key, run_name(run), tags, run.settings(), place.since)
        return _Attempt(state, tracked, checkpoint if tracked.resumed else None)
    except AlreadyOver as over:
        outcome = Outcome("failed", str(over)) if str(over) else Outcome("finished")
    except Elsewhere:
        outcome = Outcome("claimed")
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome("failed", _reason(error))
    if state.read_record() is None:
        state.discard()
    else:
        state.release()
    return outcome


def run_name(run: Run) -> str:
    """What a person calls the run."""
    name = f"{run.model.label} · {run.task_label} · seed {run.seed}"
    if isinstance(run, LearnRun) and run.tuned is not None and run.phase == schema.TUNING:
        name += f" · trial {run.tuned.trial}"
    return name


def _execute_training(
    run: LearnRun | GradientsRun,
    config: ModelConfig,
    place: Place,
    attempt: _Attempt,
    stop: Callable[[], bool],
    watch: Callable[[Status], None],
) -> None:
    """Trains the model of a run and does with it, before and after, what its kind asks for."""
    device, tracked = torch.device(place.device), attempt.tracked
    data = load_task(run.task, place.data_root)
    tracked.dataset(run.task.label, data.description)
    if "train_sequences" in data.description:
        tracked.point(schema.TRAINING_SEQUENCES, int(data.description["train_sequences"]))
    torch.manual_seed(run.seed)
    model = build(config, data.dimensions).to(device)
    if isinstance(run, GradientsRun):  # a training that is resumed takes up these points, too: none is there twice
        _log_gradients(run, model, schema.INITIAL, device, tracked)

    kept = attempt.checkpoint and attempt.checkpoint["training"]
    together = Team(run, config, place.data_root, place.device, kept) if run.training.devices > 1 else None
    try:
        with together or nullcontext():
            selected = train(
                model,
                config,
                data,
                run.training,
                headline=run.task.headline,
                metrics=run.task.metrics,
                seed=run.seed,
                device=device,
                recorder=tracked,
                keeper=_keeper(attempt, place, stop),
                watch=watch,
                step=together.update if together else update,
                prunes=partial(_prunes, run),
            )
    except Pruned as early:
        tracked.point(schema.PRUNED_STEP, early.step)
        tracked.tag(schema.PRUNED, f"{early}: {run.task.headline} was worse than the median of the trials before")
        return
    tracked.point(schema.SELECTED_STEP, selected.step)
    for name, value in selected.scores.scalars.items():
        if schema.category_of(schema.metric(schema.SELECTED, name)) is None:
            tracked.point(schema.metric(schema.SELECTED, name), value)
    tracked.checkpoint(
        selected.weights, {"name": run.model.name, **asdict(config), **asdict(data.dimensions), **_vocabularies(data)}
    )
    if isinstance(run, GradientsRun):
        _log_gradients(run, model, schema.TRAINED, device, tracked)
    else:
        _log_test(run, model, data, device, tracked)
    for gate, outcome in integrity_gates(model, config, data, device).items():
        tracked.tag(schema.GATE_PREFIX + gate, outcome)


def _prunes(run: LearnRun | GradientsRun, curve: Mapping[int, float]) -> bool:
    """Whether a run is a trial that is ended early: `curve` is its headline on validation by step, so far."""
    if not isinstance(run, LearnRun) or run.tuned is None or run.tuned.pruning is None:
        return False
    from experiments.adaptive import worse_than_median

    return worse_than_median(curve, run.tuned.pruning, run.task.headline)


def _log_test(run: LearnRun, model: EncoderDecoder, data: TaskData, device: torch.device, tracked: TrackedRun) -> None:
    """Reads the test sets, once."""
    for name, signature in signatures(run.task.metrics).items():
        tracked.tag(schema.SIGNATURE_PREFIX + name, signature)
    for split in (schema.TEST, schema.LONGER):
        if split not in data.evaluation:
            continue
        scores = evaluate(
            model,
            data,
            split,
            metrics=run.task.metrics,
            device=device,
            decoding=run.decoding,
            keep_predictions=True,
        )
        for name, value in scores.scalars.items():
            tracked.point(schema.metric(split, name), value)
        for (name, axis), curve in scores.curves.items():
            for at, value in curve.items():
                tracked.point(schema.metric(split, name, axis), value, at)
        kept = evenly(scores.predictions, PREDICTIONS)
        if len(kept) < len(scores.predictions):
            said = (
                f"{len(kept):,} of {len(scores.predictions):,}, evenly spaced from the longest source to the shortest"
            )
            tracked.tag(schema.PREDICTIONS_PREFIX + split, said)
        tracked.predictions(split, kept)
    if maps := attention_maps(model, data, device):
        tracked.json({"examples": maps}, schema.ATTENTION_ARTIFACT)


def _log_gradients(
    run: GradientsRun, model: EncoderDecoder, phase: str, device: torch.device, tracked: TrackedRun
) -> None:
    for distance, found in reach_of_loss(model, run.task, run.gradients, device).items():
        tracked.point(schema.GRADIENT_NORM[phase], found.norm.value, distance)
        tracked.point(schema.GRADIENT_OUTPUT_NORM[phase], found.output_norm.value, distance)
        tracked.point(schema.GRADIENT_ACCURACY[phase], found.right.value, distance)


def evenly(predictions: Sequence[Prediction], most: int) -> Sequence[Prediction]:
    """At most so many of `predictions`, in their order, at even distances."""
    count = min(len(predictions), most)
    return [predictions[i * len(predictions) // count] for i in range(count)]


def _execute_efficiency(
    attempts: Mapping[EfficiencyRun, _Attempt],
    configs: Mapping[Run, ModelConfig],
    place: Place,
    watch: Callable[[Run, Status], None],
    stop: Callable[[], bool],
) -> dict[Run, Exception]:
    """Measures runs with the same settings side by side; what went wrong with which."""

    def report(done: int, total: int) -> None:
        if stop():
            raise Interrupted
        for run in attempts:
            watch(run, Status(done, total, float("nan"), float("nan"), float("nan")))

    subjects = [
        efficiency.Subject(configs[run], run.seed, attempt.tracked, _keeper(attempt, place, stop=lambda: False))
        for run, attempt in attempts.items()
    ]
    settings = next(iter(attempts)).efficiency
    try:
        found = efficiency.measure(subjects, settings, device=torch.device(place.device), watch=report)
    except Exception as error:
        found = [error] * len(attempts)
    return {run: error for run, error in zip(attempts, found, strict=True) if error is not None}


def _keeper(attempt: _Attempt, place: Place, stop: Callable[[], bool]) -> Checkpoints:
    return Checkpoints(attempt.state, attempt.checkpoint, attempt.tracked, place.checkpoint_every, stop)


def _execute_profile(run: ProfileRun, config: ModelConfig, place: Place, tracked: TrackedRun) -> None:
    device, data = torch.device(place.device), load_task(run.task, place.data_root)
    torch.manual_seed(run.seed)
    found = profiling.profile(
        build(config, data.dimensions).to(device),
        data,
        run.profile,
        seed=run.seed,
        device=device,
        log=partial(tracked.point, schema.TRAIN_LOSS),
        trace=tracked.file(schema.TRACE_ARTIFACT),
    )
    for part, seconds in found.seconds.items():
        tracked.point(f"{schema.PROFILE_SECONDS}{part.replace(' ', '_')}", seconds)
    if found.launches is not None:
        tracked.point(schema.LAUNCHES, found.launches)
    tracked.table(("part", "milliseconds", "share"), found.rows(), schema.PROFILE_ARTIFACT)


def _tags(run: Run, place: Place, device: torch.device) -> dict[str, str]:
    tags = {
        schema.GRID: place.grid,
        schema.KIND: run.kind,
        schema.TASK: run.task_label,
        schema.MODEL: run.model.label,
        schema.SEED: str(run.seed),
        schema.PHASE: run.phase,
        schema.DEVICE: place.device,
        schema.HARDWARE: hardware(device),
        schema.VERSIONS: versions(),
        schema.RUN_COLOR: schema.MODEL_COLORS[run.model.name],
    }
    if isinstance(run, LearnRun):
        if run.tuned is not None:
            tags |= {schema.TRIAL: str(run.tuned.trial), schema.TUNED: run.tuned.words}
            tags[schema.SAMPLER] = run.tuned.sampler
        tags[schema.HEADLINE] = run.task.headline
        if run.task.chance is not None:
            tags[schema.CHANCE] = repr(run.task.chance)
        if run.task.memoryless_loss is not None:
            tags[schema.MEMORYLESS_LOSS] = repr(run.task.memoryless_loss)
        if run.task.measures:
            tags[schema.MEASURES] = " ".join(f"{kind}={axis}" for kind, axis in run.task.measures.items())
        if run.task.language_class is not None:
            tags[schema.LANGUAGE_CLASS] = run.task.language_class
    if place.command:
        tags[schema.COMMAND] = place.command
    if place.code is not None:
        commit, dirty = place.code
        tags |= {schema.GIT_COMMIT: commit, schema.GIT_DIRTY: str(dirty).lower()}
    return tags


def _log_size(run: Run, config: ModelConfig, dimensions: Dimensions, tracked: TrackedRun) -> None:
    model = on_meta(config, dimensions)
    parameters = count_parameters(model)
    tracked.point(schema.PARAMETERS, parameters)
    for part, count in parameter_parts(model).items():
        tracked.point(f"{schema.PARAMETERS}_{part}", count)
    if run.budget is not None:
        tracked.tag(schema.BUDGET_OF, run.budget.words)
        tracked.point(schema.BUDGET, run.budget.amount)
        tracked.point(schema.MATCH_ERROR, match_error(config, run.budget, dimensions))


def _vocabularies(data: TaskData) -> dict[str, list[str]]:
    return {
        "source_vocabulary": list(data.source_vocabulary.symbols),
        "target_vocabulary": list(data.target_vocabulary.symbols),
    }


def _reason(error: Exception) -> str:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return f"out of memory: {error}"
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
