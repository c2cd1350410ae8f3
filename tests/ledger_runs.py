"""Tables of runs made without a store, with a truth that is put in: for the ledger and what is built on it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import claims, runs
from experiments import schema as s

HARDWARE = "a processor of known speed"
LENGTHS = (32, 64, 128, 256, 512)
Rows = list[dict[str, Any]]
Point = tuple[str, int | None, float]  # metric, place on its axis, value


def run_rows(kind: str, task: str, model: str, seed: int, points: Sequence[Point], **more: Any) -> Rows:
    """The rows of one run."""
    run_id = f"{more.get('grid', 'grid')}-{task}-{model}-{seed}-{kind}"
    same: dict[str, Any] = dict.fromkeys(runs.RUN_COLUMNS, "") | {
        **{"run_id": run_id, "run_name": run_id, "grid": "grid", "key": run_id, "kind": kind, "task": task},
        **{"model": model, "seed": seed, "device": "cpu", "hardware": HARDWARE, "status": s.FINISHED},
        **{
            "chance": None,
            "trial": None,
            "memoryless_loss": None,
            "gates": s.GATE_PASSED,
            "start_time": pd.Timestamp(0, unit="ms", tz="UTC"),
        },
        **{"headline": s.TOKEN_ACCURACY if kind == s.LEARN else "", "budget_of": "parameters"},
        **more,
    }
    size: list[Point] = [(s.PARAMETERS, None, 100_000), (s.BUDGET, None, 100_000), (s.MATCH_ERROR, None, 0.001)]
    return [
        same | {"metric": name, "axis": "" if at is None else s.axis_of(name), "at": at, "value": value}
        for name, at, value in [*size, *points]
    ]


def task_rows(
    task: str,
    scores: Mapping[str, Sequence[float]],
    *,
    hardest: Mapping[str, Sequence[float]] | None = None,
    longer: Mapping[str, Sequence[float]] | None = None,
    measures: str = "",
    language_class: str = "",
    **more: Any,
) -> Rows:
    """Runs of one task: model → score by seed in range; at the hardest place of the axes it measures; out of range.

    At the easiest place (1) every model has its score in range, or 1.0 where `hardest` is given.
    """
    rows: Rows = []
    for model, values in scores.items():
        for seed, score in enumerate(values):
            points: list[Point] = [(s.metric(s.TEST, s.TOKEN_ACCURACY), None, score)]
            for axis in s.dependencies(measures).values():
                if hardest is not None and model in hardest:
                    name = s.metric(s.TEST, s.TOKEN_ACCURACY, axis)
                    points += [(name, 1, 1.0), (name, 64, hardest[model][seed])]
            if longer is not None and model in longer:
                points.append((s.metric(s.LONGER, s.TOKEN_ACCURACY), None, longer[model][seed]))
                name = s.metric(s.LONGER, s.TOKEN_ACCURACY, s.LENGTH)
                points += [(name, at, longer[model][seed] + shift) for at, shift in ((50, 0.01), (100, -0.01))]
            tags = {"measures": measures, "language_class": language_class}
            rows += run_rows(s.LEARN, task, model, seed, points, **tags, **more)
    return rows


def around(middle: float, seeds: int = 5, spread: float = 0.01, shift: int = 0) -> list[float]:
    """Values whose mean is `middle` exactly, `shift` turning which seed has which."""
    offsets = np.linspace(-1, 1, seeds) * spread
    return [float(value) for value in np.roll(middle + offsets, shift)]


def sweep_rows(
    laws: Mapping[str, Mapping[str, tuple[float, float]]],
    *,
    seeds: int = 5,
    tokens: int | None = 4096,
    lengths: Sequence[int] = LENGTHS,
    noise: float = 0.01,
    **more: Any,
) -> Rows:
    """Efficiency runs: model → metric → (coefficient, exponent) of a power law; every seed a little off it.

    Args:
        laws: as above.
        seeds: interleaved repeats.
        tokens: source tokens a batch; None for a fixed batch of 8 sequences.
        lengths: of the sweep.
        noise: relative size of what a seed is off by; not the same for two models.
        more: columns of the runs.
    """
    rng = np.random.default_rng(0)
    rows: Rows = []
    for model, metrics in laws.items():
        for seed in range(seeds):
            points: list[Point] = [(s.BATCH_SIZE, n, tokens / n if tokens else 8) for n in lengths]
            for name, (coefficient, exponent) in metrics.items():
                off = np.exp(noise * rng.normal(size=len(lengths)))
                points += [(name, n, coefficient * n**exponent * o) for n, o in zip(lengths, off, strict=True)]
            rows += run_rows(s.EFFICIENCY, "", model, seed, points, **more)
    return rows


DISTANCES = (1, 2, 4, 8, 16, 32, 64, 128, 256)


def gradient_rows(
    halves: Mapping[str, tuple[float, float]],
    *,
    seeds: int = 5,
    accuracy: Mapping[str, float] | None = None,
    sure: float = 0.0,
    task: str = "needle",
    **more: Any,
) -> Rows:
    """Gradients runs: model → half-distance at initialisation and after training, infinite for a norm that stays.

    A norm falls linearly with the logarithm of the distance, to exactly 0 in the end; every seed is a little off, by
    factors whose mean is 1. After training the model is right in `accuracy` of all cases (1 if not stated), and the
    norm at the logits falls as the distance to the power of minus `sure`, and the norm with it.
    """
    rows: Rows = []
    for shift, (model, of_phase) in enumerate(halves.items()):
        off = np.exp(around(0.0, seeds, 0.02, shift))
        for seed in range(seeds):
            points: list[Point] = []
            for phase, half in zip((s.INITIAL, s.TRAINED), of_phase, strict=True):
                right = 0.125 if phase == s.INITIAL else (accuracy or {}).get(model, 1.0)
                for at in DISTANCES:
                    left = max(0.0, 1 - 0.5 * np.log(at) / np.log(half * off[seed]))
                    output = 0.5 if phase == s.INITIAL else 0.5 * at**-sure
                    points += [
                        (s.GRADIENT_NORM[phase], at, 0.2 * output * left),
                        (s.GRADIENT_OUTPUT_NORM[phase], at, output),
                        (s.GRADIENT_ACCURACY[phase], at, right),
                    ]
            rows += run_rows(s.GRADIENTS, task, model, seed, points, **more)
    return rows


def table(*parts: Rows) -> pd.DataFrame:
    """The table of runs."""
    return runs.tidy([row for part in parts for row in part])


# --- those of one claim's truth --------------------------------------------------------------------------------------
def times(lstm: tuple[float, float], transformer: tuple[float, float]) -> dict[str, dict[str, tuple[float, float]]]:
    both = {"lstm": lstm, "transformer": transformer}
    return {model: {s.TRAIN_STEP_SECONDS: law, s.ENCODE_SECONDS: law} for model, law in both.items()}


def fixed(lstm: tuple[float, float], transformer: tuple[float, float], **more: Any) -> Rows:
    """A sweep with the same number of sequences in every batch."""
    return sweep_rows(times(lstm, transformer), tokens=None, **more)


def recall(name: str, lstm: float, transformer: float, *, seeds: int = 5, **more: Any) -> Rows:
    scores = {"lstm": around(0.95, seeds), "transformer": around(0.97, seeds)}
    far = {"lstm": around(lstm, seeds), "transformer": around(transformer, seeds, shift=1)}
    return task_rows(name, scores, hardest=far, measures="distance=distance items=pairs", **more)


def beyond(name: str, language: str, lstm: float, transformer: float, in_range: float = 0.99) -> Rows:
    scores = {"lstm": around(0.99, spread=0.001), "transformer": around(in_range, spread=0.001)}
    longer = {"lstm": around(lstm), "transformer": around(transformer, shift=2)}
    return task_rows(name, scores, longer=longer, language_class=language)


def with_positions(rows: Rows, longer: float = 0.0) -> Rows:
    """The Transformer's runs with other positions, by which it has so much more out of range."""
    return [
        row
        | {"model": "transformer(positions=alibi)", "run_id": f"{row['run_id']}+"}
        | {"value": row["value"] + (longer if row["metric"].startswith(s.LONGER) else 0.0)}
        for row in rows
        if row["model"] == "transformer"
    ]


