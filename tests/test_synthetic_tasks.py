"""Synthetic tasks: right by an independent reading of each sequence, reproducible, and disjoint from what they test."""

from __future__ import annotations

import functools
import math
from collections import Counter
from itertools import pairwise

import pytest
import torch
from drawn import draw, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data import Batch
from experiments.schema import LONGER, SPLITS, TEST, VALIDATION, dependencies
from experiments.tasks import TASKS
from experiments.tasks.binary import BinaryAddition, BinaryMultiplication, ComputeSqrt
from experiments.tasks.context_free import ModularArithmeticBrackets, SolveEquation, StackManipulation
from experiments.tasks.context_sensitive import BucketSort, DuplicateString, MissingDuplicate, OddsFirst
from experiments.tasks.g2p import GraphemeToPhoneme
from experiments.tasks.recall import AssociativeRecall
from experiments.tasks.regular import CycleNavigation, EvenPairs, ModularArithmetic, ParityCheck
from experiments.tasks.selective_copy import SelectiveCopy
from experiments.tasks.streams import CopyMemory, DelayedMatch, MarkedAddition, Needle
from experiments.tasks.strings import Addition, Reverse, RunningParity
from experiments.tasks.synthetic import (
    EVALUATED_TOKENS,
    SEQUENCES,
    SMALLEST_SHARED_SPACE,
    TRAIN,
    SyntheticTask,
    permutations,
    split_of,
    spread,
    trimmed,
)
from models.interface import BOS, EOS, PAD

SYNTHETIC = [
    *(task() for task in TASKS.values() if issubclass(task, SyntheticTask)),
    AssociativeRecall(max_pairs=8, length=40, longer_pairs=(12,)),
]
by_label = pytest.mark.parametrize("task", SYNTHETIC, ids=lambda task: task.label)


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


@by_label
def test_every_symbol_is_drawn(task: SyntheticTask) -> None:
    batches = [task.draw(300, size, torch.Generator().manual_seed(size)) for size in task.evaluated_sizes()]
    drawn = {symbol for batch in batches for row in rows(task, batch) for symbol in row.source + row.fed + row.target}
    source, target = task.vocabularies()
    special = {"<pad>", "<bos>", "<eos>", "·"}
    assert set(source.symbols + target.symbols) - special == drawn - special


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
            assert slices["distance"][row, query].item() == at - value_at


loaded = functools.cache(SyntheticTask.load)


def first(task: SyntheticTask, seed: int, batch_size: int = 8, count: int = 20) -> list[Batch]:
    batches = loaded(task, None).training(batch_size, torch.Generator().manual_seed(seed))
    return [next(batches) for _ in range(count)]


def same(a: Batch, b: Batch) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in (
            (a.source, b.source),
            (a.target_in, b.target_in),
            (a.target, b.target),
            (a.source_lengths, b.source_lengths),
        )
    )


@by_label
def test_training_batches_are_reproducible(task: SyntheticTask) -> None:
    again = first(task, 0)
    assert all(same(a, b) for a, b in zip(first(task, 0), again, strict=True))
    assert not all(same(a, b) for a, b in zip(first(task, 1), again, strict=True))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@by_label
def test_a_seed_means_the_same_data_on_cuda(task: SyntheticTask) -> None:
    """Batches are drawn on the CPU and moved; what arrives is what was drawn, and nothing is drawn by the device."""
    cuda = torch.device("cuda")
    for on_cpu, moved in zip(first(task, 0), first(task, 0), strict=True):
        there = moved.to(cuda)
        assert there.source.device.type == there.target.device.type == "cuda"
        assert torch.equal(there.source.cpu(), on_cpu.source)
        assert torch.equal(there.target_in.cpu(), on_cpu.target_in)
        assert torch.equal(there.target.cpu(), on_cpu.target)


def test_nothing_that_is_drawn_ahead_is_handed_out_twice() -> None:
    """Far beyond what is drawn at once, and with a batch size that divides nothing evenly."""
    task = Reverse(min_length=15, max_length=16)
    batches = first(task, 0, batch_size=50, count=120)
    sequences = [tuple(row) for batch in batches for row in batch.source.tolist()]
    assert len(set(sequences)) == len(sequences) == 6_000
    assert {batch.source.shape[1] for batch in batches} == {16, 17}


