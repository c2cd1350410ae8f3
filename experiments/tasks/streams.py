"""Long distances under control: a stream in which something early decides an answer much later.

The source is the stream, and the decoder is fed the same stream again, position by position, and answers where it is
asked. So an encoder that reads both ways, whose state ends beside the beginning, shortens nothing: a decoder that
cannot look back at the source must keep what it needs while the rest of the stream passes. Attention may look back.
"""

from __future__ import annotations

import math
import string
from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from experiments.data import Batch, Vocabulary
from experiments.schema import DISTANCE, SEQUENCE_ACCURACY
from experiments.tasks.lengths import FIRST
from experiments.tasks.synthetic import Size, Sizes, SyntheticTask, unpadded
from models.interface import PAD


class Stream(NamedTuple):
    """Sequences of one size, in numbers of symbols of the task.

    Shapes:
        tokens    (B, N)
        answers   (B, A), to the last A positions; nothing is asked before
    """

    tokens: Tensor
    answers: Tensor


class StreamTask(SyntheticTask):
    """A task over streams. Sizes, which are or bound the distance, are spread evenly by their logarithm."""

    size_axis: ClassVar[str] = DISTANCE
    axes: ClassVar[tuple[str, ...]] = (DISTANCE,)
    binned: ClassVar[tuple[str, ...]] = axes
    measures: ClassVar[Mapping[str, str]] = {DISTANCE: DISTANCE}
    geometric: ClassVar[bool] = True
    given_inputs: ClassVar[bool] = True

    @abstractmethod
    def symbols(self) -> list[str]:
        """Of both sides."""

    @abstractmethod
    def stream(self, count: int, size: int, generator: torch.Generator) -> Stream:
        """`count` sequences."""

    @abstractmethod
    def distances(self, tokens: Tensor) -> Tensor:
        """Tokens (B, N) of streams → (B,): by how many positions the answer stands behind what decides it."""

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """The same symbols on both sides."""
        vocabulary = Vocabulary.of(self.symbols())
        return vocabulary, vocabulary

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """What `stream` draws."""
        return self._batch(self.stream(count, size, generator))

    def _batch(self, stream: Stream) -> Batch:
        """The stream on both sides, and what is asked."""
        tokens, answers = stream
        source = FIRST + tokens
        target = torch.full_like(source, PAD)
        target[:, -answers.shape[1] :] = FIRST + answers
        return unpadded(source, source.clone(), target)

    def slices(self, batch: Batch, size: int) -> dict[str, Tensor]:
        """By distance."""
        return {DISTANCE: self.distances(batch.source - FIRST)[:, None].expand_as(batch.target)}


class CopyMemory(StreamTask):
    """Ten symbols, then blanks, then a signal: the ten symbols again, while ten more blanks are fed.

    Here with 3 symbols instead of 10 and T = 4::

        source    c a f _ _ _ ! _ _ _
        fed       c a f _ _ _ ! _ _ _      the decoder is given the stream
        target    _ _ _ _ _ _ _ c a f

    T counts the blanks and the signal between the symbols and the answer; the stream is T + 20 long and all its
    positions are asked, so that the loss is that of the publications: who remembers nothing, but knows when to answer,
    has 10·ln 8/(T + 20) nats per position (`floor`). A sequence counts as right when all of it is.

    Sliced by distance, T + 10 from each symbol to its answer, in bins named by their upper edges (`upper_edges`).

    Attributes:
        min_delay, max_delay: T in training, evenly by its logarithm.
        longer_delays: T evaluated beyond training.
    """

    headline: ClassVar[str] = SEQUENCE_ACCURACY
    reference: ClassVar[str] = (
        "Hochreiter & Schmidhuber 1997; in this form, with this floor, Arjovsky et al. 2016 (Unitary evolution "
        "recurrent neural networks), section 4.1"
    )
    copied: ClassVar[int] = 10
    alphabet: ClassVar[int] = 8

    name: Literal["copy_memory"] = "copy_memory"
    min_delay: Size = 1
    max_delay: Size = 100
    longer_delays: Sizes = ()

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_delay > self.max_delay:
            raise ValueError("min_delay is larger than max_delay")
        return self

    def floor(self, delay: int) -> float:
        """Loss in nats per position, at T = `delay`, of who remembers nothing but knows when to answer."""
        return self.copied * math.log(self.alphabet) / (delay + 2 * self.copied)

    @property
    def memoryless_loss(self) -> float:
        """The `floor` over the test set: as many sequences of each delay that is evaluated."""
        lengths = [delay + 2 * self.copied for delay in self.evaluated_sizes()]
        return sum(self.floor(delay) * n for delay, n in zip(self.evaluated_sizes(), lengths, strict=True)) / sum(
            lengths
        )

    @property
    def chance(self) -> float:
        """All blanks right, and one of the symbols, whichever, in the answers."""
        lengths = [delay + 2 * self.copied for delay in self.evaluated_sizes()]
        return 1 - len(lengths) * self.copied * (1 - 1 / self.alphabet) / sum(lengths)

    def symbols(self) -> list[str]:
        """Letters, the blank, the signal."""
        return [*string.ascii_lowercase[: self.alphabet], "_", "!"]

    def sizes(self) -> range:
        """T in training."""
        return range(self.min_delay, self.max_delay + 1)

    def longer_sizes(self) -> list[int]:
        """T beyond training."""
        return list(self.longer_delays)

    def space(self, size: int) -> int:
        """All strings of ten symbols."""
        return self.alphabet**self.copied

    def stream(self, count: int, size: int, generator: torch.Generator) -> Stream:
        """Independent uniform symbols."""
        copied = torch.randint(self.alphabet, (count, self.copied), generator=generator)
        blanks = torch.full((count, size + 2 * self.copied), self.alphabet)
        tokens = blanks.clone()
        tokens[:, : self.copied] = copied
        tokens[:, -self.copied - 1] = self.alphabet + 1
        return Stream(tokens, torch.cat([blanks[:, : -self.copied], copied], dim=1))

    def distances(self, tokens: Tensor) -> Tensor:
        """The same for all."""
        return torch.full(tokens.shape[:1], tokens.shape[1] - self.copied)


