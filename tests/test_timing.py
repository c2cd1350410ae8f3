"""The clock: who is timed when, for how long, and how well a median is known."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from experiments import timing
from experiments.config import Efficiency

CPU = torch.device("cpu")


class Clock:
    """Stands still but for the work, of which each repetition takes a known time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.done: list[str] = []
        monkeypatch.setattr("experiments.timing.time.perf_counter", lambda: self.now)

    def work(self, name: str, durations: Iterator[float]) -> Callable[[], None]:
        def work() -> None:
            self.done.append(name)
            self.now += next(durations)

        return work

    def works(self, durations: Mapping[str, Iterator[float]]) -> dict[str, Callable[[], None]]:
        return {name: self.work(name, taken) for name, taken in durations.items()}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def settings(repeats: int, warmup: int, seconds: float) -> Efficiency:
    return Efficiency(lengths=(1,), tokens_per_batch=2, repeats=repeats, warmup=warmup, seconds_per_point=seconds)


def test_works_are_timed_in_turn_and_warm_up_is_left_out(clock: Clock) -> None:
    works = clock.works({"a": iter([50.0, 2.0, 1.0, 3.0]), "b": iter([9.0, 2.0, 5.0, 7.0])})
    assert timing.interleaved(works, settings(2, 2, 4.0), CPU) == {"a": [1.0, 3.0], "b": [5.0, 7.0]}
    assert "".join(clock.done) == "abababab"


def test_repetitions_go_on_until_the_median_is_known_or_the_time_is_spent(clock: Clock) -> None:
    """A steady work ends after the least repetitions, a restless one with its time; the steady one does not wait."""
    restless = iter([1.0] + [1.0, 2.0] * 50)
    found = timing.interleaved(
        clock.works({"steady": iter([1.0] * 50), "restless": restless}), settings(8, 1, 20.0), CPU
    )
    assert found["steady"] == [1.0] * 8
    assert isinstance(found["restless"], list)
    assert sum(found["restless"][:-1]) < 20 <= sum(found["restless"])


def test_what_takes_too_long_is_not_repeated(clock: Clock) -> None:
    found = timing.interleaved(
        clock.works({"slow": iter([9.0, 12.0]), "fast": iter([1.0] * 8)}), settings(2, 2, 11.0), CPU
    )
    assert isinstance(found["slow"], timing.TooSlow)
    assert str(found["slow"]) == "a repetition of 12 s is longer than 11 s"
    assert found["fast"] == [1.0] * 6
    assert clock.done == ["slow", "fast"] * 2 + ["fast"] * 6


def test_the_recording_of_a_work_is_not_taken_for_its_time(clock: Clock) -> None:
    """It is done in the second repetition, whatever the warm-up; the third is a replay."""
    works = clock.works({"recorded": iter([1.0, 12.0, 0.5, 0.5, 0.5, 0.5])})
    recording = settings(2, 2, 1.0).model_copy(update={"cuda_graphs": True})
    assert timing.interleaved(works, recording, CPU) == {"recorded": [0.5, 0.5]}
    assert len(clock.done) == 5


def test_what_takes_long_gives_signs(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two works of four seconds, three repetitions and one before each: after every third there is a sign."""
    monkeypatch.setattr(timing.time, "monotonic", lambda: clock.now)
    signs: list[float] = []
    works = clock.works({name: iter([4.0] * 4) for name in "ab"})
    timing.interleaved(works, settings(3, 1, 8.0), CPU, lambda: signs.append(clock.now))
    assert signs == [112.0, 124.0]


@pytest.mark.parametrize("at", [0, 2])  # in warm-up, when counted
def test_what_fails_ends_alone(clock: Clock, at: int) -> None:
    steps = iter([1.0] * at)

    def failing() -> None:
        next(steps)

    works = {"failing": failing, **clock.works({"well": iter([1.0] * 4)})}
    found = timing.interleaved(works, settings(3, 1, 3.0), CPU)
    assert isinstance(found["failing"], StopIteration)
    assert found["failing"].__traceback__ is None
    assert found["well"] == [1.0, 1.0, 1.0]


def test_quartiles_by_hand() -> None:
    assert timing.quartiles([4, 1, 2, 3, 5]) == (2, 3, 4)
    assert timing.quartiles([7]) == (7, 7, 7)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=50), st.sampled_from([0.5, 0.9, 0.95, 1.0]))
def test_a_percentile_is_the_smallest_value_with_enough_below(values: list[float], share: float) -> None:
    found = timing.percentile(values, share)
    reached = [value for value in values if sum(other <= value for other in values) >= share * len(values) - 1e-9]
    assert found == min(reached)


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=200))
def test_the_interval_of_a_median_is_that_of_the_binomial_distribution(values: list[float]) -> None:
    """The narrowest symmetric pair of order statistics that holds the median with 95 % (scipy counts)."""
    n = len(values)
    covering = [rank for rank in range(n // 2) if 1 - 2 * stats.binom.cdf(rank, n, 0.5) >= 0.95]
    if not covering:
        assert n < 6
        assert timing.median_interval(values) is None
        assert timing.relative_interval(values) is None
        return
    ordered = sorted(values)
    expected = ordered[covering[-1]], ordered[n - 1 - covering[-1]]
    assert timing.median_interval(values) == expected
    width = (expected[1] - expected[0]) / statistics.median(values)
    assert timing.relative_interval(values) == pytest.approx(width)


def test_the_interval_of_thousands_is_not_looked_at_after_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes ever longer to find: some hundred looks at 4,000 repetitions, not 4,000."""
    looks: list[int] = []

    def never_known(seconds: list[float]) -> float:
        looks.append(len(seconds))
        return 1.0

    monkeypatch.setattr(timing, "relative_interval", never_known)
    monkeypatch.setattr(timing, "timed", lambda work, device: 0.25)
    found = timing.interleaved({"a": list}, settings(3, 1, 1000.0), torch.device("cpu"))["a"]
    assert isinstance(found, list)
    assert len(found) == 4000
    assert looks[:30] == list(range(3, 33))
    assert len(looks) < 400
