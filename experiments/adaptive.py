"""What Optuna decides (extra `optuna`): which setting to try next, and whether a trial is worth going on with.

Both follow from what became of the trials before and, the first, from a seed: nothing else is kept.
"""

from __future__ import annotations

from collections.abc import Mapping

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState, create_trial

from experiments.config import Pruning
from experiments.schema import LOWER_IS_BETTER
from experiments.tuning import Range, Setting, Tune

optuna.logging.set_verbosity(optuna.logging.WARNING)


class Search:
    """The settings of a model's trials, one after another, by TPE (Bergstra et al. 2011): `ask`, `tell`, `ask`, …"""

    def __init__(self, tune: Tune, model: str, headline: str) -> None:
        """`headline`: the metric that decides."""
        sampler = TPESampler(n_startup_trials=tune.startup, seed=tune.seed)
        self._study = optuna.create_study(sampler=sampler, direction=_direction(headline))
        self._ranges = {".".join(path): (path, range_) for path, range_ in tune.paths(model).items()}
        self._space = {name: _distribution(range_) for name, (_, range_) in self._ranges.items()}

    def ask(self) -> Setting:
        """The setting of the next trial."""
        self._trial = self._study.ask(self._space)
        return {path: _value(range_, self._trial.params[name]) for name, (path, range_) in self._ranges.items()}

    def tell(self, score: float | None, pruned_at: Mapping[int, float] | None = None) -> None:
        """What became of that trial.

        Args:
            score: its headline; None where it failed or was pruned.
            pruned_at: where it was pruned, its headline at each step until then.
        """
        if score is not None:
            self._study.tell(self._trial, score)
            return
        for step, value in (pruned_at or {}).items():
            self._trial.report(value, step)
        self._study.tell(self._trial, state=TrialState.FAIL if pruned_at is None else TrialState.PRUNED)


def worse_than_median(curve: Mapping[int, float], pruning: Pruning, headline: str) -> bool:
    """Whether Optuna's MedianPruner ends a trial.

    Args:
        curve: its headline on validation by step, so far.
        pruning: what it is held against.
        headline: the metric.
    """
    study = _study_of(pruning, headline)
    trial = study.ask()
    for step, value in curve.items():
        trial.report(value, step)
    return trial.should_prune()


def _study_of(pruning: Pruning, headline: str) -> Study:
    """A study that has seen the earlier trials; of these the rule looks at the curves alone, not at their values."""
    study = optuna.create_study(pruner=MedianPruner(n_startup_trials=pruning.startup), direction=_direction(headline))
    for earlier in pruning.earlier:
        study.add_trial(create_trial(value=0.0, intermediate_values=dict(earlier)))
    return study


def _direction(headline: str) -> StudyDirection:
    return StudyDirection.MINIMIZE if headline in LOWER_IS_BETTER else StudyDirection.MAXIMIZE


def _distribution(range_: Range) -> BaseDistribution:
    """Choices by their place in the list: Optuna takes no lists and mappings as values."""
    if range_.choices is not None:
        return CategoricalDistribution(range(len(range_.choices)))
    return FloatDistribution(*range_.bounds, log=range_.log_uniform is not None)


def _value(range_: Range, suggested: float) -> object:
    return range_.rounded(suggested) if range_.choices is None else range_.choices[int(suggested)]
