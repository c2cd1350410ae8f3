"""What the README promises exists."""

from __future__ import annotations

import re
from pathlib import Path

import typer

import lvt
from experiments.grid import bundled_grids, load_grid

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_its_grid_can_be_run(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "example.yaml"
    path.write_text(example, encoding="utf-8")
    assert len(load_grid(str(path)).runs) == 2 * 3 * 5


def test_its_grids_are_the_bundled_ones() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == bundled_grids()


def test_its_commands_are_all_there_are() -> None:
    commands = typer.main.get_command(lvt.app).list_commands(None)  # type: ignore[attr-defined]
    assert set(re.findall(r"^lvt (\w+)", README, re.MULTILINE)) == set(commands)


def test_its_files_exist() -> None:
    for name in re.findall(r"`((?:models|experiments|analysis|tests)/[\w/.]+)`", README):
        assert (ROOT / name).exists(), name


def test_its_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
