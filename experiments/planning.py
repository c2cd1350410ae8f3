"""What `lvt plan` shows: what a grid will do, and what of it is done.

There is a row for every run, also where its settings are still to be chosen. What is refused ends the command, with a
message.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
import typer

from experiments.asked import loaded_grid, past_of, results_of, sizes_of
from experiments.campaign import Member
from experiments.config import LearnRun, Run, run_key, run_name
from experiments.console import USAGE, console, number_of_runs, show_runs, stop, table
from experiments.environment import prepare_process
from experiments.estimate import estimated_seconds
from experiments.inputs import load_task
from experiments.progress import duration
from experiments.schema import FINAL, TUNING
from experiments.stores import Past
from experiments.trials import Choice
from models.config import Dimensions, ModelConfig
from models.cost import count_parameters, on_meta
from models.matching import match_error

Sizes = Mapping[Run, tuple[ModelConfig, Dimensions]]


@dataclass(frozen=True)
class Plan:
    """What a grid will do.

    Attributes:
        grid: its name.
        description: what it compares.
        command: that runs it.
        device: on which.
        tunes: whether models are tuned in it.
        rows: see `planned`.
    """

    grid: str
    description: str
    command: str
    device: str
    tunes: bool
    rows: list[dict[str, Any]]

    @property
    def states(self) -> Counter[str]:
        """State → how many runs are in it."""
        return Counter(row["state"] for row in self.rows)

    @property
    def left(self) -> list[dict[str, Any]]:
        """The rows of what running it again would execute."""
        return [row for row in self.rows if row["state"] not in ("finished", "pruned", "failed")]

    @property
    def seconds_left(self) -> float | None:
        """How long it will take, one run after another, those of kind learn only; None where it was not asked for."""
        if not all("seconds" in row for row in self.rows):
            return None
        return sum(row["seconds"] or 0 for row in self.left)


def plan_of(member: Member, device: str, data: Path | None, uri: str, *, estimate: bool) -> Plan:
    """Of a grid; nothing is run or written.

    Args:
        member: the grid, as `lvt run` takes it.
        device: "cpu" or "cuda".
        data: folder of the real corpora.
        uri: of the store, which may not exist yet.
        estimate: whether some steps are tried, to say how long the runs will take.
    """
    loaded = loaded_grid(member)
    store, past = past_of(uri, loaded)
    found = results_of(loaded.tunings, store, past.failed)
    choices = [tuning.choose(found, device) for tuning in loaded.tunings]
    sizes = sizes_of(loaded, data, [trial for choice in choices for trial in choice.trials])
    runs = [one for one in loaded.runs if one.phase != TUNING]
    seconds = partial(_seconds_of, data=data, device=device) if estimate else None
    rows = planned(runs, choices, sizes, past, device, seconds)
    return Plan(loaded.name, loaded.description, member.command, device, bool(loaded.tunings), rows)


def plans_of(
    members: Sequence[Member], device: str, data: Path | None, uri: str, *, estimate: bool
) -> tuple[list[Plan], list[str]]:
    """Of the grids of the campaign, as `plan_of`; and the commands of those that are refused, as for want of data."""
    plans, refused = [], []
    for member in members:
        try:
            plans.append(plan_of(member, device, data, uri, estimate=estimate))
        except typer.Exit as end:
            if end.exit_code != USAGE:
                raise
            refused.append(member.command)
    return plans, refused


def show_grid(plan: Plan) -> None:
    """Prints every run of a grid."""
    out, estimated = console(), plan.seconds_left is not None
    columns: dict[str, Callable[[Any], str]] = {
        **{"kind": str, "task": str, "model": str, "seed": str},
        **({"phase": str, "trial": str, "tuned": str} if plan.tunes else {}),
        **{"parameters": "{:,}".format, "off_budget": "{:+.2%}".format, "key": str, "state": str},
        **({"seconds": duration} if estimated else {}),
    }
    cells = [["" if row[name] is None else show(row[name]) for name, show in columns.items()] for row in plan.rows]
    titles = [name.replace("_", " ") for name in columns]
    show_runs(titles, cells, right=["seed", "trial", "parameters", "off budget", "seconds"])
    out.print(f"{number_of_runs(len(plan.rows))} on {plan.device}: {plan.description}")
    if plan.seconds_left is not None:
        out.print(f"to do, one after another, runs of kind learn only: {duration(plan.seconds_left)}")


def show_campaign(plans: Sequence[Plan], device: str) -> None:
    """Prints how much is done of each grid of the campaign."""
    out = console()
    counts = ["runs", "finished", "failed", "to do"]
    times = [plan.seconds_left for plan in plans]
    cells = [
        [plan.command, *map(str, (len(plan.rows), plan.states["finished"], plan.states["failed"], len(plan.left)))]
        + ([] if plan.seconds_left is None else [duration(plan.seconds_left)])
        for plan in plans
    ]
    timed = ["time left"] if None not in times else []
    out.print(table(["command", *counts, *timed], cells, right=[*counts, *timed]))
    out.print(f"{number_of_runs(sum(len(plan.left) for plan in plans))} to do on {device}")


def planned(
    runs: Sequence[Run],
    choices: Sequence[Choice],
    sizes: Sizes,
    past: Past,
    device: str,
    estimate: Callable[[LearnRun, ModelConfig], float] | None,
) -> list[dict[str, Any]]:
    """The rows of a plan, those of models that are tuned last.

    Args:
        runs: whose settings are known, but for those of models that are tuned.
        choices: what validation makes of their trials; it stands once all of them are over.
        sizes: of these runs and of the known trials, each its model with its widths, and what its task asks of it.
        past: what the store knows of them.
        device: on which they are run.
        estimate: seconds that a run will take; None where they are not asked for.

    Returns:
        Of each run kind, task, model, seed, phase, trial, tuned (what the trial sets), parameters, off_budget, key,
        state and, where it is asked for, seconds. None stands for what does not apply, or is not known yet.
    """
    sizes = dict(sizes)
    known = [*runs, *(trial for choice in choices for trial in choice.trials)]
    pruned = {trial for choice in choices for trial, result in choice.results.items() if result.pruned}
    later = []
    for choice in choices:
        if choice.over and choice.best is not None:
            known += choice.final
            sizes |= dict.fromkeys(choice.final, sizes[choice.best])
        else:
            later.append(choice)
    parameters = functools.cache(lambda config, dimensions: count_parameters(on_meta(config, dimensions)))
    error = functools.cache(match_error)
    times: dict[Run, float] = {}  # the same for every seed

    def seconds(run: LearnRun) -> float:
        assert estimate is not None
        alike = replace(run, seed=0, tuned=None)
        if alike not in times:
            times[alike] = estimate(run, sizes[run][0])
        return times[alike]

    rows: list[dict[str, Any]] = []
    for run in known:
        config, dimensions = sizes[run]
        key, tuned = run_key(run, device), run.tuned if isinstance(run, LearnRun) else None
        row = _labels(run) | {"seed": run.seed, "phase": run.phase}
        row |= {"trial": tuned and tuned.trial, "tuned": tuned and tuned.words}
        row |= {"parameters": parameters(config, dimensions)}
        row |= {"off_budget": None if run.budget is None else error(config, run.budget, dimensions)}
        row |= {"key": key, "state": "pruned" if run in pruned else _state(key, past)}
        if estimate is not None:
            row["seconds"] = seconds(run) if isinstance(run, LearnRun) else None
        rows.append(row)
    for choice in later:
        tuning, trials = choice.tuning, choice.trials
        unknown = dict.fromkeys(("tuned", "parameters", "off_budget", "key"))
        row = _labels(trials[0]) | {"seed": None, "phase": None, "trial": None, **unknown}
        row["state"] = "settings to be chosen"
        if estimate is not None:
            row["seconds"] = fmean(map(seconds, trials))
        to_come = range(len(trials) + 1, tuning.tune.trials + 1)
        rows += [row | {"seed": tuning.tune.seed, "phase": TUNING, "trial": number} for number in to_come]
        rows += [row | {"seed": seed, "phase": FINAL} for seed in tuning.seeds]
    return rows


def _seconds_of(run: LearnRun, config: ModelConfig, *, data: Path | None, device: str) -> float:
    prepare_process()  # as a worker has it
    try:
        return estimated_seconds(run, config, load_task(run.task, data), torch.device(device))
    except (ValueError, RuntimeError) as error:  # no bfloat16 here, or out of memory
        stop(f"--estimate: {run_name(run)}: no step can be made: {str(error).partition(chr(10))[0]}")


def _labels(run: Run) -> dict[str, Any]:
    return {"kind": run.kind, "task": run.task_label, "model": run.model.label}


def _state(key: str, past: Past) -> str:
    """What is done of a run, in words."""
    if key in past.finished:
        return "finished"
    return "begun" if key in past.begun else "failed" if key in past.failed else "to do"
