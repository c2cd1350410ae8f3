"""One run, from its settings to its results in the store."""

from __future__ import annotations

import functools
import gc
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from experiments import efficiency, schema
from experiments.config import EfficiencyRun, LearnRun, Run, run_key
from experiments.data import TaskData
from experiments.environment import environment, git_state, hardware, versions
from experiments.evaluation import evaluate
from experiments.gates import integrity_gates
from experiments.tasks import Task
from experiments.tracking import Store, TrackedRun
from experiments.training import Diverged, Status, train
from models.config import Dimensions, ModelConfig
from models.cost import count_parameters, on_meta, parameter_parts
from models.matching import match, match_error
from models.registry import build


@dataclass(frozen=True)
class Place:
    """Where runs are executed, and where their results go."""

    store: Store
    grid: str
    device: str  # "cpu" or "cuda"
    data_root: Path | None


@functools.lru_cache(maxsize=4)
def load_task(task: Task, data_root: Path | None) -> TaskData:
    """The task's data; kept, since the runs of a grid share them."""
    return task.load(data_root)


def sized_model(run: Run, data_root: Path | None) -> tuple[ModelConfig, Dimensions]:
    """The model's settings with the widths that its budget asks for, and what the task asks of it.

    Raises:
        ModelError: the budget cannot be met, or the task's symbols do not suit the model.
        DataError: the vocabularies are those of a corpus that cannot be read.
    """
    if isinstance(run, LearnRun):
        dimensions = load_task(run.task, data_root).dimensions
    else:
        dimensions = efficiency.dimensions(run.efficiency)
    config = run.model.config
    if run.budget is not None:
        config = match(config, run.budget, dimensions)
    return config, dimensions


def execute(run: Run, place: Place, started: Callable[[str], None], watch: Callable[[Status], None]) -> str:
    """Executes a run and tracks it.

    A run that fails is marked so in the store; nothing is raised but what ends the process.

    Args:
        run: what to do.
        place: where.
        started: told the run's id in the store, so that another process can mark it if this one dies.
        watch: told how far it is.

    Returns:
        Why it failed; "" if it did not.
    """
    device = torch.device(place.device)
    tracked = TrackedRun(place.store, run_name(run), _tags(run, place, device), run.settings())
    started(tracked.id)
    try:
        tracked.json(run.settings(), schema.CONFIG_ARTIFACT)
        tracked.json(environment(device), schema.ENVIRONMENT_ARTIFACT)
        config, dimensions = sized_model(run, place.data_root)
        _log_size(run, config, dimensions, tracked)
        if isinstance(run, EfficiencyRun):
            _execute_efficiency(run, config, device, tracked, watch)
        else:
            _execute_learn(run, config, device, place, tracked, watch)
    except Exception as error:
        reason = _reason(error)
        if not isinstance(error, Diverged):
            traceback.print_exc()
        tracked.finish("FAILED", reason)
        return reason
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    tracked.finish("FINISHED")
    return ""


def run_name(run: Run) -> str:
    """What a person calls the run."""
    return f"{run.model.label} · {run.task_label} · seed {run.seed}"


def _execute_learn(
    run: LearnRun,
    config: ModelConfig,
    device: torch.device,
    place: Place,
    tracked: TrackedRun,
    watch: Callable[[Status], None],
) -> None:
    data = load_task(run.task, place.data_root)
    tracked.dataset(run.task.label, data.description)
    torch.manual_seed(run.seed)
    model = build(config, data.dimensions).to(device)

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
        watch=watch,
    )
    tracked.point(schema.SELECTED_STEP, selected.step)
    tracked.checkpoint(
        selected.weights, {"name": run.model.name, **asdict(config), **asdict(data.dimensions), **_vocabularies(data)}
    )
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
            keep_predictions=split == schema.TEST,
        )
        for name, value in scores.scalars.items():
            tracked.point(schema.metric(split, name), value)
        for (name, axis), curve in scores.curves.items():
            for at, value in curve.items():
                tracked.point(schema.metric(split, name, axis), value, at)
        if scores.predictions:
            tracked.predictions(scores.predictions)
    for gate, outcome in integrity_gates(model, config, data, device).items():
        tracked.tag(schema.GATE_PREFIX + gate, outcome)


def _execute_efficiency(
    run: EfficiencyRun, config: ModelConfig, device: torch.device, tracked: TrackedRun, watch: Callable[[Status], None]
) -> None:
    def report(done: int, lengths: int) -> None:
        tracked.flush()
        watch(Status(done, lengths, float("nan"), float("nan"), float("nan")))

    efficiency.measure(config, run.efficiency, seed=run.seed, device=device, log=tracked.point, watch=report)


def _tags(run: Run, place: Place, device: torch.device) -> dict[str, str]:
    tags = {
        schema.GRID: place.grid,
        schema.KEY: run_key(run, place.device),
        schema.KIND: run.kind,
        schema.TASK: run.task_label,
        schema.MODEL: run.model.label,
        schema.SEED: str(run.seed),
        schema.DEVICE: place.device,
        schema.HARDWARE: hardware(device),
        schema.VERSIONS: versions(),
        schema.RUN_COLOR: schema.MODEL_COLORS[run.model.name],
    }
    if isinstance(run, LearnRun):
        tags[schema.HEADLINE] = run.task.headline
        if run.task.chance is not None:
            tags[schema.CHANCE] = repr(run.task.chance)
        if run.task.memoryless_loss is not None:
            tags[schema.MEMORYLESS_LOSS] = repr(run.task.memoryless_loss)
        if run.task.measures:
            tags[schema.MEASURES] = " ".join(f"{kind}={axis}" for kind, axis in run.task.measures.items())
        if run.task.language_class is not None:
            tags[schema.LANGUAGE_CLASS] = run.task.language_class
    state = git_state()
    if state is not None:
        commit, dirty = state
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
