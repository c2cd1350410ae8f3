"""Half-distances by hand, and claim 2.4 on tables whose truth is put in."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from ledger_runs import DISTANCES, gradient_rows, table
from matplotlib.figure import Figure

from analysis import claims, inside, tables
from analysis.claims import Entry, Verdict
from analysis.gradients import SHARE, curves, half_distance, half_distances
from experiments import schema as s

STAYS = math.inf


def entry(runs: pd.DataFrame) -> Entry:
    return next(one for one in claims.ledger(runs) if one.claim.id == "2.4")


# --- half-distances --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("norms", "expected"),
    [
        ([8.0, 6.0, 2.0], (2 * 2**0.5, False)),  # halfway, in logarithms, from 2 to 4
        ([8.0, 4.0, 2.0], (2.0, False)),
        ([8.0, 0.0, 0.0], (2**0.5, False)),  # vanished to exactly 0
        ([8.0, 9.0, 4.1], (4.0, True)),  # still above half at the end
        ([8.0, 2.0, 8.0], (2 ** (4 / 6), False)),  # the first time counts
    ],
)
def test_half_distances_by_hand(norms: list[float], expected: tuple[float, bool]) -> None:
    found, censored = half_distance([1, 2, 4], norms)
    assert (found, censored) == (pytest.approx(expected[0]), expected[1])


def test_of_nothing_there_is_no_half() -> None:
    assert math.isnan(half_distance([1, 2], [0.0, 0.0])[0])


def test_half_distances_of_a_table() -> None:
    runs = table(gradient_rows({"lstm": (3.0, 20.0), "transformer": (STAYS, 5.0)}, seeds=3, sure=1.0))
    found = half_distances(runs, SHARE).set_index(["model", "seed", "phase"])
    off = np.exp([-0.02, 0.0, 0.02])
    for seed in range(3):
        assert found.loc[("lstm", seed, s.INITIAL), "half_distance"] == pytest.approx(3 * off[seed])
        assert found.loc[("lstm", seed, s.TRAINED), "half_distance"] == pytest.approx(20 * off[seed])
        assert found.loc[("transformer", seed, s.INITIAL), "half_distance"] == 256
        assert found.loc[("transformer", seed, s.INITIAL), "censored"]
        assert not found.loc[("transformer", seed, s.TRAINED), "censored"]
    assert (found[["shortest", "longest"]].drop_duplicates().to_numpy() == [[1, 256]]).all()
    # With the norm at the logits the norm falls faster: at distance 2 it is a half of what it would be.
    assert (half_distances(runs).query("phase == 'trained'")["half_distance"] < 2).all()


def test_relative_norms_of_what_vanished_are_missing_not_zero() -> None:
    rows = gradient_rows({"lstm": (3.0, 3.0)}, seeds=1)
    for row in rows:
        if row["metric"] == s.GRADIENT_NORM[s.TRAINED]:
            row["value"] = 0.0
    found = curves(table(rows)).groupby("phase")
    assert found.get_group(s.TRAINED)[["relative_norm", "relative_share"]].isna().all(axis=None)
    initial = found.get_group(s.INITIAL)
    assert initial["at"].tolist() == list(DISTANCES)
    assert initial["relative_norm"].iloc[0] == 1
    assert initial["relative_norm"].iloc[-1] == 0
    assert half_distances(table(rows)).query("phase == 'trained'")["half_distance"].isna().all()


# --- the claim -------------------------------------------------------------------------------------------------------
def test_a_gradient_that_reaches_far_and_one_that_does_not() -> None:
    found = entry(table(gradient_rows({"lstm": (3.0, 4.0), "transformer": (48.0, 40.0)})))
    assert found.verdict is Verdict.SUPPORTED
    assert found.effect.estimate == pytest.approx(10)  # the phase that is less sure: 40 / 4, not 48 / 3
    assert 9 < found.effect.low < found.effect.high < 11
    assert found.effect.n == 5
    assert len(found.runs) == 10
    assert found.why == ""
    assert [part[0] for part in found.parts] == ["the initial weights, needle", "the trained weights, needle"]
    assert "at initialisation after 3.0 tokens [" in found.clause
    assert "after training after 4.0 tokens [" in found.clause
    assert "at least" not in found.clause


@pytest.mark.parametrize(
    ("lstm", "transformer", "expected"),
    [
        (3.0, 3.0, Verdict.REFUTED),
        (30.0, 3.0, Verdict.REFUTED),
        (3.0, 4.5, Verdict.UNDECIDED),  # 1.5 times: neither 2 nor 1.1
        (3.0, 7.0, Verdict.SUPPORTED),
        (3.0, STAYS, Verdict.SUPPORTED),  # at least 85 times
        (STAYS, 3.0, Verdict.REFUTED),  # at most 1 / 85
        (250.0, STAYS, Verdict.UNDECIDED),  # at least 1.02 times, which refutes nothing
        (STAYS, STAYS, Verdict.UNDECIDED),
    ],
)
def test_sides_and_bounds(lstm: float, transformer: float, expected: Verdict) -> None:
    found = entry(table(gradient_rows({"lstm": (lstm, lstm), "transformer": (transformer, transformer)})))
    assert found.verdict is expected
    ratio = min(transformer, 256) / min(lstm, 256)
    assert found.effect.estimate == pytest.approx(ratio, rel=0.01)


def test_a_bound_is_called_one() -> None:
    far = entry(table(gradient_rows({"lstm": (3.0, 3.0), "transformer": (STAYS, 12.0)})))
    assert far.verdict is Verdict.SUPPORTED
    assert far.effect.estimate == pytest.approx(4)
    assert "not within 256 tokens in the Transformer (at least 85.3 times [" in far.clause
    assert "after 12.0 tokens" in far.clause
    assert "(4.00 times [" in far.clause
    assert far.why == "the initial weights, needle: at least that, norms stay above half up to distance 256"
    near = entry(table(gradient_rows({"lstm": (STAYS, STAYS), "transformer": (3.0, 3.0)})))
    assert "not within 256 tokens in the LSTM and after 3.0 tokens" in near.clause
    assert "(at most 0.01 times [" in near.clause
    neither = entry(table(gradient_rows({"lstm": (STAYS, STAYS), "transformer": (STAYS, STAYS)})))
    assert "no bound" in neither.why


def test_what_training_changes_is_the_condition() -> None:
    found = entry(table(gradient_rows({"lstm": (3.0, 20.0), "transformer": (48.0, 20.0)})))
    assert found.verdict is Verdict.CONDITIONAL
    assert found.why == "holds on the initial weights, needle; not on the trained weights, needle"


def test_what_is_open_is_named_and_its_number_shown() -> None:
    found = entry(table(gradient_rows({"lstm": (3.0, 20.0), "transformer": (48.0, 30.0)})))
    assert found.verdict is Verdict.UNDECIDED
    assert found.effect.estimate == pytest.approx(1.5)
    assert found.why == "supported elsewhere, undecided at the trained weights, needle"


def test_four_seeds_decide_nothing() -> None:
    found = entry(table(gradient_rows({"lstm": (3.0, 3.0), "transformer": (48.0, 48.0)}, seeds=4)))
    assert found.verdict is Verdict.UNDECIDED
    assert "five are the least" in found.why
    assert found.effect.estimate == pytest.approx(16)


def test_initial_weights_alone_do_not_decide() -> None:
    """The claim is one on both phases: where a model is not trained, or nothing was measured, it is open."""
    halves = {"lstm": (3.0, 20.0), "transformer": (48.0, 20.0)}
    runs = table(gradient_rows(halves, accuracy={"lstm": 0.6}))
    found = entry(runs)
    assert found.verdict is Verdict.UNDECIDED
    assert [part[0] for part in found.parts] == ["the initial weights, needle"]
    assert found.condition == "supported at the initial weights, nothing counts at the trained weights"
    assert [str(one) for one in found.left_out] == ["LSTM is not trained on needle: 60.0 % at distance 1 already"]
    assert found.effect.estimate == pytest.approx(16)
    unlike = table(gradient_rows(halves))
    alone = entry(unlike[unlike["metric"] != s.GRADIENT_NORM[s.INITIAL]])
    assert (alone.verdict, alone.why) == (
        Verdict.UNDECIDED,
        "refuted at the trained weights, nothing counts at the initial weights",
    )
    # Another task on which both are trained: then both phases have spoken.
    trained = gradient_rows({"lstm": (3.0, 3.0), "transformer": (48.0, 48.0)}, task="other")
    assert entry(pd.concat([runs, table(trained)])).verdict is Verdict.SUPPORTED


def test_gates_sizes_and_lone_models_keep_it_open() -> None:
    halves = {"lstm": (3.0, 3.0), "transformer": (48.0, 48.0)}
    runs = table(gradient_rows(halves))
    gated = runs.assign(gates=runs["gates"].where(runs["model"] != "lstm", "padding: differs"))
    assert entry(gated).verdict is Verdict.NOT_MEASURED
    off = runs.assign(value=runs["value"].where(runs["metric"] != s.MATCH_ERROR, 0.02))
    assert entry(off).verdict is Verdict.NOT_MEASURED
    assert "off its budget" in entry(off).why
    assert entry(table(gradient_rows({"lstm": (3.0, 3.0)}))).verdict is Verdict.NOT_MEASURED


def test_the_only_variant_of_a_family_stands_for_it() -> None:
    found = entry(table(gradient_rows({"lstm": (3.0, 3.0), "transformer(positions=rotary)": (48.0, 48.0)})))
    assert found.verdict is Verdict.SUPPORTED


def test_what_was_measured_in_sentences() -> None:
    halves = {"lstm": (3.0, 3.0), "lstm_attention": (4.0, STAYS), "transformer": (STAYS, 32.0)}
    runs = table(gradient_rows(halves, sure=0.5))
    answers = claims.folklore(runs, claims.ledger(runs))
    initial, trained, share = answers[1].findings["2.4"]
    assert initial.sentence.startswith(
        "needle, at initialisation: the norm of the gradient falls to half of that at distance 1 after 3.0 tokens ["
    )
    assert "not within 256 tokens in the Transformer (1 [1, 1] left at 256)" in initial.sentence
    assert initial.numbers["half-distance, lstm_attention"].estimate == pytest.approx(4)
    assert initial.numbers["left, lstm"].estimate == 0
    assert trained.numbers["half-distance, transformer"].estimate < 4  # surer with the distance, by its square root
    assert share.numbers["half-distance, transformer"].estimate == pytest.approx(32)
    assert share.numbers["left, lstm_attention"].estimate == pytest.approx(1)
    assert "what arrives of the gradient at the logits falls to half" in share.sentence


# --- the figure ------------------------------------------------------------------------------------------------------
def drawn(figure: Figure, title: str, model: str) -> tuple[list[float], list[float], list[float]]:
    """Places and values of a model's line in the panel of that title, and the places of its crosses."""
    (ax,) = (ax for ax in figure.axes if ax.get_title(loc="left") == title)
    line, crosses = (line for line in ax.lines if line.get_color() == s.MODEL_COLORS[model])
    assert crosses.get_marker() == "x"
    places = [np.asarray(data).tolist() for data in (line.get_xdata(), line.get_ydata(), crosses.get_xdata())]
    return places[0], places[1], places[2]


