"""The comparison report: a folder with a page that stands alone, the same in Markdown, the figures and the numbers."""

from __future__ import annotations

import base64
import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from analysis import (
    ablations,
    claims,
    drawing,
    growth,
    missing,
    plots,
    profiles,
    published,
    reach,
    scaling,
    tables,
    token_costs,
    tuning,
    units,
    variants,
)
from analysis import runs as runs_table
from analysis.attention_maps import AttentionMap
from analysis.runs import each, final
from experiments import schema

_TEMPLATES = Path(__file__).parent / "templates"
# The neutral colours of a figure become the page's, so that one drawing serves light and dark; its ground goes.
_PAGE_COLORS = {
    drawing.INK: "var(--ink)",
    drawing.MUTED: "var(--muted)",
    drawing.RULE: "var(--rule)",
    "#000000": "var(--ink)",
    "#ffffff": "none",
}
_APART = ("claims", "components", "tuning", "profile")  # figures that stand in a section with more than a figure
_ABRIDGED = (
    f"Of a grid with more than {variants.MOST_LABELS} models only the full one of each family stands here; its variants"
    " stand in “What each component buys” and in the table of models, all numbers in comparison.csv."
)


@dataclass(frozen=True)
class Drawn:
    """A figure of this report: what it is, what it shows in words, and the drawing for the page."""

    plot: plots.Plot
    alt: str
    svg: Markup
    numbers: str  # what it draws, as the address of a CSV that holds all of it
    runs: int  # behind it


