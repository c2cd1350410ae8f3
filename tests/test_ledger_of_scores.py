"""Verdicts on scores, on tables whose truth is put in: families 2, 3 and 5, equal cost, the gain from data."""

import math
import re
from typing import Any

import numpy as np
import pandas as pd
import pytest
from ledger_runs import (
    HARDWARE,
    around,
    beyond,
    closing,
    data_sizes,
    entry,
    gradient_rows,
    learning,
    recall,
    run_rows,
    table,
    task_rows,
    verdict,
    with_positions,
)

from analysis import claims
from analysis.claims.data import DataCurve
from analysis.claims.rules import Verdict
from experiments import schema as s


# --- 2: dependencies -------------------------------------------------------------------------------------------------
def test_distance_and_items() -> None:
    runs = table(recall("recall", 0.4, 0.9), recall("copy", 0.5, 0.8))
    for claim in ("2.1", "2.2"):
        found = entry(runs, claim)
        assert found.verdict is Verdict.SUPPORTED
        assert found.effect.estimate == pytest.approx(0.4)
        assert len(found.runs) == 20
        assert [part[2] for part in found.parts] == [Verdict.SUPPORTED] * 2
        axis = {"2.1": "distance", "2.2": "pairs"}[claim]
        assert [part[0] for part in found.parts] == [f"copy, {axis} 64", f"recall, {axis} 64"]
    assert entry(runs, "2.1").clause.startswith(
        "in range at the farthest distance (64), the Transformer is ahead by 40.0 "
    )
    nearer = [row | {"at": 32} if row["at"] == 64 else row for row in recall("copy", 0.5, 0.8)]
    clause = entry(table(nearer, recall("recall", 0.4, 0.9)), "2.2").clause
    assert clause.startswith("with the most items to keep (32 to 64), the Transformer is ahead")
    assert verdict(table(recall("recall", 0.8, 0.81)), "2.1") == "tie"
    assert verdict(table(recall("recall", 0.9, 0.5)), "2.1") == "refuted"
    assert verdict(table(recall("recall", 0.9, 0.5), recall("copy", 0.4, 0.9)), "2.1") == "conditional"
    assert verdict(table(recall("recall", 0.4, 0.9, seeds=3)), "2.1") == "undecided"


@pytest.mark.parametrize("claim", ["2.1", "2.2"])
def test_in_range_the_majority_of_the_tasks_must_agree(claim: str) -> None:
    ahead, equal = recall("a", 0.3, 0.9), [recall(name, 0.9, 0.9) for name in "bc"]
    assert verdict(table(ahead, recall("b", 0.3, 0.9), equal[1]), claim) == "supported"
    found = entry(table(ahead, *equal), claim)
    assert found.effect.low > 0.1  # pooled, it would be supported
    assert found.verdict is Verdict.CONDITIONAL
    axis = {"2.1": "distance", "2.2": "pairs"}[claim]
    assert found.condition == f"holds on a, {axis} 64; not on b, {axis} 64, c, {axis} 64"


def test_in_range_it_is_enough_to_be_no_better_and_out_of_range_the_lstm_must_lead() -> None:
    """By 3 points the Transformer is behind, give or take 5: neither a tie nor clearly 5 points worse."""
    scores = {"lstm": [0.95] * 5, "transformer": around(0.92, spread=0.05)}
    for claim, expected in (("2.1", "refuted"), ("2.2", "refuted"), ("2.3", "undecided")):
        rows = task_rows(
            "recall",
            dict.fromkeys(scores, [0.99] * 5),
            hardest=scores,
            longer=scores,
            measures="distance=distance items=pairs",
            language_class=s.REGULAR,
        )
        others = [beyond(name, of, 0.5, 0.5) for name, of in (("b", s.CONTEXT_FREE), ("c", s.CONTEXT_SENSITIVE))]
        found = entry(table(rows, *others), claim)
        assert found.parts[0][1] == "-3.0 points [-7.9, +1.9]"
        assert found.parts[0][2] == expected


