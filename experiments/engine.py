"""What engines have in common: they are given jobs and tell what happens.

`execution` decides which job is begun, and when one is given up; an engine carries that out: `processes` on this
machine, `cluster` on the machines of a Ray cluster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from experiments.attempts import Job, Outcome
from experiments.config import Run
from experiments.training import Status

LOOK_EVERY = 1.0  # seconds at most between two looks at the clock and at what the user wants


@dataclass(frozen=True)
class Begun:
    """The job is executed now, on the machine of that name."""

    host: str


@dataclass(frozen=True)
class Lost:
    """The worker is gone before its job was over; `again`: through no fault of the job, which may be tried again."""

    reason: str
    again: bool = False


class Event(NamedTuple):
    """What happened to a job or, where it is a `Status` or an `Outcome`, to one of its runs."""

    ticket: int
    news: Begun | Lost | Status | Outcome
    run: Run | None = None


class Engine(Protocol):
    """Executes jobs. A ticket stands for a job until each of its runs has an `Outcome`, or it is lost or killed."""

    def takes(self, job: Job) -> bool:
        """Whether the job may be begun now."""

    def begin(self, job: Job) -> int:
        """Takes a job; its ticket."""

    def hear(self) -> list[Event]:
        """What happened since; waits for something, but at most `LOOK_EVERY`."""

    def ask_to_stop(self, ticket: int) -> None:
        """Asks a job to keep its state and end."""

    def kill(self, ticket: int) -> None:
        """Ends a job at once; no more is heard of it."""

    def close(self) -> None:
        """Lets everything go that was held for jobs to come."""
