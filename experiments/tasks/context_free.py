"""The context-free languages of Delétang et al. 2023: what a stack decides. (The reversal of a string: `strings`.)"""

from __future__ import annotations

import functools
import string
from typing import ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from experiments.data import Batch, Vocabulary
from experiments.schema import CONTEXT_FREE
from experiments.tasks.chomsky import MODULUS, ChomskyTask
from experiments.tasks.lengths import FIRST, from_answers, from_strings
from experiments.tasks.synthetic import Size

PLUS, MINUS, OPEN, CLOSE, UNKNOWN, EQUALS = range(MODULUS, MODULUS + 6)  # symbols after the digits


class StackManipulation(ChomskyTask):
    """A stack, bottom first, and what is done with it: the stack in the end, top first.

    ::

        source    a b b a push_b pop pop <eos>
        target    b b a <eos>

    A pop of the empty stack does nothing. Sliced by length: of the stack and the actions together.

    Attributes:
        min_length, max_length: in training, uniform.
        longer_lengths: evaluated beyond training.
    """

    language_class: ClassVar[str | None] = CONTEXT_FREE

    name: Literal["stack_manipulation"] = "stack_manipulation"

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Two letters and the actions; two letters."""
        return Vocabulary.of(["a", "b", "push_a", "push_b", "pop"]), Vocabulary.of("ab")

    def space(self, size: int) -> int:
        """All stacks and actions, for every length of the stack."""
        return sum(2**stack * 3 ** (size - stack) for stack in range(1, size)) if size > 1 else 2

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """A stack of uniform length, at least 1 and shorter than the source but for size 1; all else uniform."""
        position = torch.arange(size)
        given = 1 + torch.randint(max(size - 1, 1), (count, 1), generator=generator)  # symbols on the stack
        letters = torch.randint(2, (count, size), generator=generator)
        actions = torch.randint(3, (count, size), generator=generator)
        source = torch.where(position < given, letters, 2 + actions)
        stack = torch.zeros(count, size + 1, dtype=torch.int64)  # the last column takes what a pop writes
        height = torch.zeros(count, 1, dtype=torch.int64)
        for token in source.split(1, dim=1):
            pops = token == 4
            stack.scatter_(1, height.masked_fill(pops, size), token % 2)
            height = torch.where(pops, (height - 1).clamp(min=0), height + 1)
        from_top = stack.gather(1, (height - 1 - position).clamp(min=0))
        return from_strings(FIRST + source, FIRST + from_top, height[:, 0])


class ModularArithmeticBrackets(ChomskyTask):
    """The value of an expression in brackets, modulo 5.

    ::

        source    ( ( 3 - 4 ) + - 2 ) <eos>
        target    2

    An expression is a digit, its negative, either of them in brackets or, from length 5 on, two expressions with plus
    or minus between them, in brackets. Sliced by length.

    Attributes:
        min_length, max_length: in training, uniform.
        longer_lengths: evaluated beyond training.
    """

    language_class: ClassVar[str | None] = CONTEXT_FREE

    name: Literal["modular_arithmetic_brackets"] = "modular_arithmetic_brackets"

    @property
    def chance(self) -> float:
        """One of the residues, whichever."""
        return 1 / MODULUS

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Digits, operators and brackets; digits."""
        digits = string.digits[:MODULUS]
        return Vocabulary.of(digits + "+-()"), Vocabulary.of(digits)

    def space(self, size: int) -> int:
        """All expressions."""
        return _expressions(size)[0]

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """See `draw_expressions`."""
        tokens, coefficients = draw_expressions(count, size, generator)
        return from_answers(FIRST + tokens, FIRST + (tokens * coefficients).sum(1) % MODULUS)