def test_gates_and_matching_keep_runs_out() -> None:
    runs = table(recall("recall", 0.4, 0.9))
    gated = runs.assign(gates=runs["gates"].where(runs["model"] != "lstm", "padding: differs"))
    assert verdict(gated, "2.1") == "not measured"
    off = runs.assign(value=runs["value"].where(runs["metric"] != s.MATCH_ERROR, 0.02))
    found = entry(off, "2.1")
    assert found.verdict is Verdict.NOT_MEASURED
    assert "off its budget" in found.why
    larger = (runs["metric"] == s.BUDGET) & (runs["model"] == "lstm")
    found = entry(runs.assign(value=runs["value"].mask(larger, 200_000)), "2.1")
    assert found.verdict is Verdict.NOT_MEASURED
    assert [str(one) for one in found.left_out] == ["recall: the models differ in size"]
    assert found.left_out_briefly == "1 left out: models not matched"
    failed = runs.assign(
        status=[
            "FAILED" if m == "lstm" and n == 0 else "FINISHED" for m, n in zip(runs["model"], runs["seed"], strict=True)
        ]
    )
    assert verdict(failed, "2.1") == "undecided"  # four pairs are left


def test_what_fails_at_the_nearest_is_not_trained() -> None:
    runs = table(recall("recall", 0.4, 0.9))
    near = (runs["at"] == 1) & (runs["model"] == "lstm")
    found = entry(runs.assign(value=runs["value"].mask(near, 0.6)), "2.1")
    assert found.verdict is Verdict.NOT_MEASURED
    assert [str(one) for one in found.left_out] == ["LSTM is not trained on recall: 60.0 % at distance 1 already"]
    assert found.left_out_briefly == "1 left out: LSTM not trained"


def at_one_distance(distance: int, lstm: float, transformer: float, grid: str = "g") -> list[dict[str, Any]]:
    """Copying after one delay: nothing nearer was asked of this task."""
    name = s.metric(s.TEST, s.TOKEN_ACCURACY, "distance")
    scores = {"lstm": around(lstm), "transformer": around(transformer)}
    more = {"measures": "distance=distance", "grid": grid}
    return [
        row
        for model, of_seeds in scores.items()
        for seed, score in enumerate(of_seeds)
        for row in run_rows(s.LEARN, f"copy(delay={distance})", model, seed, [(name, distance, score)], **more)
    ]


def test_the_nearest_is_that_of_all_settings_of_a_task() -> None:
    near, distant = at_one_distance(10, 0.98, 0.98), at_one_distance(1000, 0.3, 0.98)
    found = entry(table(near, distant), "2.1")
    assert [(where, str(side)) for where, _, side in found.parts] == [
        ("copy(delay=10), distance 10", "tie"),
        ("copy(delay=1000), distance 1000", "supported"),
    ]
    assert not found.left_out
    alone = entry(table(distant), "2.1")
    assert alone.left_out_briefly == "1 left out: LSTM not trained"
    elsewhere = entry(table(at_one_distance(10, 0.98, 0.98, grid="another"), distant), "2.1")
    assert elsewhere.left_out_briefly == "1 left out: LSTM not trained"


def test_a_mean_of_tasks_that_disagree_names_the_farthest_apart() -> None:
    """Behind by 17 points on one, ahead by 8 on two: neither, in the mean."""
    parts = [recall("a", 0.9, 0.73), recall("b", 0.9, 0.98), recall("c", 0.9, 0.98), recall("d", 0.9, 0.9)]
    found = entry(table(*parts), "2.1")
    assert found.verdict is Verdict.TIE
    assert "; the Transformer's lead is from -17.0 points [" in found.clause
    assert "] on a, distance 64 to +8.0 points [" in found.clause
    agreeing = entry(table(recall("a", 0.9, 0.9), recall("b", 0.9, 0.91)), "2.1")
    assert (agreeing.verdict, "lead is from" in agreeing.clause) == (Verdict.TIE, False)


def test_length_out_of_range_by_class_of_language() -> None:
    regular = beyond("parity", s.REGULAR, 0.99, 0.55)
    free, sensitive = beyond("reverse", s.CONTEXT_FREE, 0.9, 0.6), beyond("sort", s.CONTEXT_SENSITIVE, 0.9, 0.5)
    found = entry(table(regular, free, sensitive), "2.3")
    assert found.verdict is Verdict.REFUTED
    assert [part[0] for part in found.parts] == [
        "regular languages",
        "context-free languages",
        "context-sensitive languages",
    ]
    assert found.effect.estimate == pytest.approx(-0.30)  # of the class that is the least sure
    assert "out of range on regular languages the LSTM is ahead by 44.0 points" in found.clause
    both = entry(table(regular, beyond("copy", s.CONTEXT_SENSITIVE, 0.3, 0.7)), "2.3")
    assert both.verdict is Verdict.CONDITIONAL
    assert both.condition == "holds on context-sensitive languages; not on regular languages"
    assert verdict(table(beyond("add_jump", "", 0.3, 0.7)), "2.3") == "not measured"  # what is new there is no length
    untrained = entry(table(beyond("parity", s.REGULAR, 0.99, 0.55, in_range=0.6)), "2.3")
    assert untrained.verdict is Verdict.NOT_MEASURED
    assert "Transformer is not trained on parity: 60.0 % in range" in untrained.why


