"""Tuning as a user has it: a tiny grid, its trials and final runs in a real store, with an interrupt in between."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun
from typer.testing import CliRunner, Result

from analysis import runs, tuning
from experiments import schema as s
from experiments.config import LearnRun, Run, run_key
from experiments.grid import load_grid
from experiments.progress import Progress
from experiments.stores import open_store, trial_results
from experiments.training import Status
from lvt import app

SELECTED_SCORE = s.metric(s.SELECTED, s.TOKEN_ACCURACY)
GRID = """
description: For tests.
fixed:
  kind: learn
  budget: {parameters: 5_000}
  training: {steps: 50, batch_size: 8, evaluate_every: 25, clip: 1e30}
  task: {name: running_parity, max_length: 6, longer_lengths: [9]}
tune:
  trials: 3
  seed: 100
  ranges:
    lstm: {training: {learning_rate: {choices: [4e-3, 1e30, 1e-3]}}}
    transformer: {training: {learning_rate: {log_uniform: [1e-3, 1e-2]}}, model: {layers: {choices: [1, 2]}}}
compare:
  model: [lstm, transformer]
  seed: [0, 1]
"""


def lvt(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def planned(*arguments: str) -> list[dict[str, Any]]:
    return json.loads(lvt("plan", *arguments, "--device", "cpu", "--json").stdout)["runs"]


def stored(uri: str) -> list[StoredRun]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("g")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def validation_scores(uri: str, run: StoredRun) -> list[float]:
    history = MlflowClient(uri).get_metric_history(run.info.run_id, "validation/token_accuracy")
    return [point.value for point in sorted(history, key=lambda point: point.step)]


def test_a_grid_is_tuned_interrupted_and_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid, uri = tmp_path / "g.yaml", f"sqlite:///{tmp_path / 'mlflow.db'}"
    grid.write_text(GRID, encoding="utf-8")
    arguments = (str(grid), "--tracking-uri", uri)
    rows = planned(*arguments)
    assert Counter((row["phase"], row["model"], row["state"]) for row in rows) == {
        **{("tuning", model, "to do"): 3 for model in ("lstm", "transformer")},
        **{("final", model, "settings to be chosen"): 2 for model in ("lstm", "transformer")},
    }
    assert [row["seed"] for row in rows if row["phase"] == "final"] == [0, 1, 0, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["g.yaml"]

    ended = Progress.ended

    def interrupt(self: Progress, *of: Any) -> None:
        ended(self, *of)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Progress, "ended", interrupt)
    interrupted = lvt("run", *arguments, "--workers", "1")
    monkeypatch.undo()
    assert interrupted.exit_code == 130
    assert "final phase" not in interrupted.stdout
    first = [run for run in stored(uri) if run.info.status == "FINISHED"]
    assert [run.data.tags[s.TRIAL] for run in first] == ["1"]
    assert {row["state"] for row in planned(*arguments) if row["phase"] == "final"} == {"settings to be chosen"}

    result = lvt("run", *arguments, "--workers", "1")
    assert result.exit_code == 0, result.stdout
    assert "g, trials: 6 runs, 1 finished before, 5 to do" in result.stdout
    assert "g, final phase: 4 runs, 0 finished before, 4 to do" in result.stdout
    assert "9 of 10 runs are finished" in result.stdout
    assert re.search(r"lstm .* 3, 1 failed and so the worst ", result.stdout)
    assert re.search(r"seed 100 · trial \d .* Diverged: the loss became", result.stdout)

    kept = stored(uri)
    finished = Counter(run.data.tags[s.KEY] for run in kept if run.info.status == "FINISHED")
    assert set(finished.values()) == {1}
    assert len(finished) == 9
    (lost,) = (run for run in kept if run.info.status == "FAILED")
    assert float(lost.data.params["training.learning_rate"]) == 1e30
    for model in ("lstm", "transformer"):
        own = [run for run in kept if run.data.tags[s.MODEL] == model and run.info.status == "FINISHED"]
        trials = [run for run in own if run.data.tags[s.PHASE] == s.TUNING]
        final = [run for run in own if run.data.tags[s.PHASE] == s.FINAL]
        assert {run.data.tags[s.SEED] for run in trials} == {"100"}
        assert {run.data.tags[s.SEED] for run in final} == {"0", "1"}
        scores = {int(run.data.tags[s.TRIAL]): max(validation_scores(uri, run)) for run in trials}
        assert {int(run.data.tags[s.TRIAL]): run.data.metrics[SELECTED_SCORE] for run in trials} == scores
        best = min(scores, key=lambda number: (-scores[number], number))
        (chosen,) = (run for run in trials if run.data.tags[s.TRIAL] == str(best))
        drawn = ("training.learning_rate", "model.layers")
        for run in final:
            assert [run.data.params.get(name) for name in drawn] == [chosen.data.params.get(name) for name in drawn]
            assert (run.data.tags[s.TRIAL], run.data.tags[s.TUNED]) == (str(best), chosen.data.tags[s.TUNED])

    again = lvt("run", *arguments)
    assert again.exit_code == 0
    assert "started" not in again.stdout
    assert "g, final phase: 4 runs, 4 finished before, 0 to do" in again.stdout
    assert len(stored(uri)) == len(kept)
    assert Counter(row["state"] for row in planned(*arguments)) == {"finished": 9, "failed": 1}

    table = runs.load(uri, ["g"])
    assert Counter(runs.each(runs.results(table))["seed"]) == {0: 2, 1: 2}
    assert Counter(tuning.trials(table)["model"]) == {"lstm": 3, "transformer": 3}
    assert tuning.choices(table)["chosen"].notna().all()
    assert tuning.sentences(table) == ["Grid g: every model was tuned with 3 trials on each task."]
    for kind in ("parquet", "csv"):
        read = runs.read(runs.write(table, tmp_path / f"runs.{kind}"))
        assert read["trial"].tolist() == table["trial"].tolist()
        assert len(runs.results(read)) == len(runs.results(table))


def test_validation_chooses_and_never_a_test_score(tmp_path: Path) -> None:
    """A store in which the two disagree; a run that is no trial, and one that is not finished, have no say."""
    grid, uri = tmp_path / "g.yaml", f"sqlite:///{tmp_path / 'mlflow.db'}"
    grid.write_text(GRID, encoding="utf-8")
    lstm, transformer = load_grid(str(grid)).tunings
    store, client = open_store(uri, "g", ""), MlflowClient(uri)

    def keep(run: LearnRun, validation: float, test: float, phase: str, status: str = "FINISHED") -> None:
        tags = {s.KEY: run_key(run, "cpu"), s.PHASE: phase, s.HEADLINE: run.task.headline}
        run_id = client.create_run(store.experiment_id, tags=tags).info.run_id
        client.log_metric(run_id, SELECTED_SCORE, validation)
        client.log_metric(run_id, s.metric(s.TEST, s.TOKEN_ACCURACY), test)
        client.set_terminated(run_id, status)

    keep(lstm.trials[0], 0.2, 0.9, s.TUNING)
    keep(lstm.trials[1], 0.8, 0.1, s.TUNING)
    keep(lstm.trials[2], 0.9, 0.9, s.TUNING, "FAILED")
    keep(transformer.trials[0], 0.9, 0.9, s.FINAL)
    found = trial_results(store, curves=False)
    assert lstm.choose(found, "cpu").best is lstm.trials[1]
    assert transformer.choose(found, "cpu").best is None


IN_TURN = """
description: For tests.
fixed:
  kind: learn
  budget: {parameters: 5_000}
  training: {steps: 60, batch_size: 8, evaluate_every: 10, clip: 1e30}
  task: {name: running_parity, max_length: 6, longer_lengths: [9]}
