"""The opening of the README: the folklore beside what the exported runs say, every number from their tables.

`python -m analysis.opening` writes it anew between its two marks, with its figures; a test holds the README to it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pandas as pd

from analysis import claims, drawing, plots, published, variants
from analysis.runs import each
from analysis.sources import described, fetch
from analysis.tables import Table

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "analysis" / "results"
BEGIN, END = "<!-- findings: python -m analysis.opening -->\n", "<!-- end of findings -->\n"
FIGURES = ("claims", "scores", "cost")  # of analysis.plots
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
        ("", "LSTM, people say", "Transformer, people say", "measured here"),
        tuple(
            (f"**{answer.row.name}**", answer.row.lstm, answer.row.transformer, "<br>".join(_answers(answer)))
            for answer in answers
        ),
    )
    parts = [table.markdown()]
    for answer in answers:
        numbers = [_numbers(entry) for entry in answer.entries if entry.measured]
        commands = _commands(answer.entries, runs, results)
        parts.append(f"**{answer.row.name.capitalize()}**{commands}\n\n" + "\n".join(numbers))
    components = [entry for entry in entries if entry.claim.family == COMPONENTS and entry.measured]
    if components:
        commands = _commands(components, runs, results)
        parts.append(f"**Components**{commands}: that each matters is\n\n" + "\n".join(_by_verdict(components)))
    checks = published.measured(published.verify(runs))
    if checks:
        parts.append(
            "**The published record** (`lvt verify --results analysis/results`)\n\n" + "\n".join(_said(checks))
        )
    for plot in _plots(entries):
        path = _figure(results, plot)
        if path.exists():
            parts.append(f"![{plot.title}]({path.relative_to(results.parents[1]).as_posix()})")
    sources = [
        f"- {_quoted(entry['commands'])}: {entry['runs']} runs on {entry['hardware']}, {', '.join(entry['versions'])},"
        f" {entry['last']}, {entry['wall_seconds'] / 60:.0f} minutes from the first start to the last end"
        for entry in described(results).values()
    ]
    parts.append("What this stands on (tables in `analysis/results/`):\n\n" + "\n".join(sources))
    return "\n\n".join(parts) + "\n"


def draw(results: Path) -> None:
    """Draws the figures that there are data for, into the folder of results."""
    runs = fetch(results)
    plain = variants.simplified(runs)
    for plot in _plots(claims.ledger(runs)):
        path = _figure(results, plot)
        path.parent.mkdir(exist_ok=True)
        path.unlink(missing_ok=True)
        if (figure := plot.draw(plain)) is not None:
            drawing.save(figure, [path])


def write(readme: Path, results: Path) -> None:
    """Draws the figures, and puts the opening into the README."""
    draw(results)
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(before + BEGIN + opening(results) + END + after, encoding="utf-8")


def _said(checks: list[published.Check]) -> Iterator[str]:
    """A line for each outcome, with its checks: ours, and what was published."""
    for outcome in published.Outcome:
        found = [
            f"{check.what} {check.form.said(check.ours)} ({check.form.number(check.published)})"
            for check in checks
            if check.outcome is outcome
        ]
        if found:
            yield f"- {outcome}: {'; '.join(found)}."


def _answers(answer: claims.Answer) -> list[str]:
    return [f"{entry.answer} ({entry.name})" for entry in answer.entries]


def _plots(entries: list[claims.Entry]) -> list[plots.Plot]:
    every = {plot.name: plot for plot in (plots.forest(entries), *plots.PLOTS)}
    return [every[name] for name in FIGURES]


def _figure(results: Path, plot: plots.Plot) -> Path:
    return results / "figures" / f"{plot.name}.svg"


def _numbers(entry: claims.Entry) -> str:
    """A claim with its numbers, and what its verdict stands on."""
    said = (entry.clause, entry.condition, entry.left_out_briefly)
    return f"- {entry.answer} (**{entry.name}**): {'; '.join(filter(None, said))}."


def _by_verdict(entries: Sequence[claims.Entry]) -> Iterator[str]:
    """A line for each verdict on components, the largest effects first."""
    for verdict in claims.Verdict:
        found = [entry for entry in entries if entry.verdict is verdict]
        found.sort(key=lambda entry: -entry.effect.estimate)
        if found:
            said = [entry.clause + (f" ({entry.left_out_briefly})" if entry.left_out else "") for entry in found]
            yield f"- **{verdict}**: {'; '.join(said)}."


def _commands(entries: Sequence[claims.Entry], runs: pd.DataFrame, results: Path) -> str:
    """What runs the grids behind some entries, in brackets."""
    behind = {run for entry in entries for run in entry.runs}
    every = each(runs)
    grids = set(every.loc[every["run_id"].isin(behind), "grid"])
    asked = [entry["commands"] for file, entry in described(results).items() if file.stem in grids]
    return f" ({_quoted(sorted(set().union(*asked)))})" if asked else ""


def _quoted(commands: list[str]) -> str:
    return ", ".join(f"`{command}`" for command in commands)


if __name__ == "__main__":
    write(README, RESULTS)
