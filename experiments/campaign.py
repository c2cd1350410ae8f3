"""The campaign: the grids whose results the README opens with, one after another (``lvt run campaign``)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Member:
    """A grid of the campaign, in one of its profiles where it has any, with settings replaced as by ``--set``."""

    grid: str
    profile: str | None
    overrides: tuple[str, ...] = ()


CAMPAIGN: dict[str, tuple[Member, ...]] = {
    # hours on two cores
    "small": (
        Member("length_scaling", "small"),
        Member("long_dependency", "small"),
        Member("capacity", "small"),
        Member("length_generalisation", "small"),
        Member("gradients", "small"),
        Member("real", "small", tuple(f"parts.{part}.compare.seed=[0, 1, 2, 3, 4]" for part in (0, 1))),
        Member("data_size", "small"),
        *(Member("g2p", None, (f"task.language={language}",)) for language in ("fre", "hin", "ady", "kor")),
        Member("translation", "small"),
        Member("compositional", "small", ("compare.seed=[0, 1, 2, 3, 4]",)),
        Member("compositional", "cogs"),
        Member("tuning", None),
        Member("ablations", None),
    ),
    # for a GPU, in as many sessions as it takes
    "full": (
        Member("length_scaling", "full"),
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
