import math

import pandas as pd
import pytest
import tracked_runs as truth
from ledger_runs import run_rows, table

from analysis import tables, units
from analysis.statistics import Interval
from experiments import schema as s


@pytest.fixture(scope="module")
def numbers(known: pd.DataFrame) -> pd.DataFrame:
    return tables.comparison(known)


def row(numbers: pd.DataFrame, task: str, metric: str, model: str) -> pd.Series:
    found = numbers[(numbers["task"] == task) & (numbers["metric"] == metric) & (numbers["model"] == model)]
    assert len(found) == 1
    return found.iloc[0]


@pytest.mark.parametrize("task", truth.TEST)
def test_means_over_seeds(numbers: pd.DataFrame, task: str) -> None:
    metric = "test/wer" if task == truth.G2P else "test/token_accuracy"
    for model, (a, b) in truth.TEST[task].items():
        found = row(numbers, task, metric, model)
        assert found["estimate"] == pytest.approx((a + b) / 2)
        half = truth.T1 * abs(a - b) / 2
        low, high = max((a + b) / 2 - half, 0), (a + b) / 2 + half
        high = high if task == truth.G2P else min(high, 1)  # no accuracy above 1
        assert (found["low"], found["high"], found["n"]) == (pytest.approx(low), pytest.approx(high), 2)
        assert found["group"] == tables.SCORE


def test_the_hardest_slice_is_the_farthest(numbers: pd.DataFrame) -> None:
    found = row(numbers, truth.RECALL, "test/token_accuracy_by_distance", "lstm")
    assert (found["axis"], found["at"], found["estimate"]) == ("distance", 64, pytest.approx(0.25))
    assert row(numbers, truth.RECALL, "test/token_accuracy_by_pairs", "lstm")["at"] == 8
    assert row(numbers, truth.G2P, "test/wer_by_length", "lstm")["estimate"] == pytest.approx(0.26)
    assert row(numbers, truth.PARITY, "longer/token_accuracy_by_length", "transformer")["at"] == 40
    assert row(numbers, truth.PARITY, "longer/token_accuracy", "transformer")["estimate"] == pytest.approx(0.51)


def test_costs(numbers: pd.DataFrame) -> None:
    # The median over a run, so that the lucky last point does not count: 900, 1000, 5000.
    assert row(numbers, truth.RECALL, s.TRAIN_TOKENS_PER_SECOND, "lstm")["estimate"] == pytest.approx(1000)
    assert row(numbers, truth.RECALL, s.PARAMETERS, "lstm")["estimate"] == 301_200
    assert row(numbers, truth.RECALL, s.MATCH_ERROR, "transformer")["estimate"] == pytest.approx(0.02)
    assert row(numbers, truth.RECALL, s.RUN_SECONDS, "lstm")["estimate"] == pytest.approx(math.sqrt(20 * 21))


def test_what_was_not_measured_has_no_row_and_a_dash(numbers: pd.DataFrame) -> None:
    parity = numbers[numbers["task"] == truth.PARITY]
    assert set(parity["model"]) == {"lstm", "transformer"}
    shown = tables.comparison_table(numbers)
    assert shown.header == ("task", "measure", "LSTM", "LSTM + attention", "Transformer", "seeds")
    assert tables.comparison_text(numbers) == shown.plain()
    missing = [cells for cells in shown.rows if cells[0] == truth.PARITY]
    assert len(missing) == 8
    assert {(cells[3], cells[5]) for cells in missing} == {("–", "2 / – / 2")}


def test_the_table_shows_the_numbers_and_the_best(numbers: pd.DataFrame) -> None:
    shown = tables.comparison_table(numbers, [tables.SCORE], overall=True)
    assert shown.rows[0] == (
        "associative_recall",
        "token accuracy, % ↑ · test",
        "62.0 [36.6, 87.4]",
        "96.0 [83.3, 100.0]",
        "99.0 [86.3, 100.0]",
        "2",
    )
    assert shown.rows[1][:3] == ("g2p(language=fre)", "word error rate, % ↓ · test", "13.0 [0.3, 25.7]")
    assert [r[1] for r in shown.rows[2:]] == ["token accuracy, % ↑ · test", "token accuracy, % ↑ · longer"]
    # Recall: the Transformer; G2P, where less is better: LSTM + attention; parity, twice: the LSTM.
    assert shown.best == {(0, 4), (1, 3), (2, 2), (3, 2)}


