"""Where the time of a training step goes: torch.profiler over some real steps, summed up by part of the model.

A forward operation belongs to the innermost part in which it is called, a backward one to the part of the forward
operation of which it is the gradient (torch numbers both alike). On a GPU its own work is what counts; the time when it
has none is a part, too.

Attention is all of it: a Transformer's with its projections, of the source, too, and an LSTM decoder's with the layer
that merges context and state. Embedding includes positions that are added, recurrence what inputs add to the gates.
`OTHER` are the operations that no part claims: residual connections, dropout, gradients that are added up.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.autograd import DeviceType
from torch.autograd.profiler import record_function
from torch.autograd.profiler_util import FunctionEvent

from experiments.config import Profile
from experiments.data import TaskData
from experiments.schema import STEP_PARTS
from experiments.timing import wait_for
from experiments.training import update, uses_bfloat16
from models.attention import Attention, SourceAttention
from models.embeddings import TokenEmbedding
from models.interface import EncoderDecoder
from models.lstm import GateWeights, LSTMDecoder, Recurrence
from models.positions import LearnedPositions, SinusoidalPositions
from models.transformer import FeedForward

ATTENTION, FEED_FORWARD, RECURRENCE, EMBEDDING, NORMALISATION, OUTPUT, LOSS, *_ = STEP_PARTS
*_, OPTIMISER, DATA, LOGGING, OTHER, BETWEEN, IDLE = STEP_PARTS
PARTS = STEP_PARTS[: STEP_PARTS.index(IDLE)]
_MODULES: dict[type[nn.Module], str] = {
    Attention: ATTENTION,
    FeedForward: FEED_FORWARD,
    nn.LSTM: RECURRENCE,
    TokenEmbedding: EMBEDDING,
    LearnedPositions: EMBEDDING,
    SinusoidalPositions: EMBEDDING,
    nn.LayerNorm: NORMALISATION,
}
_MARK = "part: "  # before the part's name, in the trace
_STEP = _MARK + OTHER  # around each step
_BACKWARD = "autograd::engine::evaluate_function"
_LAUNCHES = (
    *("cudaLaunchKernel", "cudaLaunchKernelExC", "cudaLaunchCooperativeKernel", "cudaGraphLaunch"),
    *("cuLaunchKernel", "cuLaunchKernelEx"),
)


@dataclass(frozen=True)
class Profiled:
    """What was found.

    Attributes:
        seconds: part → seconds a step, of the device's work on CUDA and of the processor's elsewhere; on CUDA `IDLE`,
            too, in which is what the profiler itself takes.
        launches: kernels that a step launches on the device; None without one, or where none was seen.
    """

    seconds: dict[str, float]
    launches: float | None

    def rows(self) -> list[tuple[str, float, float]]:
        """Part, milliseconds a step, share; the largest first."""
        total = sum(self.seconds.values())
        parts = sorted(self.seconds, key=lambda part: -self.seconds[part])
        return [(part, 1000 * self.seconds[part], self.seconds[part] / total) for part in parts]


def profile(
    model: EncoderDecoder,
    data: TaskData,
    settings: Profile,
    *,
    seed: int,
    device: torch.device,
    log: Callable[[float, int], None],
    trace: Path,
) -> Profiled:
    """Trains some steps, the last of them under the profiler.

    Args:
        model: on `device`.
        data: of the task.
        settings: of the profile.
        seed: of the training data.
        device: where to train.
        log: takes the loss of each step, and stands for what logging costs.
        trace: the file that Chrome's trace is written to (gzipped where it ends in .gz).
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batches = data.training(settings.batch_size, torch.Generator().manual_seed(seed), device)
    bfloat16 = uses_bfloat16(settings.precision, device)
    model.train()

    def step(number: int) -> None:
        with record_function(_MARK + DATA):
            batch = next(batches)
        loss, _ = update(model, optimizer, batch, clip=1.0, label_smoothing=0.0, bfloat16=bfloat16)
        with record_function(_MARK + LOGGING):
            log(loss.item(), number)

    for number in range(settings.warmup):
        step(number)
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    profiler = torch.profiler.profile(activities=activities)
    with _marked(model):
        with without_usdt():
            profiler.start()
        try:
            wait_for(device)
            start = time.perf_counter()
            for number in range(settings.warmup, settings.warmup + settings.steps):
                with record_function(_STEP):
                    step(number)
            wait_for(device)
            taken = time.perf_counter() - start
        finally:
            with without_usdt():
                profiler.stop()
    profiler.export_chrome_trace(str(trace))
    return summed_up(list(profiler.events() or []), settings.steps, taken, on_device=device.type == "cuda")


def summed_up(events: list[FunctionEvent], steps: int, taken: float, *, on_device: bool) -> Profiled:
    """What is in the events of so many steps that took so many seconds together.

    Raises:
        RuntimeError: there is no kernel in them, though the steps were on a GPU: its time went unseen, it was not idle.
    """
    seconds = {part: total / steps for part, total in by_part(events, on_device=on_device).items()}
    if not on_device:
        return Profiled(seconds, None)
    if not any(seconds.values()):
        raise RuntimeError("the profiler saw no kernel on the GPU: may this user profile it (CUPTI)?")
    seconds[IDLE] = max(0.0, taken / steps - sum(seconds.values()))
    launched = _launches(event.name for event in events)
    return Profiled(seconds, None if launched is None else launched / steps)


