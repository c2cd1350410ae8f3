"""What the pooled numbers of components can be, and which tasks they are of."""

import pandas as pd
import pytest
from ledger_runs import Rows, around, run_rows, table, task_rows

from analysis import ablations
from experiments import schema as s

FULL, VARIANT = "lstm", "lstm(norm=none)"


def test_no_interval_of_accuracies_goes_beyond_what_they_can_be_apart() -> None:
    """Two seeds have intervals some ten times as wide as what lies between them; errors may be above 1."""
    scores = {FULL: [0.99, 0.97], VARIANT: [0.10, 0.30]}
    found = ablations.effects(table(task_rows("copy", scores))).set_index("task")
    for task in ("copy", ""):
        assert found.loc[task, "estimate"] == pytest.approx(0.78)
        assert found.loc[task, "high"] == 1.0
        assert found.loc[task, "low"] == pytest.approx(0.78 - 12.7062 * 0.11, abs=1e-4)
    errors: Rows = []
    for model, values in {FULL: [0.2, 0.3], VARIANT: [1.5, 1.1]}.items():
        for seed, value in enumerate(values):
            errors += run_rows(s.LEARN, "g2p", model, seed, [("test/wer", None, value)], headline=s.WER)
    assert ablations.effects(table(errors))["high"].min() > 2
