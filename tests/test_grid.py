"""Grids: what they expand to, how keys identify runs, and what a wrong grid is told."""

from __future__ import annotations

import os
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import NoReturn

import pytest
import yaml

from analysis.runs import family
from analysis.variants import options
from experiments import files
from experiments.config import EfficiencyRun, LearnRun, run_key
from experiments.data import DataError
from experiments.grid import BUNDLED, Grid, GridError, bundled_grids, load_grid
from experiments.inputs import sized_model
from experiments.tasks.strings import Reverse

GRID = """
description: A grid for tests.
fixed:
  kind: learn
  budget: {parameters: 50_000}
  training: {steps: 10, batch_size: 4, evaluate_every: 5, learning_rate: {lstm: 4e-3, transformer: 1.5e-3}}
compare:
  task: [{name: reverse}, {name: reverse, max_length: 40, longer_lengths: [50]}]
  model: [lstm, {name: transformer, layers: 4}]
  seed: [0, 1, 2]
"""


def write(folder: Path, text: str = GRID, name: str = "g.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


def learn_runs(grid: Grid) -> list[LearnRun]:
    assert all(isinstance(run, LearnRun) for run in grid.runs)
    return [run for run in grid.runs if isinstance(run, LearnRun)]


def test_every_combination_once(tmp_path: Path) -> None:
    grid = load_grid(write(tmp_path))
    runs = learn_runs(grid)
    assert grid.name == "g"
    assert {(run.task.label, run.model.label, run.seed) for run in runs} == {
        (task, model, seed)
        for task in ("reverse", "reverse(max_length=40)")
        for model in ("lstm", "transformer(layers=4)")
        for seed in (0, 1, 2)
    }
    assert len(runs) == 12


def test_tables_by_model_are_resolved(tmp_path: Path) -> None:
    for run in learn_runs(load_grid(write(tmp_path))):
        assert run.training.learning_rate == {"lstm": 4e-3, "transformer": 1.5e-3}[run.model.name]


def test_keys_are_stable_and_distinct(tmp_path: Path) -> None:
    """The first key is written out: should it change, results in people's stores are not found any more."""
    runs = load_grid(write(tmp_path)).runs
    keys = [run_key(run, "cpu") for run in runs]
    assert len(set(keys)) == len(keys)
    assert keys == [run_key(run, "cpu") for run in load_grid(write(tmp_path, name="other.yaml")).runs]
    assert run_key(runs[0], "cpu") != run_key(runs[0], "cuda")
    assert keys[0] == "2ace5c70c22f"


def test_a_default_written_out_is_the_same_run(tmp_path: Path) -> None:
    stated = GRID.replace("{name: reverse}", "{name: reverse, symbols: 16}").replace("steps: 10", "steps: 10, clip: 1")
    assert load_grid(write(tmp_path, stated)).runs == load_grid(write(tmp_path)).runs


def test_any_setting_changes_the_key(tmp_path: Path) -> None:
    path = write(tmp_path)
    before = {run_key(run, "cpu") for run in load_grid(path).runs}
    for override in (
        "training.steps=11",
        "training.weight_decay=0.5",
        "task.symbols=3",
        "task.longer_lengths=[64]",
        "model.dropout=0.5",
        "budget.parameters=60000",
        "seed=7",
        "decoding.beam_size=4",
    ):
        assert before.isdisjoint(run_key(run, "cpu") for run in load_grid(path, [override]).runs), override


def test_set_replaces_a_setting_of_every_run(tmp_path: Path) -> None:
    runs = learn_runs(load_grid(write(tmp_path), ["task.symbols=5", "training.steps=3", "model=lstm", "seed=0"]))
    assert [(run.task, run.training.steps, run.model.name, run.seed) for run in runs] == [
        (Reverse(symbols=5), 3, "lstm", 0),
        (Reverse(symbols=5, max_length=40, longer_lengths=(50,)), 3, "lstm", 0),
    ]


def test_set_reaches_below_a_model_given_by_name(tmp_path: Path) -> None:
    labels = {run.model.label for run in load_grid(write(tmp_path), ["model.layers=3"]).runs}
    assert labels == {"lstm(layers=3)", "transformer(layers=3)"}


def test_set_replaces_an_axis_of_the_grid(tmp_path: Path) -> None:
    path = write(tmp_path)
    assert {run.seed for run in load_grid(path, ["compare.seed=[5, 6]"]).runs} == {5, 6}
    assert {run.model.label for run in load_grid(path, ["compare.model=[lstm]"]).runs} == {"lstm"}
    assert {run.task_label for run in load_grid(path, ["compare.task.0.max_length=9"]).runs} == {
        "reverse(max_length=9)",
        "reverse(max_length=40)",
    }


@pytest.mark.parametrize(
    ("profile", "override", "message"),
    [
        (None, "fixed.seed=7", "fixed.seed: does not count where it is stated again: set compare.seed"),
        (
            "full",
            "fixed.training.clip=7",
            "fixed.training.clip: .* again: set profiles.full.parts.0.fixed.training.clip$",
        ),
        (
            "full",
            "fixed.training={clip: 7}",
            "fixed.training: .* again: set profiles.full.parts.0.fixed.training.clip$",
        ),
        (
            "full",
            "compare.task=[{name: reverse}]",
            "compare.task: does not count where it is stated again: set profiles.full.parts.0.compare.task$",
        ),
        ("full", "compare.budget=[{parameters: 1}]", None),  # both mappings: the part's comes first
        ("small", "profiles.full.compare.seed=[7]", "profiles.full.compare.seed: nothing that is run stands there"),
    ],
)
def test_set_is_refused_where_it_does_not_count(
    profile: str | None, override: str, message: str | None, tmp_path: Path
) -> None:
    path = write(tmp_path, GRID if profile is None else PROFILES)
    if message is None:
        assert load_grid(path, [override.replace("1}", "60_000}")], profile).runs
        return
    with pytest.raises(GridError, match=f"--set {message}"):
        load_grid(path, [override], profile)


def test_set_is_refused_in_bundled_grids_whose_parts_state_it_again() -> None:
    parts = ", ".join(f"parts.{i}.compare.seed" for i in range(3))
    with pytest.raises(GridError, match=f"stated again: set {parts}, parts.3.fixed.seed$"):
        load_grid("quickstart", ["compare.seed=[7]"])
    parts = ", ".join(f"profiles.small.parts.{i}.compare.seed" for i in range(2))
    with pytest.raises(GridError, match=f"stated again: set {parts}$"):
        load_grid("real", ["compare.seed=[0]"], "small")
    assert {run.seed for run in load_grid("real", ["parts.0.compare.seed=[7]"], "small").runs} == {0, 7}
    assert {run.seed for run in load_grid("compositional", ["compare.seed=[7, 8]"]).runs} == {7, 8}


def test_set_changes_nothing_that_an_alias_repeats(tmp_path: Path) -> None:
    text = GRID.replace("{lstm: 4e-3, transformer: 1.5e-3}", "1e-3").replace("fixed:\n", "fixed: &all\n")
    path = write(tmp_path, text + "parts: [{fixed: *all}, {fixed: *all}]\n")
    runs = learn_runs(load_grid(path, ["parts.1.fixed.training.clip=0.25"]))
    assert [run.training.clip for run in runs] == [1.0] * 12 + [0.25] * 12


PROFILES = (
    GRID.replace("  seed: [0, 1, 2]\n", "  seed: [0]\n")
    + """
profiles:
  small: {fixed: {training: {steps: 3}}}
  full:
    fixed: {training: {batch_size: 8}}
    compare: {seed: [0, 1, 2, 3]}
    parts:
      - fixed: {task: {name: reverse, symbols: 5}, training: {clip: 0.5}}
        compare: {task: [{}]}
      - fixed: {budget: {parameters: 60_000}}
"""
)


def test_the_first_profile_is_run_unless_another_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, PROFILES)
    small, full = load_grid(path), load_grid(path, profile="full")
    assert (small.name, full.name) == ("g-small", "g-full")
    assert load_grid(path, profile="small") == small
    assert {(run.training.steps, run.training.batch_size, run.seed) for run in learn_runs(small)} == {(3, 4, 0)}
    runs = learn_runs(full)
    assert {(run.training.steps, run.training.batch_size) for run in runs} == {(10, 8)}
    assert {run.seed for run in runs} == {0, 1, 2, 3}
    assert [run.training.clip for run in runs] == [0.5] * 8 + [1.0] * 16
    assert {run.task.label for run in runs[:8]} == {"reverse(symbols=5)"}


