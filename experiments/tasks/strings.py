"""Strings turned into strings, in the forms that are quick to learn: reversal, running parity, addition."""

from __future__ import annotations

import string
from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from pydantic import Field

from experiments.data import Batch, Vocabulary
from experiments.schema import CONTEXT_FREE, LENGTH, REGULAR, SEQUENCE_ACCURACY
from experiments.tasks.lengths import FIRST, LengthTask, from_strings
from experiments.tasks.synthetic import Size, Sizes, SyntheticTask, unpadded


class Reverse(LengthTask):
    """The source, backwards.

    ::

        source    c a b d <eos>
        target    d b a c <eos>

    Sliced by length, the end of sequence not counted.

    Attributes:
        min_length, max_length: in training, uniform.
        longer_lengths: evaluated beyond training.
        symbols: number of different ones.
    """

    language_class: ClassVar[str | None] = CONTEXT_FREE
    reference: ClassVar[str] = "Grefenstette et al. 2015, section 4.2; Delétang et al. 2023, table A.1 (context-free)"

    name: Literal["reverse"] = "reverse"
    min_length: Size = 1
    max_length: Size = 16
    longer_lengths: Sizes = (24, 32)
    symbols: int = Field(default=16, ge=2, le=26)

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Letters on both sides."""
        vocabulary = Vocabulary.of(string.ascii_lowercase[: self.symbols])
        return vocabulary, vocabulary

    def space(self, size: int) -> int:
        """All strings."""
        return self.symbols**size

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """Independent uniform symbols."""
        letters = FIRST + torch.randint(self.symbols, (count, size), generator=generator)
        return from_strings(letters, letters.flip(1))


class RunningParity(LengthTask):
    """After every bit: is the number of ones so far odd?

    ::

        source    1 0 1 1
        fed       1 0 1 1     the decoder is given the bits
        target    1 1 0 1

    Sliced by length.

    Attributes:
        min_length, max_length: in training, uniform.
        longer_lengths: evaluated beyond training.
    """

    given_inputs: ClassVar[bool] = True
    language_class: ClassVar[str | None] = REGULAR
    reference: ClassVar[str] = "Hahn 2020, section 4 (parity); Delétang et al. 2023, table A.1 (regular)"

    name: Literal["running_parity"] = "running_parity"
    min_length: Size = 1
    max_length: Size = 20
    longer_lengths: Sizes = (40, 80)

    @property
    def chance(self) -> float:
        """Odd or even."""
        return 0.5

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Bits on both sides."""
        return Vocabulary.of("01"), Vocabulary.of("01")

    def space(self, size: int) -> int:
        """All bit strings."""
        return 2**size

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """Independent fair bits."""
        bits = torch.randint(2, (count, size), generator=generator)
        return unpadded(FIRST + bits, FIRST + bits, FIRST + bits.cumsum(1) % 2)


class Addition(SyntheticTask):
    """The sum of two numbers, digit by digit, the most significant first.

    ::

        source    0 4 7 + 5 1 2 <eos>
        target    0 5 5 9 <eos>

    Both numbers have the same number of digits, the sum one more; leading zeros are written. Sliced by digits.

    Attributes:
        max_digits: of each number in training, from 1, uniform.
        longer_digits: evaluated beyond training.
    """

    size_axis: ClassVar[str] = "digits"
    axes: ClassVar[tuple[str, ...]] = ("digits",)
    measures: ClassVar[Mapping[str, str]] = {LENGTH: "digits"}
    headline: ClassVar[str] = SEQUENCE_ACCURACY
    reference: ClassVar[str] = "Zaremba & Sutskever 2014 (Learning to Execute), section 4"

    name: Literal["addition"] = "addition"
    max_digits: Size = 3
    longer_digits: Sizes = (4, 5)

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Digits and the plus sign; digits."""
        return Vocabulary.of(string.digits + "+"), Vocabulary.of(string.digits)

    def sizes(self) -> range:
        """Digits in training."""
        return range(1, self.max_digits + 1)

    def longer_sizes(self) -> list[int]:
        """Digits beyond training."""
        return list(self.longer_digits)

    def space(self, size: int) -> int:
        """All pairs of numbers."""
        return 100**size

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """Independent uniform digits, added in columns with the carry: exact for any number of digits."""
        digits = torch.randint(10, (2, count, size), generator=generator)
        total = torch.zeros(count, size + 1, dtype=torch.int64)
        carry = torch.zeros(count, dtype=torch.int64)
        for column in range(size - 1, -1, -1):
            column_sum = digits[0, :, column] + digits[1, :, column] + carry
            total[:, column + 1] = column_sum % 10
            carry = column_sum // 10
        total[:, 0] = carry
        plus = torch.full((count, 1), FIRST + 10)
        return from_strings(torch.cat([FIRST + digits[0], plus, FIRST + digits[1]], dim=1), FIRST + total)