def test_tasks_of_the_first_columns_stand_first(known: pd.DataFrame) -> None:
    """A grid whose models have options comes after those whose models have none."""
    varied = known.assign(grid="a", run_id=known["run_id"] + "x", model=known["model"] + "(layers=2)")
    shown = tables.comparison_table(tables.comparison(pd.concat([varied, known])), [tables.SCORE], overall=True)
    with_plain = [cells[2:5] != ("–", "–", "–") for cells in shown.rows]
    assert with_plain == [True] * 4 + [False] * 4
    assert shown.best == {(0, 4), (1, 3), (2, 2), (3, 2), (4, 7), (5, 6), (6, 5), (7, 5)}


def test_all_equal_is_no_best(known: pd.DataFrame) -> None:
    level = known[(known["task"] == truth.PARITY) & (known["metric"] == "test/token_accuracy")].assign(value=0.75)
    assert tables.comparison_table(tables.comparison(level)).best == frozenset()


def test_grids_are_named_where_there_are_several(known: pd.DataFrame) -> None:
    other = known.assign(grid="again", run_id=known["run_id"] + "x")
    shown = tables.comparison_table(tables.comparison(pd.concat([known, other])), [tables.SCORE], overall=True)
    assert [cells[0] for cells in shown.rows[:1] + shown.rows[4:5]] == [
        "associative_recall (again)",
        "associative_recall (known)",
    ]
    assert len(shown.rows) == 8


def test_one_formatter_three_looks() -> None:
    table = tables.Table(("a<b", "n"), (("x|y", "1"), ("&", "2")), frozenset({1}), frozenset({(1, 1)}))
    assert table.plain().splitlines()[2:] == ["x|y      1", "&        2"]
    assert "| n\\|m " in tables.Table(("n|m",), (("1",),)).markdown()
    assert table.markdown().splitlines() == [
        "| a<b   |     n |",
        "|:------|------:|",
        "| x\\|y  |     1 |",
        "| &     | **2** |",
    ]
    page = table.html()
    assert page.startswith('<table class="sortable">')
    assert "a&lt;b" in page
    assert page.count('<th scope="col"') == page.count("</th>") == 2
    assert "<thead>" in page
    assert "&amp;" in page
    assert "<strong>2</strong>" in page


def test_matched_is_said_only_within_one_per_cent(known: pd.DataFrame) -> None:
    found = tables.models_table(known)
    assert len(found) == 11  # three models on three tasks but for one that failed, and swept; seeds fall together
    matching = found[found["task"] == truth.RECALL].set_index("model")["matching"]
    assert matching.to_dict() == {"lstm": "matched", "lstm_attention": "matched", "transformer": "not matched"}
    assert list(matching.index) == ["lstm", "lstm_attention", "transformer"]
    assert found["embedding"].dropna().unique().tolist() == [10_000]
    assert found["decoder"].isna().all()
    without = known[~known["metric"].isin([s.MATCH_ERROR, s.BUDGET])].assign(budget_of="")
    assert set(tables.models_table(without)["matching"]) == {"no budget"}


def test_the_models_of_a_sweep_alone(known: pd.DataFrame) -> None:
    found = tables.models_table(known[known["kind"] == s.EFFICIENCY])
    assert found["model"].tolist() == ["lstm", "lstm_attention", "transformer"]
    assert set(found["parameters"]) == {truth.BUDGET}


def test_a_budget_says_what_it_counts(known: pd.DataFrame) -> None:
    assert tables.models_as_table(tables.models_table(known)).header[1:7] == (
        *("model", "parameters", "budget", "budget of", "match error, %", "matching"),
    )
    words = "training FLOPs per token at length 64"
    learnt = known[known["kind"] == s.LEARN]
    spent = learnt.assign(budget_of=words, value=learnt["value"].where(learnt["metric"] != s.BUDGET, 1_234_567.89))
    found = tables.models_table(spent)
    assert list(found.columns[:8]) == [
        *("grid", "task", "model", "parameters", "budget", "budget_of", "match_error", "matching")
    ]
    assert set(found["budget_of"]) == {words}
    assert tables.models_as_table(found).rows[0][3:5] == ("1,234,568", words)
    without = learnt[~learnt["metric"].isin([s.MATCH_ERROR, s.BUDGET])].assign(budget_of="")
    assert tables.models_as_table(tables.models_table(without)).rows[0][3:7] == ("–", "–", "–", "no budget")


@pytest.mark.parametrize(
    ("error", "matching"), [(0.01, "matched"), (-0.01, "matched"), (0.0101, "not matched"), (-0.0101, "not matched")]
)
def test_the_edge_of_matching(known: pd.DataFrame, error: float, matching: str) -> None:
    learnt = known[known["kind"] == s.LEARN]
    moved = learnt.assign(value=learnt["value"].where(learnt["metric"] != s.MATCH_ERROR, error))
    assert set(tables.models_table(moved)["matching"]) == {matching}


