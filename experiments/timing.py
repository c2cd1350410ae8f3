"""The clock: works timed side by side, waiting for the device, until the median is known well enough."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

import torch

from experiments.config import Efficiency

CONFIDENCE = 0.95
OFTEN = 32  # repetitions after each of which the interval of the median is looked at
SIGN = 10.0  # seconds from one sign that it goes on to the next, at least
NARROW = 0.03  # width of the interval of a median, as a share of the median, from which on it is known well enough

Key = TypeVar("Key", bound=Hashable)


class TooSlow(Exception):
    """A repetition takes longer than one point may."""


def interleaved(
    works: Mapping[Key, Callable[[], object]],
    settings: Efficiency,
    device: torch.device,
    watch: Callable[[], None] = lambda: None,
) -> dict[Key, list[float] | Exception]:
    """Times works in turn, A B C A B C …, so that what changes on the machine meanwhile changes for all of them.

    A work is repeated until the interval of its median is `NARROW`, or until it has taken `settings.seconds_per_point`;
    `settings.repeats` times at least. Where works are recorded (`settings.cuda_graphs`), that takes two repetitions:
    there is one more before the first that counts, so that none is taken for too slow because of it.

    Args:
        works: what is timed.
        settings: how often.
        device: on which.
        watch: called between repetitions, every `SIGN` seconds or less often: it goes on.

    Returns:
        Seconds of each counted repetition, in order; or what ended this work while the others went on: `TooSlow` where
        one repetition takes longer than that, or what it raised.
    """
    seconds: dict[Key, list[float]] = {key: [] for key in works}
    ended: dict[Key, Exception] = {}
    seen = time.monotonic()

    def repeat(key: Key) -> float:
        nonlocal seen
        if time.monotonic() - seen > SIGN:
            seen = time.monotonic()
            watch()
        try:
            return timed(works[key], device)
        except Exception as error:
            # The frames of its traceback would keep the tensors alive for which there was no room.
            ended[key] = error.with_traceback(None)
            return math.nan

    last = dict.fromkeys(works, 0.0)
    for _ in range(settings.warmup + settings.cuda_graphs):
        for key in works:
            if key not in ended:
                last[key] = repeat(key)
    for key, taken in last.items():
        if taken > settings.seconds_per_point:
            ended[key] = TooSlow(f"a repetition of {taken:.3g} s is longer than {settings.seconds_per_point:g} s")

    def going_on() -> list[Key]:
        return [key for key in works if key not in ended and not _enough(seconds[key], settings)]

    while keys := going_on():
        for key in keys:
            seconds[key].append(repeat(key))
    return {key: ended.get(key, seconds[key]) for key in works}


def timed(work: Callable[[], object], device: torch.device) -> float:
    """Seconds from an idle device to an idle device."""
    wait_for(device)
    start = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - start


def wait_for(device: torch.device) -> None:
    """Until all that was asked of the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile; of a single value, that value three times."""
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least `share` of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def median_interval(values: list[float]) -> tuple[float, float] | None:
    """The interval of order statistics that holds the median with 95 % or more, whatever the distribution.

    The number of values below the median is binomial with a half (Conover 1999, "Practical Nonparametric Statistics",
    section 3.2). None with less than six values, of which even the range holds it with less.
    """
    n = len(values)
    ordered = sorted(values)
    found, tail = None, 0.0
    for rank in range(n // 2):
        tail += math.comb(n, rank) / 2**n
        if 1 - 2 * tail < CONFIDENCE:
            break
        found = ordered[rank], ordered[n - 1 - rank]
    return found


def relative_interval(values: list[float]) -> float | None:
    """Width of the interval of the median, as a share of the median; None where there is none."""
    interval = median_interval(values)
    return None if interval is None else (interval[1] - interval[0]) / statistics.median(values)


def _enough(seconds: list[float], settings: Efficiency) -> bool:
    n = len(seconds)
    if n < settings.repeats:
        return False
    if sum(seconds) >= settings.seconds_per_point:
        return True
    if n > OFTEN and n % (n // OFTEN):  # of thousands, the interval is not looked at after each
        return False
    width = relative_interval(seconds)
    return width is not None and width < NARROW
