"""What tasks over strings of a stated length share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Self

import torch
import torch.nn.functional as F
from pydantic import model_validator
from torch import Tensor

from experiments.data import SPECIAL_SYMBOLS, Batch
from experiments.schema import LENGTH
from experiments.tasks.synthetic import Size, Sizes, SyntheticTask, unpadded
from models.interface import BOS, EOS, PAD

FIRST = len(SPECIAL_SYMBOLS)  # id of the first symbol that a task names


class LengthTask(SyntheticTask):
    """A task whose size is the length of its string, the end of sequence not counted.

    Attributes:
        min_length, max_length: in training, uniform.
        longer_lengths: evaluated beyond training.
    """

    size_axis: ClassVar[str] = LENGTH
    axes: ClassVar[tuple[str, ...]] = (LENGTH,)
    measures: ClassVar[Mapping[str, str]] = {LENGTH: LENGTH}
    shortest: ClassVar[int] = 1  # length that the task can have …
    step: ClassVar[int] = 1  # … and from one possible length to the next

    min_length: Size
    max_length: Size
    longer_lengths: Sizes

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.min_length > self.max_length:
            raise ValueError("min_length is larger than max_length")
        for length in (self.min_length, *self.longer_lengths):
            if length < self.shortest or (length - self.shortest) % self.step:
                every = "" if self.step == 1 else f" in steps of {self.step}"
                raise ValueError(f"there are no strings of length {length}: lengths go from {self.shortest} on{every}")
        return self

    def sizes(self) -> range:
        """Lengths in training."""
        return range(self.min_length, self.max_length + 1, self.step)

    def longer_sizes(self) -> list[int]:
        """Lengths beyond training."""
        return list(self.longer_lengths)


def from_strings(source: Tensor, target: Tensor, target_lengths: Tensor | None = None) -> Batch:
    """A batch of whole strings (B, S) → (B, T): the end is marked on both sides, the decoder is fed its own past.

    Args:
        source, target: token ids.
        target_lengths: (B,), where targets are shorter than T.
    """
    target = F.pad(target, (0, 1), value=EOS)
    if target_lengths is not None:
        position, end = torch.arange(target.shape[1]), target_lengths[:, None]
        target = target.masked_fill(position == end, EOS).masked_fill(position > end, PAD)
    return unpadded(F.pad(source, (0, 1), value=EOS), F.pad(target[:, :-1], (1, 0), value=BOS), target)


def from_answers(source: Tensor, answer: Tensor) -> Batch:
    """A batch of strings (B, S), the end marked, that are answered by one symbol (B,)."""
    answer = answer[:, None]
    return unpadded(F.pad(source, (0, 1), value=EOS), torch.full_like(answer, BOS), answer)
