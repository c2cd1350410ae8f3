"""Verdicts on costs, on tables whose truth is put in: families 1 and 4, and the price of attention."""

import json
import math
import re
from typing import Any

import pandas as pd
import pytest
from ledger_runs import (
    entry,
    fixed,
    sweep_rows,
    table,
    times,
    verdict,
)

from analysis import claims
from analysis.claims import costs
from analysis.claims.rules import Verdict
from analysis.statistics import Interval
from experiments import schema as s


# --- 1: processing ---------------------------------------------------------------------------------------------------
def test_parallel_and_faster() -> None:
    runs = table(sweep_rows(times((1e-3, 0.9), (1e-3, 0.1))))
    found = entry(runs, "1.1")
    assert found.verdict is Verdict.SUPPORTED
    assert found.effect.estimate == pytest.approx(0.8, abs=0.02)
    assert len(found.runs) == 10
    assert verdict(runs, "1.2") == "supported"
    assert verdict(table(sweep_rows(times((1e-3, 0.5), (1e-3, 0.5)))), "1.1") == "refuted"
    between = entry(table(sweep_rows(times((1e-3, 0.3), (1e-3, 0.1)))), "1.1")
    assert between.verdict is Verdict.UNDECIDED
    assert "above 0.1, but no clear 0.3" in between.condition
    assert "covers both sides" not in between.condition


def test_what_a_sweep_lacks_for_a_claim_is_said() -> None:
    laws = times((1e-3, 0.9), (1e-3, 0.1))
    fixed_batch, few = sweep_rows(laws, tokens=None), sweep_rows(laws, lengths=(32, 64))
    expected = {
        "1.1": (fixed_batch, "the number of tokens per batch varies"),
        "1.3": (fixed_batch, "no decoding step timed at 3 positions"),
        "4.1": (few, "the number of sequences a batch varies"),
        "4.2": (few, "the number of sequences a batch varies"),
    }
    for claim, (rows, cause) in expected.items():
        found = entry(table(rows), claim)
        assert (found.verdict, found.briefly) == (Verdict.NOT_MEASURED, f"1 left out: {cause}")
    short = entry(table(few), "1.1")
    assert short.briefly.endswith("fewer than 3 lengths at which attention is under 20% of the operations")
    assert short.why.startswith("8,192 tokens a batch: fewer")
    assert entry(table(few), "2.1").briefly == "no run speaks to it"
    assert entry(table(few), "1.2").briefly == ""


def test_lengths_that_decide_nothing_are_named_without_what_all_have() -> None:
    rows = sweep_rows(times((1.3e-3, 0.5), (1e-3, 0.5)), seeds=1)
    widths = [
        row | {"metric": s.spread(row["metric"], s.INTERVAL), "value": 0.02 if row["at"] < 512 else 2.0}
        for row in rows
        if row["metric"] == s.TRAIN_STEP_SECONDS
    ]
    found = entry(table(rows, widths), "1.2")
    assert found.verdict is Verdict.UNDECIDED
    assert found.condition == "supported elsewhere, undecided at length 512"
    assert found.parts[-1][0] == "length 512, 8,192 tokens a batch"


def test_a_step_of_training_and_encoding_are_two_parts_of_parallel() -> None:
    laws = times((1e-3, 0.9), (1e-3, 0.1))
    laws["lstm"][s.ENCODE_SECONDS] = (1e-3, 0.05)
    found = entry(table(sweep_rows(laws)), "1.1")
    assert found.verdict is Verdict.CONDITIONAL
    place = "8,192 tokens a batch"
    assert found.condition == f"holds on a training step, {place}; not on encoding, {place}"
    assert "the Transformer's is +0.80 [" in found.clause
    assert "(a training step) and -0.05 [" in found.clause
    assert found.clause.endswith("(encoding) from length 32 to 512")


def test_the_quadratic_part_does_not_count() -> None:
    share = [(s.ATTENTION_SHARE, n, 0.1 if n <= 128 else 0.5) for n in (32, 64, 128, 256, 512)]
    laws = times((1e-3, 0.9), (1e-3, 0.1))
    rows = sweep_rows(laws, noise=0.001)
    for row in rows:  # beyond 128 the Transformer's time grows as the square
        if row["model"] == "transformer" and row["metric"] in laws["lstm"] and row["at"] > 128:
            row["value"] *= (row["at"] / 128) ** 2
    assert entry(table(rows), "1.1").effect.estimate < 0.3
    for seed in range(5):
        rows += [
            row | {"metric": name, "axis": "length", "at": at, "value": value}
            for row in [next(r for r in rows if r["model"] == "transformer" and r["seed"] == seed)]
            for name, at, value in share
        ]
    assert entry(table(rows), "1.1").effect.estimate == pytest.approx(0.8, abs=0.01)


