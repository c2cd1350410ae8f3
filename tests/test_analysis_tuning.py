"""Trials in the analysis: kept out of every comparison, and what is said of them. Tables whose truth is put in."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from example_runs import store
from hypothesis import given
from hypothesis import strategies as st
from ledger_runs import Point, Rows, gradient_rows, run_rows, table, task_rows

from analysis import ablations, claims, growth, plots, published, reach, report, runs, sources, tables, tuning
from analysis.evidence import gated_out
from analysis.recommend import Need, recommend
from analysis.statistics import expected_maximum
from experiments import schema as s

SELECTED = s.metric(s.SELECTED, s.TOKEN_ACCURACY)
SCORES = {"lstm": (0.5, None, 0.7, 0.6), "transformer": (0.9, 0.8, 0.95, 0.95)}  # of trials 1 to 4; None: it failed


def trial(model: str, number: int, score: float | None, task: str = "reverse", **more: Any) -> Rows:
    """A trial: like a run of the final phase, with a test score that nothing else has."""
    headline = more.get("headline", s.TOKEN_ACCURACY)
    points = [(s.metric(s.TEST, headline), None, 0.123), (s.metric(s.SELECTED, headline), None, score or 0.0)]
    name = f"{more.get('grid', 'grid')} {task} {model} {number} {score}"
    same: dict[str, Any] = {"run_id": name, "key": name, "phase": s.TUNING, "trial": number, "tuned": f"rate={number}"}
    if score is None:
        points = []
        same |= {"status": s.FAILED, "reason": "Diverged: the loss became nan", "gates": ""}
    return run_rows(s.LEARN, task, model, 100, points, **(same | more))


def trials() -> list[Rows]:
    return [trial(model, n, score) for model, scores in SCORES.items() for n, score in enumerate(scores, start=1)]


def finals(**chosen: int) -> list[Rows]:
    """Two seeds of each model with the settings of a trial."""
    return [
        task_rows("reverse", {model: (0.8, 0.9)}, phase=s.FINAL, trial=number, tuned=f"rate={number}")
        for model, number in chosen.items()
    ]


# --- the phases ------------------------------------------------------------------------------------------------------
COMPARED = {
    "results": runs.results,
    "superseded": runs.superseded,
    "gated_out": gated_out,
    "comparison": tables.comparison,
    "models_table": tables.models_table,
    "ledger": lambda table: claims.as_frame(claims.ledger(table)),
    "findings": lambda table: claims.findings_table(claims.folklore(table, claims.ledger(table))),
    "left_out": lambda table: pd.DataFrame({"sentence": claims.left_out(table)}),
    "effects": ablations.effects,
    "growth": growth.growth,
    "reached": reach.reached,
    "verify": lambda table: pd.DataFrame([vars(check) for check in published.verify(table)]).drop(columns="form"),
    "recommend": lambda table: pd.DataFrame({"because": recommend(table, Need(64, 64)).because}),
    **{plot.name: plot.data for plot in plots.PLOTS if plot is not plots.TUNING},
}


@pytest.fixture(scope="module")
def compared() -> pd.DataFrame:
    """With a variant, named parts of a test set, gradients, a profile, a failed gate and a run run again since."""
    name = s.of_category(s.metric(s.TEST, s.TOKEN_ACCURACY), "type", "hard")
    named = [run_rows(s.LEARN, "cogs", model, 0, [(name, None, 0.5)]) for model in ("lstm", "transformer")]
    variants = {"transformer": (0.9, 0.91), "transformer(positions=none)": (0.5, 0.5)}
    gated = run_rows(s.LEARN, "sort", "lstm", 0, [(SELECTED, None, 0.5)], gates="padding: differs by 0.3")
    gradients = gradient_rows({"lstm": (3.0, 20.0), "transformer": (20.0, 20.0)}, seeds=2)
    profiled = run_rows(s.PROFILE, "recall", "lstm", 0, [(s.PART_SECONDS["attention"], None, 0.5)], gates="")
    again = [
        run_rows(
            s.LEARN, "copy", "lstm", 0, [], run_id=f"on day {day}", start_time=pd.Timestamp(day, unit="D", tz="UTC")
        )
        for day in (0, 1)
    ]
    return pd.concat(
        [store(seeds=2), table(*named, task_rows("reverse", variants), gated, gradients, profiled, *again)]
    )


@pytest.fixture(scope="module")
def tuned(compared: pd.DataFrame) -> pd.DataFrame:
    """The same runs, and of each that learns a newer trial that got everything wrong and fails a gate."""
    learnt = compared[compared["kind"] == s.LEARN]
    tried = learnt.assign(
        run_id="trial of " + learnt["run_id"],
        key="trial of " + learnt["key"],
        phase=s.TUNING,
        trial=1,
        gates="padding: differs by 0.3",
        value=0.0,
        start_time=learnt["start_time"] + pd.Timedelta(days=1),
    )
    return pd.concat([compared, tried], ignore_index=True).astype(compared.dtypes.to_dict())


@pytest.mark.parametrize("name", COMPARED)
def test_trials_enter_no_comparison(name: str, compared: pd.DataFrame, tuned: pd.DataFrame) -> None:
    without, with_trials = COMPARED[name](compared), COMPARED[name](tuned)
    pd.testing.assert_frame_equal(with_trials.reset_index(drop=True), without.reset_index(drop=True))


def test_something_is_compared(compared: pd.DataFrame) -> None:
    """Else the test above compares nothing with nothing."""
    assert [name for name, compare in COMPARED.items() if compare(compared).empty] == []


def test_a_run_of_no_phase_is_compared() -> None:
    """Stores of before there was tuning know none."""
    whole = store(seeds=2)
    assert set(whole["phase"]) == {""}
    assert len(runs.results(whole)) == len(runs.results(whole.assign(phase=s.FINAL))) == len(whole)


def test_a_trial_that_failed_is_named_among_the_failures() -> None:
    (failed,) = tables.failures(table(*trials())).to_dict("records")
    assert failed["reason"] == "trial 2: Diverged: the loss became nan"
    assert (failed["model"], failed["seed"]) == ("lstm", 100)


def test_the_facts_of_a_report_tell_trials_from_runs() -> None:
    facts = report.facts(table(*trials(), *finals(lstm=3, transformer=3)))
    assert (facts["runs"], facts["tuning"], facts["seeds of each"]) == ("4 finished", "8 trials", "2")
    assert "tuning" not in report.facts(table(*finals(lstm=3)))


def test_tables_without_phases_hold_no_trials(tmp_path: Path) -> None:
    """They were written before there was tuning."""
    whole = store(seeds=2)
    for file in (tmp_path / "old.parquet", tmp_path / "old.csv"):
        runs.write(whole.drop(columns=["phase", "trial", "tuned"]), file)
        read = runs.read(file)
        assert list(read.columns) == list(runs.COLUMNS)
        assert len(runs.results(read)) == len(whole)
        assert tuning.trials(read).empty


def test_exported_tables_hold_all_trials(tmp_path: Path) -> None:
    """Those that failed as well: they count."""
    known = table(*trials(), *finals(lstm=3, transformer=3))
    sources.export(known, tmp_path)
    pd.testing.assert_frame_equal(tuning.choices(sources.read_results(tmp_path)), tuning.choices(known))


@pytest.mark.parametrize("apart", [False, True])
def test_of_a_grid_that_was_tuned_again_the_older_trials_are_not_exported(apart: bool, tmp_path: Path) -> None:
    """Whether both were in one store or the older ones are in the table that was exported before."""
    known = table(*trials(), *finals(lstm=3, transformer=3))
    again = known.assign(run_id="again " + known["run_id"], start_time=known["start_time"] + pd.Timedelta(hours=1))
    again = again[again["trial"] != 4]
    for exported in (known, again) if apart else (pd.concat([known, again]),):
        sources.export(exported, tmp_path)
    read = sources.fetch(tmp_path)
    fourth = known[(known["phase"] == s.TUNING) & (known["trial"] == 4)]
    assert set(read["run_id"]) == set(again["run_id"]) | set(fourth["run_id"])


# --- what is said of trials ------------------------------------------------------------------------------------------
def test_trials_and_what_was_chosen_of_them() -> None:
    known = table(*trials(), *finals(lstm=3, transformer=3))
    tried = tuning.trials(known)
    assert list(zip(tried["model"], tried["trial"], strict=True)) == [(m, n) for m in SCORES for n in (1, 2, 3, 4)]
    expected = [np.nan if score is None else score for scores in SCORES.values() for score in scores]
    np.testing.assert_array_equal(tried["score"].to_numpy(dtype=float), expected)
    found = tuning.choices(known).set_index("model")
    assert found[["trials", "failed", "chosen", "score", "settings"]].to_dict("index") == {
        "lstm": {"trials": 4, "failed": 1, "chosen": 3, "score": 0.7, "settings": "rate=3"},
        "transformer": {"trials": 4, "failed": 0, "chosen": 3, "score": 0.95, "settings": "rate=3"},
    }
    shown = tuning.choices_table(tuning.choices(known))
    assert shown.header[2:6] == ("trials", "failed", "pruned", "cost of trials, s")
    assert shown.rows == (
        ("reverse", "LSTM", "4", "1", "0", "–", "3", "token accuracy 70.0 %", "rate=3"),
        ("reverse", "Transformer", "4", "0", "0", "–", "3", "token accuracy 95.0 %", "rate=3"),
    )


def test_trials_that_were_ended_early_and_what_all_cost() -> None:
    """They are among the trials, have no score and did not fail; a cost that is not known of all is not known."""
    scores = {1: 0.5, 2: 0.7, 3: None, 4: 0.9}

    def tried(number: int, seconds: float | None, model: str) -> Rows:
        points: list[Point] = [(s.metric(s.VALIDATION, s.TOKEN_ACCURACY), 10, 0.95)]
        points += [] if seconds is None else [(s.RUN_SECONDS, None, seconds)]
        score = scores[number]
        points.append((s.PRUNED_STEP, None, 10.0) if score is None else (SELECTED, None, score))
        name = f"{model} {number}"
        more = {"run_id": name, "key": name, "phase": s.TUNING, "trial": number, "tuned": f"rate={number}"}
        return run_rows(s.LEARN, "reverse", model, 100, points, **more)

    lstm = [tried(number, 10.0 * number, "lstm") for number in scores]
    transformer = [tried(number, None if number == 4 else 1.0, "transformer") for number in scores]
    known = table(*lstm, *transformer, trial("lstm", 5, None), *finals(lstm=4, transformer=4))
    rows = tuning.trials(known).query("model == 'transformer'")
    np.testing.assert_array_equal(rows["score"].to_numpy(dtype=float), [0.5, 0.7, np.nan, 0.9])
    np.testing.assert_array_equal(rows["pruned"].to_numpy(dtype=float), [np.nan, np.nan, 10, np.nan])
    np.testing.assert_array_equal(rows["seconds"].to_numpy(dtype=float), [1, 1, 1, np.nan])
    found = tuning.choices(known).set_index("model")
    assert found[["trials", "failed", "pruned", "chosen", "score"]].to_dict("index") == {
        "lstm": {"trials": 5, "failed": 1, "pruned": 1, "chosen": 4, "score": 0.9},
        "transformer": {"trials": 4, "failed": 0, "pruned": 1, "chosen": 4, "score": 0.9},
    }
    assert found["seconds"].isna().all()  # of the trial that failed nothing is known
    costs = tuning.choices(table(*lstm, *transformer[:3])).set_index("model")["seconds"]
    assert costs.to_dict() == {"lstm": 100.0, "transformer": 3.0}
    shown = tuning.choices_table(tuning.choices(table(*lstm)))
    assert shown.rows == (("reverse", "LSTM", "4", "0", "1", "100", "–", "–", "–"),)
    best = tuning.expected(known).query("model == 'transformer'")["score"]
    assert best.to_list() == pytest.approx([(0.5 + 0.7 + 0.5 + 0.9) / 4, (3 * 0.9 + 2 * 0.7 + 0.5) / 6, 0.85, 0.9])


def test_of_trials_that_follow_from_each_other_the_first_so_many_count() -> None:
    """No choice of four trials by TPE could have been made without the one before."""
    found = tuning.expected(
        table(*(trial("lstm", n, x, sampler=s.TPE) for n, x in enumerate((0.4, None, 0.3, 0.8), 1)))
    )
    assert found["score"].to_list() == [0.4, 0.4, 0.4, 0.8]
    errors = [trial("lstm", n, x, sampler=s.TPE, headline=s.WER) for n, x in enumerate((0.4, 0.5, 0.3), 1)]
    assert tuning.expected(table(*errors))["score"].to_list() == [0.4, 0.4, 0.3]


def test_where_nothing_is_chosen_yet_nothing_is_said_to_be() -> None:
    found = tuning.choices_table(tuning.choices(table(*trials())))
    assert found.rows[0] == ("reverse", "LSTM", "4", "1", "0", "–", "–", "–", "–")
    nothing = table(task_rows("reverse", {"lstm": (0.8, 0.9)}))
    assert tuning.choices_table(tuning.choices(nothing)).rows == ()
    assert tuning.curves(nothing) is None


def test_of_a_trial_that_was_run_again_the_newest_counts() -> None:
    """It failed at first, or the ranges were others; one that was interrupted is not over."""
    later = pd.Timestamp(1, unit="s", tz="UTC")
    again = trial("lstm", 2, 0.4, start_time=later)
    stopped = trial("lstm", 5, 0.99, status="KILLED")
    tried = tuning.trials(table(*trials(), again, stopped)).query("model == 'lstm'")
    assert tried["score"].tolist() == [0.5, 0.4, 0.7, 0.6]


def test_how_much_the_models_were_tuned() -> None:
    scores = {"lstm": (0.8,), "transformer": (0.9,)}
    untuned = [task_rows("reverse", scores, grid="plain"), task_rows("copy", scores, grid="bare")]
    assert tuning.sentences(table(*trials(), *finals(lstm=3, transformer=3), *untuned)) == [
        "Grid grid: every model was tuned with 4 trials on each task.",
        "No model was tuned in bare, plain: they were run with the settings stated there.",
    ]
    fewer = [rows for rows in trials() if rows[0]["run_id"] != "grid reverse transformer 4 0.95"]
    other = task_rows("copy", {"lstm": (0.8,)})
    assert tuning.sentences(table(*fewer, other)) == [
        "Grid grid: the models were not tuned with equal numbers of trials: "
        "LSTM 0 on copy, LSTM 4 on reverse, Transformer 3 on reverse."
    ]


def test_the_expected_best_of_fewer_trials() -> None:
    """By hand; of the LSTM's the failed one counts as 0.5."""
    found = tuning.expected(table(*trials()))
    curves = {model: rows.set_index("trials")["score"] for model, rows in found.groupby("model")}
    assert curves["lstm"].to_list() == pytest.approx([0.575, (3 * 0.7 + 2 * 0.6 + 0.5) / 6, (3 * 0.7 + 0.6) / 4, 0.7])
    assert curves["transformer"].to_list() == pytest.approx([0.9, (5 * 0.95 + 0.9) / 6, 0.95, 0.95])
    errors = [trial("lstm", n, score, headline=s.WER) for n, score in enumerate((0.4, 0.1, None, 0.2), start=1)]
    assert tuning.expected(table(*errors))["score"].to_list() == pytest.approx([0.275, 1.1 / 6, 0.125, 0.1])
    lost = [trial("lstm", n, None) for n in (1, 2)]
    assert tuning.expected(table(*lost)).empty


