"""Long distances and many items: every drawn answer, distance and floor by an independent reading of the stream."""

from __future__ import annotations

import math

import pytest
import torch
from drawn import asked_last, draw, rows
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.schema import TEST
from experiments.tasks.lengths import FIRST
from experiments.tasks.recall import AssociativeRecall
from experiments.tasks.selective_copy import SelectiveCopy
from experiments.tasks.streams import CopyMemory, DelayedMatch, MarkedAddition, Needle, StreamTask
from experiments.tasks.synthetic import upper_edges
from models.interface import PAD

drawings = settings(max_examples=25, deadline=None)
sizes = st.one_of(st.integers(2, 40), st.just(1000))
seeds = st.integers(0, 10_000)


def distances(task: StreamTask, size: int, seed: int) -> list[int]:
    """Of every row; the same at all its positions."""
    batch = task.draw(20, size, torch.Generator().manual_seed(seed))
    values = task.slices(batch, size)["distance"]
    assert values.shape == batch.target.shape
    assert (values == values[:, :1]).all()
    return values[:, 0].tolist()


@drawings
@given(st.one_of(st.integers(1, 40), st.just(1000)), seeds)
def test_copy_memory_copies(delay: int, seed: int) -> None:
    for row, distance in zip(draw(CopyMemory(), delay, seed), distances(CopyMemory(), delay, seed), strict=True):
        assert row.fed == row.source
        assert len(row.source) == delay + 20
        assert row.source[10:] == ["_"] * (delay - 1) + ["!"] + ["_"] * 10
        assert row.target == ["_"] * (delay + 10) + row.source[:10]
        assert set(row.source[:10]) <= set("abcdefgh")
        assert distance == delay + 10


def test_the_floor_of_copy_memory_is_the_published_one_and_that_of_no_memory() -> None:
    assert CopyMemory().floor(100) == pytest.approx(10 * math.log(8) / 120)
    assert CopyMemory().floor(1000) == pytest.approx(0.0203867, abs=1e-6)
    fixed = CopyMemory(min_delay=300, max_delay=300)
    assert fixed.memoryless_loss == pytest.approx(fixed.floor(300))
    loss = right = asked = 0.0
    task = CopyMemory(max_delay=64)
    for batch in task.load(None).evaluation[TEST]:
        for row in rows(task, batch):  # blanks for certain until ten positions before the end, then any of the eight
            for place, symbol in enumerate(row.target):
                answering = place >= len(row.target) - 10
                assert answering == (symbol != "_")
                loss += math.log(8) if answering else 0.0
                right += 1 / 8 if answering else 1
                asked += 1
    assert task.memoryless_loss == pytest.approx(loss / asked)
    assert task.chance == pytest.approx(right / asked)


@drawings
@given(sizes, seeds)
def test_marked_addition_adds_what_is_marked(size: int, seed: int) -> None:
    for row, distance in zip(draw(MarkedAddition(), size, seed), distances(MarkedAddition(), size, seed), strict=True):
        stream, answer = asked_last(row)
        assert len(stream) == size + 1
        assert stream[-1] == "="
        first, second = (place for place, symbol in enumerate(stream) if symbol.endswith("*"))
        assert first < size // 2 <= second
        assert answer == str(int(stream[first][0]) + int(stream[second][0]))
        assert all(len(symbol.rstrip("*")) == 1 for symbol in stream)
        assert distance == len(stream) - 1 - first


@drawings
@given(st.one_of(st.integers(1, 40), st.just(1000)), seeds)
def test_the_needle_is_what_is_marked(size: int, seed: int) -> None:
    for row, distance in zip(draw(Needle(), size, seed), distances(Needle(), size, seed), strict=True):
        stream, answer = asked_last(row)
        assert len(stream) == size + 3
        assert stream[-1] == "?"
        assert stream.count("!") == 1
        assert answer == stream[stream.index("!") + 1]
        assert answer in "abcdefgh"
        assert distance == len(stream) - 1 - (stream.index("!") + 1)


def test_needles_are_anywhere() -> None:
    places = [row.source.index("!") for row in draw(Needle(), 9, seed=0, count=5_000)]
    assert all(places.count(place) / 5_000 == pytest.approx(0.1, abs=0.02) for place in range(10))


