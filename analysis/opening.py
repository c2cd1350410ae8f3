"""The opening of the README: the folklore beside what the exported runs say, every number from their tables.

`python -m analysis.opening` writes it anew between its two marks, with its figures; a test holds the README to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from analysis import claims, drawing, plots, published, recommend, units, variants
from analysis.missing import as_table, missing
from analysis.runs import each
from analysis.sources import described, fetch
from analysis.tables import Table

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS_HERE = "analysis/results"
RESULTS = ROOT / RESULTS_HERE
BEGIN, END = "<!-- findings: python -m analysis.opening -->\n", "<!-- end of findings -->\n"
FIGURES = ("claims", "scores", "cost")  # of analysis.plots
CURVES = ("long_dependency", "capacity", "length_generalisation")  # grids whose scores are drawn: all are too many
EVERYDAY = 100  # tokens: the length for which the opening says which model to take
COMPARED = re.compile(r"(?: --set (?:'compare\.[^']*'|compare\.\S*))+")  # in a command: what it runs of a grid
COMPONENTS = "5"  # the family of claims that a model's components matter


def opening(results: Path) -> str:
    """What stands between the marks, in Markdown.

    Args:
        results: a folder of exported tables and `draw`n figures; links to these are relative to its grandparent.
    """
    runs = fetch(results)
    entries = claims.ledger(runs)
    answers = claims.folklore(runs, entries)
    table = Table(
        ("", "LSTM, people say", "Transformer, people say", f"measured here, on {_devices(runs)}"),
        tuple(
            (f"**{answer.row.name}**", answer.row.lstm, answer.row.transformer, "<br>".join(_answers(answer)))
            for answer in answers
        ),
    )
    parts = [_in_short(runs), table.markdown()]
    for answer in answers:
        numbers = [_numbers(entry) for entry in answer.entries if entry.measured]
        parts.append(f"**{answer.row.name.capitalize()}**{_grids(answer.entries, runs)}\n\n" + "\n".join(numbers))
    components = [entry for entry in entries if entry.claim.family == COMPONENTS and entry.measured]
    if components:
        parts.append(f"**Components**{_grids(components, runs)}\n\n{_components(components).markdown()}")
    checks = published.verify(runs)
    if measured := published.measured(checks):
        parts.append(
            f"**The published record** (`lvt verify --results {RESULTS_HERE}`)\n\n{_checks(measured).markdown()}"
        )
        if lacking := [check.what for check in checks if check not in measured]:
            parts.append(f"Not measured: {'; '.join(lacking)}.")
    for plot in _plots(entries):
        path = _figure(results, plot)
        if path.exists():
            parts.append(f"![{plot.title}]({path.relative_to(results.parents[1]).as_posix()})")
    parts.append(f"What this stands on, and how it is run again (tables in `{RESULTS_HERE}/`):")
    parts += _sources(described(results))
    rest = missing(runs, results)
    if len(rest):
        parts.append(f"What of the campaign is missing:\n\n{as_table(rest).markdown()}")
    return "\n\n".join(parts) + "\n"


def draw(results: Path) -> None:
    """Draws the figures that there are data for, into the folder of results."""
    runs = fetch(results)
    plain = variants.simplified(runs)
    asked = plain["grid"].str.partition("-")[0].isin(CURVES)
    for plot in _plots(claims.ledger(runs)):
        path = _figure(results, plot)
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        if (figure := plot.draw(plain[asked] if plot.name == "scores" and asked.any() else plain)) is not None:
            drawing.save(figure, [path])


def write(readme: Path, results: Path) -> None:
    """Draws the figures, and puts the opening into the README."""
    draw(results)
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(before + BEGIN + opening(results) + END + after, encoding="utf-8")


def _in_short(runs: pd.DataFrame) -> str:
    """Which model these runs speak for where sequences are of an everyday length."""
    advice = recommend.recommend(runs, recommend.Need(EVERYDAY, generate=EVERYDAY))
    answer = f"take the {units.model_name(advice.model)}" if advice.model else "the runs do not speak for one model"
    command = f"lvt recommend --results {RESULTS_HERE} --length {EVERYDAY} --generate {EVERYDAY}"
    because = "; ".join(advice.because)
    return f"**In short**, for sources and answers of {EVERYDAY} tokens: {answer}. {because} (`{command}`)."


def _devices(runs: pd.DataFrame) -> str:
    """``"a CPU"``, ``"a CPU and a GPU"``."""
    found = sorted(device for device in each(runs)["device"].unique() if device)
    return " and ".join("a GPU" if device == "cuda" else "a CPU" for device in found)


def _checks(checks: Sequence[published.Check]) -> Table:
    """Ours beside what was published; what deviates stands last."""
    order = list(published.Outcome)
    rows = tuple(
        (
            *(check.what, check.form.said(check.ours), check.form.number(check.published)),
            *(check.tolerance, f"**{check.outcome}**"),
        )
        for check in sorted(checks, key=lambda check: order.index(check.outcome))
    )
    return Table(("", "here", "published", "tolerance", ""), rows, frozenset({1, 2}))


def _answers(answer: claims.Answer) -> list[str]:
    return [f"**{entry.name}**: {entry.answer}" for entry in answer.entries]


def _plots(entries: list[claims.Entry]) -> list[plots.Plot]:
    every = {plot.name: plot for plot in (plots.forest(entries), *plots.PLOTS)}
    return [every[name] for name in FIGURES]


def _figure(results: Path, plot: plots.Plot) -> Path:
    return results / "figures" / f"{plot.name}.svg"


def _numbers(entry: claims.Entry) -> str:
    """A claim with its numbers, and what its verdict stands on."""
    return f"- {entry.answer} (**{entry.name}**): {'; '.join(filter(None, (entry.clause, entry.briefly)))}."


def _components(entries: Sequence[claims.Entry]) -> Table:
    """The claims on components by verdict, the largest effects first."""
    order = list(claims.Verdict)
    rows = tuple(
        (f"**{entry.verdict}**", entry.claim.says, entry.number, str(entry.counting), entry.briefly)
        for entry in sorted(entries, key=lambda entry: (order.index(entry.verdict), -entry.effect.estimate))
    )
    header = ("", "claim", "full model minus the variant", "tasks", "on what, or why not")
    return Table(header, rows, frozenset({2, 3}))


def _sources(tables: Mapping[Path, dict[str, Any]]) -> Iterator[str]:
    """A line on each machine with its versions, and under it a table of what was run there."""
    places: dict[str, list[tuple[str, ...]]] = {}
    for file, entry in tables.items():
        place = f"{entry['hardware']}, {', '.join(entry['versions'])}"
        seconds = entry["wall_seconds"]  # None where no run says how long it took
        minutes = units.MISSING if seconds is None else f"{seconds / 60:,.0f}"
        row = (file.stem, _shortened(entry["commands"]), f"{entry['runs']:,}", entry["last"], minutes)
        places.setdefault(place, []).append(row)
    header = ("grid", "command", "runs", "last run", "minutes in which it ran")
    for place, rows in places.items():
        yield place
        yield Table(header, tuple(rows), frozenset({2, 4})).markdown()


def _grids(entries: Sequence[claims.Entry], runs: pd.DataFrame) -> str:
    """The grids behind some entries, in brackets."""
    behind = {run for entry in entries for run in entry.runs}
    every = each(runs)
    grids = sorted(set(every.loc[every["run_id"].isin(behind), "grid"]))
    return f" ({_quoted(grids)})" if grids else ""


def _shortened(commands: Iterable[str]) -> str:
    """Commands; those that differ only in which runs of a grid they name (``--set compare.seed=[1]``) as one line."""
    alike: dict[str, list[str]] = {}
    for command in commands:
        alike.setdefault(COMPARED.sub(" --set compare.…", command), []).append(command)
    return ", ".join(
        f"`{short}`: {len(own)} commands, which the manifest lists" if len(own) > 1 else f"`{own[0]}`"
        for short, own in alike.items()
    )


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    write(README, RESULTS)
