"""Grids: a YAML file becomes a list of runs.

A grid states settings of a run once for all its runs (``fixed``), or as lists of which every combination is run
(``compare``); ``parts`` are grids within the grid that add to what stands above them::

    description: Which model learns to reverse?
    fixed:
      kind: learn
      budget: {parameters: 300_000}
      training: {steps: 1000, batch_size: 64, evaluate_every: 250, learning_rate: {lstm: 4e-3, transformer: 1.5e-3}}
    compare:
      task: [{name: reverse}, {name: reverse, max_length: 40, longer_lengths: [60, 80]}]
      model: [lstm, {name: transformer, layers: 4}]
      seed: [0, 1]

Any value in ``training`` may be a table by model name, as the learning rate here. What else is compared is called an
option of the task, ``reverse(parameters=300000)``, so that no two runs are called alike.

``--set path=value`` replaces a setting of every run that can have it (``task.language=fre``) or, where the path begins
with a key of the grid, of the grid itself (``compare.seed=[0, 1, 2]``), unless a level below states it again.

``tune`` has some settings of each model chosen on validation before the runs that are compared (experiments.tuning).

``profiles`` are the sizes in which a grid can be run, each with ``fixed``, ``compare``, ``tune`` and ``parts`` of its
own that add to what stands above them. One of them is run, the first unless another is named; its runs are kept as
GRID-PROFILE.
"""

from __future__ import annotations

import copy
import itertools
import json
import math
from collections.abc import Container, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from experiments.config import RUN_KEYS, LearnRun, Run, parse_run, parse_seed
from experiments.levels import GridFile, Level, levels_of, profile_of
from experiments.overrides import check_counts, place_of, put, split
from experiments.schema import LEARN
from experiments.settings import KeyPath, Problem, SettingsError, dotted, refuse, suggestion, validate
from experiments.trials import Tuning, as_trial
from experiments.tuning import Setting, in_words, parse_tune
from experiments.yamls import parse_yaml
from models.registry import MODELS

BUNDLED = Path(__file__).parent / "grids"
AXES = sorted({key for keys in RUN_KEYS.values() for key in keys})  # what a grid may fix or compare
RUNS = 100_000  # of a part of a grid, at most

Origins = dict[KeyPath, KeyPath]  # path of a setting in a run → where the grid states it


class GridError(Exception):
    """A grid that cannot be run: the message names the file and the path of each wrong key."""


@dataclass(frozen=True)
class Grid:
    """A grid.

    Attributes:
        name: of the file and, where there are profiles, of the profile.
        description: in the words of its author.
        runs: those whose settings are known, none twice; of models that are tuned these are trials: all that are drawn
            at random, else the first.
        tunings: what the runs follow from that have settings of trials.
        path: of its file.
        origins: where it states the settings of runs that differ in nothing but seed, training and what tuning sets.
    """

    name: str
    description: str
    runs: tuple[Run, ...]
    tunings: tuple[Tuning, ...] = ()
    path: Path = Path()
    origins: Mapping[Hashable, Origins] = field(default_factory=dict, repr=False, compare=False)

    def place(self, run: Run, *path: str) -> str:
        """The file, and where it states a setting of one of its runs: ``"g.yaml: compare.model[1]"``."""
        return f"{self.path}: {dotted(_locate(path, self.origins.get(_alike(run), {})))}"


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
        if tree is None:
            raise refuse((), "the file is empty; a grid states a description, and what is fixed and compared")
        own, of_runs = split(overrides)
        chosen = profile_of(tree, profile)
        places = [place_of(tree, chosen, where) for where, _ in own]
        for place, (_, value) in zip(places, own, strict=True):
            put(tree, place, value)
        checked = validate(GridFile, tree, ())
        branches = levels_of(checked, chosen)
        for place, (where, value) in zip(places, own, strict=True):
            check_counts(branches, place, value, where)
        runs, tunings, origins = _parse(_expand(branches, of_runs))
    except SettingsError as error:
        lines = [f"{path}: {dotted(p.path) + ': ' if p.path else ''}{p.message}" for p in error.problems]
        raise GridError("\n".join(lines)) from None
    name = path.stem if chosen is None else f"{path.stem}-{chosen}"
    return Grid(name, checked.description, tuple(dict.fromkeys(runs)), tuple(tunings), path, origins)


