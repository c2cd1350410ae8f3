"""ListOps: nested lists of operations on digits."""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from pydantic import model_validator
from torch import Tensor

from experiments.data import Batch, Vocabulary
from experiments.schema import CONTEXT_FREE, LENGTH
from experiments.tasks.lengths import FIRST
from experiments.tasks.synthetic import Size, Sizes, SyntheticTask
from models.interface import BOS, EOS, PAD

OPERATORS = ("[MIN", "[MAX", "[MED", "[SM")
CLOSE = 10 + len(OPERATORS)  # symbols: ten digits, the operators, the end of a list
MOST_ARGUMENTS = 5  # as published; the fewest are two
NESTED = 0.25  # share of arguments that are lists themselves, as published


class ListOps(SyntheticTask):
    """Nested minimum, maximum, median and sum modulo 10: the value.

    ::

        source    [MAX 2 9 [MIN 4 7 ] 0 ] <eos>
        target    9

    A list has two to five arguments; a median between two digits is rounded down. The size is the depth, exactly: how
    many lists stand inside each other. On the way to that depth one argument of a list is a list in any case; of the
    others, a quarter are, as published. Deeper ones are longer: on average 13 tokens at depth 2, 34 at 4, 64 at 6.

    Sliced by depth, and by length (with the end of sequence) in bins named by their upper edges (`upper_edges`).

    Attributes:
        max_depth: in training, from 1, uniform.
        longer_depths: evaluated beyond training.
        max_length: tokens of a source; longer ones are drawn anew.
    """

    size_axis: ClassVar[str] = "depth"
    axes: ClassVar[tuple[str, ...]] = ("depth", LENGTH)
    binned: ClassVar[tuple[str, ...]] = (LENGTH,)
    measures: ClassVar[Mapping[str, str]] = {LENGTH: "depth"}
    language_class: ClassVar[str | None] = CONTEXT_FREE
    reference: ClassVar[str] = "Nangia & Bowman 2018, ListOps: a diagnostic dataset for latent tree learning, section 3"

    name: Literal["listops"] = "listops"
    max_depth: Size = 4
    longer_depths: Sizes = (5, 6, 8)
    max_length: Size = 200

    @model_validator(mode="after")
    def _check(self) -> Self:
        deepest = max(self.max_depth, *self.longer_depths, 0)
        if self.max_length < 16 * deepest:
            raise ValueError(f"hardly any list of depth {deepest} is that short: at least {16 * deepest} is needed")
        return self

    @property
    def chance(self) -> float:
        """A digit, whichever.

        Not all are as likely: over the depths 1 to 4, always 0 is right in 10.9 %, and what the first operator alone
        suggests (0 for a minimum, 9 for a maximum, …) in 22.5 %.
        """
        return 0.1

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Digits, operators, the end of a list; digits."""
        return Vocabulary.of([*string.digits, *OPERATORS, "]"]), Vocabulary.of(string.digits)

    def sizes(self) -> range:
        """Depths in training."""
        return range(1, self.max_depth + 1)

    def longer_sizes(self) -> list[int]:
        """Depths beyond training."""
        return list(self.longer_depths)

    def space(self, size: int) -> int:
        """At least: lists of digits, and at each further depth one more list around, with two to five arguments."""
        lists = len(OPERATORS) * sum(10**digits for digits in range(2, MOST_ARGUMENTS + 1))
        return int(lists * len(OPERATORS) ** (size - 1))

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """Random lists; see the class."""
        source = torch.full((count, self.max_length + 1), PAD)
        answers, lengths = torch.zeros(count, dtype=torch.int64), torch.ones(count, dtype=torch.int64)
        done = 0
        while done < count:
            tokens, drawn_lengths, values = draw_lists(count - done, size, generator)
            short = (drawn_lengths <= self.max_length).nonzero()[:, 0]
            tokens, new = tokens[short, : self.max_length], slice(done, done + len(short))
            source[new, : tokens.shape[1]] = FIRST + tokens
            answers[new], lengths[new] = FIRST + values[short], drawn_lengths[short]
            done += len(short)
        source = source.scatter(1, lengths[:, None], EOS)
        return Batch(source, torch.full((count, 1), BOS), answers[:, None], lengths + 1)

    def slices(self, batch: Batch, size: int) -> dict[str, Tensor]:
        """By depth and by length."""
        return super().slices(batch, size) | {LENGTH: batch.source_lengths[:, None]}


@dataclass
class _Level:
    """All parts, of all lists, at one depth; the parts of a list stand together.

    Shapes:
        is_list     (N,)
        parent      (N,), in the level above
        argument    (N,), from 0: the which of its parent
        value       (N,), of digits; of lists the operator, until they are evaluated
    """

    is_list: Tensor
    parent: Tensor
    argument: Tensor
    value: Tensor


def draw_lists(count: int, depth: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Random lists of a depth.

    All parts at one depth, of all lists, are made at once: from the top their kinds, from the bottom their lengths and
    values, from the top their places.

    Returns:
        tokens (B, L) in numbers of symbols, negative after the end; lengths (B,); values (B,).
    """
    levels = _draw_levels(count, depth, generator)
    operators = [level.value.clone() for level in levels]
    lengths = [torch.ones_like(level.value) for level in levels]
    for i in reversed(range(depth)):
        level, below = levels[i], levels[i + 1]
        lengths[i] += level.is_list  # the operator and the end of the list
        lengths[i].index_add_(0, below.parent, lengths[i + 1])
        arguments = torch.full((len(level.value), MOST_ARGUMENTS), -1)
        arguments[below.parent, below.argument] = below.value
        level.value = torch.where(level.is_list, _evaluated(arguments, level.value), level.value)

    tokens = torch.full((count, int(lengths[0].amax()) if count else 1), PAD - FIRST)
    flat = tokens.view(-1)
    start = torch.arange(count) * tokens.shape[1]
    for i in range(depth + 1):
        level, length = levels[i], lengths[i]
        if i:
            before = length.cumsum(0) - length  # of all parts of the level; of those of one list the difference counts
            start = start[level.parent] + 1 + before - before[_first(level)]
        flat[start] = torch.where(level.is_list, 10 + operators[i], level.value)
        flat[(start + length - 1)[level.is_list]] = CLOSE
    return tokens, lengths[0], levels[0].value


