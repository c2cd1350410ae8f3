"""How many workers pay on this machine: the grid's own runs, a few steps of them, by ever more processes at once."""

from __future__ import annotations

import multiprocessing
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from experiments.config import LearnRun, Run
from experiments.environment import prepare_process, take_gpu
from experiments.inputs import load_task, sized_model
from experiments.timing import wait_for
from experiments.training import optimizer_for, update, uses_bfloat16
from models.registry import build

KINDS = 4  # of learning runs, at most, that are tried, in turn
WARMUP, SECONDS = 2, 3.0  # rounds not counted; of counting
WORTH = 1.05  # by what more workers must be faster

_context = multiprocessing.get_context("spawn")


def sample(runs: Sequence[Run]) -> list[LearnRun]:
    """Some of the learning runs, evenly spaced, none of which differ in their seeds alone."""
    kinds = list(dict.fromkeys(replace(run, seed=0) for run in runs if isinstance(run, LearnRun)))
    count = min(KINDS, len(kinds))
    return [kinds[i * len(kinds) // count] for i in range(count)]


def throughputs(runs: Sequence[LearnRun], data_root: Path | None, device: str, most: int) -> dict[int, float]:
    """Rounds per second, an update of each run making one, by 1, 2, 4, … processes at once, until more do not pay.

    Args:
        runs: that are tried.
        data_root: folder of the real corpora.
        device: "cpu" or "cuda".
        most: processes.

    Raises:
        RuntimeError: not even one process can train them.
    """
    found: dict[int, float] = {}
    workers: list[tuple[BaseProcess, Connection]] = []
    try:
        for count in sorted({*(2**i for i in range(most.bit_length())), most}):
            while len(workers) < count:
                ours, theirs = _context.Pipe()
                process: BaseProcess = _context.Process(
                    target=_train, args=(theirs, runs, data_root, device, len(workers)), daemon=True
                )
                process.start()
                theirs.close()
                workers.append((process, ours))
            try:
                found[count] = _together([connection for _, connection in workers])
            except (EOFError, OSError):  # one has died: out of memory
                break
            if count > 1 and found[count] < WORTH * max(rate for c, rate in found.items() if c < count):
                break
    finally:
        for process, _ in workers:
            process.kill()
            process.join()
    if not found:
        raise RuntimeError("not even one worker can train the runs of this grid")
    return found


def paying(rates: Mapping[int, float]) -> int:
    """The fewest workers whose throughput nothing exceeds by what is worth it."""
    return min(count for count, rate in rates.items() if WORTH * rate >= max(rates.values()))


def _together(connections: Sequence[Connection]) -> float:
    """Rounds per second of all processes at once."""
    for message in ("ready?", "go"):  # nobody is counted while another still imports
        for connection in connections:
            connection.send(message)
        answers = [connection.recv() for connection in connections]
    return sum(answers)


def _train(
    connection: Connection, runs: Sequence[LearnRun], data_root: Path | None, device_name: str, number: int
) -> None:
    """Trains the runs in turn, for a while whenever it is told to."""
    prepare_process()
    if device_name == "cuda":
        take_gpu(number)
    device = torch.device(device_name)
    rounds = []
    for run in runs:
        config, dimensions = sized_model(run, data_root)
        model = build(config, dimensions).to(device).train()
        batches = load_task(run.task, data_root).training(run.training.batch, torch.Generator().manual_seed(0), device)
        rounds.append((run.training, model, optimizer_for(model, run.training), batches))

    def once() -> None:
        for training, model, optimizer, batches in rounds:
            bfloat16 = uses_bfloat16(training.precision, device)
            smoothing = training.label_smoothing
            update(model, optimizer, next(batches), clip=training.clip, label_smoothing=smoothing, bfloat16=bfloat16)
        wait_for(device)

    with suppress(EOFError, OSError):  # the parent is gone
        while connection.recv():
            for _ in range(WARMUP):
                once()
            connection.send(0.0)
            connection.recv()
            start, done = time.perf_counter(), 0
            while time.perf_counter() - start < SECONDS:
                once()
                done += 1
            connection.send(done / (time.perf_counter() - start))