def _find(grid: str) -> Path:
    if grid.endswith((".yaml", ".yml")):
        return Path(grid)
    if grid not in bundled_grids():
        raise GridError(f"no grid named {grid!r}{suggestion(grid, bundled_grids())}, or the path of a .yaml file")
    return BUNDLED / f"{grid}.yaml"


def _expand(
    branches: list[list[Level]], overrides: list[tuple[KeyPath, Any]]
) -> Iterator[tuple[dict[str, Any], Origins]]:
    """The tree of settings of every run, and where each setting stands."""
    used: set[KeyPath] = set()
    for levels in branches:
        axes: dict[str, tuple[KeyPath, list[Any]]] = {}
        for where, level in levels:
            for key in (*level.fixed, *level.compare):
                stated = "fixed" if key in level.fixed else "compare"
                if key not in AXES:
                    raise refuse((*where, stated, key), f"unknown key{suggestion(key, AXES)}")
            for key, values in level.compare.items():
                if not values:
                    raise refuse((*where, "compare", key), "an empty list leaves nothing to run")
                axes[key] = (*where, "compare", key), values
            for key, value in level.fixed.items():
                if key in axes and not isinstance(value, Mapping):
                    raise refuse((*where, "fixed", key), f"is compared ({dotted(axes[key][0])}): state it in one place")
        count = math.prod(len(values) for _, values in axes.values())
        if count > RUNS:
            raise refuse((*levels[-1][0], "compare"), f"{count:,} runs; a grid may have {RUNS:,}")
        for choice in itertools.product(*(range(len(values)) for _, values in axes.values())):
            tree: dict[str, Any] = {}
            origins: Origins = {}
            for where, level in levels:
                for key, value in level.fixed.items():
                    _merge(tree, origins, (key,), value, (*where, "fixed", key))
                if level.tune:
                    _merge(tree, origins, ("tune",), level.tune, (*where, "tune"))
            for (key, (where, values)), i in zip(axes.items(), choice, strict=True):
                _merge(tree, origins, (key,), values[i], (*where, i))
            kind = tree.get("kind")
            for where, value in overrides:
                if isinstance(kind, str) and where[0] in RUN_KEYS.get(kind, ()):
                    put(tree, where, value)
                    origins[where] = (f"--set {dotted(where)}",)
                    used.add(where)
            yield tree, origins
    for where, _ in overrides:
        if where not in used:
            raise refuse((f"--set {dotted(where)}",), f"no run has such a setting{suggestion(where[0], AXES)}")


def _merge(tree: dict[str, Any], origins: Origins, path: KeyPath, value: Any, origin: KeyPath) -> None:
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


def _alike(run: Run) -> Hashable:
    """What is the same of all runs whose model, budget and task stand in one place."""
    return run.kind, run.plain_task_label, run.model.label, run.budget