def test_out_of_range_the_majority_of_a_class_must_agree() -> None:
    ahead = [beyond(name, of, 0.3, 0.9) for name, of in (("a", s.CONTEXT_FREE), ("b", s.CONTEXT_SENSITIVE))]
    one_of_three = [beyond("c", s.REGULAR, 0.1, 0.9), *(beyond(name, s.REGULAR, 0.9, 0.9) for name in "de")]
    assert verdict(table(*ahead, one_of_three[0]), "2.3") == "supported"
    found = entry(table(*ahead, *one_of_three), "2.3")
    assert found.verdict is Verdict.CONDITIONAL
    assert found.condition.startswith("regular languages: holds on c; not on d, e")


def test_one_class_of_language_does_not_decide_for_all() -> None:
    untrained = beyond("sort", s.CONTEXT_SENSITIVE, 0.9, 0.5, in_range=0.6)
    found = entry(table(beyond("parity", s.REGULAR, 0.99, 0.55), untrained), "2.3")
    assert found.verdict is Verdict.UNDECIDED
    assert found.condition == "refuted elsewhere, undecided at context-free languages, context-sensitive languages"
    assert found.effect.estimate == pytest.approx(-0.44)
    assert found.clause.startswith("out of range on regular languages the LSTM is ahead by 44.0 points")
    assert found.clause.endswith("on 1 task")


def test_tasks_that_differ_within_a_class_are_named() -> None:
    opposite = beyond("parity", s.REGULAR, 0.9, 0.6), beyond("even_pairs", s.REGULAR, 0.5, 0.9)
    found = entry(table(*opposite, beyond("reverse", s.CONTEXT_FREE, 0.9, 0.6)), "2.3")
    assert found.verdict is Verdict.CONDITIONAL
    assert found.condition.startswith("regular languages: holds on even_pairs; not on parity; refuted elsewhere")


def test_every_kind_of_position_is_ruled_on_by_itself() -> None:
    """Against the same runs of the LSTM: they are no further tasks."""
    rows = beyond("parity", s.REGULAR, 0.9, 0.5)
    found = entry(table(rows, with_positions(rows, longer=0.49)), "2.3")
    assert found.verdict is Verdict.CONDITIONAL
    assert found.condition == (
        "holds on regular languages with Transformer (positions=alibi); not on regular languages with Transformer"
    )
    assert [part[0] for part in found.parts] == [
        "regular languages with Transformer",
        "regular languages with Transformer (positions=alibi)",
        "context-free languages",
        "context-sensitive languages",
    ]
    assert found.parts[0][1].startswith("-40.0 points")
    assert found.parts[1][1].startswith("+9.0 points")
    assert "on regular languages with Transformer (positions=alibi) the Transformer is ahead by 9.0" in found.clause
    assert len(found.runs) == 15


def test_only_lengths_that_both_models_have_are_compared() -> None:
    rows = beyond("parity", s.REGULAR, 0.9, 0.5)
    for row in rows:
        if row["metric"] == s.metric(s.LONGER, s.TOKEN_ACCURACY, s.LENGTH) and row["at"] == 100:
            row["value"] = 0.0  # of the LSTM; the Transformer was not measured there
    shorter = [row for row in rows if row["model"] == "lstm" or row["at"] != 100]
    found = entry(table(shorter), "2.3")
    assert found.effect.estimate == pytest.approx(-0.40)
    one_seed = [row for row in rows if row["model"] == "lstm" or row["at"] != 100 or row["seed"] != 3]
    assert entry(table(one_seed), "2.3").effect.estimate == pytest.approx(-0.40)
    whole = [row for row in rows if row["model"] == "lstm" or row["at"] is None]  # without lengths: the whole split
    assert entry(table(whole), "2.3").effect.estimate == pytest.approx(-0.40)


# --- 3: attention ----------------------------------------------------------------------------------------------------
def test_attention_closes_the_gap_or_does_not() -> None:
    found = entry(closing(0.95), "3.1")
    assert found.verdict is Verdict.SUPPORTED
    assert found.effect.estimate == pytest.approx(0.45 / 0.48)
    assert found.effect.low > 0.5
    assert verdict(closing(0.6), "3.1") == "refuted"
    assert verdict(closing(0.95, 0.55), "3.1") == "not measured"  # no gap of 10 points
    untrained = entry(closing(0.7, 0.8), "3.1")
    assert untrained.verdict is Verdict.NOT_MEASURED
    assert "not trained" in untrained.why


