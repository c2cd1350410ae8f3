"""Estimates, intervals and tests: pure functions over one value per seed, tasks as strata.

`student` holds the intervals that are shown and decided by, `seeds` what else one says of a handful of seeds,
`significance` permutation tests, Holm's correction and the probability of improvement, `resampling` the BCa bootstrap,
`trials` what the best of fewer trials would have been.

Which interval, and why. The plan (CLAIMS.md) was BCa. By simulation (`python -m analysis.calibration`; 10,800 grids of
four tasks) the BCa interval of a mean difference, at nominal 95 %, covers the truth in 82 % of cases with 3 seeds, 88 %
with 5 and 92 % with 10: resamples of so few values are too narrow, and no correction of their quantiles makes up for it
(Hesterberg 2015, "What Teachers Should Know About the Bootstrap", finds the same for one sample). Student's t, for
several tasks with the degrees of freedom of Welch (1947) and Satterthwaite (1946), covers 97, 96 and 95 %. It is shown
everywhere, and is what all claims are decided by.

What no interval of five seeds can see is a mode that none of them fell into: a task that one seed in ten fails to
solve is solved by all of five in 59 % of cases, and the interval of these five has no width.
"""

from analysis.statistics.resampling import bca, iqm_over_tasks
from analysis.statistics.seeds import iqm, maximum, median, solved
from analysis.statistics.significance import holm, improvement, permutation_p
from analysis.statistics.student import (
    CONFIDENCE,
    Interval,
    Student,
    difference,
    gap_closed,
    geometric_mean,
    mean,
    pooled_gap_closed,
    ratio,
    stratified_mean,
    student,
)
from analysis.statistics.trials import expected_maximum

__all__ = [
    "CONFIDENCE",
    "Interval",
    "Student",
    "bca",
    "difference",
    "expected_maximum",
    "gap_closed",
    "geometric_mean",
    "holm",
    "improvement",
    "iqm",
    "iqm_over_tasks",
    "maximum",
    "mean",
    "median",
    "permutation_p",
    "pooled_gap_closed",
    "ratio",
    "solved",
    "stratified_mean",
    "student",
]