def launches(work: Callable[[], object], device: torch.device) -> int | None:
    """Kernels that a piece of work launches on a CUDA device; None where the profiler saw none.

    A recurrence over a long sequence launches hundreds of thousands, of which to make `FunctionEvent`s takes a minute.
    """
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profiler:
        work()
        wait_for(device)
    assert profiler.profiler is not None
    assert profiler.profiler.kineto_results is not None
    return _launches(event.name() for event in profiler.profiler.kineto_results.events())


def _launches(events: Iterable[str]) -> int | None:
    """How many of these events, by name, are launches; None where none is: work on a GPU has some, seen or not."""
    return sum(name in _LAUNCHES for name in events) or None


def by_part(events: list[FunctionEvent], *, on_device: bool = False) -> dict[str, float]:
    """Seconds of each of `PARTS` in the events of a profiler; they add up to all that these took."""
    of_number: dict[int, str] = {}  # of an operation of the forward pass → its part
    for event in sorted(events, key=lambda event: event.time_range.start):
        if event.sequence_nr >= 0 and not any(_is_backward(one) for one in _upwards(event)):
            of_number[event.sequence_nr] = _part(event, {})  # of several, the last makes the node of the backward pass
    total = dict.fromkeys(PARTS, 0.0)
    for event in events:
        microseconds = _of_its_kernels(event) if on_device else event.self_cpu_time_total
        part = BETWEEN if event.name == _STEP else _part(event, of_number)
        total[part] += microseconds / 1e6
    return total


def _of_its_kernels(event: FunctionEvent) -> float:
    """Microseconds of what an operation itself launched.

    The kernels are events, too, which would count twice; and each mark has one of its own name on the device.
    """
    if event.device_type != DeviceType.CPU:
        return 0.0
    return float(sum(kernel.duration for kernel in event.kernels if kernel.name != event.name))


def _part(event: FunctionEvent, of_number: dict[int, str]) -> str:
    for one in _upwards(event):
        if one.name.startswith(_MARK):
            return one.name.removeprefix(_MARK)
        if one.name in ("aten::cross_entropy_loss", "aten::nll_loss_nd", "aten::log_softmax"):
            return LOSS
        if one.name.startswith(("Optimizer.", "aten::_foreach_")):  # the latter clip gradients
            return OPTIMISER
        if _is_backward(one):
            return of_number.get(one.sequence_nr, OTHER)
    return OTHER


def _is_backward(event: FunctionEvent) -> bool:
    return event.name.startswith(_BACKWARD)


def _upwards(event: FunctionEvent) -> Iterator[FunctionEvent]:
    """The event, and those within which it happened, innermost first."""
    one: FunctionEvent | None = event
    while one is not None:
        yield one
        one = one.cpu_parent


@contextmanager
def _marked(model: EncoderDecoder) -> Iterator[None]:
    """Marks in the trace which part of the model is at work."""
    methods = [(owner, name, vars(owner).get(name), part) for owner, name, part in _methods(model)]
    for owner, name, _, part in methods:
        setattr(owner, name, _marking(getattr(owner, name), part))
    try:
        yield
    finally:
        for owner, name, own, _ in methods:
            if own is None:  # it was that of the owner's class
                delattr(owner, name)
            else:
                setattr(owner, name, own)


def _methods(model: EncoderDecoder) -> Iterator[tuple[object, str, str]]:
    """Whose method of which name is which part; of one that calls another, what the other does is of its part."""
    for module in model.modules():
        for kind, part in _MODULES.items():
            if isinstance(module, kind):
                yield module, "forward", part
        if isinstance(module, SourceAttention):
            yield module, "project", ATTENTION
        if isinstance(module, Recurrence):
            yield module, "step_weights", RECURRENCE
    decoder = model.decoder
    yield decoder.output, "forward", OUTPUT
    if isinstance(decoder, LSTMDecoder):
        if decoder.projection is not None:
            yield decoder.projection, "forward", OUTPUT
        # Position by position, where attention feeds its input, nn.LSTM is not called.
        yield decoder, "advance", RECURRENCE
        yield GateWeights, "project", RECURRENCE
        if decoder.attention is not None:
            yield decoder, "attend", ATTENTION


def _marking(function: Callable[..., Any], part: str) -> Callable[..., Any]:
    def marked(*arguments: Any, **more: Any) -> Any:
        with record_function(_MARK + part):
            return function(*arguments, **more)

    return marked


@contextmanager
def without_usdt() -> Iterator[None]:
    """Keeps from standard error the lines by which torch's profiler marks its start and end; others come afterwards.

    KINETO_LOG_LEVEL could not: it ranks these lines above errors, which it would hide, too.
    """
    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(terminal, 2)
            said.seek(0)
            for line in said:
                if not line.startswith(b"USDT:"):
                    os.write(terminal, line)
            os.close(terminal)
