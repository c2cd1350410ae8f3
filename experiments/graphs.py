"""CUDA graphs: work that is recorded once, and from then on launched as a whole.

A small model's kernels take less time than it takes to launch them one by one. A recording holds addresses: when it is
replayed, it reads and writes the tensors it was recorded with, whatever they hold by then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from experiments.data import Batch
from experiments.training import update
from models.interface import EncoderDecoder, padded

MOST_SHAPES = 32  # of batches, whose steps are recorded: each holds memory of its own
WARM_UP = 2  # updates by a shape before its step is recorded: what is made at the first is no part of a step

Result = TypeVar("Result")


@dataclass(frozen=True)
class Recording(Generic[Result]):
    """Recorded work."""

    replay: Callable[[], None]
    result: Result  # what it gave when it was recorded: tensors that hold nothing before the first replay


class GraphRecorder:
    """Records work on one GPU; all recordings share their memory, so that a result lasts until another is replayed."""

    def __init__(self, device: torch.device) -> None:
        """Raises ValueError where there is no GPU."""
        if device.type != "cuda":
            raise ValueError(f"cuda_graphs: there are none on a {device.type}; they need --device cuda")
        self._stream = torch.cuda.Stream(device)
        self._pool = torch.cuda.graph_pool_handle()

    def aside(self, work: Callable[[], Result]) -> Result:
        """Does the work where it would be recorded: what autograd makes then belongs to that stream."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            result = work()
        torch.cuda.current_stream().wait_stream(self._stream)
        return result

    def record(self, work: Callable[[], Result]) -> Recording[Result]:
        """Of work that has been done before, and does not wait for the device. Nothing is computed meanwhile."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, stream=self._stream):
            result = work()
        return Recording(graph.replay, result)


@dataclass(frozen=True)
class _Step:
    """A recorded step of training."""

    batch: Batch  # where the next one is written
    recording: Recording[tuple[Tensor, Tensor]]
    buffers: list[Tensor]  # the model's, which may put others in their place


class RecordedUpdate:
    """See `experiments.training.update`, recorded for each shape of a batch that comes again and again.

    The loss and the norm last until the next update.
    """

    def __init__(self, device: torch.device) -> None:
        """Raises ValueError where there is no GPU."""
        self._recorder = GraphRecorder(device)
        self._rate = torch.zeros((), device=device)
        self._seen: Counter[Any] = Counter()
        self._steps: dict[Any, _Step] = {}

    def __call__(
        self, model: EncoderDecoder, optimizer: torch.optim.Optimizer, batch: Batch, **settings: Any
    ) -> tuple[Tensor, Tensor]:
        """`settings` are those of `update`, the same at every call."""
        shape = (batch.source.shape, batch.target.shape, padded(batch.source, batch.source_lengths))
        if shape in self._steps:
            step = self._steps[shape]
            for name in ("source", "target_in", "target"):
                getattr(step.batch, name).copy_(getattr(batch, name))
            self._rate.fill_(optimizer.param_groups[0]["lr"])
            step.recording.replay()
            return step.recording.result
        done = self._recorder.aside(lambda: update(model, optimizer, batch, **settings))
        self._seen[shape] += 1
        if self._seen[shape] == WARM_UP and len(self._steps) < MOST_SHAPES:
            self._steps[shape] = self._recorded(model, optimizer, batch, **settings)
        return done

    def _recorded(
        self, model: EncoderDecoder, optimizer: torch.optim.Optimizer, batch: Batch, **settings: Any
    ) -> _Step:
        own = Batch(batch.source.clone(), batch.target_in.clone(), batch.target.clone(), batch.source_lengths)
        group = optimizer.param_groups[0]
        rate = group["lr"]
        group.update(lr=self._rate, capturable=True)  # read from the device at every step
        try:
            recording = self._recorder.record(lambda: update(model, optimizer, own, **settings))
        finally:
            group.update(lr=rate, capturable=False)
        return _Step(own, recording, list(model.buffers()))
