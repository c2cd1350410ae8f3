"""Runs, from their settings to their results in the store: one, or several that are measured side by side."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial

import torch

from experiments import efficiency, profiling, schema
from experiments.attempts import Attempt, Interrupted, Job, Outcome, Place, begin
from experiments.attention_maps import attention_maps
from experiments.config import EfficiencyRun, GradientsRun, LearnRun, ProfileRun, Run
from experiments.data import TaskData
from experiments.environment import environment
from experiments.evaluation import Prediction, evaluate
from experiments.gates import integrity_gates
from experiments.gradients import reach_of_loss
from experiments.graphs import RecordedUpdate
from experiments.inputs import load_task, sized_model
from experiments.team import Team
from experiments.text_metrics import signatures
from experiments.tracking import TrackedRun
from experiments.training import Pruned, Status, Update, train, update
from models.config import Dimensions, ModelConfig
from models.cost import count_parameters, on_meta, parameter_parts, state_bytes
from models.interface import EncoderDecoder
from models.matching import match_error
from models.registry import build

PREDICTIONS = 2_000  # of a split, at most so many are kept


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
        stop: whether to stop and keep the state; asked after every step of training and before every phase of a sweep.
    """
    attempts, outcomes = begin(job, place)
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


def _execute_training(
    run: LearnRun | GradientsRun,
    config: ModelConfig,
    place: Place,
    attempt: Attempt,
    stop: Callable[[], bool],
    watch: Callable[[Status], None],
) -> None:
    """Trains the model of a run and does with it, before and after, what its kind asks for."""
    device, tracked = torch.device(place.device), attempt.tracked
    data = load_task(run.task, place.data_root)
    tracked.dataset(run.task.label, data.description)
    if "train_sequences" in data.description:
        tracked.point(schema.TRAINING_SEQUENCES, int(data.description["train_sequences"]))
    tracked.point(schema.STATE, state_bytes(config, *data.longest(schema.TEST)))
    torch.manual_seed(run.seed)
    model = build(config, data.dimensions).to(device)
    if isinstance(run, GradientsRun):  # a training that is resumed takes up these points, too: none is there twice
        _log_gradients(run, model, schema.INITIAL, device, tracked)

    kept = attempt.checkpoint and attempt.checkpoint["training"]
    together = Team(run, config, place.data_root, place.device, kept) if run.training.devices > 1 else None
    alone: Update = RecordedUpdate(device) if run.training.cuda_graphs else update
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
                keeper=attempt.keeper(place.checkpoint_every, stop),
                watch=watch,
                step=together.update if together else alone,
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
    attempts: Mapping[EfficiencyRun, Attempt],
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
        efficiency.Subject(
            configs[run], run.seed, attempt.tracked, attempt.keeper(place.checkpoint_every, stop=lambda: False)
        )
        for run, attempt in attempts.items()
    ]
    settings = next(iter(attempts)).efficiency
    try:
        found = efficiency.measure(subjects, settings, device=torch.device(place.device), watch=report)
    except Exception as error:
        found = [error] * len(attempts)
    return {run: error for run, error in zip(attempts, found, strict=True) if error is not None}


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
        tracked.point(schema.PART_SECONDS[part], seconds)
    if found.launches is not None:
        tracked.point(schema.LAUNCHES, found.launches)
    tracked.table(("part", "milliseconds", "share"), found.rows(), schema.PROFILE_ARTIFACT)


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
