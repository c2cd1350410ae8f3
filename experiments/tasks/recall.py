"""Associative recall: which value was paired with this key?"""

from __future__ import annotations

from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from experiments.data import SPECIAL_SYMBOLS, Batch, Vocabulary
from experiments.tasks.synthetic import Size, Sizes, SyntheticTask, unpadded


class AssociativeRecall(SyntheticTask):
    """Key-value pairs are read, then every key is queried once, in random order.

    ::

        source    k3 v1 k0 v7 k5 v1      pairs
        fed       k0 k3 k5               queries
        target    v7 v1 v1

    Sliced by number of pairs and by distance: the number of tokens from a pair's value to its query, were queries to
    follow the pairs directly (at least 1); distances are put into bins named by their upper edge, 1, 2, 4, 8, ….

    Attributes:
        min_pairs, max_pairs: number of pairs in training, uniform.
        longer_pairs: numbers of pairs evaluated beyond training.
        num_keys, num_values: number of different ones.
    """

    size_axis: ClassVar[str] = "pairs"
    axes: ClassVar[tuple[str, ...]] = ("pairs", "distance")
    given_inputs: ClassVar[bool] = True
    reference: ClassVar[str] = "Graves et al. 2014, section 4.3; in this form Arora et al. 2023 (Zoology), section 3"

    name: Literal["associative_recall"] = "associative_recall"
    min_pairs: Size = 2
    max_pairs: Size = 6
    longer_pairs: Sizes = (8, 12, 16)
    num_keys: Size = 16
    num_values: Size = 8

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_pairs > self.max_pairs:
            raise ValueError("min_pairs is larger than max_pairs")
        if max(self.max_pairs, *self.longer_pairs, 0) > self.num_keys:
            raise ValueError(f"there are more pairs than the {self.num_keys} different keys")
        return self

    @property
    def chance(self) -> float:
        """One of the values, whichever."""
        return 1 / self.num_values

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """One vocabulary for both sides: keys, then values."""
        symbols = [f"k{i}" for i in range(self.num_keys)] + [f"v{i}" for i in range(self.num_values)]
        return Vocabulary.of(symbols), Vocabulary.of(symbols)

    def sizes(self) -> tuple[int, int]:
        """Numbers of pairs in training."""
        return self.min_pairs, self.max_pairs

    def longer_sizes(self) -> list[int]:
        """Numbers of pairs beyond training."""
        return list(self.longer_pairs)

    def space(self, size: int) -> int:
        """Ordered choices of distinct keys, times values."""
        space = 1
        for i in range(size):
            space *= (self.num_keys - i) * self.num_values
        return space

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """Distinct keys, independent values; queries are a permutation of the pairs."""
        first_key = len(SPECIAL_SYMBOLS)
        keys = first_key + torch.rand(count, self.num_keys, generator=generator).argsort(1)[:, :size]
        values = first_key + self.num_keys + torch.randint(self.num_values, (count, size), generator=generator)
        order = torch.rand(count, size, generator=generator).argsort(1)
        pairs = torch.stack([keys, values], dim=2).flatten(1)  # (count, 2·size)
        return unpadded(pairs, keys.gather(1, order), values.gather(1, order))

    def slices(self, batch: Batch, size: int) -> dict[str, Tensor]:
        """By number of pairs, and by distance."""
        keys = batch.source[:, ::2]
        pair = (batch.target_in[:, :, None] == keys[:, None, :]).int().argmax(2)  # (B, T): which pair is asked for
        query = torch.arange(size) + 2 * size
        distance = query - (2 * pair + 1)
        return super().slices(batch, size) | {"distance": 2 ** distance.float().log2().ceil().long()}