def test_each_task_shows_the_share_of_its_own_gap() -> None:
    """Which is not what is tested, the part that is closed minus half of the gap."""
    scores = {"lstm": around(0.5), "lstm_attention": around(0.9, shift=1), "transformer": around(0.98, shift=3)}
    whole = scores | {"lstm_attention": scores["transformer"]}
    found = entry(table(task_rows("recall", scores), task_rows("copy", whole)), "3.1")
    (copy, all_of_it, _), (recall, part, _) = found.parts
    assert (copy, all_of_it) == ("copy", "100 % [100, 100]")
    assert recall == "recall"
    assert part.startswith("83 % [")  # 0.40 of 0.48; half of it less is 0.16


def test_the_interval_of_the_share_says_what_its_verdict_says() -> None:
    rng = np.random.default_rng(5)
    seen = set()
    for _ in range(20):
        attention = list(rng.normal(rng.uniform(0.6, 0.9), 0.05, 5))
        scores = {"lstm": around(0.5), "lstm_attention": attention, "transformer": around(0.98, shift=3)}
        found = entry(table(task_rows("recall", scores)), "3.1")
        seen.add(found.verdict)
        side = Verdict.SUPPORTED if found.effect.low > 0.5 else Verdict.REFUTED if found.effect.high < 0.5 else None
        assert found.verdict is (side or Verdict.UNDECIDED)
    assert seen == {Verdict.SUPPORTED, Verdict.REFUTED, Verdict.UNDECIDED}


# --- 4: scores at equal cost, and from more data ---------------------------------------------------------------------
QUARTERS = [f"{share}% of the {clock}" for clock in ("seconds", "FLOPs") for share in (25, 50, 75, 100)]


def test_equal_cost() -> None:
    found = entry(table(learning(0.4, 0.8)), "4.3")
    assert found.verdict is Verdict.SUPPORTED
    assert [part[0] for part in found.parts] == QUARTERS
    assert found.clause == (
        "the Transformer's lead is at equal seconds +10.0 points [+10.0, +10.0] at 25% (1 task) and"
        " +40.0 points [+40.0, +40.0] at 100% (1 task) of the budget, at equal FLOPs +10.0 points [+10.0, +10.0]"
        " at 25% (1 task) and +40.0 points [+40.0, +40.0] at 100% (1 task) of the budget"
    )
    assert verdict(table(learning(0.8, 0.4)), "4.3") == "refuted"
    # Twice as slow, the Transformer is at half of its curve when the LSTM is at its end.
    slow = entry(table(learning(0.4, 0.8, slow=2.0)), "4.3")
    assert slow.parts[3][1].startswith("+0.0 points")
    assert slow.verdict is Verdict.CONDITIONAL


def test_equal_cost_of_models_that_are_not_trained() -> None:
    found = entry(table(learning(0.4, 0.8, in_range=0.89)), "4.3")
    assert found.verdict is Verdict.NOT_MEASURED
    assert found.left_out_briefly == "1 left out: neither is trained"
    rows = learning(0.4, 0.8)
    for row in rows:
        if row["metric"] == s.metric(s.TEST, s.TOKEN_ACCURACY) and row["model"] == "lstm":
            row["value"] = 0.6
    found = entry(table(rows, learning(0.4, 0.8, task="copy")), "4.3")
    assert found.verdict is Verdict.SUPPORTED
    assert len(found.runs) == 10
    assert found.why == "LSTM is not trained on recall: 60.0 % in range"


def test_a_quartile_counts_a_task_only_with_all_its_seeds() -> None:
    found = entry(table(learning(0.4, 0.8), learning(0.4, 0.8, task="copy", late=(4,))), "4.3")
    assert found.verdict is Verdict.SUPPORTED
    assert "at equal FLOPs +10.0 points [+10.0, +10.0] at 25% (1 task) and" in found.clause
    assert "at 100% (2 tasks) of the budget" in found.clause
    # On no task: then that quartile is open, and with it the claim.
    found = entry(table(learning(0.4, 0.8, seeds=6, late=(4,))), "4.3")
    assert found.verdict is Verdict.UNDECIDED
    assert found.why == "supported elsewhere, undecided at 25% of the seconds, 25% of the FLOPs"
    assert "at equal seconds +20.0 points [+20.0, +20.0] at 50% (1 task) and" in found.clause
    assert found.effect.estimate == pytest.approx(0.2)
    few = entry(table(learning(0.4, 0.8, seeds=4)), "4.3")
    assert few.clause == "no task has five seeds at equal cost"
    assert few.why == "4 seeds or repeats; five are the least for a verdict"


