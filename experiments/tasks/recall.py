"""Associative recall: which value was paired with this key?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from experiments.data import Batch, Vocabulary
from experiments.schema import DISTANCE, ITEMS
from experiments.tasks.lengths import FIRST
from experiments.tasks.synthetic import Size, Sizes, SyntheticTask, permutations, unpadded


class AssociativeRecall(SyntheticTask):
    """Key-value pairs are read, then every key is queried once, in random order.

    ::

        source    k3 v1 k0 v7 k5 v1      pairs
        fed       k0 k3 k5               queries
        target    v7 v1 v1

    With a `length` the pairs are spread over a source of that length, whatever their number, so that more pairs are
    not a longer source, and few pairs may be far from their queries::

        source    _ _ k3 v1 _ _ _ _ k0 v7 k5 v1

    Sliced by number of pairs and by distance: the number of tokens from a pair's value to its query, were queries to
    follow the source directly (at least 1); distances are put into bins named by their upper edges (`upper_edges`).

    Attributes:
        min_pairs, max_pairs: number of pairs in training, uniform.
        longer_pairs: numbers of pairs evaluated beyond training.
        num_keys, num_values: number of different ones.
        length: of the source, in tokens; not stated, two for each pair.
    """

    size_axis: ClassVar[str] = "pairs"
    axes: ClassVar[tuple[str, ...]] = ("pairs", DISTANCE)
    binned: ClassVar[tuple[str, ...]] = (DISTANCE,)
    measures: ClassVar[Mapping[str, str]] = {DISTANCE: DISTANCE, ITEMS: "pairs"}
    given_inputs: ClassVar[bool] = True
    reference: ClassVar[str] = "Graves et al. 2014, section 4.3; in this form Arora et al. 2023 (Zoology), section 3"

    name: Literal["associative_recall"] = "associative_recall"
    min_pairs: Size = 2
    max_pairs: Size = 6
    longer_pairs: Sizes = (8, 12, 16)
    num_keys: Size = 16
    num_values: Size = 8
    length: Size | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_pairs > self.max_pairs:
            raise ValueError("min_pairs is larger than max_pairs")
        most = max(self.max_pairs, *self.longer_pairs, 0)
        if most > self.num_keys:
            raise ValueError(f"there are more pairs than the {self.num_keys} different keys")
        if self.length is not None and 2 * most > self.length:
            raise ValueError(f"{most} pairs do not fit into a length of {self.length}")
        return self

    @property
    def chance(self) -> float:
        """One of the values, whichever."""
        return 1 / self.num_values

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """One vocabulary for both sides: keys, then values, then the blank if there is one."""
        symbols = [f"k{i}" for i in range(self.num_keys)] + [f"v{i}" for i in range(self.num_values)]
        vocabulary = Vocabulary.of(symbols + ["_"] * (self.length is not None))
        return vocabulary, vocabulary

    def sizes(self) -> range:
        """Numbers of pairs in training."""
        return range(self.min_pairs, self.max_pairs + 1)

    def longer_sizes(self) -> list[int]:
        """Numbers of pairs beyond training."""
        return list(self.longer_pairs)

    def space(self, size: int) -> int:
        """Ordered choices of distinct keys, times values, times places."""
        space = 1 if self.length is None else math.comb(self.length // 2, size)
        for i in range(size):
            space *= (self.num_keys - i) * self.num_values
        return space

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """Distinct keys, independent values; queries are a permutation of the pairs, which stand at even positions."""
        keys = FIRST + permutations(count, self.num_keys, generator)[:, :size]
        values = FIRST + self.num_keys + torch.randint(self.num_values, (count, size), generator=generator)
        order = permutations(count, size, generator)
        pairs = torch.stack([keys, values], dim=2)  # (count, size, 2)
        if self.length is None:
            source = pairs.flatten(1)
        else:
            source = torch.full((count, self.length), FIRST + self.num_keys + self.num_values)
            taken = permutations(count, self.length // 2, generator) < size  # which places for pairs
            source[:, : 2 * taken.shape[1]].view(count, self.length // 2, 2).masked_scatter_(taken[:, :, None], pairs)
        return unpadded(source, keys.gather(1, order), values.gather(1, order))

    def slices(self, batch: Batch, size: int) -> dict[str, Tensor]:
        """By number of pairs, and by distance."""
        keys = batch.source[:, ::2]
        pair = (batch.target_in[:, :, None] == keys[:, None, :]).int().argmax(2)  # (B, T): where it stands
        query = torch.arange(size) + batch.source.shape[1]
        return super().slices(batch, size) | {DISTANCE: query - (2 * pair + 1)}
