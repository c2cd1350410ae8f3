"""What a run is made from: its task's data, and its model with the widths that its budget asks for."""

from __future__ import annotations

import functools
from pathlib import Path

from experiments import efficiency
from experiments.config import GradientsRun, LearnRun, ProfileRun, Run
from experiments.data import TaskData
from experiments.tasks import Task
from models.config import Dimensions, ModelConfig, ModelError
from models.cost import on_meta
from models.matching import match


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
        raise ModelError(f"the model is too large: {error}".splitlines()[0]) from None
    return config, dimensions
