"""A grid on a team's server: MLflow on a real PostgreSQL, artifacts behind HTTP, the same runs as in a local file."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from team_server import TeamServer, postgresql

from analysis import runs
from experiments import schema
from experiments.state import RunState, state_folder
from experiments.stores import Past, Store, open_store, past_runs
from experiments.tracking import AlreadyOver, TrackedRun

LVT = Path(sys.executable).parent / "lvt"
SMOKE = (
    *("run", "smoke", "--workers", "2", "--set", "compare.model=[lstm_attention, transformer]"),
    *("--set", "efficiency.lengths=[8, 16]", "--set", "efficiency.seconds_per_point=0.01"),
)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    with postgresql() as address:
        yield address


@pytest.fixture(scope="module")
def server(database: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TeamServer]:
    with TeamServer(tmp_path_factory.mktemp("server"), database) as running:
        yield running


def lvt(*arguments: str, folder: Path, uri: str) -> subprocess.Popen[str]:
    """The command, begun; what a user keeps at home it keeps in `folder`."""
    return subprocess.Popen(
        [LVT, *arguments],
        cwd=folder,
        env=os.environ | {"MLFLOW_TRACKING_URI": uri, "XDG_STATE_HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def untimed(table: pd.DataFrame) -> pd.DataFrame:
    """What must be the same whenever and wherever the runs were: all points of learning that measure no time."""
    timed = table["metric"].str.contains("second")
    kept = table[(table["kind"] == schema.LEARN) & ~timed]
    return kept.drop(columns=["run_id", "start_time"]).reset_index(drop=True)


def test_smoke_through_the_server_is_smoke_in_a_file(server: TeamServer, tmp_path: Path) -> None:
    local = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tables = {}
    for uri in (local, server.uri):
        assert "all 6 runs are finished" in finish(lvt(*SMOKE, folder=tmp_path, uri=uri))
        tables[uri] = runs.load(uri, ["smoke"])
    here, there = tables[local], tables[server.uri]
    assert here["run_id"].nunique() == there["run_id"].nunique() == 6
    assert set(there["status"]) == {"FINISHED"}
    pd.testing.assert_frame_equal(untimed(here), untimed(there))
    assert len(untimed(there)) > 100
    # In the short time of a point not everything is measured each time.
    sweeps = [table[(table["kind"] == schema.EFFICIENCY) & table["value"].notna()] for table in (here, there)]
    of_sweeps = [set(zip(table["model"], table["seed"], strict=True)) for table in sweeps]
    assert of_sweeps[0] == of_sweeps[1]
    assert len(of_sweeps[0]) > 0
    # Artifacts went through the server into its store.
    client = MlflowClient(server.uri)
    for run_id in there["run_id"].unique():
        downloaded = Path(client.download_artifacts(run_id, "", str(tmp_path)))
        assert (downloaded / schema.CONFIG_ARTIFACT).stat().st_size > 0
    again = finish(lvt(*SMOKE, folder=tmp_path, uri=server.uri))
    assert "6 runs, 6 finished before, 0 to do" in again


def test_what_is_finished_is_known_without_a_search(
    server: TeamServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The index says what a search says: of old runs, new ones, ones that it missed, deleted ones and ones run anew."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    client = MlflowClient(server.uri)
    experiment = client.create_experiment("past")

    def add(key: str, status: str, **tags: str) -> str:
        run_id = client.create_run(experiment, tags={schema.KEY: key, **tags}).info.run_id
        client.set_terminated(run_id, status)
        return str(run_id)

    add("old", schema.FINISHED)  # before there was an index
    gone = add("gone", schema.FINISHED)
    add("failed", schema.FAILED, **{schema.REASON: "for a reason"})
    add("killed", schema.KILLED)
    store = open_store(server.uri, "past", "For tests.")
    run = begun(store, "new")
    assert run.finish(schema.FINISHED)
    add("missed", schema.FINISHED)  # by a process that died before it could note it
    client.delete_run(gone)
    failed, unfinished = {"failed": "for a reason"}, frozenset({"killed"})
    assert past_runs(store) == Past(frozenset({"old", "new"}), failed, unfinished)
    with pytest.raises(AlreadyOver):
        begun(store, "missed")
    assert past_runs(store).finished == {"old", "new", "missed"}
    assert begun(store, "gone").finish(schema.FINISHED)
    assert past_runs(store).finished == {"old", "new", "missed", "gone"}
    (index_run,) = client.search_runs([experiment], f"tags.`{schema.KIND}` = '{schema.INDEX}'")
    client.delete_run(index_run.info.run_id)
    by_search = Past(frozenset({"old", "new", "missed", "gone"}), failed, unfinished)
    assert past_runs(store) == by_search
    assert past_runs(open_store(server.uri, "past", "For tests.")) == by_search
    assert begun(store, "last").finish(schema.FINISHED)
    assert past_runs(store).finished == {"old", "new", "missed", "gone", "last"}


def begun(store: Store, key: str) -> TrackedRun:
    state = RunState.claim(store.states / key)
    assert state is not None
    try:
        return TrackedRun(store, state, key, key, {}, {})
    finally:
        state.release()


def test_the_server_answers_to_its_own_name_only(server: TeamServer) -> None:
    """`--allowed-hosts`: another site's page that has its name point at this address gets nothing."""
    address = server.uri.removeprefix("http://")
    for host, status in ((address, 200), ("evil.example", 403)):
        connection = http.client.HTTPConnection(address, timeout=30)
        connection.request("GET", "/api/2.0/mlflow/experiments/get?experiment_id=0", headers={"Host": host})
        assert connection.getresponse().status == status
        connection.close()


def test_a_server_that_is_killed_while_a_grid_runs_and_comes_back(server: TeamServer, tmp_path: Path) -> None:
    """The grid goes on and ends by itself, and the server has all of it; runs begin and end while it is away."""
    (tmp_path / "g.yaml").write_text(
        """
description: For tests.
fixed:
  kind: learn
  budget: {parameters: 5_000}
  training: {steps: 200, batch_size: 16, evaluate_every: 50, learning_rate: 4e-3}
  task: {name: running_parity, max_length: 6, longer_lengths: [9]}
compare:
  model: [lstm, transformer]
  seed: [0, 1, 2]
""",
        encoding="utf-8",
    )
    options = ("run", "g.yaml", "--workers", "1", "--checkpoint-every", "0.2")
    process = lvt(*options, folder=tmp_path, uri=server.uri)
    states = tmp_path / "lvt" / state_folder(server.uri).name / "g"
    while not list(states.glob("*/checkpoint.pt")):  # in the middle of the first run
        assert process.poll() is None
        time.sleep(0.05)
    server.kill()
    while not any('"FINISHED"' in record.read_text() for record in states.glob("*/record.json")):  # it ended meanwhile
        assert process.poll() is None
        time.sleep(0.05)
    server.start()
    assert "all 6 runs are finished" in finish(process)
    table = runs.load(server.uri, ["g"])
    assert table.groupby("key")["run_id"].nunique().tolist() == [1] * 6
    assert set(table["status"]) == {"FINISHED"}
    for _, curve in table[table["metric"] == schema.TRAIN_LOSS].groupby("key"):
        assert curve["at"].tolist() == list(range(25, 201, 25))
    undisturbed = f"sqlite:///{tmp_path / 'mlflow.db'}"
    finish(lvt(*options, folder=tmp_path, uri=undisturbed))
    pd.testing.assert_frame_equal(untimed(table), untimed(runs.load(undisturbed, ["g"])))
