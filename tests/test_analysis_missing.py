"""What a campaign asks for is held against the tables beside its list."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from ledger_runs import run_rows, table

from analysis import missing, report
from experiments import schema as s
from experiments.campaign import listed

RESULTS = Path(__file__).parents[1] / "analysis" / "results"
MODELS = ("lstm", "transformer")


def asked(
    grid: str, task: str, model: str, seeds: str, *, profile: str = "small", kind: str = s.LEARN
) -> dict[str, str]:
    labels = {"kind": kind, "task": task, "model": model, "seeds": seeds}
    return {"profile": profile, "grid": grid, "command": f"lvt run {grid}", **labels}


def ran(grid: str, task: str, model: str, seed: int, *, kind: str = s.LEARN, **more: object) -> pd.DataFrame:
    return table(run_rows(kind, task, model, seed, [], grid=grid, **more))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Asks for a sweep and three grids; of `part` one task with both models, the other with one."""
    plan = [asked("sweeps", "", model, "0 1", kind=s.EFFICIENCY) for model in MODELS]
    plan += [asked("part", "recall", model, "0 1 2") for model in MODELS]
    plan += [asked("part", "copy", "lstm", "0 1")]
    plan += [asked("done", "recall", "lstm", "0")]
    plan += [asked("large", "recall", "lstm", "0 1 2 3 4", profile="full")]
    missing.write_plan(plan, tmp_path)
    return tmp_path


def test_what_is_not_there_is_named(folder: Path) -> None:
    there = [ran("sweeps", "", model, seed, kind=s.EFFICIENCY) for model in MODELS for seed in (0, 1)]
    there += [ran("part", "recall", model, 1) for model in MODELS]
    there += [ran("part", "recall", "transformer", 2), ran("done", "recall", "lstm", 0)]
    there += [
        ran("part", "copy", "lstm", 0, status=s.FAILED),
        ran("part", "copy", "lstm", 1, phase=s.TUNING),  # no result
        ran("large", "copy", "lstm", 0),  # nobody asked for it
        ran("large", "recall", "lstm", 1, kind=s.GRADIENTS),
    ]
    runs = pd.concat(there)
    found = missing.missing(runs, folder)
    assert found.to_dict("records") == [
        {
            **{"profile": "small", "grid": "part", "command": "lvt run part", "runs": 8, "here": 3},
            "missing": "recall: LSTM, seeds 0, 2; recall: Transformer, seed 0; copy: LSTM, seeds 0, 1",
        },
        {
            **{"profile": "full", "grid": "large", "command": "lvt run large", "runs": 5, "here": 0},
            "missing": "all",
        },
    ]
    assert list(missing.missing(runs, folder, ["large", "done"])["grid"]) == ["large"]
    assert missing.as_table(found).rows[1] == ("full", "lvt run large", "5", "0", "all")


def test_models_that_lack_the_same_are_named_together_and_many_tasks_are_counted(tmp_path: Path) -> None:
    tasks = [f"task{number}" for number in range(9)]
    missing.write_plan([asked("g", task, model, "0 1") for task in tasks for model in MODELS], tmp_path)
    runs = pd.concat([ran("g", task, model, 1) for task in tasks for model in MODELS])
    (words,) = missing.missing(runs, tmp_path)["missing"]
    assert words.startswith("task0: LSTM, Transformer, seed 0; task1: ")
    assert words.endswith("task3: LSTM, Transformer, seed 0; and 5 more")


def test_without_a_list_nothing_is_said_to_be_missing(tmp_path: Path) -> None:
    runs = ran("part", "recall", "lstm", 0)
    assert missing.missing(runs, tmp_path).empty
    assert missing.missing(runs, None).empty
    page = report.write(runs, tmp_path / "report", title="t", command="c").read_text(encoding="utf-8")
    assert "What is missing" not in page


def test_the_report_shows_it(folder: Path, tmp_path: Path) -> None:
    runs = ran("part", "recall", "lstm", 0)
    lacking = missing.missing(runs, folder)
    page = report.write(runs, tmp_path / "report", title="t", command="c", lacking=lacking)
    for file in (page, page.with_suffix(".md")):
        text = file.read_text(encoding="utf-8")
        _, section = text.split("What is missing" if file.suffix == ".md" else '<section id="missing">')
        assert "recall: LSTM, seeds 1, 2; recall: Transformer, seeds 0, 1, 2; copy: LSTM, seeds 0, 1" in section
        assert "lvt run large" in section


def test_the_list_beside_our_results_is_that_of_the_campaign(tmp_path: Path) -> None:
    """`lvt export campaign` writes it anew where a grid was changed."""
    ours = missing.write_plan(listed(), tmp_path)
    assert ours.read_text(encoding="utf-8") == (RESULTS / missing.PLAN).read_text(encoding="utf-8")