tune:
  trials: 5
  seed: 100
  sampler: tpe
  pruner: median
  startup: 2
  ranges:
    lstm: {training: {learning_rate: {choices: [1e-2, 1e-3, 1e30, 1e-5]}}, model: {dropout: {choices: [0.0, 0.1]}}}
    transformer: {training: {learning_rate: {log_uniform: [1e-5, 1e-1]}}, model: {layers: {choices: [1, 2]}}}
compare:
  model: [lstm, transformer]
  seed: [0]
"""


def told(uri: str) -> dict[str, Any]:
    """What the store tells of each run that is over, by its key, but for times."""
    return {
        run.data.tags[s.KEY]: (
            run.info.status,
            {name: run.data.tags.get(name) for name in (s.MODEL, s.TRIAL, s.TUNED, s.SAMPLER, s.PRUNED, s.REASON)},
            {name: value for name, value in run.data.metrics.items() if "second" not in name},
            validation_scores(uri, run),
        )
        for run in stored(uri)
        if run.info.status in ("FINISHED", "FAILED")
    }


def test_trials_that_follow_from_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted within trials and gone on with, a grid has the same trials as undisturbed, ended where they were."""
    optuna = pytest.importorskip("optuna", reason="needs Optuna (the extra `optuna`)")
    grid, uri = tmp_path / "g.yaml", f"sqlite:///{tmp_path / 'mlflow.db'}"
    grid.write_text(IN_TURN, encoding="utf-8")
    arguments = (str(grid), "--tracking-uri", uri)
    assert Counter((row["phase"], row["state"]) for row in planned(*arguments)) == {
        ("tuning", "to do"): 2,
        ("tuning", "settings to be chosen"): 8,
        ("final", "settings to be chosen"): 2,
    }
    result = lvt("run", *arguments, "--workers", "2")
    assert result.exit_code == 0, result.stdout
    assert "g, trials: 10 runs, 0 finished before, 10 to do on cpu" in result.stdout
    undisturbed = told(uri)
    assert len(undisturbed) == 12

    pruned = 0
    for model in ("lstm", "transformer"):
        own = [run for run in stored(uri) if run.data.tags[s.MODEL] == model and run.data.tags[s.PHASE] == s.TUNING]
        trials = sorted(own, key=lambda run: int(run.data.tags[s.TRIAL]))
        assert [run.data.tags[s.TRIAL] for run in trials] == [str(number) for number in range(1, 6)]
        study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=2))
        for run in trials:
            trial, scores = study.ask(), validation_scores(uri, run)
            steps = range(10, 10 * len(scores) + 1, 10)
            for step, score in zip(steps, scores, strict=True):
                trial.report(score, step)
                ended = run.data.metrics.get(s.PRUNED_STEP)
                assert (ended == step) == (step < 60 and trial.should_prune())
            if run.info.status == "FAILED":
                study.tell(trial, state=optuna.trial.TrialState.FAIL)
            elif s.PRUNED in run.data.tags:
                pruned += 1
                assert ended == steps[-1]
                assert not any(name.startswith((s.SELECTED, s.TEST)) for name in run.data.metrics)
                assert re.match(rf"after step {ended:.0f}: token_accuracy was worse than", run.data.tags[s.PRUNED])
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            else:
                assert len(scores) == 6
                study.tell(trial, run.data.metrics[SELECTED_SCORE])
    assert pruned >= 1
    states = Counter(row["state"] for row in planned(*arguments))
    failed = sum(status == "FAILED" for status, *_ in undisturbed.values())
    assert states == {"finished": 12 - pruned - failed, "pruned": pruned, "failed": failed}
    assert failed >= 1
    again = lvt("run", *arguments)
    assert "started" not in again.stdout
    assert len(stored(uri)) == 12

    table = runs.load(uri, ["g"])
    found = tuning.choices(table)
    assert found[["trials", "failed", "pruned"]].sum().to_list() == [10, failed, pruned]
    spent = dict.fromkeys(("lstm", "transformer"), 0.0)
    for run in stored(uri):
        if run.data.tags[s.PHASE] == s.TUNING:
            spent[run.data.tags[s.MODEL]] += run.data.metrics[s.RUN_SECONDS]
    assert dict(zip(found["model"], found["seconds"], strict=True)) == pytest.approx(spent)
    assert tuning.sentences(table) == ["Grid g: every model was tuned with 5 trials on each task."]

    other = f"sqlite:///{tmp_path / 'other.db'}"
    advanced = Progress.advanced
    for number in (2, 4):

        def interrupt(self: Progress, run: Run, status: Status, number: int = number) -> None:
            advanced(self, run, status)
            if isinstance(run, LearnRun) and run.tuned is not None and run.tuned.trial >= number and status.step == 30:
                os.kill(os.getpid(), signal.SIGINT)

        monkeypatch.setattr(Progress, "advanced", interrupt)
        interrupted = lvt("run", str(grid), "--tracking-uri", other, "--workers", "1")
        monkeypatch.undo()
        assert interrupted.exit_code == 130, interrupted.stdout
        assert told(other).items() < undisturbed.items()
    assert lvt("run", str(grid), "--tracking-uri", other, "--workers", "1").exit_code == 0
    assert told(other) == undisturbed
    assert len(stored(other)) == 12