def write(
    runs: pd.DataFrame,
    folder: str | os.PathLike[str],
    *,
    title: str,
    command: str,
    maps: Sequence[AttentionMap] = (),
    lacking: pd.DataFrame = missing.NOTHING,
    progress: Callable[[str], None] = lambda _: None,
) -> Path:
    """Writes the report on `runs` into `folder`.

    There are report.html (self-contained: nothing in it is loaded from anywhere, the numbers of its figures are in it),
    report.md, figures/*.svg and *.png with their numbers as *.csv, every measured value as runs.parquet, a row a run
    with its scalars as runs.csv, the numbers behind the tables and sentences as comparison.csv, reach.csv,
    ablations.csv, models.csv, claims.csv, findings.csv and, of sweeps over length, growth.csv and
    stops.csv and token_costs.csv, of tuning trials.csv, and LaTeX tables (booktabs) as *.tex.

    Args:
        runs: what analysis.runs.load returned.
        folder: made if need be; files of an earlier report in it are replaced.
        title: heading of the report.
        command: the command line that makes it again.
        maps: of attention, which are no part of the table; without them there is no such figure.
        lacking: what `analysis.missing.missing` found of a campaign.
        progress: told what is being made.

    Returns:
        The path of report.html.
    """
    target = Path(folder)
    (target / "figures").mkdir(parents=True, exist_ok=True)
    progress("tables and claims")
    plain = variants.simplified(runs)
    numbers, models, entries = tables.comparison(plain), tables.models_table(runs), claims.ledger(runs)
    answers, checks = claims.folklore(runs, entries), published.verify(runs)
    reached, effects, stops = reach.reached(plain), ablations.effects(runs), scaling.stops(plain)
    costs, parts = token_costs.token_costs(plain), profiles.step_parts(runs)
    runs_table.write(runs, target / "runs.parquet")
    runs_table.scalars(runs).to_csv(target / "runs.csv", index=False)
    numbers.to_csv(target / "comparison.csv", index=False)
    reached.to_csv(target / "reach.csv", index=False)
    effects.to_csv(target / "ablations.csv", index=False)
    models.to_csv(target / "models.csv", index=False)
    claims.as_frame(entries).to_csv(target / "claims.csv", index=False)
    claims.findings_table(answers).to_csv(target / "findings.csv", index=False)
    growth.growth(runs).to_csv(target / "growth.csv", index=False)
    stops.to_csv(target / "stops.csv", index=False)
    costs.to_csv(target / "token_costs.csv", index=False)
    parts.to_csv(target / "step_parts.csv", index=False)
    tuning.trials(runs).to_csv(target / "trials.csv", index=False)
    texts = {
        "comparison": tables.comparison_table(numbers),
        "reach": reach.as_table(reached),
        "claims": claims.as_table(entries),
        "models": tables.models_as_table(models),
    }
    for name, table in texts.items():
        (target / f"{name}.tex").write_text(table.latex(), encoding="utf-8")
    drawn = []
    for plot in (plots.forest(entries), *plots.PLOTS, plots.attention(maps)):
        progress(f"figure: {plot.title}")
        if one := _draw(plot, plain, target / "figures"):
            drawn.append(one)
    apart = {one.plot.name: one for one in drawn if one.plot.name in _APART}
    progress("pages")
    content = {
        "title": title,
        "command": command,
        "facts": facts(plain),
        "short": tables.comparison_table(numbers, [tables.SCORE], overall=True),
        "comparison": texts["comparison"],
        "reach": texts["reach"],
        "ledger": texts["claims"],
        "entries": entries,
        "decided": Counter(str(one.verdict) for one in entries),
        "checks": published.as_table(published.measured(checks)),
        "runs": run_list(runs),
        "folklore": answers,
        "left_out": claims.left_out(runs),
        "abridged": "" if numbers["shown"].all() else _ABRIDGED,
        "components": ablations.sections(effects),
        "components_figure": apart.get("components"),
        "claims_figure": apart.get("claims"),
        "tuning_figure": apart.get("tuning"),
        "profile_figure": apart.get("profile"),
        "figures": [one for one in drawn if one.plot.name not in _APART],
        "token_costs": token_costs.as_table(costs),
        "token_costs_note": token_costs.NOTE,
        "step_parts": profiles.as_table(parts),
        "step_parts_note": profiles.NOTE,
        "machines": token_costs.machines(plain),
        "stops": tables.stops_as_table(stops),
        "tuning": tuning.choices_table(tuning.choices(runs)),
        "tuned": tuning.sentences(runs),
        "models": texts["models"],
        "failures": tables.failures_as_table(tables.failures(runs)),
        "missing": missing.as_table(lacking),
        "environment": tables.as_table(environment(runs)),
        "superseded": len(runs_table.superseded(runs)),
        "fewest_seeds": int(numbers["n"].min()) if len(numbers) else 0,
    }
    for name in ("report.html", "report.md"):
        pages = Environment(
            loader=FileSystemLoader(_TEMPLATES),
            autoescape=name.endswith(".html"),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        (target / name).write_text(pages.get_template(f"{name}.j2").render(content), encoding="utf-8")
    return target / "report.html"


def facts(runs: pd.DataFrame) -> dict[str, str]:
    """The line under the title: what was run, how much of it finished, on what and when; without superseded runs."""
    tried, runs = len(tuning.trials(runs)), final(runs)
    runs = runs[~runs["run_id"].isin(runs_table.superseded(runs)["run_id"])]
    every = each(runs)
    finished = every[every["status"] == schema.FINISHED]
    failed = tables.failures(runs)
    stopped = failed[failed["status"].isin([schema.FAILED, schema.KILLED]) & (failed["later"] == "")]
    started = every["start_time"].dropna()
    shown = set(variants.side_by_side(runs)["model"]) | set(every.loc[every["kind"] != schema.LEARN, "model"])
    others = len(set(every["model"]) - shown)
    seeds = finished.groupby(list(runs_table.LABELS))["seed"].nunique()
    found = {
        "grids": ", ".join(sorted(every["grid"].unique())),
        "models": ", ".join(map(units.model_name, units.in_order(shown)))
        + (f" and {others} variant{'s' if others > 1 else ''}" if others else ""),
        "runs": f"{len(finished)} finished" + (f", {len(stopped)} failed" if len(stopped) else ""),
        "tuning": f"{tried} trials" if tried else "",
        "seeds of each": " to ".join(dict.fromkeys(map(str, (seeds.min(), seeds.max())))) if len(seeds) else "",
        "hardware": ", ".join(sorted(set(finished["hardware"]) - {""})),
        "date": " to ".join(
            dict.fromkeys(f"{day:%Y-%m-%d}" for day in (started.min(), started.max()) if day is not pd.NaT)
        ),
    }
    return {name: value for name, value in found.items() if value}


def run_list(runs: pd.DataFrame) -> tables.Table:
    """Every finished run: its name, identifier in the store, key and hardware."""
    finished = each(runs[runs["status"] == schema.FINISHED])
    return tables.as_table(finished[["run_name", "kind", "seed", "run_id", "key", "hardware"]])


def environment(runs: pd.DataFrame) -> pd.DataFrame:
    """What the finished runs ran on: a row per device, hardware, versions and commit, with the number of runs.

    What no run knows of itself (outside a git checkout there is no commit) has no column.
    """
    finished = each(runs[runs["status"] == schema.FINISHED])
    code = finished["git_commit"].str[:12] + finished["git_dirty"].map({"true": " with changes"}).fillna("")
    labelled = finished.assign(code=code, runs=1)
    known = [name for name in ("device", "hardware", "versions", "code") if (labelled[name] != "").any()]
    return labelled.groupby(known, as_index=False)[["runs"]].sum() if known else labelled[[]]


def _draw(plot: plots.Plot, runs: pd.DataFrame, folder: Path) -> Drawn | None:
    files = [folder / f"{plot.name}.{kind}" for kind in ("svg", "png")]
    numbers = folder / f"{plot.name}.csv"
    for file in (*files, numbers):
        file.unlink(missing_ok=True)
    figure = plot.draw(runs)
    if figure is None:
        return None
    drawing.save(figure, files)
    panels = [" ".join(ax.get_title(loc="left").split()) for ax in figure.axes]
    lines = [text.get_text() for text in figure.legends[0].get_texts()]
    alt = f"{plot.title}: {', '.join(dict.fromkeys(panels))}; for {', '.join(lines)}."
    data = plot.data(runs)
    data.to_csv(numbers, index=False)
    address = f"data:text/csv;base64,{base64.b64encode(numbers.read_bytes()).decode()}"
    svg = _inline(files[0].read_text(encoding="utf-8"), plot.name, alt)
    return Drawn(plot, alt, svg, address, len(plots.runs_behind(data)))


def _inline(svg: str, name: str, alt: str) -> Markup:
    """The drawing as an element of the page: page colours, ids of its own, scaled to the column, named for readers."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    body = re.sub(r'\bid="', f'id="{name}-', body)
    body = re.sub(r"(url\(#|href=\"#)", rf"\1{name}-", body)
    for color, variable in _PAGE_COLORS.items():
        body = body.replace(color, variable)
    body = re.sub(r' xmlns(:xlink)?="[^"]*"', "", body).replace("xlink:href", "href")
    size = re.search(r'width="([\d.]+)pt" height="[\d.]+pt"', body)
    assert size is not None
    body = body.replace(size.group(), f'style="max-width: {float(size.group(1)) * 4 / 3:.0f}px"', 1)
    label = Markup('<svg role="img" aria-label="{}"').format(alt)
    return Markup(body.replace("<svg", label, 1))
