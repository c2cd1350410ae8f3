"""The Transformer family: encoder and decoder of stacked attention (Vaswani et al. 2017).

Shapes: B sequences, S source and T target positions, H hidden size, h heads, d = H / h, V vocabulary.
The twin of this file is models/lstm.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import CrossAttention, SelfAttention
from models.config import Dimensions, TransformerConfig
from models.embeddings import TokenEmbedding
from models.interface import PAD, Decoder, Encoder, Memory
from models.positions import LearnedPositions, SinusoidalPositions


class FeedForward(nn.Module):
    """The position-wise network max(0, xW₁ + b₁)W₂ + b₂ (section 3.3)."""

    def __init__(self, hidden_size: int, feedforward_size: int) -> None:
        super().__init__()
        self.inner = nn.Linear(hidden_size, feedforward_size)
        self.outer = nn.Linear(feedforward_size, hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) → (B, T, H)."""
        return self.outer(F.relu(self.inner(x)))


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward; each normalised before, dropped out and added after."""

    def __init__(self, hidden_size: int, num_heads: int, feedforward_size: int, dropout: float) -> None:
        super().__init__()
        self.attention = SelfAttention(hidden_size, num_heads)
        self.attention_norm = nn.LayerNorm(hidden_size)
        self.feedforward = FeedForward(hidden_size, feedforward_size)
        self.feedforward_norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, S, H) → (B, S, H); `mask` is (B, 1, 1, S)."""
        x = x + self.dropout(self.attention(self.attention_norm(x), mask))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))


class DecoderLayer(nn.Module):
    """Causal self-attention, encoder-decoder attention, feed-forward; each normalised before and added after."""

    def __init__(self, hidden_size: int, num_heads: int, feedforward_size: int, dropout: float) -> None:
        super().__init__()
        self.self_attention = SelfAttention(hidden_size, num_heads)
        self.self_attention_norm = nn.LayerNorm(hidden_size)
        self.cross_attention = CrossAttention(hidden_size, num_heads)
        self.cross_attention_norm = nn.LayerNorm(hidden_size)
        self.feedforward = FeedForward(hidden_size, feedforward_size)
        self.feedforward_norm = nn.LayerNorm(hidden_size)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, memory: Tensor, mask: Tensor | None) -> Tensor:
        """(B, T, H) attending to the source (B, S, H) → (B, T, H); `mask` is (B, 1, 1, S)."""
        key, value = self.cross_attention.project(memory)
        x = x + self.dropout(self.self_attention(self.self_attention_norm(x), causal=True))
        x = x + self.dropout(self.cross_attention(self.cross_attention_norm(x), key, value, mask))
        return x + self.dropout(self.feedforward(self.feedforward_norm(x)))

    def step(self, x: Tensor, cache: LayerCache, position: int, mask: Tensor | None) -> Tensor:
        """The same for one position, (B, 1, H) → (B, 1, H), with all earlier positions in `cache`."""
        x = x + self.self_attention.step(self.self_attention_norm(x), cache.keys, cache.values, position)
        x = x + self.cross_attention(self.cross_attention_norm(x), cache.source_keys, cache.source_values, mask)
        return x + self.feedforward(self.feedforward_norm(x))


class TransformerEncoder(Encoder):
    """Reads all source positions at once."""

    def __init__(self, config: TransformerConfig, dimensions: Dimensions) -> None:
        super().__init__()
        assert config.hidden_size is not None
        assert config.feedforward_size is not None
        self.embedding = TokenEmbedding(dimensions.source_vocabulary, config.hidden_size)
        self.positions = positions(config, dimensions)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            EncoderLayer(config.hidden_size, config.num_heads, config.feedforward_size, config.dropout)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size)
        initialise(self)

    def forward(self, source: Tensor, lengths: Tensor | None) -> Memory:
        """(B, S) → states (B, S, H)."""
        mask = None if lengths is None else source != PAD  # (B, S)
        x = self.dropout(self.positions(self.embedding(source)))  # (B, S, H)
        for layer in self.layers:
            x = layer(x, _head_mask(mask))
        return Memory(self.norm(x), mask, None)


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one decoder layer: own positions (B, h, max_length, d), source positions (B, h, S, d)."""

    keys: Tensor
    values: Tensor
    source_keys: Tensor
    source_values: Tensor


@dataclass(frozen=True)
class TransformerState:
    """Between two steps: the number of positions decoded and the caches. `step` writes the caches in place."""

    position: int
    caches: tuple[LayerCache, ...]
    mask: Tensor | None  # (B, 1, 1, S)

    @property
    def tensors(self) -> list[Tensor]:
        """What is held for each sequence."""
        return [t for c in self.caches for t in (c.keys, c.values, c.source_keys, c.source_values)]


class TransformerDecoder(Decoder):
    """Writes each target position from the earlier ones and from the source."""

    def __init__(self, config: TransformerConfig, dimensions: Dimensions) -> None:
        super().__init__()
        assert config.hidden_size is not None
        assert config.feedforward_size is not None
        self.embedding = TokenEmbedding(dimensions.target_vocabulary, config.hidden_size)
        self.positions = positions(config, dimensions)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(
            DecoderLayer(config.hidden_size, config.num_heads, config.feedforward_size, config.dropout)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.hidden_size)
        self.output = nn.Linear(config.hidden_size, dimensions.target_vocabulary)
        initialise(self)

    def forward(self, target_in: Tensor, memory: Memory) -> Tensor:
        """(B, T) → logits (B, T, V)."""
        x = self.dropout(self.positions(self.embedding(target_in)))  # (B, T, H)
        for layer in self.layers:
            x = layer(x, memory.states, _head_mask(memory.mask))
        return self.output(self.norm(x))

    def start(self, memory: Memory, max_length: int) -> TransformerState:
        """Caches with room for `max_length` positions; the source's keys and values are computed once."""
        caches = []
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            source_keys, source_values = layer.cross_attention.project(memory.states)
            batch, heads, _, size = source_keys.shape
            keys, values = (source_keys.new_empty(batch, heads, max_length, size) for _ in range(2))
            caches.append(LayerCache(keys, values, source_keys, source_values))
        return TransformerState(0, tuple(caches), _head_mask(memory.mask))

    def step(self, tokens: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """(B,) tokens → logits (B, V), attending to the cached positions."""
        x = self.positions(self.embedding(tokens[:, None]), state.position)  # (B, 1, H)
        for layer, cache in zip(self.layers, state.caches, strict=True):
            assert isinstance(layer, DecoderLayer)
            x = layer.step(x, cache, state.position, state.mask)
        return self.output(self.norm(x[:, 0])), TransformerState(state.position + 1, state.caches, state.mask)


def positions(config: TransformerConfig, dimensions: Dimensions) -> LearnedPositions | SinusoidalPositions:
    """The positional encoding that the settings name."""
    assert config.hidden_size is not None
    if config.positions == "learned":
        return LearnedPositions(dimensions.max_length, config.hidden_size)
    return SinusoidalPositions(config.hidden_size)


def initialise(module: nn.Module) -> None:
    """Glorot-uniform weights and zero biases for every linear layer (Glorot & Bengio 2010)."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


def _head_mask(mask: Tensor | None) -> Tensor | None:
    """(B, S) → (B, 1, 1, S): the same for all heads and target positions."""
    return None if mask is None else mask[:, None, None, :]