def test_seconds_of_several_machines_are_not_equal() -> None:
    found = entry(table(learning(0.4, 0.8, elsewhere="another processor")), "4.3")
    assert found.verdict is Verdict.UNDECIDED
    assert "seconds" not in found.clause
    assert "+10.0 points [+10.0, +10.0] at 25% (1 task)" in found.clause
    assert found.condition == f"supported elsewhere, undecided at {', '.join(QUARTERS[:4])}"
    assert [str(one) for one in found.left_out] == [
        f"recall at equal seconds: runs on {HARDWARE} and another processor",
        "at equal seconds no task counts",
    ]
    assert found.left_out_briefly == "2 left out: seconds of several machines, nothing at equal seconds"


def test_the_gain_from_data() -> None:
    found = entry(table(data_sizes(0.05, 0.10)), "4.4")
    assert found.verdict is Verdict.SUPPORTED
    assert found.effect.estimate == pytest.approx(0.05, abs=0.002)
    assert re.search(r"on g2p_english \(the fitted lines cross at [34],\d{3} sequences\)", found.clause)
    assert verdict(table(data_sizes(0.10, 0.05)), "4.4") == "refuted"
    far = entry(table(data_sizes(0.05, 0.07, ahead=0.2)), "4.4")
    assert far.verdict is Verdict.UNDECIDED
    assert "cross beyond the data, at " in far.why


def test_of_several_sizes_of_training_set_the_largest_counts_but_in_the_claim_on_them() -> None:
    rows: list[dict[str, Any]] = []
    for examples, lstm in ((1000, 0.2), (4000, 0.4), (16_000, 0.9)):
        made = recall(f"recall(examples={examples})", lstm, 0.9)
        sizes = {row["run_id"]: row | {"metric": s.TRAINING_SEQUENCES, "value": examples} for row in made}
        rows += [*made, *sizes.values()]
    found = entry(table(rows), "2.1")
    assert [part[0] for part in found.parts] == ["recall(examples=16000), distance 64"]
    assert found.verdict is Verdict.TIE
    endless = recall("recall", 0.5, 0.9)
    assert [part[0] for part in entry(table(rows, endless), "2.1").parts] == ["recall, distance 64"]
    elsewhere = [row | {"grid": "other", "run_id": f"{row['run_id']} other"} for row in endless]
    assert len(entry(table(rows, elsewhere), "2.1").parts) == 2
    assert len(entry(table(rows), "4.4").runs) == 30


def test_curves_that_are_nearly_parallel_cross_nowhere() -> None:
    sizes = [1000.0, 2000.0, 4000.0, 8000.0]
    lstm = pd.DataFrame([[0.5, 0.4, 0.3, 0.2]] * 5, columns=sizes)
    steeper = lstm + 0.1 - 1e-16 * np.arange(4)
    assert DataCurve("words", lstm, steeper, ()).crossover in (math.inf, pytest.approx(math.nan, nan_ok=True))
    for constant in np.linspace(0.01, 0.3, 50):  # apart by rounding alone
        assert not DataCurve("words", lstm, lstm + constant, ()).crossover < 1e9


def test_one_size_of_training_set_with_a_model_off_its_budget_leaves_the_task_out() -> None:
    rows = data_sizes(0.05, 0.10)
    off = [
        row | {"value": 0.2}
        if (row["task"], row["model"], row["metric"]) == ("g2p_english(words=2000)", "lstm", s.MATCH_ERROR)
        else row
        for row in rows
    ]
    found = entry(table(off), "4.4")
    assert found.verdict is Verdict.NOT_MEASURED
    assert found.why == "g2p_english(words=2000): LSTM is +20.0% off its budget"


def test_data_sizes_of_two_grids_are_told_apart() -> None:
    rows = data_sizes(0.05, 0.10)
    again = [row | {"grid": "again", "run_id": f"{row['run_id']} again"} for row in rows]
    clause = entry(table(rows, again), "4.4").clause
    assert "on g2p_english (again)" in clause
    assert "on g2p_english (grid)" in clause