def test_training_time_that_crosses_is_conditional_on_the_length() -> None:
    runs = table(sweep_rows(times((1e-4, 0.9), (2e-3, 0.25))))  # cross at 20 ** (1 / 0.65) = 100
    found = entry(runs, "1.2")
    assert found.verdict is Verdict.CONDITIONAL
    assert found.condition.startswith("on the length: crossover at length 1")
    assert verdict(table(sweep_rows(times((1e-3, 0.5), (2e-3, 0.5)))), "1.2") == "refuted"


def test_one_seed_is_decided_by_the_intervals_of_its_medians() -> None:
    rows = sweep_rows(times((1e-3, 0.9), (1e-3, 0.1)), seeds=1)
    assert verdict(table(rows), "1.2") == "undecided"
    assert "five are the least" in entry(table(rows), "1.2").condition
    widths = [
        row | {"metric": s.spread(row["metric"], s.INTERVAL), "value": 0.02}
        for row in rows
        if row["metric"] == s.TRAIN_STEP_SECONDS
    ]
    decided = entry(table(rows, widths), "1.2")
    assert decided.verdict is Verdict.SUPPORTED
    ratio = decided.effect
    assert math.log(ratio.high / ratio.low) == pytest.approx(
        2 * 0.01 * math.sqrt(2), rel=1e-4
    )  # two half widths of 1 %


def test_sweeps_of_several_machines_are_told_apart() -> None:
    def on(machine: str, lstm: tuple[float, float], transformer: tuple[float, float]) -> list[dict[str, Any]]:
        laws = times(lstm, transformer)
        laws["lstm"][s.STEP_SECONDS], laws["transformer"][s.STEP_SECONDS] = (1e-3, 0.0), (1e-3, 0.5)
        rows = sweep_rows(laws, tokens=4096) + sweep_rows(laws, tokens=None, grid="fixed")
        return [row | {"hardware": machine, "run_id": f"{row['run_id']} {machine}"} for row in rows]

    one, other = on("A", (1e-3, 0.9), (1e-3, 0.1)), on("B", (1e-4, 0.9), (2e-3, 0.25))  # on B they cross
    runs = table(one, other)
    growth, speed, step, time = (entry(runs, claim) for claim in ("1.1", "1.2", "1.3", "4.1"))
    assert growth.clause.count("on A") == growth.clause.count("on B") == 1
    assert [speed.clause.count(f"on {at} with ") for at in "AB"] == [2, 2]
    assert speed.verdict is Verdict.CONDITIONAL
    assert speed.condition.count("on the length: crossover") == 2
    assert "B, 8 sequences a batch: on the length: crossover" in speed.condition
    assert [step.clause.count(f"on {at} ") for at in "AB"] == [2, 2]
    assert "on B a training step: crossover" in time.condition
    assert "on A" not in time.condition
    alone = table(one)
    assert not any("on A" in entry(alone, claim).clause for claim in ("1.1", "1.2", "1.3", "4.1"))


@pytest.mark.parametrize("claim", ["1.1", "1.2", "1.3", "3.2", "4.1", "4.2"])
def test_costs_of_models_of_other_sizes_decide_nothing(claim: str) -> None:
    every = {
        **{s.TRAIN_STEP_SECONDS: (1e-3, 0.5), s.ENCODE_SECONDS: (1e-3, 0.5), s.STEP_SECONDS: (1e-3, 0.5)},
        **{s.DECODE_SECONDS_PER_TOKEN: (1e-3, 0.5), s.PEAK_MEMORY: (1e6, 1.0)},
    }
    rows = sweep_rows(dict.fromkeys(("lstm", "lstm_attention", "transformer"), every), tokens=None)
    if claim == "1.1":
        rows = sweep_rows(dict.fromkeys(("lstm", "lstm_attention", "transformer"), every))
    assert entry(table(rows), claim).measured
    larger = [row | {"value": 2 * row["value"]} if row["metric"] == s.BUDGET else row for row in rows]
    rows = [wide if row["model"] != "lstm" else row for row, wide in zip(rows, larger, strict=True)]
    found = entry(table(rows), claim)
    assert found.verdict is Verdict.NOT_MEASURED
    assert found.left_out_briefly == "1 left out: models not matched"
    assert "the models differ in size" in found.why


