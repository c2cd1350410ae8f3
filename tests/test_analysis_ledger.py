"""The ledger as a whole: every claim has its line, the families their correction, the rows their sentences."""

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ledger_runs import (
    around,
    beyond,
    data_sizes,
    entry,
    gradient_rows,
    learning,
    recall,
    sweep_rows,
    table,
    task_rows,
    times,
    with_positions,
)
from scipy import stats

from analysis import claims
from analysis.claims.rules import Verdict
from experiments import schema as s


def test_every_claim_has_a_line_and_its_criterion() -> None:
    entries = claims.ledger(table(recall("recall", 0.4, 0.9)))
    ids = [one.claim.id for one in entries]
    assert ids == ["1.1", "1.2", "1.3", "2.1", "2.2", "2.3", "2.4", "3.1", "3.2", "4.1", "4.2", "4.3", "4.4"]
    assert all(one.claim.supported and one.claim.refuted for one in entries)
    assert entries[0].verdict is Verdict.NOT_MEASURED
    assert entries[0].number == "–"


def test_claims_of_a_family_are_corrected_for_each_other() -> None:
    """Two that hold alone, at the same p of 3 %, do not hold together; that of another family changes nothing."""
    far = {"lstm": [0.6] * 5, "transformer": around(0.6 + 0.167, spread=0.1)}
    near = dict.fromkeys(far, [0.99] * 5)
    distance = task_rows("copy", near, hardest=far, measures="distance=distance")
    items = task_rows("recall", near, hardest=far, measures="items=pairs")
    p = stats.ttest_1samp(np.array(far["transformer"]) - 0.6, 0.05).pvalue
    assert 0.025 < p < 0.05
    sweep = sweep_rows(times((1e-3, 0.9), (1e-3, 0.1)))
    for claim, alone in (("2.1", distance), ("2.2", items)):
        found = entry(table(alone, sweep), claim)
        assert (found.verdict, found.p) == (Verdict.SUPPORTED, pytest.approx(p))
        found = entry(table(distance, items), claim)
        assert (found.verdict, found.p) == (Verdict.UNDECIDED, pytest.approx(2 * p))
        assert found.condition == "supported on its own, not after correction for several claims (Holm)"


def test_the_smallest_p_values_are_not_written_out() -> None:
    far = {"lstm": [0.6] * 5, "transformer": around(0.6 + 0.167, spread=0.1)}
    distance = task_rows("copy", dict.fromkeys(far, [0.99] * 5), hardest=far, measures="distance=distance")
    entries = claims.ledger(table(distance, sweep_rows(times((1e-3, 0.9), (1e-3, 0.1)))))
    shown = {row[0]: row[5] for row in claims.as_table(entries).rows}
    p = stats.ttest_1samp(np.array(far["transformer"]) - 0.6, 0.05).pvalue
    assert {name: shown[name] for name in ("1.1", "2.1", "4.1")} == {"1.1": "< 0.001", "2.1": f"{p:.2g}", "4.1": "–"}


def test_the_ledger_for_machines() -> None:
    entries = claims.ledger(table(recall("recall", 0.4, 0.9)))
    records = json.loads(json.dumps([claims.as_record(one) for one in entries], allow_nan=False))
    found = next(record for record in records if record["id"] == "2.1")
    assert (found["verdict"], found["unit"], found["n"]) == ("supported", "points", 5)
    assert found["effect"] == pytest.approx(50)
    assert len(found["runs"]) == 10
    assert next(record for record in records if record["id"] == "1.1")["effect"] is None
    frame = claims.as_frame(entries)
    assert frame["id"].tolist() == [record["id"] for record in records]


def test_rows_are_one_sentence_of_numbers() -> None:
    runs = table(recall("recall", 0.4, 0.9))
    answers = claims.folklore(runs, claims.ledger(runs))
    assert answers[0].sentence == "Not measured."
    sentence = answers[1].sentence
    first, second = sentence.split("; ")
    lead = " (64), the Transformer is ahead by 50.0 points [4"
    assert first.startswith(
        f"The Transformer looks farther back (2.1 supported): in range at the farthest distance{lead}"
    )
    assert second.startswith(f"the Transformer keeps more items (2.2 supported): with the most items to keep{lead}")
    assert sentence.endswith(".")
    assert [str(entry.verdict) for entry in answers[1].entries] == [
        "supported",
        "supported",
        "not measured",
        "not measured",
    ]


def test_no_verdict_depends_on_the_order_of_the_runs() -> None:
    """Nor on that of their values: the rows of a table come as they were written, sorted or not."""
    alibi = with_positions(beyond("parity", s.REGULAR, 0.9, 0.5), longer=0.49)
    runs = table(
        *(recall("recall", 0.4, 0.9), recall("copy", 0.9, 0.5), beyond("parity", s.REGULAR, 0.99, 0.55), alibi),
        *(learning(0.4, 0.8, task="learnt"), data_sizes(0.05, 0.10), sweep_rows(times((1e-4, 0.9), (2e-3, 0.25)))),
        gradient_rows({"lstm": (3.0, 3.0), "transformer": (20.0, 20.0)}),
    )

    def said(rows: pd.DataFrame) -> list[dict[str, Any]]:
        entries = claims.ledger(rows)
        return [claims.as_record(one) | {"runs": sorted(one.runs), "parts": one.parts} for one in entries]

    expected = said(runs)
    assert sum(len(record["parts"]) > 1 for record in expected) > 4
    for seed in range(3):
        assert said(runs.sample(frac=1, random_state=seed)) == expected


def test_growth_is_said_with_the_lengths_it_is_of() -> None:
    """Not with those at which the quadratic part shows: attention has half of the operations from 256 on."""
    rows = sweep_rows(times((1e-3, 0.1), (1e-3, 0.9)), noise=1e-6)
    shares = [
        row | {"metric": s.ATTENTION_SHARE, "value": 0.1 if row["at"] < 256 else 0.5}
        for row in rows
        if (row["model"], row["metric"]) == ("transformer", s.BATCH_SIZE)
    ]
    numbers = "-0.80 [-0.80, -0.80] (a training step) and -0.80 [-0.80, -0.80] (encoding)"
    start = f"at the same tokens per batch, the LSTM's exponent of time minus the Transformer's is {numbers}"
    assert entry(table(rows), "1.1").clause == f"{start} from length 32 to 512"
    assert entry(table(rows, shares), "1.1").clause == f"{start} from length 32 to 128"


def test_a_claim_names_the_runs_of_what_counts() -> None:
    """Those of a task with few seeds only where no task has more."""
    scores = {"lstm": around(0.5), "lstm_attention": around(0.9, shift=1), "transformer": around(0.98, shift=3)}
    one = {model: values[:1] for model, values in scores.items()}
    found = entry(table(task_rows("recall", scores), task_rows("cogs", one)), "3.1")
    assert len(found.runs) == 15
    assert not any("cogs" in run for run in found.runs)
    assert [part[0] for part in found.parts] == ["cogs", "recall"]
    assert len(entry(table(task_rows("cogs", one)), "3.1").runs) == 3
