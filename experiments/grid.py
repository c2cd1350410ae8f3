"""Grids: a YAML file becomes a list of runs.

A grid states settings of a run once for all its runs (``fixed``), or as lists of which every combination is run
(``compare``); ``parts`` are grids within the grid that add to what stands above them::

    description: Which model learns to reverse?
    fixed:
      kind: learn
      budget: {parameters: 300_000}
      training: {steps: 1000, batch_size: 64, evaluate_every: 250, learning_rate: {lstm: 4e-3, transformer: 1.5e-3}}
    compare:
      task: [{name: reverse}, {name: reverse, max_length: 40}]
      model: [lstm, {name: transformer, layers: 4}]
      seed: [0, 1]

Any value in ``training`` may be a table by model name, as the learning rate here. ``--set path=value`` replaces a
setting of every run that can have it (``task.language=fre``) or, where the path begins with a key of the grid, of the
grid itself (``compare.seed=[0, 1, 2]``).

``profiles`` are the sizes in which a grid can be run, each with ``fixed``, ``compare`` and ``parts`` of its own that
add to what stands above them. One of them is run, the first unless another is named; its runs are kept as GRID-PROFILE.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from experiments import config
from experiments.config import (
    RUN_KEYS,
    Problem,
    Run,
    Settings,
    SettingsError,
    dotted,
    parse_run,
    refuse,
    suggestion,
    validate,
)
from experiments.yamls import parse_yaml
from models.registry import MODELS

BUNDLED = Path(__file__).parent / "grids"
AXES = sorted({key for keys in RUN_KEYS.values() for key in keys})  # what a grid may fix or compare
RUNS = 100_000  # of a part of a grid, at most

Origins = dict[config.Path, config.Path]  # path of a setting in a run → where the grid states it


class GridError(Exception):
    """A grid that cannot be run: the message names the file and the path of each wrong key."""


@dataclass(frozen=True)
class Grid:
    """A grid's runs, none twice; `name` is that of the file and, where there are profiles, of the profile."""

    name: str
    description: str
    runs: tuple[Run, ...]


class _Part(Settings):
    fixed: dict[str, Any] = Field(default_factory=dict)
    compare: dict[str, list[Any]] = Field(default_factory=dict)


class _Whole(_Part):
    parts: list[dict[str, Any]] = Field(default_factory=list)


class _Grid(_Whole):
    description: str
    profiles: dict[str, dict[str, Any]] = Field(default_factory=dict)


Level = tuple[config.Path, _Part]  # what adds to the levels above it, and where it stands in the file


def bundled_grids() -> list[str]:
    """Names of the grids that come with the suite."""
    return sorted(path.stem for path in BUNDLED.glob("*.yaml"))


def load_grid(grid: str, overrides: Sequence[str] = (), profile: str | None = None) -> Grid:
    """Reads a grid.

    Args:
        grid: a bundled name or the path of a YAML file.
        overrides: ``path=value`` each, the value in YAML; later ones win.
        profile: which of the grid's profiles; None for the first, or where there is none.

    Raises:
        GridError: it cannot be read, or not be run.
    """
    path = _find(grid)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise GridError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise GridError(f"{path}: not UTF-8 (byte {error.start})") from None
    try:
        tree = parse_yaml(text)
        own, of_runs = _split_overrides(overrides)
        chosen = _profile(tree, profile)
        for where, value in own:
            _set(tree, _stated(tree, chosen, where), value)
        checked = validate(_Grid, tree, ())
        runs = [_parse(tree, origins) for tree, origins in _expand(_branches(checked, chosen), of_runs)]
    except SettingsError as error:
        lines = [f"{path}: {dotted(p.path) + ': ' if p.path else ''}{p.message}" for p in error.problems]
        raise GridError("\n".join(lines)) from None
    name = path.stem if chosen is None else f"{path.stem}-{chosen}"
    return Grid(name, checked.description, tuple(dict.fromkeys(runs)))


def _find(grid: str) -> Path:
    if grid.endswith((".yaml", ".yml")):
        return Path(grid)
    if grid not in bundled_grids():
        raise GridError(f"no grid named {grid!r}{suggestion(grid, bundled_grids())}, or the path of a .yaml file")
    return BUNDLED / f"{grid}.yaml"


def _profile(tree: Any, asked: str | None) -> str | None:
    """Name of the profile that is run."""
    profiles = tree.get("profiles") if isinstance(tree, Mapping) else None
    names = list(profiles) if isinstance(profiles, Mapping) else []
    if not all(isinstance(name, str) for name in names):
        raise refuse(("profiles",), f"names are words, found {names}")
    if asked is not None and asked not in names:
        unknown = f"no such profile{suggestion(asked, names)}" if names else "this grid has no profiles"
        raise refuse((f"--profile {asked}",), unknown)
    return asked if asked is not None else next(iter(names), None)


def _stated(tree: Any, profile: str | None, path: config.Path) -> config.Path:
    """Where to replace a setting of the grid itself: in its profile, if that states it, else above."""
    below = tree["profiles"].get(profile) if profile is not None and len(path) > 1 else None
    here = below.get(path[0]) if isinstance(below, Mapping) else None
    stated = isinstance(here, list) or (isinstance(here, Mapping) and path[1] in here)
    return ("profiles", profile, *path) if profile is not None and stated else path


def _branches(grid: _Grid, profile: str | None) -> list[list[Level]]:
    """The levels of each part of a grid, from the grid down."""
    levels: list[Level] = [((), grid)]
    where: config.Path = ()
    whole: _Whole = grid
    if profile is not None:
        below: config.Path = ("profiles", profile)
        chosen = validate(_Whole, grid.profiles[profile], below)
        levels.append((below, chosen))
        if chosen.parts and grid.parts:
            raise refuse((*below, "parts"), "the grid states its parts already: state them in one place")
        if chosen.parts:
            where, whole = below, chosen
    parts = [((*where, "parts", i), part) for i, part in enumerate(whole.parts)]
    return [[*levels, (place, validate(_Part, part, place))] for place, part in parts] or [levels]


