"""Tasks whose sequences are drawn, not read: a fresh sample at every training step, unless a number is stated.

All sequences of a batch have the same size (length, number of pairs, depth). A batch is drawn on the CPU, whatever the
device, so that a seed means the same data everywhere. Small tensors cost what their operations cost to call, so that
training draws several batches of a size at once and hands them out one by one; no sequence is handed out twice.

Evaluation sets are disjoint from training by construction: a hash of the source assigns every sequence to one split,
and whoever draws keeps only its own. Sizes with too few different sequences to be shared out are the exception; they
are named in the description of the data.
"""

from __future__ import annotations

import functools
import hashlib
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from experiments.data import CPU, Batch, BatchError, Example, TaskData, Tokens, Vocabulary, dimensions_of
from experiments.schema import LONGER, SEQUENCE_ACCURACY, TEST, TOKEN_ACCURACY, VALIDATION
from experiments.settings import refuse
from experiments.tasks.base import Task
from models.config import Dimensions
from models.interface import PAD

TRAIN = "train"
BUCKETS = 16  # of the hash: one each for validation and test, the rest for training
SMALLEST_SHARED_SPACE = 4096  # a size with fewer different sequences is not shared out
SIZES = 8  # at most so many sizes are evaluated, spread over the range
SEQUENCES = {VALIDATION: 32, TEST: 128, LONGER: 128}  # evaluated of each size
EVALUATED_TOKENS = 16_384  # at most, source and target, in a batch of an evaluation set (but for a single sequence)
AHEAD = 16  # batches of a size that training draws at once, …
AHEAD_TOKENS = 65_536  # … unless these tokens are fewer: then as many as they are, and at least one
_SEEDS = {VALIDATION: 10**9, TEST: 2 * 10**9, LONGER: 3 * 10**9, TRAIN: 4 * 10**9}  # of what is fixed; no run has them
BLOCK = 64  # sequences of a fixed training set that are drawn at once: a smaller set is part of every larger one
GOLDEN = (5**0.5 - 1) / 2  # its multiples, modulo 1, are spread evenly, however many there are
_HASH_WEIGHTS = torch.randint(-(2**62), 2**62, (4096,), generator=torch.Generator().manual_seed(20_170_612)) | 1

Size = Annotated[int, Field(ge=1, le=100_000)]
Sizes = tuple[Annotated[int, Field(ge=1, le=100_000)], ...]


