"""What a token costs: which lengths are shown, medians by hand, and what is left out because nothing measured it."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from ledger_runs import HARDWARE, Point, Rows, run_rows, table

from analysis import report, token_costs
from experiments import schema as s

LENGTHS = (32, 48, 64, 80, 256, 1024)
TASK = "length_sweep(batch_size=2)"


def swept(
    model: str, seed: int, longest: int, *metrics: tuple[str, float], task: str = TASK, disturbed: int = 0
) -> Rows:
    """A run that generates at every length, and trains up to `longest`; each metric is its value times the length."""
    points: list[Point] = []
    for n in LENGTHS:
        points += [(s.DECODE_SECONDS_PER_TOKEN, n, 1e-3), (s.DECODE_SECONDS_PER_TOKEN_P95, n, 2e-3 + 1e-3 * seed)]
        points += [(s.THREADS, n, 1.0), (s.DISTURBED, n, float(n == disturbed))]
        if n <= longest:
            points.append((s.EFFICIENCY_TRAIN_TOKENS_PER_SECOND, n, 1000.0 * (1 + seed) * n))
        points += [(name, n, value * n) for name, value in metrics]
    points += [(s.by_position(s.DISTURBED), at, 0.0) for at in (1, 8)]
    return run_rows(s.EFFICIENCY, task, model, seed, points)


def two_models() -> pd.DataFrame:
    """Three seeds each; of the Transformer one was trained up to length 256 only, and at 32 others used the machine."""
    state = (s.STATE_BYTES, 64.0)
    return table(
        *(swept("lstm", seed, 1024, state) for seed in range(3)),
        *(
            swept("transformer", seed, 256 if seed == 1 else 1024, disturbed=32 if seed == 2 else 0)
            for seed in range(3)
        ),
    )


def test_costs_at_the_ends_and_the_middle_of_what_all_reach() -> None:
    """From 32 to 256 the middle of a logarithmic axis is at 91: nearest to 80."""
    shown = token_costs.as_table(token_costs.token_costs(two_models()))
    assert shown.header == (
        *("length", "model", "training, tokens/s", "ms a token: p50 / p95", "decoding state, KiB", "seeds"),
    )
    assert shown.rows == (
        ("32 †", "LSTM", "64,000", "1.00 / 3.00", "2.0", "3"),
        ("32 †", "Transformer", "64,000", "1.00 / 3.00", "–", "3"),
        ("80", "LSTM", "160,000", "1.00 / 3.00", "5.0", "3"),
        ("80", "Transformer", "160,000", "1.00 / 3.00", "–", "3"),
        ("256", "LSTM", "512,000", "1.00 / 3.00", "16.0", "3"),
        ("256", "Transformer", "512,000", "1.00 / 3.00", "–", "3"),
    )


def test_a_median_is_none_of_the_extremes() -> None:
    runs = table(*(swept("lstm", seed, 1024) for seed in (0, 1, 9)))
    rows = token_costs.as_table(token_costs.token_costs(runs)).rows
    assert [row[2] for row in rows] == ["64,000", "512,000", "2,048,000"]


def test_what_only_a_gpu_tells_has_a_column_where_one_told_it() -> None:
    """Two sweeps, of one of which a metric of a pair is missing."""
    energy = [(s.ENERGIES["train_step"], 0.5), (s.ENERGIES["generate"], 2.0)]
    launches = [(s.SWEEP_LAUNCHES["train_step"], 100.0)]
    other = "length_sweep(tokens_per_batch=2048)"
    shares = [(s.PEAK_SHARE, 0.001), (s.DECODE_NAIVE_SECONDS_PER_TOKEN, 1e-3)]
    runs = table(swept("lstm", 0, 64, *energy, *launches), swept("lstm", 0, 32, *shares, task=other))
    shown = token_costs.as_table(token_costs.token_costs(runs))
    cells = [dict(zip(shown.header, row, strict=True)) for row in shown.rows]
    assert [(row["task"], row["length"]) for row in cells] == [(TASK, "32"), (TASK, "48"), (TASK, "64"), (other, "32")]
    assert [row["J for 1,000 tokens: training / generation"] for row in cells] == [
        "16 / 64",
        "24 / 96",
        "32 / 128",
        "– / –",
    ]
    assert cells[0]["launches: training step / token"] == "3,200 / –"
    assert [row["MFU, %"] for row in cells] == ["–", "–", "–", "3.2"]
    assert cells[3]["ms without cache: p50 / p95"] == "32.00 / –"


def test_how_many_sequences_share_the_time_of_a_token() -> None:
    """Of a fixed number of tokens (here 256 of the source) fewer at each length."""
    sizes = [(s.BATCH_SIZE, n, 256 / n) for n in (32, 64)]
    times = [(s.DECODE_SECONDS_PER_TOKEN, n, 1e-3) for n in (32, 64)]
    shown = token_costs.as_table(token_costs.token_costs(table(run_rows(s.EFFICIENCY, TASK, "lstm", 0, sizes + times))))
    assert shown.header[:3] == ("length", "model", "sequences a batch")
    assert [row[:3] for row in shown.rows] == [("32", "LSTM", "8"), ("64", "LSTM", "4")]


def test_the_state_of_the_machine_in_a_sentence() -> None:
    """Of six runs with six lengths and two positions each, one length of one run was disturbed."""
    assert token_costs.machines(two_models()) == [
        f"{HARDWARE}, 1 thread: 1 of 48 points were measured while others used the machine."
    ]
    unknown = two_models().query("metric != @s.THREADS")
    assert token_costs.machines(unknown) == []
    nothing = two_models().query("kind == 'learn'")
    assert token_costs.machines(nothing) == []
    assert token_costs.as_table(token_costs.token_costs(nothing)).rows == ()


def test_the_report_says_what_a_token_costs(tmp_path: Path) -> None:
    runs = two_models()
    page = report.write(runs, tmp_path, title="t", command="c").read_text(encoding="utf-8")
    assert page.count("What a token costs") == 2  # heading and contents
    shown = token_costs.as_table(token_costs.token_costs(runs))
    assert shown.html() in page
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "## What a token costs" in text
    assert shown.markdown() in text
    assert all(token_costs.machines(runs)[0] in written for written in (page, text))
    numbers = pd.read_csv(tmp_path / "token_costs.csv")
    assert tuple(numbers.columns) == token_costs.COLUMNS
    assert numbers.loc[numbers["disturbed"], ["model", "seed", "length"]].drop_duplicates().to_numpy().tolist() == [
        ["transformer", 2, 32.0]
    ]
    rate = numbers[(numbers["metric"] == s.EFFICIENCY_TRAIN_TOKENS_PER_SECOND) & (numbers["length"] == 80)]
    assert sorted(rate["value"]) == [80_000, 80_000, 160_000, 160_000, 240_000, 240_000]
