"""Tasks whose sequences are drawn, not read: a fresh sample at every training step.

All sequences of a batch have the same size (length, number of pairs, digits), so none is padded. A batch is drawn on
the CPU, whatever the device, so that a seed means the same data everywhere.

Evaluation sets are disjoint from training by construction: a hash of the source assigns every sequence to one split,
and whoever draws keeps only its own. Sizes with too few different sequences to be shared out are the exception; they
are named in the description of the data.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from experiments.data import Batch, Example, TaskData, Vocabulary
from experiments.schema import LONGER, SEQUENCE_ACCURACY, TEST, TOKEN_ACCURACY, VALIDATION
from experiments.tasks.base import Task

TRAIN = "train"
BUCKETS = 16  # of the hash: one each for validation and test, the rest for training
SMALLEST_SHARED_SPACE = 4096  # a size with fewer different sequences is not shared out
SIZES = 8  # at most so many sizes are evaluated, evenly spread over the range
SEQUENCES = {VALIDATION: 32, TEST: 128, LONGER: 128}  # evaluated of each size
_SEEDS = {VALIDATION: 1, TEST: 2, LONGER: 3}  # of the fixed evaluation sets, the same for every run
_HASH_WEIGHTS = torch.randint(-(2**62), 2**62, (4096,), generator=torch.Generator().manual_seed(20_170_612)) | 1

Size = Annotated[int, Field(ge=1, le=100_000)]
Sizes = tuple[Annotated[int, Field(ge=1, le=100_000)], ...]


class SyntheticTask(Task):
    """A task that draws sequences of a stated size."""

    size_axis: ClassVar[str]  # what a size counts: "length", "pairs", "digits"
    headline: ClassVar[str] = TOKEN_ACCURACY
    metrics: ClassVar[tuple[str, ...]] = (TOKEN_ACCURACY, SEQUENCE_ACCURACY)

    @abstractmethod
    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """The symbols of source and target."""

    @abstractmethod
    def sizes(self) -> tuple[int, int]:
        """Smallest and largest size in training, both included."""

    @abstractmethod
    def longer_sizes(self) -> list[int]:
        """Sizes beyond training that are evaluated too; may be empty."""

    @abstractmethod
    def space(self, size: int) -> int:
        """Number of different sources of this size."""

    @abstractmethod
    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """`count` sequences of one size, unpadded, without slices."""

    def slices(self, batch: Batch, size: int) -> dict[str, Tensor]:
        """The value of each target position, (B, T), on each of the task's axes."""
        return {self.size_axis: torch.full_like(batch.target, size)}

    def load(self, data_root: Path | None) -> TaskData:
        """See `Task.load`; nothing is read."""
        source_vocabulary, target_vocabulary = self.vocabularies()
        smallest, largest = self.sizes()
        evaluated = _spread(smallest, largest)
        evaluation = {split: self._evaluation_set(split, evaluated) for split in (VALIDATION, TEST)}
        if self.longer_sizes():
            evaluation[LONGER] = self._evaluation_set(LONGER, self.longer_sizes())
        batches = [batch for split in evaluation.values() for batch in split]
        digest = hashlib.sha256()
        for batch in batches:
            digest.update(batch.source.numpy().tobytes() + batch.target.numpy().tobytes())
        shared = [size for size in range(smallest, largest + 1) if not self._shared_out(size)]
        return TaskData(
            source_vocabulary=source_vocabulary,
            target_vocabulary=target_vocabulary,
            given_inputs=self.given_inputs,
            max_source_length=max(batch.source.shape[1] for batch in batches),
            max_target_length=max(batch.target.shape[1] for batch in batches),
            training=self._training_batches,
            evaluation=evaluation,
            overlap=0,  # by construction
            description={
                "source": f"drawn: {self.label}",
                "digest": digest.hexdigest(),
                "training": "a fresh sample at every step",
                **{split: str(sum(batch.size for batch in batches)) for split, batches in evaluation.items()},
                "sizes whose sequences also occur in training": ", ".join(map(str, shared)) or "none",
            },
        )

    def example(self) -> Example:
        """A drawn sequence of a small size."""
        smallest, largest = self.sizes()
        batch = self.draw(1, min(max(smallest, 4), largest), torch.Generator().manual_seed(0))
        source, target = self.vocabularies()

        def symbols(vocabulary: Vocabulary, ids: Tensor) -> list[str]:
            return [vocabulary.symbols[i] for i in ids[0].tolist()]

        return Example(symbols(source, batch.source), symbols(target, batch.target_in), symbols(target, batch.target))

    def _training_batches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        smallest, largest = self.sizes()
        while True:
            size = int(torch.randint(smallest, largest + 1, (1,), generator=generator))
            yield self._draw_from(TRAIN, batch_size, size, generator)

    def _evaluation_set(self, split: str, sizes: list[int]) -> list[Batch]:
        generator = torch.Generator().manual_seed(_SEEDS[split])
        batches = []
        for size in sizes:
            batch = self._draw_from(split, SEQUENCES[split], size, generator)
            batches.append(replace(batch, slices=self.slices(batch, size)))
        return batches

    def _draw_from(self, split: str, count: int, size: int, generator: torch.Generator) -> Batch:
        """`count` sequences of those that belong to `split`."""
        if split == LONGER or not self._shared_out(size):
            return self.draw(count, size, generator)
        share = (BUCKETS - 2) / BUCKETS if split == TRAIN else 1 / BUCKETS
        found = self.draw(0, size, generator)
        while found.size < count:
            drawn = self.draw(int((count - found.size) / share * 1.2) + 8, size, generator)
            found = _join(found, _select(drawn, split_of(drawn.source) == (TRAIN, VALIDATION, TEST).index(split)))
        return _select(found, slice(count))

    def _shared_out(self, size: int) -> bool:
        return self.space(size) >= SMALLEST_SHARED_SPACE


def split_of(source: Tensor) -> Tensor:
    """The split of each source (B, S), by a hash of its tokens: (B,) of 0 training, 1 validation, 2 test."""
    length = source.shape[1]
    weights = _HASH_WEIGHTS.repeat(-(-length // len(_HASH_WEIGHTS)))[:length]
    bucket = ((source * weights).sum(1) >> 40) & (BUCKETS - 1)
    return torch.where(bucket < 2, bucket + 1, 0)


def unpadded(source: Tensor, target_in: Tensor, target: Tensor) -> Batch:
    """A batch in which every source has the full length."""
    return Batch(source, target_in, target, torch.full((source.shape[0],), source.shape[1]))


def _spread(smallest: int, largest: int) -> list[int]:
    """At most `SIZES` sizes from smallest to largest, both included, evenly spaced."""
    steps = min(SIZES, largest - smallest + 1) - 1
    return [smallest + round(i * (largest - smallest) / steps) for i in range(steps + 1)] if steps else [smallest]


def _select(batch: Batch, rows: Tensor | slice) -> Batch:
    return Batch(batch.source[rows], batch.target_in[rows], batch.target[rows], batch.source_lengths[rows])


def _join(a: Batch, b: Batch) -> Batch:
    return Batch(
        torch.cat([a.source, b.source]),
        torch.cat([a.target_in, b.target_in]),
        torch.cat([a.target, b.target]),
        torch.cat([a.source_lengths, b.source_lengths]),
    )
