"""How a cost grows with length: power laws, local slopes and crossovers, all in log–log space."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class PowerLaw:
    """``value = coefficient · length ** exponent``, fitted to `n` lengths."""

    exponent: float
    coefficient: float
    n: int

    def at(self, length: float) -> float:
        """The fitted value at `length`."""
        return float(self.coefficient * length**self.exponent)


def fit(lengths: ArrayLike, values: ArrayLike) -> PowerLaw:
    """Fits a power law by the Theil–Sen estimator: the median of the slopes of all pairs (Sen 1968).

    Timings have outliers, of one sign; a median bears almost a third of them where least squares bear none.

    Raises:
        ValueError: fewer than two distinct lengths, or anything that is not positive and finite.
    """
    x, y = _logarithms(lengths, values)
    slope, intercept = stats.theilslopes(y, x)[:2]
    return PowerLaw(float(slope), float(np.exp(intercept)), len(x))


def crossover(lengths: ArrayLike, a: ArrayLike, b: ArrayLike) -> float | None:
    """Length from which on the order of the curves `a` and `b` stays what it is at the longest length.

    The logarithm of ``a / b`` is interpolated linearly in the logarithm of the length. Of several crossings the last
    counts; curves that only touch, or meet at an end of the range, do not cross: None.
    """
    x, log_a = _logarithms(lengths, a)
    _, log_b = _logarithms(lengths, b)
    gap = log_a - log_b
    apart = np.flatnonzero(gap)
    turns = np.flatnonzero(np.diff(np.sign(gap[apart])))
    if not len(turns):
        return None
    before, after = apart[turns[-1]], apart[turns[-1] + 1]
    if after > before + 1:  # the curves are equal at the lengths between
        return float(np.exp(x[after - 1]))
    share = gap[before] / (gap[before] - gap[after])
    return float(np.exp(x[before] + share * (x[after] - x[before])))


def _logarithms(lengths: ArrayLike, values: ArrayLike) -> tuple[Floats, Floats]:
    x, y = np.asarray(lengths, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"lengths {x.shape} and values {y.shape} do not belong together")
    if len(np.unique(x)) != len(x) or len(x) < 2:
        raise ValueError("at least two lengths are needed, each once")
    if not (np.isfinite(x).all() and np.isfinite(y).all() and (x > 0).all() and (y > 0).all()):
        raise ValueError("a power law needs positive, finite lengths and values")
    order = np.argsort(x)
    return np.log(x[order]), np.log(y[order])