def test_the_reach_of_gradients_is_drawn() -> None:
    halves = {"lstm": (4.0, 4.0), "transformer": (STAYS, STAYS)}
    figure = inside.gradient_reach(table(gradient_rows(halves, sure=1.0)))
    assert figure is not None
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["at initialisation", "after training", "after training, over the logits'"]
    assert all(ax.get_xscale() == ax.get_yscale() == "log" for ax in figure.axes)
    at, values, crosses = drawn(figure, titles[0], "lstm")
    assert at == [1, 2, 4, 8]  # from 16 on a seed has vanished, or all have
    assert values == pytest.approx([1, 0.75, 0.5, 0.25], abs=0.005)
    assert crosses == [16, 32, 64, 128, 256]
    assert drawn(figure, titles[0], "transformer") == (list(DISTANCES), pytest.approx([1] * 9), [])
    assert drawn(figure, titles[1], "transformer")[1] == pytest.approx([1 / at for at in DISTANCES])
    assert drawn(figure, titles[2], "transformer")[1] == pytest.approx([1] * 9)
    two = inside.gradient_reach(table(gradient_rows(halves), gradient_rows(halves, task="needle(max_noise=9)")))
    assert two is not None
    assert two.axes[3].get_title(loc="left") == "needle(max_noise=9)\nat initialisation"
    assert inside.gradient_reach(table(gradient_rows(halves))[:0]) is None


def test_the_models_of_gradients_runs_stand_in_the_models_table() -> None:
    found = tables.models_table(table(gradient_rows({"lstm": (3.0, 3.0)})))
    assert found[["task", "model", "matching"]].to_numpy().tolist() == [["needle", "lstm", "matched"]]
