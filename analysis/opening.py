"""The opening of the README: the folklore beside what the exported runs say, every number from their tables.

`python -m analysis.opening` writes it anew between its two marks, with its figures; a test holds the README to it.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import pandas as pd

from analysis import claims, plots
from analysis.runs import each
from analysis.sources import described, fetch
from analysis.tables import Table

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
RESULTS = ROOT / "analysis" / "results"
BEGIN, END = "<!-- findings: python -m analysis.opening -->\n", "<!-- end of findings -->\n"
FIGURES = ("claims", "scores", "cost")  # of analysis.plots


def opening(results: Path) -> str:
    """What stands between the marks, in Markdown.

    Args:
        results: a folder of exported tables; links to figures in it are relative to its grandparent.
    """
    runs = fetch(results)
    entries = claims.ledger(runs)
    answers = claims.folklore(runs, entries)
    table = Table(
        ("", "LSTM, people say", "Transformer, people say", "verdicts"),
        tuple(
            (f"**{answer.row.name}**", answer.row.lstm, answer.row.transformer, ", ".join(_verdicts(answer)))
            for answer in answers
        ),
    )
    parts = [table.markdown()]
    for answer in answers:
        parts.append(f"**{answer.row.name.capitalize()}.** {answer.sentence}{_commands(answer, runs, results)}")
    for plot in _figures(runs, entries):
        path = (_figure_folder(results) / f"{plot.name}.svg").relative_to(results.parents[1])
        parts.append(f"![{plot.title}]({path.as_posix()})")
    sources = [
        f"- `{entry['command']}`: {entry['runs']} runs on {entry['hardware']}, {', '.join(entry['versions'])},"
        f" {entry['last']}, {entry['wall_seconds'] / 60:.0f} minutes from the first start to the last end"
        for entry in described(results).values()
    ]
    parts.append("What this stands on (tables in `analysis/results/`):\n\n" + "\n".join(sources))
    return "\n\n".join(parts) + "\n"


def write(readme: Path, results: Path) -> None:
    """Puts the opening into the README, and its figures into the folder of results."""
    before, rest = readme.read_text(encoding="utf-8").split(BEGIN)
    _, after = rest.split(END)
    readme.write_text(before + BEGIN + opening(results) + END + after, encoding="utf-8")
    runs = fetch(results)
    folder = _figure_folder(results)
    folder.mkdir(exist_ok=True)
    for plot in _figures(runs, claims.ledger(runs)):
        figure = plot.draw(runs)
        assert figure is not None
        with mpl.rc_context({"svg.hashsalt": plot.name, "svg.fonttype": "path"}):
            figure.savefig(folder / f"{plot.name}.svg", facecolor="white", metadata={"Date": None})


def _verdicts(answer: claims.Answer) -> list[str]:
    return [f"{claim} {verdict}" for claim, verdict in answer.verdicts]


def _figures(runs: pd.DataFrame, entries: list[claims.Entry]) -> list[plots.Plot]:
    """Those that there are data for."""
    every = {plot.name: plot for plot in (plots.forest(entries), *plots.PLOTS)}
    return [every[name] for name in FIGURES if every[name].draw(runs) is not None]


def _figure_folder(results: Path) -> Path:
    return results / "figures"


def _commands(answer: claims.Answer, runs: pd.DataFrame, results: Path) -> str:
    """What runs the grids behind an answer, in brackets."""
    behind = {run for entry in answer.entries for run in entry.runs}
    every = each(runs)
    grids = set(every.loc[every["run_id"].isin(behind), "grid"])
    commands = sorted({f"`{entry['command']}`" for file, entry in described(results).items() if file.stem in grids})
    return f" ({', '.join(commands)})" if commands else ""


if __name__ == "__main__":
    write(README, RESULTS)
