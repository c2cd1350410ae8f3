"""Formal languages: every drawn answer is that of a plain evaluator of the string, written here."""

from __future__ import annotations

import ast
import itertools
import math
import statistics
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from drawn import Row, answered, draw, rows, whole
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.grid import load_grid
from experiments.schema import CONTEXT_FREE, CONTEXT_SENSITIVE, REGULAR
from experiments.tasks import TASKS
from experiments.tasks.binary import BinaryAddition, BinaryMultiplication, ComputeSqrt
from experiments.tasks.chomsky import ChomskyTask
from experiments.tasks.context_free import (
    ModularArithmeticBrackets,
    SolveEquation,
    StackManipulation,
    draw_expressions,
)
from experiments.tasks.context_sensitive import BucketSort, DuplicateString, MissingDuplicate, OddsFirst
from experiments.tasks.listops import ListOps
from experiments.tasks.regular import CycleNavigation, EvenPairs, ModularArithmetic, ParityCheck
from experiments.tasks.synthetic import SyntheticTask


def even_pairs(row: Row) -> None:
    letters, answer = answered(row)
    changes = sum(a != b for a, b in itertools.pairwise(letters))
    assert answer == ("no" if changes % 2 else "yes")


def parity_check(row: Row) -> None:
    letters, answer = answered(row)
    assert answer == ("no" if letters.count("b") % 2 else "yes")


def cycle_navigation(row: Row) -> None:
    steps, answer = answered(row)
    place = 0
    for step in steps:
        place = (place + {"0": 0, "+": 1, "-": -1}[step]) % 5
    assert answer == str(place)


def modular_arithmetic(row: Row) -> None:
    expression, answer = answered(row)
    assert all(symbol in "01234" for symbol in expression[::2])
    assert int(answer) == value("".join(expression)) % 5


def modular_arithmetic_brackets(row: Row) -> None:
    expression, answer = answered(row)
    assert int(answer) == value("".join(expression)) % 5
    bracketed(expression)


def solve_equation(row: Row) -> None:
    equation, answer = answered(row)
    left, right = "".join(equation).split("=")
    solutions = [digit for digit in range(5) if value(left.replace("x", str(digit))) % 5 == int(right)]
    assert solutions == [int(answer)]
    assert left.count("x") == 1
    bracketed(list(left.replace("x", answer)))


def value(expression: str) -> int:
    """Python's own, with exact integers."""
    return int(eval(compile(ast.parse(expression, mode="eval"), "expression", "eval")))


def bracketed(expression: list[str]) -> None:
    """Read by the grammar of the task."""
    end = part(expression, 0)
    assert end == len(expression)


def part(expression: list[str], at: int) -> int:
    """Where the part ends that begins at `at`."""
    if expression[at] == "-":
        at += 1
    if expression[at] in "01234":
        return at + 1
    assert expression[at] == "("
    assert at == 0 or expression[at - 1] != "-" or expression[at - 2] in "01234)"  # brackets have no negative
    end = part(expression, at + 1)
    if expression[end] != ")":
        assert expression[end] in "+-"
        end = part(expression, end + 1)
    assert expression[end] == ")"
    return end + 1


def stack_manipulation(row: Row) -> None:
    *symbols, end = row.source
    assert end == "<eos>"
    given = sum(symbol in "ab" for symbol in symbols)
    assert all(symbol in "ab" for symbol in symbols[:given])
    assert 1 <= given <= max(1, len(symbols) - 1)
    stack = symbols[:given]
    for action in symbols[given:]:
        if action == "pop":
            stack = stack[:-1]
        else:
            stack.append(action.removeprefix("push_"))
    assert whole(row)[1] == stack[::-1]


def duplicate_string(row: Row) -> None:
    letters, answer = whole(row)
    assert "".join(answer) == letters + letters


def missing_duplicate(row: Row) -> None:
    letters, answer = answered(row)
    half = len(letters) // 2
    gap = letters.index("_")
    restored = [*letters[:gap], answer, *letters[gap + 1 :]]
    assert restored[:half] == restored[half:]


def odds_first(row: Row) -> None:
    letters, answer = whole(row)
    odd = [letter for place, letter in enumerate(letters, 1) if place % 2]
    assert answer == odd + [letter for place, letter in enumerate(letters, 1) if not place % 2]


def bucket_sort(row: Row) -> None:
    letters, answer = whole(row)
    assert answer == sorted(letters)


