"""The context-sensitive languages of Delétang et al. 2023 that are about strings. (Those about numbers: `binary`.)"""

from __future__ import annotations

import string
from typing import ClassVar, Literal

import torch

from experiments.data import Batch, Vocabulary
from experiments.schema import CONTEXT_SENSITIVE
from experiments.tasks.chomsky import ChomskyTask
from experiments.tasks.lengths import FIRST, from_answers, from_strings
from experiments.tasks.synthetic import Size, Sizes


class DuplicateString(ChomskyTask):
    """The string, twice.

    ::

        source    a b a a <eos>
        target    a b a a a b a a <eos>

    Sliced by length.

    Attributes:
        min_length, max_length: in training, uniform.
        longer_lengths: evaluated beyond training.
    """

    language_class: ClassVar[str | None] = CONTEXT_SENSITIVE

    name: Literal["duplicate_string"] = "duplicate_string"

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Two letters on both sides."""
        return Vocabulary.of("ab"), Vocabulary.of("ab")

    def space(self, size: int) -> int:
        """All strings."""
        return 2**size

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """Independent fair symbols."""
        letters = FIRST + torch.randint(2, (count, size), generator=generator)
        return from_strings(letters, letters.repeat(1, 2))


class MissingDuplicate(ChomskyTask):
    """A string, twice, but one symbol of the two copies is missing: which?

    ::

        source    a b a _ b a <eos>
        target    a

    Sliced by length of both copies, which is even.

    Attributes:
        min_length, max_length: in training, even, uniform.
        longer_lengths: evaluated beyond training, even.
    """

    language_class: ClassVar[str | None] = CONTEXT_SENSITIVE
    shortest: ClassVar[int] = 2
    step: ClassVar[int] = 2

    name: Literal["missing_duplicate"] = "missing_duplicate"
    min_length: Size = 2
    longer_lengths: Sizes = (50, 76, 100, 150, 200, 300, 400, 500)

    @property
    def chance(self) -> float:
        """One of two letters."""
        return 0.5

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Two letters and the gap; two letters."""
        return Vocabulary.of("ab_"), Vocabulary.of("ab")

    def space(self, size: int) -> int:
        """All strings, and all places of the gap: the other copy tells what is missing."""
        return int(2 ** (size // 2) * size)

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """Independent fair symbols, and a uniform place."""
        letters = FIRST + torch.randint(2, (count, size // 2), generator=generator).repeat(1, 2)
        gap = torch.randint(size, (count, 1), generator=generator)
        return from_answers(letters.scatter(1, gap, FIRST + 2), letters.gather(1, gap)[:, 0])


class OddsFirst(ChomskyTask):
    """First the symbols at odd positions, counted from 1, then the others.

    ::

        source    a a a b b <eos>
        target    a a b a b <eos>

    Sliced by length.

    Attributes:
        min_length, max_length: in training, uniform.
        longer_lengths: evaluated beyond training.
    """

    language_class: ClassVar[str | None] = CONTEXT_SENSITIVE

    name: Literal["odds_first"] = "odds_first"

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Two letters on both sides."""
        return Vocabulary.of("ab"), Vocabulary.of("ab")

    def space(self, size: int) -> int:
        """All strings."""
        return 2**size

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """Independent fair symbols."""
        letters = FIRST + torch.randint(2, (count, size), generator=generator)
        return from_strings(letters, torch.cat([letters[:, ::2], letters[:, 1::2]], dim=1))


class BucketSort(ChomskyTask):
    """The symbols in order.

    ::

        source    d b a e b <eos>
        target    a b b d e <eos>

    Sliced by length.

    Attributes:
        min_length, max_length: in training, uniform.
        longer_lengths: evaluated beyond training.
    """

    language_class: ClassVar[str | None] = CONTEXT_SENSITIVE
    alphabet: ClassVar[int] = 5  # as published

    name: Literal["bucket_sort"] = "bucket_sort"

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Letters on both sides."""
        vocabulary = Vocabulary.of(string.ascii_lowercase[: self.alphabet])
        return vocabulary, vocabulary

    def space(self, size: int) -> int:
        """All strings."""
        return self.alphabet**size

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """Independent uniform symbols."""
        letters = FIRST + torch.randint(self.alphabet, (count, size), generator=generator)
        return from_strings(letters, letters.sort(1).values)