class NoiseTask(StreamTask):
    """A stream of noise that hides one thing, which a last token asks for.

    Attributes:
        min_noise, max_noise: tokens of noise in training, evenly by their logarithm.
        longer_noise: evaluated beyond training.
    """

    smallest: ClassVar[int] = 1  # amount of noise that the task can have

    min_noise: Size
    max_noise: Size
    longer_noise: Sizes

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_noise > self.max_noise:
            raise ValueError("min_noise is larger than max_noise")
        if min(self.min_noise, *self.longer_noise, self.max_noise) < self.smallest:
            raise ValueError(f"less than {self.smallest} tokens of noise leave no room")
        return self

    def sizes(self) -> range:
        """Tokens of noise in training."""
        return range(self.min_noise, self.max_noise + 1)

    def longer_sizes(self) -> list[int]:
        """Tokens of noise beyond training."""
        return list(self.longer_noise)


class Needle(NoiseTask):
    """One symbol among many is marked: which?

    ::

        source    g b ! e a c ?         noise, and somewhere the mark and what it marks
        fed       g b ! e a c ?         the decoder is given the stream
        target    · · · · · · e         only the last position is asked

    Sliced by distance, from the marked symbol to the question, in bins named by their upper edges (`upper_edges`).

    Attributes:
        min_noise, max_noise: distractors in training, evenly by their logarithm; the needle may be anywhere.
        longer_noise: evaluated beyond training.
        alphabet: number of different symbols, the same for noise and needle.
    """

    reference: ClassVar[str] = "Mohtashami & Jaggi 2023 (Landmark attention), passkey retrieval; here with symbols"

    name: Literal["needle"] = "needle"
    min_noise: Size = 1
    max_noise: Size = 100
    longer_noise: Sizes = ()
    alphabet: int = Field(default=8, ge=2, le=26)

    @property
    def chance(self) -> float:
        """One of the symbols, whichever."""
        return 1 / self.alphabet

    def symbols(self) -> list[str]:
        """Letters, the mark, the question."""
        return [*string.ascii_lowercase[: self.alphabet], "!", "?"]

    def space(self, size: int) -> int:
        """All strings, and all places of the mark."""
        return self.alphabet ** (size + 1) * (size + 1)

    def stream(self, count: int, size: int, generator: torch.Generator) -> Stream:
        """Independent uniform symbols, the mark at a uniform place before one of them."""
        letters = torch.randint(self.alphabet, (count, size + 1), generator=generator)
        return self._marked(letters, torch.randint(size + 1, (count, 1), generator=generator))

    def at_distance(self, count: int, distance: int, generator: torch.Generator) -> Batch:
        """`count` of the longest streams of training, what is marked so far from the question: 1 to `max_noise` + 1."""
        letters = torch.randint(self.alphabet, (count, self.max_noise + 1), generator=generator)
        return self._batch(self._marked(letters, torch.full((count, 1), self.max_noise + 1 - distance)))

    def _marked(self, letters: Tensor, mark: Tensor) -> Stream:
        """Letters (B, N) with the mark before one of them, at (B, 1), and the question behind."""
        count, size = letters.shape[0], letters.shape[1] - 1
        position = torch.arange(size + 2)
        tokens = letters.gather(1, (position - (position > mark).long()).clamp(max=size))
        tokens = tokens.masked_fill(position == mark, self.alphabet)
        question = torch.full((count, 1), self.alphabet + 1)
        return Stream(torch.cat([tokens, question], dim=1), letters.gather(1, mark))

    def distances(self, tokens: Tensor) -> Tensor:
        """From what is marked to the question."""
        return tokens.shape[1] - 2 - (tokens == self.alphabet).int().argmax(1)


