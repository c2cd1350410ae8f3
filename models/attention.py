"""Attention: for each query, a weighted sum of values, the weights from how well the query fits each key.

Shapes: B sequences, T queries, S keys, H hidden size, h heads, d = H / h. Masks are (B, S) boolean, True = may attend.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import autocasts
from models.positions import AlibiPositions, RotaryPositions

KERNEL_SIZE = 8  # kernels on a GPU read so many numbers of 16 bits at once


def dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention, to be read (Vaswani et al. 2017, equation 1); the kernels fuse these three lines.

    Args:
        query, key, value: (…, T, d), (…, S, d), (…, S, d').
        bias: added to the scores, of a shape that broadcasts to (…, T, S); -inf where a query may not attend.
        scale: of the scores; 1 / √d in the paper.

    Returns:
        The weighted sums (…, T, d') and the weights (…, T, S).
    """
    scores = query @ key.transpose(-2, -1) * scale + bias
    weights = scores.softmax(dim=-1)
    return weights @ value, weights


def fused(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, scale: float, causal: bool = False
) -> Tensor:
    """`dot_product_attention` by torch's kernels.

    On a GPU those that take a bias want sizes that 8 divides, and otherwise all weights (T, S) are stored: there zeros
    are added, which change neither products nor sums. A single query has few weights: not worth a copy of the keys.
    """
    size = query.shape[-1]
    if query.is_cuda and query.shape[-2] > 1 and size % KERNEL_SIZE:
        query, key, value = (filled_up(part) for part in (query, key, value))
    context = F.scaled_dot_product_attention(query, key, value, bias, is_causal=causal, scale=scale)
    return context if context.shape[-1] == size else context.narrow(-1, 0, size)


def filled_up(x: Tensor) -> Tensor:
    """(…, d) → (…, d'): zeros added up to the next size that `KERNEL_SIZE` divides."""
    return F.pad(x, (0, -x.shape[-1] % KERNEL_SIZE))


class Attention(nn.Module):
    """What all kinds of attention have: weights, which can be kept to be looked at (`keep_weights`)."""

    kept: list[Tensor] | None = None

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, *, scale: float, causal: bool = False
    ) -> Tensor:
        """`dot_product_attention` by a fused kernel; by the readable lines where the weights are to be kept.

        `bias` may also be boolean, True = may attend. `causal` lets query t see keys 0…t only, and excludes a bias.
        """
        if self.kept is None:
            return fused(query, key, value, bias, scale=scale, causal=causal)
        if causal:
            bias = seen_before(query.shape[-2], query.device)
        if bias is None:
            added = query.new_zeros(1)
        elif bias.dtype == torch.bool:
            added = torch.zeros_like(bias, dtype=query.dtype).masked_fill(~bias, -math.inf)
        else:
            added = bias
        context, weights = dot_product_attention(query, key, value, added, scale)
        self.kept.append(weights)
        return context


@contextmanager
def keep_weights(model: nn.Module) -> Iterator[dict[str, list[Tensor]]]:
    """Keeps the weights of every attention in `model` that is called in this context, by the module's name.

    A list has an entry a call, (B, h, T, S); what has no heads has one. A pass over all positions calls each once,
    layers that share their weights once a layer, attention with input feeding once a position.
    """
    attentions = {name: module for name, module in model.named_modules() if isinstance(module, Attention)}
    for attention in attentions.values():
        attention.kept = []
    try:
        yield {name: attention.kept for name, attention in attentions.items() if attention.kept is not None}
    finally:
        for attention in attentions.values():
            attention.kept = None


# --- with heads (Vaswani et al. 2017, section 3.2.2) -----------------------------------------------------------------


