"""What `lvt run` does with a grid or the campaign, and what of it other commands need.

What is refused ends the command, with a message.
"""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import psutil
import torch
import typer
from rich.console import Console

from experiments.attempts import Place, run_name
from experiments.campaign import CAMPAIGN, Member
from experiments.config import EfficiencyRun, LearnRun, Run, run_key
from experiments.console import console, stop, table
from experiments.data import DataError
from experiments.engine import Engine
from experiments.environment import prepare_process
from experiments.estimate import estimated_seconds
from experiments.execution import Limits, Stopped, execute_grid
from experiments.grid import Grid, GridError, load_grid
from experiments.inputs import load_task, sized_model
from experiments.packing import paying, sample, throughputs
from experiments.processes import Processes
from experiments.progress import Progress
from experiments.schema import TUNING
from experiments.stores import Past, Store, StoreError, existing_store, open_store, past_runs, trial_results
from experiments.tracking import result_of, send_left, send_patiently
from experiments.trials import FAILURE, Choice, Result, Trials, Tuning
from models.config import Dimensions, ModelConfig, ModelError

AUTO = "auto"  # of the number of workers
RAY = "ray"


@dataclass(frozen=True)
class How:
    """How runs are executed, as the options of `lvt run` say."""

    workers: str | None
    engine: str
    address: str | None
    device: str
    data: Path | None
    uri: str
    retry_failed: bool
    timeout: float | None
    silence: float
    checkpoint_every: float


def run_grid(grid: str, profile: str | None, overrides: Sequence[str], how: How) -> None:
    """Executes the runs of a grid that are not over; where models are tuned the trials, then the final phase."""
    out = console()
    if how.workers not in (None, AUTO) and not (how.workers.isdecimal() and int(how.workers) > 0):
        stop(f"--workers: found {how.workers!r}; it should be a whole number from 1 on, or auto")
    loaded = loaded_grid(grid, profile, overrides)
    sizes_of(loaded, how.data)
    if how.engine != RAY:
        if how.address is not None:
            stop("--address is that of a Ray cluster: it needs --engine ray")
        chosen = device_of(how.device)
        executes: Callable[[Place, int], Engine] = Processes
    else:
        chosen, executes = _cluster(how)
    since, command = time.time(), command_line(grid, profile, overrides)
    try:
        store = open_store(how.uri, loaded.name, loaded.description, {one.kind for one in loaded.runs})
        send_left(store)
        past = past_runs(store)
    except StoreError as error:
        stop(str(error), code=1)
    skipped, failed_before = past.finished, {} if how.retry_failed else past.failed

    def execute(name: str, runs: Sequence[Run], trials: Trials) -> dict[Run, str]:
        """Executes those runs and trials that are not over; which of all failed, now or before, and why."""
        keys = {one: run_key(one, chosen) for one in (*runs, *trials.known())}
        todo = [one for one in runs if keys[one] not in skipped and keys[one] not in failed_before]
        failures = {one: failed_before[key] for one, key in keys.items() if key not in skipped and key in failed_before}
        total, left = len(runs) + trials.count(), len(todo) + trials.left()
        out.print(
            f"{name}: {total} runs, {total - left - len(failures)} finished before, {left} to do on {chosen}"
            + (f", {len(failures)} failed before (again with --retry-failed)" if failures else "")
        )
        if left:
            todo += trials.ready()
            place = Place(store, loaded.name, chosen, how.data, how.checkpoint_every, since, command)
            limits = Limits(how.timeout, how.silence)
            if how.workers == AUTO:
                count = _paying_workers(out, todo, how.data, chosen)
            else:
                count = int(how.workers or _default_workers(chosen))
            try:
                with Progress(out, left) as progress:
                    failures |= execute_grid(todo, place, count, progress, limits, executes, trials.follow)
            except Stopped:
                stop("interrupted: finished runs are kept, the others go on when the grid is run again", code=130)
            except StoreError as error:
                stop(f"{error}; run the grid again to go on", code=1)
            _send_what_is_left(store)
        return failures

    read = partial(result_of, store)
    choices: list[Choice] = []
    runs = [one for one in loaded.runs if one.phase != TUNING]
    trials = Trials(loaded.tunings, results_of(loaded.tunings, store, failed_before), chosen, read)
    failures = execute(f"{loaded.name}, trials" if loaded.tunings else loaded.name, runs, trials)
    if loaded.tunings:
        failed = {*failed_before, *(run_key(one, chosen) for one in failures)}
        found = results_of(loaded.tunings, store, failed)
        choices = [tuning.choose(found, chosen) for tuning in loaded.tunings]
        out.print(_choices_table(choices))
        runs += [trial for choice in choices for trial in choice.trials]
        final = [one for choice in choices for one in choice.final]
        failures |= execute(f"{loaded.name}, final phase", final, Trials((), {}, chosen, read))
        runs += final
    if failures:
        rows = [[run_name(one), run_key(one, chosen), why] for one, why in failures.items()]
        out.print(table(["failed", "key", "reason"], rows))
    if any(one.phase != TUNING for one in failures) or not all(choice.final for choice in choices):
        raise typer.Exit(1)
    done = f"{len(runs) - len(failures)} of {len(runs)}" if failures else f"all {len(runs)}"
    out.print(f"{done} runs are finished; next: lvt report {loaded.name}, lvt dashboard")


