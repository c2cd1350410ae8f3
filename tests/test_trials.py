"""Trials that follow from each other: held against Optuna itself, used directly on the same scores and curves."""

# ruff: noqa: E402 (without Optuna, nothing here can be imported)

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

optuna = pytest.importorskip("optuna", reason="needs Optuna (the extra `optuna`)")

from experiments import tracking
from experiments.adaptive import worse_than_median
from experiments.config import LearnRun, Pruning, run_key
from experiments.grid import load_grid
from experiments.stores import Store, StoreError, open_store
from experiments.trials import FAILURE, Result, Results, Trials, Tuning

ROOT = Path(__file__).parents[1]
GRID = """
description: For tests.
fixed:
  kind: learn
  budget: {parameters: 50_000}
  training: {steps: 10, batch_size: 4, evaluate_every: 5}
tune:
  trials: 9
  seed: 100
  sampler: tpe
  startup: 4
  ranges:
    lstm: &ranges
      training: {learning_rate: {log_uniform: [1e-4, 1e-2]}, clip: {uniform: [0.5, 2]}}
      model: {dropout: {choices: [0.0, 0.1, 0.2]}}
    transformer: *ranges
compare:
  task: [{name: reverse}, {name: g2p, language: fre}]
  model: [lstm, transformer]
  seed: [0, 1]
"""
PRUNED = Result(None, {5: 0.3, 10: 0.25}, pruned=True)
ENDS = {3: FAILURE, 6: PRUNED, 7: FAILURE}  # number of a trial → what became of it; of all others a score


def tunings(folder: Path, text: str = GRID) -> tuple[Tuning, ...]:
    path = folder / "g.yaml"
    path.write_text(text, encoding="utf-8")
    return load_grid(str(path)).tunings


def at_random(pruner: str) -> str:
    """The grid without TPE."""
    return GRID.replace("  sampler: tpe\n  startup: 4\n", pruner)


def numbers(trial: LearnRun) -> tuple[float, float, float]:
    return trial.training.learning_rate, trial.training.clip, trial.model.config.dropout


def became(trial: LearnRun) -> Result:
    """What becomes of a trial: a function of its settings and its number."""
    assert trial.tuned is not None
    rate, clip, dropout = numbers(trial)
    return ENDS.get(trial.tuned.trial, Result(1 / (1 + abs(rate - 3e-3) * 300 + abs(clip - 1)) - dropout))


def made(tuning: Tuning, results: dict[str, Result], most: int = 100) -> list[LearnRun]:
    """Makes trials one after another, at most so many, and notes what became of them."""
    trials: list[LearnRun] = []
    while (ready := tuning.ready(results, "cpu")) and len(trials) < most:
        (trial,) = ready
        trials.append(trial)
        results[run_key(trial, "cpu")] = became(trial)
    return trials


