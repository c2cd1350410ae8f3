"""Tuning: what a grid may state, which trials it makes of that, and what validation chooses of them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from experiments import grid as grids
from experiments.config import LearnRun, run_key, run_name
from experiments.grid import Grid, GridError, load_grid
from experiments.schema import FINAL, TUNING
from experiments.trials import Result, Tuning
from experiments.tuning import Range

GRID = """
description: For tests.
fixed:
  kind: learn
  budget: {parameters: 50_000}
  training: {steps: 10, batch_size: 4, evaluate_every: 5}
tune:
  trials: 4
  seed: 100
  ranges:
    lstm: {training: {learning_rate: {log_uniform: [1e-3, 1e-2]}}, model: {dropout: {choices: [0.0, 0.2]}}}
    transformer: {training: {learning_rate: {log_uniform: [1e-4, 1e-3]}}, model: {layers: {choices: [1, 2, 4]}}}
compare:
  task: [{name: reverse}, {name: reverse, max_length: 40, longer_lengths: [50]}]
  model: [lstm, {name: transformer, num_heads: 2}]
  seed: [0, 1, 2]
"""
MODELS = ("lstm", "transformer(num_heads=2)")
TASKS = ("reverse", "reverse(max_length=40)")


def load(folder: Path, text: str = GRID, *overrides: str, profile: str | None = None) -> Grid:
    path = folder / "g.yaml"
    path.write_text(text, encoding="utf-8")
    return load_grid(str(path), overrides, profile)


def trials(grid: Grid) -> list[LearnRun]:
    return [run for run in grid.runs if isinstance(run, LearnRun) and run.phase == TUNING]


def drawn(grid: Grid) -> list[str]:
    return [run.tuned.words for run in trials(grid) if run.tuned is not None]


# --- what a grid becomes ---------------------------------------------------------------------------------------------
def test_every_model_has_the_same_number_of_trials_on_each_task(tmp_path: Path) -> None:
    grid = load(tmp_path)
    assert len(grid.runs) == len(trials(grid)) == 16
    assert [(t.trials[0].task_label, t.trials[0].model.label, len(t.trials), t.seeds) for t in grid.tunings] == [
        (task, model, 4, (0, 1, 2)) for task in TASKS for model in MODELS
    ]
    assert [run for tuning in grid.tunings for run in tuning.trials] == list(grid.runs)
    for tuning in grid.tunings:
        assert [run.tuned.trial for run in tuning.trials if run.tuned is not None] == [1, 2, 3, 4]
        assert {run.seed for run in tuning.trials} == {100}
    assert len({run_key(run, "cpu") for run in grid.runs}) == 16


def test_a_trial_has_what_was_drawn_for_it(tmp_path: Path) -> None:
    """In its training and its model; the label of the model says nothing of it, the run's name says which trial."""
    for run in trials(load(tmp_path)):
        assert run.tuned is not None
        setting = dict(part.split("=") for part in run.tuned.words.split(", "))
        assert run.training.learning_rate == float(setting["learning_rate"])
        assert run.model.label in MODELS
        assert run_name(run) == f"{run.model.label} · {run.task_label} · seed 100 · trial {run.tuned.trial}"
        if run.model.name == "lstm":
            assert set(setting) == {"learning_rate", "dropout"}
            assert 1e-3 <= run.training.learning_rate <= 1e-2
            assert run.model.config.dropout == float(setting["dropout"]) in (0.0, 0.2)
        else:
            assert set(setting) == {"learning_rate", "layers"}
            assert 1e-4 <= run.training.learning_rate <= 1e-3
            assert run.model.config.layers == int(setting["layers"]) in (1, 2, 4)


def test_trials_are_drawn_anew_with_another_seed_only(tmp_path: Path) -> None:
    """More trials add to those that were there, so that these are not run again; a model has the same on every task."""
    first = drawn(load(tmp_path))
    assert drawn(load(tmp_path)) == first
    assert drawn(load(tmp_path, GRID, "tune.seed=101")) != first
    assert first[:8] == first[8:]
    assert len(set(first[:4])) == 4
    keys = {run_key(run, "cpu") for run in load(tmp_path).runs}
    assert keys < {run_key(run, "cpu") for run in load(tmp_path, GRID, "tune.trials=6").runs}