FIXED = {
    "uniform sizes": AssociativeRecall(max_pairs=6, examples=500),
    "sizes by their logarithm": DelayedMatch(max_noise=20, examples=500),
    "targets of all lengths": SelectiveCopy(examples=100),
}


@pytest.mark.parametrize("task", FIXED.values(), ids=FIXED)
def test_a_fixed_training_set_is_seen_again_and_again(task: SyntheticTask) -> None:
    assert task.examples is not None
    data = task.load(None)
    assert data.description["train_sequences"] == str(task.examples)
    batches = data.training(7, torch.Generator().manual_seed(0))
    seen: Counter[tuple[int, ...]] = Counter()
    drawn = Counter({0: 0})
    while drawn.total() < 40 * task.examples:
        batch = next(batches)
        assert 1 <= batch.size <= 7
        drawn[batch.source.shape[1]] += batch.size
        seen.update(map(tuple, batch.source.tolist()))
    known = task._training_set()
    of_set = Counter(tuple(row) for batch in known.values() for row in trimmed(batch).source.tolist())
    assert of_set.total() == task.examples
    assert set(seen) == set(of_set)
    tested = {tuple(row) for batch in data.evaluation[TEST] for row in batch.source.tolist()}
    large = {size for size in task.sizes() if task.space(size) >= SMALLEST_SHARED_SPACE}
    assert large
    assert not tested & {tuple(row) for size in large & set(known) for row in trimmed(known[size]).source.tolist()}
    fresh = type(task).model_validate(task.model_dump() | {"examples": None})
    shares = [Counter(batch.source.shape[1] for batch in first(one, 1, count=3000)) for one in (task, fresh)]
    for width, count in shares[1].items():  # sizes come as often as in a fresh sample
        assert abs(shares[0][width] - count) < 6 * count**0.5 + 0.06 * count


def test_a_round_hands_every_sequence_out_once() -> None:
    task = AssociativeRecall(min_pairs=5, max_pairs=5, examples=100)
    batches = task.load(None).training(32, torch.Generator().manual_seed(0))
    sizes: list[int] = []
    sequences: list[tuple[int, ...]] = []
    for _ in range(4):
        batch = next(batches)
        sizes.append(batch.size)
        sequences += map(tuple, batch.source.tolist())
    assert sizes == [32, 32, 32, 4]
    assert len(set(sequences)) == 100


@pytest.mark.parametrize("task", [AssociativeRecall, DelayedMatch])
def test_a_smaller_training_set_is_part_of_a_larger_one(task: type[SyntheticTask]) -> None:
    """However little larger that is."""
    counts = (1, 4, 5, 24, 25, 100, 200, 1000)
    for small, large in pairwise(task(examples=count)._training_set() for count in counts):
        for size, batch in small.items():
            assert same(batch, large[size].select(slice(batch.size)))


def test_sizes_of_a_fixed_training_set_share_no_symbols() -> None:
    """Drawn from one stream of random numbers, shorter strings would be parts of longer ones."""
    known = Reverse(symbols=26, examples=200)._training_set()
    strings = {size: trimmed(batch).source[:, :-1] for size, batch in known.items()}
    longest = {tuple(row[i : i + 8]) for row in strings[16].tolist() for i in range(9)}
    assert len(longest) > 50
    assert not longest & {tuple(row) for row in strings[8].tolist()}
    assert len({tuple(rows[0, :3].tolist()) for size, rows in strings.items() if size >= 3}) > 5


def test_no_run_draws_what_it_is_tested_on() -> None:
    """Its seed is none of those of the fixed sets, whose symbols it would repeat, if not their sequences."""
    task = CopyMemory(min_delay=8, max_delay=8)
    data = task.load(None)
    tested = {
        tuple(row[i : i + 8])
        for batch in data.evaluation[TEST]
        for row in batch.source[:, :10].tolist()
        for i in (0, 1, 2)
    }
    for seed in range(5):
        drawn = next(data.training(128, torch.Generator().manual_seed(seed))).source[:, :10].tolist()
        assert not tested & {tuple(row[i : i + 8]) for row in drawn for i in (0, 1, 2)}


