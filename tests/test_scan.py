"""SCAN: the generated commands are the published ones, and a second interpreter agrees on each of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError

from experiments.data import Pair
from experiments.schema import TEST, VALIDATION
from experiments.tasks.base import TaskData
from experiments.tasks.scan import ACTION_BINS, HELD_OUT, SPLITS, Scan, commands, held_out, shuffled
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


# split → sizes as published (github.com/brendenlake/SCAN), what is left of them, and what is left out of all parts
SIZES = {
    "simple": ((16_728, 4_182), {"train": 15_728, "validation": 1_000, "test": 4_182}, 0),
    "length": ((16_990, 3_920), {"train": 14_990, "validation": 1_000, "test": 1_000, "longer": 3_920}, 0),
    "add_jump": ((14_670, 7_706), {"train": 12_670, "validation": 1_000, "test": 1_000, "longer": 7_706}, 0),
    "add_turn_left": ((21_890, 1_208), {"train": 19_890, "validation": 1_000, "test": 1_000, "longer": 1_208}, 0),
    "around_right": ((15_225, 4_476), {"train": 13_225, "validation": 1_000, "test": 1_000, "longer": 4_476}, 1_209),
}
# Of the sorted lines of the published files, commit c4b756c, as above: train and test.
PUBLISHED = {
    "add_jump": (
        "0683daacfdce23cf8ed6f5077feda21785e93ac82e0d11363a9280b7b0c6561e",
        "522454c6280eab957dfc4ea9579ef1d780a716ac34df09619970e1d98822d7e2",
    ),
    "add_turn_left": (
        "e0c26b51b6bba2658e02d69ad53fc15399842d57356d3551a3ed192bca0f9ad4",
        "14dd6316d16204d2871678ee4bd35aba253416a9b4df36bb6dfdda153d46e549",
    ),
    "around_right": (
        "f2b91818e1216d5c95bf050c8d328ade7f773664fdc87e67d07f945e2134ebdc",
        "8e1297eb61d98ff61ef480e9d4641d1d8596fe21c20131a57411a3fbdfd653a9",
    ),
}


def pair(command: str) -> Pair:
    return Pair(tuple(command.split()), tuple(interpret(command)))


@pytest.mark.parametrize("split", SIZES)
def test_splits_part_all_commands(split: str) -> None:
    published, sizes, left_out = SIZES[split]
    known, unknown = SPLITS[split]()
    assert (len(known), len(unknown)) == published
    train, evaluation = held_out(known, unknown, in_range=split == "simple")
    parts = {"train": train, **evaluation}
    assert {name: len(pairs) for name, pairs in parts.items()} == sizes
    everything = [p for name, pairs in parts.items() for p in (set(pairs) if name == "train" else pairs)]
    assert len(everything) == len(set(everything)) == 20_910 - left_out
    assert set(everything) <= set(commands())
    assert Counter(known) == Counter(train) + Counter(
        evaluation["validation"] if split == "simple" else evaluation["validation"] + evaluation["test"]
    )
    description = Scan(split=split).load(None).description  # type: ignore[arg-type]
    assert description["published"] == f"{published[0]:,} to train on, {published[1]:,} to test"
    for name, size in sizes.items():
        assert description[f"{name}_sequences"] == str(size)


@pytest.mark.parametrize("split", PUBLISHED)
def test_compositional_splits_are_the_published_ones(split: str) -> None:
    known, unknown = SPLITS[split]()
    assert (published_digest(known), published_digest(unknown)) == PUBLISHED[split]


def test_what_is_repeated_and_what_is_left_out() -> None:
    known, unknown = SPLITS["add_jump"]()
    assert Counter(known)[pair("jump")] == 1_467
    assert {p.source for p in known if "jump" in p.source} == {("jump",)}
    assert pair("jump twice") in unknown
    assert pair("jump") not in unknown
    known, unknown = SPLITS["add_turn_left"]()
    assert Counter(known)[pair("turn left")] == 2_189
    assert pair("turn opposite left") in known  # these words, but not one after the other
    assert pair("turn left and jump") in unknown
    known, unknown = SPLITS["around_right"]()
    assert pair("jump around left") in known
    assert pair("jump around right") in unknown
    assert pair("turn around right") not in known + unknown
    assert pair("walk and turn around right twice") not in known + unknown


def test_published_range_of_the_split_by_length() -> None:
    known, unknown = SPLITS["length"]()
    assert max(len(p.target) for p in known) == 22
    assert min(len(p.target) for p in unknown) == 24
    assert published_digest(unknown) == PUBLISHED_LENGTH_TEST_SHA256


def test_the_random_choice_is_fixed_and_random() -> None:
    pairs = commands()
    assert shuffled(pairs) == shuffled(pairs[::-1])  # whatever order they are generated in
    # A fair choice: the share of each verb in the test part is near its share in all (4,182 drawn; 6 standard errors).
    test = SPLITS["simple"]()[1]
    for word in ("walk", "jump", "turn", "around", "thrice", "after"):
        share = sum(word in pair.source for pair in pairs) / len(pairs)
        found = sum(word in pair.source for pair in test) / len(test)
        assert abs(found - share) < 6 * (share * (1 - share) / len(test)) ** 0.5


@pytest.mark.parametrize(
    ("task", "digest"),
    [
        (Scan(), "bc9fd2d5e93d2a490e98f5669627778a"),
        (Scan(split="length"), "472351b62ea9f907bc27feb75a8ba6d9"),
        (Scan(split="add_jump"), "e654147ebf3d4ab5b7b6a499c961c07e"),
        (Scan(split="add_turn_left"), "7b016ba0b512067462a4073b2ab1ed23"),
        (Scan(split="around_right"), "ac704f25bcd7d5f0a19eba8b5d8f8922"),
    ],
    ids=lambda value: value.split if isinstance(value, Scan) else "",
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
        if task.split == "length":
            assert reached == [edge for edge in ACTION_BINS if (edge > 22) == (split == "longer")]
        if task.split in ("simple", "length"):
            assert min(counts[edge] for edge in reached) >= 30  # enough for a curve
    assert ("longer" in data.evaluation) == (task.split != "simple")
    assert all(set(batch.slices) == set(task.axes) for batches in data.evaluation.values() for batch in batches)


def test_a_fraction_of_the_training_set() -> None:
    def sources(fraction: float) -> dict[str, list[str]]:
        data = Scan(fraction=fraction).load(None)
        size = int(data.description["train_sequences"])
        batch = next(data.training(size, torch.Generator().manual_seed(0)))
        assert batch.size == size
        found = {"train": batch.source.tolist()}
        found |= {
            split: [row for one in data.evaluation[split] for row in one.source.tolist()]
            for split in (VALIDATION, TEST)
        }
        vocabulary = data.source_vocabulary.symbols
        return {
            split: sorted(" ".join(vocabulary[i] for i in row if i != PAD) for row in rows)
            for split, rows in found.items()
        }

    small, large, whole = (sources(fraction) for fraction in (0.01, 0.25, 1.0))
    assert [len(one["train"]) for one in (small, large, whole)] == [158, 3932, 15_728]
    assert set(small["train"]) < set(large["train"]) < set(whole["train"])
    assert all(one[split] == whole[split] for one in (small, large) for split in (VALIDATION, TEST))
    with pytest.raises(ValidationError, match="only the split simple has one, split is length"):
        Scan(split="length", fraction=0.5)
    with pytest.raises(ValidationError):
        Scan(fraction=0)


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