def _expand(
    branches: list[list[Level]], overrides: list[tuple[config.Path, Any]]
) -> Iterator[tuple[dict[str, Any], Origins]]:
    """The tree of settings of every run, and where each setting stands."""
    used: set[config.Path] = set()
    for levels in branches:
        axes: dict[str, tuple[config.Path, list[Any]]] = {}
        for where, level in levels:
            for key in (*level.fixed, *level.compare):
                stated = "fixed" if key in level.fixed else "compare"
                if key not in AXES:
                    raise refuse((*where, stated, key), f"unknown key{suggestion(key, AXES)}")
            for key, values in level.compare.items():
                if not values:
                    raise refuse((*where, "compare", key), "an empty list leaves nothing to run")
                axes[key] = (*where, "compare", key), values
        count = math.prod(len(values) for _, values in axes.values())
        if count > RUNS:
            raise refuse((*levels[-1][0], "compare"), f"{count:,} runs; a grid may have {RUNS:,}")
        for choice in itertools.product(*(range(len(values)) for _, values in axes.values())):
            tree: dict[str, Any] = {}
            origins: Origins = {}
            for where, level in levels:
                for key, value in level.fixed.items():
                    _merge(tree, origins, (key,), value, (*where, "fixed", key))
            for (key, (where, values)), i in zip(axes.items(), choice, strict=True):
                _merge(tree, origins, (key,), values[i], (*where, i))
            kind = tree.get("kind")
            for where, value in overrides:
                if isinstance(kind, str) and where[0] in RUN_KEYS.get(kind, ()):
                    _set(tree, where, value)
                    origins[where] = (f"--set {dotted(where)}",)
                    used.add(where)
            yield tree, origins
    for where, _ in overrides:
        if where not in used:
            raise refuse((f"--set {dotted(where)}",), f"no run has such a setting{suggestion(where[0], AXES)}")


def _merge(tree: dict[str, Any], origins: Origins, path: config.Path, value: Any, origin: config.Path) -> None:
    """Puts `value` at `path`: into the mapping that is there, if both are mappings, otherwise in its place."""
    key = path[-1]
    if isinstance(value, Mapping) and isinstance(tree.get(str(key)), Mapping | None):
        if tree.get(str(key)) is None:
            tree[str(key)] = {}
        below = tree[str(key)]
        origins.setdefault(path, origin)
        for name, inner in value.items():
            _merge(below, origins, (*path, name), inner, (*origin, name))
    else:
        tree[str(key)] = copy.deepcopy(value)
        origins[path] = origin


def _parse(tree: dict[str, Any], origins: Origins) -> Run:
    try:
        return parse_run(_resolve_tables(tree))
    except SettingsError as error:
        raise SettingsError([Problem(_locate(p.path, origins), p.message) for p in error.problems]) from None


def _locate(path: config.Path, origins: Origins) -> config.Path:
    """Where the grid states the setting at `path`, or the innermost mapping around it."""
    for end in range(len(path), 0, -1):
        if path[:end] in origins:
            return origins[path[:end]] + path[end:]
    return path


def _resolve_tables(tree: dict[str, Any]) -> dict[str, Any]:
    """Replaces each table by model name in ``training`` by this run's value."""
    training, model = tree.get("training"), tree.get("model")
    name = model.get("name") if isinstance(model, Mapping) else model
    if not isinstance(training, Mapping) or not isinstance(name, str) or name not in MODELS:
        return tree  # which parse_run refuses
    resolved = dict(training)
    for key, table in training.items():
        if isinstance(table, Mapping):
            if name not in table:
                raise refuse(
                    ("training", key), f"the table has no value for the model {name!r}, only for {list(table)}"
                )
            resolved[key] = table[name]
    return tree | {"training": resolved}


def _split_overrides(overrides: Sequence[str]) -> tuple[list[tuple[config.Path, Any]], list[tuple[config.Path, Any]]]:
    """Those of the grid itself, and those of its runs."""
    of_grid: list[tuple[config.Path, Any]] = []
    of_runs: list[tuple[config.Path, Any]] = []
    for override in overrides:
        name, equals, text = override.partition("=")
        where: config.Path = tuple(int(key) if key.isdigit() else key for key in name.strip().split("."))
        if not equals or "" in where:
            raise refuse((f"--set {override}",), "write it as path.to.key=value")
        try:
            value = parse_yaml(text)
        except SettingsError:
            raise refuse((f"--set {override}",), "the value is not YAML") from None
        (of_grid if where[0] in _Grid.model_fields else of_runs).append((where, value))
    return of_grid, of_runs


def _set(tree: Any, path: config.Path, value: Any) -> None:
    """Puts `value` at `path`, making mappings on the way; a model or task given by its name alone becomes a mapping."""
    for depth, key in enumerate(path[:-1]):
        try:
            if isinstance(tree, list):
                tree = tree[int(key)]
                continue
            if isinstance(tree.get(key), str):
                tree[key] = {"name": tree[key]}
            tree = tree.setdefault(key, {})
        except (AttributeError, IndexError, ValueError):
            raise refuse((f"--set {dotted(path)}",), f"nothing can be set below {dotted(path[:depth])}") from None
    if not isinstance(tree, dict):
        raise refuse((f"--set {dotted(path)}",), f"nothing can be set below {dotted(path[:-1])}")
    tree[path[-1]] = value
