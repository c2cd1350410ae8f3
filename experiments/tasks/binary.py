"""The context-sensitive languages of Delétang et al. 2023 that are about binary numbers, of any number of digits.

All arithmetic is exact: columns with their carries, and digit by digit.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.data import Batch, Vocabulary
from experiments.schema import CONTEXT_SENSITIVE
from experiments.tasks.chomsky import ChomskyTask
from experiments.tasks.lengths import FIRST, from_strings
from experiments.tasks.synthetic import Size

LIMB = 30  # binary digits of a large number that are kept in one integer


class BinaryOperation(ChomskyTask):
    """Two binary numbers, the least significant digit first, and what an operation makes of them.

    Attributes:
        min_length, max_length: of both numbers and the sign between them, in training, uniform; from 3.
        longer_lengths: evaluated beyond training.
    """

    language_class: ClassVar[str | None] = CONTEXT_SENSITIVE
    shortest: ClassVar[int] = 3
    sign: ClassVar[str]

    min_length: Size = 3

    @abstractmethod
    def columns(self, a: Tensor, b: Tensor) -> Tensor:
        """Digits (B, N) of both numbers → (B, N), the columns of the result before any carry."""

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Digits and the sign; digits."""
        return Vocabulary.of("01" + self.sign), Vocabulary.of("01")

    def space(self, size: int) -> int:
        """All digits, and all places of the sign."""
        return int((size - 2) * 2 ** (size - 1))

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """Uniform digits, and the sign at a uniform place between them."""
        digits = torch.randint(2, (count, size), generator=generator)
        place = 1 + torch.randint(size - 2, (count, 1), generator=generator)
        position = torch.arange(size)
        a = digits * (position < place)
        # The digits after the sign, moved to the front.
        b = F.pad(digits, (0, size)).gather(1, position + place + 1)
        result = carried(self.columns(a, b))
        significant = (result * torch.arange(1, size + 1)).amax(1).clamp(min=1)  # zero is one digit
        source = digits.masked_fill(position == place, 2)
        return from_strings(FIRST + source, FIRST + result, significant)


class BinaryAddition(BinaryOperation):
    """The sum of two binary numbers, the least significant digit first.

    ::

        source    0 1 0 0 1 + 0 1 1 <eos>      18 + 6
        target    0 0 0 1 1 <eos>              24

    The sum has no leading zeros. Sliced by length.

    Attributes:
        min_length, max_length: of both numbers and the sign between them, in training, uniform; from 3.
        longer_lengths: evaluated beyond training.
    """

    sign: ClassVar[str] = "+"

    name: Literal["binary_addition"] = "binary_addition"

    def columns(self, a: Tensor, b: Tensor) -> Tensor:
        """Digit by digit."""
        return a + b


class BinaryMultiplication(BinaryOperation):
    """The product of two binary numbers, the least significant digit first.

    ::

        source    1 0 0 1 * 0 1 1 <eos>        9 * 6
        target    0 1 1 0 1 1 <eos>            54

    The product has no leading zeros. Sliced by length.

    Attributes:
        min_length, max_length: of both numbers and the sign between them, in training, uniform; from 3.
        longer_lengths: evaluated beyond training.
    """

    sign: ClassVar[str] = "*"

    name: Literal["binary_multiplication"] = "binary_multiplication"

    def columns(self, a: Tensor, b: Tensor) -> Tensor:
        """Sums of the second number, moved, for each digit of the first."""
        sums = torch.zeros_like(b)
        for place, digit in enumerate(a.split(1, dim=1)):
            sums[:, place:].addcmul_(digit, b[:, : b.shape[1] - place])
        return sums


class ComputeSqrt(ChomskyTask):
    """The square root of a binary number, rounded down; both with the most significant digit first.

    ::

        source    1 0 0 1 0 1 <eos>     37
        target    1 1 0 <eos>           6

    The root has half as many digits as the number, rounded up. Sliced by length.

    Attributes:
        min_length, max_length: in training, uniform.
        longer_lengths: evaluated beyond training.
    """

    language_class: ClassVar[str | None] = CONTEXT_SENSITIVE

    name: Literal["compute_sqrt"] = "compute_sqrt"

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Digits on both sides."""
        return Vocabulary.of("01"), Vocabulary.of("01")

    def space(self, size: int) -> int:
        """All numbers."""
        return 2**size

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """Uniform digits."""
        digits = torch.randint(2, (count, size), generator=generator)
        return from_strings(FIRST + digits, FIRST + square_root(digits))


def carried(columns: Tensor) -> Tensor:
    """Columns (B, N), the least significant first, of a number that fits → its binary digits (B, N)."""
    total, totals = torch.zeros_like(columns[:, 0]), []
    for column in columns.unbind(1):
        total = column + (total >> 1)
        totals.append(total)
    return torch.stack(totals, dim=1) & 1


def square_root(digits: Tensor) -> Tensor:
    """Binary digits (B, N), the most significant first → those of the root rounded down (B, ⌈N/2⌉).

    By hand, as on paper: two more digits are taken down into the remainder, and the next digit of the root r is one if
    4·r + 1 can be subtracted. Remainder and double root are numbers of several integers ("limbs") of `LIMB` digits
    each, the least significant first.
    """
    count, length = digits.shape
    pairs = F.pad(digits, (length % 2, 0)).view(count, (length + 1) // 2, 2)  # from the top
    limbs = (pairs.shape[1] + 2) // LIMB + 1
    remainder = torch.zeros(count, limbs, dtype=torch.int64)
    double = torch.zeros_like(remainder)  # 2·r
    one = F.pad(torch.ones(1, dtype=torch.int64), (0, limbs - 1))
    found = []
    for pair in (2 * pairs[:, :, :1] + pairs[:, :, 1:]).unbind(1):
        remainder = _shifted(remainder, 2, pair)
        double = _shifted(double, 1, torch.zeros_like(pair))  # ends with two zeros: what is added never carries
        rest, fits = _subtracted(remainder, double + one)
        remainder = torch.where(fits, rest, remainder)
        double = double + 2 * fits * one
        found.append(fits)
    return torch.cat(found, dim=1).long()


def _shifted(number: Tensor, places: int, low: Tensor) -> Tensor:
    """Limbs (B, K) moved up by some binary places, the digits `low` (B, 1) following at the end."""
    moved = number << places
    carry = torch.cat([low, moved[:, :-1] >> LIMB], dim=1)
    return (moved & ((1 << LIMB) - 1)) | carry


def _subtracted(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Limbs (B, K) of a - b, and whether a ≥ b, (B, 1); without meaning where it is not."""
    limbs, borrow = [], torch.zeros_like(a[:, :1])
    for limb in (a - b).split(1, dim=1):
        limb = limb + borrow  # -1 where something was borrowed
        borrow = limb >> 63
        limbs.append(limb + ((1 << LIMB) & borrow))
    return torch.cat(limbs, dim=1), borrow == 0