def test_as_many_choices_as_trials_are_all_tried(tmp_path: Path) -> None:
    text = GRID.replace("{log_uniform: [1e-3, 1e-2]}", "{choices: [1e-3, 1e-2]}")
    found = set(drawn(load(tmp_path, text, "compare.model=[lstm]")))
    assert found == {f"learning_rate={rate}, dropout={dropout}" for rate in (0.001, 0.01) for dropout in (0.0, 0.2)}


def test_draws_spread_over_their_range() -> None:
    """Kolmogorov and Smirnov's distance to the uniform distribution: 1.63 / sqrt(n) is exceeded in one case of 100."""
    random, n = Random(0), 2_000
    linear = sorted(Range(uniform=(2.0, 4.0)).draw(random) for _ in range(n))
    logarithmic = sorted(Range(log_uniform=(1e-4, 1e-2)).draw(random) for _ in range(n))
    shares = [[(x - 2) / 2 for x in linear], [math.log(x / 1e-4) / math.log(100) for x in logarithmic]]
    for share in shares:
        assert share[0] >= 0
        assert share[-1] <= 1
        assert max(abs(x - (i + 0.5) / n) for i, x in enumerate(share)) < 1.63 / math.sqrt(n)
    assert len({Range(choices=[1, 2, 3]).draw(random) for _ in range(100)}) == 3


def test_runs_of_other_kinds_are_not_tuned(tmp_path: Path) -> None:
    sweep = "fixed: {kind: efficiency, efficiency: {lengths: [4], batch_size: 2}}, compare: {seed: [0]}"
    text = (
        GRID.replace("  kind: learn\n", "")
        .replace("  training: {steps: 10, batch_size: 4, evaluate_every: 5}\n", "")
        .replace("  task: [{name: reverse}, {name: reverse, max_length: 40, longer_lengths: [50]}]\n", "")
    )
    learn = "fixed: {kind: learn, task: {name: reverse}, training: {steps: 10, batch_size: 4, evaluate_every: 5}}"
    grid = load(tmp_path, f"{text}parts: [{{{learn}}}, {{{sweep}}}]\n")
    assert [len(tuning.trials) for tuning in grid.tunings] == [4, 4]
    assert [(run.kind, run.phase) for run in grid.runs] == [("learn", TUNING)] * 8 + [("efficiency", FINAL)] * 2
    with pytest.raises(GridError, match="tune: only runs that learn can be tuned, and there are none"):
        load(tmp_path, f"{text}parts: [{{{sweep}}}]\n")


def test_a_profile_may_tune(tmp_path: Path) -> None:
    tune = GRID[GRID.index("tune:") : GRID.index("compare:")]
    text = GRID.replace(tune, "") + "profiles:\n  plain: {fixed: {training: {learning_rate: 1e-3}}}\n  tuned:\n"
    text += "".join(f"    {line}\n" for line in tune.splitlines())
    plain, tuned = load(tmp_path, text), load(tmp_path, text, profile="tuned")
    assert (plain.tunings, len(plain.runs)) == ((), 12)
    assert tuned.runs == load(tmp_path).runs
    more = load(tmp_path, text, "tune.trials=5", profile="tuned")
    assert {len(tuning.trials) for tuning in more.tunings} == {5}


def test_set_replaces_what_is_tuned_and_whom(tmp_path: Path) -> None:
    grid = load(tmp_path, GRID, "tune.ranges.lstm.model.dropout={uniform: [0.3, 0.4]}", "model=lstm", "seed=7")
    assert [tuning.seeds for tuning in grid.tunings] == [(7,)] * 2
    assert all(0.3 <= run.model.config.dropout <= 0.4 for run in trials(grid))


