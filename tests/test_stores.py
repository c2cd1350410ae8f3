"""Tracking stores: made whole, named where they cannot be used, and read as MLflow reads them."""

from __future__ import annotations

import functools
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from sqlalchemy import Engine, event

from experiments import index, page, schema, stores
from experiments.state import exclusively
from experiments.stores import Store, StoreError, existing_store, open_store, past_runs


@pytest.fixture
def opened(tmp_path: Path) -> Store:
    return open_store(f"sqlite:///{tmp_path / 'mlflow.db'}", "g", "For tests.")


def test_a_file_is_read_as_mlflow_reads_it(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past runs come from the tables of a SQLite store; should MLflow change them, this fails."""
    client = MlflowClient(opened.tracking_uri)
    store = replace(opened, experiment_id=client.create_experiment("past"))
    ends = {"a": "FINISHED", "b": "FAILED", "c": "KILLED", "d": "RUNNING", "e": "FAILED", "f": "FINISHED"}
    for key, status in ends.items():
        run_id = client.create_run(store.experiment_id, tags={schema.KEY: key}).info.run_id
        if key == "b":
            client.set_tag(run_id, schema.REASON, "for a reason")
        if status != "RUNNING":
            client.set_terminated(run_id, status)
        if key == "f":
            client.delete_run(run_id)
    client.create_run(store.experiment_id)  # has no key
    by_mlflow = sorted(
        (run.info.status, run.data.tags[schema.KEY], run.data.tags.get(schema.REASON, ""))
        for run in client.search_runs([store.experiment_id])
        if schema.KEY in run.data.tags
    )
    assert sorted(stores._states_in_file(store)) == by_mlflow
    with monkeypatch.context() as context:
        context.setattr(stores, "_client", None)  # nobody asks MLflow
        past = past_runs(store)
        assert existing_store(store.tracking_uri, "past") == replace(store, states=store.states.with_name("past"))
        assert existing_store(store.tracking_uri, "another") is None
    assert past == stores.Past(frozenset("a"), {"b": "for a reason", "e": ""}, frozenset("cd"))
    assert stores.Past() == past_runs(replace(store, experiment_id="12345"))


def test_a_store_is_made_by_one_process_at_a_time(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """While another makes a grid in it nothing is written; and what each does is done before it lets go of the lock."""
    lock = opened.states.parent / "creation.lock"
    monkeypatch.setattr(stores, "exclusively", functools.partial(exclusively, patience=0.0))
    with exclusively(lock), pytest.raises(StoreError, match=r"another process has held .*creation\.lock"):
        open_store(opened.tracking_uri, "h", "For tests.")
    assert existing_store(opened.tracking_uri, "h") is None
    describe = page.describe

    def locked(*arguments: Any, **options: Any) -> None:
        with pytest.raises(TimeoutError), exclusively(lock, patience=0.0):
            pass
        describe(*arguments, **options)

    monkeypatch.setattr(page, "describe", locked)
    assert open_store(opened.tracking_uri, "h", "For tests.") == existing_store(opened.tracking_uri, "h")


@pytest.mark.parametrize("through", ["its tables", "a search", "a search and an index"])
def test_of_several_attempts_a_finished_one_counts_else_the_last(
    through: str, opened: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = MlflowClient(opened.tracking_uri)
    store = replace(opened, experiment_id=client.create_experiment("attempts"))
    attempts = {"a": ["FAILED", "KILLED"], "b": ["RUNNING", "FAILED"], "c": ["FINISHED", "FAILED"], "d": ["FAILED"] * 2}
    finished = {}
    for key, statuses in attempts.items():
        for when, status in enumerate(statuses, start=1):
            run_id = client.create_run(store.experiment_id, when, {schema.KEY: key}).info.run_id
            client.set_tag(run_id, schema.REASON, f"attempt {when}")
            if status != "RUNNING":
                client.set_terminated(run_id, status)
            if status == "FINISHED":
                finished[key] = run_id
    if through != "its tables":
        monkeypatch.setattr(stores, "_states", lambda store: list(stores._states_by_search(client, store)))
    if through == "a search and an index":
        index.make(client, store.experiment_id, finished)
    assert past_runs(store) == stores.Past(frozenset("c"), {"b": "attempt 2", "d": "attempt 2"}, frozenset("a"))


def test_tables_that_are_others_are_left_to_mlflow(opened: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    client = MlflowClient(opened.tracking_uri)
    experiment = client.create_experiment("others")
    store = replace(opened, experiment_id=experiment, states=opened.states.with_name("others"))
    client.set_terminated(client.create_run(experiment, tags={schema.KEY: "a"}).info.run_id, "FINISHED")

    def other_tables(*_: object) -> None:
        raise sqlite3.OperationalError("no such column")

    monkeypatch.setattr(stores, "_query", other_tables)
    assert existing_store(store.tracking_uri, "others") == store
    assert existing_store(store.tracking_uri, "another") is None
    assert past_runs(store) == stores.Past(finished=frozenset("a"))


def test_a_store_whose_making_was_killed_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"

    def killed(address: str) -> None:
        with closing(sqlite3.connect(address.removeprefix("sqlite:///"))) as database:
            database.execute("CREATE TABLE datasets (name TEXT)")
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(stores, "_client", killed)
        with pytest.raises(KeyboardInterrupt):
            open_store(uri, "g", "")
    store = open_store(uri, "g", "")
    assert MlflowClient(uri).get_experiment(store.experiment_id).name == "g"
    assert not list(tmp_path.glob("*.new"))


def test_only_the_making_of_a_store_is_written_without_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand times the disk would be waited for; for what a run tells it later it is."""
    waits: dict[str, set[int]] = {"mlflow.db.new": set(), "mlflow.db": set()}

    def note(connection: sqlite3.Connection, _record: object) -> None:
        file = Path(connection.execute("PRAGMA database_list").fetchone()[2])
        waits[file.name].add(connection.execute("PRAGMA synchronous").fetchone()[0])

    def noted(address: str) -> MlflowClient:
        if not event.contains(Engine, "connect", note):  # comes after the listener that is there for the making
            event.listen(Engine, "connect", note)
        return make(address)

    make = stores._client
    monkeypatch.setattr(stores, "_client", noted)
    try:
        open_store(f"sqlite:///{tmp_path / 'mlflow.db'}", "g", "For tests.")
    finally:
        event.remove(Engine, "connect", note)
    assert waits == {"mlflow.db.new": {0}, "mlflow.db": {2}}  # OFF, FULL


def test_a_store_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"sqlite:////proc/nothing/mlflow\.db"):
        open_store("sqlite:////proc/nothing/mlflow.db", "g", "")
    other = tmp_path / "notes.txt"
    other.write_text("no database\n" * 100, encoding="utf-8")
    for use in (lambda uri: existing_store(uri, "g"), lambda uri: open_store(uri, "g", "")):
        with pytest.raises(StoreError, match=r"notes\.txt: .*file is not a database$"):
            use(f"sqlite:///{other}")
