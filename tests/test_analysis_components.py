"""What the pooled numbers of components can be, and which tasks they are of."""

import pytest
from ledger_runs import Rows, around, run_rows, table, task_rows

from analysis import ablations, figures
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


def test_a_task_on_which_nothing_is_right_is_not_pooled() -> None:
    """Whatever other families reach there; where a variant alone gets something right the task does count."""
    trained = {FULL: around(0.95), VARIANT: around(0.94, shift=1), "transformer": around(0.95)}
    none = dict.fromkeys([FULL, VARIANT], [0.0] * 5) | {"transformer": around(0.5)}
    far = {FULL: around(0.8), VARIANT: around(0.4, shift=1), "transformer": around(0.1)}
    late = {FULL: [0.0] * 5, VARIANT: [0.0] * 4 + [0.5], "transformer": [0.0] * 5}
    runs = table(task_rows("copy", trained, longer=far), task_rows("reverse", trained, longer=none))
    found = ablations.effects(runs)
    out = found[found["split"] == s.LONGER].set_index("task")
    assert out["reached"].to_dict() == {"copy": True, "reverse": False, "": True}
    assert out.loc["", "estimate"] == pytest.approx(0.4)
    assert (out.loc["", "tasks"], out.loc["", "of_tasks"]) == (1, 1)
    within = found[found["split"] == s.TEST].set_index("task")
    assert within["reached"].all()
    assert within.loc["", "tasks"] == 2
    (section,) = ablations.sections(found)
    assert section.table.header[1:] == (
        "copy, test",
        "copy, longer",
        "reverse, test",
        "reverse ‡, longer",
        "pooled, test",
        "pooled, longer",
    )
    assert section.notes[-1].startswith("‡ Neither the full model nor a variant gets anything right")
    figure = figures.components(runs)
    assert figure is not None
    assert "a task with nothing right" in [text.get_text() for text in figure.legends[0].get_texts()]
    alone = ablations.effects(table(task_rows("copy", trained, longer=far), task_rows("reverse", trained, longer=late)))
    pooled = alone[(alone["split"] == s.LONGER) & (alone["task"] == "")]
    assert pooled["estimate"].item() == pytest.approx((0.4 - 0.1) / 2)
    assert len(ablations.sections(alone)[0].notes) == 1