def test_runs_without_tuning_keep_their_keys(tmp_path: Path) -> None:
    """A trial is another run than one with the same settings that nothing chose, and so is a final one."""
    (lstm, *_) = load(tmp_path).tunings
    trial = lstm.trials[0]
    plain = replace(trial, tuned=None)
    final = lstm.choose({run_key(trial, "cpu"): Result(1.0)}, "cpu").final[0]
    assert "tuned" not in plain.settings()
    assert trial.settings() == plain.settings() | {"tuned": {"phase": "tuning", "trial": 1}}
    assert len({run_key(run, "cpu") for run in (trial, plain, replace(final, seed=100))}) == 3


# --- what is refused -------------------------------------------------------------------------------------------------
WRONG = {
    "trials": (
        "trials: 4",
        "trails: 4",
        r"tune\.trails: unknown key; did you mean trials\? Allowed: pruner, ranges, sa",
    ),
    "one trial": ("trials: 4", "trials: 1", r"tune\.trials: found 1; it should be greater than or equal to 2"),
    "no seed": ("  seed: 100\n", "", r"tune\.seed: is missing"),
    "the final seeds": ("seed: 100", "seed: 1", r"compare\.seed\[1\]: 1 is the seed of the trials \(tune\.seed\)"),
    "a final seed": ("[0, 1, 2]", "[0, -1]", r"compare\.seed\[1\]: a whole number from 0 on"),
    "no final seed": ("  seed: [0, 1, 2]\n", "", r"seed: a whole number from 0 on"),
    "a model": ("    lstm: {", "    ltsm: {", r"tune\.ranges\.ltsm: no such model; did you mean lstm\?"),
    "a compared model": ("[lstm,", "[ltsm,", r"compare\.model\[0\]\.name: found 'ltsm'; did you mean lstm\?"),
    "a model without ranges": (
        "[lstm,",
        "[lstm, lstm_attention,",
        r"tune\.ranges: no ranges for the model 'lstm_attention'; all are tuned alike, or none",
    ),
    "a half": (
        "lstm: {training",
        "lstm: {trainin",
        r"tune\.ranges\.lstm\.trainin: unknown key; did you mean training\? Allowed: model, training",
    ),
    "nothing tuned": (
        "transformer: {training: {learning_rate: {log_uniform: [1e-4, 1e-3]}}, model: {layers: {choices: [1, 2, 4]}}}",
        "transformer: {}",
        r"tune\.ranges\.transformer: state ranges of training, of model or of both",
    ),
    "a setting of training": (
        "{learning_rate: {log_uniform: [1e-3",
        "{learning_rat: {log_uniform: [1e-3",
        r"tune\.ranges\.lstm\.training\.learning_rat: unknown key; did you mean learning_rate\?",
    ),
    "a setting of the model": (
        "model: {dropout",
        "model: {dropuot",
        r"tune\.ranges\.lstm\.model\.dropuot: unknown key; did you mean dropout\?",
    ),
    "another family's": (
        "model: {dropout: {choices: [0.0, 0.2]}}",
        "model: {positions: {choices: [rotary, alibi]}}",
        r"tune\.ranges\.lstm\.model\.positions: unknown key",
    ),
    "a value": (
        "[0.0, 0.2]",
        "[0.0, 2]",
        r"compare\.model\[0\]: dropout must be in \[0, 1\), not 2\.0 \(trial \d, learning_rate=.*, dropout=2\)",
    ),
    "a limit": (
        "{learning_rate: {log_uniform: [1e-3",
        "{tokens: {log_uniform: [1e-3",
        r"tune\.ranges\.lstm: tokens is what a training may take, the same for every trial",
    ),
    "the model itself": ("{dropout: {choices: [0.0, 0.2]}}", "{name: {choices: [lstm]}}", r"tune\.ranges\.lstm: a mod"),
    "a range": (
        "{choices: [0.0, 0.2]}",
        "{choice: [0.0, 0.2]}",
        r"lstm\.model\.dropout\.choice: unknown key; did you mean choices\? Allowed: choices, log_uniform, uniform",
    ),
    "two ranges": (
        "{choices: [0.0, 0.2]}",
        "{choices: [0.0, 0.2], uniform: [0, 1]}",
        r"tune\.ranges\.lstm\.model\.dropout: state one of .*, not choices and uniform",
    ),
    "no range": ("{choices: [0.0, 0.2]}", "{}", r"tune\.ranges\.lstm\.model\.dropout: state one of .*, not none"),
    "a range that falls": ("[1e-3, 1e-2]", "[1e-2, 1e-3]", r"learning_rate: log_uniform goes from a smaller number"),
    "a logarithm of 0": ("[1e-3, 1e-2]", "[0, 1e-2]", r"learning_rate: log_uniform begins above 0, not with 0"),
    "no choice": ("[0.0, 0.2]", "[]", r"tune\.ranges\.lstm\.model\.dropout\.choices: found \[\]"),
    "a choice twice": ("[0.0, 0.2]", "[0.0, 0]", r"tune\.ranges\.lstm\.model\.dropout: a choice stands twice"),
    "too few settings": (
        "lstm: {training: {learning_rate: {log_uniform: [1e-3, 1e-2]}}",
        "lstm: {training: {learning_rate: {choices: [1e-3]}}",
        r"tune\.ranges\.lstm: hold 2 settings, and every model gets 4 trials, no two of them the same",
    ),
    "stated and tuned": (
        "evaluate_every: 5}",
        "evaluate_every: 5, learning_rate: 1e-3}",
        r"fixed\.training\.learning_rate: is tuned \(tune\.ranges\.lstm\.training\.learning_rate\): state it in one",
    ),
    "stated in a table and tuned": (
        "evaluate_every: 5}",
        "evaluate_every: 5, learning_rate: {transformer: 1e-3}}",
        r"fixed\.training\.learning_rate: is tuned \(tune\.ranges\.transformer",
    ),
    "compared and tuned": (
        "num_heads: 2}",
        "layers: 2}",
        r"compare\.model\[1\]\.layers: is tuned \(tune\.ranges\.transformer\.model\.layers\)",
    ),
    "a sampler": (
        "seed: 100",
        "seed: 100\n  sampler: tpee",
        r"tune\.sampler: found 'tpee'; did you mean tpe\? Allowed: r",
    ),
    "a pruner": ("seed: 100", "seed: 100\n  pruner: mean", r"tune\.pruner: found 'mean'; did you mean median\? Allo"),
    "a start of nothing": ("seed: 100", "seed: 100\n  startup: 2", r"tune: startup is that of the sampler tpe and of"),
    "a start without an end": (
        "seed: 100",
        "seed: 100\n  sampler: tpe\n  startup: 4",
        r"tune: startup: of 4 trials the first 4 leave none for tpe to ask for",
    ),
    "a start that ends nothing": (
        "trials: 4\n  seed: 100",
        "trials: 3\n  seed: 100\n  pruner: median",
        r"tune: startup: of 3 trials the first 3 leave none for median to end",
    ),
    "no start": (
        "seed: 100",
        "seed: 100\n  sampler: tpe\n  startup: 0",
        r"tune\.startup: found 0; it should be greater",
    ),
    "a seed": (
        "seed: 100",
        "seed: 4294967296\n  sampler: tpe",
        r"tune: seed: the sampler tpe takes one below 4,294,967",
    ),
    "no training": (
        "  training: {steps: 10, batch_size: 4, evaluate_every: 5}\n",
        "  training: 3\n",
        r"fixed\.training: found 3; it should be a mapping",
    ),
}


