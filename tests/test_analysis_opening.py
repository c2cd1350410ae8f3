"""The opening of the README on tables other than those of the checkout."""

from pathlib import Path

from ledger_runs import around, table, task_rows

from analysis import opening
from analysis.sources import export


def test_a_grid_whose_runs_do_not_say_how_long_they_took(tmp_path: Path) -> None:
    results = tmp_path / "analysis" / "results"
    export(table(task_rows("recall", {"lstm": around(0.9), "transformer": around(0.99)})), results)
    row = next(line for line in opening.opening(results).splitlines() if "`lvt run grid`" in line)
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["grid", "`lvt run grid`", "10", "1970-01-01", "–"]
