"""Corpora as batches: pairs of symbol sequences, encoded once and drawn by index.

One pair as it is trained on (a French word and its phonemes)::

    source     b o n j o u r <eos>
    target_in  <bos> b ɔ̃ ʒ u ʁ
    target     b ɔ̃ ʒ u ʁ <eos>

The way of the data: `experiments.files` (a file with a known checksum) → `experiments.reading` (a checked table) →
`corpus_data` (vocabularies, batches). Drawing a batch is an index into padded matrices, which move to the device once.
"""

from __future__ import annotations

import hashlib
import json
import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from experiments.data import (
    CPU,
    SPECIAL_SYMBOLS,
    UNKNOWN_SYMBOL,
    Batch,
    BatchError,
    DataError,
    Example,
    Pair,
    TaskData,
    Texts,
    Tokens,
    Vocabulary,
)
from models.interface import BOS, EOS, PAD

UNKNOWN_ID = len(SPECIAL_SYMBOLS)
FIRST_ID = UNKNOWN_ID + 1  # of the symbols of a corpus
EVALUATION_BATCH_SIZE = 256
EVALUATION_TOKENS = 16_384  # of a batch, unless one pair alone has more
POOL = 50  # batches that are sorted by length together; larger: less padding; smaller: batches more mixed


@dataclass(frozen=True)
class EncodedPairs:
    """Pairs as ids, padded at the end with `PAD`, all int64; lengths and slices on the CPU.

    Shapes (N pairs, S and T the longest source and target, end of sequence included):
        source (N, S), target_in (N, T), target (N, T), source_lengths (N,), target_lengths (N,)
        slices: name of an axis → (N,), the value of each pair on it
    """

    source: Tensor
    target_in: Tensor
    target: Tensor
    source_lengths: Tensor
    target_lengths: Tensor
    slices: Mapping[str, Tensor]

    def batch(self, rows: Tensor) -> Batch:
        """The pairs `rows` (B,) side by side, in this order, cut to the longest among them, where they lie."""
        source_lengths = self.source_lengths[rows]
        longest_source, longest_target = int(source_lengths.max()), int(self.target_lengths[rows].max())
        here = rows.to(self.source.device)
        target = self.target[:, :longest_target].index_select(0, here)
        return Batch(
            source=self.source[:, :longest_source].index_select(0, here),
            target_in=self.target_in[:, :longest_target].index_select(0, here),
            target=target,
            source_lengths=source_lengths,
            slices={axis: values[rows, None].expand(target.shape).clone() for axis, values in self.slices.items()},
        )

    def to(self, device: torch.device) -> EncodedPairs:
        """The same pairs with their symbols on `device`."""
        moved = {name: getattr(self, name).to(device) for name in ("source", "target_in", "target")}
        return replace(self, **moved)

    def longest_first(self, rows: Tensor, pools: Tensor | None = None) -> Tensor:
        """`rows` sorted by source length, then target length, both descending; within each of `pools`, if given.

        Equal lengths stay in their order, so that a random order stays random among them.
        """
        key = -(self.source_lengths[rows] * (self.target.shape[1] + 1) + self.target_lengths[rows])
        if pools is not None:
            key += pools * (self.source.shape[1] + 1) * (self.target.shape[1] + 1)
        return rows[key.argsort(stable=True)]

    def evaluation_rows(self) -> list[Tensor]:
        """The rows of each fixed batch, the longest first."""
        rows = self.longest_first(torch.arange(len(self.source)))
        return list(rows.split(self.cut(rows, Tokens(EVALUATION_TOKENS), EVALUATION_BATCH_SIZE)))

    def training(self, size: int | Tokens, generator: torch.Generator, device: torch.device = CPU) -> Iterator[Batch]:
        """Endless epochs, each with every pair once, in batches of similar length; see `TrainingBatches`.

        An epoch is a fresh permutation; pools of about `POOL` batches are sorted by length, cut into batches, and the
        order of all batches is shuffled.
        """
        here = self.to(device)
        if isinstance(size, Tokens):
            longest = int((self.source_lengths + self.target_lengths).max())
            if longest > size.count:
                raise BatchError(f"{size.count} tokens are fewer than the {longest} of the longest pair")
        while True:
            permutation = torch.randperm(len(self.source), generator=generator)
            batches = (
                self._by_tokens(permutation, size) if isinstance(size, Tokens) else self._by_count(permutation, size)
            )
            for i in torch.randperm(len(batches), generator=generator).tolist():
                yield here.batch(batches[i])

    def _by_count(self, permutation: Tensor, size: int) -> list[Tensor]:
        """Batches of `size` pairs.

        What is left over when `size` does not divide the number of pairs is a smaller batch of its own, drawn from all
        lengths: otherwise the shortest pairs would share it in every epoch.
        """
        count = len(permutation)
        pools = torch.arange(count) // (POOL * size)
        pools[count - count % size :] += 1
        return list(self.longest_first(permutation, pools).split(size))

    def _by_tokens(self, permutation: Tensor, size: Tokens) -> list[Tensor]:
        """Batches of at most so many tokens, those of a pool about equally full.

        Without that the shortest pairs of a pool would share what is left over, and would weigh more in every epoch.
        """
        tokens = self.source_lengths[permutation] + self.target_lengths[permutation]
        pools = tokens.cumsum(0) // (POOL * size.count)
        batches = []
        for pool in range(int(pools[-1]) + 1):
            rows = self.longest_first(permutation[pools == pool])
            if len(rows):
                batches += rows.split(self._level(rows, size))
        return batches

    def _level(self, rows: Tensor, most: Tokens) -> list[int]:
        """Sizes of as few batches as `most` allows, with nearly the smallest limit that needs no more of them."""
        full = self.cut(rows, most)
        needed = int((self.source_lengths[rows] + self.target_lengths[rows]).sum())
        limit = math.ceil(needed / len(full))
        while limit < most.count:
            sizes = self.cut(rows, Tokens(limit))
            if len(sizes) <= len(full):
                return sizes
            limit = math.ceil(limit * 1.02)
        return full

    def cut(self, rows: Tensor, most: Tokens, sequences: int | None = None) -> list[int]:
        """Sizes of the batches into which `rows`, in their order, are cut from the front, each as large as may be.

        A batch has at most `most` tokens, padding included, and at most so many `sequences`, if given; a pair that has
        more tokens is a batch of its own.
        """
        sizes: list[int] = []
        size = longest_source = longest_target = 0
        lengths = zip(self.source_lengths[rows].tolist(), self.target_lengths[rows].tolist(), strict=True)
        for source, target in lengths:
            wider = max(longest_source, source), max(longest_target, target)
            if size and ((size + 1) * sum(wider) > most.count or size == sequences):
                sizes.append(size)
                size, wider = 0, (source, target)
            size += 1
            longest_source, longest_target = wider
        return [*sizes, size]