def test_a_constant_step_and_a_growing_one() -> None:
    def steps(lstm: float, transformer: float) -> pd.DataFrame:
        laws = {"lstm": {s.STEP_SECONDS: (1e-3, lstm)}, "transformer": {s.STEP_SECONDS: (1e-3, transformer)}}
        return table(sweep_rows(laws, tokens=None))

    assert verdict(steps(0.0, 0.5), "1.3") == "supported"
    assert verdict(steps(0.0, 0.0), "1.3") == "refuted"
    assert verdict(steps(0.5, 0.5), "1.3") == "refuted"


def test_the_transformers_step_must_grow_over_the_upper_half_and_the_lstms_nowhere() -> None:
    """Up to length 128, the middle, one grows and the other does not; from there on it is the other way round."""

    def steps(below: dict[str, float], above: dict[str, float]) -> pd.DataFrame:
        rows = sweep_rows({model: {s.STEP_SECONDS: (1e-3, below[model])} for model in below}, tokens=None, noise=1e-3)
        for row in rows:
            if row["metric"] == s.STEP_SECONDS and row["at"] > 128:
                row["value"] *= (row["at"] / 128) ** (above[row["model"]] - below[row["model"]])
        return table(rows)

    late = entry(steps({"lstm": 0.0, "transformer": 0.0}, {"lstm": 0.0, "transformer": 0.15}), "1.3")
    assert late.verdict is Verdict.SUPPORTED  # over all positions the exponent is 0.075
    assert late.effect.estimate == pytest.approx(0.15, abs=0.005)
    early = steps({"lstm": 0.5, "transformer": 0.5}, {"lstm": 0.0, "transformer": 0.5})
    assert verdict(early, "1.3") == "refuted"  # over the upper half the LSTM's step is constant


# --- 3: attention ----------------------------------------------------------------------------------------------------
def test_the_price_of_attention_is_reported() -> None:
    laws = {model: {s.TRAIN_STEP_SECONDS: (c, 0.5)} for model, c in (("lstm", 1e-3), ("lstm_attention", 3e-3))}
    found = entry(table(sweep_rows(laws)), "3.2")
    assert found.verdict is Verdict.REPORTED
    assert found.effect.estimate == pytest.approx(3, rel=0.02)
    assert math.isnan(found.p)


# --- 4: efficiency ---------------------------------------------------------------------------------------------------
def test_time_and_memory_at_the_longest() -> None:
    laws = times((1e-3, 0.5), (1e-3, 0.3))
    for model, law in (("lstm", (1e6, 1.0)), ("transformer", (1e6, 1.2))):
        laws[model][s.PEAK_MEMORY] = law
    runs = table(sweep_rows(laws, tokens=None))
    time, memory = entry(runs, "4.1"), entry(runs, "4.2")
    assert (time.verdict, memory.verdict) == (Verdict.SUPPORTED, Verdict.REFUTED)
    assert time.effect.estimate == pytest.approx(512**-0.2, rel=0.02)
    assert memory.effect.estimate == pytest.approx(512**0.2, rel=0.02)
    crossing = entry(table(fixed((1e-4, 0.9), (2e-3, 0.25))), "4.1")
    assert crossing.verdict is Verdict.CONDITIONAL
    assert "a training step: crossover at length 1" in crossing.condition
    assert crossing.condition.endswith("], the LSTM takes less below")
    turned = entry(table(fixed((2e-3, 0.25), (1e-4, 0.9))), "4.1")
    assert turned.condition.endswith("], the Transformer takes less below")
    assert verdict(table(fixed((1e-3, 0.5), (1.01e-3, 0.5))), "4.1") == "tie"


