"""What a run is made from: its task's data, and its model with the widths that its budget asks for."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from experiments import phases
from experiments.config import GradientsRun, LearnRun, ProfileRun, Run
from experiments.data import TaskData
from experiments.tasks import Task
from models.config import BudgetError, Dimensions, ModelConfig, ModelError
from models.cost import on_meta
from models.matching import match


@functools.lru_cache(maxsize=32)
def load_task(task: Task, data_root: Path | None) -> TaskData:
    """The task's data; kept, since the runs of a grid share them."""
    return task.load(data_root)


def check_batches(run: LearnRun | GradientsRun, data_root: Path | None) -> None:
    """Makes the first batch of a training whose batches are counted in tokens.

    Raises:
        BatchError: the longest pair has more tokens than a batch.
        DataError: the corpus cannot be read.
    """
    if run.training.batch_tokens is not None:
        next(load_task(run.task, data_root).training(run.training.batch, torch.Generator()))


def sized_model(run: Run, data_root: Path | None) -> tuple[ModelConfig, Dimensions]:
    """The model's settings with the widths that its budget asks for, and what the task asks of it.

    Raises:
        BudgetError: the budget cannot be met.
        ModelError: it cannot be built, or the task's symbols do not suit the model.
        DataError: the vocabularies are those of a corpus that cannot be read.
    """
    if isinstance(run, LearnRun | GradientsRun | ProfileRun):
        dimensions = run.task.dimensions or load_task(run.task, data_root).dimensions
    else:
        dimensions = phases.dimensions(run.efficiency)
    config = run.model.config
    with countable(ModelError if run.budget is None else BudgetError):
        if run.budget is not None:
            config = match(config, run.budget, dimensions)
        on_meta(config, dimensions)
    return config, dimensions


@contextmanager
def countable(refusal: type[ModelError]) -> Iterator[None]:
    """Refuses, by an error of this type, a model of numbers that torch cannot even count with."""
    try:
        yield
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise refusal(f"the model is too large: {error}".splitlines()[0]) from None
