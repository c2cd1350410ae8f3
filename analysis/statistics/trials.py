"""What one says of a number of trials: how good the best of fewer would have been."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import comb

from analysis.statistics.student import _checked


def expected_maximum(values: ArrayLike) -> NDArray[np.float64]:
    """Expected maximum of n of the values, for n from 1 to all of them; shape (values,).

    "Expected validation performance" against the number of trials (Dodge et al. 2019, "Show Your Work", section 3). It
    is the mean over all choices of n different trials, which is unbiased; theirs draws with replacement and is too low
    (Tang et al. 2020, "Showing Your Work Doesn't Always Work").
    """
    array = np.sort(_checked(values))
    total = len(array)
    below = np.arange(total)  # of the values, by how many each is preceded
    return np.array([comb(below, n - 1) @ array / comb(total, n) for n in range(1, total + 1)])
