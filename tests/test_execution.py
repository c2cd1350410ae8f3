"""Grids in worker processes and a real store: what is tracked, what is skipped, and what a crash leaves behind."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from multiprocessing import Pipe
from pathlib import Path
from unittest.mock import Mock

import psutil
import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun

from experiments import efficiency, processes, schema
from experiments.attempts import Outcome, Place, jobs
from experiments.config import LearnRun, Run, run_key
from experiments.execution import execute_grid
from experiments.grid import load_grid
from experiments.inputs import load_task, sized_model
from experiments.run import execute
from experiments.state import RunState
from experiments.stores import Store, StoreError, open_store, past_runs
from experiments.tracking import TrackedRun
from experiments.training import Status
from models.registry import build

GRID = """
description: For tests.
fixed:
  kind: learn
  budget: {parameters: 5_000}
  training: {steps: 50, batch_size: 8, evaluate_every: 25, learning_rate: 4e-3}
  task: {name: running_parity, max_length: 6, longer_lengths: [9]}
compare:
  model: [lstm, transformer]
  seed: [0, 1]
"""


@dataclass
class Watcher:
    """Remembers what happened, and may act on it."""

    kill_seed: int | None = None
    begun: list[Run] = field(default_factory=list)
    over: dict[Run, str] = field(default_factory=dict)
    abandoned: list[tuple[Run, str]] = field(default_factory=list)
    statuses: dict[Run, list[Status]] = field(default_factory=dict)

    def started(self, run: Run) -> None:
        self.begun.append(run)

    def advanced(self, run: Run, status: Status) -> None:
        self.statuses.setdefault(run, []).append(status)
        if run.seed == self.kill_seed:
            workers = [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
            assert workers
            os.kill(workers[0].pid, signal.SIGKILL)

    def ended(self, run: Run, reason: str) -> None:
        self.over[run] = reason

    def left(self, run: Run, why: str) -> None:
        self.abandoned.append((run, why))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    uri = f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"
    return Place(open_store(uri, "g", "For tests."), "g", "cpu", None)


def runs_of(folder: Path, overrides: Sequence[str] = ()) -> tuple[Run, ...]:
    path = folder / "g.yaml"
    path.write_text(GRID, encoding="utf-8")
    return load_grid(str(path), overrides).runs


def stored(place: Place, key: str) -> list[StoredRun]:
    client = MlflowClient(place.store.tracking_uri)
    return list(client.search_runs([place.store.experiment_id], f"tags.`{schema.KEY}` = '{key}'"))


def tracked(store: Store, key: str) -> TrackedRun:
    state = RunState.claim(store.states / key)
    assert state is not None
    return TrackedRun(store, state, key, key, {}, {})


def stored_run(uri: str, run: TrackedRun) -> StoredRun:
    assert run.id is not None
    return MlflowClient(uri).get_run(run.id)


def test_a_grid_is_executed_and_tracked(place: Place, tmp_path: Path) -> None:
    runs = runs_of(tmp_path)
    watcher = Watcher()
    assert execute_grid(runs, place, 2, watcher) == {}
    assert set(watcher.begun) == set(watcher.over) == set(runs)
    assert set(watcher.over.values()) == {""}
    assert all([status.step for status in statuses] == [25, 50] for statuses in watcher.statuses.values())
    assert past_runs(place.store).finished == {run_key(run, "cpu") for run in runs}
    assert past_runs(place.store).failed == {}

    client = MlflowClient(place.store.tracking_uri)
    experiment = client.get_experiment(place.store.experiment_id)
    assert experiment.name == "g"
    assert experiment.tags[schema.DESCRIPTION] == "For tests."
    assert experiment.tags[schema.NOTE].endswith("\n\nFor tests.")
    assert experiment.tags[schema.EXPERIMENT_KIND] == schema.TRAINING_EXPERIMENT
    for run in runs:
        assert isinstance(run, LearnRun)
        (kept,) = stored(place, run_key(run, "cpu"))
        tags, metrics, parameters = kept.data.tags, kept.data.metrics, kept.data.params
        assert kept.info.status == "FINISHED"
        assert tags[schema.MODEL] == run.model.label
        assert tags[schema.TASK] == "running_parity(max_length=6)"
        assert tags[schema.SEED] == str(run.seed)
        assert float(tags[schema.CHANCE]) == 0.5
        assert schema.MEMORYLESS_LOSS not in tags
        assert schema.dependencies(tags[schema.MEASURES]) == {schema.LENGTH: "length"}
        assert tags[schema.LANGUAGE_CLASS] == schema.REGULAR
        assert tags[schema.RUN_COLOR] == schema.MODEL_COLORS[run.model.name]
        assert all(value == "pass" for name, value in tags.items() if name.startswith(schema.GATE_PREFIX))
        assert sum(name.startswith(schema.GATE_PREFIX) for name in tags) == 6
        assert parameters["training.steps"] == "50"
        assert parameters["model.name"] == run.model.name
        assert abs(metrics[schema.MATCH_ERROR]) <= 0.01
        assert metrics[schema.PARAMETERS] == sum(metrics[f"{schema.PARAMETERS}_{p}"] for p in schema.PARAMETER_PARTS)
        assert 0 <= metrics["test/token_accuracy"] <= 1
        validated = client.get_metric_history(kept.info.run_id, "validation/token_accuracy")
        assert metrics["selected/token_accuracy"] == max(point.value for point in validated)
        by_length = client.get_metric_history(kept.info.run_id, "test/token_accuracy_by_length")
        assert [point.step for point in by_length] == [1, 2, 3, 4, 5, 6]
        assert [p.step for p in client.get_metric_history(kept.info.run_id, "longer/token_accuracy_by_length")] == [9]
        assert [p.step for p in client.get_metric_history(kept.info.run_id, schema.TRAIN_LOSS)] == [25, 50]
        assert kept.inputs is not None
        (dataset,) = kept.inputs.dataset_inputs
        assert dataset.dataset.name == run.task.label
        folder = Path(client.download_artifacts(kept.info.run_id, "", str(tmp_path)))
        assert json.loads((folder / schema.CONFIG_ARTIFACT).read_text()) == json.loads(json.dumps(run.settings()))
        environment = json.loads((folder / schema.ENVIRONMENT_ARTIFACT).read_text())
        assert environment["packages"]["torch"] == torch.__version__
        assert environment["threads"] == 1
        assert environment["flushes_denormals"] is True  # else a vanishing gradient makes a sweep's LSTM slow
        predictions = json.loads((folder / schema.PREDICTIONS_ARTIFACTS[schema.TEST]).read_text())
        assert predictions["columns"] == ["source", "reference", "prediction", "correct"]
        share = sum(row[3] for row in predictions["data"]) / len(predictions["data"])
        assert share == pytest.approx(metrics["test/sequence_accuracy"])
        config, dimensions = sized_model(run, None)
        model = build(config, dimensions)
        model.load_state_dict(torch.load(folder / schema.CHECKPOINT_ARTIFACT, weights_only=True))
        batch = load_task(run.task, None).evaluation[schema.TEST][-1]
        right = (model.eval()(batch.source, batch.target_in).argmax(-1) == batch.target).float().mean().item()
        assert right == pytest.approx(by_length[-1].value)


SWEEPS = """
description: For tests.
fixed:
  kind: efficiency
  budget: {parameters: 5_000}
  efficiency: {lengths: [4], batch_size: 2, decode_tokens: 2, repeats: 1, warmup: 1, seconds_per_point: 1e-6}