@by_label
def test_batches_are_what_training_expects(task: SyntheticTask) -> None:
    data = loaded(task, None)
    batches = first(task, 0, count=200)
    for batch in batches:
        assert batch.size == 8
        assert batch.source.shape[0] == batch.target.shape[0] == len(batch.source_lengths) == 8
        position = torch.arange(batch.source.shape[1])
        assert torch.equal(batch.source != PAD, position < batch.source_lengths[:, None])
        assert batch.source_lengths.max() == batch.source.shape[1]
        assert (batch.target[:, -1] != PAD).any()
        if data.given_inputs:
            assert (batch.target_in != PAD).all()
        else:
            assert (batch.target_in[:, 0] == BOS).all()
            fed = batch.target_in[:, 1:]
            assert torch.equal(fed, batch.target[:, :-1])
    for split in data.evaluation.values():
        for batch in split:
            assert set(batch.slices) == set(task.axes)
            assert all(values.shape == batch.target.shape for values in batch.slices.values())
    for batch in [*batches, *(batch for split in data.evaluation.values() for batch in split)]:
        assert batch.target.shape == batch.target_in.shape
        assert batch.source.shape[1] <= data.max_source_length
        assert batch.target.shape[1] <= data.max_target_length
        assert batch.source.max() < len(data.source_vocabulary)
        assert max(batch.target.max(), batch.target_in.max()) < len(data.target_vocabulary)


@by_label
def test_evaluation_sets_are_fixed_whole_and_bounded(task: SyntheticTask) -> None:
    data = loaded(task, None)
    assert data.description["digest"] == type(task)(**dict(task)).load(None).description["digest"]
    sizes = {VALIDATION: task.evaluated_sizes(), TEST: task.evaluated_sizes(), LONGER: task.longer_sizes()}
    for split in SPLITS:
        batches = data.evaluation.get(split, [])
        assert sum(batch.size for batch in batches) == SEQUENCES[split] * len(sizes[split])
        assert all(batch.tokens <= EVALUATED_TOKENS or batch.size == 1 for batch in batches)
    assert (LONGER in data.evaluation) == bool(task.longer_sizes())


def sources(batches: list[Batch]) -> set[tuple[int, ...]]:
    return {
        tuple(row[:length])
        for batch in batches
        for row, length in zip(batch.source.tolist(), batch.source_lengths.tolist(), strict=True)
    }


@by_label
def test_evaluation_sets_are_disjoint_from_training(task: SyntheticTask) -> None:
    """But for the sizes of which there are too few sequences, which the description names."""
    large = [size for size in task.sizes() if task.space(size) >= SMALLEST_SHARED_SPACE]
    assert large
    small = [size for size in task.sizes() if size not in large]
    named = loaded(task, None).description["sizes whose sequences also occur in training"]
    assert named == (", ".join(map(str, small)) or "none")
    trained = sources(first(task, 5, batch_size=64, count=60))
    for size in {large[0], large[-1]}:
        trained |= sources([task._draw_from(TRAIN, 1000, size, torch.Generator().manual_seed(0))])
        validation, test = (sources(task._evaluation_set(split, [size])) for split in (VALIDATION, TEST))
        assert not trained & validation
        assert not trained & test
        assert not validation & test


@by_label
def test_tasks_say_what_they_measure(task: SyntheticTask) -> None:
    assert task.measures
    assert set(task.measures) <= {"distance", "items", "length"}
    assert set(task.measures.values()) <= set(task.axes)
    assert dependencies(" ".join(f"{kind}={axis}" for kind, axis in task.measures.items())) == task.measures
    if "length" in task.measures:
        assert min(task.longer_sizes()) > max(task.sizes())


def test_sizes_of_distances_are_drawn_by_their_logarithm() -> None:
    lengths = [batch.source.shape[1] - 2 for batch in first(DelayedMatch(max_noise=63), 0, batch_size=1, count=3_000)]
    for low, high in ((1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, 63)):
        expected = sum(1 / n for n in range(low, high + 1)) / sum(1 / n for n in range(1, 64))
        share = sum(low <= length <= high for length in lengths) / len(lengths)
        assert share == pytest.approx(expected, abs=0.03)


def test_sizes_are_drawn_evenly() -> None:
    lengths = [
        batch.source.shape[1] - 1 for batch in first(ModularArithmetic(max_length=9), 0, batch_size=1, count=3_000)
    ]
    assert all(lengths.count(length) / 3_000 == pytest.approx(0.2, abs=0.03) for length in (1, 3, 5, 7, 9))


