"""What a command asks for, and what is done of it: grids, the models in them, past runs.

What is refused ends the command, with a message. MLflow is not imported for what a SQLite store can say itself: that
takes a second, and most of what is asked here is answered at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from experiments.campaign import CAMPAIGN, Member
from experiments.config import EfficiencyRun, GradientsRun, LearnRun, Run, run_name
from experiments.console import stop
from experiments.data import BatchError, DataError
from experiments.grid import Grid, GridError, load_grid
from experiments.inputs import check_batches, sized_model
from experiments.stores import Past, Store, StoreError, existing_store, past_runs, trial_results
from experiments.trials import FAILURE, Result, Tuning
from models.config import BudgetError, Dimensions, ModelConfig, ModelError


def campaign_of(profile: str | None, overrides: Sequence[str], device: str) -> tuple[Member, ...]:
    """The grids of the campaign, of the profile for this device where none is named; refuses one that it has not."""
    chosen = profile or ("full" if device == "cuda" else "small")
    if chosen not in CAMPAIGN:
        stop(f"--profile {chosen}: the campaign's are {', '.join(CAMPAIGN)}")
    if overrides:
        stop("--set: the campaign is run as it is; run its grids one by one to change them")
    return CAMPAIGN[chosen]


def loaded_grid(asked: Member) -> Grid:
    """A bundled grid or a file; refuses what is none."""
    try:
        return load_grid(asked.grid, asked.overrides, asked.profile)
    except GridError as error:
        stop(str(error))


def sizes_of(
    grid: Grid, data: Path | None, trials: Sequence[LearnRun] = ()
) -> dict[Run, tuple[ModelConfig, Dimensions]]:
    """Every run's model with its widths, and what its task asks of it; refuses what cannot be made.

    Of the runs of a grid, of all that its trials can be, and of `trials`.
    """
    possible = [one for tuning in grid.tunings for one in tuning.possible]
    sizes: dict[Run, tuple[ModelConfig, Dimensions]] = {}
    held = set()  # tasks with the tokens of a batch that are known to hold their longest pair
    alike: dict[object, tuple[ModelConfig, Dimensions]] = {}  # the seeds of a grid ask for the same few models
    for one in (*grid.runs, *possible, *trials):
        kind = one.model.config, one.budget, one.efficiency if isinstance(one, EfficiencyRun) else one.task
        try:
            if kind not in alike:
                alike[kind] = sized_model(one, data)
            sizes[one] = alike[kind]
            if isinstance(one, LearnRun | GradientsRun) and (one.task, one.training.batch_tokens) not in held:
                check_batches(one, data)
                held.add((one.task, one.training.batch_tokens))
        except (ModelError, DataError, BatchError) as error:
            which = run_name(one)
            if isinstance(one, LearnRun) and one.tuned is not None:
                which = f"{run_name(replace(one, tuned=None))} ({one.tuned.words})"
            stop(f"{_place(grid, one, error)}: {which}: {error}")
    return sizes


def _place(grid: Grid, run: Run, error: Exception) -> str:
    """Where the grid states what is wrong with a run."""
    match error:
        case BudgetError() if run.budget is not None:
            return grid.place(run, "budget", run.budget.quantity)
        case ModelError():
            return grid.place(run, "model")
        case BatchError():
            return grid.place(run, "training", "batch_tokens")
        case _:
            return grid.place(run, "task")


def past_of(uri: str, grid: Grid) -> tuple[Store | None, Past]:
    """The store, if it knows the grid, and what it knows of its runs; nothing is created."""
    try:
        store = existing_store(uri, grid.name)
        return store, Past() if store is None else past_runs(store)
    except StoreError as error:
        stop(str(error), code=1)


def results_of(tunings: Sequence[Tuning], store: Store | None, failed: Iterable[str]) -> dict[str, Result]:
    """What became of the trials that are over, by their keys; `failed`: keys of runs that did."""
    if not tunings or store is None:
        return {}
    try:
        found = trial_results(store, curves=any(tuning.tune.prunes for tuning in tunings))
    except StoreError as error:
        stop(str(error), code=1)
    return dict.fromkeys(failed, FAILURE) | found


def device_of(choice: str) -> str:
    """The device that "auto", "cpu" or "cuda" stands for on this machine."""
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        stop("--device cuda: torch finds no CUDA device on this machine")
    return "cuda" if choice == "cuda" or (choice == "auto" and available) else "cpu"