WRONG_BY_TPE = {
    "one of the values": (
        "[0.0, 0.2]",
        "[0.0, 2]",
        r"compare\.model\[0\]: dropout must be in \[0, 1\), not 2\.0 \(learning_rate=0\.001, dropout=2\)",
    ),
    "the end of a range": (
        "{choices: [0.0, 0.2]}",
        "{uniform: [0, 1]}",
        r"compare\.model\[0\]: dropout must be in \[0, 1\), not 1\.0 \(learning_rate=0\.01, dropout=1\.0\)",
    ),
    "a setting": (
        "{dropout: {",
        "{dropuot: {",
        r"tune\.ranges\.lstm\.model\.dropuot: unknown key; did you mean dropout\?",
    ),
    "stated and tuned": (
        "evaluate_every: 5}",
        "evaluate_every: 5, learning_rate: 1e-3}",
        r"fixed\.training\.learning_rate: is tuned \(tune\.ranges\.lstm\.training\.learning_rate\): state it in one",
    ),
    "too few settings": (
        "{training: {learning_rate: {log_uniform: [1e-3, 1e-2]}}, model: {dropout: {choices: [0.0, 0.2]}}}",
        "{model: {dropout: {choices: [0.0, 0.2]}}}",
        r"tune\.ranges\.lstm: hold 2 settings, fewer than the 4 trials that every model gets",
    ),
    "too many choices": (
        "{dropout: {choices: [0.0, 0.2]}}",
        f"{{dropout: {{choices: {[i / 1000 for i in range(400)]}}}, layers: {{choices: [1, 2, 3]}}}}",
        r"tune\.ranges\.lstm: 1,200 combinations of choices; with the sampler tpe 1,000 are allowed",
    ),
}