def test_set_reaches_the_profile_that_states_a_setting(tmp_path: Path) -> None:
    path = write(tmp_path, PROFILES)
    for profile in ("small", "full"):
        assert {run.seed for run in load_grid(path, ["compare.seed=[5, 6]"], profile).runs} == {5, 6}
        assert {run.model.label for run in load_grid(path, ["compare.model=[lstm]"], profile).runs} == {"lstm"}
    one_part = learn_runs(load_grid(path, ["parts.1.fixed.training.clip=0.25"], "full"))
    assert [run.training.clip for run in one_part] == [0.5] * 8 + [0.25] * 16


def test_a_profile_that_cannot_be_run_is_refused_where_it_stands(tmp_path: Path) -> None:
    path = write(tmp_path, PROFILES)
    with pytest.raises(GridError, match=r"--profile ful: no such profile; did you mean full\? Allowed: full, small"):
        load_grid(path, profile="ful")
    with pytest.raises(GridError, match=r"--profile small: this grid has no profiles"):
        load_grid(write(tmp_path, name="plain.yaml"), profile="small")
    wrong = write(tmp_path, PROFILES.replace("{clip: 0.5}", "{clop: 0.5}"), "wrong.yaml")
    assert load_grid(wrong).name == "wrong-small"
    with pytest.raises(
        GridError, match=r"profiles\.full\.parts\[0\]\.fixed\.training\.clop: unknown key; did you mean clip"
    ):
        load_grid(wrong, profile="full")
    twice = write(tmp_path, PROFILES + "parts: [{}]\n", "twice.yaml")
    with pytest.raises(GridError, match=r"profiles\.full\.parts: the grid states its parts already"):
        load_grid(twice, profile="full")
    for broken in ("profiles: 3", "profiles: {small: 3}", "profiles: {1: {}}", "profiles: {small: {fixed: 3}}"):
        with pytest.raises(GridError, match="profiles"):
            load_grid(write(tmp_path, GRID + broken, "broken.yaml"), ["compare.seed=[1]"])


