"""The campaign: the grids whose results the README opens with, one after another (``lvt run campaign``)."""

from __future__ import annotations

import shlex
from collections import defaultdict
from dataclasses import dataclass

from experiments.grid import load_grid
from experiments.schema import TUNING


@dataclass(frozen=True)
class Member:
    """A grid that is asked for, in one of its profiles where it has any, with settings replaced as by ``--set``."""

    grid: str
    profile: str | None
    overrides: tuple[str, ...] = ()

    @property
    def command(self) -> str:
        """That runs it, without what does not change its runs: ``"lvt run real --profile small"``."""
        chosen = [] if self.profile is None else ["--profile", self.profile]
        changes = [word for override in self.overrides for word in ("--set", override)]
        return shlex.join(["lvt", "run", self.grid, *chosen, *changes])


CAMPAIGN: dict[str, tuple[Member, ...]] = {
    # hours on two cores
    "small": (
        Member("length_scaling", "small"),
        Member("profile", None),
        Member("long_dependency", "small"),
        Member("capacity", "small"),
        Member("length_generalisation", "small"),
        Member("gradients", "small"),
        Member("real", "small", tuple(f"parts.{part}.compare.seed=[0, 1, 2, 3, 4]" for part in (0, 1))),
        Member("data_size", "small"),
        *(Member("g2p", None, (f"task.language={language}",)) for language in ("fre", "hin", "ady", "kor")),
        Member("g2p_batch", None),
        Member("translation", "small"),
        Member("compositional", "small", ("compare.seed=[0, 1, 2, 3, 4]",)),
        Member("compositional", "cogs"),
        Member("compositional", "cogs_large"),
        Member("tuning", None),
        Member("ablations", None),
    ),
    # for a GPU, in as many sessions as it takes
    "full": (
        Member("length_scaling", "full"),
        Member("large_models", None),
        Member("long_dependency", "full"),
        Member("capacity", "full"),
        Member("length_generalisation", "full"),
        Member("gradients", "full"),
        Member("real", "full"),
        Member("data_size", "full"),
        Member("translation", "full"),
        Member("compositional", "full"),
    ),
}


def listed() -> list[dict[str, str]]:
    """What all of it runs, trials of tuning aside: a row for each task and model of a grid, every value in words.

    Keys profile, grid (the name under which its runs are kept), command, kind, task, model and seeds (``"0 1 2"``).

    Raises:
        GridError: a grid cannot be run.
    """
    rows = []
    for profile, members in CAMPAIGN.items():
        for member in members:
            grid = load_grid(member.grid, member.overrides, member.profile)
            seeds: dict[tuple[str, str, str], list[int]] = defaultdict(list)
            for run in grid.runs:
                if run.phase != TUNING:
                    seeds[run.kind, run.task_label, run.model.label].append(run.seed)
            for tuning in grid.tunings:
                trial = tuning.possible[0]
                seeds[trial.kind, trial.task_label, trial.model.label] += tuning.seeds
            rows += [
                {
                    **{"profile": profile, "grid": grid.name, "command": member.command},
                    **{"kind": kind, "task": task, "model": model, "seeds": " ".join(map(str, sorted(of_these)))},
                }
                for (kind, task, model), of_these in seeds.items()
            ]
    return rows