class MultiHeadAttention(Attention):
    """What self-attention and encoder-decoder attention share: heads side by side, each with its own projections."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_size = hidden_size // num_heads
        self.scale = self.head_size**-0.5
        self.output = nn.Linear(hidden_size, hidden_size)

    def split(self, x: Tensor) -> Tensor:
        """(B, T, H) → (B, h, T, d)."""
        return x.view(*x.shape[:2], self.num_heads, self.head_size).transpose(1, 2)

    def parts(self, layer: nn.Linear, x: Tensor, count: int) -> list[Tensor]:
        """What `layer` makes of x (B, T, H): `count` parts of its outputs, each (B, h, T, d).

        Each part is computed by itself, so that its gradient need not be copied into one with the others'. Under
        autocast they are computed together: it casts weights once, and parts of weights anew at every call.
        """
        if autocasts(x.device):
            return [self.split(part) for part in layer(x).chunk(count, dim=-1)]
        return [
            self.split(F.linear(x, weight, bias))
            for weight, bias in zip(layer.weight.chunk(count), layer.bias.chunk(count), strict=True)
        ]

    def merge(self, x: Tensor) -> Tensor:
        """(B, h, T, d) → (B, T, H), through the output projection."""
        return self.output(x.transpose(1, 2).flatten(2))


class SelfAttention(MultiHeadAttention):
    """Every position attends to the positions of its own sequence; queries, keys and values in one projection.

    Positions that are not added to the embeddings come in here: `rotary` turns queries and keys, `alibi` adds to the
    scores.
    """

    def __init__(self, hidden_size: int, num_heads: int, positions: nn.Module | None = None) -> None:
        super().__init__(hidden_size, num_heads)
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.rotary = positions if isinstance(positions, RotaryPositions) else None
        self.alibi = positions if isinstance(positions, AlibiPositions) else None

    def forward(self, x: Tensor, mask: Tensor | None = None, *, causal: bool = False) -> Tensor:
        """(B, T, H) → (B, T, H). `mask` is (B, T); `causal` (then there is no mask) lets position t see 0…t only."""
        query, key, value = self.parts(self.query_key_value, x, 3)
        if self.rotary is not None:
            query, key = self.rotary(query), self.rotary(key)
        bias = head_mask(mask)
        if self.alibi is not None:
            length = x.shape[1]
            allowed = seen_before(length, x.device)[None, None] if causal else bias
            bias, causal = self.alibi(length, length).to(query.dtype)[None], False  # (1, h, T, T)
            if allowed is not None:
                bias = bias.masked_fill(~allowed, -math.inf)
        return self.merge(self.attend(query, key, value, bias, scale=self.scale, causal=causal))

    def room(self, like: Tensor, max_length: int) -> Tensor:
        """Space for the keys and values of `step`, (2, B, h, max_length, d), for as many rows as `like` (B, ·, H)."""
        nothing = self.query_key_value(like[:, :0])  # has the type that keys will have, under autocast too
        return nothing.new_empty(2, len(like), self.num_heads, max_length, self.head_size)

    def step(self, x: Tensor, cache: Tensor, position: int) -> Tensor:
        """One position, (B, 1, H) → (B, 1, H), causal; writes keys and values into `cache`, which `room` made."""
        projected = self.query_key_value(x).view(len(x), 3, self.num_heads, 1, self.head_size).transpose(0, 1)
        if self.rotary is not None:
            projected = torch.cat([self.rotary(projected[:2], position), projected[2:]])
        cache.narrow(3, position, 1).copy_(projected[1:])
        keys, values = cache.narrow(3, 0, position + 1)  # (B, h, t, d) each
        bias = None if self.alibi is None else self.alibi(1, position + 1).to(x.dtype)[None]  # (1, h, 1, t)
        return self.merge(self.attend(projected[0], keys, values, bias, scale=self.scale))


# --- to the source ---------------------------------------------------------------------------------------------------


class SourceAttention(Attention):
    """What a decoder's attentions to the source have in common.

    The source is projected once (`project`), however many target positions look at it afterwards.
    """

    @abstractmethod
    def project(self, memory: Tensor) -> tuple[Tensor, ...]:
        """Keys and values of the encoder's states (B, S, H); a single tensor where both are the same."""

    @abstractmethod
    def forward(self, x: Tensor, projected: tuple[Tensor, ...], mask: Tensor | None) -> Tensor:
        """Contexts (B, T, H) of the decoder's states (B, T, H), given what `project` made; `mask` is (B, S)."""


