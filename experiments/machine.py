"""The machine while something is measured on it: its load, its clock, its energy, and whether others used it too."""

from __future__ import annotations

import time
from collections.abc import Callable

import psutil
import pynvml
import torch

from experiments import schema

DISTURBING = 0.1  # processor seconds a second that others may use before a point counts as disturbed
COUNTED = 0.03  # seconds by which the difference of counters may be off, each of which moves in hundredths of a second
ENERGY_SECONDS = 2.0  # of work between two readings of the energy counter, which moves some ten times a second


class Watch:
    """What happens on the machine from its making to `state`."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._start = time.perf_counter()
        self._others, self._idle = _processor_seconds()

    def state(self) -> dict[str, float]:
        """The metrics of schema.MACHINE; what cannot be read is left out."""
        others, idle = _processor_seconds()
        seconds = time.perf_counter() - self._start
        disturbed = others - self._others > DISTURBING * seconds + COUNTED
        if self.device.type == "cuda":  # work on it needs one core, of which a server has many, for many others
            disturbed = disturbed and idle - self._idle < seconds
        found = {schema.LOAD: psutil.getloadavg()[0], schema.THREADS: float(torch.get_num_threads())}
        clock = _clock(self.device)
        if clock is not None:
            found[schema.CLOCK] = clock
        found[schema.DISTURBED] = float(disturbed or _shared(self.device))
        return found


def joules(work: Callable[[], object], device: torch.device, warmup: int) -> float | None:
    """Energy of one call of `work`, by NVIDIA's own counter over some seconds of calls; None where there is none.

    `warmup` calls before them are left out: work that is recorded (experiments.graphs) is so at its second call.
    """
    handle = _nvidia(device)
    if handle is None:
        return None
    try:
        for _ in range(warmup):
            work()
        torch.cuda.synchronize(device)
        calls, start, before = 0, time.perf_counter(), pynvml.nvmlDeviceGetTotalEnergyConsumption(handle)
        while time.perf_counter() - start < ENERGY_SECONDS:
            work()
            torch.cuda.synchronize(device)
            calls += 1
        return (
            float(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle) - before) / 1000 / calls
        )  # it counts millijoules
    except pynvml.NVMLError:  # older than Volta
        return None


def _processor_seconds() -> tuple[float, float]:
    """Since the machine started: processor time that others than this process used, and that nobody used."""
    everyone = psutil.cpu_times()
    busy = sum(getattr(everyone, name, 0.0) for name in ("user", "nice", "system", "irq", "softirq", "steal"))
    idle = sum(getattr(everyone, name, 0.0) for name in ("idle", "iowait"))
    own = psutil.Process().cpu_times()
    return float(busy - own.user - own.system), float(idle)


def _clock(device: torch.device) -> float | None:
    """Hertz; None where it cannot be read."""
    handle = _nvidia(device)
    try:
        if handle is not None:
            return float(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM)) * 1e6
        if device.type == "cuda":
            return None
        frequency = psutil.cpu_freq()
    except (pynvml.NVMLError, OSError, NotImplementedError):
        return None
    return frequency.current * 1e6 if frequency is not None and frequency.current else None


def _shared(device: torch.device) -> bool:
    """Whether another process computes on the same NVIDIA device."""
    handle = _nvidia(device)
    try:
        return handle is not None and len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle)) > 1
    except pynvml.NVMLError:
        return False


def _nvidia(device: torch.device) -> object | None:
    """NVML's handle of a CUDA device; None for other devices, and where the driver brings no NVML."""
    if device.type != "cuda":
        return None
    try:
        pynvml.nvmlInit()
        return pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    except pynvml.NVMLError:
        return None