def test_a_match_error_that_rounds_to_nothing_has_no_minus(known: pd.DataFrame) -> None:
    learnt = known[known["kind"] == s.LEARN]
    moved = learnt.assign(value=learnt["value"].where(learnt["metric"] != s.MATCH_ERROR, -1e-6))
    shown = tables.models_as_table(tables.models_table(moved))
    assert {row[shown.header.index("match error, %")] for row in shown.rows} == {"+0.00"}


def test_failures(known: pd.DataFrame, tracked: str) -> None:
    found = tables.failures(known)
    assert found[["model", "seed", "status", "reason", "later"]].to_numpy().tolist() == [
        ["lstm", 1, "KILLED", "killed", "finished"],
        ["lstm_attention", 0, "FAILED", "loss is NaN at step 40", ""],
    ]
    running = known.assign(status=known["status"].replace("FAILED", "RUNNING"))
    assert tables.failures(running)["status"].tolist() == ["KILLED"]  # a run under way has not failed


def test_a_failed_gate_is_a_failure(tracked: str) -> None:
    from analysis import runs

    found = tables.failures(runs.load(tracked, [truth.OTHER]))
    assert found[["model", "status", "reason"]].to_numpy().tolist() == [
        ["transformer", "FINISHED", "gate padding: differs by 0.3"]
    ]


def test_nothing_finished(known: pd.DataFrame) -> None:
    none = known[known["status"] == "FAILED"]
    assert tables.comparison(none).empty
    assert tables.comparison_table(tables.comparison(none)).rows == ()
    assert tables.models_table(none).empty
    assert len(tables.failures(none)) == 1


def test_numbers_in_words() -> None:
    accuracy, parameters = units.of("test/token_accuracy_by_pairs"), units.of(s.PARAMETERS)
    measured = Interval(0.12345, 0.1, 0.2, 3)
    assert accuracy.interval(measured) == "12.3 [10.0, 20.0]"
    assert accuracy.said(measured) == "12.3 % [10.0, 20.0]"
    assert accuracy.said(measured, "points") == "12.3 points [10.0, 20.0]"
    assert accuracy.interval(Interval(0.5, math.nan, math.nan, 1)) == "50.0"
    assert parameters.interval(Interval(300_000, 300_000, 300_000, 2)) == "300,000"
    assert accuracy.number(math.nan) == "–"
    assert (units.of("longer/per").direction, units.of("test/sequence_accuracy").direction) == (-1, 1)
    assert {name for name, q in units.SCORES.items() if q.lower_is_better} == s.LOWER_IS_BETTER
    assert units.in_order(["z", "transformer", "lstm(layers=2)", "lstm"]) == [
        "lstm",
        "lstm(layers=2)",
        "transformer",
        "z",
    ]
    assert units.model_name("transformer(layers=4)") == "Transformer (layers=4)"
    assert units.model_name("lstm_transformer") == "LSTM → Transformer"
    assert units.model_name("transformer_lstm(layers=2)") == "Transformer → LSTM (layers=2)"


def test_differences_in_words() -> None:
    accuracy, loss = units.of("test/token_accuracy").gap, units.of("test/loss").gap
    assert accuracy.interval(Interval(0.12345, -0.1, 0.2, 3)) == "+12.3 [-10.0, +20.0]"
    assert accuracy.number(-0.0001) == "+0.0"  # no minus before a zero
    assert accuracy.said(Interval(0.1, math.nan, math.nan, 1)) == "+10.0 points"
    assert loss.said(Interval(-0.5, -0.6, -0.4, 3)) == "-0.500 nats per token [-0.600, -0.400]"


def test_intervals_of_speeds_are_positive() -> None:
    """Of two seeds, whose logarithms are 1.1 apart, Student's interval of the mean itself would begin below 0."""
    points = {0: 500.0, 1: 1500.0}
    rows = [
        run_rows(
            s.LEARN, "copy", "lstm", seed, [(s.TRAIN_TOKENS_PER_SECOND, 100, value), (s.RUN_SECONDS, None, 1 / value)]
        )
        for seed, value in points.items()
    ]
    numbers = tables.comparison(table(*rows))
    speed, spent = (row(numbers, "copy", name, "lstm") for name in (s.TRAIN_TOKENS_PER_SECOND, s.RUN_SECONDS))
    assert speed["estimate"] == pytest.approx(math.sqrt(500 * 1500))
    half = truth.T1 * math.log(3) / 2
    assert math.log(speed["high"] / speed["estimate"]) == pytest.approx(half)
    assert math.log(speed["estimate"] / speed["low"]) == pytest.approx(half)
    assert spent["low"] == pytest.approx(1 / speed["high"])