@drawings
@given(st.one_of(st.integers(1, 40), st.just(1000)), seeds)
def test_the_first_token_decides_a_delayed_match(size: int, seed: int) -> None:
    for row, distance in zip(draw(DelayedMatch(), size, seed), distances(DelayedMatch(), size, seed), strict=True):
        stream, answer = asked_last(row)
        assert len(stream) == size + 2
        assert stream[-1] == "?"
        assert answer == stream[0]
        assert distance == len(stream) - 1


@pytest.mark.parametrize("task", [Needle(), DelayedMatch(alphabet=4), MarkedAddition(), SelectiveCopy()])
def test_chance_is_the_share_of_the_most_common_answer(
    task: Needle | DelayedMatch | MarkedAddition | SelectiveCopy,
) -> None:
    answers = task.draw(20_000, 8, torch.Generator().manual_seed(0)).target.flatten()
    answers = answers[answers != PAD]
    assert answers.bincount().max().item() / len(answers) == pytest.approx(task.chance, abs=0.01)


@drawings
@given(st.integers(1, 128), seeds)
def test_selective_copy_keeps_the_content_in_order(items: int, seed: int) -> None:
    for row in draw(SelectiveCopy(), items, seed):
        assert len(row.source) == 128
        assert row.fed == ["?"] * items
        assert row.target == [symbol for symbol in row.source if symbol != "_"]
        assert len(row.target) == items


def test_content_is_anywhere() -> None:
    task = SelectiveCopy(min_items=4, max_items=4, length=16)
    source = task.draw(8_000, 4, torch.Generator().manual_seed(0)).source
    blank = len(task.vocabularies()[0]) - 1
    torch.testing.assert_close((source != blank).float().mean(0), torch.full((16,), 0.25), rtol=0, atol=0.02)


@drawings
@given(st.integers(1, 32), st.integers(64, 67), seeds)
def test_recall_in_a_source_of_fixed_length(pairs: int, length: int, seed: int) -> None:
    task = AssociativeRecall(max_pairs=32, num_keys=40, longer_pairs=(), length=length)
    batch = task.draw(10, pairs, torch.Generator().manual_seed(seed))
    slices = task.slices(batch, pairs)
    assert (slices["pairs"] == pairs).all()
    for row, between in zip(rows(task, batch), slices["distance"].tolist(), strict=True):
        assert len(row.source) == length
        places = [place for place, symbol in enumerate(row.source) if symbol.startswith("k")]
        assert row.source.count("_") == length - 2 * pairs
        known = {row.source[place]: row.source[place + 1] for place in places}
        assert len(known) == pairs
        assert sorted(row.fed) == sorted(known)
        assert row.target == [known[key] for key in row.fed]
        for query, (key, distance) in enumerate(zip(row.fed, between, strict=True)):
            assert distance == length + query - (row.source.index(key) + 1)


def test_bins_are_named_by_their_upper_edge() -> None:
    assert upper_edges(torch.arange(14), 12).tolist() == [1, 1, 2, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12, 12]
    for largest in range(1, 3000):
        edges = upper_edges(torch.arange(1, largest + 1), largest).unique().tolist()
        *powers, last = edges
        assert last == largest
        assert powers == [2**i for i in range(len(powers))]
        assert largest < 3 or math.sqrt(2) <= largest / powers[-1] < 2 * math.sqrt(2)


@pytest.mark.parametrize("noise", [64, 100, 1000])
def test_the_farthest_bin_is_no_remainder(noise: int) -> None:
    """It ends at the farthest distance there is, and holds a good share of the sequences."""
    for batches in Needle(max_noise=noise).load(None).evaluation.values():
        places = torch.cat([batch.slices["distance"][batch.target != PAD] for batch in batches])
        exact = [Needle().distances(batch.source - FIRST) for batch in batches]
        assert places.max() == torch.cat(exact).max()
        assert (places == places.max()).sum() >= 0.03 * len(places)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="less than 2 tokens of noise"):
        MarkedAddition(min_noise=1)
    with pytest.raises(ValueError, match="min_noise is larger"):
        Needle(min_noise=200)
    with pytest.raises(ValueError, match="min_delay is larger"):
        CopyMemory(min_delay=200)
    with pytest.raises(ValueError, match="more items than fit into a length of 60"):
        SelectiveCopy(length=60)
    with pytest.raises(ValueError, match="min_items is larger"):
        SelectiveCopy(min_items=70)
    with pytest.raises(ValueError, match="17 pairs do not fit into a length of 32"):
        AssociativeRecall(max_pairs=17, longer_pairs=(), num_keys=20, length=32)