def corpus_data(
    train: Sequence[Pair],
    evaluation: Mapping[str, Sequence[Pair]],
    *,
    slices: Mapping[str, Callable[[Pair], int]],
    description: Mapping[str, str],
    categories: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    texts: Texts | None = None,
    shared_vocabulary: bool = False,
    min_frequency: int = 1,
) -> TaskData:
    """Pairs of symbol sequences as a task that is ready for a run.

    The vocabularies hold what `train` shows often enough and nothing else, sorted; any other symbol becomes
    `UNKNOWN_SYMBOL`, which is never a right answer (`Vocabulary.references`).

    Args:
        train: the pairs to train on.
        evaluation: split → its pairs; "validation" and "test", and "longer" where there is one.
        slices: axis → the value of a pair on it, for the evaluation sets.
        description: of the data, at least their "source". Added are: "digest" (SHA-256 of all pairs, the 32 digits that
            MLflow has room for), and in numbers "<split>_sequences", and for the evaluation splits
            "<split>_sources_in_training" (the overlap) and "<split>_unknown_targets" (targets that hold an unknown
            symbol, which nobody can get right).
        categories: axis → split → the name of each pair on it, for the splits that have any.
        texts: of the evaluation splits, in the order of their pairs; where answers are scored as text.
        shared_vocabulary: both sides have the symbols of both.
        min_frequency: how often a symbol stands on its side of `train`, at least, to be known.

    Raises:
        DataError: a split is empty.
    """
    splits = {"train": train, **evaluation}
    for split, pairs in splits.items():
        if not pairs:
            raise DataError(f"the split {split!r} of the corpus holds no sequences")
    of_sources = _frequent((pair.source for pair in train), min_frequency)
    of_targets = _frequent((pair.target for pair in train), min_frequency)
    if shared_vocabulary:
        of_sources = of_targets = of_sources | of_targets
    source_ids = {symbol: i for i, symbol in enumerate(sorted(of_sources), FIRST_ID)}
    target_ids = {symbol: i for i, symbol in enumerate(sorted(of_targets), FIRST_ID)}
    encoded = {
        split: _encode(pairs, source_ids, target_ids, slices if split in evaluation else {})
        for split, pairs in splits.items()
    }
    names: dict[str, tuple[str, ...]] = {}
    for axis, by_split in (categories or {}).items():
        names[axis] = tuple(sorted({name for of_split in by_split.values() for name in of_split}))
        number = {name: i for i, name in enumerate(names[axis])}
        for split, of_split in by_split.items():
            values = torch.tensor([number[name] for name in of_split])
            encoded[split] = replace(encoded[split], slices={**encoded[split].slices, axis: values})
    facts = {"digest": digest(splits)}
    for split, pairs in splits.items():
        facts[f"{split}_sequences"] = str(len(pairs))
    for split, pairs in evaluation.items():
        facts[f"{split}_sources_in_training"] = str(source_overlap(train, pairs))
        facts[f"{split}_unknown_targets"] = str(sum(not target_ids.keys() >= set(pair.target) for pair in pairs))
    rows = {split: encoded[split].evaluation_rows() for split in evaluation}
    return TaskData(
        source_vocabulary=Vocabulary.of((UNKNOWN_SYMBOL, *source_ids)),
        target_vocabulary=Vocabulary.of((UNKNOWN_SYMBOL, *target_ids)),
        given_inputs=False,
        max_source_length=max(part.source.shape[1] for part in encoded.values()),
        max_target_length=max(part.target.shape[1] for part in encoded.values()),
        training=encoded["train"].training,
        evaluation={split: [encoded[split].batch(batch) for batch in rows[split]] for split in evaluation},
        overlap=source_overlap(train, evaluation["test"]),
        description={**description, **facts},
        categories=names,
        texts=texts and _reordered(texts, rows),
    )


