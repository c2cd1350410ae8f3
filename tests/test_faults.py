"""What must survive: killed, hanging and interrupted grids, two grids at once, stores that are away, locked or full."""

from __future__ import annotations

import errno
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import faults
import psutil
import pytest
import torch
from faults import Campaign
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun
from team_server import TeamServer

from experiments import schema
from experiments.attempts import Outcome, Place, reason
from experiments.config import Run, run_key
from experiments.data import CPU, TaskData
from experiments.execution import Limits, Stopped, execute_grid
from experiments.grid import load_grid
from experiments.processes import Processes
from experiments.run import execute
from experiments.state import CHECKPOINT, RunState, is_claimed, left_to_send
from experiments.stores import Store, existing_store, open_store, past_runs
from experiments.tasks.strings import RunningParity
from experiments.tracking import TrackedRun, leave, send_left
from experiments.training import Status


def runs_of(folder: Path, *overrides: str) -> tuple[Run, ...]:
    path = folder / "g.yaml"
    path.write_text(faults.GRID, encoding="utf-8")
    return load_grid(str(path), overrides).runs


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without any grid, to be copied: it takes seconds to make one."""
    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


def open_copy(empty: Path, path: Path) -> Store:
    shutil.copy(empty, path)
    return open_store(f"sqlite:///{path}", "g", "For tests.")


@pytest.fixture
def place(empty: Path, tmp_path: Path) -> Place:
    return Place(open_copy(empty, tmp_path / "mlflow.db"), "g", "cpu", None, checkpoint_every=0.2)


def once(
    run: Run,
    place: Place,
    watch: Callable[[Status], object],
    stop: Callable[[], bool] = lambda: False,
) -> Outcome:
    """One attempt in this process."""

    def seen(_: Run, status: Status) -> None:
        watch(status)

    return execute((run,), place, seen, stop)[run]


def stored(place: Place, run: Run) -> list[StoredRun]:
    client = MlflowClient(place.store.tracking_uri)
    key = run_key(run, "cpu")
    return list(client.search_runs([place.store.experiment_id], f"tags.`{schema.KEY}` = '{key}'"))


def metrics_of(run: StoredRun) -> dict[str, float]:
    return {name: value for name, value in run.data.metrics.items() if "second" not in name}


def worker() -> psutil.Process:
    (found,) = [p for p in psutil.Process().children() if "spawn_main" in " ".join(p.cmdline())]
    return found


@dataclass
class Watcher:
    """Does something to the only worker, or to this process, when a run begins, advances or ends."""

    on_advance: Any = None
    on_end: Any = None
    over: dict[Run, str] = field(default_factory=dict)
    abandoned: dict[Run, str] = field(default_factory=dict)

    def started(self, run: Run) -> None:
        pass

    def advanced(self, run: Run, status: Status) -> None:
        if self.on_advance is not None:
            self.on_advance()

    def ended(self, run: Run, reason: str) -> None:
        self.over[run] = reason
        if self.on_end is not None:
            self.on_end()

    def left(self, run: Run, why: str) -> None:
        self.abandoned[run] = why


# --- kills -----------------------------------------------------------------------------------------------------------


def test_killed_at_random_moments_and_run_again(tmp_path: Path) -> None:
    """A worker, the parent and all of them; `python tests/faults.py 50` does it fifty times."""
    for name in ("undisturbed", "disturbed"):
        (tmp_path / name).mkdir()
    undisturbed, campaign = (Campaign(tmp_path / name) for name in ("undisturbed", "disturbed"))
    undisturbed.finish()
    chance = random.Random(1)
    for victim in ("parent", "all", "worker"):
        campaign.disturb(victim, begun=3, delay=chance.uniform(0, 1))
    assert campaign.kills == {"parent": 1, "all": 1, "worker": 1}
    campaign.finish()
    campaign.verdict(undisturbed.verdict(None))


@pytest.mark.faults
def test_fifty_kills() -> None:
    faults.main(50)


def test_a_worker_that_died_while_it_was_idle_is_replaced(place: Place, tmp_path: Path) -> None:
    runs = runs_of(tmp_path, "training.steps=25", "model=lstm", "compare.seed=[0, 1]")
    watcher = Watcher()

    def kill() -> None:
        one = worker()
        one.kill()
        one.wait(10)
        watcher.on_end = None

    watcher.on_end = kill
    assert execute_grid(runs, place, 1, watcher) == {}
    assert watcher.over == dict.fromkeys(runs, "")


def test_a_worker_has_the_number_of_the_one_that_it_replaces(place: Place, tmp_path: Path) -> None:
    """On which depends which GPU it takes."""
    first, second, third = ((run,) for run in runs_of(tmp_path, "model=lstm", "compare.seed=[0, 1, 2]"))
    engine = Processes(place, 2)
    ticket = engine.begin(first)
    engine.begin(second)
    assert [worker.number for worker in engine._pool] == [0, 1]
    engine.kill(ticket)
    engine.begin(third)
    assert [worker.number for worker in engine._pool] == [1, 0]
    for worker in list(engine._pool):
        assert worker.ticket is not None
        engine.kill(worker.ticket)
    engine.close()


def test_a_worker_that_hangs_is_given_up_and_its_run_goes_on_when_asked(place: Place, tmp_path: Path) -> None:
    runs = runs_of(tmp_path, "model=lstm", "compare.seed=[0, 1]")
    watcher = Watcher()

    advances = itertools.count(1)

    def stop() -> None:
        if next(advances) == 2:  # at step 50, kept up to 49 at least
            worker().suspend()
            watcher.on_advance = None

    watcher.on_advance = stop
    failures = execute_grid(runs, replace(place, checkpoint_every=0.0), 1, watcher, Limits(silence=25.0))
    assert list(failures) == [runs[0]]
    assert failures[runs[0]].startswith("hangs: no sign of progress for")
    assert watcher.over[runs[1]] == ""
    (kept,) = stored(place, runs[0])
    assert kept.info.status == "FAILED"
    assert kept.data.tags[schema.REASON] == failures[runs[0]]
    seen = list[Status]()
    assert once(runs[0], replace(place, since=time.time()), seen.append) == Outcome("finished")
    assert seen[0].step > 25  # it goes on where it was …
    (again,) = stored(place, runs[0])
    assert again.info.run_id == kept.info.run_id  # … as the same run
    assert again.info.status == "FINISHED"
    assert schema.REASON not in again.data.tags


def test_a_worker_that_dies_after_its_run_was_over_has_not_failed(place: Place, tmp_path: Path) -> None:
    run, other = runs_of(tmp_path, "training.steps=25", "model=lstm", "compare.seed=[0, 1]")
    assert once(run, place, lambda status: None) == Outcome("finished")
    assert leave(place.store, run_key(run, "cpu"), "FAILED", "killed")
    assert [found.info.status for found in stored(place, run)] == ["FINISHED"]
    assert not leave(place.store, run_key(other, "cpu"), "FAILED", "killed before it began")


def test_a_run_that_takes_too_long_is_given_up(place: Place, tmp_path: Path) -> None:
    (run,) = runs_of(tmp_path, "training.steps=1000000", "model=lstm", "seed=0")
    failures = execute_grid([run], place, 1, Watcher(), Limits(seconds=15.0))
    assert failures == {run: "timeout: not finished after 15 s"}
    (kept,) = stored(place, run)
    assert (kept.info.status, kept.data.tags[schema.REASON]) == ("FAILED", failures[run])


# --- interrupts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupted_grid_goes_on_as_if_nothing_had_been(
    times: int, place: Place, empty: Path, tmp_path: Path
) -> None:
    """Once: with a checkpoint written at that moment; twice: at once, from the last one. SIGTERM counts as Ctrl-C."""
    (run, *_) = runs_of(tmp_path, "model=transformer", "seed=0")
    watcher = Watcher()

    def interrupt() -> None:
        watcher.on_advance = None
        for number in (signal.SIGINT, signal.SIGTERM)[:times]:
            os.kill(os.getpid(), number)

    watcher.on_advance = interrupt
    never = replace(place, checkpoint_every=1e9 if times == 1 else 0.0)
    with pytest.raises(Stopped):
        execute_grid([run], never, 1, watcher)
    (killed,) = stored(place, run)
    assert killed.info.status == "KILLED"
    assert watcher.over == {}
    assert watcher.abandoned == ({run: "stopped"} if times == 1 else {})
    assert past_runs(place.store).begun == {run_key(run, "cpu")}
    folder = place.store.states / run_key(run, "cpu")
    assert (folder / CHECKPOINT).exists()
    assert not is_claimed(folder)
    assert once(run, place, lambda status: None) == Outcome("finished")
    (finished,) = stored(place, run)
    assert finished.info.run_id == killed.info.run_id
    assert finished.info.status == "FINISHED"
    other = open_copy(empty, tmp_path / "other.db")
    assert once(run, replace(place, store=other), lambda status: None) == Outcome("finished")
    (undisturbed,) = stored(replace(place, store=other), run)
    assert metrics_of(finished) == metrics_of(undisturbed)


def test_an_interrupt_of_all_processes_while_workers_import_fails_no_run(place: Place, tmp_path: Path) -> None:
    """A terminal or a scheduler sends it to the whole group: workers outlive it, and what was begun before goes on."""
    campaign = Campaign(tmp_path, ("--set", "compare.seed=[0]"))
    for run in runs_of(tmp_path, "compare.seed=[0]"):
        assert once(run, place, lambda status: None, stop=lambda: True) == Outcome("interrupted")
    for interrupt in (signal.SIGINT, signal.SIGTERM):
        grid = campaign.start()
        while faults.workers_of(grid.pid) < 2:
            assert grid.poll() is None, campaign.output()
            time.sleep(0.01)
        os.killpg(grid.pid, interrupt)
        assert grid.wait(timeout=120) == 130, campaign.output()
        assert [run.info.status for run in campaign.runs()] == ["KILLED"] * 2


# --- several at once -------------------------------------------------------------------------------------------------


def test_two_grids_at_once_execute_each_run_once(tmp_path: Path) -> None:
    campaign = Campaign(tmp_path, ("--set", "compare.seed=[0, 1]"))
    both = [campaign.start(), campaign.start()]
    assert [process.wait(timeout=600) for process in both] == [0, 0], campaign.output()
    assert Counter(run.info.status for run in campaign.runs()) == {"FINISHED": 4}
    assert len({run.data.tags[schema.KEY] for run in campaign.runs()}) == 4
    assert campaign.output().count("all 4 runs are finished") == 2


def make_store(uri: str, ready: Any, results: Any) -> None:
    ready.wait()
    try:
        results.put(open_store(uri, "g", "For tests.").experiment_id)
    except BaseException as error:
        results.put(repr(error))


def test_a_new_store_is_first_used_by_four_processes_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    ready, results = context.Barrier(4), context.Queue()
    arguments = (f"sqlite:///{tmp_path / 'mlflow.db'}", ready, results)
    processes = [context.Process(target=make_store, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    assert [results.get(timeout=120) for _ in processes] == ["1"] * 4
    for process in processes:
        process.join()


def test_a_run_that_another_process_has_claimed_is_left_to_it(place: Place, tmp_path: Path) -> None:
    run = runs_of(tmp_path, "training.steps=25", "model=lstm", "seed=0")[0]
    claim = RunState.claim(place.store.states / run_key(run, "cpu"))
    assert claim is not None
    assert once(run, place, lambda status: None) == Outcome("claimed")
    claim.release()
    assert once(run, place, lambda status: None) == Outcome("finished")
    assert once(run, place, lambda status: pytest.fail("run twice")) == Outcome("finished")
    assert len(stored(place, run)) == 1


def test_what_failed_elsewhere_meanwhile_is_not_tried_again(place: Place, tmp_path: Path) -> None:
    run = runs_of(tmp_path, "training.learning_rate=1e30", "training.clip=1e30", "model=lstm", "seed=0")[0]
    before = time.time()
    failed = once(run, place, lambda status: None)
    assert failed.kind == "failed"
    assert failed.reason.startswith("Diverged")
    assert once(run, replace(place, since=before), lambda status: None) == failed
    assert len(stored(place, run)) == 1
    once(run, replace(place, since=time.time() + 1), lambda status: None)
    assert len(stored(place, run)) == 2


def test_a_run_on_another_machine_is_left_to_it_until_its_lease_ends(place: Place, tmp_path: Path) -> None:
    run = runs_of(tmp_path, "training.steps=25", "model=lstm", "seed=0")[0]
    client = MlflowClient(place.store.tracking_uri)
    tags = {schema.KEY: run_key(run, "cpu"), schema.HOST: "another", schema.LEASE: str(int(time.time()) + 60)}
    theirs = client.create_run(place.store.experiment_id, tags=tags).info.run_id
    assert once(run, place, lambda status: None) == Outcome("claimed")
    client.set_tag(theirs, schema.LEASE, str(int(time.time()) - 1))
    assert once(run, place, lambda status: None) == Outcome("finished")
    assert Counter(found.info.status for found in stored(place, run)) == {"FINISHED": 1, "KILLED": 1}


# --- what goes wrong in a run ----------------------------------------------------------------------------------------


def test_a_task_that_raises_and_memory_that_ends(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs_of(tmp_path, "training.steps=25", "model=lstm", "seed=0")[0]

    with monkeypatch.context() as patch:
        patch.setattr("experiments.run.load_task", lambda task, root: broken_data(task))
        assert once(run, place, lambda status: None) == Outcome("failed", "ZeroDivisionError: a task")
    with monkeypatch.context() as patch:
        patch.setattr("experiments.run.train", no_memory)
        assert once(run, place, lambda status: None) == Outcome("failed", "out of memory: tried to allocate 9 GiB")
    of_a_library = RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED\nYou can try …")
    assert reason(of_a_library) == "out of memory: cuDNN error: CUDNN_STATUS_ALLOC_FAILED"
    assert [found.info.status for found in stored(place, run)] == ["FAILED", "FAILED"]
    assert list(place.store.states.iterdir()) == []
    assert once(run, place, lambda status: None) == Outcome("finished")


def broken_data(task: RunningParity) -> TaskData:
    def training(size: object, generator: torch.Generator, device: torch.device = CPU) -> Iterator[Any]:
        raise ZeroDivisionError("a task\nin two lines")
        yield

    return replace(task.load(None), training=training)


def no_memory(*_: Any, **__: Any) -> None:
    raise torch.OutOfMemoryError("tried to allocate 9 GiB")


def test_a_full_disk_does_not_stop_a_training(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs_of(tmp_path, "training.steps=50", "model=lstm", "seed=0")[0]

    def full(self: RunState, checkpoint: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(RunState, "save_checkpoint", full)
    assert once(run, place, lambda status: None) == Outcome("finished")
    (kept,) = stored(place, run)
    curve = MlflowClient(place.store.tracking_uri).get_metric_history(kept.info.run_id, schema.TRAIN_LOSS)
    assert sorted(point.step for point in curve) == [25, 50]


def test_a_run_for_which_there_is_no_place_on_the_disk_fails_alone(place: Place, tmp_path: Path) -> None:
    """Where its folder should be is a file: it can neither be claimed nor, by the parent, be marked."""
    runs = runs_of(tmp_path, "training.steps=25", "model=lstm", "compare.seed=[0, 1]")
    place.store.states.mkdir(parents=True, exist_ok=True)
    (place.store.states / run_key(runs[0], "cpu")).touch()
    watcher = Watcher()
    failures = execute_grid(runs, place, 1, watcher)
    assert [reason.partition(":")[0] for reason in failures.values()] == ["NotADirectoryError"]
    assert watcher.over == {runs[0]: failures[runs[0]], runs[1]: ""}
    assert not leave(place.store, run_key(runs[0], "cpu"), "FAILED", "gone")
    assert left_to_send(place.store.states) == []
    together = execute((runs[1], runs[0]), place, lambda run, status: None)
    assert [outcome.kind for outcome in together.values()] == ["failed", "failed"]
    assert not is_claimed(place.store.states / run_key(runs[1], "cpu"))


def test_checkpoints_of_which_none_can_be_read_are_a_new_beginning(place: Place, tmp_path: Path) -> None:
    run = runs_of(tmp_path, "training.steps=100", "model=lstm", "seed=0")[0]
    asked = iter(range(1000))
    outcome = once(run, place, lambda status: None, stop=lambda: next(asked) > 80)
    assert outcome == Outcome("interrupted")
    for path in (place.store.states / run_key(run, "cpu")).glob("checkpoint*"):
        path.write_bytes(path.read_bytes()[:100])
    assert once(run, place, lambda status: None) == Outcome("finished")
    assert Counter(found.info.status for found in stored(place, run)) == {"FINISHED": 1, "KILLED": 1}
    whole = next(found for found in stored(place, run) if found.info.status == "FINISHED")
    curve = MlflowClient(place.store.tracking_uri).get_metric_history(whole.info.run_id, schema.TRAIN_LOSS)
    assert sorted(point.step for point in curve) == [25, 50, 75, 100]


# --- stores ----------------------------------------------------------------------------------------------------------


def begin(store: Store, key: str) -> TrackedRun:
    state = RunState.claim(store.states / key)
    assert state is not None
    return TrackedRun(store, state, key, key, {}, {"a": 1})


def log(run: TrackedRun, first: int, last: int) -> None:
    """A point a step, each in its own checkpoint."""
    for step in range(first, last):
        run.point("train/loss", step / 4, step)
        run.to_keep()
        run.kept()


def has_all(store: Store, key: str, count: int) -> None:
    client = MlflowClient(store.tracking_uri)
    (run,) = client.search_runs([store.experiment_id], f"tags.`{schema.KEY}` = '{key}'")
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "train/loss")
    assert sorted((point.step, point.value) for point in history) == [(step, step / 4) for step in range(count)]
    assert run.data.params == {"a": "1"}


def test_a_locked_store_is_waited_for_by_nobody_but_the_sender(place: Place, tmp_path: Path) -> None:
    run = begin(place.store, "k")
    with sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None, check_same_thread=False) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        log(run, 0, 20)  # all of it, while the store is locked
        assert run._sending is not None
        assert not run._sending.done()
        threading.Timer(1.0, lambda: lock.execute("COMMIT")).start()
        assert run.finish("FINISHED")
    has_all(place.store, "k", 20)


@pytest.mark.faults
def test_a_store_that_is_locked_for_thirty_seconds(place: Place, tmp_path: Path) -> None:
    """Longer than MLflow waits: what it refuses is sent later."""
    run = begin(place.store, "k")
    with sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None, check_same_thread=False) as lock:
        lock.execute("BEGIN EXCLUSIVE")
        threading.Timer(30.0, lambda: lock.execute("COMMIT")).start()
        log(run, 0, 5)
        time.sleep(32)
        log(run, 5, 10)
        assert run.finish("FINISHED")
    has_all(place.store, "k", 10)


def test_a_store_that_cannot_be_written_gets_everything_when_it_can(place: Place, tmp_path: Path) -> None:
    """From the first word on: the run is not even created. A trigger of the database refuses as a full disk does."""
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON runs BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    run = begin(place.store, "k")
    assert run.id is None
    log(run, 0, 5)
    assert not run.finish("FINISHED")
    assert run._state is not None
    run._state.release()
    assert len(left_to_send(place.store.states)) == 1
    assert send_left(place.store) == 1
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("DROP TRIGGER full")
    assert send_left(place.store) == 0
    assert left_to_send(place.store.states) == []
    has_all(place.store, "k", 5)


def test_parameters_that_were_refused_are_sent_again(place: Place, tmp_path: Path) -> None:
    """The run is created, then the disk is full: what its settings are is not known before the store takes them."""
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("CREATE TRIGGER full BEFORE INSERT ON params BEGIN SELECT RAISE(ABORT, 'disk is full'); END")
    run = begin(place.store, "k")
    assert run.id is not None
    log(run, 0, 3)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        database.execute("DROP TRIGGER full")
    log(run, 3, 5)
    assert run.finish("FINISHED")
    has_all(place.store, "k", 5)


def test_a_server_that_goes_away_gets_everything_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of one run; a second one begins and ends without it."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with TeamServer(tmp_path) as server:
        place = Place(open_store(server.uri, "g", "For tests."), "g", "cpu", None, checkpoint_every=0.0)
        runs = runs_of(tmp_path, "training.steps=100", "model=lstm", "compare.seed=[0, 1]")
        seen = list[Status]()

        def watch(status: Status) -> None:
            if not seen:
                server.kill()
            seen.append(status)

        assert once(runs[0], place, watch) == Outcome("finished")
        assert once(runs[1], place, watch) == Outcome("finished")
        assert len(left_to_send(place.store.states)) == 2
        assert send_left(place.store) == 2
        server.start()
        assert send_left(place.store) == 0
        assert existing_store(server.uri, "g") == place.store
        assert past_runs(place.store).finished == {run_key(run, "cpu") for run in runs}
        client = MlflowClient(server.uri)
        for run in runs:
            (kept,) = stored(place, run)
            history = client.get_metric_history(kept.info.run_id, schema.TRAIN_LOSS)
            assert sorted(point.step for point in history) == [25, 50, 75, 100]
            names = {artifact.path for artifact in client.list_artifacts(kept.info.run_id)}
            assert {schema.CONFIG_ARTIFACT, schema.PREDICTIONS_ARTIFACTS[schema.TEST], "checkpoint"} <= names
