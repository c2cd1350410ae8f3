"""What of the campaign has not been run: its runs, as a folder of results lists them, without those it has tables of.

The list is a file beside the tables, a row for each task and model of each grid. `lvt export campaign` writes it.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from analysis import units
from analysis.runs import each, groups, results
from analysis.tables import Table

PLAN = "campaign.csv"
PLAN_COLUMNS = ("profile", "grid", "command", "kind", "task", "model", "seeds")
COLUMNS = ("profile", "grid", "command", "runs", "here", "missing")
NOTHING = pd.DataFrame(columns=list(COLUMNS))
ALL = "all"
MOST_TASKS = 4  # that are named of a grid
_CASE = ["grid", "kind", "task", "model"]


def write_plan(plan: Sequence[dict[str, str]], folder: str | os.PathLike[str]) -> Path:
    """Writes what a campaign runs into a folder of exported tables.

    Args:
        plan: a row for each task and model of a grid, with `PLAN_COLUMNS`; seeds as ``"0 1 2"``.
        folder: of the tables.
    """
    file = Path(folder) / PLAN
    file.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(plan, columns=list(PLAN_COLUMNS)).to_csv(file, index=False, lineterminator="\n")
    return file


def missing(
    runs: pd.DataFrame, folder: str | os.PathLike[str] | None, grids: Collection[str] | None = None
) -> pd.DataFrame:
    """The grids of the campaign that are not complete.

    Args:
        runs: the table of runs; those of the final phase that finished count, whatever they ran on.
        folder: of the exported tables; without one, or without a list in it, nothing is known to be missing.
        grids: names of those that are asked about; None: all.

    Returns:
        A row a grid and command with `COLUMNS`: profile of the campaign, how many runs it asks for, how many of them
        are `here`, and in words which are not: "all", or tasks, models and seeds.
    """
    file = None if folder is None else Path(folder) / PLAN
    if file is None or not file.exists():
        return NOTHING
    plan = pd.read_csv(file, dtype=str, keep_default_na=False)
    if grids is not None:
        plan = plan[plan["grid"].isin(grids)]
    asked = plan.assign(seed=plan["seeds"].str.split()).explode("seed").drop(columns="seeds").astype({"seed": int})
    done = each(results(runs))[[*_CASE, "seed"]].drop_duplicates().assign(here=True)
    asked = asked.merge(done, on=[*_CASE, "seed"], how="left").assign(here=lambda frame: frame["here"].notna())
    rows = []
    for (profile, grid, command), part in groups(asked, "profile", "grid", "command", sort=False):
        here = int(part["here"].sum())
        if here < len(part):
            words = _in_words(part[~part["here"]]) if here else ALL
            rows.append((profile, grid, command, len(part), here, words))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def as_table(found: pd.DataFrame) -> Table:
    """The frame of `missing`."""
    rows = tuple(
        (profile, command, f"{runs:,}", f"{here:,}", words)
        for profile, _, command, runs, here, words in found.itertuples(index=False)
    )
    return Table(("campaign", "command", "runs", "here", "missing"), rows, frozenset({2, 3}))


def _in_words(part: pd.DataFrame) -> str:
    """Tasks with the models and seeds that they lack: ``"cogs: LSTM, Transformer, seeds 1, 2"``."""
    seeds = part.groupby(["task", "model"], sort=False)["seed"].agg(lambda seeds: ", ".join(map(str, sorted(seeds))))
    cases = seeds.reset_index().groupby(["task", "seed"], sort=False)["model"].agg(units.in_order).reset_index()
    words = [
        f"{task or 'sweep'}: {', '.join(map(units.model_name, models))}, seed{'s' if ',' in numbers else ''} {numbers}"
        for task, numbers, models in cases.itertuples(index=False)
    ]
    more = len(words) - MOST_TASKS
    return "; ".join(words[:MOST_TASKS]) + (f"; and {more} more" if more > 0 else "")