def _parse(
    expanded: Iterable[tuple[dict[str, Any], Origins]],
) -> tuple[list[Run], list[Tuning], dict[Hashable, Origins]]:
    """The runs whose settings are stated, trials among them, what follows from the trials, and what stands where."""
    runs: list[tuple[str, Run]] = []  # each with what stands for all that differ from it in the seed alone
    known: dict[str, _Known] = {}
    tunings: dict[str, Tuning] = {}
    places: dict[Hashable, Origins] = {}
    later = 0  # trials that are not known yet
    asked: KeyPath | None = None  # where the grid states that models are tuned
    problems: dict[Problem, None] = {}  # of all runs, each once
    for tree, origins in expanded:
        try:
            tune = tree.pop("tune", None)
            if tune is not None:
                asked = _locate(("tune",), origins)
            seedless = {key: value for key, value in tree.items() if key != "seed"}
            alike = json.dumps([seedless, tune], sort_keys=True, default=str)
            with _located(origins):
                if tune is None or tree.get("kind") != LEARN or _model_name(tree) not in MODELS:
                    if alike not in known:
                        known[alike] = _Known(parse_run(_resolve_tables(tree)), seedless)
                        places.setdefault(_alike(known[alike].run), origins)
                    runs.append((alike, replace(known[alike].run, seed=parse_seed(tree))))
                    continue
                seed = parse_seed(tree)
            if alike not in tunings:
                tuning = _tuning(seedless, tune, origins, RUNS - len(runs) - later)
                tunings[alike] = tuning
                known[alike] = _Known(tuning.trials[0], seedless, tuning.tune.ranges[tuning.model].training)
                places.setdefault(_alike(tuning.trials[0]), origins)
                runs += [(alike, trial) for trial in tuning.trials]
                later += tuning.tune.trials - len(tuning.trials)
            tuning = tunings[alike]
            if seed == tuning.tune.seed:
                words = f"{seed} is the seed of the trials (tune.seed); those of the final phase are others"
                raise refuse(_locate(("seed",), origins), words)
            tunings[alike] = replace(tuning, seeds=tuple(dict.fromkeys([*tuning.seeds, seed])))
        except SettingsError as error:
            problems |= dict.fromkeys(error.problems)
    if problems:
        raise SettingsError(list(problems))
    if asked is not None:
        _check_alike(asked, (run for _, run in runs), tunings.values())
    conditions = _conditions(known)
    return (
        [replace(run, condition=conditions[alike]) for alike, run in runs],
        [tuning.under(conditions[alike]) for alike, tuning in tunings.items()],
        places,
    )


@dataclass(frozen=True)
class _Known:
    """One of the runs that differ in the seed alone, the tree of what the grid states of it, and what is drawn."""

    run: Run
    tree: Mapping[str, Any]
    drawn: Container[str] = ()  # settings of its training that tuning chooses

    def settings(self) -> dict[KeyPath, str]:
        """Those beside the model's and what is drawn, in words; a table by model name as it is stated."""
        found: dict[KeyPath, str] = {}
        for half, settings in self.run.settings().items():
            if half in ("kind", "model", "seed", "tuned"):
                continue
            for key, value in settings.items():
                if half == "training" and key in self.drawn:
                    continue
                stated = self.tree["training"].get(key) if half == "training" else None
                found[half, key] = str(value)
                if isinstance(stated, Mapping):
                    found[half, key] = f"{{{', '.join(f'{name}: {of_it}' for name, of_it in stated.items())}}}"
        return found


def _conditions(known: Mapping[str, _Known]) -> dict[str, str]:
    """What tells runs apart whose labels do not, ``"batch_size=64"``: said of all models of a task, if of one.

    Args:
        known: by what stands for them.

    Returns:
        By the same; "" where the labels of model and task say enough.
    """
    same: dict[tuple[str, str], dict[str, list[str]]] = {}  # of kind and task: model → those that have these labels
    for alike, one in known.items():
        same.setdefault((one.run.kind, one.run.task_label), {}).setdefault(one.run.model.label, []).append(alike)
    conditions = dict.fromkeys(known, "")
    for models in same.values():
        if all(len(several) == 1 for several in models.values()):
            continue
        settings = {alike: known[alike].settings() for alike in itertools.chain.from_iterable(models.values())}
        differ = {
            path
            for several in models.values()
            for alike in several
            for path in settings[alike]
            if len({settings[other].get(path) for other in several}) > 1
        }
        for alike, own in settings.items():
            conditions[alike] = ", ".join(f"{path[-1]}={value}" for path, value in own.items() if path in differ)
    return conditions