@pytest.mark.parametrize(
    ("claim", "works"),
    [
        (
            "4.1",
            {s.TRAIN_STEP_SECONDS: "a training step", s.ENCODE_SECONDS: "encoding", s.GENERATE_SECONDS: "generation"},
        ),
        (
            "4.2",
            {s.PEAK_MEMORY: "training", s.GENERATE_PEAK_MEMORY: "generation", s.STATE_BYTES: "the decoding state"},
        ),
    ],
)
def test_every_time_and_every_memory_is_a_part_of_its_claim(claim: str, works: dict[str, str]) -> None:
    """Each with a ratio of its own."""
    laws = {
        "lstm": dict.fromkeys(works, (1e6, 1.0)),
        "transformer": {metric: (factor * 1e6, 1.0) for metric, factor in zip(works, (2, 4, 0.5), strict=True)},
    }
    found = entry(table(sweep_rows(laws, tokens=None, noise=1e-4)), claim)
    place = "8 sequences a batch"
    said = zip(works.values(), ("2.00", "4.00", "0.50"), ("refuted", "refuted", "supported"), strict=True)
    assert [(where, number.partition(" ")[0], str(side)) for where, number, side in found.parts] == [
        (f"{work}, {place}", ratio, side) for work, ratio, side in said
    ]
    for work, ratio in zip(works.values(), ("2.00", "4.00", "0.50"), strict=True):
        assert re.search(rf"\b{ratio} times \[[^]]*\] for {work}", found.clause)


def test_the_length_for_which_there_is_no_memory_is_said() -> None:
    laws = {model: {s.PEAK_MEMORY: (1e6, 1.0)} for model in ("lstm", "transformer")}
    rows = sweep_rows(laws, tokens=None)
    assert "finds no memory" not in entry(table(rows), "4.2").clause
    ended = [row for row in rows if row["model"] == "transformer" and row["metric"] == s.PARAMETERS]
    stops = json.dumps({"train_step": "memory: 3 GiB asked for", "generate": "time: 40 s a step"})
    for phase, at in (("train_step", 1024), ("generate", 2048)):
        rows += [row | {"metric": s.STOPPED_AT + phase, "value": at} for row in ended]
    rows = [row | {"stops": stops} if row["model"] == "transformer" else row for row in rows]
    clause = entry(table(rows), "4.2").clause
    assert clause.endswith("; training with the Transformer finds no memory at length 1,024")


def test_a_crossover_whose_interval_is_open_has_no_numbers_for_it() -> None:
    assert costs.crossing_words(Interval(100.0, 57.0, math.inf, 5)) == "crossover at length 100 (its interval is open)"
    assert costs.crossing_words(Interval(100.0, 0.0, 120.0, 5)) == "crossover at length 100 (its interval is open)"
    assert costs.crossing_words(Interval(100.0, 57.0, 120.0, 5)) == "crossover at length 100 [57, 120]"
    assert costs.crossing_words(Interval(100.0, math.nan, math.nan, 1)) == "crossover at length 100"


def test_only_sweeps_with_a_fixed_batch_decide_time_and_memory() -> None:
    laws = times((1e-3, 0.5), (1e-3, 0.3))
    for model in laws:
        laws[model][s.PEAK_MEMORY] = (1e6, 1.0)
    tokens = sweep_rows(laws, grid="tokens")
    runs = table(tokens, fixed((1e-3, 0.3), (1e-3, 0.5)))
    assert entry(runs, "4.1").verdict is Verdict.REFUTED
    assert len(entry(runs, "4.1").parts) == 2
    assert entry(runs, "4.2").verdict is Verdict.NOT_MEASURED
    found = claims.folklore(runs, claims.ledger(runs))[3].findings
    assert [len(found[claim]) for claim in ("4.1", "4.2")] == [4, 1]  # what was measured is said all the same


def test_a_crossover_at_the_end_of_the_range_is_none() -> None:
    """At length 32 the ratio Transformer / LSTM is 0.995, within the noise, and at 1,024 it is 3.4."""
    lengths = (32, 64, 128, 256, 512, 1024)
    growth = math.log(3.4 / 0.995, 32)
    near = fixed((1e-3, 0.5), (0.995e-3 / 32**growth, 0.5 + growth), lengths=lengths)
    found = entry(table(near), "4.1")
    assert (found.verdict, found.condition) == (Verdict.REFUTED, "")
    clear = fixed((1e-3, 0.5), (0.8e-3 / 32**growth, 0.5 + growth), lengths=lengths)
    assert "on the length: a training step: crossover at length" in entry(table(clear), "4.1").condition
    # One seed has no interval, by which one would know.
    alone = fixed((1e-3, 0.5), (0.8e-3 / 32**growth, 0.5 + growth), lengths=lengths, seeds=1)
    for row in list(alone):
        if row["metric"] in (s.TRAIN_STEP_SECONDS, s.ENCODE_SECONDS):
            alone.append(row | {"metric": s.spread(row["metric"], s.INTERVAL), "value": 0.01})
    assert verdict(table(alone), "4.1") == "refuted"
    assert verdict(table(fixed((1e-3, 0.3), (1e-3, 0.5), lengths=(32,))), "4.1") == "refuted"