def command_line(grid: str, profile: str | None, overrides: Sequence[str]) -> str:
    """The command that runs these runs, without what does not change them: ``lvt run real --profile small``."""
    chosen = [] if profile is None else ["--profile", profile]
    changes = [word for override in overrides for word in ("--set", override)]
    return shlex.join(["lvt", "run", grid, *chosen, *changes])


def run_campaign(profile: str | None, overrides: Sequence[str], how: How) -> None:
    """Runs one grid of the campaign after another; what failed in one does not stop the next."""
    failed = []
    for member in campaign_of(profile, overrides):
        try:
            run_grid(member.grid, member.profile, member.overrides, how)
        except typer.Exit as end:
            if end.exit_code != 1:
                raise
            failed.append(member.grid)
    if failed:
        stop(f"something failed in {', '.join(failed)}", code=1)


# --- what a grid asks for, and what is done of it --------------------------------------------------------------------
def campaign_of(profile: str | None, overrides: Sequence[str]) -> tuple[Member, ...]:
    """The grids of the campaign, of its first profile where none is named; refuses one that it has not."""
    chosen = profile or next(iter(CAMPAIGN))
    if chosen not in CAMPAIGN:
        stop(f"--profile {chosen}: the campaign's are {', '.join(CAMPAIGN)}")
    if overrides:
        stop("--set: the campaign is run as it is; run its grids one by one to change them")
    return CAMPAIGN[chosen]


def loaded_grid(grid: str, profile: str | None, overrides: Sequence[str]) -> Grid:
    """A bundled grid or a file; refuses what is none."""
    try:
        return load_grid(grid, overrides, profile)
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
    alike: dict[object, tuple[ModelConfig, Dimensions]] = {}  # the seeds of a grid ask for the same few models
    for one in (*grid.runs, *possible, *trials):
        kind = one.model.config, one.budget, one.efficiency if isinstance(one, EfficiencyRun) else one.task
        try:
            if kind not in alike:
                alike[kind] = sized_model(one, data)
            sizes[one] = alike[kind]
        except (ModelError, DataError) as error:
            which = run_name(one)
            if isinstance(one, LearnRun) and one.tuned is not None:
                which = f"{run_name(replace(one, tuned=None))} ({one.tuned.words})"
            stop(f"{grid.name}: {which}: {error}")
    return sizes


def past_of(uri: str, grid: Grid) -> tuple[Store | None, Past]:
    """The store, if it knows the grid, and what it knows of its runs; nothing is created."""
    try:
        store = existing_store(uri, grid.name)
        return store, Past() if store is None else past_runs(store)
    except StoreError as error:
        stop(str(error), code=1)


