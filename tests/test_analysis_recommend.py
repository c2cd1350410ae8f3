"""What is recommended from tables whose truth is put in."""

import math

import pytest
from ledger_runs import around, sweep_rows, table, task_rows

from analysis.recommend import Need, recommend
from experiments import schema as s

LAWS = {
    "lstm": {s.TRAIN_STEP_SECONDS: (1e-3, 0.9), s.ENCODE_SECONDS: (1e-3, 0.9)},
    "lstm_attention": {s.TRAIN_STEP_SECONDS: (2e-3, 0.9), s.ENCODE_SECONDS: (1e-3, 0.9)},
    "transformer": {s.TRAIN_STEP_SECONDS: (1e-3, 0.2), s.ENCODE_SECONDS: (1e-3, 0.2)},
}


def recall(lstm: float, attention: float, transformer: float, seeds: int = 5) -> list[dict[str, object]]:
    hardest = {
        "lstm": around(lstm, seeds),
        "lstm_attention": around(attention, seeds),
        "transformer": around(transformer, seeds),
    }
    scores = {model: around(0.97, seeds) for model in hardest}
    return task_rows("recall", scores, hardest=hardest, measures="distance=distance items=pairs")


def test_accuracy_first() -> None:
    advice = recommend(table(recall(0.4, 0.6, 0.95)), Need(64, items=64))
    assert advice.model == "transformer"
    assert advice.because[0] == "LSTM is 55 points behind the best, mean over 2 measures of accuracy"
    assert "there is no evidence on time" in advice.because


def test_then_time_among_those_as_good() -> None:
    runs = table(recall(0.4, 0.94, 0.95), sweep_rows(LAWS))
    assert recommend(runs, Need(512)).model == "transformer"
    slow = {
        model: {name: (c, 0.9 if model == "transformer" else 0.2) for name, (c, _) in laws.items()}
        for model, laws in LAWS.items()
    }
    advice = recommend(table(recall(0.4, 0.94, 0.95), sweep_rows(slow)), Need(512))
    assert advice.model == "lstm_attention"
    assert any("are within 5 points of each other" in reason for reason in advice.because)
    assert any("Transformer takes" in reason and "times as long" in reason for reason in advice.because)


def test_costs_are_read_off_the_curve_and_extrapolation_is_said() -> None:
    runs = table(sweep_rows(LAWS, noise=0.0))
    (inside, *_) = recommend(runs, Need(100)).evidence
    assert inside.numbers["lstm"].estimate == pytest.approx(1e-3 * 100**0.9)
    assert inside.distant == ""
    (beyond, *_) = recommend(runs, Need(2000)).evidence
    assert beyond.numbers["lstm"].estimate == pytest.approx(1e-3 * 2000**0.9)
    assert beyond.distant == "extrapolated from length 512"


def test_what_was_measured_elsewhere_says_so() -> None:
    found = {one.where: one.distant for one in recommend(table(recall(0.4, 0.6, 0.95)), Need(2000, items=50)).evidence}
    assert found == {"recall, distance 64": "measured at 64, not near 2000", "recall, pairs 64": ""}


def test_without_evidence_there_is_no_recommendation() -> None:
    runs = table(recall(0.4, 0.6, 0.95), sweep_rows(LAWS))
    advice = recommend(runs, Need(64, device="cuda"))
    assert (advice.model, advice.evidence) == ("", ())
    assert advice.because == (
        "there is no evidence on accuracy at this number of items or distance",
        "there is no evidence on time on the device cuda",
    )


def test_few_seeds_are_a_caution() -> None:
    advice = recommend(table(recall(0.4, 0.6, 0.95, seeds=2)), Need(64))
    assert advice.model == "transformer"
    assert any(reason.startswith("with caution") for reason in advice.because)
    assert all(not math.isnan(one.numbers["lstm"].estimate) for one in advice.evidence)
