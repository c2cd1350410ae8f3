"""The trials of a grid: which there are, what became of them, and what validation chooses.

Those that are drawn at random are known at once and executed side by side. Where what became of the trials before
decides which setting the next one has (``sampler: tpe``) or when it is ended (``pruner: median``), those of a model on
a task follow each other. Which is next follows from what became of the others and from the seed alone: a grid that is
interrupted and run again asks for the same trials, and finds those that are over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from experiments.config import LearnRun, Pruning, Run, Tuned, run_key
from experiments.schema import FINAL, LOWER_IS_BETTER, RANDOM, TUNING
from experiments.tuning import Setting, Tune, in_words


@dataclass(frozen=True)
class Result:
    """What became of a trial that is over.

    Attributes:
        score: headline on validation of the checkpoint that was selected; None where it failed or was pruned.
        curve: step → headline on validation at each evaluation; empty where nobody asked.
        pruned: whether it was ended early.
    """

    score: float | None = None
    curve: Mapping[int, float] = field(default_factory=dict)
    pruned: bool = False


FAILURE = Result()
Results = Mapping[str, Result]  # by the key of the trial


@dataclass(frozen=True)
class Tuning:
    """A model on a task, under a budget: how its trials come about, and the seeds of the final phase.

    Attributes:
        tune: how.
        model: name under which its ranges are stated.
        make: number, from 1, and setting → the trial.
        trials: those that are known before any is over: all that are drawn at random, else the first.
        possible: runs that stand for all that its trials can be.
        seeds: of the final phase.
    """

    tune: Tune
    model: str
    make: Callable[[int, Setting], LearnRun]
    trials: tuple[LearnRun, ...]
    possible: tuple[LearnRun, ...]
    seeds: tuple[int, ...] = ()

    @classmethod
    def begin(cls, tune: Tune, model: str, make: Callable[[int, Setting], LearnRun]) -> Tuning:
        """A tuning of which nothing has been tried.

        Raises:
            SettingsError: what its ranges hold cannot be run.
        """
        if tune.sampler == RANDOM:
            drawn = tuple(make(number, setting) for number, setting in enumerate(tune.drawn(model), start=1))
            return cls(tune, model, make, drawn, drawn)
        possible = tuple(make(0, setting) for setting in tune.extremes(model))
        empty = cls(tune, model, make, (), possible)
        return replace(empty, trials=empty.known({}, ""))

    def under(self, condition: str) -> Tuning:
        """The same, with runs that are told apart from others by `condition`."""

        def make(number: int, setting: Setting) -> LearnRun:
            return replace(self.make(number, setting), condition=condition)

        trials, possible = (
            tuple(replace(run, condition=condition) for run in runs) for runs in (self.trials, self.possible)
        )
        return replace(self, make=make, trials=trials, possible=possible)

    def known(self, results: Results, device: str) -> tuple[LearnRun, ...]:
        """The trials whose settings are known: all that are drawn at random, else one more than are over.

        Args:
            results: of the trials that are over, on this device.
            device: on which they are run.
        """
        if self.tune.sampler == RANDOM:
            return self.trials
        from experiments.adaptive import Search

        search = Search(self.tune, self.model, self.possible[0].task.headline)
        found: list[LearnRun] = []
        while len(found) < self.tune.trials:
            found.append(self.make(len(found) + 1, search.ask()))
            result = results.get(run_key(found[-1], device))
            if result is None:
                break
            search.tell(result.score, result.curve if result.pruned else None)
        return tuple(found)

    def ready(self, results: Results, device: str) -> list[LearnRun]:
        """The trials that can be executed now; one that may be ended early brings what it is held against."""
        known = self.known(results, device)
        found = [results.get(run_key(trial, device)) for trial in known]
        if not self.tune.in_turn:
            return [trial for trial, result in zip(known, found, strict=True) if result is None]
        if None not in found:
            return []
        place = found.index(None)
        trial, before = known[place], found[:place]
        if trial.tuned is not None and trial.tuned.pruning is not None:
            curves = tuple(result.curve for result in before if result is not None and result.score is not None)
            trial = replace(trial, tuned=replace(trial.tuned, pruning=replace(trial.tuned.pruning, earlier=curves)))
        return [trial]

    def choose(self, results: Results, device: str) -> Choice:
        """What validation chooses of the trials that are over; arguments as of `known`."""
        trials = self.known(results, device)
        found = {trial: results[key] for trial in trials if (key := run_key(trial, device)) in results}
        scores = {trial: result.score for trial, result in found.items() if result.score is not None}
        sign = -1 if self.possible[0].task.headline in LOWER_IS_BETTER else 1
        return Choice(self, trials, found, max(scores, key=lambda trial: sign * scores[trial], default=None))


@dataclass(frozen=True)
class Choice:
    """The known trials of a tuning, what became of them, and the best: of several the first, None where there is none.

    A trial that failed or was pruned has no score, and is worse than any that has one.
    """

    tuning: Tuning
    trials: tuple[LearnRun, ...]
    results: Mapping[LearnRun, Result]
    best: LearnRun | None

    @property
    def over(self) -> bool:
        """Whether all trials are."""
        return len(self.results) == self.tuning.tune.trials

    @property
    def final(self) -> tuple[LearnRun, ...]:
        """The runs of the final phase: the settings of the best trial, with seeds of their own."""
        if self.best is None or self.best.tuned is None:
            return ()
        tuned = replace(self.best.tuned, phase=FINAL, pruning=None)
        return tuple(replace(self.best, seed=seed, tuned=tuned) for seed in self.tuning.seeds)


class Trials:
    """The trials of a grid while it is run: those that can be executed, and those that follow from one that is over."""

    def __init__(self, tunings: Sequence[Tuning], results: Results, device: str, read: Callable[[str], Result]) -> None:
        """
        Args:
            tunings: of the grid.
            results: of the trials that were over before.
            device: on which they are run.
            read: key of a trial that has finished since → what became of it.
        """
        self._tunings, self._results, self._device, self._read = tunings, dict(results), device, read
        self._in_turn: dict[Run, list[Tuning]] = {}  # by the trial that was given out

    def known(self) -> list[LearnRun]:
        """Those whose settings are known."""
        return [trial for tuning in self._tunings for trial in tuning.known(self._results, self._device)]

    def count(self) -> int:
        """Of all, known or not."""
        return sum(tuning.tune.trials for tuning in self._tunings)

    def left(self) -> int:
        """Of those that are not over."""
        return self.count() - sum(run_key(trial, self._device) in self._results for trial in self.known())

    def ready(self) -> list[LearnRun]:
        """Those that can be executed now."""
        return list(dict.fromkeys(trial for tuning in self._tunings for trial in self._of(tuning)))

    def follow(self, run: Run, reason: str) -> list[LearnRun]:
        """Those that can be executed because a run is over, which finished or, for a reason, failed."""
        if run not in self._in_turn:
            return []
        key = run_key(run, self._device)
        self._results[key] = FAILURE if reason else self._read(key)
        return [trial for tuning in self._in_turn.pop(run) for trial in self._of(tuning)]

    def _of(self, tuning: Tuning) -> list[LearnRun]:
        ready = tuning.ready(self._results, self._device)
        if tuning.tune.in_turn:
            for trial in ready:
                self._in_turn.setdefault(trial, []).append(tuning)
        return ready


def as_trial(run: LearnRun, number: int, setting: Setting, tune: Tune) -> LearnRun:
    """A run that has the settings of the trial of that number, marked as such."""
    options = tuple(name for half, name in setting if half == "model")
    pruning = Pruning(tune.startup) if tune.prunes else None
    tuned = Tuned(TUNING, number, in_words(setting), tune.sampler, pruning)
    return replace(run, model=replace(run.model, tuned=options), tuned=tuned)
