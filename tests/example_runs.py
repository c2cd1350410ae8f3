"""A store's worth of runs as a table, with everything in it that a report shows; of any size."""

from __future__ import annotations

import numpy as np
import pandas as pd
from ledger_runs import Point, Rows, run_rows, sweep_rows, table

from experiments import schema as s

MODELS = ("lstm", "lstm_attention", "transformer")
TASKS = {  # task → tags, and the models' scores at the hardest place and out of range
    "associative_recall": ("distance=distance items=pairs", "", (0.45, 0.9, 0.97), None),
    "copy_memory": ("distance=distance", "", (0.3, 0.85, 0.9), None),
    "needle": ("distance=distance", "", (0.6, 0.95, 0.94), None),
    "selective_copy": ("items=items", "", (0.5, 0.8, 0.9), None),
    "running_parity": ("length=length", s.REGULAR, (0.99, 0.98, 0.97), (0.97, 0.9, 0.52)),
    "reverse": ("length=length", s.CONTEXT_FREE, (0.97, 0.98, 0.98), (0.3, 0.55, 0.35)),
    "odds_first": ("length=length", s.CONTEXT_SENSITIVE, (0.96, 0.97, 0.99), (0.4, 0.5, 0.45)),
}


def store(seeds: int = 5, copies: int = 1, evaluations: int = 10) -> pd.DataFrame:
    """The table: seven tasks × three models × `seeds`, and a length sweep; `copies` grids of it."""
    return table(*(rows for copy in range(copies) for rows in _grid(f"grid{copy or ''}", seeds, evaluations)))


def _grid(grid: str, seeds: int, evaluations: int) -> list[Rows]:
    rng = np.random.default_rng(7)
    parts: list[Rows] = []
    for task, (measures, language, hardest, longer) in TASKS.items():
        for which, model in enumerate(MODELS):
            for seed in range(seeds):
                points = _learnt(measures, hardest[which], None if longer is None else longer[which], evaluations, rng)
                tags = {"measures": measures, "language_class": language, "grid": grid, "run_name": f"{model} · {task}"}
                parts.append(run_rows(s.LEARN, task, model, seed, points, **tags))
    laws = {
        "lstm": {s.TRAIN_STEP_SECONDS: (1e-4, 0.9), s.ENCODE_SECONDS: (5e-5, 0.9), s.PEAK_MEMORY: (1e6, 1.0)},
        "lstm_attention": {s.TRAIN_STEP_SECONDS: (2e-4, 0.9), s.ENCODE_SECONDS: (5e-5, 0.9), s.PEAK_MEMORY: (1e6, 1.2)},
        "transformer": {s.TRAIN_STEP_SECONDS: (2e-3, 0.25), s.ENCODE_SECONDS: (1e-3, 0.2), s.PEAK_MEMORY: (5e5, 1.3)},
    }
    parts.append(sweep_rows(laws, seeds=seeds, grid=grid))
    return parts


def _learnt(
    measures: str, hardest: float, longer: float | None, evaluations: int, rng: np.random.Generator
) -> list[Point]:
    top = float(np.clip(0.97 + 0.01 * rng.normal(), 0, 1))
    name = s.metric(s.TEST, s.TOKEN_ACCURACY)
    points: list[Point] = [(name, None, top)]
    for kind, axis in s.dependencies(measures).items():
        if kind != s.LENGTH:
            for at, share in ((1, 0.0), (4, 0.3), (16, 0.7), (64, 1.0)):
                score = top + share * (hardest - top) + 0.01 * rng.normal()
                points.append((s.metric(s.TEST, s.TOKEN_ACCURACY, axis), at, float(np.clip(score, 0, 1))))
    if longer is not None:
        points.append((s.metric(s.LONGER, s.TOKEN_ACCURACY), None, longer + 0.01 * rng.normal()))
        for at in (10, 20, 40):
            points.append((s.metric(s.TEST, s.TOKEN_ACCURACY, s.LENGTH), at, top))
        for at in (60, 100, 200):
            score = longer + 0.02 * rng.normal() - 0.0002 * at
            points.append((s.metric(s.LONGER, s.TOKEN_ACCURACY, s.LENGTH), at, score))
    for step in range(1, evaluations + 1):
        share = step / evaluations
        points += [
            (s.metric(s.VALIDATION, s.TOKEN_ACCURACY), step * 100, top * share**0.3),
            (s.TRAIN_SECONDS, step * 100, 30 * share * (1 + 0.1 * rng.random())),
            (s.TRAIN_FLOPS, step * 100, 1e12 * share),
        ]
    return points
