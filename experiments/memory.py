"""How much memory a piece of work takes at its highest, and what happens where there is not enough.

On CUDA the allocator counts. On Linux the work is done in a process of its own, whose resident set has a high-water
mark, once the C library has given back what was freed before. Elsewhere nothing tells.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from typing import TypeVar, cast

import psutil
import torch

from experiments.environment import keep_freed_memory, of_the_c_library, prepare_process

# How torch and its libraries say that there is no memory, other than by an error of its own: as a RuntimeError.
_WORDS = (
    *("not enough memory", "can't allocate memory", "bad_alloc", "out of memory", "could not create a memory"),
    *("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED"),
    "ALLOCATION_FAILED",  # cuDNN 9: CUDNN_STATUS_INTERNAL_ERROR_HOST_ALLOCATION_FAILED, …_DEVICE_ALLOCATION_FAILED
)

T = TypeVar("T")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether this is how the want of memory shows."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


@contextmanager
def only_what_is_free(device: torch.device) -> Iterator[None]:
    """Lets this process allocate no more than is free now, so that asking for more is an error of its own.

    Otherwise Linux promises more than it has, and kills a process when it is used. No limit on other systems, nor for
    work on a GPU: its memory has addresses among those that would be limited, and its allocator says when it ends.
    """
    if sys.platform != "linux" or device.type != "cpu":
        yield
        return
    import resource  # which other systems may lack

    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = _status_bytes("VmSize") + psutil.virtual_memory().available
    if before[1] != resource.RLIM_INFINITY:
        limit = min(limit, before[1])
    resource.setrlimit(resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def peak(rehearsal: Callable[[], object], work: Callable[[], object], device: torch.device) -> float | None:
    """Bytes that `work` takes at its highest, over what was held before it.

    Args:
        rehearsal: the same on next to nothing, done first: libraries load their kernels at their first use.
        work: that builds all it needs; on a CPU both are pickled.
        device: on which both work.

    Returns:
        None where nothing tells.

    Raises:
        Exception: what `work` raised, on a CPU as of `in_a_process`; where there was not enough memory,
            `is_out_of_memory` says so.
    """
    if device.type == "cuda":
        rehearsal()
        torch.cuda.synchronize(device)
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return float(torch.cuda.max_memory_allocated(device) - before)
    if sys.platform != "linux":
        return None
    return in_a_process(partial(_resident_peak, rehearsal, work))


def _resident_peak(rehearsal: Callable[[], object], work: Callable[[], object]) -> float | None:
    """Bytes; of a process that has done nothing else. None where the rehearsal's memory cannot be given back."""
    keep_freed_memory(False)  # else the most that was held would hang on how new blocks fitted where old ones had been
    rehearsal()
    if not _give_back():
        return None
    before = _status_bytes("VmRSS")
    with only_what_is_free(torch.device("cpu")):
        work()
    return float(_status_bytes("VmHWM") - before)


def _give_back() -> bool:
    """Gives memory that was freed back to the system, where the C library can: glibc's malloc_trim.

    Otherwise it stays with this process, to be used again, and what uses it again is not seen in the resident set.
    """
    gc.collect()
    if (trim := of_the_c_library("malloc_trim")) is None:
        return False
    trim(ctypes.c_size_t(0))
    return True


def in_a_process(work: Callable[[], T]) -> T:
    """What `work` returns, done in a process that is prepared like any other, and ends with it.

    Args:
        work: is pickled, as is what it returns.

    Raises:
        Exception: what `work` raised, or a RuntimeError that says it in words, where that cannot be sent between
            processes.
        MemoryError: the process was killed, as the kernel does for want of memory.
        RuntimeError: it ended without a word in any other way.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["experiments.efficiency"])  # torch is imported once, not once a length
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, work))
    process.start()
    sender.close()
    try:
        answer = receiver.recv()
    except EOFError:
        answer = None
    finally:
        process.join()
    if answer is None and process.exitcode == -signal.SIGKILL:
        raise MemoryError("the process that measures was killed: out of memory?")
    if answer is None:
        raise RuntimeError(f"the process that measures ended with code {process.exitcode}")
    returned, found = answer
    if not returned:
        raise found
    return cast("T", found)


def _answer(sender: Connection, work: Callable[[], object]) -> None:
    """Runs in a process of its own; sends whether `work` returned, and what it did return or raise."""
    prepare_process()
    try:
        answer = True, work()
    except Exception as error:
        sender.send((False, _sendable(error)))
        return
    sender.send(answer)


def _sendable(error: Exception) -> Exception:
    """The same, if it comes out of pickling; else one that says it in words."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(repr(error))
    return error


def _status_bytes(name: str) -> int:
    """A memory figure of this process from the kernel (proc(5), status)."""
    with open("/proc/self/status", encoding="ascii") as lines:
        for line in lines:
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")