def _tuning(tree: dict[str, Any], tune: Any, origins: Origins, most: int) -> Tuning:
    """How a model is tuned on a task, by `most` trials at most; `tree` lacks a seed."""
    name = _model_name(tree)
    ranges: KeyPath = ("tune", "ranges", name)
    with _located(origins):
        checked = parse_tune(tune)
        if checked.trials > most:
            raise refuse(("tune", "trials"), f"more than {RUNS:,} runs, which is what a grid may have")

    def make(number: int, setting: Setting) -> LearnRun:
        with _located(origins):
            whole = _with_setting(tree, setting, ranges)
        drawn = {path: _locate((*ranges, *path), origins) for path in setting}
        which = f"trial {number}, " if number else ""
        with _located(origins | drawn, f" ({which}{in_words(setting)})"):
            run = parse_run(_resolve_tables(whole | {"seed": checked.seed}))
        assert isinstance(run, LearnRun)
        return as_trial(run, number, setting, checked)

    with _located(origins):
        return Tuning.begin(checked, name, make)


def _with_setting(tree: dict[str, Any], setting: Setting, ranges: KeyPath) -> dict[str, Any]:
    """The tree with the values drawn from `ranges`, none of which it may state itself."""
    tree = copy.deepcopy(tree)
    for (half, key), value in setting.items():
        if isinstance(tree.get(half), str):
            tree[half] = {"name": tree[half]}
        below = tree.setdefault(half, {})
        if not isinstance(below, dict):
            raise refuse((half,), f"found {below!r}; it should be a mapping")
        table = below.get(key) if half == "training" else None
        if key in below and not (isinstance(table, Mapping) and ranges[-1] not in table):
            raise refuse((half, key), f"is tuned ({dotted((*ranges, half, key))}): state it in one place")
        below[key] = value
    return tree


def _check_alike(asked: KeyPath, runs: Iterable[Run], tunings: Iterable[Tuning]) -> None:
    """Refuses a grid of which some models are tuned more than others."""
    found: dict[str, dict[str, set[str]]] = {}  # task → model → by how many trials, and how
    for run in runs:
        if isinstance(run, LearnRun):
            found.setdefault(run.task_label, {}).setdefault(run.model.label, set())
            if run.tuned is None:
                found[run.task_label][run.model.label].add("0")
    for tuning in tunings:
        trial = tuning.trials[0]
        found[trial.task_label][trial.model.label].add(tuning.tune.words)
    if not found:
        raise refuse(asked, "only runs that learn can be tuned, and there are none")
    for task, models in found.items():
        if len(set.union(*models.values())) > 1:
            counts = ", ".join(f"{model} {' or '.join(sorted(of))}" for model, of in models.items())
            raise refuse(asked, f"the models of a task are tuned with equal numbers of trials; on {task}: {counts}")


@contextmanager
def _located(origins: Origins, note: str = "") -> Iterator[None]:
    """Problems with a run's settings become problems of the grid, where it states them.

    To what is wrong with a model or a training as a whole `note` adds what its settings do not say.
    """
    try:
        yield
    except SettingsError as error:
        found = [(p.path, p.message + (note if len(p.path) == 1 else "")) for p in error.problems]
        raise SettingsError([Problem(_locate(path, origins), message) for path, message in found]) from None


def _locate(path: KeyPath, origins: Origins) -> KeyPath:
    """Where the grid states the setting at `path`, or the innermost mapping around it."""
    for end in range(len(path), 0, -1):
        if path[:end] in origins:
            return origins[path[:end]] + path[end:]
    return path


def _resolve_tables(tree: dict[str, Any]) -> dict[str, Any]:
    """Replaces each table by model name in ``training`` by this run's value; for a model that there is not, by any."""
    training, name = tree.get("training"), _model_name(tree)
    if not isinstance(training, Mapping):
        return tree
    resolved = dict(training)
    for key, table in training.items():
        if isinstance(table, Mapping):
            if name in MODELS and name not in table:
                words = f"the table has no value for the model {name!r}, only for {list(table)}"
                raise refuse(("training", key), words)
            resolved[key] = table.get(name, next(iter(table.values()), None))
    return tree | {"training": resolved}


def _model_name(tree: Mapping[str, Any]) -> str:
    """Name of the run's model, "" where the tree has none."""
    model = tree.get("model")
    name = model.get("name") if isinstance(model, Mapping) else model
    return name if isinstance(name, str) else ""
