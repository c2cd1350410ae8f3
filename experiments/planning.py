"""What a grid will do, and what of it is done: a row for every run, also where its settings are still to be chosen."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from statistics import fmean
from typing import Any

from experiments.config import LearnRun, Run, run_key
from experiments.schema import FINAL, TUNING
from experiments.stores import Past
from experiments.trials import Choice
from models.config import Dimensions, ModelConfig
from models.cost import count_parameters, on_meta
from models.matching import match_error

Sizes = Mapping[Run, tuple[ModelConfig, Dimensions]]


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


def _labels(run: Run) -> dict[str, Any]:
    return {"kind": run.kind, "task": run.task_label, "model": run.model.label}


def _state(key: str, past: Past) -> str:
    """What is done of a run, in words."""
    if key in past.finished:
        return "finished"
    return "begun" if key in past.begun else "failed" if key in past.failed else "to do"
