"""Positional encodings: how a Transformer knows the order of its tokens.

Two kinds are added to the embeddings (learned, sinusoidal), two come in where self-attention compares queries with
keys (rotary, alibi).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from models.config import Dimensions, TransformerHalf

BASE = 10_000.0  # of the wavelengths: 2π … BASE · 2π positions


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
                "sinusoidal, rotary and alibi positions have no end"
            )
        return embedded + self.table[start:end]


class SinusoidalPositions(nn.Module):
    """Adds sin and cos of geometrically spaced frequencies to the embeddings (Vaswani et al. 2017, section 3.5)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.waves = Waves(size)

    def forward(self, embedded: Tensor, start: int = 0) -> Tensor:
        """(B, T, size) at positions start … start+T-1 → the same shape, positions added."""
        sine, cosine = self.waves(start, embedded.shape[1])
        return embedded + torch.stack([sine, cosine], dim=-1).flatten(1)


class RotaryPositions(nn.Module):
    """Turns each pair of dimensions by an angle that grows with the position (Su et al. 2021, equation 34).

    The dot product of a turned query and a turned key depends on the distance of their positions alone.
    """

    def __init__(self, head_size: int) -> None:
        super().__init__()
        self.waves = Waves(head_size)

    def forward(self, x: Tensor, start: int = 0) -> Tensor:
        """Queries or keys (…, T, d) at positions start … start+T-1 → the same shape, turned."""
        sine, cosine = self.waves(start, x.shape[-2])
        even, odd = x[..., 0::2], x[..., 1::2]
        turned = torch.stack([even * cosine - odd * sine, even * sine + odd * cosine], dim=-1)
        return turned.flatten(-2).to(x.dtype)  # under autocast the waves are more precise than the queries


class AlibiPositions(nn.Module):
    """Subtracts from each score a multiple, one for each head, of the distance (Press et al. 2022, section 3).

    The paper treats causal attention; where both sides are seen, the distance counts in both directions.
    """

    slopes: Tensor

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.register_buffer("slopes", torch.tensor(alibi_slopes(num_heads)), persistent=False)

    def forward(self, queries: int, keys: int) -> Tensor:
        """What is added to the scores, (h, T, S), of the last `queries` of `keys` positions."""
        positions = torch.arange(keys, device=self.slopes.device)
        distance = (positions[keys - queries :, None] - positions).abs()  # (T, S)
        return -self.slopes[:, None, None] * distance


def alibi_slopes(num_heads: int) -> list[float]:
    """2^(-8/h), 2^(-16/h), …, 2^(-8) for a power of two of heads h.

    For other numbers those of the next smaller power of two, then every other one of the next larger (as the authors'
    published code does).
    """
    power = 2 ** int(math.log2(num_heads))
    slopes = [2.0 ** (-8 * i / power) for i in range(1, power + 1)]
    between = [2.0 ** (-4 * i / power) for i in range(1, 2 * power + 1, 2)]
    return slopes + between[: num_heads - power]


class Waves(nn.Module):
    """Sines and cosines of position / BASE^(2i / size); the table grows as it is asked for more positions."""

    table: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("table", torch.empty(2, 0, size // 2), persistent=False)

    def forward(self, start: int, length: int) -> tuple[Tensor, Tensor]:
        """Sines and cosines of positions start … start+length-1, each (length, size / 2)."""
        end = start + length
        if end > self.table.shape[1]:
            with torch.inference_mode(False):  # so that training can use it too; torch.compile takes no keyword here
                self.table = self._waves(max(end, 2 * self.table.shape[1]))
        sine, cosine = self.table[:, start:end]
        return sine, cosine

    def _waves(self, length: int) -> Tensor:
        position = torch.arange(length, dtype=torch.float64)[:, None]
        frequency = torch.exp(torch.arange(0, self.size, 2, dtype=torch.float64) * (-math.log(BASE) / self.size))
        return torch.stack([(position * frequency).sin(), (position * frequency).cos()]).to(self.table)


def positional_encoding(config: TransformerHalf, dimensions: Dimensions) -> nn.Module | None:
    """What the settings name; None without positions."""
    assert config.hidden_size is not None
    match config.positions:
        case "learned":
            return LearnedPositions(dimensions.max_length, config.hidden_size)
        case "sinusoidal":
            return SinusoidalPositions(config.hidden_size)
        case "rotary":
            return RotaryPositions(config.hidden_size // config.num_heads)
        case "alibi":
            return AlibiPositions(config.num_heads)
        case "none":
            return None
