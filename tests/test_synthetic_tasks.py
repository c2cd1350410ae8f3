"""Synthetic tasks: right by an independent reading of each sequence, reproducible, and disjoint from what they test."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data import Batch, Vocabulary
from experiments.schema import LONGER, TEST, VALIDATION
from experiments.tasks import TASKS
from experiments.tasks.g2p import GraphemeToPhoneme
from experiments.tasks.recall import AssociativeRecall
from experiments.tasks.strings import Addition, Reverse, RunningParity
from experiments.tasks.synthetic import SMALLEST_SHARED_SPACE, SyntheticTask, split_of
from models.interface import BOS, EOS, PAD

SYNTHETIC = [AssociativeRecall(), Reverse(), RunningParity(), Addition()]
by_label = pytest.mark.parametrize("task", SYNTHETIC, ids=lambda task: task.label)


def rows(task: SyntheticTask, batch: Batch) -> list[tuple[list[str], list[str], list[str]]]:
    """Source, decoder input and target of each sequence, in symbols."""
    source, target = task.vocabularies()

    def symbols(vocabulary: Vocabulary, ids: list[int]) -> list[str]:
        return [vocabulary.symbols[i] for i in ids]

    return [
        (symbols(source, s), symbols(target, i), symbols(target, t))
        for s, i, t in zip(batch.source.tolist(), batch.target_in.tolist(), batch.target.tolist(), strict=True)
    ]


def draw(task: SyntheticTask, size: int, seed: int) -> list[tuple[list[str], list[str], list[str]]]:
    return rows(task, task.draw(20, size, torch.Generator().manual_seed(seed)))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 16), st.integers(0, 10_000))
def test_recall_answers_each_query_with_its_value(size: int, seed: int) -> None:
    for source, fed, target in draw(AssociativeRecall(), size, seed):
        pairs = dict(zip(source[::2], source[1::2], strict=True))
        assert len(pairs) == size
        assert sorted(fed) == sorted(pairs)
        assert target == [pairs[key] for key in fed]
        assert all(key.startswith("k") for key in pairs)
        assert all(value.startswith("v") for value in pairs.values())


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 10_000))
def test_reverse_is_the_source_backwards(size: int, seed: int) -> None:
    for source, fed, target in draw(Reverse(), size, seed):
        assert source[-1] == target[-1] == "<eos>"
        assert target[:-1] == source[-2::-1]
        assert fed == ["<bos>", *target[:-1]]
        assert len(source) == size + 1


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 60), st.integers(0, 10_000))
def test_parity_counts_ones(size: int, seed: int) -> None:
    for source, fed, target in draw(RunningParity(), size, seed):
        assert fed == source
        assert target == [str(source[: i + 1].count("1") % 2) for i in range(size)]


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 30), st.integers(0, 10_000))
def test_addition_adds(size: int, seed: int) -> None:
    for source, fed, target in draw(Addition(), size, seed):
        a, b = "".join(source[:-1]).split("+")
        assert len(a) == len(b) == size
        assert "".join(target[:-1]) == str(int(a) + int(b)).zfill(size + 1)
        assert source[-1] == target[-1] == "<eos>"
        assert fed == ["<bos>", *target[:-1]]


def test_every_symbol_is_drawn() -> None:
    for task in SYNTHETIC:
        batches = [task.draw(300, size, torch.Generator().manual_seed(size)) for size in range(*task.sizes())]
        drawn = {symbol for batch in batches for row in rows(task, batch) for symbol in row[0] + row[2]}
        source, target = task.vocabularies()
        assert drawn == set(source.symbols + target.symbols) - {
            "<pad>",
            "<bos>",
            *(() if "<eos>" in drawn else ["<eos>"]),
        }


def test_recall_distances_by_brute_force() -> None:
    task = AssociativeRecall()
    batch = task.draw(50, 7, torch.Generator().manual_seed(3))
    slices = task.slices(batch, 7)
    assert (slices["pairs"] == 7).all()
    for row in range(50):
        sequence = batch.source[row].tolist() + batch.target_in[row].tolist()
        for query in range(7):
            at = 14 + query
            value_at = sequence.index(sequence[at]) + 1
            distance = at - value_at
            edge = min(e for e in (1, 2, 4, 8, 16, 32) if e >= distance)
            assert slices["distance"][row, query].item() == edge


@by_label
def test_training_batches_are_reproducible_and_never_repeat(task: SyntheticTask) -> None:
    data = task.load(None)

    def first(seed: int) -> list[Batch]:
        batches = data.training(8, torch.Generator().manual_seed(seed))
        return [next(batches) for _ in range(20)]

    again, other = first(0), first(1)
    for a, b in zip(first(0), again, strict=True):
        assert torch.equal(a.source, b.source)
        assert torch.equal(a.target, b.target)
    assert any(
        a.source.shape != b.source.shape or not torch.equal(a.source, b.source)
        for a, b in zip(again, other, strict=True)
    )
    long = [
        tuple(row) for batch in again for row in batch.source.tolist() if task.space(len(row)) > 10**9 and len(row) > 12
    ]
    assert len(set(long)) == len(long)


@by_label
def test_batches_are_what_training_expects(task: SyntheticTask) -> None:
    data = task.load(None)
    smallest, largest = task.sizes()
    sizes = set()
    batches = data.training(8, torch.Generator().manual_seed(0))
    for _ in range(200):
        batch = next(batches)
        assert batch.size == 8
        assert batch.target.shape == batch.target_in.shape
        assert (batch.source_lengths == batch.source.shape[1]).all()
        assert not (batch.source == PAD).any()
        assert not (batch.target == PAD).any()
        sizes.add(batch.source.shape[1])
    assert len(sizes) == largest - smallest + 1
    for split in data.evaluation.values():
        for batch in split:
            assert batch.source.shape[1] <= data.max_source_length
            assert batch.target.shape[1] <= data.max_target_length
            assert batch.source.max() < len(data.source_vocabulary)
            assert max(batch.target.max(), batch.target_in.max()) < len(data.target_vocabulary)
            assert set(batch.slices) == set(task.axes)


@by_label
def test_evaluation_sets_are_fixed_and_disjoint_from_training(task: SyntheticTask) -> None:
    data = task.load(None)
    again = type(task)().load(None)
    assert data.description["digest"] == again.description["digest"]
    sources: dict[str, set[tuple[int, ...]]] = {
        split: {tuple(row) for batch in data.evaluation[split] for row in batch.source.tolist()}
        for split in (VALIDATION, TEST)
    }
    batches = data.training(256, torch.Generator().manual_seed(5))
    trained = {tuple(row) for _ in range(100) for row in next(batches).source.tolist()}
    smallest, largest = task.sizes()
    large = {
        task.draw(1, size, torch.Generator()).source.shape[1]
        for size in range(smallest, largest + 1)
        if task.space(size) >= SMALLEST_SHARED_SPACE
    }
    assert large
    for a, b in ((trained, sources[VALIDATION]), (trained, sources[TEST]), (sources[VALIDATION], sources[TEST])):
        assert not {row for row in a & b if len(row) in large}
    in_range = {len(row) for row in sources[TEST]}
    assert min(len(row) for batch in data.evaluation[LONGER] for row in batch.source.tolist()) > max(in_range)


def test_every_sequence_has_one_split_in_the_right_shares() -> None:
    source = torch.randint(3, 20, (40_000, 9), generator=torch.Generator().manual_seed(0))
    shares = torch.bincount(split_of(source), minlength=3) / len(source)
    torch.testing.assert_close(shares, torch.tensor([14 / 16, 1 / 16, 1 / 16]), rtol=0, atol=0.01)
    assert torch.equal(split_of(source), split_of(source.clone()))


def test_spaces_are_counted_right() -> None:
    """By listing every drawn source of a tiny task."""
    for task, size in (
        (Reverse(symbols=2), 4),
        (RunningParity(), 5),
        (Addition(), 1),
        (AssociativeRecall(max_pairs=2, num_keys=3, num_values=2, longer_pairs=()), 2),
    ):
        batch = task.draw(5_000, size, torch.Generator().manual_seed(0))
        assert len({tuple(row) for row in batch.source.tolist()}) == task.space(size)


def test_chance_is_what_guessing_gets() -> None:
    for task in (AssociativeRecall(num_keys=8, num_values=4, longer_pairs=()), RunningParity()):
        generator = torch.Generator().manual_seed(0)
        answers = torch.cat([task.draw(2_000, size, generator).target.flatten() for size in range(1, 8)])
        most_common = answers.bincount().max().item() / len(answers)
        assert most_common == pytest.approx(task.chance, abs=0.02)


@pytest.mark.parametrize("name", TASKS)
def test_worked_examples(name: str) -> None:
    task = GraphemeToPhoneme(language="fre") if name == "g2p" else TASKS[name]()
    example = task.example()
    assert len(example.target_in) == len(example.target)
    assert example.source


def test_the_end_is_asked_for() -> None:
    batch = Reverse().draw(3, 4, torch.Generator().manual_seed(0))
    assert (batch.target[:, -1] == EOS).all()
    assert (batch.target_in[:, 0] == BOS).all()


def test_labels_name_what_differs() -> None:
    assert Reverse().label == "reverse"
    assert Reverse(max_length=30, longer_lengths=(50,)).label == "reverse(max_length=30)"
    assert GraphemeToPhoneme(language="fre").label == "g2p(language=fre)"


def test_impossible_options_are_refused() -> None:
    with pytest.raises(ValueError, match="more pairs than the 4 different keys"):
        AssociativeRecall(num_keys=4)
    with pytest.raises(ValueError, match="min_pairs is larger"):
        AssociativeRecall(min_pairs=9)
    assert math.isclose(AssociativeRecall(num_values=10).chance, 0.1)