class DelayedMatch(NoiseTask):
    """The first token decides the answer, whatever follows.

    ::

        source    c f a a h ?
        fed       c f a a h ?         the decoder is given the stream
        target    · · · · · c         only the last position is asked

    Sliced by distance, from the first token to the question, in bins named by their upper edges (`upper_edges`).

    Attributes:
        min_noise, max_noise: tokens after the first in training, evenly by their logarithm.
        longer_noise: evaluated beyond training.
        alphabet: number of different symbols, the same for noise and first token.
    """

    reference: ClassVar[str] = (
        "Bengio, Simard & Frasconi 1994, section 2 (latching); Hochreiter & Schmidhuber 1997, section 5.2 (long time "
        "lags with noise)"
    )

    name: Literal["delayed_match"] = "delayed_match"
    min_noise: Size = 1
    max_noise: Size = 100
    longer_noise: Sizes = ()
    alphabet: int = Field(default=8, ge=2, le=26)

    @property
    def chance(self) -> float:
        """One of the symbols, whichever."""
        return 1 / self.alphabet

    def symbols(self) -> list[str]:
        """Letters, the question."""
        return [*string.ascii_lowercase[: self.alphabet], "?"]

    def space(self, size: int) -> int:
        """All strings."""
        return self.alphabet ** (size + 1)

    def stream(self, count: int, size: int, generator: torch.Generator) -> Stream:
        """Independent uniform symbols."""
        letters = torch.randint(self.alphabet, (count, size + 1), generator=generator)
        question = torch.full((count, 1), self.alphabet)
        return Stream(torch.cat([letters, question], dim=1), letters[:, :1])

    def distances(self, tokens: Tensor) -> Tensor:
        """The same for all."""
        return torch.full(tokens.shape[:1], tokens.shape[1] - 1)


class MarkedAddition(NoiseTask):
    """Two digits of many are marked: their sum.

    ::

        source    4 7* 1 9 3 8* 2 =         a star marks a digit
        fed       4 7* 1 9 3 8* 2 =         the decoder is given the stream
        target    · · · · · · · 15          only the last position is asked

    One marked digit is in the first half of the digits, the other in the second. Sliced by distance, from the first
    marked digit to the question, in bins named by their upper edges (`upper_edges`).

    Attributes:
        min_noise, max_noise: digits in training, the marked ones included, evenly by their logarithm; from 2.
        longer_noise: evaluated beyond training.
    """

    smallest: ClassVar[int] = 2
    reference: ClassVar[str] = (
        "Hochreiter & Schmidhuber 1997, section 5.4 (the adding problem); marks as in Arjovsky et al. 2016, section "
        "4.2; here with digits as symbols"
    )

    name: Literal["marked_addition"] = "marked_addition"
    min_noise: Size = 2
    max_noise: Size = 100
    longer_noise: Sizes = ()

    @property
    def chance(self) -> float:
        """Always 9, the sum of most pairs of digits: ten of a hundred."""
        return 0.1

    def symbols(self) -> list[str]:
        """Sums (the first ten are the digits), marked digits, the question."""
        return [*map(str, range(19)), *(f"{digit}*" for digit in range(10)), "="]

    def space(self, size: int) -> int:
        """All digits, and all places of the marks."""
        return 10**size * (size // 2) * (size - size // 2)

    def stream(self, count: int, size: int, generator: torch.Generator) -> Stream:
        """Independent uniform digits, marks at uniform places of the two halves."""
        digits = torch.randint(10, (count, size), generator=generator)
        half = size // 2
        first = torch.randint(half, (count, 1), generator=generator)
        second = half + torch.randint(size - half, (count, 1), generator=generator)
        marks = torch.cat([first, second], dim=1)
        marked = digits.gather(1, marks)
        question = torch.full((count, 1), 29)
        return Stream(torch.cat([digits.scatter(1, marks, 19 + marked), question], dim=1), marked.sum(1, keepdim=True))

    def distances(self, tokens: Tensor) -> Tensor:
        """From the first marked digit to the question."""
        marked = (tokens >= 19) & (tokens < 29)
        return tokens.shape[1] - 1 - marked.int().argmax(1)