def results_of(tunings: Sequence[Tuning], store: Store, failed: Iterable[str]) -> dict[str, Result]:
    """What became of the trials that are over, by their keys; `failed`: keys of runs that did."""
    if not tunings:
        return {}
    try:
        found = trial_results(store, curves=any(tuning.tune.prunes for tuning in tunings))
    except StoreError as error:
        stop(str(error), code=1)
    return dict.fromkeys(failed, FAILURE) | found


# --- how it is executed ----------------------------------------------------------------------------------------------
def device_of(choice: str) -> str:
    """The device that "auto", "cpu" or "cuda" stands for on this machine."""
    available = torch.cuda.is_available()
    if choice == "cuda" and not available:
        stop("--device cuda: torch finds no CUDA device on this machine")
    return "cuda" if choice == "cuda" or (choice == "auto" and available) else "cpu"


def _default_workers(device: str) -> int:
    if device == "cuda":
        return torch.cuda.device_count()
    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


def _paying_workers(out: Console, runs: list[Run], data: Path | None, device: str) -> int:
    """How many workers pay, tried with some of the runs."""
    tried = sample(runs)
    if not tried:
        return 1  # everything else is executed alone
    with out.status("how many workers pay"):
        rates = throughputs(tried, data, device, psutil.cpu_count() or 1)
    count = paying(rates)
    measured = ", ".join(f"{rate / rates[1]:.2f} with {many}" for many, rate in rates.items())
    out.print(f"workers: {count}; throughput as a multiple of one worker's: {measured}")
    return count


def _cluster(how: How) -> tuple[str, Callable[[Place, int], Engine]]:
    """Connects to a Ray cluster: the device of its runs, and what executes them."""
    try:
        from experiments.cluster import Tasks, connect
    except ImportError:
        stop("--engine ray needs Ray: pip install -e '.[ray]' -c constraints.txt")
    if how.address is not None and not how.uri.startswith(("http://", "https://")):
        stop(
            f"--address {how.address}: the machines of a cluster cannot all write {how.uri}; start a server (README, "
            "A team's server) and give its address as --tracking-uri http://…"
        )
    if how.workers == AUTO:
        stop("--workers auto tries this machine, not a cluster: state how many runs share a GPU")
    try:
        available = connect(how.address)
    except (ConnectionError, ValueError, RuntimeError) as error:
        stop(f"--address {how.address}: {error}")
    if how.device == "cuda" and available != "cuda":
        stop("--device cuda: the cluster has no GPUs")
    device = "cpu" if how.device == "cpu" else available
    if device == "cpu" and how.workers is not None:
        stop("--workers: without GPUs, each run of a cluster takes one core; there is nothing to share")
    return device, Tasks


def seconds_of(run: LearnRun, config: ModelConfig, *, data: Path | None, device: str) -> float:
    """How long a run will take, in seconds."""
    prepare_process()  # as a worker has it
    return estimated_seconds(run, config, load_task(run.task, data), torch.device(device))


def _send_what_is_left(store: Store) -> None:
    """Waits a while for a store that was away when runs ended."""
    if missing := send_patiently(store):
        stop(f"{store.tracking_uri} does not take {missing} runs; run the grid again to send them", code=1)


def _choices_table(choices: Sequence[Choice]) -> object:
    """What was chosen of how many trials, for each model and task."""
    rows = []
    for choice in choices:
        first, best = choice.trials[0], choice.best
        ended = list(choice.results.values())
        pruned = sum(result.pruned for result in ended)
        failed = choice.tuning.tune.trials - pruned - sum(result.score is not None for result in ended)
        trials = f"{choice.tuning.tune.trials}" + (f", {pruned} pruned" if pruned else "")
        trials += f", {failed} failed and so the worst" if failed else ""
        found = ["none finished", "", ""]
        if best is not None and best.tuned is not None:
            score = choice.results[best].score
            found = [str(best.tuned.trial), f"{best.task.headline} {score:.4g}", best.tuned.words]
        rows.append([first.model.label, first.task_label, trials, *found])
    return table(["model", "task", "trials", "chosen", "on validation", "settings"], rows)
