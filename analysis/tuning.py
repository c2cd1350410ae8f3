"""Tuning, from the trials in the store: how many each model had, what was chosen, what fewer would have found."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import drawing, units
from analysis.runs import each, final, groups, names, trials_that_count
from analysis.statistics import expected_maximum
from analysis.tables import Table, as_table
from experiments import schema

TRIAL_COLUMNS = (
    *("grid", "task", "model", "trial", "settings", "sampler", "metric", "score", "pruned", "reason", "seconds"),
    "run_id",
)
CHOICE_COLUMNS = (
    *("grid", "task", "model", "trials", "failed", "pruned", "seconds", "chosen", "score", "metric", "settings"),
)
EXPECTED_COLUMNS = ("grid", "task", "model", "metric", "trials", "score", "runs")


def trials(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a trial that is over, with the columns of `TRIAL_COLUMNS`.

    `metric` is the headline, `score` its value on validation, missing for a trial that failed, for a `reason`, and for
    one that was ended early, after the step `pruned`. `seconds` are what it took; missing where its process was killed.
    Which ones count, `trials_that_count` says.
    """
    found = trials_that_count(runs).rename(columns={"tuned": "settings", "headline": "metric"})
    tuned = runs[runs["run_id"].isin(found["run_id"])]

    def of(metric: pd.Series | str) -> pd.Series:
        """By trial, the value of a metric of its run."""
        values = tuned[tuned["metric"] == metric].set_index("run_id")["value"]
        return found["run_id"].map(values).astype("float64")

    selected = of(schema.SELECTED + "/" + tuned["headline"]).where(found["status"] == schema.FINISHED)
    found = found.assign(score=selected, pruned=of(schema.PRUNED_STEP), seconds=of(schema.RUN_SECONDS))
    return found.sort_values(["grid", "task", "model", "trial"])[list(TRIAL_COLUMNS)].reset_index(drop=True)


def choices(runs: pd.DataFrame) -> pd.DataFrame:
    """One row a model that was tuned on a task, with the columns of `CHOICE_COLUMNS`.

    `trials` are all that are over, `failed` those of them that failed and `pruned` those that were ended early, which
    count as the worst; `seconds` what all of them took, missing where that is not known of each. `chosen` is the trial
    whose `settings` the newest run of the final phase has, missing where there is none yet, and `score` that trial's
    on validation.
    """
    tried, places = trials(runs), ["grid", "task", "model"]
    if tried.empty:
        return pd.DataFrame(columns=list(CHOICE_COLUMNS))
    failed = tried["score"].isna() & tried["pruned"].isna()
    found = (
        tried.assign(failed=failed)
        .groupby(places, as_index=False)
        .agg(
            trials=("trial", "size"),
            failed=("failed", "sum"),
            pruned=("pruned", "count"),
            seconds=("seconds", lambda seconds: seconds.sum(skipna=False)),
            metric=("metric", "first"),
        )
    )
    tuned = each(final(runs)).dropna(subset="trial").sort_values("start_time", kind="stable")
    tuned = tuned.drop_duplicates(places, keep="last")[[*places, "trial", "tuned"]]
    found = found.merge(tuned.rename(columns={"trial": "chosen", "tuned": "settings"}), on=places, how="left")
    scores = tried[[*places, "trial", "score"]].rename(columns={"trial": "chosen"})
    found = found.merge(scores, on=[*places, "chosen"], how="left")
    return found.sort_values(["grid", "task"], kind="stable")[list(CHOICE_COLUMNS)].reset_index(drop=True)


def choices_table(found: pd.DataFrame) -> Table:
    """The frame of `choices` as a table, grid left out where there is one only."""
    quantities = map(units.of, found["metric"])
    scores = [
        units.MISSING if pd.isna(score) else f"{of.name} {of.number(score)} {of.unit}".rstrip()
        for of, score in zip(quantities, found["score"], strict=True)
    ]
    several_grids = len(found["grid"].unique()) > 1
    labels = [*(["grid"] if several_grids else []), "task", "model"]
    counts = ["trials", "failed", "pruned", "seconds", "chosen"]
    columns = found.assign(**{"on validation": scores})[[*labels, *counts, "on validation", "settings"]]
    table = as_table(columns, {"seconds": units.Quantity("cost of trials", "s", form=",.0f")})
    return Table(table.header, table.rows, frozenset(range(len(labels), len(labels) + len(counts))))


def expected(runs: pd.DataFrame) -> pd.DataFrame:
    """Best validation score of so many trials, with the columns of `EXPECTED_COLUMNS`.

    Of trials that were drawn at random it is the expected best over all choices of that many (Dodge et al. 2019); of
    those that follow from each other (TPE), the best of the first so many. A trial that failed or was ended early
    counts as the worst of its model that did not; a model of which all did has no rows.
    """
    rows = []
    for (grid, task, model), tried in groups(trials(runs), "grid", "task", "model"):
        direction = units.of(tried["metric"].iloc[0]).direction
        merits = direction * tried["score"].astype(float)
        if merits.isna().all():
            continue
        merits = merits.fillna(merits.min())
        labels = {"grid": grid, "task": task, "model": model, "metric": tried["metric"].iloc[0]}
        in_turn = (tried["sampler"] == schema.TPE).any()
        best = direction * (merits.cummax().to_numpy() if in_turn else expected_maximum(merits))
        for count, score in enumerate(best, start=1):
            rows.append(labels | {"trials": count, "score": score, "runs": " ".join(tried["run_id"])})
    return pd.DataFrame(rows, columns=list(EXPECTED_COLUMNS))


def curves(runs: pd.DataFrame) -> Figure | None:
    """Best validation score (`expected`) against the number of trials, a panel per task and a line per model."""
    found = expected(runs)
    if found.empty:
        return None
    style, called = drawing.look(found["model"]), names(found)
    panels = list(groups(found, "grid", "task"))
    figure, axes = drawing.panels(len(panels))
    for ax, ((grid, task), rows) in zip(axes, panels, strict=True):
        quantity = units.of(rows["metric"].iloc[0])
        for model, line in rows.groupby("model"):
            look: dict[str, Any] = {"color": style.color[str(model)], "marker": style.marker[str(model)]}
            ax.plot(line["trials"], line["score"] * quantity.scale, linewidth=1.8, markeredgewidth=0, **look)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        drawing.finish(ax, called[grid, task], "trials", f"validation {quantity.title}")
    drawing.legend_of_models(figure, style, found["model"])
    return figure


def sentences(runs: pd.DataFrame) -> list[str]:
    """Of the grids that train models, with how many trials they were tuned; where unequally, which and on what."""
    learnt, tried = each(runs[runs["kind"] == schema.LEARN]), trials(runs)
    found, untuned = [], []
    for grid, rows in learnt.groupby("grid"):
        own = tried[tried["grid"] == grid]
        places = rows[["task", "model"]].drop_duplicates().itertuples(index=False, name=None)
        counts = {place: int(((own["task"] == place[0]) & (own["model"] == place[1])).sum()) for place in places}
        numbers = set(counts.values())
        if numbers == {0}:
            untuned.append(str(grid))
        elif len(numbers) == 1:
            found.append(f"Grid {grid}: every model was tuned with {numbers.pop()} trials on each task.")
        else:
            words = [f"{units.model_name(model)} {counts[task, model]} on {task}" for task, model in sorted(counts)]
            found.append(f"Grid {grid}: the models were not tuned with equal numbers of trials: {', '.join(words)}.")
    if untuned:
        found.append(f"No model was tuned in {', '.join(untuned)}: they were run with the settings stated there.")
    return found
