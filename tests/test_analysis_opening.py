"""The opening of the README on tables other than those of the checkout."""

from pathlib import Path

import pytest
from ledger_runs import around, table, task_rows

from analysis import opening
from analysis.sources import export


def test_a_grid_whose_runs_do_not_say_how_long_they_took(tmp_path: Path) -> None:
    results = tmp_path / "analysis" / "results"
    export(table(task_rows("recall", {"lstm": around(0.9), "transformer": around(0.99)})), results)
    row = next(line for line in opening.opening(results).splitlines() if "`lvt run grid`" in line)
    assert [cell.strip() for cell in row.split("|")[1:-1]] == ["grid", "`lvt run grid`", "10", "1970-01-01", "–"]


@pytest.mark.parametrize(
    ("asked", "stated"),
    [
        (["lvt run g --set 'compare.seed=[1]'"], "`lvt run g --set 'compare.seed=[1]'`"),
        (
            [
                "lvt run g --profile full --set 'compare.seed=[1]' --workers 2",
                "lvt run g --profile full --workers 2",
                "lvt run g --set fixed.steps=5",
                "lvt run g --profile full --set 'compare.seed=[2]' --set 'compare.model=[{name: lstm}]' --workers 2",
                "lvt run g --profile full --set compare.seed=2 --workers 2",
            ],
            "`lvt run g --profile full --set compare.… --workers 2`: 3 commands, which the manifest lists, "
            "`lvt run g --profile full --workers 2`, `lvt run g --set fixed.steps=5`",
        ),
    ],
)
def test_commands_for_parts_of_a_grid_are_one_line(tmp_path: Path, asked: list[str], stated: str) -> None:
    runs = table(task_rows("recall", {"lstm": around(0.9), "transformer": around(0.99)}))
    commands = [asked[number % len(asked)] for number in range(len(runs))]
    results = tmp_path / "analysis" / "results"
    export(runs.assign(command=commands), results)
    assert f" {stated} " in opening.opening(results)
