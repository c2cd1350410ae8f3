"""``--set path=value``: what it replaces in the file of a grid or in its runs, and whether it counts there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from experiments.levels import GridFile, Level
from experiments.settings import KeyPath, SettingsError, dotted, refuse
from experiments.yamls import parse_yaml


def split(overrides: Sequence[str]) -> tuple[list[tuple[KeyPath, Any]], list[tuple[KeyPath, Any]]]:
    """Those of the grid itself, and those of its runs."""
    of_grid: list[tuple[KeyPath, Any]] = []
    of_runs: list[tuple[KeyPath, Any]] = []
    for override in overrides:
        name, equals, text = override.partition("=")
        where: KeyPath = tuple(int(key) if key.isdigit() else key for key in name.strip().split("."))
        if not equals or "" in where:
            raise refuse((f"--set {override}",), "write it as path.to.key=value")
        try:
            value = parse_yaml(text)
        except SettingsError:
            raise refuse((f"--set {override}",), "the value is not YAML") from None
        (of_grid if where[0] in GridFile.model_fields else of_runs).append((where, value))
    return of_grid, of_runs


def place_of(tree: Any, profile: str | None, path: KeyPath) -> KeyPath:
    """Where to replace a setting of the grid itself: in its profile, if that states it, else above."""
    below = tree["profiles"].get(profile) if profile is not None and len(path) > 1 else None
    here = below.get(path[0]) if isinstance(below, Mapping) else None
    stated = isinstance(here, list) or (isinstance(here, Mapping) and path[1] in here)
    return ("profiles", profile, *path) if profile is not None and stated else path


def put(tree: Any, path: KeyPath, value: Any) -> None:
    """Puts `value` at `path`, making mappings on the way; a model or task given by its name alone becomes a mapping."""
    for depth, key in enumerate(path[:-1]):
        try:
            if isinstance(tree, list):
                tree = tree[int(key)]
                continue
            if isinstance(tree.get(key), str):
                tree[key] = {"name": tree[key]}
            tree = tree.setdefault(key, {})
        except IndexError:
            words = f"there is no {dotted(path[: depth + 1])}: {dotted(path[:depth])} has {len(tree)}, counted from 0"
            raise refuse((f"--set {dotted(path)}",), words) from None
        except (AttributeError, ValueError):
            raise refuse((f"--set {dotted(path)}",), f"nothing can be set below {dotted(path[:depth])}") from None
    if not isinstance(tree, dict):
        raise refuse((f"--set {dotted(path)}",), f"nothing can be set below {dotted(path[:-1])}")
    tree[path[-1]] = value


def check_counts(branches: list[list[Level]], place: KeyPath, value: Any, asked: KeyPath) -> None:
    """Refuses a `value` put at `place` of the grid where, in any part that is run, it does not count."""
    depth = 2 if place[0] == "profiles" else 0
    depth += 2 if place[depth : depth + 1] == ("parts",) else 0
    level, block, paths = place[:depth], place[depth:][:1], list(_paths(place[depth + 1 :], value))
    if block not in (("fixed",), ("compare",), ("tune",)):
        return
    concerned = [levels for levels in branches if level in dict(levels)]
    if not concerned:
        raise refuse((f"--set {dotted(asked)}",), "nothing that is run stands there")
    again = [found for levels in concerned for path in paths for found in _stated_again(levels, level, *block, path)]
    if again:
        words = ", ".join(".".join(map(str, path)) for path in dict.fromkeys(again))
        raise refuse((f"--set {dotted(asked)}",), f"does not count where it is stated again: set {words}")


def _stated_again(levels: list[Level], here: KeyPath, block: str | int, path: KeyPath) -> Iterator[KeyPath]:
    """Where else in a part stands what counts in the place of ``here.block.path``."""
    if not path:
        return
    key = path[0]
    for where, level in levels[[where for where, _ in levels].index(here) + 1 :]:
        if block == "compare" and key in level.compare:
            yield (*where, "compare", key)
        elif block == "compare" and not isinstance(level.fixed.get(str(key), {}), Mapping):
            yield (*where, "fixed", key)
        elif block != "compare" and _states(getattr(level, str(block)), path):
            yield (*where, block, *path)
    axes = [((*where, "compare", key), level.compare[key]) for where, level in levels if key in level.compare]
    if block == "fixed" and axes and all(_states(value, path[1:]) for value in axes[-1][1]):
        yield axes[-1][0]


def _paths(path: KeyPath, value: Any) -> Iterator[KeyPath]:
    """Of the settings in `value`, which stands at `path`."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _paths((*path, key), inner)
    else:
        yield path


def _states(tree: Any, path: KeyPath) -> bool:
    """Whether `tree` says what stands at `path`, itself or by something that is no mapping on the way to it."""
    for key in path:
        if not isinstance(tree, Mapping):
            return True
        if key not in tree:
            return False
        tree = tree[key]
    return True