def test_parts_add_to_what_stands_above_them(tmp_path: Path) -> None:
    text = """
description: Two kinds.
fixed: {budget: {parameters: 50_000}, training: {steps: 10, batch_size: 4, evaluate_every: 5}}
compare: {model: [lstm, transformer]}
parts:
  - fixed: {kind: learn, task: {name: reverse}, training: {learning_rate: 1e-3, steps: 20}}
    compare: {seed: [0, 1]}
  - fixed: {kind: efficiency, seed: 0, efficiency: {lengths: [4, 8], tokens_per_batch: 64}}
"""
    with pytest.raises(GridError, match=r"fixed.training: unknown key for a run of kind efficiency"):
        load_grid(write(tmp_path, text))
    text = text.replace(", training: {steps: 10, batch_size: 4, evaluate_every: 5}}\ncompare", "}\ncompare")
    text = text.replace(
        "{learning_rate: 1e-3, steps: 20}", "{learning_rate: 1e-3, steps: 20, batch_size: 4, evaluate_every: 5}"
    )
    grid = load_grid(write(tmp_path, text))
    assert sum(isinstance(run, LearnRun) for run in grid.runs) == 4
    assert sum(isinstance(run, EfficiencyRun) for run in grid.runs) == 2
    shorter = load_grid(write(tmp_path, text), ["training.steps=1"])  # the sweep has no such setting, and needs none
    assert sum(isinstance(run, EfficiencyRun) for run in shorter.runs) == 2
    assert {run.training.steps for run in shorter.runs if isinstance(run, LearnRun)} == {1}


@pytest.mark.parametrize("name", [name for name in bundled_grids() if name != "compare_my_data"])  # that needs files
def test_bundled_grids_can_be_run(name: str) -> None:
    grid = load_grid(name)
    assert grid.runs
    assert grid.description
    told = {(run.kind, run.task_label, run.model.label, run.seed, getattr(run, "tuned", None)) for run in grid.runs}
    assert len(told) == len(grid.runs)
    for run in grid.runs:  # the analysis reads settings from labels
        assert run.task_label == family(run.task_label) or options(run.task_label)
        assert run.model.label == family(run.model.label) or options(run.model.label)


def sizes_of(name: str) -> list[tuple[str, str | None]]:
    """A bundled grid in each of its profiles."""
    tree = yaml.safe_load((BUNDLED / f"{name}.yaml").read_text(encoding="utf-8"))
    return [(name, profile) for profile in tree.get("profiles", [None])]