class SyntheticTask(Task):
    """A task that draws sequences of a stated size.

    Attributes:
        examples: number of sequences to train on, of all sizes together, the same for every seed; not stated, there is
            no end of them.
    """

    examples: int | None = Field(default=None, ge=1, le=10_000_000)

    size_axis: ClassVar[str]  # what a size counts: "length", "pairs", "digits"
    binned: ClassVar[tuple[str, ...]] = ()  # axes whose values are put into bins (`upper_edges`)
    geometric: ClassVar[bool] = False  # sizes are spread, and drawn, by their logarithm: 1-2 as often as 32-64
    headline: ClassVar[str] = TOKEN_ACCURACY
    metrics: ClassVar[tuple[str, ...]] = (TOKEN_ACCURACY, SEQUENCE_ACCURACY)

    @model_validator(mode="after")
    def _check_longer(self) -> Self:
        """Refuses sizes "beyond training" that are trained on, defaults too: what is longer depends on the range."""
        largest = max(self.sizes(), default=0)
        if min(self.longer_sizes(), default=largest + 1) <= largest:
            key = next(name for name in type(self).model_fields if name.startswith("longer_"))
            words = f"{self.longer_sizes()} are not all beyond training, which goes up to {largest}"
            raise refuse((key,), f"{words}: state larger ones, or [] for none")
        return self

    @abstractmethod
    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """The symbols of source and target."""

    @abstractmethod
    def sizes(self) -> range:
        """All sizes of training."""

    @abstractmethod
    def longer_sizes(self) -> list[int]:
        """Sizes beyond training that are evaluated too; may be empty."""

    @abstractmethod
    def space(self, size: int) -> int:
        """Number of different sources of this size."""

    @abstractmethod
    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """`count` sequences of one size, without slices; padded to the longest that the size allows, if they vary."""

    def slices(self, batch: Batch, size: int) -> dict[str, Tensor]:
        """The value of each target position, (B, T), on each of the task's axes, those with bins too."""
        return {self.size_axis: torch.full_like(batch.target, size)}

    def evaluated_sizes(self) -> list[int]:
        """The sizes in the range of training that are evaluated."""
        return spread(self.sizes(), geometric=self.geometric)

    def load(self, data_root: Path | None) -> TaskData:
        """See `Task.load`; nothing is read."""
        source_vocabulary, target_vocabulary = self.vocabularies()
        evaluated, longer = self.evaluated_sizes(), self.longer_sizes()
        evaluation = {split: self._evaluation_set(split, evaluated) for split in (VALIDATION, TEST)}
        if longer:
            evaluation[LONGER] = self._evaluation_set(LONGER, longer)
        digest = hashlib.sha256()
        for batch in (batch for split in evaluation.values() for batch in split):
            digest.update(batch.source.numpy().tobytes() + batch.target.numpy().tobytes())
        max_source_length, max_target_length = self._longest()
        shared = [size for size in self.sizes() if not self._shared_out(size)]
        return TaskData(
            source_vocabulary=source_vocabulary,
            target_vocabulary=target_vocabulary,
            given_inputs=self.given_inputs,
            max_source_length=max_source_length,
            max_target_length=max_target_length,
            training=self._training_batches,
            evaluation=evaluation,
            overlap=0,  # by construction
            description={
                "source": f"drawn: {self.label}",
                "digest": digest.hexdigest(),
                **(
                    {"training": "a fresh sample at every step"}
                    if self.examples is None
                    else {"train_sequences": str(self.examples)}
                ),
                **{split: str(sum(batch.size for batch in batches)) for split, batches in evaluation.items()},
                "sizes whose sequences also occur in training": ", ".join(map(str, shared)) or "none",
            },
        )

    @property
    def dimensions(self) -> Dimensions:
        """Known without drawing."""
        return dimensions_of(*self.vocabularies(), max(self._longest()))

    def _longest(self) -> tuple[int, int]:
        """The width of the widest source and target of any split."""
        sizes = self.evaluated_sizes() + self.longer_sizes()
        widest = [self.draw(0, size, torch.Generator()) for size in sizes]
        return max(batch.source.shape[1] for batch in widest), max(batch.target.shape[1] for batch in widest)

    def example(self) -> Example:
        """A drawn sequence of a small size."""
        small = [size for size in self.sizes() if size >= 4] or self.sizes()[-1:]
        batch = trimmed(self.draw(1, small[0], torch.Generator().manual_seed(0)))
        source, target = self.vocabularies()

        def symbols(vocabulary: Vocabulary, ids: Tensor) -> list[str]:
            return ["·" if i == PAD else vocabulary.symbols[i] for i in ids[0].tolist()]

        return Example(symbols(source, batch.source), symbols(target, batch.target_in), symbols(target, batch.target))

    def _training_batches(
        self, wanted: int | Tokens, generator: torch.Generator, device: torch.device = CPU, /
    ) -> Iterator[Batch]:
        if isinstance(wanted, Tokens) and (longest := self._tokens(self.sizes()[-1])) > wanted.count:
            raise BatchError(f"{wanted.count} tokens are fewer than the {longest} of the longest pair")
        if self.examples is not None:
            yield from self._again_and_again(wanted, generator, device)
        drawn: dict[int, Batch] = {}  # of each size, what is not handed out yet
        for size in self._drawn_sizes(self._odds(), generator):
            batch_size = wanted if isinstance(wanted, int) else wanted.count // self._tokens(size)
            left = drawn.pop(size, None)
            if left is None or left.size < batch_size:
                fresh = self._draw_ahead(batch_size, size, generator)
                left = fresh if left is None else _join(left, fresh)
            yield trimmed(left.select(slice(batch_size))).to(device)
            drawn[size] = left.select(slice(batch_size, None))

    def _again_and_again(
        self, wanted: int | Tokens, generator: torch.Generator, device: torch.device
    ) -> Iterator[Batch]:
        """Batches of the fixed training set: every sequence of a size once, in random order, then all of them again."""
        known = self._training_set()
        rows: dict[int, Tensor] = {}  # of each size, those that are still to come in this round
        for size in self._drawn_sizes({size: batch.size for size, batch in known.items()}, generator):
            batch_size = wanted if isinstance(wanted, int) else wanted.count // self._tokens(size)
            left = rows.get(size)
            if left is None or not len(left):
                left = torch.randperm(known[size].size, generator=generator)
            yield trimmed(known[size].select(left[:batch_size])).to(device)
            rows[size] = left[batch_size:]

    def _training_set(self) -> dict[int, Batch]:
        """Size → its sequences of the fixed training set; its share of them is that of a fresh sample."""
        assert self.examples is not None
        odds = self._odds()
        edges = torch.tensor(list(odds.values()), dtype=torch.float64).cumsum(0) / sum(odds.values())
        places = torch.searchsorted(edges, torch.arange(self.examples, dtype=torch.float64) * GOLDEN % 1, right=True)
        counts = places.clamp(max=len(odds) - 1).bincount(minlength=len(odds))
        found = {}
        for size, count in zip(odds, counts.tolist(), strict=True):
            if count:
                generator = torch.Generator().manual_seed(_SEEDS[TRAIN] + size)  # each its own: they share no symbols
                blocks = [self._draw_from(TRAIN, BLOCK, size, generator) for _ in range(-(-count // BLOCK))]
                found[size] = functools.reduce(_join, blocks).select(slice(count))
        return found

    def _odds(self) -> dict[int, float]:
        """How often a size of training is drawn, against the others."""
        return {size: 1 / size if self.geometric else 1.0 for size in self.sizes()}

    @staticmethod
    def _drawn_sizes(odds: Mapping[int, float], generator: torch.Generator) -> Iterator[int]:
        """Sizes at random, without end."""
        sizes, edges = list(odds), torch.tensor(list(odds.values())).cumsum(0)
        while True:
            place = torch.rand((), generator=generator) * edges[-1]
            yield sizes[min(int(torch.searchsorted(edges, place, right=True)), len(sizes) - 1)]

    def _draw_ahead(self, batch_size: int, size: int, generator: torch.Generator) -> Batch:
        """A few batches of training."""
        empty = self.draw(0, size, generator)
        batches = AHEAD_TOKENS // (batch_size * (empty.source.shape[1] + empty.target.shape[1]))
        return self._draw_from(TRAIN, batch_size * min(max(batches, 1), AHEAD), size, generator)

    def _tokens(self, size: int) -> int:
        """Of a sequence of this size."""
        return self.draw(1, size, torch.Generator().manual_seed(0)).tokens

    def _evaluation_set(self, split: str, sizes: list[int]) -> list[Batch]:
        generator = torch.Generator().manual_seed(_SEEDS[split])
        whole = [trimmed(self._draw_from(split, SEQUENCES[split], size, generator)) for size in sizes]
        sliced = [replace(batch, slices=self.slices(batch, size)) for batch, size in zip(whole, sizes, strict=True)]
        for axis in self.binned:
            asked = [batch.slices[axis].expand_as(batch.target)[batch.target != PAD] for batch in sliced]
            largest = int(torch.cat(asked).max())
            bins = [{axis: upper_edges(batch.slices[axis], largest)} for batch in sliced]
            sliced = [replace(b, slices={**b.slices, **of_axis}) for b, of_axis in zip(sliced, bins, strict=True)]
        batches = []
        for batch in sliced:
            together = max(1, EVALUATED_TOKENS * batch.size // batch.tokens)
            batches += [batch.select(slice(i, i + together)) for i in range(0, batch.size, together)]
        return batches

    def _draw_from(self, split: str, count: int, size: int, generator: torch.Generator) -> Batch:
        """`count` sequences of those that belong to `split`."""
        if split == LONGER or not self._shared_out(size):
            return self.draw(count, size, generator)
        share = (BUCKETS - 2) / BUCKETS if split == TRAIN else 1 / BUCKETS
        found, left = [], count
        while left > 0:
            drawn = self.draw(int(left / share * 1.1) + 8, size, generator)
            belongs = (split_of(drawn.source) == (TRAIN, VALIDATION, TEST).index(split)).nonzero()[:, 0]
            found.append(drawn.select(belongs[:left]))
            left -= found[-1].size
        return functools.reduce(_join, found)

    def _shared_out(self, size: int) -> bool:
        return self.space(size) >= SMALLEST_SHARED_SPACE


def split_of(source: Tensor) -> Tensor:
    """The split of each source (B, S), by a hash of its tokens: (B,) of 0 training, 1 validation, 2 test."""
    weights = _HASH_WEIGHTS[: source.shape[1]]
    if len(weights) < source.shape[1]:
        weights = weights.repeat(-(-source.shape[1] // len(weights)))[: source.shape[1]]
    bucket = ((source * weights).sum(1) >> 40) & (BUCKETS - 1)
    return torch.where(bucket < 2, bucket + 1, 0)


def unpadded(source: Tensor, target_in: Tensor, target: Tensor) -> Batch:
    """A batch in which every source has the full length."""
    return Batch(source, target_in, target, torch.full((source.shape[0],), source.shape[1]))


def trimmed(batch: Batch) -> Batch:
    """The batch without the last columns of source and target, where these are nothing but padding."""
    sources = int(batch.source_lengths.max())
    asked = int((batch.target != PAD).any(0).nonzero()[-1]) + 1
    if (sources, asked) == (batch.source.shape[1], batch.target.shape[1]):
        return batch
    return replace(
        batch, source=batch.source[:, :sources], target_in=batch.target_in[:, :asked], target=batch.target[:, :asked]
    )


def permutations(count: int, size: int, generator: torch.Generator) -> Tensor:
    """Random orders of the numbers below `size`: (count, size). Numpy sorts rows several times as fast as torch."""
    keys = torch.randint(2**31, (count, size), generator=generator)
    keys = keys * size + torch.arange(size)  # no two are the same, so that all ways to sort give the same order
    return torch.from_numpy(keys.numpy().argsort(1))


def upper_edges(values: Tensor, largest: int) -> Tensor:
    """The bin of each value from 1 to the `largest`, named by its upper edge: 1, 2, 4, 8, …, `largest`.

    The last power of two is left out where it lies so close below the largest (by a factor under √2) that hardly a
    value would be between them.
    """
    powers = [2**i for i in range(largest.bit_length()) if 2 * 4**i <= largest**2]
    edges = torch.tensor([*powers, largest])
    return edges[torch.searchsorted(edges, values.clamp(max=largest))]


def spread(sizes: Sequence[int], *, geometric: bool = False) -> list[int]:
    """At most `SIZES` of the sizes, first and last included, evenly spaced, or their logarithms."""
    last = len(sizes) - 1
    if last < SIZES:
        return list(sizes)
    parts = [i / (SIZES - 1) for i in range(SIZES)]
    if geometric:
        wanted = [sizes[0] * (sizes[-1] / sizes[0]) ** part for part in parts]
        return sorted({min(sizes, key=lambda size: abs(size - one)) for one in wanted})
    return [sizes[round(part * last)] for part in parts]


def _join(a: Batch, b: Batch) -> Batch:
    """Of the same widths, without slices."""
    return Batch(
        torch.cat([a.source, b.source]),
        torch.cat([a.target_in, b.target_in]),
        torch.cat([a.target, b.target]),
        torch.cat([a.source_lengths, b.source_lengths]),
    )
