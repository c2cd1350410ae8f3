"""What `lvt run` does with a grid or the campaign.

What is refused ends the command, with a message. What executes runs is imported when there are any to execute.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
import typer

from experiments.asked import campaign_of, device_of, loaded_grid, past_of, results_of, sizes_of
from experiments.campaign import Member
from experiments.config import Run, run_key, run_name
from experiments.console import USAGE, console, number_of_runs, show_runs, stop, table
from experiments.grid import Grid
from experiments.schema import TUNING
from experiments.state import left_to_send
from experiments.stores import Store, StoreError, open_store
from experiments.trials import Choice, Result, Trials

if TYPE_CHECKING:
    from rich.console import Console

    from experiments.attempts import Place
    from experiments.engine import Engine

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


def run_grid(asked: Member, how: How) -> None:
    """Executes the runs of a grid that are not over; where models are tuned the trials, then the final phase."""
    loaded = _loaded(asked, how.data)
    _run(loaded, asked.command, how, *_where(how))


def _run(loaded: Grid, command: str, how: How, device: str, engine: Callable[[Place, int], Engine]) -> None:
    out = console()
    execution = _Execution(out, loaded, how, device, engine, command)
    choices: list[Choice] = []
    runs = [one for one in loaded.runs if one.phase != TUNING]
    if loaded.tunings:
        failures = execution.execute(f"{loaded.name}, trials", runs, execution.trials())
        found = execution.results(run_key(one, device) for one in failures)
        choices = [tuning.choose(found, device) for tuning in loaded.tunings]
        out.print(_choices_table(choices))
        runs += [trial for choice in choices for trial in choice.trials]
        final = [one for choice in choices for one in choice.final]
        failures |= execution.execute(f"{loaded.name}, final phase", final)
        runs += final
    else:
        failures = execution.execute(loaded.name, runs)
    if failures:
        rows = [[run_name(one), run_key(one, device), why] for one, why in failures.items()]
        show_runs(["failed", "key", "reason"], rows)
    if any(one.phase != TUNING for one in failures) or not all(choice.final for choice in choices):
        raise typer.Exit(1)
    done = "the run is" if len(runs) == 1 else f"all {len(runs)} runs are"
    if failures:  # of trials, which others make up for
        done = f"{len(runs) - len(failures)} of {len(runs)} runs are"
    out.print(f"{done} finished; next: lvt report {loaded.name}, lvt dashboard")


class _Execution:
    """One command's execution of a grid: what the store knew when it began, and all that runs are executed with."""

    def __init__(
        self,
        out: Console,
        grid: Grid,
        how: How,
        device: str,
        engine: Callable[[Place, int], Engine],
        command: str,
    ) -> None:
        self._out, self._grid, self._how, self._device, self._engine = out, grid, how, device, engine
        self._since, self._command = time.time(), command
        self._store, past = past_of(how.uri, grid)
        if self._store is not None and left_to_send(self._store.states):
            from experiments.tracking import send_left

            send_left(self._store)
            self._store, past = past_of(how.uri, grid)
        failed = {key: why for key, why in past.failed.items() if key not in past.finished}
        self._finished, self._failed = past.finished, {} if how.retry_failed else failed

    def trials(self) -> Trials:
        """The trials of the grid."""
        return Trials(self._grid.tunings, self.results(), self._device, self._result)

    def results(self, failed: Iterable[str] = ()) -> dict[str, Result]:
        """What became of the trials that are over; `failed`: keys of runs that have failed since."""
        return results_of(self._grid.tunings, self._store, {*self._failed, *failed})

    def _result(self, key: str) -> Result:
        from experiments.tracking import result_of

        assert self._store is not None
        return result_of(self._store, key)

    def execute(self, name: str, runs: Sequence[Run], trials: Trials | None = None) -> dict[Run, str]:
        """Executes those runs and trials that are not over; which of all failed, now or before, and why."""
        trials = trials or Trials((), {}, self._device, self._result)
        keys = {one: run_key(one, self._device) for one in (*runs, *trials.known())}
        todo = [one for one in runs if keys[one] not in self._finished and keys[one] not in self._failed]
        failures = {one: self._failed[key] for one, key in keys.items() if key in self._failed}
        total, left = len(runs) + trials.count(), len(todo) + trials.left()
        self._out.print(
            f"{name}: {number_of_runs(total)}, {total - left - len(failures)} finished before, {left} to do on"
            f" {self._device}" + (f", {len(failures)} failed before (again with --retry-failed)" if failures else "")
        )
        if left:
            failures |= self._execute([*todo, *trials.ready()], left, trials)
        return failures

    def _execute(self, runs: list[Run], left: int, trials: Trials) -> dict[Run, str]:
        from experiments.attempts import Place
        from experiments.execution import Limits, Stopped, execute_grid
        from experiments.progress import Progress

        grid, how, device = self._grid, self._how, self._device
        try:
            self._store = open_store(how.uri, grid.name, grid.description, {one.kind for one in grid.runs})
        except StoreError as error:
            stop(str(error), code=1)
        place = Place(self._store, grid.name, device, how.data, how.checkpoint_every, self._since, self._command)
        limits = Limits(how.timeout, how.silence)
        if how.workers == AUTO:
            count = _paying_workers(self._out, runs, how.data, device)
        else:
            count = int(how.workers or _default_workers(device))
        try:
            with Progress(self._out, left) as progress:
                failures = execute_grid(runs, place, count, progress, limits, self._engine, trials.follow)
        except Stopped:
            stop("interrupted: finished runs are kept, the others go on when the grid is run again", code=130)
        except StoreError as error:
            stop(f"{error}; run the grid again to go on", code=1)
        _send_what_is_left(self._store)
        return failures


