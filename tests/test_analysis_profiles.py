"""Where a training step's time goes: the report's table equals the numbers put in, also from exported tables."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from ledger_runs import Rows, run_rows, table

from analysis import plots, profiles, report, runs, sources
from experiments import schema as s

TASK = "associative_recall"


def profiled(model: str, seed: int, milliseconds: dict[str, float], **more: str) -> Rows:
    points = [(s.PART_SECONDS[part], None, taken / 1000) for part, taken in milliseconds.items()]
    return run_rows(s.PROFILE, TASK, model, seed, points, gates="", **more)


def two_models() -> pd.DataFrame:
    """Three seeds of the LSTM, of which one took far longer; one of the Transformer, which has no recurrence."""
    return table(
        *(profiled("lstm", n, {"recurrence": t, "attention": 0, "other": 2}) for n, t in enumerate((6, 8, 98))),
        profiled("transformer", 0, {"recurrence": 0, "attention": 3, "other": 1}),
    )


def test_parts_of_each_model_are_medians_over_runs() -> None:
    """Of the LSTM: recurrence 6 of 8, 8 of 10, 98 of 100."""
    shown = profiles.as_table(profiles.step_parts(two_models()))
    assert shown.header == ("part", "LSTM, ms", "LSTM, %", "Transformer, ms", "Transformer, %")
    assert shown.rows == (
        ("attention", "0.00", "0.0", "3.00", "75.0"),
        ("recurrence", "8.00", "80.0", "0.00", "0.0"),
        ("other", "2.00", "20.0", "1.00", "25.0"),
        (profiles.STEP, "10.00", "100.0", "4.00", "100.0"),
    )


def test_another_machine_is_another_block_and_other_settings_stand_in() -> None:
    here = {"recurrence": 6.0, "other": 2.0}
    runs_ = table(
        profiled("lstm", 0, here),
        profiled("lstm", 0, {"device idle": 3.0}, hardware="a GPU", run_id="there"),
    )
    shown = profiles.as_table(profiles.step_parts(runs_))
    assert [row[:3] for row in shown.rows] == [
        ("a GPU", "device idle", "3.00"),
        ("a GPU", profiles.STEP, "3.00"),
        ("a processor of known speed", "recurrence", "6.00"),
        ("a processor of known speed", "other", "2.00"),
        ("a processor of known speed", profiles.STEP, "8.00"),
    ]
    later = pd.Timestamp(9, unit="ms", tz="UTC")
    other = pd.DataFrame(profiled("transformer", 0, here, settings="batch 8")).assign(start_time=later)
    mixed = runs.tidy(pd.concat([runs_, runs.tidy(other)]))
    assert set(profiles.step_parts(mixed).query("hardware != 'a GPU'")["model"]) == {"transformer"}


@pytest.mark.parametrize("exported", [False, True])
def test_a_report_on_profiles_alone(exported: bool, tmp_path: Path) -> None:
    found = two_models()
    shown = profiles.as_table(profiles.step_parts(found))
    if exported:
        sources.export(found, tmp_path / "results")
        found = sources.fetch(tmp_path / "results")
    page = report.write(found, tmp_path, title="t", command="c").read_text(encoding="utf-8")
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert shown.html() in page
    assert shown.markdown() in text
    for written in (page, text):
        assert "Where the time of a training step goes" in written
        assert "No run" not in written
    numbers = pd.read_csv(tmp_path / "step_parts.csv")
    assert tuple(numbers.columns) == profiles.COLUMNS
    assert numbers.groupby("run_id")["share"].sum().tolist() == pytest.approx([1.0] * 4)
    figure = plots.PROFILE.draw(found)
    assert figure is not None
    ends = {patch.get_y(): patch.get_x() + patch.get_width() for patch in figure.axes[0].patches}  # type: ignore[attr-defined]
    assert list(ends.values()) == pytest.approx([10.0, 4.0])


def test_without_profiles_there_is_nothing(tmp_path: Path) -> None:
    nothing = two_models().query("kind == 'learn'")
    assert profiles.as_table(profiles.step_parts(nothing)).rows == ()
    page = report.write(nothing, tmp_path, title="t", command="c").read_text(encoding="utf-8")
    assert "Where the time of a training step goes" not in page
    assert "No run of a model has finished" in page