def closing(attention: float, transformer: float = 0.98) -> pd.DataFrame:
    scores = {
        "lstm": around(0.5),
        "lstm_attention": around(attention, shift=1),
        "transformer": around(transformer, shift=3),
    }
    return table(task_rows("recall", scores))


def learning(
    lstm: float,
    transformer: float,
    slow: float = 1.0,
    *,
    task: str = "recall",
    seeds: int = 5,
    in_range: float = 0.95,
    late: tuple[int, ...] = (),
    elsewhere: str = HARDWARE,
) -> Rows:
    """Validation curves that rise to these scores in four evaluations, whatever the models reach in range.

    The Transformer's steps take `slow` seconds and it runs on `elsewhere`; of the seeds `late` it has no first
    evaluation.
    """
    rows: Rows = []
    for model, top, second in (("lstm", lstm, 1.0), ("transformer", transformer, slow)):
        for seed in range(seeds):
            points: list[tuple[str, int | None, float]] = [(s.metric(s.TEST, s.TOKEN_ACCURACY), None, in_range)]
            for step in (2, 3, 4) if model == "transformer" and seed in late else (1, 2, 3, 4):
                points += [
                    (s.metric(s.VALIDATION, s.TOKEN_ACCURACY), step, top * step / 4 + 0.001 * seed),
                    (s.TRAIN_SECONDS, step, step * second),
                    (s.TRAIN_FLOPS, step, step * 1e9),
                ]
            hardware = elsewhere if model == "transformer" else HARDWARE
            rows += run_rows(s.LEARN, task, model, seed, points, hardware=hardware)
    return rows


def data_sizes(lstm: float, transformer: float, ahead: float = 0.1) -> Rows:
    """Errors that fall by these shares of a doubling, from 1,000 to 8,000 words; at 1,000 the LSTM is `ahead`."""
    rows = []
    for doublings, words in enumerate((1000, 2000, 4000, 8000)):
        for model, start, slope in (("lstm", 0.5, lstm), ("transformer", 0.5 + ahead, transformer)):
            for seed in range(5):
                wobble = 0.002 * ((seed * 7 + doublings * 3 + len(model)) % 5 - 2)
                points = [
                    ("data/training_sequences", None, words),
                    ("test/wer", None, start - slope * doublings + wobble),
                ]
                task = "g2p_english" + (f"(words={words})" if words < 8000 else "")
                rows += run_rows(s.LEARN, task, model, seed, points, headline=s.WER)
    return rows


# --- what the ledger makes of them -----------------------------------------------------------------------------------
def entry(runs: pd.DataFrame, claim: str) -> claims.Entry:
    return next(one for one in claims.ledger(runs) if one.claim.id == claim)


def verdict(runs: pd.DataFrame, claim: str) -> str:
    return str(entry(runs, claim).verdict)