def _frequent(sequences: Iterable[Sequence[str]], least: int) -> set[str]:
    """The symbols that stand in `sequences` at least so many times."""
    return {symbol for symbol, count in Counter(chain.from_iterable(sequences)).items() if count >= least}


def _reordered(texts: Texts, rows: Mapping[str, list[Tensor]]) -> Texts:
    """`texts` in the order of the batches."""
    order = {split: torch.cat(batches).tolist() for split, batches in rows.items()}
    sources = {split: [texts.sources[split][row] for row in at] for split, at in order.items()}
    references = {split: [texts.references[split][row] for row in at] for split, at in order.items()}
    return replace(texts, sources=sources, references=references)


def _encode(
    pairs: Sequence[Pair],
    source_ids: Mapping[str, int],
    target_ids: Mapping[str, int],
    slices: Mapping[str, Callable[[Pair], int]],
) -> EncodedPairs:
    sources = [[source_ids.get(symbol, UNKNOWN_ID) for symbol in pair.source] for pair in pairs]
    targets = [[target_ids.get(symbol, UNKNOWN_ID) for symbol in pair.target] for pair in pairs]
    return EncodedPairs(
        source=_padded([[*ids, EOS] for ids in sources]),
        target_in=_padded([[BOS, *ids] for ids in targets]),
        target=_padded([[*ids, EOS] for ids in targets]),
        source_lengths=torch.tensor([len(ids) + 1 for ids in sources]),
        target_lengths=torch.tensor([len(ids) + 1 for ids in targets]),
        slices={axis: torch.tensor([value(pair) for pair in pairs]) for axis, value in slices.items()},
    )


def _padded(rows: list[list[int]]) -> Tensor:
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.full((len(rows), int(lengths.max())), PAD)
    padded[torch.arange(padded.shape[1]) < lengths[:, None]] = torch.tensor([i for row in rows for i in row])
    return padded


def digest(splits: Mapping[str, Sequence[Pair]]) -> str:
    """Digest of the content of all splits: the first 32 hexadecimal digits of its SHA-256 (MLflow's limit is 36)."""
    return hashlib.sha256(json.dumps(splits).encode()).hexdigest()[:32]


def source_overlap(train: Sequence[Pair], other: Sequence[Pair]) -> int:
    """How many pairs of `other` have a source that stands in `train` too."""
    seen = {pair.source for pair in train}
    return sum(pair.source in seen for pair in other)


def upper_edge(value: int, edges: Sequence[int]) -> int:
    """The bin of `value`, named by its upper edge, which it includes; the last bin holds all above, too."""
    return edges[min(bisect_left(edges, value), len(edges) - 1)]


def worked_example(pair: Pair) -> Example:
    """The pair as a run sees it, with the special symbols in their places."""
    _, bos, eos = SPECIAL_SYMBOLS
    return Example([*pair.source, eos], [bos, *pair.target], [*pair.target, eos])
