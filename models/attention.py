"""Attention: for each query, a weighted sum of values, the weights from how well the query fits each key.

Shapes: B sequences, T queries, S keys, H hidden size, h heads, d = H / h. Masks are boolean, True = may attend.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class MultiHeadAttention(nn.Module):
    """What self-attention and encoder-decoder attention share (Vaswani et al. 2017, section 3.2.2)."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.output = nn.Linear(hidden_size, hidden_size)

    def split(self, x: Tensor, parts: int) -> tuple[Tensor, ...]:
        """(B, T, parts·H) → `parts` tensors of (B, h, T, d)."""
        batch, length, _ = x.shape
        return x.view(batch, length, parts, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)

    def merge(self, x: Tensor) -> Tensor:
        """(B, h, T, d) → (B, T, H), through the output projection."""
        return self.output(x.transpose(1, 2).flatten(2))


class SelfAttention(MultiHeadAttention):
    """Every position attends to the positions of its own sequence; queries, keys and values in one projection."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__(hidden_size, num_heads)
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)

    def forward(self, x: Tensor, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """(B, T, H) → (B, T, H). `mask` is (B, 1, 1, T); `causal` lets position t see positions 0…t only."""
        query, key, value = self.split(self.query_key_value(x), 3)
        return self.merge(F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=causal))

    def step(self, x: Tensor, keys: Tensor, values: Tensor, position: int) -> Tensor:
        """One position, (B, 1, H) → (B, 1, H), causal; writes `keys` and `values`, (B, h, max_length, d), in place."""
        query, key, value = self.split(self.query_key_value(x), 3)
        keys[:, :, position : position + 1] = key
        values[:, :, position : position + 1] = value
        seen = slice(position + 1)
        return self.merge(F.scaled_dot_product_attention(query, keys[:, :, seen], values[:, :, seen]))


class CrossAttention(MultiHeadAttention):
    """Every target position attends to the whole source: encoder-decoder attention (section 3.2.3)."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__(hidden_size, num_heads)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)

    def project(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each (B, h, S, d), of the encoder's states (B, S, H): the same for every step."""
        key, value = self.split(self.key_value(memory), 2)
        return key, value

    def forward(self, x: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, H) → (B, T, H), given what `project` made; `mask` is (B, 1, 1, S)."""
        (query,) = self.split(self.query(x), 1)
        return self.merge(F.scaled_dot_product_attention(query, key, value, attn_mask=mask))


class LuongAttention(nn.Module):
    """Global attention with the "general" score of a decoder state h against a source state s: h·W s.

    Luong et al. 2015, section 3.1: the context is the weighted sum of the source states, and the attentional state
    tanh(W_c [context; h]) goes on to the output layer.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.combine = nn.Linear(2 * hidden_size, hidden_size, bias=False)

    def project(self, memory: Tensor) -> Tensor:
        """Keys W s, (B, S, H), of the encoder's states (B, S, H): the same for every step."""
        return self.key(memory)

    def forward(self, x: Tensor, key: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """Decoder states (B, T, H) → attentional states (B, T, H); `mask` is (B, 1, S)."""
        context = F.scaled_dot_product_attention(x, key, memory, attn_mask=mask, scale=1.0)
        return torch.tanh(self.combine(torch.cat([context, x], dim=-1)))