class SolveEquation(ChomskyTask):
    """One digit of an expression is unknown, but not its value, modulo 5: which digit?

    ::

        source    ( ( 3 - x ) + - 2 ) = 2 <eos>
        target    4

    Expressions are those of modular_arithmetic_brackets. Sliced by length.

    Attributes:
        min_length, max_length: in training, uniform; from 3.
        longer_lengths: evaluated beyond training.
    """

    language_class: ClassVar[str | None] = CONTEXT_FREE
    shortest: ClassVar[int] = 3

    name: Literal["solve_equation"] = "solve_equation"
    min_length: Size = 3

    @property
    def chance(self) -> float:
        """One of the residues, whichever."""
        return 1 / MODULUS

    def vocabularies(self) -> tuple[Vocabulary, Vocabulary]:
        """Digits, operators, brackets, the unknown, the sign of equality; digits."""
        digits = string.digits[:MODULUS]
        return Vocabulary.of(digits + "+-()x="), Vocabulary.of(digits)

    def space(self, size: int) -> int:
        """All expressions, with each of their digits hidden: the value tells which it was."""
        return _expressions(size - 2)[1]

    def draw(self, count: int, size: int, generator: torch.Generator) -> Batch:
        """An expression, of which a uniform digit is hidden."""
        tokens, coefficients = draw_expressions(count, size - 2, generator)
        value = (tokens * coefficients).sum(1, keepdim=True) % MODULUS
        hidden = torch.rand(tokens.shape, generator=generator).mul(coefficients != 0).argmax(1, keepdim=True)
        equals = torch.full((count, 1), EQUALS)
        source = torch.cat([tokens.scatter(1, hidden, UNKNOWN), equals, value], dim=1)
        return from_answers(FIRST + source, FIRST + tokens.gather(1, hidden)[:, 0])


class Expressions(NamedTuple):
    """Expressions in brackets of one length L.

    Shapes:
        tokens          (B, L)
        coefficients    (B, L), 1 or -1 at digits, by how they count in the value of the whole; 0 elsewhere
    """

    tokens: Tensor
    coefficients: Tensor


def draw_expressions(count: int, length: int, generator: torch.Generator) -> Expressions:
    """Random expressions: all splits of a length into two parts are equally likely, and so are digits and operators.

    All parts at one depth, of all expressions, are made at once. With plus and minus alone the value of an expression
    is a sum of its digits, each with the sign that the minuses before it and around it leave.
    """
    tokens = torch.randint(MODULUS, (count, length), generator=generator)
    operators = torch.randint(2, (count, length), generator=generator).flatten()
    coefficients = torch.zeros_like(tokens)
    flat_tokens, flat_coefficients = tokens.view(-1), coefficients.view(-1)
    start = torch.arange(count) * length  # of each part, in the flat tensors
    size = torch.full((count,), length)
    sign = torch.ones(count, dtype=torch.int64)
    while len(start):
        bracketed = (size >= 3).nonzero()[:, 0]
        opens = start[bracketed]
        flat_tokens[opens] = OPEN
        flat_tokens[opens + size[bracketed] - 1] = CLOSE

        leaf, split = (size < 5).nonzero()[:, 0], (size >= 5).nonzero()[:, 0]
        leaf_size = size[leaf]
        digit = start[leaf] + (leaf_size >> 1)  # of d, -d, (d), (-d): at 0, 1, 1, 2
        positive = leaf_size & 1
        flat_tokens[digit[(positive == 0).nonzero()[:, 0]] - 1] = MINUS
        flat_coefficients[digit] = sign[leaf] * (2 * positive - 1)

        start, size, sign = start[split], size[split], sign[split]
        left = 1 + (torch.rand(len(start), generator=generator) * (size - 4)).long().clamp(max=size - 5)
        operator = start + 1 + left
        minus = operators[operator]
        flat_tokens[operator] = PLUS + minus
        start = torch.cat([start + 1, operator + 1])
        sign = torch.cat([sign, sign * (1 - 2 * minus)])
        size = torch.cat([left, size - 3 - left])
    return Expressions(tokens, coefficients)


@functools.cache
def _expressions(length: int) -> tuple[int, int]:
    """Number of different expressions of a length, and of digits in all of them together."""
    if length < 5:
        return MODULUS, MODULUS
    expressions = digits = 0
    for left in range(1, length - 3):
        (a, digits_a), (b, digits_b) = _expressions(left), _expressions(length - 3 - left)
        expressions += 2 * a * b
        digits += 2 * (digits_a * b + a * digits_b)
    return expressions, digits
