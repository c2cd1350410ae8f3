"""What is read of the machine: who else uses it, its energy, and memory that is not there."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial

import psutil
import pytest
import torch

from experiments import machine, memory, schema

CPU = torch.device("cpu")
linux = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")


def test_others_at_work_are_noticed() -> None:
    """By a process that works while this one waits for it."""
    watch = machine.Watch(CPU)
    busy = psutil.Popen([sys.executable, "-c", "import time; e = time.time() + 0.5\nwhile time.time() < e: pass"])
    busy.wait()
    state = watch.state()
    assert state[schema.DISTURBED] == 1
    assert state[schema.THREADS] == torch.get_num_threads()
    assert state[schema.LOAD] >= 0
    assert set(state) <= set(schema.MACHINE)


def test_own_work_is_no_disturbance(monkeypatch: pytest.MonkeyPatch) -> None:
    """By counters that say that all seconds of the processor were this process's, and then that a fifth was not."""
    for own, disturbed in ((10.0, 0), (8.0, 1)):
        clock = iter([0.0, 10.0])
        everyone: Iterator[float] = iter([100.0, 110.0])
        this: Iterator[float] = iter([5.0, 5.0 + own])
        monkeypatch.setattr(machine.time, "perf_counter", lambda clock=clock: next(clock))
        monkeypatch.setattr(machine.psutil, "cpu_times", lambda all_=everyone: _Times(next(all_)))
        monkeypatch.setattr(machine.psutil, "Process", lambda this=this: _Process(next(this)))
        assert machine.Watch(CPU).state()[schema.DISTURBED] == disturbed


