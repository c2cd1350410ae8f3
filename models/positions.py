"""Positional encodings: how a Transformer knows the order of its tokens."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LearnedPositions(nn.Module):
    """Adds a learned vector for each position (Gehring et al. 2017, section 3.1); drawn with variance one.

    Vectors of positions that training never reached stay as they were drawn.
    """

    def __init__(self, max_length: int, size: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(max_length, size))

    def forward(self, embedded: Tensor, start: int = 0) -> Tensor:
        """(B, T, size) at positions start … start+T-1 → the same shape, positions added.

        Raises:
            ValueError: the table has not so many positions.
        """
        end = start + embedded.shape[1]
        if end > len(self.table):
            raise ValueError(
                f"position {end} is asked for, but the learned table ends at {len(self.table)}; "
                "sinusoidal positions have no end"
            )
        return embedded + self.table[start:end]


class SinusoidalPositions(nn.Module):
    """Adds sin and cos of geometrically spaced frequencies to the embeddings (Vaswani et al. 2017, section 3.5).

    Not learned, so any length can be encoded; the table grows as it is asked for more.
    """

    table: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("table", torch.empty(0, size), persistent=False)

    def forward(self, embedded: Tensor, start: int = 0) -> Tensor:
        """(B, T, size) at positions start … start+T-1 → the same shape, positions added."""
        end = start + embedded.shape[1]
        if end > self.table.shape[0]:
            self.table = sinusoids(max(end, 2 * self.table.shape[0]), self.size).to(self.table)
        return embedded + self.table[start:end]


def sinusoids(length: int, size: int) -> Tensor:
    """(length, size): sine in the even columns, cosine in the odd ones; float32, on the CPU."""
    position = torch.arange(length, dtype=torch.float64)[:, None]
    frequency = torch.exp(torch.arange(0, size, 2, dtype=torch.float64) * (-math.log(10_000.0) / size))
    return torch.stack([(position * frequency).sin(), (position * frequency).cos()], dim=-1).flatten(1).float()
