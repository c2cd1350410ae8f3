"""Vocabularies, batches and data sets: what every task hands to training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from models.config import Dimensions
from models.interface import BOS, EOS, PAD

SPECIAL_SYMBOLS = ("<pad>", "<bos>", "<eos>")  # ids PAD, BOS, EOS = 0, 1, 2
CPU = torch.device("cpu")
UNKNOWN_SYMBOL = "<unk>"  # in the vocabularies of real corpora: whatever the training part did not show


class DataError(Exception):
    """Real data are missing, corrupt or cannot be downloaded; the message names the file, the line and the remedy."""


class BatchError(ValueError):
    """A sequence alone has more tokens than a batch may; the message says how many."""


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of one side; the first three are padding, beginning and end of sequence."""

    symbols: tuple[str, ...]

    @classmethod
    def of(cls, symbols: Iterable[str]) -> Vocabulary:
        """The vocabulary of these symbols, in the order given, after the three special ones."""
        return cls(SPECIAL_SYMBOLS + tuple(symbols))

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def unknown(self) -> int | None:
        """Id of `UNKNOWN_SYMBOL`; None in a vocabulary without one, where nothing can be unknown."""
        return self.symbols.index(UNKNOWN_SYMBOL) if UNKNOWN_SYMBOL in self.symbols else None

    def references(self, target: Tensor) -> Tensor:
        """`target`, with each unknown symbol replaced by -1: what predictions are to be compared with.

        A model may well answer `UNKNOWN_SYMBOL`, but that is never the symbol that the reference really holds.
        """
        return target if self.unknown is None else target.masked_fill(target == self.unknown, -1)

    def decode(self, ids: list[int]) -> list[str]:
        """The symbols of `ids` up to the end of sequence; padding and beginning left out."""
        if EOS in ids:
            ids = ids[: ids.index(EOS)]
        return [self.symbols[i] for i in ids if i not in (PAD, BOS)]


class Pair(NamedTuple):
    """One example of a corpus, in symbols, without any special ones."""

    source: tuple[str, ...]
    target: tuple[str, ...]


@dataclass(frozen=True)
class Batch:
    """Sequences side by side, padded at the end with `PAD`.

    Shapes (B sequences, S source and T target positions), all int64 on one device:
        source          (B, S)
        target_in       (B, T)  what the decoder is fed
        target          (B, T)  what it should answer at each position; `PAD` where nothing is asked
        source_lengths  (B,)    on the CPU always, so that nobody waits for the device to learn them
        slices          name of an axis → (B, T), the value of each position on it; only in evaluation sets
    """

    source: Tensor
    target_in: Tensor
    target: Tensor
    source_lengths: Tensor
    slices: Mapping[str, Tensor] = field(default_factory=dict)

    def to(self, device: torch.device) -> Batch:
        """The same batch on `device`, copied without waiting for it."""
        if device.type == self.source.device.type:
            return self

        def move(tensor: Tensor) -> Tensor:
            return tensor.pin_memory().to(device, non_blocking=True)

        slices = {axis: move(values) for axis, values in self.slices.items()}
        return Batch(move(self.source), move(self.target_in), move(self.target), self.source_lengths, slices)

    def select(self, rows: Tensor | slice) -> Batch:
        """These sequences: a slice, indices, or a mask (B,)."""
        slices = {axis: values[rows] for axis, values in self.slices.items()}
        return Batch(self.source[rows], self.target_in[rows], self.target[rows], self.source_lengths[rows], slices)

    @property
    def size(self) -> int:
        """Number of sequences."""
        return self.source.shape[0]

    @property
    def tokens(self) -> int:
        """Source and target positions, padding included: what the device works on."""
        return self.source.numel() + self.target.numel()


class Example(NamedTuple):
    """One worked input → output, in symbols."""

    source: list[str]
    target_in: list[str]  # what the decoder is fed
    target: list[str]  # what it should answer, position by position


@dataclass(frozen=True)
class Tokens:
    """The size of a batch, counted in tokens: source and target positions, padding included (`Batch.tokens`)."""

    count: int


class TrainingBatches(Protocol):
    """Where the batches of a training come from."""

    def __call__(
        self, size: int | Tokens, generator: torch.Generator, device: torch.device = CPU, /
    ) -> Iterator[Batch]:
        """Endless batches on `device`.

        Args:
            size: of each batch, a number of sequences or at most so many `Tokens`.
            generator: on the CPU; everything random comes from it, so that the device does not change the data.
            device: where the batches are needed.

        Raises:
            BatchError: with the first batch, where a sequence alone has more tokens than a batch may.
        """


@dataclass(frozen=True)
class Texts:
    """What metrics of text need, beside symbols.

    Attributes:
        sources: split → the texts as they were written, in the order of the split's batches.
        references: likewise; with single spaces where no answer can have others.
        join: the text that target symbols spell.
    """

    sources: Mapping[str, Sequence[str]]
    references: Mapping[str, Sequence[str]]
    join: Callable[[Sequence[str]], str]


def dimensions_of(source: Vocabulary, target: Vocabulary, longest: int) -> Dimensions:
    """What two vocabularies and the longest sequence of either side ask of a model.

    One position is to spare, for the gate that pads the longest source.
    """
    return Dimensions(len(source), len(target), source == target, longest + 1)


@dataclass(frozen=True)
class TaskData:
    """A task made ready for one run.

    Attributes:
        source_vocabulary, target_vocabulary: the symbols of each side.
        given_inputs: True where the decoder is fed given inputs and answers each of them (recall's queries, parity's
            bits), so that no answer is ever fed back; False where it is fed its own last answer, `BOS` first.
        max_source_length, max_target_length: the longest of any split, end of sequence included.
        training: endless batches.
        evaluation: split → its fixed batches; "validation" and "test" always, "longer" where the task has one.
        overlap: number of test sequences whose source occurs in training too, where it need not.
        description: what MLflow's dataset input shows: at least "source", "digest" and the number of sequences a split.
        categories: axis whose values have names → these names; a slice then holds their numbers.
        texts: of corpora whose answers are scored as text (BLEU, character errors); None for the others.
    """

    source_vocabulary: Vocabulary
    target_vocabulary: Vocabulary
    given_inputs: bool
    max_source_length: int
    max_target_length: int
    training: TrainingBatches
    evaluation: Mapping[str, list[Batch]]
    overlap: int
    description: Mapping[str, str]
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    texts: Texts | None = None

    @property
    def dimensions(self) -> Dimensions:
        """What the task asks of a model."""
        longest = max(self.max_source_length, self.max_target_length)
        return dimensions_of(self.source_vocabulary, self.target_vocabulary, longest)

    def longest(self, split: str) -> tuple[int, int]:
        """Positions of the longest source and of the longest target of a split, end of sequence included."""
        batches = self.evaluation[split]
        return max(batch.source.shape[1] for batch in batches), max(batch.target.shape[1] for batch in batches)