def _draw_levels(count: int, depth: int, generator: torch.Generator) -> list[_Level]:
    """From the top, one more than `depth`; the parts of the last are all digits."""
    nothing = torch.arange(count)
    top = torch.randint(len(OPERATORS), (count,), generator=generator)
    levels = [_Level(torch.ones(count, dtype=torch.bool), nothing, torch.zeros_like(nothing), top)]
    leads = torch.ones(count, dtype=torch.bool)  # of the lists of a level: whether it is on the way to the full depth
    for remaining in reversed(range(depth)):
        lists = levels[-1].is_list.nonzero()[:, 0]
        arguments = torch.randint(2, MOST_ARGUMENTS + 1, (len(lists),), generator=generator)
        which = torch.repeat_interleave(torch.arange(len(lists)), arguments)
        argument = torch.arange(len(which)) - (arguments.cumsum(0) - arguments)[which]
        if remaining:
            leading = (torch.rand(len(lists), generator=generator) * arguments).long().clamp(max=MOST_ARGUMENTS - 1)
            on_the_way = leads[which] & (argument == leading[which])
            is_list = on_the_way | (torch.rand(len(which), generator=generator) < NESTED)
            leads = on_the_way[is_list]
        else:
            is_list = torch.zeros(len(which), dtype=torch.bool)
        digits = torch.randint(10, (len(which),), generator=generator)
        operators = torch.randint(len(OPERATORS), (len(which),), generator=generator)
        levels.append(_Level(is_list, lists[which], argument, torch.where(is_list, operators, digits)))
    return levels


def _evaluated(arguments: Tensor, operators: Tensor) -> Tensor:
    """Values of lists: arguments (N, `MOST_ARGUMENTS`), -1 where there are no more, and operators (N,)."""
    ordered = arguments.sort(1).values  # what is missing comes first
    missing = (arguments < 0).sum(1, keepdim=True).clamp(max=MOST_ARGUMENTS - 1)
    given = MOST_ARGUMENTS - missing
    lower, upper = missing + (given - 1) // 2, missing + given // 2
    median = (ordered.gather(1, lower) + ordered.gather(1, upper)) // 2
    total = arguments.clamp(min=0).sum(1, keepdim=True) % 10
    outcomes = torch.cat([ordered.gather(1, missing), ordered[:, -1:], median, total], dim=1)
    return outcomes.gather(1, operators.clamp(max=len(OPERATORS) - 1)[:, None])[:, 0]


def _first(level: _Level) -> Tensor:
    """For each part of a level (N,), where the first of the same list stands."""
    return torch.arange(len(level.argument)) - level.argument
