"""Corpora as batches: nothing is lost, nothing is doubled, nothing unknown is ever right."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments import corpus
from experiments.corpus import (
    corpus_data,
    source_overlap,
    upper_edge,
    worked_example,
)
from experiments.data import Batch, DataError, Pair, Texts, Tokens
from experiments.tasks.base import TaskData
from models.interface import BOS, EOS, PAD

UNKNOWN = 3
SYMBOLS = st.sampled_from(["a", "b", "c", " ", "ɔ̃", "<eos>", "<unk>", "NA", "10"])
SEQUENCES = st.lists(SYMBOLS, min_size=1, max_size=9).map(tuple)
PAIRS = st.lists(st.builds(Pair, SEQUENCES, SEQUENCES), min_size=1, max_size=40)


def data_of(train: list[Pair], other: list[Pair] | None = None) -> TaskData:
    other = [Pair(("a",), ("a",))] if other is None else other
    slices = {"length": lambda pair: len(pair.source), "answers": lambda pair: len(pair.target)}
    return corpus_data(train, {"validation": other, "test": other}, slices=slices, description={"source": "invented"})


def epoch(data: TaskData, pairs: int, batch_size: int, seed: int = 0) -> list[Batch]:
    """The batches of the first epoch."""
    batches = data.training(batch_size, torch.Generator().manual_seed(seed))
    return list(islice(batches, -(-pairs // batch_size)))


def decoded(data: TaskData, batches: list[Batch]) -> list[Pair]:
    """The pairs in `batches`, read off the symbols of each row up to its first EOS."""

    def symbols(names: tuple[str, ...], row: list[int]) -> tuple[str, ...]:
        return tuple(names[i] for i in row[: row.index(EOS)])

    return [
        Pair(symbols(data.source_vocabulary.symbols, source), symbols(data.target_vocabulary.symbols, target))
        for batch in batches
        for source, target in zip(batch.source.tolist(), batch.target.tolist(), strict=True)
    ]


def test_a_corpus_by_hand() -> None:
    train = [Pair(("b", "a"), ("y",)), Pair(("a",), ("x", "y", "x"))]
    test = [Pair(("c", "a"), ("z", "x")), Pair(("b", "b", "a"), ("y",))]
    data = data_of(train, test)
    assert data.source_vocabulary.symbols == ("<pad>", "<bos>", "<eos>", "<unk>", "a", "b")
    assert data.target_vocabulary.symbols == ("<pad>", "<bos>", "<eos>", "<unk>", "x", "y")
    assert (data.max_source_length, data.max_target_length, data.given_inputs) == (4, 4, False)
    (batch,) = epoch(data, 2, 2)
    assert batch.source.tolist() == [[5, 4, EOS], [4, EOS, PAD]]
    assert batch.target_in.tolist() == [[BOS, 5, PAD, PAD], [BOS, 4, 5, 4]]
    assert batch.target.tolist() == [[5, EOS, PAD, PAD], [4, 5, 4, EOS]]
    assert batch.source_lengths.tolist() == [3, 2]
    assert batch.slices == {}
    (batch,) = data.evaluation["test"]
    assert batch.source.tolist() == [[5, 5, 4, EOS], [UNKNOWN, 4, EOS, PAD]]
    assert batch.target.tolist() == [[5, EOS, PAD], [UNKNOWN, 4, EOS]]
    assert batch.slices["length"].tolist() == [[3, 3, 3], [2, 2, 2]]
    assert batch.slices["answers"].tolist() == [[1, 1, 1], [2, 2, 2]]
    tensors = [batch.source, batch.target_in, batch.target, batch.source_lengths, *batch.slices.values()]
    assert {t.dtype for t in tensors} == {torch.int64}
    assert all(t.is_contiguous() for t in tensors)
    assert data.description["train_sequences"] == data.description["test_sequences"] == "2"
    assert data.description["test_unknown_targets"] == "1"
    assert data.description["source"] == "invented"


def test_symbols_that_are_rare_on_their_side_of_training_are_unknown() -> None:
    train = [Pair(("a", "b"), ("b",)), Pair(("a", "a"), ("y", "y"))]
    test = [Pair(("b", "a"), ("y", "b"))]
    data = corpus_data(
        train, {"validation": test, "test": test}, slices={}, description={"source": "invented"}, min_frequency=2
    )
    assert data.source_vocabulary.symbols[UNKNOWN:] == ("<unk>", "a")
    assert data.target_vocabulary.symbols[UNKNOWN:] == ("<unk>", "y")
    (batch,) = epoch(data, 2, 2)
    assert {tuple(row) for row in batch.source.tolist()} == {(4, UNKNOWN, EOS), (4, 4, EOS)}
    assert {tuple(row) for row in batch.target.tolist()} == {(UNKNOWN, EOS, PAD), (4, 4, EOS)}
    (batch,) = data.evaluation["test"]
    assert batch.source.tolist() == [[UNKNOWN, 4, EOS]]
    assert batch.target.tolist() == [[4, UNKNOWN, EOS]]
    assert data.description["test_unknown_targets"] == "1"


@settings(deadline=None, max_examples=60)
@given(train=PAIRS, batch_size=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_an_epoch_is_every_training_pair_once(train: list[Pair], batch_size: int, seed: int) -> None:
    data = data_of(train)
    batches = epoch(data, len(train), batch_size, seed)
    assert Counter(decoded(data, batches)) == Counter(train)
    sizes = Counter(batch.size for batch in batches)
    full, rest = divmod(len(train), batch_size)
    assert sizes == Counter({batch_size: full} | ({rest: 1} if rest else {}))
    for batch in batches:
        lengths = batch.source_lengths.tolist()
        assert lengths == sorted(lengths, reverse=True)
        assert lengths == [row.index(EOS) + 1 for row in batch.source.tolist()]
        assert batch.source.shape[1] == max(lengths)
        target_lengths = [row.index(EOS) + 1 for row in batch.target.tolist()]
        assert batch.target.shape[1] == max(target_lengths)
        for source, length in zip(batch.source, lengths, strict=True):
            assert (source[length:] == PAD).all()
        for target_in, target, length in zip(batch.target_in, batch.target, target_lengths, strict=True):
            assert target_in[0] == BOS
            assert torch.equal(target_in[1:length], target[: length - 1])
            assert (target[length:] == PAD).all()
            assert (target_in[length:] == PAD).all()


@settings(deadline=None, max_examples=30)
@given(train=PAIRS, other=PAIRS)
def test_evaluation_sets_hold_every_pair_once_and_are_fixed(train: list[Pair], other: list[Pair]) -> None:
    data, again = data_of(train, other), data_of(train, other)
    known_source = {s for pair in train for s in pair.source}
    known_target = {s for pair in train for s in pair.target}
    expected = [
        Pair(
            tuple(s if s in known_source else "<unk>" for s in pair.source),
            tuple(s if s in known_target else "<unk>" for s in pair.target),
        )
        for pair in other
    ]
    assert Counter(decoded(data, data.evaluation["test"])) == Counter(expected)
    for one, two in zip(data.evaluation["test"], again.evaluation["test"], strict=True):
        assert torch.equal(one.source, two.source)
        assert torch.equal(one.target, two.target)
        assert one.source_lengths.tolist() == sorted(one.source_lengths.tolist(), reverse=True)
        lengths = one.source_lengths[:, None] - 1
        assert torch.equal(one.slices["length"], lengths.expand_as(one.target))


def test_evaluation_batches_are_of_bounded_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "EVALUATION_BATCH_SIZE", 4)
    data = data_of([Pair(("a",), ("a",))], [Pair(("a",) * n, ("a",)) for n in (3, 1, 7, 2, 9, 8, 1, 5, 6)])
    assert [batch.source_lengths.tolist() for batch in data.evaluation["test"]] == [[10, 9, 8, 7], [6, 4, 3, 2], [2]]


@settings(deadline=None, max_examples=30)
@given(train=PAIRS, batch_size=st.integers(1, 12), seed=st.integers(0, 2**31))
def test_training_is_decided_by_the_generator(train: list[Pair], batch_size: int, seed: int) -> None:
    data = data_of(train)
    torch.manual_seed(1)
    one = list(islice(data.training(batch_size, torch.Generator().manual_seed(seed)), 20))
    torch.manual_seed(2)
    two = list(islice(data.training(batch_size, torch.Generator().manual_seed(seed)), 20))
    assert all(
        torch.equal(a.source, b.source) and torch.equal(a.target, b.target) for a, b in zip(one, two, strict=True)
    )


def test_epochs_and_seeds_differ() -> None:
    train = [Pair(("a",) * (n % 7 + 1), (str(n),)) for n in range(60)]
    data = data_of(train)
    batches = data.training(4, torch.Generator().manual_seed(0))
    first, second = decoded(data, list(islice(batches, 15))), decoded(data, list(islice(batches, 15)))
    assert Counter(first) == Counter(second) == Counter(train)
    assert first != second
    assert first != decoded(data, epoch(data, 60, 4, seed=1))
    # Not only the order of the batches changes, but their company too.
    companies = [{frozenset(pairs[i : i + 4]) for i in range(0, 60, 4)} for pairs in (first, second)]
    assert companies[0] != companies[1]


def test_batches_are_of_similar_length_and_in_mixed_order() -> None:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 40, (320,), generator=generator).tolist()
    data = data_of([Pair(("a",) * n, ("a",)) for n in lengths])
    widths = [batch.source.shape[1] - 1 for batch in epoch(data, 320, 8)]
    # All 320 fit into one pool, so that the batches are the slices of one sorted list: no padding can be less.
    assert sorted(widths) == sorted(sorted(lengths, reverse=True)[::8])
    assert widths != sorted(widths, reverse=True)


def test_pools_mix_the_company(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "POOL", 2)
    data = data_of([Pair(("a",) * n, ("a",)) for n in range(1, 41)])
    batches = [[n - 1 for n in batch.source_lengths.tolist()] for batch in epoch(data, 40, 4)]
    # With pools of 8 random pairs, each batch of 4 is the longer or the shorter half of its pool …
    with_one_below = sum(any(max(other) < min(batch) for other in batches) for batch in batches)
    assert with_one_below >= 5  # … so that under each longer half there is a shorter one,
    assert sorted(map(max, batches)) != list(range(4, 44, 4))  # and they are not slices of one sorted list.


@settings(deadline=None, max_examples=60)
@given(train=PAIRS, tokens=st.integers(20, 90), seed=st.integers(0, 2**31))
def test_batches_by_tokens_hold_every_pair_once_and_no_more_tokens(train: list[Pair], tokens: int, seed: int) -> None:
    data = data_of(train)
    batches = data.training(Tokens(tokens), torch.Generator().manual_seed(seed))
    seen: list[Batch] = []
    while sum(batch.size for batch in seen) < len(train):
        seen.append(next(batches))
    assert Counter(decoded(data, seen)) == Counter(train)
    for batch in seen:
        assert batch.source.numel() + batch.target.numel() <= tokens
        assert torch.equal(batch.source != PAD, torch.arange(batch.source.shape[1]) < batch.source_lengths[:, None])
        assert torch.equal(batch.target != PAD, batch.target_in != PAD)
        assert (batch.target != PAD).any(0).all()  # no column of padding alone


def test_batches_by_tokens_are_of_similar_length_equally_full_and_in_mixed_order() -> None:
    generator = torch.Generator().manual_seed(3)
    lengths = torch.randint(1, 40, (320,), generator=generator).tolist()
    data = data_of([Pair(("a",) * n, ("a",) * n) for n in lengths])
    batches = data.training(Tokens(600), torch.Generator().manual_seed(0))
    epoch_of: list[Batch] = []
    while sum(batch.size for batch in epoch_of) < 320:
        epoch_of.append(next(batches))
    padded_to = sum(batch.tokens for batch in epoch_of)
    assert padded_to < 1.1 * sum(2 * (n + 1) for n in lengths)
    assert min(batch.tokens for batch in epoch_of) > 300  # nothing is left over that the shortest would share
    widths = [batch.source.shape[1] for batch in epoch_of]
    assert widths != sorted(widths, reverse=True)
    assert len({batch.size for batch in epoch_of}) > 3  # short ones stand in larger batches
    with pytest.raises(ValueError, match="50 tokens are fewer than the 80 of the longest pair"):
        next(data.training(Tokens(50), torch.Generator()))


def test_small_pools_lose_no_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "POOL", 2)
    train = [Pair(("a",) * (n % 13 + 1), (str(n),)) for n in range(60)]
    batches = data_of(train).training(Tokens(40), torch.Generator().manual_seed(0))
    found: list[Batch] = []
    while sum(batch.size for batch in found) < 60:
        found.append(next(batches))
    assert Counter(decoded(data_of(train), found)) == Counter(train)


def test_evaluation_batches_are_bounded_by_tokens_but_for_one_pair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "EVALUATION_TOKENS", 24)
    other = [Pair(("a",) * n, ("a",) * m) for n, m in ((29, 1), (9, 1), (5, 5), (5, 4), (1, 1), (1, 9), (1, 1))]
    batches = data_of([Pair(("a",), ("a",))], other).evaluation["test"]
    assert batches[0].source.shape == (1, 30)  # alone, since it has more
    assert all(batch.tokens <= 24 for batch in batches[1:])
    # (9, 1) and (5, 5) together would have 2 · (10 + 6) tokens, (5, 5) and (5, 4) 2 · (6 + 6), which just fits.
    assert [batch.source_lengths.tolist() for batch in batches] == [[30], [10], [6, 6], [2, 2], [2]]


def test_names_on_an_axis_and_texts_follow_their_pairs() -> None:
    pairs = [Pair(("a",) * n, ("a",)) for n in (1, 3, 2)]
    sources = {"test": ["one", "three", "two"], "validation": [""] * 3}
    references = {"test": ["1", "3", "2"], "validation": [""] * 3}
    data = corpus_data(
        pairs,
        {"validation": pairs, "test": pairs},
        slices={},
        categories={"kind": {"test": ["z", "x", "y"]}},
        texts=Texts(sources, references, "".join),
        description={"source": "invented"},
    )
    (batch,) = data.evaluation["test"]
    assert data.categories == {"kind": ("x", "y", "z")}
    assert batch.slices["kind"][:, 0].tolist() == [0, 1, 2]  # the longest first
    assert "kind" not in data.evaluation["validation"][0].slices
    assert data.texts is not None
    assert data.texts.sources["test"] == ["three", "two", "one"]
    assert data.texts.references["test"] == ["3", "2", "1"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_corpus_on_cuda_gives_the_batches_of_the_cpu() -> None:
    data = data_of([Pair(("a",) * (n % 7 + 1), (str(n),)) for n in range(60)])
    cuda = torch.device("cuda")
    here = data.training(Tokens(60), torch.Generator().manual_seed(0))
    there = data.training(Tokens(60), torch.Generator().manual_seed(0), cuda)
    for _, one, two in zip(range(20), here, there, strict=False):
        assert two.source.device.type == two.target.device.type == "cuda"
        assert two.source_lengths.device.type == "cpu"
        assert torch.equal(one.source, two.source.cpu())
        assert torch.equal(one.target, two.target.cpu())


def test_no_pair_is_always_in_the_small_batch_or_never() -> None:
    data = data_of([Pair(("a",) * n, ("a",)) for n in range(1, 11)])
    batches = data.training(4, torch.Generator().manual_seed(0))
    small = Counter(n - 1 for b in islice(batches, 300) if b.size == 2 for n in b.source_lengths.tolist())
    assert small.total() == 200  # 100 epochs of 4 + 4 + 2
    assert set(small) == set(range(1, 11))
    assert max(small.values()) < 45  # 20 expected; the standard deviation is 4


@settings(deadline=None, max_examples=60)
@given(train=PAIRS, other=PAIRS)
def test_an_unknown_symbol_is_never_right(train: list[Pair], other: list[Pair]) -> None:
    data = data_of(train, other)
    vocabulary = data.target_vocabulary
    known = {s for pair in train for s in pair.target}
    references = [vocabulary.references(batch.target) for batch in data.evaluation["test"]]
    answers = torch.arange(len(vocabulary))
    for batch, reference in zip(data.evaluation["test"], references, strict=True):
        can_be_right = (reference[..., None] == answers).any(-1)
        assert torch.equal(can_be_right, batch.target != UNKNOWN)
        assert torch.equal(reference[can_be_right], batch.target[can_be_right])
    never = sum(int((reference == -1).sum()) for reference in references)
    assert never == sum(s not in known for pair in other for s in pair.target)
    hopeless = sum(not set(pair.target) <= known for pair in other)
    assert data.description["test_unknown_targets"] == str(hopeless)


def test_the_training_part_is_never_unknown() -> None:
    train = [Pair(("<unk>", "<eos>", "<pad>"), ("<bos>", "<unk>"))]
    data = data_of(train, train)
    (batch,) = data.evaluation["test"]
    assert batch.source.tolist() == [[6, 4, 5, EOS]]  # <eos>, <pad>, <unk> of the corpus are symbols like any other
    assert batch.target.tolist() == [[4, 5, EOS]]
    assert torch.equal(data.target_vocabulary.references(batch.target), batch.target)


def test_overlap_is_counted_and_described() -> None:
    train = [Pair(("a", "b"), ("x",)), Pair(("ab",), ("x",)), Pair(("c",), ("x",))]
    other = [Pair(("a", "b"), ("y",)), Pair(("b", "a"), ("x",)), Pair(("c",), ("x",)), Pair(("c",), ("z",))]
    assert source_overlap(train, other) == 3
    assert source_overlap(train, other[1:2]) == 0
    assert data_of(train, other).description["test_sources_in_training"] == "3"


def test_the_digest_is_of_the_content() -> None:
    def digest_of(*sequences: tuple[str, ...]) -> str:
        return data_of([Pair(s, ("x",)) for s in sequences]).description["digest"]

    base = digest_of(("a", "b"), ("c",))
    assert base == digest_of(("a", "b"), ("c",))
    others = [
        digest_of(("ab",), ("c",)),
        digest_of(("a",), ("b", "c")),
        digest_of(("c",), ("a", "b")),
        digest_of(("a", "b")),
    ]
    assert len({base, *others}) == 5
    assert len(base) <= 36  # MLflow's limit


def test_an_empty_split_is_refused() -> None:
    with pytest.raises(DataError, match="'validation'"):
        data_of([Pair(("a",), ("a",))], [])


@pytest.mark.parametrize(("value", "edge"), [(0, 4), (4, 4), (5, 6), (6, 6), (7, 9), (9, 9), (10, 9), (99, 9)])
def test_upper_edge(value: int, edge: int) -> None:
    assert upper_edge(value, (4, 6, 9)) == edge


def test_worked_example_is_what_a_run_sees() -> None:
    pair = Pair(("a", "b"), ("x",))
    data = data_of([pair], [pair])
    (batch,) = data.evaluation["test"]
    shown = worked_example(pair)
    assert [data.source_vocabulary.symbols[i] for i in batch.source[0]] == shown.source
    assert [data.target_vocabulary.symbols[i] for i in batch.target_in[0]] == shown.target_in
    assert [data.target_vocabulary.symbols[i] for i in batch.target[0]] == shown.target