# --- 5: components ---------------------------------------------------------------------------------------------------
def test_components() -> None:
    scores = {
        "transformer": around(0.95),
        "transformer(positions=none)": around(0.5, shift=1),
        "transformer(num_heads=1)": around(0.95, shift=2),
    }
    runs = table(task_rows("reverse", scores), task_rows("copy", scores))
    ids = [one.claim.id for one in claims.ledger(runs) if one.claim.family == "5"]
    assert ids == ["5.transformer: num_heads=1", "5.transformer: positions=none"]
    assert verdict(runs, ids[1]) == "supported"
    assert verdict(runs, ids[0]) == "tie"
    untrained = table(task_rows("reverse", {m: [v - 0.3 for v in values] for m, values in scores.items()}))
    assert verdict(untrained, ids[1]) == "not measured"


def test_a_component_is_held_against_the_full_model_of_the_grid_though_it_failed() -> None:
    labels = ("transformer(num_heads=8)", *(f"transformer(num_heads=8, {change})" for change in CHANGES))
    rows = task_rows("reverse", {label: around(0.95) for label in labels})
    ids = [f"5.{labels[0]}: {change}" for change in CHANGES]
    for failed in (
        [row | {"status": s.FAILED} if row["model"] == labels[0] else row for row in rows],
        [row | {"gates": "padding: differs"} if row["model"] == labels[0] else row for row in rows],
    ):
        found = [one for one in claims.ledger(table(failed)) if one.claim.family == "5"]
        assert [one.claim.id for one in found] == ids
        assert {one.verdict for one in found} == {Verdict.NOT_MEASURED}


def test_a_component_that_matters_on_some_tasks_is_conditional_on_the_task() -> None:
    """Whatever its mean over tasks says."""
    scores = {"transformer": around(0.95), "transformer(positions=none)": around(0.35, shift=1)}
    equal = scores | {"transformer(positions=none)": around(0.95, shift=1)}
    found = entry(table(task_rows("reverse", scores), task_rows("copy", equal)), "5.transformer: positions=none")
    assert found.effect.low > 0.25
    assert (found.verdict, found.condition) == (Verdict.CONDITIONAL, "holds on reverse; not on copy")


CHANGES = ("norm=none", "positions=alibi", "positions=none")


def test_a_task_with_few_seeds_is_not_counted_in_words() -> None:
    scores = {"transformer": around(0.95), "transformer(positions=none)": around(0.5, shift=1)}
    few = {model: values[:4] for model, values in scores.items()}
    runs = table(task_rows("reverse", scores), task_rows("copy", scores), task_rows("recall", few))
    found = entry(runs, "5.transformer: positions=none")
    assert found.clause.endswith("on 2 tasks")
    assert (found.counting, len(found.parts)) == (2, 3)


# --- several models of a family --------------------------------------------------------------------------------------
@pytest.mark.parametrize("claim", ["2.1", "2.2", "2.3", "2.4", "3.1", "4.3", "4.4"])
def test_a_task_with_several_models_of_a_family_is_left_out_by_name(claim: str) -> None:
    rows = recall("recall", 0.4, 0.9) + beyond("parity", s.REGULAR, 0.99, 0.55) + learning(0.4, 0.8, task="copy")
    rows += task_rows("recall", {"lstm_attention": around(0.9)})
    rows += gradient_rows({"lstm": (3.0, 3.0), "transformer": (20.0, 20.0)})
    rows += data_sizes(0.05, 0.10)
    task = {"2.3": "parity", "2.4": "needle", "4.3": "copy", "4.4": "g2p_english"}.get(claim, "recall")
    rows = [row for row in rows if row["task"].startswith(task)]
    deep = [row | {"model": "lstm(layers=2)"} for row in rows if row["model"] == "lstm"]
    wide = [row | {"model": "lstm(layers=3)", "run_id": f"{row['run_id']}+"} for row in deep]
    others = [row for row in rows if row["model"] != "lstm"]
    found = entry(table(deep, wide, others), claim)
    assert found.verdict is Verdict.NOT_MEASURED
    assert [str(one) for one in found.left_out] == [
        f"{task}: several models of the family: LSTM (layers=2), LSTM (layers=3)"
    ]
    assert found.left_out_briefly == "1 left out: several models of the family"
    assert not entry(table(others), claim).left_out  # no LSTM: nothing was left out
    assert not entry(table(deep, wide), claim).left_out  # nor without a Transformer
    assert not entry(table(rows, wide), claim).left_out  # the plain one stands for the family
