"""Where attention looked: the maps that learning runs keep as an artifact, read from the store, not from the table."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from analysis.runs import groups, results
from analysis.sources import is_store
from analysis.variants import side_by_side
from experiments import schema


@dataclass(frozen=True)
class AttentionMap:
    """Weights of one model on one test sequence.

    Attributes:
        grid, task, model, seed, run_id: of the run.
        example: which of the sequences that were kept, from 0; the same for every model on a task.
        source, target: the symbols, S and T of them.
        weights: (T, S), each row summing to 1, mean over layers and heads.
    """

    grid: str
    task: str
    model: str
    seed: int
    run_id: str
    example: int
    source: tuple[str, ...]
    target: tuple[str, ...]
    weights: NDArray[np.float64]


def fetch_maps(source: str | Path, runs: pd.DataFrame) -> list[AttentionMap]:
    """The maps of each model on each task: those of its first seed.

    Args:
        source: where `runs` was read from. Exported tables have no artifacts, and lead to no maps.
        runs: the table.
    """
    if not is_store(source):
        return []
    learnt = results(side_by_side(runs))
    learnt = learnt[learnt["kind"] == schema.LEARN]
    found: list[AttentionMap] = []
    for (grid, task, model), same in groups(learnt, "grid", "task", "model"):
        seed, run_id = int(same["seed"].iloc[0]), str(same["run_id"].iloc[0])
        for example, one in enumerate(_examples(str(source), run_id)):
            symbols = tuple(one["source"]), tuple(one["target"])
            found.append(AttentionMap(grid, task, model, seed, run_id, example, *symbols, np.array(one["weights"])))
    return found


def as_frame(maps: Sequence[AttentionMap]) -> pd.DataFrame:
    """A row a weight: the labels of the map, places and symbols of both sides, and the weight."""
    rows = [
        {
            **{"grid": one.grid, "task": one.task, "model": one.model, "seed": one.seed, "run_id": one.run_id},
            **{"example": one.example, "target_at": t, "target": target, "source_at": s, "source": symbol},
            "weight": one.weights[t, s],
        }
        for one in maps
        for t, target in enumerate(one.target)
        for s, symbol in enumerate(one.source)
    ]
    columns = ["grid", "task", "model", "seed", "run_id", "example", "target_at", "target", "source_at", "source"]
    return pd.DataFrame(rows, columns=[*columns, "weight"])


def _examples(tracking_uri: str, run_id: str) -> list[dict[str, Any]]:
    """What the artifact of a run holds; nothing where it has none (no attention, or tracked before there were any)."""
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # a bar for every file, otherwise
    from mlflow.exceptions import MlflowException
    from mlflow.tracking import MlflowClient

    client = MlflowClient(tracking_uri)
    try:
        if schema.ATTENTION_ARTIFACT not in {file.path for file in client.list_artifacts(run_id)}:
            return []
        with tempfile.TemporaryDirectory() as folder:
            path = client.download_artifacts(run_id, schema.ATTENTION_ARTIFACT, folder)
            return list(json.loads(Path(path).read_text(encoding="utf-8"))["examples"])
    except (MlflowException, OSError) as error:
        logging.getLogger(__name__).warning("the attention maps of run %s cannot be read: %s", run_id, error)
        return []
