"""Grids on a Ray cluster of two machines' worth of resources, one of them lost in the middle."""

# ruff: noqa: E402 (without Ray, nothing here can be imported)

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun
from team_server import TeamServer

ray = pytest.importorskip("ray", reason="needs Ray (the extra `ray`)")

from ray.cluster_utils import Cluster

from experiments import schema
from experiments.attempts import Place, jobs
from experiments.cluster import Tasks, connect, needs
from experiments.config import GradientsRun, LearnRun, Run, run_key
from experiments.execution import Limits, execute_grid
from experiments.grid import load_grid
from experiments.stores import open_store, past_runs
from experiments.training import Status

LVT = Path(sys.executable).parent / "lvt"
GRID = """
description: For tests.
fixed:
  budget: {parameters: 5_000}
compare:
  seed: [0, 1]
parts:
  - fixed:
      kind: learn
      training: {steps: 300, batch_size: 16, evaluate_every: 50, learning_rate: 4e-3}
      task: {name: running_parity, max_length: 6, longer_lengths: [9]}
    compare: {model: [lstm, transformer]}
  - fixed:
      kind: efficiency
      model: lstm
      efficiency: {lengths: [4], batch_size: 2, decode_tokens: 2, repeats: 1, warmup: 1, seconds_per_point: 1e-6}
"""


