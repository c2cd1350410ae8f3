"""Where the time of a training step goes: torch.profiler over some real steps, summed up by part of the model.

A forward operation belongs to the innermost part in which it is called, a backward one to the part of the forward
operation of which it is the gradient (torch numbers both alike). On a GPU its own work is what counts; the time when it
has none is a part, too.
"""

from __future__ import annotations

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
from experiments.timing import wait_for
from experiments.training import update, uses_bfloat16
from models.attention import Attention
from models.interface import EncoderDecoder
from models.lstm import Recurrence
from models.transformer import FeedForward

ATTENTION, FEED_FORWARD, RECURRENCE = "attention", "feed-forward", "recurrence"
LOSS, OPTIMISER, DATA, LOGGING, OTHER = "softmax and loss", "optimiser", "data", "logging", "other"
IDLE = "device idle"  # on CUDA: when no kernel was at work
PARTS = (ATTENTION, FEED_FORWARD, RECURRENCE, LOSS, OPTIMISER, DATA, LOGGING, OTHER)
_MODULES: dict[type[nn.Module], str] = {Attention: ATTENTION, FeedForward: FEED_FORWARD, nn.LSTM: RECURRENCE}
_MARK = "part: "  # before the part's name, in the trace
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
    with _marked(model), torch.profiler.profile(activities=activities) as profiler:
        wait_for(device)
        start = time.perf_counter()
        for number in range(settings.warmup, settings.warmup + settings.steps):
            with record_function(_MARK + OTHER):
                step(number)
        wait_for(device)
        taken = time.perf_counter() - start
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
    """Seconds of each of `PARTS` in the events of a profiler; time that is of no part is `OTHER`."""
    of_number: dict[int, str] = {}  # of an operation of the forward pass → its part
    for event in sorted(events, key=lambda event: event.time_range.start):
        if event.sequence_nr >= 0 and not any(_is_backward(one) for one in _upwards(event)):
            of_number[event.sequence_nr] = _part(event, {})  # of several, the last makes the node of the backward pass
    total = dict.fromkeys(PARTS, 0.0)
    for event in events:
        microseconds = _of_its_kernels(event) if on_device else event.self_cpu_time_total
        total[_part(event, of_number)] += microseconds / 1e6
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
def _marked(model: nn.Module) -> Iterator[None]:
    """Marks in the trace which part of the model is at work."""
    open_: list[record_function] = []
    handles = []
    for module in model.modules():
        part = next((part for kind, part in _MODULES.items() if isinstance(module, kind)), None)
        if part is None:
            continue

        def enter(module: nn.Module, inputs: object, part: str = part) -> None:
            open_.append(record_function(_MARK + part))
            open_[-1].__enter__()

        def leave(module: nn.Module, inputs: object, outputs: object) -> None:
            open_.pop().__exit__(None, None, None)

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    stepping = [module for module in model.modules() if isinstance(module, Recurrence)]
    for recurrence in stepping:  # position by position, where attention feeds its input, no module is called
        recurrence.step = _marking(recurrence.step)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for recurrence in stepping:
            del recurrence.step
        for handle in handles:
            handle.remove()


def _marking(function: Callable[..., Any]) -> Callable[..., Any]:
    def marked(*arguments: Any, **more: Any) -> Any:
        with record_function(_MARK + RECURRENCE):
            return function(*arguments, **more)

    return marked
