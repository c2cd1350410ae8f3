"""One training by several processes, each with a device of its own and a part of every batch (DDP).

The first process is the one that executes the run: it alone decides, evaluates, records and keeps checkpoints. The
others hold the same model, draw the same batches and follow it, step by step. A loss is divided by the target tokens of
the whole batch, so that the gradients are those of one process with all of it, to float tolerance.
"""

from __future__ import annotations

import datetime
import multiprocessing
import os
import tempfile
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from experiments.config import GradientsRun, LearnRun
from experiments.data import Batch, TaskData
from experiments.environment import prepare_process
from experiments.inputs import load_task
from experiments.session import resume
from experiments.training import optimizer_for, update, uses_bfloat16
from models.config import ModelConfig
from models.interface import PAD, EncoderDecoder
from models.registry import build

MEETING = "meeting"
KEPT = "kept"  # from which the training goes on (experiments.session.state_of), if it was begun before
PATIENCE = datetime.timedelta(days=7)  # of the followers, while the first evaluates


class _Training(NamedTuple):
    """What a follower must know to train the same model on the same data."""

    run: LearnRun | GradientsRun
    config: ModelConfig
    data_root: Path | None
    device: str  # "cpu" or "cuda"
    folder: Path  # of the team: MEETING, the file by which its processes find each other, and KEPT
    gpu: int  # of the first process; those of the others follow


class Team:
    """The processes that train one run, this one being the first; a context."""

    def __init__(
        self,
        run: LearnRun | GradientsRun,
        config: ModelConfig,
        data_root: Path | None,
        device: str,
        kept: Mapping[str, Any] | None,
    ) -> None:
        """`kept`: what `experiments.training.Keeper.load` gives.

        Raises:
            ValueError: this machine has not as many GPUs as `training.devices` asks for.
        """
        if device == "cuda" and torch.cuda.device_count() < run.training.devices:
            raise ValueError(f"devices: {run.training.devices} asked for, {torch.cuda.device_count()} GPUs are there")
        self._folder = tempfile.TemporaryDirectory()
        gpu = torch.cuda.current_device() if device == "cuda" else 0
        self._training = _Training(run, config, data_root, device, Path(self._folder.name), gpu)
        self._step = 0
        if kept is not None:  # in a file: tensors given to a process would be shared with it, and updated by both
            torch.save(kept, self._training.folder / KEPT)
            self._step = kept["session"]["step"]
        self._model: DistributedDataParallel | None = None
        context = multiprocessing.get_context("spawn")
        self._followers = [
            context.Process(target=_follow, args=(self._training, rank), daemon=True)
            for rank in range(1, run.training.devices)
        ]

    def __enter__(self) -> Self:
        for follower in self._followers:
            follower.start()
        _join(self._training, 0)
        return self

    def update(
        self, model: EncoderDecoder, optimizer: torch.optim.Optimizer, batch: Batch, **settings: Any
    ) -> tuple[Tensor, Tensor]:
        """See `experiments.training.update`: the same for the whole batch, of which each process takes its part."""
        self._step += 1
        _say(self._step, optimizer.param_groups[0]["lr"], batch.source.device)
        if self._model is None:  # which the followers make at their first step, too
            self._model = _parallel(model)
        _draw_dropout(self._training.run.seed, 0, self._step)
        return _update(self._model, optimizer, batch, 0, **settings)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            _say(0, 0.0, _device(self._training, 0))
        for follower in self._followers:
            if error is not None:  # it may be in the middle of a step
                follower.kill()
            follower.join()
        dist.destroy_process_group()
        self._folder.cleanup()


def part(batch: Batch, rank: int, size: int) -> tuple[Batch, Tensor]:
    """The rows of a batch for one of `size` processes, and by what their mean loss counts.

    The mean over the processes of what counts so is the mean over the target tokens of the whole batch.

    Raises:
        ValueError: the batch has fewer sequences than there are processes.
    """
    if batch.size < size:
        raise ValueError(f"devices: {size}, but a batch has only {batch.size} sequences")
    rows = slice(rank, None, size)
    own = Batch(batch.source[rows], batch.target_in[rows], batch.target[rows], batch.source_lengths[rows])
    return own, size * (own.target != PAD).sum() / (batch.target != PAD).sum()


def _update(
    model: DistributedDataParallel, optimizer: torch.optim.Optimizer, batch: Batch, rank: int, **settings: Any
) -> tuple[Tensor, Tensor]:
    own, weight = part(batch, rank, dist.get_world_size())
    loss, norm = update(model, optimizer, own, weight=weight, **settings)
    dist.all_reduce(loss)
    return loss / dist.get_world_size(), norm


def _parallel(model: EncoderDecoder) -> DistributedDataParallel:
    """Buffers hold waves of as many positions as a process has seen: computed, and not the same in all of them."""
    with warnings.catch_warnings(category=FutureWarning, action="ignore"):  # what is to replace it comes later
        return DistributedDataParallel(model, broadcast_buffers=False)


def _draw_dropout(seed: int, rank: int, step: int) -> None:
    """Begins the random numbers of a process's step, which are the same after a resumption.

    A processor's generator takes the lower 32 bits of a seed: all three are in them.
    """
    torch.manual_seed(int(np.random.SeedSequence((seed, rank, step)).generate_state(1)[0]))


def _follow(training: _Training, rank: int) -> None:
    """The life of a follower."""
    end_with_parent()
    prepare_process()
    _join(training, rank)  # from now on, the first notices when this process dies
    run, device = training.run, _device(training, rank)
    data: TaskData = load_task(run.task, training.data_root)
    model = build(training.config, data.dimensions).to(device).train()
    optimizer = optimizer_for(model, run.training)
    generator = torch.Generator().manual_seed(run.seed)
    batches = data.training(run.training.batch, generator, device)
    if (training.folder / KEPT).exists():
        kept = torch.load(training.folder / KEPT, weights_only=True)
        resume(kept, model, optimizer, batches, generator, device)
    bfloat16 = uses_bfloat16(run.training.precision, device)
    parallel: DistributedDataParallel | None = None
    while True:
        step, learning_rate = _hear(device)
        if step == 0:
            return
        parallel = parallel or _parallel(model)
        _draw_dropout(run.seed, rank, step)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        clip, smoothing = run.training.clip, run.training.label_smoothing
        _update(parallel, optimizer, next(batches), rank, clip=clip, label_smoothing=smoothing, bfloat16=bfloat16)


def end_with_parent() -> None:
    """From now on, this process ends when its parent does, even where it waits for it: a GPU would wait for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _join(training: _Training, rank: int) -> None:
    device = _device(training, rank)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        init_method=(training.folder / MEETING).as_uri(),
        rank=rank,
        world_size=training.run.training.devices,
        timeout=PATIENCE,
    )


def _say(step: int, learning_rate: float, device: torch.device) -> None:
    """Tells the followers the next step, from 1, and its learning rate; step 0 is the end."""
    dist.broadcast(torch.tensor([step, learning_rate], dtype=torch.float64, device=device), src=0)


def _hear(device: torch.device) -> tuple[int, float]:
    said = torch.zeros(2, dtype=torch.float64, device=device)
    dist.broadcast(said, src=0)
    step, learning_rate = said.tolist()
    return int(step), learning_rate


def _device(training: _Training, rank: int) -> torch.device:
    if training.device == "cpu":
        return torch.device("cpu")
    return torch.device("cuda", (training.gpu + rank) % torch.cuda.device_count())
