"""Attempts to execute runs: claimed, begun or taken up again, kept on the way, and ended.

One process at a time attempts a run. An attempt ends with an `Outcome`, whatever happens in it, and what it did not
finish is there for the next (experiments.state).
"""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from experiments import schema
from experiments.config import EfficiencyRun, GradientsRun, LearnRun, Run, run_key, run_name
from experiments.environment import git_state, hardware, versions
from experiments.memory import is_out_of_memory
from experiments.schema import FAILED, FINISHED, KILLED
from experiments.state import RunState, UnreadableError
from experiments.stores import Store
from experiments.tracking import AlreadyOver, Elsewhere, TrackedRun
from experiments.training import Diverged

Job = tuple[Run, ...]  # what a worker does at once: one run, or efficiency runs that are measured side by side


def jobs(runs: Iterable[Run]) -> list[Job]:
    """The runs, in order, those together that are measured side by side: of the same efficiency settings."""
    found: dict[object, list[Run]] = {}
    for run in runs:
        found.setdefault(run.efficiency if isinstance(run, EfficiencyRun) else run, []).append(run)
    return [tuple(together) for together in found.values()]


def devices_of(job: Job) -> int:
    """How many processes execute a job, each on a GPU or with a thread of its own."""
    return max(run.training.devices if isinstance(run, LearnRun | GradientsRun) else 1 for run in job)


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


@dataclass
class Attempt:
    """A run that this process has claimed and begun."""

    state: RunState
    tracked: TrackedRun
    checkpoint: Mapping[str, Any] | None  # from which it goes on

    def keeper(self, every: float, stop: Callable[[], bool]) -> Checkpoints:
        """Keeps its state every so many seconds, and when `stop` says so."""
        return Checkpoints(self.state, self.checkpoint, self.tracked, every, stop)

    def end(self, error: Exception | None) -> Outcome:
        """Tells the store how it ended, and keeps what the store cannot be told now."""
        if isinstance(error, Interrupted):
            self.tracked.leave(KILLED)
            self.state.release()
            return Outcome("interrupted")
        outcome = Outcome("finished") if error is None else Outcome("failed", reason(error))
        if error is not None and not isinstance(error, Diverged):
            traceback.print_exception(error)
        try:
            told = self.tracked.finish(FINISHED if error is None else FAILED, outcome.reason)
        except OSError as full:
            traceback.print_exc()
            outcome, told = Outcome("failed", reason(full)), False
        if told:
            self.state.discard()
        else:
            self.state.release()
        return outcome


def begin(job: Job, place: Place) -> tuple[dict[Run, Attempt], dict[Run, Outcome]]:
    """Claims all runs of a job, or none; begins each or takes up what an earlier attempt kept.

    Returns:
        The attempts, and the outcomes of the runs that are not attempted.
    """
    claimed: dict[Run, RunState] = {}
    unclaimed = Outcome("claimed")
    try:
        for run in job:
            state = RunState.claim(place.store.states / run_key(run, place.device))
            if state is not None:
                claimed[run] = state
    except OSError as error:  # as of a disk that takes no more
        traceback.print_exc()
        unclaimed = Outcome("failed", reason(error))
    if len(claimed) < len(job):  # what is measured side by side is measured by one process
        for state in claimed.values():
            state.release()
        return {}, dict.fromkeys(job, unclaimed)
    begun = {run: _begin(run, state, place) for run, state in claimed.items()}
    return (
        {run: attempt for run, attempt in begun.items() if isinstance(attempt, Attempt)},
        {run: outcome for run, outcome in begun.items() if isinstance(outcome, Outcome)},
    )


def _begin(run: Run, state: RunState, place: Place) -> Attempt | Outcome:
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
        return Attempt(state, tracked, checkpoint if tracked.resumed else None)
    except AlreadyOver as over:
        outcome = Outcome("failed", str(over)) if str(over) else Outcome("finished")
    except Elsewhere:
        outcome = Outcome("claimed")
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome("failed", reason(error))
    if state.read_record() is None:
        state.discard()
    else:
        state.release()
    return outcome


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


def reason(error: Exception) -> str:
    """Why a run failed, in a line."""
    kind = "out of memory" if is_out_of_memory(error) else type(error).__name__
    return f"{kind}: {(str(error).splitlines() or [''])[0]}"
