"""One training by several processes: what it computes, against one process with the whole batch."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
from mlflow import MlflowClient
from torch import Tensor

from experiments import schema
from experiments.attempts import Outcome, Place
from experiments.config import LearnRun, parse_run, run_key
from experiments.inputs import load_task, sized_model
from experiments.run import execute
from experiments.settings import SettingsError
from experiments.state import CHECKPOINT
from experiments.stores import open_store
from experiments.team import Team, _device, _draw_dropout, end_with_parent, part
from experiments.training import Status, train
from models.interface import PAD
from models.registry import build

CPU = torch.device("cpu")


def run_of(model: str, devices: int, **training: Any) -> LearnRun:
    """Answers of different lengths, so that the processes have different numbers of target tokens."""
    options = {"steps": 12, "batch_size": 6, "evaluate_every": 6, "learning_rate": 4e-3, "warmup_steps": 2}
    tree = {
        "kind": "learn",
        "model": {"name": model, "dropout": 0.0},
        "budget": {"parameters": 5_000},
        "seed": 3,
        "task": {"name": "stack_manipulation", "max_length": 9, "longer_lengths": [12]},
        "training": options | training | {"devices": devices},
    }
    run = parse_run(tree)
    assert isinstance(run, LearnRun)
    return run


def test_the_processes_of_a_team_have_gpus_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first stays on that of its worker."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    run = run_of("lstm", 2)
    training = Team(run, sized_model(run, None)[0], None, "cuda", None)._training
    assert [_device(training, rank) for rank in range(2)] == [torch.device("cuda", 3), torch.device("cuda", 0)]


class Recorder:
    def __init__(self) -> None:
        self.points: dict[tuple[str, int], float] = {}

    def point(self, name: str, value: float, step: int) -> None:
        self.points[name, step] = value


class Nothing:
    """A keeper that keeps nothing."""

    def load(self) -> None:
        return None

    def due(self) -> bool:
        return False

    def save(self, state: Mapping[str, Any]) -> None:
        raise AssertionError


def trained(run: LearnRun, seen: int = 1) -> tuple[dict[str, Tensor], dict[tuple[str, int], float]]:
    """Weights and points, by as many processes as the run states; the first has `seen` so many positions before."""
    config, dimensions = sized_model(run, None)
    data = load_task(run.task, None)
    torch.manual_seed(run.seed)
    model, recorder = build(config, dimensions), Recorder()
    model(*torch.ones(2, 1, seen, dtype=torch.long))
    arguments: dict[str, Any] = {"headline": run.task.headline, "metrics": run.task.metrics, "seed": run.seed}
    arguments |= {"device": CPU, "recorder": recorder, "keeper": Nothing(), "watch": lambda status: None}
    if run.training.devices == 1:
        train(model, config, data, run.training, **arguments)
    else:
        with Team(run, config, None, "cpu", None) as team:
            train(model, config, data, run.training, step=team.update, **arguments)
    points = {name: value for name, value in recorder.points.items() if "second" not in name[0]}
    return model.state_dict(), points


@pytest.mark.parametrize("model", ["lstm_attention", "transformer"])
def test_two_processes_are_as_one(model: str) -> None:
    """The same weights after twelve steps, losses and norms of gradients, to float tolerance."""
    alone, together = trained(run_of(model, 1, clip=0.5)), trained(run_of(model, 2, clip=0.5))
    assert alone[1].keys() == together[1].keys()
    assert alone[1] == pytest.approx(together[1], rel=1e-4, abs=1e-5)
    for name, weights in alone[0].items():
        if name.endswith(("key_value.bias", "key.bias")):  # a key's has no gradient but rounding, which Adam takes up
            continue
        torch.testing.assert_close(together[0][name], weights, rtol=1e-4, atol=1e-5)


def test_what_the_first_process_has_seen_before_is_not_told_the_others() -> None:
    """Its table of waves is longer than theirs."""
    run = run_of("transformer", 2)
    config = replace(run.model.config, positions="rotary")  # type: ignore[arg-type]
    run = replace(run, model=replace(run.model, config=config))
    found, expected = trained(run, seen=40)[1], trained(replace(run, training=run_of("lstm", 1).training))[1]
    assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)


def test_parts_are_a_batch_and_count_by_their_tokens() -> None:
    run = run_of("lstm", 1)
    batches = load_task(run.task, None).training(6, torch.Generator().manual_seed(0), CPU)
    batch = next(one for one in batches if (one.target[::2] != PAD).sum() != (one.target[1::2] != PAD).sum())
    (first, one), (second, other) = (part(batch, rank, 2) for rank in (0, 1))
    assert sorted(map(tuple, [*first.source.tolist(), *second.source.tolist()])) == sorted(
        map(tuple, batch.source.tolist())
    )
    tokens = [int((one.target != PAD).sum()) for one in (first, second)]
    assert tokens[0] != tokens[1]
    assert (one * tokens[1]).item() == pytest.approx((other * tokens[0]).item())
    assert (one + other).item() == pytest.approx(2)
    with pytest.raises(ValueError, match="only 6 sequences"):
        part(batch, 0, 7)


def test_every_process_draws_a_dropout_of_its_own_at_every_step() -> None:
    def drawn(seed: int, rank: int, step: int) -> tuple[float, ...]:
        _draw_dropout(seed, rank, step)
        return tuple(torch.rand(4).tolist())

    places = list(itertools.product((0, 1, 100), (0, 1, 7), (1, 2, 1000)))
    found = [drawn(*place) for place in places]
    assert len(set(found)) == len(places)
    assert [drawn(*place) for place in places] == found


def test_a_run_by_two_processes_goes_on_where_it_was(tmp_path: Path) -> None:
    """With dropout, interrupted and resumed: the metrics of an undisturbed one, bit for bit."""
    run = run_of("lstm_attention", 2, steps=30)
    run = replace(run, model=replace(run.model, config=replace(run.model.config, dropout=0.2)))
    found = []
    for name, stops in (("undisturbed", [False]), ("disturbed", [True, False])):
        store = open_store(f"sqlite:///{tmp_path / name}.db", "g", "For tests.")
        place = Place(store, "g", "cpu", None, checkpoint_every=1e9)
        for stop in stops:
            asked = iter(range(1000))

            def after_a_while(stop: bool = stop, asked: Any = asked) -> bool:
                return stop and next(asked) > 25

            outcome = execute((run,), place, lambda run, status: None, after_a_while)[run]
            assert outcome == Outcome("interrupted" if stop else "finished")
            assert (store.states / run_key(run, "cpu") / CHECKPOINT).exists() == stop
        (kept,) = MlflowClient(store.tracking_uri).search_runs([store.experiment_id])
        assert kept.data.params["training.devices"] == "2"
        assert all(value == "pass" for tag, value in kept.data.tags.items() if tag.startswith(schema.GATE_PREFIX))
        found.append({name: value for name, value in kept.data.metrics.items() if "second" not in name})
    assert found[0] == found[1]


def test_a_process_that_dies_is_the_failure_of_its_run(tmp_path: Path) -> None:
    import psutil

    run = run_of("lstm", 2, steps=100_000)
    store = open_store(f"sqlite:///{tmp_path / 'mlflow.db'}", "g", "For tests.")

    def kill(_: object, status: Status) -> None:
        for child in psutil.Process().children():
            if "spawn_main" in " ".join(child.cmdline()):
                child.kill()

    outcome = execute((run,), Place(store, "g", "cpu", None), kill)[run]
    assert outcome.kind == "failed"
    assert not torch.distributed.is_initialized()


def wait_for_ever(pids: Connection, of_first: bool) -> None:
    """As the first process, that begins another, or as that other, which waits for what never comes."""
    if of_first:
        multiprocessing.get_context("spawn").Process(target=wait_for_ever, args=(pids, False)).start()
    else:
        end_with_parent()
        pids.send(os.getpid())
    threading.Event().wait()


def test_a_follower_ends_when_the_first_is_killed() -> None:
    """Also where it waits in a call that does not notice."""
    import psutil

    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    first = context.Process(target=wait_for_ever, args=(theirs, True))
    first.start()
    assert ours.poll(120)
    follower = psutil.Process(ours.recv())
    assert follower.is_running()
    first.kill()
    first.join()
    try:
        follower.wait(timeout=30)
    finally:
        if follower.is_running():
            follower.kill()


def test_what_cannot_be_shared_is_refused_and_one_device_changes_no_key() -> None:
    with pytest.raises(SettingsError, match=r"training: .*a batch_size that they divide"):
        run_of("lstm", 4)
    with pytest.raises(SettingsError, match="a batch_size that they divide"):
        run_of("lstm", 2, batch_size=None, batch_tokens=100)
    assert "devices" not in run_of("lstm", 1).settings()["training"]
    assert run_key(run_of("lstm", 2), "cpu") != run_key(run_of("lstm", 1), "cpu")
