"""Matching: the widths that give each model the same number of parameters.

Two widths are solved together. The hidden size moves in steps (it must suit heads and directions) and every step
changes a small model by several percent, so the second width (an LSTM's embedding size, a Transformer's feed-forward
size) closes the gap. Of all pairs inside the tolerance the one whose second width is nearest to its usual proportion
is taken: an embedding as wide as the hidden size, a feed-forward network four times as wide (Vaswani et al. 2017,
table 3).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

from models.config import Dimensions, LSTMConfig, ModelConfig
from models.cost import count_parameters, on_meta

TOLERANCE = 0.01


class MatchError(ValueError):
    """No legal width gives the model the parameters asked for; the message says why."""


@functools.cache  # the runs of a grid ask for the same few models, seed after seed
def match(config: ModelConfig, parameters: int, dimensions: Dimensions) -> ModelConfig:
    """`config` with the widths that bring it within ±1 % of a budget.

    Args:
        config: without widths.
        parameters: the budget, all trained weights counted.
        dimensions: of the task.

    Raises:
        MatchError: the budget cannot be met, or `config` states its widths already.
    """
    if config.hidden_size is not None:
        raise MatchError("the model states its hidden_size, so a budget has nothing to solve: state one of the two")
    step, proportion = _shape(config)

    def count(hidden_size: int, second: int) -> int:
        return count_parameters(on_meta(_with_widths(config, hidden_size, second), dimensions))

    smallest = count(step, 1)
    if smallest > parameters * (1 + TOLERANCE):
        raise MatchError(
            f"the smallest model has {smallest:,} parameters, more than the budget of {parameters:,} "
            f"(vocabularies of {dimensions.source_vocabulary} and {dimensions.target_vocabulary} symbols)"
        )
    best: tuple[float, ModelConfig] | None = None
    for hidden_size in _candidates(step, proportion, parameters, count):
        fixed = count(hidden_size, 1)
        slope = count(hidden_size, 2) - fixed  # the count is linear in the second width
        second = max(1, round((parameters - fixed) / slope) + 1)
        error = abs((fixed + slope * (second - 1)) / parameters - 1)
        distance = abs(math.log(second / (proportion * hidden_size)))
        if error <= TOLERANCE and (best is None or distance < best[0]):
            best = distance, _with_widths(config, hidden_size, second)
    if best is None:
        raise MatchError(f"no widths come within ±{TOLERANCE:.0%} of {parameters:,} parameters")
    return best[1]


def _shape(config: ModelConfig) -> tuple[int, float]:
    """The step of the hidden size, and the usual proportion of the second width to it."""
    if isinstance(config, LSTMConfig):
        return 4, 1.0
    return math.lcm(config.num_heads, 4), 4.0


def _with_widths(config: ModelConfig, hidden_size: int, second: int) -> ModelConfig:
    if isinstance(config, LSTMConfig):
        return replace(config, hidden_size=hidden_size, embedding_size=second)
    return replace(config, hidden_size=hidden_size, feedforward_size=second)


def _candidates(step: int, proportion: float, parameters: int, count: Callable[[int, int], int]) -> list[int]:
    """Hidden sizes on both sides of the one whose usual proportion meets the budget."""

    def too_large(multiple: int) -> bool:
        hidden_size = multiple * step
        return count(hidden_size, max(1, round(proportion * hidden_size))) > parameters

    high = 1
    while not too_large(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if too_large(middle) else (middle, high)
    return [multiple * step for multiple in range(max(1, high - 2), high + 2)]
