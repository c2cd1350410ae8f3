"""Tuning as a user has it: a tiny grid, its trials and final runs in a real store, with an interrupt in between."""

from __future__ import annotations

import json
import os
import re
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun
from typer.testing import CliRunner, Result

from analysis import runs, tuning
from experiments import schema as s
from experiments.config import LearnRun, run_key
from experiments.grid import load_grid
from experiments.progress import Progress
from experiments.stores import open_store, trial_scores
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
    scores = trial_scores(store)
    assert lstm.choose(scores, "cpu").best is lstm.trials[1]
    assert transformer.choose(scores, "cpu").best is None
