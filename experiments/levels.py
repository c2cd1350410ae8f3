"""What the file of a grid states, level by level: the grid, the profile that is run, the part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from experiments.settings import KeyPath, Settings, refuse, suggestion, validate


class Part(Settings):
    """What each level may state."""

    fixed: dict[str, Any] = Field(default_factory=dict)
    compare: dict[str, list[Any]] = Field(default_factory=dict)
    tune: dict[str, Any] = Field(default_factory=dict)


class _Whole(Part):
    parts: list[dict[str, Any]] = Field(default_factory=list)


class GridFile(_Whole):
    """The file."""

    description: str
    profiles: dict[str, dict[str, Any]] = Field(default_factory=dict)


Level = tuple[KeyPath, Part]  # what adds to the levels above it, and where it stands in the file


def profile_of(tree: Any, asked: str | None) -> str | None:
    """Name of the profile that is run."""
    profiles = tree.get("profiles") if isinstance(tree, Mapping) else None
    names = list(profiles) if isinstance(profiles, Mapping) else []
    if not all(isinstance(name, str) for name in names):
        raise refuse(("profiles",), f"names are words, found {names}")
    if asked is not None and asked not in names:
        unknown = f"no such profile{suggestion(asked, names)}" if names else "this grid has no profiles"
        raise refuse((f"--profile {asked}",), unknown)
    return asked if asked is not None else next(iter(names), None)


def levels_of(grid: GridFile, profile: str | None) -> list[list[Level]]:
    """The levels of each part of a grid, from the grid down."""
    levels: list[Level] = [((), grid)]
    where: KeyPath = ()
    whole: _Whole = grid
    if profile is not None:
        below: KeyPath = ("profiles", profile)
        chosen = validate(_Whole, grid.profiles[profile], below)
        levels.append((below, chosen))
        if chosen.parts and grid.parts:
            raise refuse((*below, "parts"), "the grid states its parts already: state them in one place")
        if chosen.parts:
            where, whole = below, chosen
    parts = [((*where, "parts", i), part) for i, part in enumerate(whole.parts)]
    return [[*levels, (place, validate(Part, part, place))] for place, part in parts] or [levels]
