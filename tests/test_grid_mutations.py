"""Grids with something wrong in them, drawn at random: each can be run or is refused with the file and the key."""

from __future__ import annotations

import copy
import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from experiments.asked import sizes_of
from experiments.grid import GridError, load_grid

GRID = """
description: To be damaged.
fixed:
  kind: learn
  budget: {parameters: 5_000}
  training: {steps: 10, batch_size: 4, evaluate_every: 5, learning_rate: {lstm: 4e-3, transformer: 1.5e-3}}
  decoding: {beam_size: 2, length_penalty: 0.5}
compare:
  task: [{name: reverse, min_length: 1, max_length: 4, longer_lengths: [5, 6]}]
  model: [lstm, {name: transformer, num_heads: 2, positions: sinusoidal}]
  seed: [0, 1]
parts:
  - fixed: {training: {warmup_steps: 5}}
    tune:
      trials: 2
      seed: 9
      ranges:
        lstm: {training: {clip: {log_uniform: [0.5, 2]}}, model: {layers: {choices: [1, 2]}}}
        transformer: {training: {clip: {uniform: [0.5, 2]}}}
  - compare: {task: [{name: reverse, min_length: 1, max_length: 3, longer_lengths: [4]}]}
    tune:
      trials: 3
      seed: 9
      sampler: tpe
      pruner: median
      startup: 1
      ranges:
        lstm: {training: {clip: {log_uniform: [0.5, 2]}}, model: {layers: {choices: [1, 2]}}}
        transformer: {training: {clip: {uniform: [0.5, 2]}}}
"""
TREE = yaml.safe_load(GRID)

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 2, 7, 10**9, 10**30, -(10**30), 10**400, 1e308, 1e-300, 0.5, -0.5]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(["lstm", "transformer", "learn", "efficiency", "reverse", "g2p", "{}", "1e400", "\ud800", "é\0"]),
    st.dates(),
    st.binary(max_size=4),
)
keys = st.one_of(st.sampled_from(["steps", "name", "kind", "seed", "fixed", "compare", "profiles", "layers"]), scalars)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=3)),
    max_leaves=6,
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of every value in the tree."""
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    return [path, *(found for key, value in inner for found in places(value, (*path, key)))]


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """A grid with one to three values replaced, removed or added, or bytes of its text changed."""
    if draw(st.integers(0, 4)) == 0:
        text = GRID.encode()
        at = draw(st.integers(0, len(text)))
        return text[:at] + draw(st.binary(min_size=1, max_size=4)) + text[at + draw(st.integers(0, 12)) :]
    tree = copy.deepcopy(TREE)
    for _ in range(draw(st.integers(1, 3))):
        *above, key = draw(st.sampled_from(places(tree)[1:]))
        level = tree
        for step in above:
            level = level[step]
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "replace":
            level[key] = draw(anything)
        elif action == "remove":
            del level[key]
        elif isinstance(level, dict):
            level[draw(keys)] = draw(anything)
        else:
            level.append(draw(anything))
        if not places(tree)[1:]:
            break
    return yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass")


def refusal(path: Path) -> str:
    """Why a grid cannot be run; "" where it can."""
    said = io.StringIO()
    try:
        grid = load_grid(str(path))
        with redirect_stderr(said):
            sizes_of(grid, None)
    except GridError as error:
        return str(error)
    except typer.Exit:
        return said.getvalue().removeprefix("lvt: ")
    return ""


def runs_or_is_refused(content: bytes, folder: Path) -> None:
    path = folder / "g.yaml"
    path.write_bytes(content)
    told = refusal(path)
    assert told == "" or told.startswith(f"{path}: ")
    assert len(told) < 20_000
    assert [entry.name for entry in folder.iterdir()] == ["g.yaml"]


QUICKLY = settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICKLY
@given(content=damaged())
def test_a_damaged_grid_runs_or_is_refused(content: bytes, tmp_path: Path) -> None:
    runs_or_is_refused(content, tmp_path)


@pytest.mark.faults
@settings(QUICKLY, max_examples=1000)
@given(content=damaged())
def test_a_thousand_damaged_grids_run_or_are_refused(content: bytes, tmp_path: Path) -> None:
    runs_or_is_refused(content, tmp_path)


def test_the_undamaged_grid_runs(tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_text(GRID, encoding="utf-8")
    assert refusal(path) == ""


BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB.encode() + b"description: *i\n", "expands to more than"),
        (b"description: &a [*a]\n", "contains itself"),
        (b"[" * 5000, "too deeply nested"),
        (b"description: " + b"9" * 5000, "not YAML"),
        (b"description: caf\xe9", r"not UTF-8 \(byte 16\)"),
        (b"\xff\xfe\x00d", "not UTF-8"),
        (b"description: !!python/object/apply:os.system [ls]", "not YAML"),
        (b"", "the file is empty"),
        (
            GRID.replace(
                "seed: [0, 1]", f"seed: {list(range(2000))}\n  budget: {[{'parameters': 5000}] * 100}"
            ).encode(),
            "compare: 400,000 runs",
        ),
    ],
    ids=["bomb", "loop", "depth", "digits", "latin", "bytes", "python", "empty", "many"],
)
def test_hostile_grids(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    path.write_bytes(content)
    with pytest.raises(GridError, match=message) as caught:
        load_grid(str(path))
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize(
    ("setting", "value"), [("layers", 10**9), ("hidden_size", 10**12), ("num_heads", 10**9), ("layers", 10**400)]
)
def test_impossible_models(setting: str, value: int, tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    widths = {"hidden_size": 8, "feedforward_size": 8} | {setting: value}
    tree = copy.deepcopy(TREE)
    del tree["fixed"]["budget"]
    tree["compare"]["model"] = [{"name": "transformer", **widths}]
    path.write_text(yaml.safe_dump(tree), encoding="utf-8")
    assert refusal(path).startswith(f"{path}: compare.model[0]")


@pytest.mark.parametrize(
    ("old", "new", "place"),
    [
        ("parameters: 5_000", "parameters: 5", "fixed.budget.parameters: lstm · reverse"),
        ("parameters: 5_000", "state_bytes: 5_000, length: 5", "fixed.budget.state_bytes: "),
        (
            "fixed: {training: {warmup_steps: 5}}",
            "fixed: {budget: {parameters: 5}}",
            "parts[0].fixed.budget.parameters: lstm",
        ),
        ("batch_size: 4", "batch_tokens: 9", "fixed.training.batch_tokens: lstm · reverse(max_length=4)"),
    ],
)
def test_what_no_run_can_be_made_of_is_told_where_it_stands(old: str, new: str, place: str, tmp_path: Path) -> None:
    path = tmp_path / "g.yaml"
    assert old in GRID
    path.write_text(GRID.replace(old, new), encoding="utf-8")
    assert refusal(path).startswith(f"{path}: {place}")