compare:
  model: [lstm, transformer]
  seed: [0, 1]
"""


def test_sweeps_of_the_same_settings_are_one_job_and_runs_of_their_own(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "sweeps.yaml"
    path.write_text(SWEEPS, encoding="utf-8")
    runs = load_grid(str(path)).runs
    others = load_grid(str(path), ["efficiency.batch_size=3", "compare.seed=[0]"]).runs
    learn = runs_of(tmp_path)
    assert jobs([*runs, *learn, *others]) == [runs, *((run,) for run in learn), others]
    watcher = Watcher()
    assert execute_grid(runs, place, 2, watcher) == {}
    assert watcher.begun == list(runs)
    assert watcher.over == dict.fromkeys(runs, "")
    assert all({status.step for status in watcher.statuses[run]} == {0, 1} for run in runs)
    kept = [stored(place, run_key(run, "cpu")) for run in runs]
    assert [run.data.tags[schema.MODEL] for (run,) in kept] == ["lstm", "lstm", "transformer", "transformer"]
    assert {run.data.tags[schema.TASK] for (run,) in kept} == {"length_sweep(batch_size=2)"}
    assert all(run.info.status == "FINISHED" for (run,) in kept)
    assert all(f"{schema.STOPPED_BY}{phase}" in run.data.tags for (run,) in kept for phase in ("encode", "decode"))


def test_what_is_measured_has_the_machine_for_itself(place: Place, tmp_path: Path) -> None:
    """No other worker is there, not even an idle one."""
    path = tmp_path / "sweeps.yaml"
    path.write_text(SWEEPS, encoding="utf-8")
    learn = runs_of(tmp_path, ["training.steps=3", "training.evaluate_every=3"])[:2]
    sweep = jobs(load_grid(str(path), ["efficiency.batch_size=4"]).runs)[0]
    with closing(processes.Processes(place, 2)) as engine:
        left = {engine.begin((run,)) for run in learn}
        assert not engine.takes(sweep)
        workers = psutil.Process().children()
        while left:
            left -= {event.ticket for event in engine.hear() if isinstance(event.news, Outcome)}
        assert engine.takes(sweep)
        engine.begin(sweep)
        assert sum(worker.is_running() and "spawn_main" in " ".join(worker.cmdline()) for worker in workers) == 1


def test_one_of_several_sweeps_may_fail_alone(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: what goes wrong with one model is its own, what goes wrong with the sweep is everyone's."""
    path = tmp_path / "sweeps.yaml"
    path.write_text(SWEEPS, encoding="utf-8")
    runs = load_grid(str(path), ["seed=7"]).runs

    def executed() -> dict[Run, str]:
        return {run: outcome.reason for run, outcome in execute(runs, place, lambda run, status: None).items()}

    def fails(*arguments: object, **more: object) -> list[Exception | None]:
        raise ArithmeticError("all")

    monkeypatch.setattr(efficiency, "measure", lambda *arguments, **more: [None, ArithmeticError("one")])
    assert executed() == {runs[0]: "", runs[1]: "ArithmeticError: one"}
    kept = [stored(place, run_key(run, "cpu")) for run in runs]
    assert [run.info.status for (run,) in kept] == ["FINISHED", "FAILED"]
    monkeypatch.setattr(efficiency, "measure", fails)
    runs = load_grid(str(path), ["seed=8"]).runs
    assert executed() == dict.fromkeys(runs, "ArithmeticError: all")
    kept = [stored(place, run_key(run, "cpu")) for run in runs]
    assert [run.data.tags[schema.REASON] for (run,) in kept] == ["ArithmeticError: all"] * 2