@pytest.mark.parametrize(("others", "disturbed"), [(0.02, 0), (0.05, 1)])
def test_what_is_short_is_not_disturbed_by_ticks(
    others: float, disturbed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a twentieth of a second: two ticks of the counters are in how they are read, five are somebody else."""
    clock, everyone = iter([0.0, 0.05]), iter([100.0, 100.05 + others])
    this = iter([5.0, 5.05])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(machine.psutil, "cpu_times", lambda: _Times(next(everyone)))
    monkeypatch.setattr(machine.psutil, "Process", lambda: _Process(next(this)))
    assert machine.Watch(CPU).state()[schema.DISTURBED] == disturbed


@pytest.mark.parametrize(
    ("others", "idle", "processes", "disturbed"),
    [
        (50.0, 100.0, 1, 0),  # in ten seconds five cores were at work elsewhere, and ten idle
        (150.0, 0.0, 1, 1),  # no core was left
        (0.0, 0.0, 1, 0),  # the only core was this process's
        (50.0, 100.0, 2, 1),  # somebody else computed on the GPU
    ],
)
def test_on_a_gpu_others_disturb_where_they_take_something_away(
    others: float, idle: float, processes: int, disturbed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 10.0])
    times = [_Times(1000.0, 500.0), _Times(1000.0 + 10.0 + others, 500.0 + idle)]
    this = iter([5.0, 15.0])
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(machine, "_nvidia", lambda device: object())
    monkeypatch.setattr(machine, "_clock", lambda device: None)
    monkeypatch.setattr(machine.pynvml, "nvmlDeviceGetComputeRunningProcesses", lambda handle: [None] * processes)
    monkeypatch.setattr(machine.psutil, "Process", lambda: _Process(next(this)))
    monkeypatch.setattr(machine.psutil, "cpu_times", lambda: times[0])
    watch = machine.Watch(torch.device("cuda"))
    monkeypatch.setattr(machine.psutil, "cpu_times", lambda: times[1])
    assert watch.state()[schema.DISTURBED] == disturbed


class _Times:
    def __init__(self, user: float, idle: float = 0.0) -> None:
        self.user, self.system, self.idle = user, 0.0, idle


class _Process:
    def __init__(self, user: float) -> None:
        self.cpu_times = partial(_Times, user)


def test_there_is_no_energy_without_a_counter() -> None:
    assert machine.joules(lambda: None, CPU, 1) is None


def test_energy_is_what_the_counter_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a counter that moves 50 joules in four calls, after two that make what all of them need."""
    called: list[None] = []
    clock = iter([0.0, 0.5, 1.0, 1.5, 1.99, 2.0])
    counter = iter([7_000, 57_000])
    monkeypatch.setattr(machine, "_nvidia", lambda device: object())
    monkeypatch.setattr(machine.torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(machine.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(machine.pynvml, "nvmlDeviceGetTotalEnergyConsumption", lambda handle: next(counter))
    assert machine.joules(lambda: called.append(None), torch.device("cuda"), 2) == 50 / 4
    assert len(called) == 2 + 4


@linux
def test_more_memory_than_is_free_is_refused_while_guarded() -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    too_much = psutil.virtual_memory().total // 4 + 1  # floats
    with pytest.raises(RuntimeError) as caught, memory.only_what_is_free(CPU):
        torch.empty(too_much)
    assert memory.is_out_of_memory(caught.value)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    with memory.only_what_is_free(torch.device("cuda")):  # whose memory has addresses in this process
        assert resource.getrlimit(resource.RLIMIT_AS) == before


def test_what_is_a_want_of_memory_and_what_is_not() -> None:
    assert memory.is_out_of_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate`"))
    for where in ("HOST", "DEVICE"):
        words = f"cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_{where}_ALLOCATION_FAILED"
        assert memory.is_out_of_memory(RuntimeError(words))
    assert memory.is_out_of_memory(MemoryError())
    assert memory.is_out_of_memory(torch.OutOfMemoryError())
    assert not memory.is_out_of_memory(RuntimeError("shapes differ"))
    assert not memory.is_out_of_memory(ValueError("not enough memory"))


def hold(floats: int) -> None:
    torch.ones(floats)


@linux
def test_the_peak_is_that_of_the_work() -> None:
    found = memory.peak(partial(hold, 1), partial(hold, 25_000_000), CPU)
    assert found is not None
    assert 100e6 < found < 105e6


def leave_gaps() -> None:
    """20 MB, of which half is freed, then 15 MB that do not fit where that was."""
    held = [torch.ones(250_000) for _ in range(20)]
    del held[::2]
    held += [torch.ones(375_000) for _ in range(10)]


@linux
def test_the_peak_is_of_what_is_held_not_of_how_it_lies() -> None:
    found = memory.peak(partial(hold, 1), leave_gaps, CPU)
    assert found is not None
    assert 25e6 < found < 26e6


def test_where_freed_memory_stays_with_the_process_nothing_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """As with a C library that has no malloc_trim."""
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory._resident_peak(partial(hold, 1), partial(hold, 1)) is None


def fail(message: str) -> None:
    raise ValueError(message)


@linux
def test_what_goes_wrong_in_the_other_process_is_raised_here() -> None:
    with pytest.raises(RuntimeError) as caught:
        memory.peak(partial(hold, 1), partial(hold, psutil.virtual_memory().total), CPU)
    assert memory.is_out_of_memory(caught.value)
    with pytest.raises(ValueError, match="the reason"):
        memory.peak(partial(hold, 1), partial(fail, "the reason"), CPU)


class Unsendable(Exception):
    """Is pickled, but cannot be made again from that."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


class Unpicklable(Exception):
    """Holds what cannot be pickled."""

    def __init__(self) -> None:
        super().__init__(lambda: None)


def fail_with(error: type[Exception], *arguments: str) -> None:
    raise error(*arguments)


@linux
@pytest.mark.parametrize(
    ("work", "message"),
    [
        (partial(fail_with, Unsendable, "this", "that"), "Unsendable.*this and that"),
        (partial(fail_with, Unpicklable), "Unpicklable.*lambda"),
    ],
)
def test_what_cannot_be_sent_is_told_in_words(work: Callable[[], None], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        memory.peak(partial(hold, 1), work, CPU)


def die_by(number: int) -> None:
    os.kill(os.getpid(), number)


@linux
def test_only_a_process_that_was_killed_died_of_memory() -> None:
    """As the kernel does where there is none left; any other death is a fault."""
    with pytest.raises(MemoryError):
        memory.peak(partial(hold, 1), partial(die_by, signal.SIGKILL), CPU)
    for work, code in ((partial(die_by, signal.SIGSEGV), -signal.SIGSEGV), (partial(os._exit, 3), 3)):
        with pytest.raises(RuntimeError, match=f"code {code}$") as caught:
            memory.peak(partial(hold, 1), work, CPU)
        assert not memory.is_out_of_memory(caught.value)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_energy_and_clock_on_cuda() -> None:
    matrix = torch.randn(4096, 4096, device="cuda")
    energy = machine.joules(lambda: matrix @ matrix, matrix.device, 1)
    assert energy is not None
    assert energy > 0
    assert machine.Watch(matrix.device).state()[schema.CLOCK] > 0
