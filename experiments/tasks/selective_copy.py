"""Selective copying: what of a long source must be kept, in order?"""

from __future__ import annotations

import math
import string
from collections.abc import Mapping
from typing import ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator

from experiments.data import Batch, Vocabulary
from experiments.schema import ITEMS
from experiments.tasks.lengths import FIRST
from experiments.tasks.synthetic import Size, Sizes, SyntheticTask, permutations, unpadded


class SelectiveCopy(SyntheticTask):
    """Content among blanks: the content, in order, one symbol for each question.

    ::

        source    _ c _ _ a c _ f _ _      as long for few symbols as for many
        fed       ? ? ? ?
        target    c a c f

    Sliced by number of items.

    Attributes:
        min_items, max_items: symbols of content in training, uniform.
        longer_items: evaluated beyond training.
        length: of the source, content and blanks.
        alphabet: number of different symbols.
    """

    size_axis: ClassVar[str] = ITEMS
    axes: ClassVar[tuple[str, ...]] = (ITEMS,)
    measures: ClassVar[Mapping[str, str]] = {ITEMS: ITEMS}
    given_inputs: ClassVar[bool] = True
    reference: ClassVar[str] = "Jing et al. 2019 (Gated orthogonal recurrent units); Gu & Dao 2023 (Mamba), section 4.1"

    name: Literal["selective_copy"] = "selective_copy"
    min_items: Size = 4
    max_items: Size = 64
    longer_items: Sizes = ()
    length: Size = 128
    alphabet: int = Field(default=16, ge=2, le=26)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_items > self.max_items:
            raise ValueError("min_items is larger than max_items")
        if max(self.max_items, *self.longer_items, 0) > self.length:
            raise ValueError(f"there are more items than fit into a length of {self.length}")
        return self

    @property
    def chance(self) -> float:
        """One of the symbols, whichever."""
        return 1 / self.alphabet

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Letters and the blank; letters and the question."""
        letters = string.ascii_lowercase[: self.alphabet]
        return Vocabulary.of([*letters, "_"]), Vocabulary.of([*letters, "?"])

    def sizes(self) -> range:
        """Items in training."""
        return range(self.min_items, self.max_items + 1)

    def longer_sizes(self) -> list[int]:
        """Items beyond training."""
        return list(self.longer_items)

    def space(self, size: int) -> int:
        """All contents at all places."""
        return self.alphabet**size * math.comb(self.length, size)

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """Independent uniform symbols at uniform places."""
        content = FIRST + torch.randint(self.alphabet, (count, size), generator=generator)
        source = torch.full((count, self.length), FIRST + self.alphabet)
        source.masked_scatter_(permutations(count, self.length, generator) < size, content)
        return unpadded(source, torch.full_like(content, FIRST + self.alphabet), content)