def test_spread() -> None:
    assert spread(range(3, 6)) == [3, 4, 5]
    assert spread(range(1, 41)) == [1, 7, 12, 18, 23, 29, 34, 40]
    assert spread(range(1, 41, 2)) == [1, 7, 11, 17, 23, 29, 33, 39]
    assert spread(range(1, 129), geometric=True) == [1, 2, 4, 8, 16, 32, 64, 128]
    assert spread(range(2, 1001), geometric=True) == [2, 5, 12, 29, 70, 169, 412, 1000]


def test_permutations_are_uniform() -> None:
    drawn = permutations(6_000, 3, torch.Generator().manual_seed(0))
    counts = torch.tensor([[1, 3, 9]]).mul(drawn).sum(1).bincount()
    assert counts.count_nonzero() == 6
    assert (counts[counts > 0] / 6_000 - 1 / 6).abs().max() < 0.02


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
        (AssociativeRecall(max_pairs=2, num_keys=2, num_values=2, longer_pairs=(), length=6), 2),
        (CopyMemory(), 3),
        (MarkedAddition(), 2),
        (MarkedAddition(), 3),
        (Needle(alphabet=3), 3),
        (DelayedMatch(alphabet=3), 4),
        (SelectiveCopy(min_items=1, max_items=3, length=5, alphabet=2), 3),
        (EvenPairs(), 6),
        (ParityCheck(), 6),
        (CycleNavigation(), 5),
        (ModularArithmetic(), 3),
        (StackManipulation(), 1),
        (StackManipulation(), 5),
        (ModularArithmeticBrackets(), 4),
        (ModularArithmeticBrackets(), 6),
        (SolveEquation(), 7),
        (DuplicateString(), 6),
        (MissingDuplicate(), 8),
        (OddsFirst(), 6),
        (BucketSort(), 4),
        (BinaryAddition(), 6),
        (BinaryMultiplication(), 7),
        (ComputeSqrt(), 7),
    ):
        if task.space(size) > 10_000:  # none is drawn twice
            batch = task.draw(400, size, torch.Generator().manual_seed(0))
            assert len({tuple(row) for row in batch.source.tolist()}) == pytest.approx(400, abs=20)
            continue
        batch = task.draw(30 * task.space(size) + 1_000, size, torch.Generator().manual_seed(0))
        assert len({tuple(row) for row in batch.source.tolist()}) == task.space(size)


def test_chance_is_what_guessing_gets() -> None:
    for task in (AssociativeRecall(num_keys=8, num_values=4, longer_pairs=()), RunningParity()):
        generator = torch.Generator().manual_seed(0)
        answers = torch.cat([task.draw(2_000, size, generator).target.flatten() for size in range(1, 8)])
        most_common = answers.bincount().max().item() / len(answers)
        assert most_common == pytest.approx(task.chance, abs=0.02)


@pytest.mark.parametrize("name", TASKS)
def test_worked_examples(name: str) -> None:
    task = TASKS[name].model_construct()
    example = task.example()
    assert len(example.target_in) == len(example.target)
    assert example.source


@pytest.mark.parametrize("name", [name for name, task in TASKS.items() if issubclass(task, SyntheticTask)])
def test_what_a_task_asks_of_a_model_is_known_without_drawing(name: str) -> None:
    task = TASKS[name]()
    assert task.dimensions == task.load(None).dimensions


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


@by_label
def test_what_is_trained_on_is_not_beyond_training(task: SyntheticTask) -> None:
    key = next(name for name in type(task).model_fields if name.startswith("longer_"))
    largest, step = task.sizes()[-1], task.sizes().step
    options = task.model_dump() | {"length": 200} if "length" in type(task).model_fields else task.model_dump()
    if isinstance(task, AssociativeRecall):
        options["num_keys"] = 20
    for sizes in ((), (largest + step, largest + 2 * step)):
        assert type(task)(**options | {key: sizes}).longer_sizes() == list(sizes)
    with pytest.raises(ValueError, match=rf"{key}: \[{largest + step}, {largest}\] .* beyond .* goes up to {largest}:"):
        type(task)(**options | {key: (largest + step, largest)})
