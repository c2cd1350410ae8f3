"""The notebooks: thin, without outputs, and every one runs from its first cell to its last."""

import json
from pathlib import Path

import pandas as pd
import papermill
import pytest
from example_runs import store
from ledger_runs import gradient_rows, task_rows
from ledger_runs import table as table_of

from analysis import runs

NOTEBOOKS = sorted((Path(runs.__file__).parent / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With gradients and a variant of a model, which are shown where there are any."""
    more = table_of(
        gradient_rows({"lstm": (3.0, 20.0), "transformer": (20.0, 20.0)}),
        task_rows("reverse", {"transformer(positions=none)": (0.5,) * 5}),
    )
    every = pd.concat([store(seeds=5, evaluations=3), more])
    return runs.write(every, tmp_path_factory.mktemp("runs") / "runs.parquet")


def test_the_notebooks_are_there_without_outputs() -> None:
    assert [file.stem for file in NOTEBOOKS] == [
        "comparison_table",
        "inside_the_models",
        "length_scaling",
        "long_dependency",
    ]
    for file in NOTEBOOKS:
        cells = [cell for cell in json.loads(file.read_text("utf-8"))["cells"] if cell["cell_type"] == "code"]
        assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
        assert sum(len(cell["source"]) for cell in cells) < 60  # lines: what is computed stands in analysis


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_a_notebook_runs(file: Path, table: Path, tmp_path: Path) -> None:
    done = tmp_path / file.name
    papermill.execute_notebook(file, done, parameters={"source": str(table), "grids": ["grid"]}, progress_bar=False)
    shown = done.read_text("utf-8")
    assert "135 runs of grid" in shown
    if file.stem in ("comparison_table", "long_dependency"):
        assert "the Transformer is ahead by 4" in shown
    if file.stem != "comparison_table":
        assert '"image/png"' in shown
    if file.stem == "inside_the_models":
        assert shown.count('"image/png"') == 4  # learning, cost, gradients and components; a table has no maps
        assert "**Transformer**" in shown
        assert "positions=none" in shown
