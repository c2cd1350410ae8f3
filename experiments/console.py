"""What the command line prints, and how it ends. What is slow to import is imported where it is needed."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from rich.console import Console

USAGE = 2  # exit code for bad usage and bad grids; 1 is for runs that failed


def console() -> Console:
    """As wide as the terminal; wide enough for any table where there is none."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 200)


def number_of_runs(number: int) -> str:
    """``"1 run"``, ``"2 runs"``."""
    return f"{number} run" if number == 1 else f"{number} runs"


def table(columns: list[str], rows: list[list[str]], right: list[str] | None = None) -> object:
    """A table of texts for the console, folded to its width; the columns named in `right` hold numbers."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, justify="right" if column in (right or []) else "left", overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def show_runs(columns: list[str], rows: list[list[str]], right: Collection[str] = ()) -> None:
    """Prints a line a run, however wide: there may be ten thousand, for which rich takes as many milliseconds.

    The columns named in `right` hold numbers.
    """
    from rich.cells import cell_len

    widths = [max(map(cell_len, cells)) for cells in zip(columns, *rows, strict=True)]
    for row in (columns, *rows):
        padded = [
            " " * (width - cell_len(cell)) + cell if column in right else cell + " " * (width - cell_len(cell))
            for column, cell, width in zip(columns, row, widths, strict=True)
        ]
        line = "  ".join(padded).rstrip()
        typer.echo(typer.style(line, bold=True) if row is columns else line)


def stop(message: str, code: int = USAGE) -> NoReturn:
    """Ends the command with a message."""
    typer.echo(f"lvt: {message}", err=True)
    raise typer.Exit(code)