def test_an_interrupted_sweep_goes_on_under_the_same_ids(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "sweeps.yaml"
    path.write_text(SWEEPS, encoding="utf-8")
    runs = load_grid(str(path), ["seed=9", "efficiency.lengths=[4, 6, 8]", "efficiency.seconds_per_point=1.0"]).runs
    watched: list[int] = []

    def watch(run: Run, status: Status) -> None:
        watched.append(status.step)

    stopped = execute(runs, place, watch, stop=lambda: watched.count(1) == len(runs))
    assert {outcome.kind for outcome in stopped.values()} == {"interrupted"}
    keys = [run_key(run, "cpu") for run in runs]
    before = [[one.info.run_id for one in stored(place, key)] for key in keys]
    watched.clear()
    assert {outcome.kind for outcome in execute(runs, place, watch).values()} == {"finished"}
    assert sorted(set(watched)) == [1, 2, 3]  # the length in which it was interrupted is measured anew
    assert [[one.info.run_id for one in stored(place, key)] for key in keys] == before
    client = MlflowClient(place.store.tracking_uri)
    for (run_id,) in before:
        history = client.get_metric_history(run_id, schema.TRAIN_STEP_SECONDS)
        assert sorted(point.step for point in history) == [4, 6, 8]


def test_why_a_sweep_stopped_outlives_an_interruption(place: Place, tmp_path: Path) -> None:
    """Every phase is too slow at the first length, after which the sweep is interrupted."""
    path = tmp_path / "sweeps.yaml"
    path.write_text(SWEEPS, encoding="utf-8")
    runs = load_grid(str(path), ["seed=12", "model=lstm", "efficiency.lengths=[4, 6]"]).runs
    seen: list[int] = []
    stopped = execute(runs, place, lambda run, status: seen.append(status.step), stop=lambda: 1 in seen)
    assert [outcome.kind for outcome in stopped.values()] == ["interrupted"]
    assert [outcome.kind for outcome in execute(runs, place, lambda run, status: None).values()] == ["finished"]
    (kept,) = stored(place, run_key(runs[0], "cpu"))
    for phase in ("train_step", "encode", "decode", "generate", "generate_naive"):
        assert kept.data.metrics[f"{schema.STOPPED_AT}{phase}"] == 4
        assert kept.data.tags[f"{schema.STOPPED_BY}{phase}"].startswith(schema.BY_TIME)


def test_runs_that_follow_from_others(place: Place, tmp_path: Path) -> None:
    """Told of each run that is over, once, what it says is executed as well; the observer sees nothing else."""
    first, bad, second, third = runs_of(tmp_path, ["compare.seed=[20, 21]", "training.steps=25"])
    assert isinstance(bad, LearnRun)
    bad = replace(bad, training=bad.training.model_copy(update={"learning_rate": 1e30, "clip": 1e30}))
    asked: list[tuple[Run, str]] = []
    following: dict[Run, list[Run]] = {first: [bad], bad: [second, third]}

    def follow(run: Run, reason: str) -> list[Run]:
        asked.append((run, reason.partition(":")[0]))
        return following.get(run, [])

    watcher = Watcher()
    failures = execute_grid([first], place, 2, watcher, follow=follow)
    assert list(failures) == [bad]
    assert asked[:2] == [(first, ""), (bad, "Diverged")]
    assert sorted(asked[2:], key=lambda one: one[0] is third) == [(second, ""), (third, "")]
    assert list(watcher.over) == [run for run, _ in asked]


def test_what_is_raised_when_asked_what_follows_ends_the_workers(place: Place, tmp_path: Path) -> None:
    short, long, *_ = runs_of(tmp_path, ["compare.seed=[22, 23]", "training.steps=25"])
    assert isinstance(long, LearnRun)
    long = replace(long, training=long.training.model_copy(update={"steps": 100_000}))

    def follow(run: Run, reason: str) -> list[Run]:
        raise StoreError("away")

    with pytest.raises(StoreError, match="away"):
        execute_grid([long, short], place, 2, Watcher(), follow=follow)
    assert not [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
    assert run_key(short, "cpu") in past_runs(place.store).finished
    assert run_key(long, "cpu") not in past_runs(place.store).finished


def test_results_do_not_depend_on_the_workers(place: Place, tmp_path: Path) -> None:
    """The same grid with one worker instead of two, in another store: equal to the last bit."""
    uri = f"sqlite:///{tmp_path / 'other.db'}"
    other = Place(open_store(uri, "g", "For tests."), "g", "cpu", None)
    runs = runs_of(tmp_path)
    if not past_runs(place.store).finished:
        execute_grid(runs, place, 2, Watcher())
    execute_grid(runs, other, 1, Watcher())
    for run in runs:
        (a,), (b,) = stored(place, run_key(run, "cpu")), stored(other, run_key(run, "cpu"))
        same = {name for name in a.data.metrics if "second" not in name}
        assert {name: a.data.metrics[name] for name in same} == {name: b.data.metrics[name] for name in same}


def test_a_crash_is_that_runs_failure_only(place: Place, tmp_path: Path) -> None:
    runs = runs_of(tmp_path, ["model=lstm", "compare.seed=[10, 11, 12]"])
    watcher = Watcher(kill_seed=11)
    failures = execute_grid(runs, place, 1, watcher)
    (killed,) = (run for run in runs if run.seed == 11)
    assert failures == {killed: "the worker was killed by SIGKILL (out of memory?)"}
    assert [watcher.over[run] for run in runs if run is not killed] == ["", ""]
    (kept,) = stored(place, run_key(killed, "cpu"))
    assert kept.info.status == "FAILED"
    assert kept.data.tags[schema.REASON] == failures[killed]
    assert past_runs(place.store).failed[run_key(killed, "cpu")] == failures[killed]
    assert run_key(killed, "cpu") not in past_runs(place.store).finished


def test_workers_share_the_gpus_of_a_machine(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(processes, "prepare_process", lambda: None)
    monkeypatch.setattr(signal, "signal", lambda number, action: None)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for number in range(5):
        ours, theirs = Pipe()
        ours.close()
        processes._work(theirs, replace(place, device="cuda"), number)
    assert taken == [0, 1, 2, 3, 0]


def test_a_job_of_several_processes_counts_as_so_many_workers(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two teams of two fill four GPUs, each with its own; one that is too large has what there is."""

    def shared(seed: int, devices: int) -> tuple[Run]:
        (run,) = runs_of(tmp_path, [f"training.devices={devices}", "model=lstm", f"seed={seed}"])
        return (run,)

    monkeypatch.setattr(processes, "_start", lambda place, number: processes._Worker(Mock(), Mock(), number))
    engine = processes.Processes(place, 4)
    engine.begin(shared(0, 2))
    assert engine.takes(shared(1, 2))
    engine.begin(shared(1, 2))
    assert not engine.takes(shared(2, 1))
    assert [worker.number for worker in engine._pool] == [0, 2]
    whole = processes.Processes(place, 4)
    assert whole.takes(shared(3, 8))
    whole.begin(shared(3, 8))
    assert not whole.takes(shared(4, 1))


def test_divergence_is_a_failed_run_with_its_reason(place: Place, tmp_path: Path) -> None:
    runs = runs_of(tmp_path, ["training.learning_rate=1e30", "training.clip=1e30", "seed=0", "model=transformer"])
    (reason,) = execute_grid(runs, place, 1, Watcher()).values()
    assert reason.startswith("Diverged: the loss became")
    (kept,) = stored(place, run_key(runs[0], "cpu"))
    assert kept.info.status == "FAILED"
    assert kept.data.tags[schema.REASON] == reason
    assert not any(name.startswith("test/") for name in kept.data.metrics)


def test_an_interrupt_leaves_a_killed_run(place: Place, tmp_path: Path) -> None:
    runs = runs_of(tmp_path, ["training.steps=100000", "seed=5", "model=lstm"])

    class Interrupter(Watcher):
        def advanced(self, run: Run, status: Status) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        execute_grid(runs, place, 1, Interrupter())
    (kept,) = stored(place, run_key(runs[0], "cpu"))
    assert kept.info.status == "KILLED"
    key = run_key(runs[0], "cpu")
    assert key not in past_runs(place.store).finished
    assert key not in past_runs(place.store).failed


def test_points_are_buffered_and_none_is_lost(place: Place) -> None:
    """More than MLflow takes at once, under one name and under many."""
    run = tracked(place.store, "points")
    for step in range(2_500):
        run.point("train/loss", step / 2, step)
    for i in range(1_200):
        run.point(f"test/m{i}", i)
    run.finish("FINISHED")
    client = MlflowClient(place.store.tracking_uri)
    assert run.id is not None
    history = client.get_metric_history(run.id, "train/loss")
    assert sorted((point.step, point.value) for point in history) == [(step, step / 2) for step in range(2_500)]
    assert len(client.get_run(run.id).data.metrics) == 1_202


def test_runs_that_bring_the_same_data_at_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    store = open_store(uri, "g", "")
    runs = [tracked(store, f"run {i}") for i in range(8)]
    together = threading.Barrier(len(runs))

    def end(run: TrackedRun) -> bool:
        run.dataset("same", {"source": "s", "digest": "d"})
        together.wait()
        return run.finish("FINISHED")

    with ThreadPoolExecutor(len(runs)) as pool:
        assert list(pool.map(end, runs)) == [True] * len(runs)
    for run in runs:
        inputs = stored_run(uri, run).inputs
        assert inputs is not None
        assert len(inputs.dataset_inputs) == 1