def run_campaign(profile: str | None, overrides: Sequence[str], how: How) -> None:
    """Runs one grid of the campaign after another; what failed in one, its data too, does not stop the next."""
    device, engine = _where(how)
    members = campaign_of(profile, overrides, device)
    failed = []
    for member in members:
        try:
            _run(_loaded(member, how.data), member.command, how, device, engine)
        except typer.Exit as end:
            if end.exit_code not in (1, USAGE):
                raise
            failed.append(member.command)
    if failed:
        stop(f"something failed in {', '.join(failed)}", code=1)


def _default_workers(device: str) -> int:
    if device == "cuda":
        return torch.cuda.device_count()
    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


def _paying_workers(out: Console, runs: list[Run], data: Path | None, device: str) -> int:
    """How many workers pay, tried with some of the runs."""
    from experiments.packing import paying, sample, throughputs

    tried = sample(runs)
    if not tried:
        return 1  # everything else is executed alone
    try:
        with out.status("how many workers pay"):
            rates = throughputs(tried, data, device, psutil.cpu_count() or 1)
    except RuntimeError as error:
        stop(f"--workers auto: {error}")
    count = paying(rates)
    measured = ", ".join(f"{rate / rates[1]:.2f} with {many}" for many, rate in rates.items())
    out.print(f"workers: {count}; throughput as a multiple of one worker's: {measured}")
    return count


def _loaded(asked: Member, data: Path | None) -> Grid:
    """A grid of which every run can be made."""
    loaded = loaded_grid(asked)
    sizes_of(loaded, data)
    return loaded


def _where(how: How) -> tuple[str, Callable[[Place, int], Engine]]:
    """The device of the runs, and what executes them."""
    if how.workers not in (None, AUTO) and not (how.workers.isdecimal() and int(how.workers) > 0):
        stop(f"--workers: found {how.workers!r}; it should be a whole number from 1 on, or auto")
    return _cluster(how) if how.engine == RAY else _this_machine(how)


def _this_machine(how: How) -> tuple[str, Callable[[Place, int], Engine]]:
    """The device of its runs, and what executes them."""
    if how.address is not None:
        stop("--address is that of a Ray cluster: it needs --engine ray")
    return device_of(how.device), _processes


def _processes(place: Place, workers: int) -> Engine:
    from experiments.processes import Processes

    return Processes(place, workers)


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


def _send_what_is_left(store: Store) -> None:
    """Waits a while for a store that was away when runs ended."""
    from experiments.tracking import send_patiently

    if missing := send_patiently(store):
        stop(f"{store.tracking_uri} does not take {number_of_runs(missing)}; run the grid again to send them", code=1)


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
