"""How soon and how far: by hand, on tables small enough to see."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
import pytest

from analysis.reach import as_table, reach, reached, to_reach
from analysis.runs import tidy
from experiments import schema as s

Curve = Mapping[float, float]


def table(
    curves: Mapping[str, Curve], *, headline: str = s.TOKEN_ACCURACY, run: str = "r", **more: object
) -> pd.DataFrame:
    """One finished run with these metrics; a scalar is a curve at NaN."""
    same = {"run_id": run, "grid": "g", "key": run, "kind": s.LEARN, "task": "t", "model": "lstm", "seed": 0}
    same |= {"status": "FINISHED", "headline": headline, "start_time": pd.Timestamp(0, tz="UTC")} | more
    return tidy(
        same | {"metric": name, "axis": s.axis_of(name), "at": at, "value": value}
        for name, curve in curves.items()
        for at, value in curve.items()
    )


LEARNING: dict[str, Curve] = {
    "validation/token_accuracy": {10: 0.5, 20: 0.9, 30: 0.8, 40: 0.95},
    "validation/loss": {10: 2.0, 20: 1.0, 30: 0.5, 40: 0.6},
    s.TRAIN_TOKENS: {10: 100, 20: 200, 30: 300, 40: 400},
    s.TRAIN_SECONDS: {10: 1.5, 20: 3.0, 30: 4.5, 40: 6.0},
    s.TRAIN_FLOPS: {10: 1e6, 20: 2e6, 30: 3e6, 40: 4e6},
}


@pytest.mark.parametrize(
    ("threshold", "metric", "spent"),
    [
        (0.9, None, (20, 200, 3.0, 2e6)),  # it counts once reached, although it is lost again
        (0.91, None, (40, 400, 6.0, 4e6)),
        (0.1, None, (10, 100, 1.5, 1e6)),
        (0.6, s.LOSS, (30, 300, 4.5, 3e6)),  # from above
        (1.0, s.LOSS, (20, 200, 3.0, 2e6)),
    ],
)
def test_what_it_takes(threshold: float, metric: str | None, spent: tuple[float, ...]) -> None:
    (row,) = to_reach(table(LEARNING), threshold, metric).to_dict("records")
    assert (row["step"], row["tokens"], row["seconds"], row["flops"]) == spent
    assert (row["model"], row["metric"]) == ("lstm", metric or s.TOKEN_ACCURACY)


def test_what_is_never_reached_is_missing() -> None:
    (row,) = to_reach(table(LEARNING), 0.99).to_dict("records")
    assert all(math.isnan(row[column]) for column in ("step", "tokens", "seconds", "flops"))
    assert to_reach(table(LEARNING), 0.5, s.WER).empty  # not evaluated: no row at all
    without_flops = {name: curve for name, curve in LEARNING.items() if name != s.TRAIN_FLOPS}
    (row,) = to_reach(table(without_flops), 0.9).to_dict("records")
    assert (row["step"], row["tokens"]) == (20, 200)
    assert math.isnan(row["flops"])


def test_each_run_has_its_row() -> None:
    slow: dict[str, Curve] = {"validation/token_accuracy": {50: 0.9}, s.TRAIN_TOKENS: {50: 500}}
    both: pd.DataFrame = pd.concat(
        [table(LEARNING), table(slow, run="s", seed=1), table(slow, run="f", seed=2, status="FAILED")]
    )
    assert to_reach(both, 0.9)[["run_id", "step"]].to_numpy().tolist() == [["r", 20], ["s", 50]]


@pytest.mark.parametrize(
    ("test", "longer", "found"),
    [
        ({1: 1.0, 4: 0.95, 16: 0.9, 64: 0.2}, {}, (16, 1, 64)),
        ({1: 1.0, 4: 0.5, 16: 1.0}, {}, (1, 1, 16)),  # what lies behind a failure is no reach
        ({1: 0.89, 4: 1.0}, {}, (None, 1, 4)),
        ({10: 1.0, 20: 0.99}, {40: 0.95, 80: 0.9}, (80, 10, 80)),  # at least as far as was measured
        ({10: 1.0, 20: 0.99}, {40: 0.5, 80: 0.9}, (20, 10, 80)),
        ({10: 1.0, 20: 1.0}, {20: 0.5, 40: 1.0}, (20, 10, 20)),  # not out of range for its length
        ({}, {20: 1.0}, None),
    ],
)
def test_how_far(test: Curve, longer: Curve, found: tuple[float | None, float, float] | None) -> None:
    curves = {"test/token_accuracy_by_length": test, "longer/token_accuracy_by_length": longer}
    if found is None:
        assert reach(table(curves), "length").empty
        return
    (row,) = reach(table(curves), "length").to_dict("records")
    assert (None if math.isnan(row["reach"]) else row["reach"], row["smallest"], row["largest"]) == found
    assert reach(table(curves), "distance").empty
    assert reach(table(curves, headline=s.WER), "length").empty
    assert reach(table(curves, headline=s.WER), "length", s.TOKEN_ACCURACY)["axis"].tolist() == ["length"]


def test_the_share_that_holds_is_stated() -> None:
    curves: dict[str, Curve] = {"test/token_accuracy_by_pairs": {4: 0.8, 8: 0.6}}
    assert reach(table(curves), "pairs", holds=0.7)["reach"].tolist() == [4]


def test_the_table_shows_medians_and_how_many_got_there() -> None:
    def runs_of(model: str, soon: tuple[int, ...], far: tuple[int, ...]) -> list[pd.DataFrame]:
        """A run a seed: right from a step on (0: never), at lengths up to a length; of 10, 20 and 40."""
        return [
            table(
                {
                    "validation/token_accuracy": {at: float(0 < step <= at) for at in (100, 2000, 3000)},
                    s.TRAIN_SECONDS: {at: at / 100 for at in (100, 2000, 3000)},
                    s.TRAIN_FLOPS: {at: at * 1e9 for at in (100, 2000, 3000)},
                    "test/token_accuracy": {math.nan: 0.95},  # on no axis
                    "test/token_accuracy_by_length": {at: float(at <= length) for at in (10, 20)},
                    "longer/token_accuracy_by_length": {40: float(length >= 40)},
                },
                run=f"{model} {seed}",
                model=model,
                seed=seed,
            )
            for seed, (step, length) in enumerate(zip(soon, far, strict=True))
        ]

    found = reached(
        pd.concat(
            [
                *runs_of("lstm", (100, 2000, 3000), (40, 20, 0)),
                *runs_of("lstm_attention", (2000, 2000, 0), (40, 40, 0)),
                *runs_of("transformer", (100, 0, 0, 2000), (20, 0, 0, 10)),
            ]
        )
    )
    shown = as_table(found)
    assert shown.header == ("task", "measure", "LSTM", "LSTM + attention", "Transformer", "seeds")
    assert [row[1:] for row in shown.rows] == [
        ("length up to which 90 % are right", "20", "≥ 40", "< 10", "3 / 3 / 4"),
        ("steps until 90 % are right", "2,000", "2,000 (2 of 3)", "– (2 of 4)", "3 / 3 / 4"),
        ("seconds of training until 90 % are right", "20", "20 (2 of 3)", "– (2 of 4)", "3 / 3 / 4"),
        ("TFLOP of training until 90 % are right", "2.00", "2.00 (2 of 3)", "– (2 of 4)", "3 / 3 / 4"),
    ]
    nobody = as_table(reached(pd.concat(runs_of("lstm", (0, 0), (10, 10)))))
    assert [row[1:] for row in nobody.rows] == [("length up to which 90 % are right", "10", "2")]
    assert not as_table(reached(table(LEARNING, headline=s.WER))).rows


def test_the_decoding_state_stands_beside_the_number_of_items() -> None:
    """It is what the items are kept in; a task that counts none, or a run that did not record it, has no such row."""
    curves: dict[str, Curve] = {
        "test/token_accuracy_by_pairs": {4: 1.0, 8: 0.95, 16: 0.2},
        s.STATE: {math.nan: 2048.0},
    }
    items = table(curves, measures="distance=distance items=pairs")
    larger = table(curves | {s.STATE: {math.nan: 65536.0}}, measures="items=pairs", run="x", model="transformer")
    assert [row[1:] for row in as_table(reached(pd.concat([items, larger]))).rows] == [
        ("pairs up to which 90 % are right", "8", "8", "1"),
        ("decoding state, KiB", "2.0", "64.0", "1"),
    ]
    both: pd.DataFrame = pd.concat([items, table(curves, measures="length=length", task="other", run="y")])
    assert [row[0] for row in as_table(reached(both)).rows if row[1].startswith("decoding")] == ["t"]
    without = reached(items[items["metric"] != s.STATE])
    assert without["measure"].unique().tolist() == ["pairs"]