class CrossAttention(MultiHeadAttention, SourceAttention):
    """Every target position attends to the whole source: encoder-decoder attention (Vaswani et al. 2017, 3.2.3)."""

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        super().__init__(hidden_size, num_heads)
        self.query = nn.Linear(hidden_size, hidden_size)
        self.key_value = nn.Linear(hidden_size, 2 * hidden_size)

    def project(self, memory: Tensor) -> tuple[Tensor, ...]:
        """(B, S, H) → keys and values, each (B, h, S, d)."""
        key, value = self.parts(self.key_value, memory, 2)
        return key, value

    def forward(self, x: Tensor, projected: tuple[Tensor, ...], mask: Tensor | None) -> Tensor:
        """(B, T, H) → (B, T, H)."""
        key, value = projected
        return self.merge(self.attend(self.split(self.query(x)), key, value, head_mask(mask), scale=self.scale))


def for_products(x: Tensor) -> Tensor:
    """x in the type of matrix products, which under autocast is another: cast once, not anew at every position."""
    return x.to(torch.get_autocast_dtype(x.device.type)) if autocasts(x.device) else x


class LuongAttention(SourceAttention):
    """Scores of a decoder state h and a source state s: "dot" h·s, or "general" h·W s (Luong et al. 2015, 3.1)."""

    def __init__(self, hidden_size: int, *, general: bool) -> None:
        super().__init__()
        self.key = nn.Linear(hidden_size, hidden_size, bias=False) if general else None

    def project(self, memory: Tensor) -> tuple[Tensor, ...]:
        """(B, S, H) → keys W s and values s, each (B, S, H); s alone for "dot"."""
        values = for_products(memory)
        return (values,) if self.key is None else (self.key(memory), values)

    def forward(self, x: Tensor, projected: tuple[Tensor, ...], mask: Tensor | None) -> Tensor:
        """(B, T, H) → (B, T, H)."""
        query, key, value = x[:, None], projected[0][:, None], projected[-1][:, None]  # the kernels are made for heads
        return self.attend(query, key, value, head_mask(mask), scale=1.0)[:, 0]


class AdditiveAttention(SourceAttention):
    """Scores v·tanh(W h + U s) of a decoder state h and a source state s (Bahdanau et al. 2015, appendix A.1.2).

    There h is the state before the target position, here it is the state at it, as in Luong et al. 2015; what goes
    before it comes in by input feeding. Memory grows with T·S·H: every pair of positions has its own tanh.
    """

    def __init__(self, hidden_size: int) -> None:
        super().__init__()
        self.query = nn.Linear(hidden_size, hidden_size, bias=False)
        self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        self.score = nn.Linear(hidden_size, 1, bias=False)

    def project(self, memory: Tensor) -> tuple[Tensor, ...]:
        """(B, S, H) → keys U s and values s, each (B, S, H)."""
        return self.key(memory), for_products(memory)

    def forward(self, x: Tensor, projected: tuple[Tensor, ...], mask: Tensor | None) -> Tensor:
        """(B, T, H) → (B, T, H)."""
        key, value = projected
        fit = torch.tanh(self.query(x)[:, :, None] + key[:, None])  # (B, T, S, H)
        scores = self.score(fit)[..., 0]  # (B, T, S)
        if mask is not None:
            scores = scores.masked_fill(~mask[:, None], -math.inf)
        weights = scores.softmax(dim=-1)
        if self.kept is not None:
            self.kept.append(weights[:, None])
        return weights @ value


# --- masks -----------------------------------------------------------------------------------------------------------


def seen_before(length: int, device: torch.device) -> Tensor:
    """(T, T) boolean: position t sees positions 0…t."""
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def head_mask(mask: Tensor | None) -> Tensor | None:
    """(B, S) → (B, 1, 1, S): the same for all heads and queries."""
    return None if mask is None else mask[:, None, None, :]
