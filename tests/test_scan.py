"""SCAN: the generated commands are the published ones, and a second interpreter agrees on each of them."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from pydantic import ValidationError

from experiments.data import Pair
from experiments.tasks.base import TaskData
from experiments.tasks.scan import ACTION_BINS, HELD_OUT, SPLITS, Scan, commands, length_split, shuffled, simple_split
from models.interface import PAD

# Of the sorted lines of github.com/brendenlake/SCAN (commit c4b756c): tasks.txt and tasks_test_length.txt.
PUBLISHED_SHA256 = "6be4b39bc8bf3a20be810b6991250d0493e608560609db6765dd679e1ed1c98e"
PUBLISHED_LENGTH_TEST_SHA256 = "3297fd0b676c391f7bc3a7385aa66a7fdf64f6f8e81ad584810c1d4ebd0eaa2c"


def interpret(command: str) -> list[str]:
    """The actions of a command, by descent on its text; the generator goes the other way, from the parts up."""
    for joint, order in ((" and ", 1), (" after ", -1)):
        if joint in command:
            return [action for part in command.split(joint)[::order] for action in interpret(part)]
    for suffix, times in ((" twice", 2), (" thrice", 3)):
        if command.endswith(suffix):
            return interpret(command.removesuffix(suffix)) * times
    verb, *manner, direction = command.split() if " " in command else (command, "")
    if manner == ["around"]:
        return interpret(f"{verb} {direction}") * 4
    if manner == ["opposite"]:
        return interpret(f"turn {direction}") + interpret(f"{verb} {direction}")
    turn = [f"I_TURN_{direction.upper()}"] if direction else []
    return turn if verb == "turn" else [*turn, f"I_{verb.upper()}"]


def published_digest(pairs: list[Pair]) -> str:
    lines = sorted(f"IN: {' '.join(pair.source)} OUT: {' '.join(pair.target)}\n" for pair in pairs)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def decoded(data: TaskData, split: str) -> list[tuple[str, list[str], set[int]]]:
    """Command, actions and values of the slice, read back from the batches."""
    rows = []
    for batch in data.evaluation[split]:
        values = batch.slices["actions"]
        for i in range(batch.size):
            command = " ".join(data.source_vocabulary.decode(batch.source[i].tolist()))
            actions = data.target_vocabulary.decode(batch.target[i].tolist())
            rows.append((command, actions, set(values[i][batch.target[i] != PAD].tolist())))
    return rows


def test_all_commands_are_the_published_ones() -> None:
    pairs = commands()
    assert len(pairs) == 20_910
    assert len({pair.source for pair in pairs}) == 20_910
    assert published_digest(pairs) == PUBLISHED_SHA256


def test_a_second_interpreter_agrees_on_every_command() -> None:
    for pair in commands():
        assert list(pair.target) == interpret(" ".join(pair.source)), pair.source


@pytest.mark.parametrize(
    ("command", "actions"),
    [
        ("jump", "I_JUMP"),
        ("turn left", "I_TURN_LEFT"),
        ("walk right", "I_TURN_RIGHT I_WALK"),
        ("turn left twice", "I_TURN_LEFT I_TURN_LEFT"),
        ("turn opposite right", "I_TURN_RIGHT I_TURN_RIGHT"),
        ("run opposite left", "I_TURN_LEFT I_TURN_LEFT I_RUN"),
        ("turn around left", "I_TURN_LEFT I_TURN_LEFT I_TURN_LEFT I_TURN_LEFT"),
        ("run after jump left", "I_TURN_LEFT I_JUMP I_RUN"),
        ("look thrice and turn right", "I_LOOK I_LOOK I_LOOK I_TURN_RIGHT"),
        (
            "walk around right thrice and look opposite left",
            "I_TURN_RIGHT I_WALK " * 12 + "I_TURN_LEFT I_TURN_LEFT I_LOOK",
        ),
        ("jump twice after walk opposite right twice", "I_TURN_RIGHT I_TURN_RIGHT I_WALK " * 2 + "I_JUMP I_JUMP"),
    ],
)
def test_pairs_by_hand(command: str, actions: str) -> None:
    assert Pair(tuple(command.split()), tuple(actions.split())) in commands()


@pytest.mark.parametrize(
    ("split", "sizes"),
    [
        ("simple", {"train": 15_728, "validation": 1_000, "test": 4_182}),
        ("length", {"train": 14_990, "validation": 1_000, "test": 1_000, "longer": 3_920}),
    ],
)
def test_splits_part_all_commands(split: str, sizes: dict[str, int]) -> None:
    train, evaluation = SPLITS[split]()
    parts = {"train": train, **evaluation}
    assert {name: len(pairs) for name, pairs in parts.items()} == sizes
    everything = [pair for pairs in parts.values() for pair in pairs]
    assert len(everything) == len(set(everything)) == 20_910
    assert set(everything) == set(commands())


def test_published_sizes_and_range() -> None:
    train, evaluation = simple_split()
    assert len(train) + len(evaluation["validation"]) == 16_728
    train, evaluation = length_split()
    in_range = [*train, *evaluation["validation"], *evaluation["test"]]
    assert len(in_range) == 16_990
    assert max(len(pair.target) for pair in in_range) == 22
    assert min(len(pair.target) for pair in evaluation["longer"]) == 24
    assert published_digest(evaluation["longer"]) == PUBLISHED_LENGTH_TEST_SHA256


def test_the_random_choice_is_fixed_and_random() -> None:
    pairs = commands()
    assert shuffled(pairs) == shuffled(pairs[::-1])  # whatever order they are generated in
    # A fair choice: the share of each verb in the test part is near its share in all (4,182 drawn; 6 standard errors).
    test = simple_split()[1]["test"]
    for word in ("walk", "jump", "turn", "around", "thrice", "after"):
        share = sum(word in pair.source for pair in pairs) / len(pairs)
        found = sum(word in pair.source for pair in test) / len(test)
        assert abs(found - share) < 6 * (share * (1 - share) / len(test)) ** 0.5


@pytest.mark.parametrize(
    ("task", "digest"),
    [(Scan(), "bc9fd2d5e93d2a490e98f5669627778a"), (Scan(split="length"), "472351b62ea9f907bc27feb75a8ba6d9")],
    ids=["simple", "length"],
)
def test_loaded_data(task: Scan, digest: str) -> None:
    data = task.load(None)
    assert data.source_vocabulary.symbols[4:] == tuple(sorted({word for pair in commands() for word in pair.source}))
    assert data.target_vocabulary.symbols[4:] == tuple(
        sorted(f"I_{action}" for action in ("WALK", "LOOK", "RUN", "JUMP", "TURN_LEFT", "TURN_RIGHT"))
    )
    assert (data.max_source_length, data.max_target_length, data.given_inputs) == (10, 49, False)
    assert data.description["digest"] == digest  # the splits never change unseen: results are compared over years
    for split in data.evaluation:
        assert data.description[f"{split}_sources_in_training"] == "0"
        assert data.description[f"{split}_unknown_targets"] == "0"
        rows = decoded(data, split)
        assert len(rows) == int(data.description[f"{split}_sequences"])
        for command, actions, values in rows:
            assert actions == interpret(command)
            (edge,) = values
            assert edge == min(edge for edge in ACTION_BINS if len(actions) <= edge)
        counts = {edge: sum(values == {edge} for _, _, values in rows) for edge in ACTION_BINS}
        reached = [edge for edge in ACTION_BINS if counts[edge]]
        expected = list(ACTION_BINS)
        if task.split == "length":
            expected = [edge for edge in ACTION_BINS if (edge > 22) == (split == "longer")]
        assert reached == expected
        assert min(counts[edge] for edge in reached) >= 30  # enough for a curve
    assert ("longer" in data.evaluation) == (task.split == "length")
    assert all(set(batch.slices) == set(task.axes) for batches in data.evaluation.values() for batch in batches)


def test_options() -> None:
    assert Scan().label == "scan"
    assert Scan(split="length").label == "scan(split=length)"
    assert Scan().load(Path("/nowhere")).description["validation_sequences"] == str(HELD_OUT)
    with pytest.raises(ValidationError):
        Scan.model_validate({"split": "lenght"})


def test_example() -> None:
    shown = Scan().example()
    command = "jump around left and walk"
    assert " ".join(shown.source) == f"{command} <eos>"
    assert shown.target == [*interpret(command), "<eos>"]
    assert shown.target_in == ["<bos>", *interpret(command)]
