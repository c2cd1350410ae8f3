"""Matching: the widths that give each model the same budget, of parameters, of training work or of decoding state.

Two widths are solved together. The hidden size moves in steps (it must suit heads and directions) and every step
changes a small model by several percent, so the second width (an LSTM's embedding size, or a Transformer's feed-forward
size; of a hybrid the latter) closes the gap. Of all pairs inside the tolerance the one whose second width is nearest to
its usual proportion is taken: an embedding as wide as the hidden size, a feed-forward network four times as wide
(Vaswani et al. 2017, table 3), or 8/3 times where it has three matrices (Shazeer 2020, section 3).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

from models.config import Budget, BudgetError, Dimensions, LSTMConfig, ModelConfig, ModelError, TransformerConfig
from models.cost import count_parameters, on_meta, state_bytes, training_flops_per_token

TOLERANCE = 0.01


def spent(config: ModelConfig, budget: Budget, dimensions: Dimensions) -> float:
    """How much of what the budget counts a model with widths takes."""
    match budget.quantity:
        case "parameters":
            return count_parameters(on_meta(config, dimensions))
        case "training_flops_per_token":
            assert budget.length is not None
            return training_flops_per_token(config, budget.length, dimensions.target_vocabulary)
        case _:
            assert budget.length is not None
            return state_bytes(config, budget.length, budget.length)


def match_error(config: ModelConfig, budget: Budget, dimensions: Dimensions) -> float:
    """How far a model with widths is off its budget, as a share of it."""
    return spent(config, budget, dimensions) / budget.amount - 1


@functools.cache  # the runs of a grid ask for the same few models, seed after seed
def match(config: ModelConfig, budget: Budget, dimensions: Dimensions) -> ModelConfig:
    """`config` with the widths that bring it within ±1 % of a budget.

    Args:
        config: without widths.
        budget: what is counted, and how much of it.
        dimensions: of the task.

    Raises:
        BudgetError: no widths meet it.
        ModelError: `config` states its widths already, or the model cannot be made.
    """
    if config.hidden_size is not None:
        raise ModelError("the model states its hidden_size, so a budget has nothing to solve: state one of the two")

    def cost(hidden_size: int, second: int) -> float:
        return spent(_with_widths(config, hidden_size, second), budget, dimensions)

    step = math.lcm(config.hidden_multiple, 1 if budget.quantity == "state_bytes" else 4)
    smallest = cost(step, 1)
    if smallest > budget.amount * (1 + TOLERANCE):
        raise BudgetError(
            f"the smallest model takes {smallest:,.0f} {budget.words}, more than the budget of {budget.amount:,} "
            f"(vocabularies of {dimensions.source_vocabulary} and {dimensions.target_vocabulary} symbols)"
        )
    proportion = _proportion(config)
    best: tuple[tuple[float, float], ModelConfig] | None = None
    nearest = math.inf
    for hidden_size in _candidates(step, proportion, budget.amount, cost):
        fixed = cost(hidden_size, 1)
        slope = cost(hidden_size, 2) - fixed  # the cost is linear in the second width
        usual = proportion * hidden_size
        second = max(1, round(usual if slope == 0 else (budget.amount - fixed) / slope + 1))
        error = (fixed + slope * (second - 1)) / budget.amount - 1
        nearest = min(nearest, error, key=abs)
        distance = round(abs(math.log(second / usual)), 2), abs(error)
        if abs(error) <= TOLERANCE and (best is None or distance < best[0]):
            best = distance, _with_widths(config, hidden_size, second)
    if best is None:
        raise BudgetError(
            f"no widths come within ±{TOLERANCE:.0%} of {budget.amount:,} {budget.words}: "
            f"the nearest legal ones, in steps of {step}, are {nearest:+.1%} off"
        )
    return best[1]


def _proportion(config: ModelConfig) -> float:
    """The usual proportion of the second width to the hidden size."""
    if isinstance(config, LSTMConfig):
        return 1.0
    return 8 / 3 if config.feedforward == "swiglu" else 4.0


def _with_widths(config: ModelConfig, hidden_size: int, second: int) -> ModelConfig:
    if isinstance(config, LSTMConfig):
        return replace(config, hidden_size=hidden_size, embedding_size=second)
    if isinstance(config, TransformerConfig):
        return replace(config, hidden_size=hidden_size, feedforward_size=second)
    return replace(config, hidden_size=hidden_size, embedding_size=hidden_size, feedforward_size=second)


def _candidates(step: int, proportion: float, amount: int, cost: Callable[[int, int], float]) -> list[int]:
    """Hidden sizes on both sides of the one whose usual proportion meets the budget."""

    def too_large(multiple: int) -> bool:
        hidden_size = multiple * step
        return cost(hidden_size, max(1, round(proportion * hidden_size))) > amount

    high = 1
    while not too_large(high):
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if too_large(middle) else (middle, high)
    return [multiple * step for multiple in range(max(1, high - 2), high + 2)]