def binary(row: Row, sign: str) -> tuple[int, int, int]:
    """Both numbers, and the answer, which has no leading zero."""
    string, answer = whole(row)
    a, b = string.split(sign)
    if len(answer) > 1:
        assert answer[-1] == "1"
    return int(a[::-1], 2), int(b[::-1], 2), int("".join(answer)[::-1], 2)


def binary_addition(row: Row) -> None:
    a, b, answer = binary(row, "+")
    assert answer == a + b


def binary_multiplication(row: Row) -> None:
    a, b, answer = binary(row, "*")
    assert answer == a * b


def compute_sqrt(row: Row) -> None:
    digits, answer = whole(row)
    assert int("".join(answer), 2) == math.isqrt(int(digits, 2))
    assert len(answer) == (len(digits) + 1) // 2


READINGS: list[tuple[ChomskyTask, Callable[[Row], None]]] = [
    (EvenPairs(), even_pairs),
    (ParityCheck(), parity_check),
    (CycleNavigation(), cycle_navigation),
    (ModularArithmetic(), modular_arithmetic),
    (StackManipulation(), stack_manipulation),
    (ModularArithmeticBrackets(), modular_arithmetic_brackets),
    (SolveEquation(), solve_equation),
    (DuplicateString(), duplicate_string),
    (MissingDuplicate(), missing_duplicate),
    (OddsFirst(), odds_first),
    (BinaryAddition(), binary_addition),
    (BinaryMultiplication(), binary_multiplication),
    (ComputeSqrt(), compute_sqrt),
    (BucketSort(), bucket_sort),
]
by_name = pytest.mark.parametrize(("task", "reading"), READINGS, ids=[task.label for task, _ in READINGS])


def test_all_fifteen_are_read_here() -> None:
    """With `reverse`, which test_synthetic_tasks reads."""
    chomsky = {name for name, task in TASKS.items() if issubclass(task, ChomskyTask)}
    assert {task.label for task, _ in READINGS} == chomsky
    assert len(chomsky) == 14


@by_name
def test_answers_in_the_range_of_training(task: ChomskyTask, reading: Callable[[Row], None]) -> None:
    for size in task.sizes():
        for row in draw(task, size, seed=size):
            assert len(row.source) == size + 1
            reading(row)


@by_name
@settings(max_examples=8, deadline=None)
@given(place=st.integers(0, 220), seed=st.integers(0, 10_000))
def test_answers_of_any_length(task: ChomskyTask, reading: Callable[[Row], None], place: int, seed: int) -> None:
    size = task.shortest + place * task.step
    for row in draw(task, size, seed, count=3):
        assert len(row.source) == size + 1
        reading(row)


def test_lengths_that_there_are_not_are_refused() -> None:
    with pytest.raises(ValueError, match=r"no strings of length 50: lengths go from 1 on in steps of 2"):
        ModularArithmetic(longer_lengths=(50,))
    with pytest.raises(ValueError, match=r"no strings of length 2: lengths go from 3 on"):
        BinaryAddition(min_length=2)
    with pytest.raises(ValueError, match="no strings of length 41"):
        MissingDuplicate(longer_lengths=(41,))


def test_lengths_beyond_training_are_a_condition_and_change_learnt_positions(tmp_path: Path) -> None:
    plain, short = ParityCheck(), ParityCheck(longer_lengths=(50,))
    assert plain.label == short.label == "parity_check"
    assert (plain.dimensions.max_length, short.dimensions.max_length) == (502, 52)
    path = tmp_path / "g.yaml"
    path.write_text(
        """
description: one task, scored up to two lengths
fixed: {kind: learn, training: {steps: 10, batch_size: 4, evaluate_every: 5, learning_rate: 1e-3}}
compare:
  task: [{name: parity_check}, {name: parity_check, longer_lengths: [50]}]
  model: [lstm, {name: transformer, positions: learned}]
  budget: [{parameters: 90_000}]
  seed: [0]
"""
    )
    defaults = list(plain.longer_lengths)
    assert [(run.model.name, run.condition) for run in load_grid(str(path)).runs] == [
        (model, f"longer_lengths={lengths}") for lengths in (defaults, [50]) for model in ("lstm", "transformer")
    ]


def test_published_chance_levels() -> None:
    """Delétang et al. 2023, table 1: 50 % where the answer is a bit, 20 % where it is a residue modulo 5."""
    for name in ("even_pairs", "parity_check", "missing_duplicate"):
        assert TASKS[name].model_construct().chance == 0.5
    for name in ("cycle_navigation", "modular_arithmetic", "modular_arithmetic_brackets", "solve_equation"):
        assert TASKS[name].model_construct().chance == 0.2


