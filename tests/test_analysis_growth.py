"""The table of exponents, slopes and crossovers, from runs that are exact power laws."""

from __future__ import annotations

import pandas as pd
import pytest
import tracked_runs as t

from analysis import growth


def test_power_laws_and_their_crossovers_are_found(known: pd.DataFrame) -> None:
    found = growth.growth(known)
    assert list(found.columns) == growth.COLUMNS
    exponents = found[found["what"] == "exponent"].set_index(["cost", "model"])["estimate"]
    for model in t.TRAIN_STEP:
        assert exponents["training time", model] == pytest.approx(t.TRAIN_STEP[model][1])
        assert exponents["prefill time", model] == pytest.approx(t.TRAIN_STEP[model][1])
        assert exponents["training memory", model] == pytest.approx(t.MEMORY[model][1])
    slopes = found.query("what == 'slope' and cost == 'training time' and model == 'transformer'")
    assert list(slopes["estimate"]) == pytest.approx([0.25] * 4)
    assert list(zip(slopes["shortest"], slopes["longest"], strict=True)) == list(
        zip(t.LENGTHS[:-1], t.LENGTHS[1:], strict=True)
    )
    turns = found[found["what"] == "crossover"].set_index(["cost", "model", "other"])["estimate"]
    assert turns["training time", "lstm", "transformer"] == pytest.approx(t.CROSSOVER)
    assert pd.isna(turns["training time", "lstm", "lstm_attention"])


def test_without_sweeps_the_table_is_empty(known: pd.DataFrame) -> None:
    for nothing in (known[known["kind"] == "learn"], known[:0]):
        found = growth.growth(nothing)
        assert found.empty
        assert list(found.columns) == growth.COLUMNS


def test_models_without_a_length_in_common_cross_nowhere(known: pd.DataFrame) -> None:
    """Three lengths each, none of which the other has; and of two lengths there is no exponent."""
    train = known[known["metric"] == "efficiency/train_step_seconds"]
    one = train[train["model"].eq("lstm")]
    other = train[train["model"].eq("transformer")].assign(at=lambda rows: rows["at"] + 1)
    found = growth.growth(pd.concat([one, other]))
    assert set(found["what"]) == {"exponent", "slope"}
    assert growth.growth(one[one["at"] <= 64]).empty