@pytest.mark.parametrize("case", WRONG_BY_TPE)
def test_what_tpe_may_ask_for_is_looked_at_before(case: str, tmp_path: Path) -> None:
    """Every choice with every other, and both ends of a range: nothing is refused in the middle of a grid."""
    pytest.importorskip("optuna", reason="needs Optuna (the extra `optuna`)")
    old, new, message = WRONG_BY_TPE[case]
    assert old in GRID
    assert load(tmp_path, GRID, "tune.sampler=tpe").tunings
    with pytest.raises(GridError, match=message):
        load(tmp_path, GRID.replace(old, new, 1), "tune.sampler=tpe")


def test_set_has_any_grid_searched_by_tpe() -> None:
    """Of each model the first trial is known; all that can follow are looked at."""
    pytest.importorskip("optuna", reason="needs Optuna (the extra `optuna`)")
    grid = load_grid("tuning", ["tune.sampler=tpe", "tune.pruner=median"])
    assert [(tuning.tune.trials, len(tuning.trials)) for tuning in grid.tunings] == [(6, 1)] * 3
    assert [run for tuning in grid.tunings for run in tuning.trials] == list(grid.runs)
    ends = {(run.training.learning_rate, run.model.config.dropout) for run in grid.tunings[0].possible}
    assert ends == {(rate, dropout) for rate in (5e-4, 2e-2) for dropout in (0.0, 0.1)}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_grid_is_told_where_and_what(case: str, tmp_path: Path) -> None:
    old, new, message = WRONG[case]
    assert old in GRID
    with pytest.raises(GridError, match=message):
        load(tmp_path, GRID.replace(old, new, 1))


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_trials_count_among_the_runs_that_a_grid_may_have(
    sampler: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that are not known yet."""
    if sampler == "tpe":
        pytest.importorskip("optuna", reason="needs Optuna (the extra `optuna`)")
    monkeypatch.setattr(grids, "RUNS", 16)
    grid = load(tmp_path, GRID, f"tune.sampler={sampler}")
    assert sum(tuning.tune.trials for tuning in grid.tunings) == 16
    with pytest.raises(GridError, match=r"tune\.trials: more than 16 runs"):
        load(tmp_path, GRID, f"tune.sampler={sampler}", "tune.trials=5")


def test_a_setting_stated_for_another_model_is_no_contradiction(tmp_path: Path) -> None:
    text = GRID.replace("{training: {learning_rate: {log_uniform: [1e-4, 1e-3]}}, model", "{model", 1)
    text = text.replace("evaluate_every: 5}", "evaluate_every: 5, learning_rate: {transformer: 1e-3}}")
    text = text.replace("choices: [1, 2, 4]", "choices: [1, 2, 3, 4]")
    rates = {run.training.learning_rate for run in trials(load(tmp_path, text)) if run.model.name == "transformer"}
    assert rates == {1e-3}


@pytest.mark.parametrize(
    ("second", "counts"),
    [
        ("fixed: {model: transformer}, tune: {trials: 3, seed: 100, ranges: *ranges}", "lstm 4, transformer 3"),
        ("fixed: {model: lstm_attention, training: {learning_rate: 1e-3}}", "lstm 4, lstm_attention 0"),
        (
            "fixed: {model: transformer}, tune: {trials: 4, seed: 100, pruner: median, ranges: *ranges}",
            r"lstm 4, transformer 4 \(median after 3\)",
        ),
    ],
)
def test_unequal_numbers_of_trials_are_refused_by_name(second: str, counts: str, tmp_path: Path) -> None:
    """Of a task; a model that is not tuned has none."""
    tune = GRID[GRID.index("tune:") : GRID.index("compare:")].replace("ranges:", "ranges: &ranges")
    text = GRID[: GRID.index("tune:")] + "compare: {task: [{name: reverse}], seed: [0]}\nparts:\n"
    first = "".join(f"    {line}\n" for line in tune.splitlines())
    text += f"  - fixed: {{model: lstm}}\n{first}  - {{{second}}}\n"
    with pytest.raises(GridError, match=rf"tune: the models of a task are tuned with equal .* on reverse: {counts}"):
        load(tmp_path, text)


# --- what validation chooses -----------------------------------------------------------------------------------------
def scored(tuning: Tuning, *scores: float | None) -> dict[str, Result]:
    return {run_key(trial, "cpu"): Result(score) for trial, score in zip(tuning.trials, scores, strict=True)}


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ((0.1, 0.4, 0.3, 0.2), 2),
        ((0.4, 0.1, 0.4, 0.4), 1),  # of several the first
        ((None, 0.1, 0.3, 0.3), 3),  # one that failed is the worst …
        ((None, None, 0.0, None), 3),  # … even of one that got nothing right
        ((None, None, None, None), None),
    ],
)
def test_the_best_trial_is_chosen(scores: tuple[float | None, ...], best: int | None, tmp_path: Path) -> None:
    tuning = load(tmp_path).tunings[1]
    choice = tuning.choose(scored(tuning, *scores), "cpu")
    assert choice.best is (None if best is None else tuning.trials[best - 1])
    assert choice.over
    assert [choice.results[trial].score for trial in tuning.trials] == list(scores)
    assert tuning.choose(scored(tuning, *scores), "cuda").best is None  # other runs
    if choice.best is None:
        assert choice.final == ()
        return
    assert [run.seed for run in choice.final] == [0, 1, 2]
    for run in choice.final:
        assert run.tuned is not None
        assert (run.phase, run.tuned.trial) == (FINAL, best)
        assert run_name(run) == f"transformer(num_heads=2) · reverse · seed {run.seed}"
        assert replace(run, seed=100, tuned=choice.best.tuned) == choice.best


def test_of_an_error_rate_the_least_is_best(tmp_path: Path) -> None:
    text = GRID.replace(
        "[{name: reverse}, {name: reverse, max_length: 40, longer_lengths: [50]}]", "[{name: g2p, language: fre}]"
    )
    tuning = load(tmp_path, text).tunings[0]
    assert tuning.choose(scored(tuning, 0.4, 0.1, 0.3, None), "cpu").best is tuning.trials[1]


def test_budgets_under_which_models_are_tuned_are_told_apart(tmp_path: Path) -> None:
    """What is drawn is no condition, whatever it is drawn from."""
    rates = "{ranges: {lstm: {training: {learning_rate: {log_uniform: [1e-2, 1e-1]}}}}}"
    parts = f"""parts:
  - compare: {{budget: [{{parameters: 50_000}}]}}
  - compare: {{budget: [{{parameters: 90_000}}]}}
    tune: {rates}
"""
    grid = load(tmp_path, GRID + parts)
    both = {"parameters=50000", "parameters=90000"}
    assert {run.condition for run in grid.runs} == both
    assert {tuning.possible[0].condition for tuning in grid.tunings} == both
    for tuning in grid.tunings:
        condition = tuning.possible[0].condition
        choice = tuning.choose(scored(tuning, 0.1, 0.4, 0.3, 0.2), "cpu")
        assert {run.condition for run in (*tuning.trials, *choice.final)} == {condition}
        assert tuning.make(1, dict(tuning.tune.drawn(tuning.model)[0])).condition == condition