@pytest.mark.parametrize("name", ["even_pairs", "parity_check", "missing_duplicate", "cycle_navigation"])
def test_no_answer_is_likelier_than_chance(name: str) -> None:
    check_chance(name, 24, tolerance=0.02)


@pytest.mark.parametrize("name", ["modular_arithmetic_brackets", "solve_equation"])
def test_no_residue_is_likelier(name: str) -> None:
    for size in (7, 24):
        check_chance(name, size, tolerance=0.02)


def check_chance(name: str, size: int, tolerance: float) -> None:
    task = TASKS[name]()
    assert isinstance(task, SyntheticTask)
    answers = task.draw(10_000, size, torch.Generator().manual_seed(1)).target[:, 0]
    assert answers.bincount().max().item() / len(answers) == pytest.approx(task.chance, abs=tolerance)


def test_classes_of_languages() -> None:
    """As in table 1 of the publication."""
    classes: dict[str | None, set[str]] = {}
    for name, task in TASKS.items():
        if issubclass(task, ChomskyTask) or name == "reverse":
            classes.setdefault(task.language_class, set()).add(name)
    assert classes == {
        REGULAR: {"even_pairs", "parity_check", "cycle_navigation", "modular_arithmetic"},
        CONTEXT_FREE: {"stack_manipulation", "reverse", "modular_arithmetic_brackets", "solve_equation"},
        CONTEXT_SENSITIVE: {
            *("duplicate_string", "missing_duplicate", "odds_first", "binary_addition", "binary_multiplication"),
            *("compute_sqrt", "bucket_sort"),
        },
    }


def test_every_split_of_an_expression_is_as_likely() -> None:
    """Of length 8 the left part has 1 to 4 symbols."""
    tokens, _ = draw_expressions(8_000, 8, torch.Generator().manual_seed(0))
    task = ModularArithmeticBrackets()
    symbols = task.vocabularies()[0].symbols[3:]
    lengths = [0] * 5
    for row in tokens.tolist():
        lengths[part([symbols[i] for i in row], 1) - 1] += 1
    assert lengths[0] == 0
    assert all(length / 8_000 == pytest.approx(0.25, abs=0.02) for length in lengths[1:])


def listops_value(tokens: list[str]) -> tuple[int, int]:
    """Value and depth, with a stack."""
    stack: list[list[str | int]] = [[]]
    depth = 0
    for token in tokens:
        if token.startswith("["):
            stack.append([token])
            depth = max(depth, len(stack) - 1)
        elif token == "]":
            operator, *found = stack.pop()
            arguments = [int(one) for one in found]
            assert 2 <= len(arguments) <= 5
            outcome = {
                "[MIN": min(arguments),
                "[MAX": max(arguments),
                "[MED": int(statistics.median(arguments)),
                "[SM": sum(arguments) % 10,
            }[str(operator)]
            stack[-1].append(outcome)
        else:
            stack[-1].append(int(token))
    ((result,),) = stack
    return int(result), depth


@settings(max_examples=40, deadline=None)
@given(depth=st.integers(1, 10), seed=st.integers(0, 10_000))
def test_listops_by_a_plain_evaluator(depth: int, seed: int) -> None:
    for row in draw(ListOps(), depth, seed):
        tokens, answer = answered(row)
        assert len(tokens) <= 200
        assert (int(answer), depth) == listops_value(tokens)


def test_listops_are_nested_as_published() -> None:
    """A quarter of the arguments are lists, but for the one of each list that leads to the full depth; then none."""
    task = ListOps(max_length=300)
    lists = arguments = 0
    for row in draw(task, 2, seed=0, count=4_000):
        level = 0
        for token in row.source[:-1]:
            if level == 1 and token != "]":
                arguments += 1
                lists += token.startswith("[")
            level += token.startswith("[") - (token == "]")
    assert arguments / 4_000 == pytest.approx(3.5, abs=0.06)
    assert (lists - 4_000) / (arguments - 4_000) == pytest.approx(0.25, abs=0.02)


def test_listops_are_sliced_by_depth_and_length() -> None:
    task = ListOps()
    batch = task.draw(100, 3, torch.Generator().manual_seed(0))
    slices = task.slices(batch, 3)
    assert (slices["depth"] == 3).all()
    for row, length in zip(rows(task, batch), slices["length"][:, 0].tolist(), strict=True):
        assert length == len(row.source)


def test_listops_too_short_for_their_depth_are_refused() -> None:
    with pytest.raises(ValueError, match="at least 128 is needed"):
        ListOps(max_length=100)