TUNED = """
description: For tests.
fixed:
  kind: learn
  model: lstm
  budget: {parameters: 5_000}
  training: {steps: 60, batch_size: 16, evaluate_every: 10}
  task: {name: running_parity, max_length: 6, longer_lengths: [9]}
tune:
  trials: 5
  seed: 104  # by which the first two of them learn something
  pruner: median
  startup: 2
  ranges: {lstm: {training: {learning_rate: {choices: [1e-2, 2e-2, 1e-6, 1e-7, 1e-8]}}}}
compare:
  seed: [0]
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A head with one core."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))  # also of its workers
        machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        yield machines
        machines.shutdown()


@pytest.fixture
def place(cluster: Cluster, tmp_path: Path) -> Iterator[Place]:
    with TeamServer(tmp_path) as server:
        yield Place(open_store(server.uri, "g", "For tests."), "g", "cpu", None, checkpoint_every=0.0)


@dataclass
class Watcher:
    """Remembers what happened; loses a machine when a run on it is on its way."""

    lose: Any = None
    begun: list[Run] = field(default_factory=list)
    over: dict[Run, str] = field(default_factory=dict)
    abandoned: list[str] = field(default_factory=list)

    def started(self, run: Run) -> None:
        self.begun.append(run)

    def advanced(self, run: Run, status: Status) -> None:
        if self.lose is not None and len(self.over) >= 1:
            self.lose()
            self.lose = None

    def ended(self, run: Run, reason: str) -> None:
        assert run not in self.over
        self.over[run] = reason

    def left(self, run: Run, why: str) -> None:
        self.abandoned.append(why)


def runs_of(folder: Path) -> tuple[Run, ...]:
    path = folder / "g.yaml"
    path.write_text(GRID, encoding="utf-8")
    return load_grid(str(path)).runs


def test_a_machine_that_is_lost_in_the_middle_loses_no_run(cluster: Cluster, place: Place, tmp_path: Path) -> None:
    runs = runs_of(tmp_path)
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    assert connect(cluster.address) == "cpu"
    try:
        watcher = Watcher(lose=lambda: cluster.remove_node(second, allow_graceful=False))
        assert execute_grid(runs, place, 1, watcher, Limits(seconds=300.0), Tasks) == {}
    finally:
        ray.shutdown()
    assert watcher.lose is None
    assert watcher.over == dict.fromkeys(runs, "")
    # What was on it, and perhaps what was sent there before its loss was noticed.
    assert set(watcher.abandoned) == {"its machine was lost; it is executed again"}
    assert len(watcher.begun) == len(runs) + len(watcher.abandoned)
    assert past_runs(place.store).finished == {run_key(run, "cpu") for run in runs}
    client = MlflowClient(place.store.tracking_uri)
    stored = [run for run in client.search_runs([place.store.experiment_id]) if schema.KEY in run.data.tags]
    finished = Counter(run.data.tags[schema.KEY] for run in stored if run.info.status == schema.FINISHED)
    assert finished == Counter(run_key(run, "cpu") for run in runs)
    for run in stored:
        if run.data.tags[schema.KIND] == schema.LEARN and run.info.status == schema.FINISHED:
            curve = client.get_metric_history(run.info.run_id, schema.TRAIN_LOSS)
            assert sorted(point.step for point in curve) == list(range(25, 301, 25))


def test_what_jobs_are_given(cluster: Cluster, tmp_path: Path) -> None:
    learn, *_, sweeps = jobs(runs_of(tmp_path))
    assert len(sweeps) == 2
    large = cluster.add_node(num_cpus=3)
    cluster.wait_for_nodes()
    connect(cluster.address)
    try:
        assert needs(learn, "cpu", 4) == {"num_cpus": 1}
        assert needs(sweeps, "cpu", 4) == {"num_cpus": 3}
        assert needs(learn, "cuda", 4) == {"num_cpus": 1, "num_gpus": 0.25}
        assert needs(sweeps, "cuda", 4) == {"num_cpus": 1, "num_gpus": 1}
        assert isinstance(learn[0], LearnRun)
        shared = replace(learn[0], training=learn[0].training.model_copy(update={"devices": 2}))
        assert needs((shared,), "cpu", 4) == {"num_cpus": 2}
        assert needs((shared,), "cuda", 4) == {"num_cpus": 2, "num_gpus": 2}
        reaching = next(run for run in load_grid("gradients").runs if isinstance(run, GradientsRun))
        reaching = replace(reaching, training=reaching.training.model_copy(update={"devices": 4}))
        assert needs((reaching,), "cuda", 1) == {"num_cpus": 4, "num_gpus": 4}
    finally:
        ray.shutdown()
        cluster.remove_node(large)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--address", "auto"), "--address is that of a Ray cluster: it needs --engine ray"),
        (
            ("--engine", "ray", "--address", "auto"),
            "start a server (README, A team's server) and give its address as --tracking-uri http://…",
        ),
        (("--engine", "ray", "--workers", "2"), "each run of a cluster takes one core"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    store = f"sqlite:///{tmp_path / 'none.db'}"
    command = [str(LVT), "run", "smoke", "--device", "cpu", "--tracking-uri", store, *arguments]
    result = subprocess.run(command, cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=300)
    assert result.returncode == 2, result.stdout + result.stderr
    assert said in result.stdout + result.stderr
    assert not (tmp_path / "none.db").exists()


def finished_on_a_cluster(grid: str, folder: Path) -> str:
    """Runs a grid of six runs on a new cluster of this machine; the address of its store."""
    (folder / "g.yaml").write_text(grid, encoding="utf-8")
    store = f"sqlite:///{folder / 'mlflow.db'}"
    command = [str(LVT), "run", "g.yaml", "--engine", "ray", "--device", "cpu", "--tracking-uri", store]
    result = subprocess.run(command, cwd=folder, env=os.environ, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "all 6 runs are finished" in result.stdout
    return store


def test_a_grid_on_a_cluster_of_this_machine(tmp_path: Path) -> None:
    finished_on_a_cluster(GRID, tmp_path)


def test_trials_that_follow_from_each_other_on_a_cluster(tmp_path: Path) -> None:
    """What decides whether a trial is ended reaches the task that executes it."""
    pytest.importorskip("optuna", reason="needs Optuna (the extra `optuna`)")
    client = MlflowClient(finished_on_a_cluster(TUNED, tmp_path))
    experiment = client.get_experiment_by_name("g")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], f"tags.`{schema.PHASE}` = '{schema.TUNING}'")
    pruned = {run.data.tags[schema.TRIAL]: run.data.metrics.get(schema.PRUNED_STEP) for run in runs}
    assert pruned == {"1": None, "2": None, "3": 10, "4": 10, "5": 10}


def test_an_interrupt_ends_a_grid_on_a_cluster_cleanly(tmp_path: Path) -> None:
    """Ctrl-C, which reaches all processes of the terminal: what runs is kept, and goes on when it is run again."""
    (tmp_path / "g.yaml").write_text(GRID.replace("steps: 300", "steps: 1500"), encoding="utf-8")
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    command = [str(LVT), "run", "g.yaml", "--engine", "ray", "--device", "cpu", "--tracking-uri", store]
    command += ["--checkpoint-every", "0"]
    settings = {**os.environ, "XDG_STATE_HOME": str(tmp_path / "state")}
    client = MlflowClient(store)

    def runs() -> list[StoredRun]:
        experiment = client.get_experiment_by_name("g") if (tmp_path / "mlflow.db").exists() else None
        return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))

    with (tmp_path / "log").open("w") as log:
        grid = subprocess.Popen(command, cwd=tmp_path, env=settings, stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 240
        while not any(run.info.status == "RUNNING" and run.data.metrics for run in runs()):
            assert grid.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        os.killpg(grid.pid, signal.SIGINT)
        assert grid.wait(timeout=120) == 130, (tmp_path / "log").read_text()
    assert "interrupted: finished runs are kept" in (tmp_path / "log").read_text()
    killed = {run.info.run_id for run in runs() if run.info.status == "KILLED"}
    assert killed
    assert not [run for run in runs() if run.info.status == "RUNNING"]
    result = subprocess.run(command, cwd=tmp_path, env=settings, capture_output=True, text=True, timeout=600)
    assert "all 6 runs are finished" in result.stdout, result.stdout + result.stderr
    finished = {run.info.run_id for run in runs() if run.info.status == "FINISHED"}
    assert len(runs()) == len(finished) == 6
    assert killed <= finished  # they went on
