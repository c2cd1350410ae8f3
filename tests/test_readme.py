"""What the README promises exists."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import typer

import lvt
from analysis import opening
from analysis.sources import read_results
from experiments import schema as s
from experiments.grid import bundled_grids, load_grid
from models.config import Budget
from models.matching import match
from models.registry import MODELS, build

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")

MODELS_README = ROOT / "models" / "README.md"


def test_the_map_of_the_models_leads_to_what_is_there() -> None:
    """Every link is a file, and where its text is code, that name is defined in it."""
    links = re.findall(r"\[(`?)([^\]`]+)`?\]\(([^)]+)\)", MODELS_README.read_text(encoding="utf-8"))
    assert len(links) > 60
    for quoted, name, target in links:
        path = MODELS_README.parent / target
        assert path.is_file(), target
        if quoted:
            assert re.search(rf"^(?:class|def) {name}\b", path.read_text(encoding="utf-8"), re.MULTILINE), (
                name,
                target,
            )


def test_the_map_of_the_models_names_every_option() -> None:
    """Those that are components; widths are solved, dropout is named in words."""
    text = MODELS_README.read_text(encoding="utf-8")
    options = {field.name for config in MODELS.values() for field in fields(config)}
    for option in options - {"hidden_size", "embedding_size", "feedforward_size", "dropout"}:
        assert f"`{option}`" in text, option


def test_what_the_map_of_the_models_says_is_ablated_is() -> None:
    """And what is not starred is not: options, and values of those that are starred."""
    ablated, values = set(), set()
    for run in load_grid("ablations").runs:
        for option in fields(run.model.config):
            value = getattr(run.model.config, option.name)
            if value != getattr(MODELS[run.model.name], option.name):
                ablated.add(option.name)
                values.add(str(value))
    starred = set(re.findall(r"`(\w+)` \*", MODELS_README.read_text(encoding="utf-8")))
    options = {field.name for config in MODELS.values() for field in fields(config)}
    assert starred & options == ablated - {"layers"}  # the LSTM's second layer is part of its full model
    assert starred - options == {"sinusoidal", "rotary", "alibi"} <= values


def test_its_grid_can_be_run_and_tuned(tmp_path: Path) -> None:
    example, tune = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    path = tmp_path / "example.yaml"
    path.write_text(example, encoding="utf-8")
    assert len(load_grid(str(path)).runs) == 2 * 3 * 5
    path.write_text(re.sub(r", learning_rate: {.*?}", "", example) + tune, encoding="utf-8")
    tuned = load_grid(str(path))
    assert len(tuned.runs) == 2 * 3 * 6
    assert [tuning.seeds for tuning in tuned.tunings] == [(0, 1, 2, 3, 4)] * 6


def test_its_findings_are_those_of_the_exported_tables() -> None:
    """Every number: the text between the marks is made from the tables, and the figures it shows are there."""
    _, rest = README.split(opening.BEGIN)
    found, _ = rest.split(opening.END)
    assert found == opening.opening(opening.RESULTS)
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", found):
        assert (ROOT / path).is_file(), path


def test_its_limits_are_those_of_the_exported_tables() -> None:
    """The sizes and lengths of what was run, in the section that states them by hand."""
    runs = read_results(opening.RESULTS)

    def of(metric: str) -> pd.DataFrame:
        return runs[runs["metric"] == metric]

    sizes = of(s.PARAMETERS)["value"]
    minutes = of(s.TRAIN_SECONDS).groupby(["grid", "run_id"])["value"].max() / 60
    long = minutes.index.get_level_values("grid").str.contains("cogs")
    near = runs[runs["metric"].str.match(r"test/\w+_by_distance")]["at"].max()
    gradients = runs[(runs["kind"] == s.GRADIENTS) & (runs["axis"] == "distance")]["at"].max()
    stated = " ".join(re.findall(r"^- \*\*Small and short\*\*(.*?)^- ", README, re.MULTILINE | re.DOTALL)[0].split())
    assert stated.startswith(f": models of {sizes.min() / 1e6:.1f} to {sizes.max() / 1e6:.0f} million parameters,")
    assert f" trained for up to {minutes[~long].max():.0f} minutes (COGS: up to {minutes[long].max():.0f}) " in stated
    lengths, positions = (of(metric)["at"].max() for metric in (s.TRAIN_STEP_SECONDS, s.STEP_SECONDS))
    assert f"; lengths up to {lengths:,.0f}, positions up to {positions:,.0f}, " in stated
    assert f" dependencies up to distance {near:.0f}, gradients up to {gradients:.0f}." in stated


def test_its_task_and_its_models_can_be_used() -> None:
    """Each in at most thirty lines."""
    names: dict[str, Any] = {}
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        assert block.count("\n") <= 30
        exec(compile(block, "README.md", "exec", dont_inherit=True), names)
    task = names["Swap"]()
    batch = next(batch for batch in task.load(None).evaluation["test"] if batch.source.shape[1] == 17)
    letters, answer = batch.source[:, :16], batch.target[:, :16]
    assert torch.equal(answer, torch.cat([letters[:, 8:], letters[:, :8]], dim=1))
    for name in ("deep_transformer", "fed_lstm"):
        config = match(names[name], Budget(parameters=300_000), task.dimensions)
        logits = build(config, task.dimensions)(batch.source, batch.target_in, batch.source_lengths)
        assert logits.shape == (*batch.target.shape, task.dimensions.target_vocabulary)


def test_its_grids_are_the_bundled_ones() -> None:
    assert sorted(re.findall(r"^\| `(\w+)` \|", README, re.MULTILINE)) == bundled_grids()


def test_its_commands_are_all_there_are() -> None:
    commands = typer.main.get_command(lvt.app).list_commands(None)  # type: ignore[attr-defined]
    assert set(re.findall(r"^lvt ([\w-]+)", README, re.MULTILINE)) == set(commands)


def test_its_files_exist() -> None:
    for name in re.findall(r"`((?:models|experiments|analysis|tests)/[\w/.]+)`", README):
        assert (ROOT / name).exists(), name


def test_its_make_targets_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([\w-]+)", README, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
