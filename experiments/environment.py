"""Where a run ran: versions, machine, and the state of the code."""

from __future__ import annotations

import ctypes
import functools
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

import psutil
import torch

PACKAGES = ("torch", "mlflow", "datasets", "numpy", "pandas", "pydantic", "rapidfuzz")
CODE = ("lvt.py", "models", "experiments", "pyproject.toml", "constraints.txt")  # what runs depend on
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h


def hardware(device: torch.device) -> str:
    """The processor or GPU, in words."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()} ({psutil.cpu_count(logical=False) or psutil.cpu_count()} cores)"


def versions() -> str:
    """Of Python and torch: ``python 3.11.7, torch 2.13.0``."""
    return f"python {platform.python_version()}, torch {torch.__version__}"


def prepare_process() -> None:
    """Makes this process what every run is executed in: one thread, no tiny numbers, float32 that is float32.

    Memory that was freed is kept for what comes next (`keep_freed_memory`).

    Numbers below the normal ones become zero. Gradients that vanish over hundreds of positions end in them, for which a
    processor takes many times as long: a training step of an LSTM without attention took six times as long at length
    512. What would be timed is how the processor represents them; a GPU takes no longer for them.

    A GPU would round what goes into the products of nn.LSTM to 10 bits (TF32), unasked and, unless its surroundings ask
    for more, in no other product, so that an LSTM was faster in float32 than it is, and a step of it another than the
    same position of a pass. And cuDNN's attention, which newer GPUs prefer, is planned anew for every shape, for
    hundreds of times as long as it takes: batches of texts have a shape each. Flash attention needs no plan.
    """
    torch.set_num_threads(1)
    keep_freed_memory(True)
    torch.set_flush_denormal(True)
    _allow_tf32(of_lstm=False, others=False)
    torch.backends.cuda.enable_cudnn_sdp(False)


def keep_freed_memory(keep: bool) -> None:
    """Whether glibc's malloc keeps blocks of 128 KiB to 32 MiB when they are freed; other C libraries stay as they are.

    By itself it gives those above a threshold back to the system, which for the next block has to find and clear pages
    again, and the threshold grows with the blocks that are freed. So how long a training step took hung on what the
    process had done before, and an LSTM's, which makes and frees more for its time, took a quarter longer than where
    all are kept. How much memory is needed shows where none is.
    """
    if (mallopt := of_the_c_library("mallopt")) is None:
        return
    mallopt(_M_MMAP_THRESHOLD, 2**25 if keep else 2**17)  # larger blocks have pages of their own
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1 if keep else 2**17)  # so much may be free at the end of all others


def of_the_c_library(name: str) -> Callable[..., object] | None:
    """The function of this name; None where there is none, and on other systems than Linux."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


@contextmanager
def rounded(products: bool) -> Iterator[None]:
    """Whether a GPU may use TF32 in products of float32, forward and backward: where all that can be are in bfloat16.

    What is left in float32 is an LSTM's recurrence, of which cuDNN computes whole passes, and cuBLAS single steps.
    """
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    _allow_tf32(of_lstm=products, others=products)
    try:
        yield
    finally:
        _allow_tf32(*before)


def _allow_tf32(of_lstm: bool, others: bool) -> None:
    torch.backends.cudnn.allow_tf32 = of_lstm
    torch.backends.cuda.matmul.allow_tf32 = others


def take_gpu(number: int) -> None:
    """Makes "cuda" stand for one of this machine's GPUs; processes that are numbered from 0 share them evenly."""
    torch.cuda.set_device(number % torch.cuda.device_count())


def flushes_denormals() -> bool:
    """Whether numbers below the normal ones become zero on the processor."""
    smallest_normal = torch.tensor([torch.finfo(torch.float32).tiny])
    return bool(smallest_normal / 2 == 0)


def environment(device: torch.device) -> dict[str, object]:
    """All that may explain a figure."""
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "hardware": hardware(device),
        "libc": " ".join(platform.libc_ver()),
        "memory_bytes": psutil.virtual_memory().total,
        "threads": torch.get_num_threads(),
        "flushes_denormals": flushes_denormals(),
        "device": device.type,
        "cuda": torch.version.cuda if device.type == "cuda" else None,
        "packages": {name: metadata.version(name) for name in PACKAGES},
    }


@functools.cache  # the code that runs is the code that was imported
def git_state(folder: Path = Path(__file__).parents[1]) -> tuple[str, bool] | None:
    """Commit of a checkout, and whether what runs depend on differs from it; None outside a repository."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        dirty = bool(_git(folder, "status", "--porcelain", "--", *CODE))
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit, dirty


def _git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(["git", *arguments], cwd=folder, check=True, capture_output=True, text=True)
    return result.stdout.strip()


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
