"""The regular languages of Delétang et al. 2023: what a finite automaton decides. One symbol is the answer."""

from __future__ import annotations

import string
from typing import ClassVar, Literal

import torch

from experiments.data import Batch, Vocabulary
from experiments.schema import REGULAR
from experiments.tasks.chomsky import MODULUS, ChomskyTask
from experiments.tasks.lengths import FIRST, from_answers
from experiments.tasks.synthetic import Size, Sizes


class EvenPairs(ChomskyTask):
    """Is the number of places where two different symbols meet (ab or ba) even?

    ::

        source    a a b b a <eos>       ab once, ba once
        target    yes

    Sliced by length.

    Attributes:
        min_length, max_length: in training, uniform.
        longer_lengths: evaluated beyond training.
    """

    language_class: ClassVar[str | None] = REGULAR

    name: Literal["even_pairs"] = "even_pairs"

    @property
    def chance(self) -> float:
        """Yes or no; a single symbol has no pairs, so that the length 1 alone is always even."""
        return 0.5

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Two letters; no and yes."""
        return Vocabulary.of("ab"), Vocabulary.of(["no", "yes"])

    def space(self, size: int) -> int:
        """All strings."""
        return 2**size

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """Independent fair symbols. Changes come back to where they began if and only if there is an even number."""
        letters = torch.randint(2, (count, size), generator=generator)
        return from_answers(FIRST + letters, FIRST + (letters[:, 0] == letters[:, -1]).long())


class ParityCheck(ChomskyTask):
    """Is the number of b even?

    ::

        source    a b b a b <eos>
        target    no

    Sliced by length.

    Attributes:
        min_length, max_length: in training, uniform.
        longer_lengths: evaluated beyond training.
    """

    language_class: ClassVar[str | None] = REGULAR

    name: Literal["parity_check"] = "parity_check"

    @property
    def chance(self) -> float:
        """Yes or no."""
        return 0.5

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Two letters; no and yes."""
        return Vocabulary.of("ab"), Vocabulary.of(["no", "yes"])

    def space(self, size: int) -> int:
        """All strings."""
        return 2**size

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """Independent fair symbols."""
        letters = torch.randint(2, (count, size), generator=generator)
        return from_answers(FIRST + letters, FIRST + 1 - letters.sum(1) % 2)


class CycleNavigation(ChomskyTask):
    """Steps on a circle of five places, from place 0: where do they end?

    ::

        source    + + 0 - - - <eos>     one on, stay, or one back
        target    4

    Sliced by length.

    Attributes:
        min_length, max_length: in training, uniform.
        longer_lengths: evaluated beyond training.
    """

    language_class: ClassVar[str | None] = REGULAR

    name: Literal["cycle_navigation"] = "cycle_navigation"

    @property
    def chance(self) -> float:
        """One of the places, whichever; as published. On short strings some are likelier than others."""
        return 1 / MODULUS

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Steps; places."""
        return Vocabulary.of("0+-"), Vocabulary.of(string.digits[:MODULUS])

    def space(self, size: int) -> int:
        """All strings of steps."""
        return 3**size

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """Independent uniform steps."""
        steps = torch.randint(3, (count, size), generator=generator)
        forward, back = (steps == 1).sum(1), (steps == 2).sum(1)
        return from_answers(FIRST + steps, FIRST + (forward - back) % MODULUS)


class ModularArithmetic(ChomskyTask):
    """The value of a sum of products, modulo 5; multiplication binds first.

    ::

        source    1 + 2 * 3 - 4 <eos>
        target    3

    Sliced by length, which is odd.

    Attributes:
        min_length, max_length: in training, odd, uniform.
        longer_lengths: evaluated beyond training, odd.
    """

    language_class: ClassVar[str | None] = REGULAR
    step: ClassVar[int] = 2

    name: Literal["modular_arithmetic"] = "modular_arithmetic"
    min_length: Size = 1
    longer_lengths: Sizes = (51, 75, 101, 151, 201, 301, 401, 499)

    @property
    def chance(self) -> float:
        """One of the residues, whichever; as published. Products make 0 a little likelier than the others."""
        return 1 / MODULUS

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Digits and operators; digits."""
        digits = string.digits[:MODULUS]
        return Vocabulary.of(digits + "+-*"), Vocabulary.of(digits)

    def space(self, size: int) -> int:
        """All expressions."""
        return int(MODULUS ** (size // 2 + 1) * 3 ** (size // 2))

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """Independent uniform digits and operators."""
        digits = torch.randint(MODULUS, (count, size // 2 + 1), generator=generator)
        operators = torch.randint(3, (count, size // 2), generator=generator)
        # A product goes on as long as operators are "*", so its factors share the number of other operators before.
        total = torch.zeros(count, dtype=torch.int64)
        product = digits[:, 0]
        for i in range(size // 2):
            factor, times = digits[:, i + 1], operators[:, i] == 2
            total = torch.where(times, total, total + product)
            sign = 1 - 2 * operators[:, i]  # of "+" and "-"
            product = torch.where(times, product * factor, sign * factor) % MODULUS
        source = torch.empty(count, size, dtype=torch.int64)
        source[:, ::2] = digits
        source[:, 1::2] = MODULUS + operators
        return from_answers(FIRST + source, FIRST + (total + product) % MODULUS)