def test_the_figure_has_a_panel_a_task_and_a_line_a_model() -> None:
    more = [trial("lstm", n, 0.1 * n, task="copy") for n in (1, 2, 3)]
    figure = tuning.curves(table(*trials(), *more))
    assert figure is not None
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["copy", "reverse"]
    lines = {ax.get_title(loc="left"): ax.get_lines() for ax in figure.axes}
    assert [len(line) for line in lines.values()] == [1, 2]
    (copy,) = lines["copy"]
    assert np.asarray(copy.get_xydata()).tolist() == [
        [1, pytest.approx(20)],
        [2, pytest.approx(80 / 3)],
        [3, pytest.approx(30)],
    ]
    assert {line.get_color() for line in lines["reverse"]} == {s.MODEL_COLORS[model] for model in SCORES}


def test_a_report_says_what_tuning_chose(tmp_path: Path) -> None:
    known = table(*trials(), *finals(lstm=3, transformer=3))
    page = report.write(known, tmp_path, title="Tuned", command="lvt report tuned").read_text(encoding="utf-8")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for found in (page, text):
        assert "Grid grid: every model was tuned with 4 trials on each task." in found
        assert "token accuracy 95.0 %" in found
        assert plots.TUNING.caption in found.replace("&#39;", "'")
    assert 'href="#tuning"' in page
    assert 'download="tuning.csv" href="data:text/csv;base64,' in page  # the page stands alone
    assert "## Tuning" in text
    assert (tmp_path / "figures" / "tuning.png").exists()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "figures" / "tuning.csv"), tuning.expected(known))
    assert pd.read_csv(tmp_path / "trials.csv")["score"].isna().sum() == 1
    plain = report.write(table(task_rows("reverse", {"lstm": (0.8, 0.9)})), tmp_path, title="", command="").read_text(
        encoding="utf-8"
    )
    assert 'id="tuning"' not in plain
    assert "No model was tuned in grid" in plain


# --- the statistic ---------------------------------------------------------------------------------------------------
@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=7))
def test_the_expected_maximum_is_the_mean_over_all_choices(values: list[float]) -> None:
    brute = [np.mean([max(chosen) for chosen in combinations(values, n)]) for n in range(1, len(values) + 1)]
    np.testing.assert_allclose(expected_maximum(values), brute, rtol=1e-9, atol=1e-9)


def test_the_expected_maximum_of_many() -> None:
    """Of n draws of a uniform distribution it is n / (n + 1), of n of its quantiles nearly so."""
    quantiles = (np.arange(1000) + 0.5) / 1000
    found = expected_maximum(quantiles)
    assert np.all(np.diff(found) >= 0)
    assert found[[0, 1, 9, 999]] == pytest.approx([1 / 2, 2 / 3, 10 / 11, 0.9995], abs=1e-3)
    assert expected_maximum([]).shape == (0,)
    with pytest.raises(ValueError, match="missing or not finite"):
        expected_maximum([0.1, float("nan")])