# --- TPE -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("place", [0, 2], ids=["more is better", "less is better"])
def test_settings_are_those_that_optuna_asks_for(place: int, tmp_path: Path) -> None:
    tuning = tunings(tmp_path)[place]
    trials = made(tuning, {})
    sampler = optuna.samplers.TPESampler(seed=100, n_startup_trials=4)
    direction = ("maximize", "minimize")[place // 2]
    study = optuna.create_study(sampler=sampler, direction=direction)
    assert len(trials) == 9
    for number, trial in enumerate(trials, start=1):
        asked = study.ask()
        rate = asked.suggest_float("training.learning_rate", 1e-4, 1e-2, log=True)
        clip = asked.suggest_float("training.clip", 0.5, 2)
        dropout = asked.suggest_categorical("model.dropout", [0.0, 0.1, 0.2])
        assert numbers(trial) == (float(f"{rate:.3g}"), float(f"{clip:.3g}"), dropout)
        assert trial.tuned is not None
        assert (trial.tuned.trial, trial.tuned.sampler, trial.seed) == (number, "tpe", 100)
        result = became(trial)
        if result.score is not None:
            study.tell(asked, result.score)
        elif result.pruned:
            for step, value in result.curve.items():
                asked.report(value, step)
            study.tell(asked, state=optuna.trial.TrialState.PRUNED)
        else:
            study.tell(asked, state=optuna.trial.TrialState.FAIL)


def test_it_learns_from_what_became_of_the_trials(tmp_path: Path) -> None:
    """Else the test above shows nothing: with other scores it asks for others after the start, and only then."""
    tuning = tunings(tmp_path)[0]
    results: dict[str, Result] = {}
    while ready := tuning.ready(results, "cpu"):
        (trial,) = ready
        end = became(trial)
        results[run_key(trial, "cpu")] = end if end.score is None else Result(-end.score)
    first, other = ([numbers(trial) for trial in trials] for trials in (made(tuning, {}), tuning.known(results, "cpu")))
    assert other[:5] == first[:5]  # the third failed
    assert other[5:] != first[5:]


@given(stops=st.lists(st.integers(1, 4), min_size=1, max_size=9))
@settings(max_examples=15, deadline=None)
def test_an_interrupted_search_asks_for_the_same(stops: list[int], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Wherever it is interrupted, and however often: what is over is found by its key, and nothing else is known."""
    folder = tmp_path_factory.mktemp("grid")
    undisturbed = made(tunings(folder)[0], {})
    results: dict[str, Result] = {}
    trials: list[LearnRun] = []
    for most in [*stops, 9]:
        trials += made(tunings(folder)[0], results, most)
    assert trials == undisturbed
    known = tunings(folder)[0].known(results, "cpu")
    assert known == tuple(undisturbed)
    cuda: dict[str, Result] = {run_key(trial, "cuda"): became(trial) for trial in undisturbed}
    assert tunings(folder)[0].known(cuda, "cpu") == tuple(undisturbed[:1])


def test_another_process_asks_for_the_same(tmp_path: Path) -> None:
    """Whatever its hashes of texts are."""
    results: dict[str, Result] = {}
    here = made(tunings(tmp_path)[0], results)
    code = (
        "import json, sys; from experiments.grid import load_grid; from experiments.trials import Result\n"
        "known = load_grid(sys.argv[1]).tunings[0].known(eval(sys.argv[2]), 'cpu')\n"
        "print(json.dumps([trial.tuned.words for trial in known]))"
    )
    said = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code, str(tmp_path / "g.yaml"), repr(results)]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        found = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
        said.add(found.stdout)
    assert [json.loads(one) for one in said] == [[trial.tuned.words for trial in here if trial.tuned is not None]]


def test_more_trials_add_to_those_that_were_there(tmp_path: Path) -> None:
    results: dict[str, Result] = {}
    made(tunings(tmp_path)[0], results)
    assert len(made(tunings(tmp_path, GRID.replace("trials: 9", "trials: 10"))[0], results)) == 1
    assert len(results) == 10


def test_models_and_tasks_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """Each has one trial at a time, and in the end as many as the others; whoever is told of one gives the next."""
    grid = tunings(tmp_path)
    stored: dict[str, Result] = {}  # those that did not fail
    trials = Trials(grid, {}, "cpu", stored.__getitem__)
    assert (trials.count(), trials.left()) == (36, 36)
    begun = queue = trials.ready()
    assert [(run.task_label, run.model.name) for run in begun] == [
        (task, model) for task in ("reverse", "g2p(language=fre)") for model in ("lstm", "transformer")
    ]
    failed: list[str] = []
    made_of: dict[tuple[str, str], int] = {}
    while queue:
        run = queue.pop()  # the newest first: one model runs ahead of the others
        result, key, place = became(run), run_key(run, "cpu"), (run.task_label, run.model.name)
        made_of[place] = made_of.get(place, 0) + 1
        if result is FAILURE:
            failed.append(key)
        else:
            stored[key] = result
        following = trials.follow(run, "it failed" if result is FAILURE else "")
        assert len(following) == (made_of[place] < 9)
        assert all((one.task_label, one.model.name) == place for one in following)
        assert trials.follow(run, "") == []  # nothing follows twice
        queue = queue + following
    assert set(made_of.values()) == {9}
    assert len(made_of) == 4
    assert trials.left() == 0
    results = dict.fromkeys(failed, FAILURE) | stored
    for tuning in grid:
        choice = tuning.choose(results, "cpu")
        assert choice.over
        assert len(choice.results) == 9
        assert choice.best is not None
        assert choice.best.tuned is not None
        assert choice.best.tuned.trial not in ENDS
        assert [run.tuned.phase for run in choice.final if run.tuned is not None] == ["final", "final"]


# --- the median ------------------------------------------------------------------------------------------------------
values = st.one_of(st.floats(0, 1), st.sampled_from([0.2, 0.5, float("nan")]))
curves = st.dictionaries(st.integers(1, 4), values, min_size=1).map(lambda curve: dict(sorted(curve.items())))


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered")
@given(
    earlier=st.lists(curves, max_size=5),
    curve=curves,
    startup=st.integers(1, 3),
    headline=st.sampled_from(["token_accuracy", "wer"]),
)
@settings(max_examples=200, deadline=None)
def test_trials_are_ended_where_optuna_ends_them(
    earlier: list[Mapping[int, float]], curve: Mapping[int, float], startup: int, headline: str
) -> None:
    pruner = optuna.pruners.MedianPruner(n_startup_trials=startup)
    study = optuna.create_study(pruner=pruner, direction="minimize" if headline == "wer" else "maximize")
    for one in earlier:
        trial = study.ask()
        for step, value in one.items():
            trial.report(value, step)
        study.tell(trial, 0.5)
    trial = study.ask()
    so_far: dict[int, float] = {}
    for step, value in curve.items():
        trial.report(value, step)
        so_far[step] = value
        assert worse_than_median(so_far, Pruning(startup, tuple(earlier)), headline) == trial.should_prune()


def test_the_median_by_hand() -> None:
    pruning = Pruning(2, ({10: 0.2, 20: 0.6}, {10: 0.4, 20: 0.8}, {10: 0.6}))
    assert worse_than_median({10: 0.3}, pruning, "token_accuracy")
    assert not worse_than_median({10: 0.4}, pruning, "token_accuracy")
    assert not worse_than_median({10: 0.7, 20: 0.1}, pruning, "token_accuracy")  # the best so far is held against it
    assert worse_than_median({10: 0.5, 20: 0.6}, pruning, "token_accuracy")
    assert not worse_than_median({10: 0.3}, pruning, "wer")
    assert worse_than_median({10: 0.5}, pruning, "wer")
    assert not worse_than_median({10: 0.0}, replace(pruning, startup=4), "token_accuracy")
    assert not worse_than_median({15: 0.0}, pruning, "token_accuracy")  # where none of them was evaluated


def test_a_trial_is_held_against_those_before_it_that_finished(tmp_path: Path) -> None:
    """One after another, also where they are drawn at random; what it is held against is no part of what it is."""
    tuning = tunings(tmp_path, at_random("  pruner: median\n"))[0]
    assert len(tuning.known({}, "cpu")) == 9
    ends = [Result(0.5, {5: 0.4, 10: 0.5}), FAILURE, PRUNED, Result(0.6, {5: 0.2, 10: 0.6})]
    results: Results = {run_key(trial, "cpu"): end for trial, end in zip(tuning.trials, ends, strict=False)}
    (trial,) = tuning.ready(results, "cpu")
    assert trial == tuning.trials[4]
    assert hash(trial) == hash(tuning.trials[4])
    assert run_key(trial, "cpu") == run_key(tuning.trials[4], "cpu")
    assert trial.tuned is not None
    assert trial.tuned.pruning == Pruning(3)
    assert trial.tuned.pruning.earlier == (ends[0].curve, ends[3].curve)
    again = dict(list(results.items())[2:])  # the first two are to be made again
    assert tuning.ready(again, "cpu") == [tuning.trials[0]]


def test_a_trial_that_may_be_ended_is_another_run(tmp_path: Path) -> None:
    """But whatever ends it, the runs of the final phase are the same."""
    asked = ("", "  pruner: median\n", "  pruner: median\n  startup: 2\n")
    whole, ended, sooner = (tunings(tmp_path, at_random(pruner))[0] for pruner in asked)
    assert len({run_key(tuning.trials[0], "cpu") for tuning in (whole, ended, sooner)}) == 3
    assert whole.trials[0].settings()["tuned"] == {"phase": "tuning", "trial": 1}
    assert ended.trials[0].settings()["tuned"] == {"phase": "tuning", "trial": 1, "pruner": "median", "startup": 3}
    final = {tuning.choose({run_key(tuning.trials[0], "cpu"): Result(1.0)}, "cpu").final for tuning in (whole, ended)}
    assert len(final) == 1


# --- what is read of them --------------------------------------------------------------------------------------------
def test_a_store_that_does_not_have_a_trial_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'mlflow.db'}", "g", "For tests.")
    monkeypatch.setattr(tracking, "STORE_PATIENCE", 1.0)
    sent: list[Store] = []
    monkeypatch.setattr(tracking, "send_left", sent.append)
    with pytest.raises(StoreError, match=r"what became of the trial 0123 is not known: it does not take it"):
        tracking.result_of(store, "0123")
    assert sent == [store]
