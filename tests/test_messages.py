"""What is wrong is said in the user's words, with what to do instead."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from experiments.grid import GridError, load_grid
from lvt import app


@pytest.mark.parametrize("command", [["report"], ["claims"], ["verify"], ["recommend", "--length", "9", "--grid"]])
def test_a_campaign_is_no_grid_to_report_on(command: list[str], tmp_path: Path) -> None:
    found = CliRunner().invoke(app, [*command, "campaign", "--tracking-uri", f"sqlite:///{tmp_path}/none.db"])
    assert found.exit_code == 2
    said = " ".join(found.output.split())
    assert "campaign is no grid, it is run, planned and exported: name some of its grids here, or none for all" in said


def test_an_empty_file_is_said_to_be_empty(tmp_path: Path) -> None:
    grid = tmp_path / "empty.yaml"
    for text in ("", "# nothing but words\n"):
        grid.write_text(text, encoding="utf-8")
        with pytest.raises(GridError, match=r"empty\.yaml: the file is empty; a grid states a description"):
            load_grid(str(grid))


def test_a_part_that_there_is_not() -> None:
    words = (
        r"--set profiles\.small\.parts\[5\].*: there is no profiles\.small\.parts\[5\]: .*parts has 2, counted from 0"
    )
    with pytest.raises(GridError, match=words):
        load_grid("real", ["parts.5.compare.seed=[0]"], "small")
