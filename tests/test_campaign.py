"""The campaign is made of grids that can be run, and runs them one after another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NoReturn

import pytest
from typer.testing import CliRunner

from analysis.missing import missing
from analysis.sources import fetch
from experiments import asked, campaign, files
from experiments.campaign import CAMPAIGN, Member
from experiments.grid import load_grid
from lvt import app


@pytest.mark.parametrize("profile", CAMPAIGN)
def test_its_grids_can_be_run(profile: str) -> None:
    for member in CAMPAIGN[profile]:
        grid = load_grid(member.grid, member.overrides, member.profile)
        assert len({run.seed for run in grid.runs}) >= 1
        assert grid.name.removeprefix(member.grid) in ("", f"-{member.profile}")


def one_run(path: Path, *, learning_rate: str) -> Path:
    """A grid of one short run; with a rate of 1e30 it fails."""
    path.write_text(
        "description: One run.\n"
        "fixed: {kind: learn, budget: {parameters: 5_000}, task: {name: reverse}, model: lstm, seed: 0,\n"
        f"  training: {{steps: 20, batch_size: 8, evaluate_every: 10, learning_rate: {learning_rate}, clip: 1e30}}}}\n",
        encoding="utf-8",
    )
    return path


def test_one_grid_follows_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With what the command line says for all of them, and in spite of a grid in which something failed."""
    broken = one_run(tmp_path / "broken.yaml", learning_rate="1e30")
    whole = one_run(tmp_path / "whole.yaml", learning_rate="1e-3")
    members = (Member(str(broken), None), Member(str(whole), None, ("seed=3",)))
    monkeypatch.setitem(campaign.CAMPAIGN, "small", members)
    monkeypatch.delitem(campaign.CAMPAIGN, "full")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    found = CliRunner().invoke(app, ["run", "campaign", "--workers", "1", "--device", "cpu", "--tracking-uri", uri])
    assert found.exit_code == 1
    assert "something failed in" in found.output
    assert "whole: 1 run, 0 finished before, 1 to do on cpu" in found.output
    assert "the run is finished" in found.output
    assert "seed 3" in found.output

    planned = CliRunner().invoke(app, ["plan", "campaign", "--device", "cpu", "--tracking-uri", uri, "--json"])
    grids = json.loads(planned.output)
    assert [grid["command"].split()[2:] for grid in grids] == [[str(broken)], [str(whole), "--set", "seed=3"]]
    assert [[run["state"] for run in grid["runs"]] for grid in grids] == [["failed"], ["finished"]]
    monkeypatch.setenv("COLUMNS", "400")
    shown = CliRunner().invoke(app, ["plan", "campaign", "--device", "cpu", "--tracking-uri", uri]).output
    assert [line.split()[-4:] for line in shown.splitlines()[1:3]] == [["1", "0", "1", "0"], ["1", "1", "0", "0"]]
    elsewhere = f"sqlite:///{tmp_path / 'other.db'}"
    asked = ["plan", "campaign", "--device", "cpu", "--tracking-uri", elsewhere, "--estimate"]
    untouched = CliRunner().invoke(app, asked).output
    assert untouched.splitlines()[-1] == "2 runs to do on cpu"
    assert "time left" in untouched
    assert not (tmp_path / "other.db").exists()

    results = tmp_path / "results"
    exported = CliRunner().invoke(app, ["export", "campaign", "--out", str(results), "--tracking-uri", uri])
    assert exported.exit_code == 0, exported.output
    lacking = missing(fetch(results), results)
    assert [tuple(row) for row in lacking.itertuples(index=False)] == [
        ("small", "broken", members[0].command, 1, 0, "all")
    ]


def test_a_grid_without_its_data_does_not_stop_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run or planned: it is named in the end."""
    whole = one_run(tmp_path / "whole.yaml", learning_rate="1e-3")
    members = (Member("g2p", None, ("task.language=fre",)), Member(str(whole), None))
    monkeypatch.setitem(campaign.CAMPAIGN, "small", members)
    monkeypatch.setattr(files, "urlopen", no_network)
    monkeypatch.setattr(files, "DOWNLOAD_PAUSE", 0.0)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    where = ["--tracking-uri", uri, "--data", str(tmp_path), "--device", "cpu"]
    planned = CliRunner().invoke(app, ["plan", "campaign", *where])
    assert planned.exit_code == 2
    assert "1 run to do on cpu" in planned.output
    assert "not planned: lvt run g2p --set task.language=fre" in planned.output
    found = CliRunner().invoke(app, ["run", "campaign", "--workers", "1", *where])
    assert found.exit_code == 1
    assert "the run is finished" in found.output
    assert found.output.endswith("something failed in lvt run g2p --set task.language=fre\n")
    refused = CliRunner().invoke(app, ["run", "campaign", "--workers", "many", *where])
    assert (refused.exit_code, refused.output.count("--workers: found 'many'")) == (2, 1)


def no_network(*arguments: object, **settings: object) -> NoReturn:
    raise OSError("no network")


def test_a_gpu_is_given_the_large_profiles() -> None:
    assert asked.campaign_of(None, (), "cpu") is asked.campaign_of("small", (), "cuda") is CAMPAIGN["small"]
    assert asked.campaign_of(None, (), "cuda") is asked.campaign_of("full", (), "cpu") is CAMPAIGN["full"]


@pytest.mark.parametrize("command", ["run", "plan"])
def test_what_it_refuses(command: str) -> None:
    other = CliRunner().invoke(app, [command, "campaign", "--profile", "large"])
    assert (other.exit_code, "small, full" in other.output) == (2, True)
    changed = CliRunner().invoke(app, [command, "campaign", "--set", "seed=0"])
    assert (changed.exit_code, "run as it is" in changed.output) == (2, True)