@pytest.mark.parametrize(
    ("name", "profile"), [size for name in bundled_grids() if name != "compare_my_data" for size in sizes_of(name)]
)
def test_the_budgets_of_bundled_grids_can_be_met(
    name: str, profile: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With widths for every model on every task, trials of tuning too; of corpora where LVT_DATA has them."""
    monkeypatch.setattr(files, "urlopen", no_network)
    monkeypatch.setattr(files, "DOWNLOAD_PAUSE", 0.0)
    data = Path(os.environ["LVT_DATA"]) if "LVT_DATA" in os.environ else None
    grid = load_grid(name, (), profile)
    every = [*grid.runs, *(run for tuning in grid.tunings for run in tuning.possible)]
    alike = {
        (run.model, run.budget, run.efficiency if isinstance(run, EfficiencyRun) else run.task): run for run in every
    }
    for run in alike.values():
        unknown = not isinstance(run, EfficiencyRun) and run.task.dimensions is None
        if unknown and data is None:
            continue
        with suppress(DataError) if unknown else nullcontext():
            config, _ = sized_model(run, data)
            assert config.hidden_size


def no_network(*arguments: object, **settings: object) -> NoReturn:
    raise OSError("no network")


@pytest.mark.parametrize(
    ("axis", "labels"),
    [
        ("budget: [{parameters: 50_000}, {parameters: 90_000}]", {"parameters=50000", "parameters=90000"}),
        ("training: [{}, {clip: 2.0, batch_size: 8}]", {"batch_size=4, clip=1.0", "batch_size=8, clip=2.0"}),
        ("decoding: [{beam_size: 1}, {beam_size: 4}]", {"beam_size=1", "beam_size=4"}),
        (
            "training: [{}, {learning_rate: {lstm: 1e-3, transformer: 2e-3}}]",  # the same of all models
            {
                "learning_rate={lstm: 0.004, transformer: 0.0015}",
                "learning_rate={lstm: 0.001, transformer: 0.002}",
            },
        ),
        ("training: [{}, {batch_size: 4}]", {""}),  # what is stated twice is one run
    ],
)
def test_what_else_a_grid_compares_is_an_option_of_the_task(axis: str, labels: set[str], tmp_path: Path) -> None:
    plain = {run.condition for run in load_grid(write(tmp_path)).runs}
    assert plain == {""}
    runs = learn_runs(load_grid(write(tmp_path, GRID.replace("compare:", f"compare:\n  {axis}"))))
    assert len(runs) == 12 * len(labels)
    assert {(run.task_label, run.model.label, run.seed) for run in runs} == {
        (task, model, seed)
        for label in labels
        for task in (
            f"reverse({label})" if label else "reverse",
            f"reverse(max_length=40{', ' * bool(label)}{label})",
        )
        for model in ("lstm", "transformer(layers=4)")
        for seed in (0, 1, 2)
    }
    assert all(
        label == ", ".join(f"{k}={v}" for k, v in options(f"reverse({label})").items()) for label in labels if label
    )


def test_what_a_grid_compares_is_said_where_it_is_compared(tmp_path: Path) -> None:
    """Of another task nothing; of a model that has one setting, the same as of those that have two."""
    text = """
description: two budgets of one model, one of the other
fixed:
  kind: learn
  training: {steps: 10, batch_size: 4, evaluate_every: 5, learning_rate: 1e-3}
compare:
  seed: [0]
parts:
  - compare: {task: [{name: reverse}], model: [lstm, transformer], budget: [{parameters: 50_000}]}
  - compare: {task: [{name: reverse}], model: [lstm], budget: [{parameters: 90_000}]}
  - compare: {task: [{name: running_parity}], model: [lstm], budget: [{parameters: 90_000}]}
"""
    runs = learn_runs(load_grid(write(tmp_path, text)))
    assert [(run.task_label, run.model.label) for run in runs] == [
        ("reverse(parameters=50000)", "lstm"),
        ("reverse(parameters=50000)", "transformer"),
        ("reverse(parameters=90000)", "lstm"),
        ("running_parity", "lstm"),
    ]


def test_precisions_and_what_is_tested_beyond_training_are_told_apart(tmp_path: Path) -> None:
    text = """
description: sweeps in two precisions
fixed: {kind: efficiency, budget: {parameters: 50_000}}
compare:
  model: [lstm]
  seed: [0]
  efficiency: [{lengths: [8], batch_size: 2}, {lengths: [8], batch_size: 2, precision: bfloat16}]
"""
    labels = [run.task_label for run in load_grid(write(tmp_path, text)).runs]
    assert labels == [
        "length_sweep(batch_size=2, precision=auto)",
        "length_sweep(batch_size=2, precision=bfloat16)",
    ]
    longer = GRID.replace("[{name: reverse}, ", "[{name: reverse}, {name: reverse, longer_lengths: [64]}, ")
    conditions = {
        run.condition for run in learn_runs(load_grid(write(tmp_path, longer))) if run.task.label == "reverse"
    }
    assert conditions == {"longer_lengths=[24, 32]", "longer_lengths=[64]"}


def test_a_condition_is_no_setting(tmp_path: Path) -> None:
    """A run is found again, whatever else its grid compares now."""
    several = load_grid(write(tmp_path, GRID.replace("compare:", "compare:\n  training: [{}, {batch_size: 8}]"))).runs
    alone = {run_key(run, "cpu") for run in load_grid(write(tmp_path)).runs}
    assert alone < {run_key(run, "cpu") for run in several}
    assert all("condition" not in run.settings() for run in several)
    with pytest.raises(GridError, match=r"fixed\.condition: unknown key"):
        load_grid(write(tmp_path, GRID.replace("kind: learn", "kind: learn\n  condition: mine")))


WRONG = {
    "fixed.training.steps": ("steps: 10", "stpes: 10", r"fixed\.training\.stpes: unknown key; did you mean steps\?"),
    "a missing key": ("evaluate_every: 5, ", "", r"fixed\.training\.evaluate_every: is missing"),
    "no limit": ("steps: 10, ", "", r"fixed\.training: state exactly one of steps, tokens, seconds, flops, not none"),
    "two limits": (
        "steps: 10, ",
        "steps: 10, tokens: 9, ",
        r"fixed\.training: state exactly one of .*, not steps and tokens",
    ),
    "a wrong type": ("steps: 10", "steps: ten", r"fixed\.training\.steps: found 'ten'; it should be a valid integer"),
    "a number as text": ("steps: 10", "steps: '10'", r"fixed\.training\.steps: found '10'"),
    "truth as number": ("steps: 10", "steps: true", r"fixed\.training\.steps: found True"),
    "a negative number": ("batch_size: 4", "batch_size: -4", r"fixed\.training\.batch_size: found -4; .* greater than"),
    "not a number": ("4e-3", ".nan", r"fixed\.training\.learning_rate"),
    "an axis": ("seed: [", "sead: [", r"compare\.sead: unknown key; did you mean seed\?"),
    "fixed and compared": (
        "kind: learn",
        "kind: learn\n  seed: 1",
        r"fixed\.seed: is compared \(compare\.seed\): state it in one place",
    ),
    "an empty axis": ("[0, 1, 2]", "[]", r"compare\.seed: an empty list leaves nothing to run"),
    "a negative seed": ("[0, 1, 2]", "[-1]", r"compare\.seed\[0\]: a whole number from 0 on"),
    "a task": (
        "{name: reverse}",
        "{name: revers}",
        r"compare\.task\[0\]\.name: found 'revers'; did you mean reverse\?",
    ),
    "a task's option": (
        "max_length: 40",
        "max_lenght: 40",
        r"task\[1\]\.max_lenght: unknown key; did you mean max_length",
    ),
    "a task's value": ("max_length: 40", "max_length: 0", r"compare\.task\[1\]\.max_length: found 0"),
    "two options": (
        "max_length: 40",
        "max_length: 4, min_length: 5",
        r"task\[1\]: min_length is larger than max_length",
    ),
    "longer lengths": (
        "[50]",
        "[50, 40]",
        r"task\[1\]\.longer_lengths: \[50, 40\] are not all beyond training, .* to 40",
    ),
    "their default": (
        ", longer_lengths: [50]",
        "",
        r"task\[1\]\.longer_lengths: \[24, 32\] are not all .* up to 40: state larger ones, or \[\] for none",
    ),
    "a model": ("[lstm, ", "[ltsm, ", r"compare\.model\[0\]\.name: found 'ltsm'; did you mean lstm\?"),
    "a model's option": ("layers: 4", "layer: 4", r"compare\.model\[1\]\.layer: unknown key; did you mean layers\?"),
    "a model's value": ("layers: 4", "num_heads: 0", r"compare\.model\[1\]: num_heads must be at least 1, not 0"),
    "a budget": ("{parameters: 50_000}", "{parameter: 50_000}", r"fixed\.budget\.parameter: unknown key; did you mean"),
    "two budgets": (
        "{parameters: 50_000}",
        "{parameters: 5, state_bytes: 5, length: 5}",
        r"fixed\.budget: state one of",
    ),
    "a length": ("{parameters: 50_000}", "{state_bytes: 5}", r"fixed\.budget: length belongs to"),
    "a beam": (
        "task: [{name: reverse},",
        "decoding: [{beam_size: 2}]\n  task: [{name: running_parity},",
        r"compare\.decoding\[0\]\.beam_size: the decoder of running_parity answers given inputs",
    ),
    "a penalty": (
        "task: [{name: reverse},",
        "decoding: [{length_penalty: 1}]\n  task: [{name: reverse},",
        r"compare\.decoding\[0\]: a length_penalty needs a beam_size above 1",
    ),
    "budget and width": ("layers: 4", "hidden_size: 8, feedforward_size: 8", r"fixed\.budget: state either"),
    "neither": ("  budget: {parameters: 50_000}\n", "", r"budget: state either"),
    "a table": (
        "transformer: 1.5e-3",
        "transfromer: 1.5e-3",
        r"learning_rate: the table has no value for the model 'tr",
    ),
    "a kind": ("kind: learn", "kind: lern", r"fixed\.kind: found 'lern'; did you mean learn\?"),
    "no description": ("description: A grid for tests.\n", "", r"description: is missing"),
    "a top-level key": ("compare:", "comparison:", r"comparison: unknown key; did you mean compare\?"),
    "a key twice": ("  seed:", "  seed: [4]\n  seed:", r"not YAML: .*the key 'seed' stands twice"),
    "no YAML": ("compare:", "compare: [", r"not YAML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_grid_is_told_where_and_what(case: str, tmp_path: Path) -> None:
    old, new, message = WRONG[case]
    assert old in GRID
    path = write(tmp_path, GRID.replace(old, new, 1))
    with pytest.raises(GridError, match=r"(?s)" + message) as caught:
        load_grid(path)
    assert str(caught.value).startswith(path)


def test_all_that_is_wrong_with_a_run_is_told_at_once(tmp_path: Path) -> None:
    text = GRID
    for old, new in (("steps", "stpes"), ("parameters:", "paramters:"), ("reverse}", "revers}"), ("[lstm,", "[ltsm,")):
        text = text.replace(old, new, 1)
    path = write(tmp_path, text.replace("[0, 1, 2]", "[-1]"))
    with pytest.raises(GridError) as caught:
        load_grid(path)
    found = [line.removeprefix(f"{path}: ").split(": ")[0] for line in str(caught.value).splitlines()]
    assert found == [
        "compare.model[0].name",
        "fixed.budget.paramters",
        "compare.seed[0]",
        "compare.task[0].name",
        "fixed.training.stpes",
    ]


def test_all_that_is_wrong_with_several_runs_is_told_once(tmp_path: Path) -> None:
    text = GRID.replace("layers: 4", "layer: 4").replace("reverse}", "revers}").replace("[lstm,", "[ltsm,")
    with pytest.raises(GridError) as caught:
        load_grid(write(tmp_path, text))
    found = [line.partition(".yaml: ")[2].split(": ")[0] for line in str(caught.value).splitlines()]
    assert sorted(found) == ["compare.model[0].name", "compare.model[1].layer", "compare.task[0].name"]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("training.stpes=3", "--set training.stpes: unknown key; did you mean steps"),
        ("trainin.steps=3", r"--set trainin.steps: no run has such a setting; did you mean training\?"),
        ("training.steps", r"write it as path.to.key=value"),
        ("training.steps.x=3", r"nothing can be set below training\.steps"),
        ("compare.seed=3", r"compare\.seed: found 3; it should be a valid (array|list)"),
        ("training.steps=[", r"the value is not YAML"),
    ],
)
def test_a_wrong_override_is_told_so(override: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(GridError, match=message):
        load_grid(write(tmp_path), [override])


def test_unreadable_grids(tmp_path: Path) -> None:
    with pytest.raises(GridError, match=r"no grid named 'quikstart'; did you mean quickstart\?"):
        load_grid("quikstart")
    with pytest.raises(GridError, match="No such file"):
        load_grid(str(tmp_path / "missing.yaml"))
    latin = tmp_path / "latin.yaml"
    latin.write_bytes("description: café".encode("latin-1"))
    with pytest.raises(GridError, match="not UTF-8"):
        load_grid(str(latin))
    with pytest.raises(GridError, match=r"should be an object|valid dictionary"):
        load_grid(write(tmp_path, "- a list"))