@pytest.mark.parametrize("asked", ["sampler=tpe", "pruner=median"])
@pytest.mark.parametrize("command", ["run", "plan"])
def test_without_optuna_a_grid_that_needs_it_is_refused(
    command: str, asked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, uri = tmp_path / "g.yaml", f"sqlite:///{tmp_path / 'mlflow.db'}"
    grid.write_text(GRID.replace("trials: 3", "trials: 4\n  startup: 2"), encoding="utf-8")
    monkeypatch.setitem(sys.modules, "optuna", None)
    result = lvt(command, str(grid), "--tracking-uri", uri, "--set", f"tune.{asked}")
    assert result.exit_code == 2
    key, value = asked.split("=")
    assert f"tune.{key}: {value} needs Optuna: pip install -e '.[optuna]' -c constraints.txt" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["g.yaml"]


def test_a_model_that_no_trial_could_have_is_refused_before(tmp_path: Path) -> None:
    """Also one that TPE might never ask for; the settings are named."""
    pytest.importorskip("optuna", reason="needs Optuna (the extra `optuna`)")
    grid = tmp_path / "g.yaml"
    grid.write_text(GRID.replace("trials: 3", "trials: 3\n  startup: 1\n  sampler: tpe"), encoding="utf-8")
    store = ("--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert lvt("plan", str(grid), *store).exit_code == 0
    result = lvt("plan", str(grid), *store, "--set", "tune.ranges.transformer.model.layers={choices: [64, 1]}")
    assert result.exit_code == 2
    where = r"g\.yaml: fixed\.budget\.parameters: transformer · .* · seed 100"
    assert re.search(rf"{where} \(learning_rate=0\.001, layers=64\): ", result.output)
