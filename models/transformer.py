"""The Transformer family: encoder and decoder of stacked attention (Vaswani et al. 2017).

Shapes: B sequences, S source and T target positions, H hidden size, h heads, d = H / h, V vocabulary.
The twin of this file is models/lstm.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import CrossAttention, SelfAttention
from models.config import Dimensions, TransformerDecoderConfig, TransformerEncoderConfig, TransformerHalf
from models.embeddings import TokenEmbedding
from models.interface import PAD, Decoder, Encoder, Memory
from models.layers import Sublayer, dropout, initialise, stack, top_norm
from models.positions import LearnedPositions, SinusoidalPositions, positional_encoding


class FeedForward(nn.Module):
    """The position-wise network f(xW₁ + b₁)W₂ + b₂ (section 3.3), f as the settings say.

    "swiglu" is (swish(xW₁ + b₁) ⊙ (xV + c))W₂ + b₂ (Shazeer 2020, equation 6, with biases).
    """

    def __init__(self, config: TransformerHalf) -> None:
        super().__init__()
        assert config.hidden_size is not None
        assert config.feedforward_size is not None
        self.kind = config.feedforward
        self.inner = nn.Linear(config.hidden_size, config.feedforward_size)
        self.gate = nn.Linear(config.hidden_size, config.feedforward_size) if self.kind == "swiglu" else None
        self.outer = nn.Linear(config.feedforward_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, H) → (B, T, H)."""
        flat = x.flatten(0, 1)  # what is made of more dimensions is a view, which autograd copies to change it in place
        inner = self.inner(flat)
        match self.kind:
            case "relu":
                inner = F.relu(inner, inplace=True)  # its gradient is known by what comes out
            case "gelu":
                inner = F.gelu(inner)
            case "swiglu":
                assert self.gate is not None
                inner = F.silu(inner) * self.gate(flat)
            case "linear":
                pass
        return self.outer(inner).view_as(x)


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward."""

    def __init__(self, config: TransformerHalf, positions: nn.Module | None) -> None:
        super().__init__()
        assert config.hidden_size is not None
        self.attention = SelfAttention(config.hidden_size, config.num_heads, positions)
        self.attention_sublayer = Sublayer(config)
        self.feedforward = FeedForward(config)
        self.feedforward_sublayer = Sublayer(config)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """(B, S, H) → (B, S, H); `mask` is (B, S)."""
        y = self.attention(self.attention_sublayer.read(x), mask)
        x = self.attention_sublayer.add(x, y)
        y = self.feedforward(self.feedforward_sublayer.read(x))
        return self.feedforward_sublayer.add(x, y)


class DecoderLayer(nn.Module):
    """Causal self-attention, encoder-decoder attention, feed-forward."""

    def __init__(self, config: TransformerDecoderConfig, positions: nn.Module | None) -> None:
        super().__init__()
        assert config.hidden_size is not None
        self.self_attention = SelfAttention(config.hidden_size, config.num_heads, positions)
        self.self_attention_sublayer = Sublayer(config)
        self.cross_attention = CrossAttention(config.hidden_size, config.num_heads) if config.cross_attention else None
        self.cross_attention_sublayer = Sublayer(config) if config.cross_attention else None
        self.feedforward = FeedForward(config)
        self.feedforward_sublayer = Sublayer(config)

    def project(self, memory: Tensor) -> tuple[Tensor, ...]:
        """What encoder-decoder attention looks at, of the encoder's states (B, S, H): the same for every step."""
        return () if self.cross_attention is None else self.cross_attention.project(memory)

    def forward(self, x: Tensor, source: tuple[Tensor, ...], mask: Tensor | None) -> Tensor:
        """(B, T, H) attending to what `project` made of the source → (B, T, H); `mask` is (B, S)."""
        y = self.self_attention(self.self_attention_sublayer.read(x), causal=True)
        return self._above(self.self_attention_sublayer.add(x, y), source, mask)

    def step(self, x: Tensor, cache: LayerCache, position: int, mask: Tensor | None) -> Tensor:
        """The same for one position, (B, 1, H) → (B, 1, H), with all earlier positions in `cache`."""
        y = self.self_attention.step(self.self_attention_sublayer.read(x), cache.own, position)
        return self._above(self.self_attention_sublayer.add(x, y), cache.source, mask)

    def _above(self, x: Tensor, source: tuple[Tensor, ...], mask: Tensor | None) -> Tensor:
        """What follows self-attention, (B, T, H) → (B, T, H)."""
        if self.cross_attention is not None:
            assert self.cross_attention_sublayer is not None
            y = self.cross_attention(self.cross_attention_sublayer.read(x), source, mask)
            x = self.cross_attention_sublayer.add(x, y)
        y = self.feedforward(self.feedforward_sublayer.read(x))
        return self.feedforward_sublayer.add(x, y)


class TransformerEncoder(Encoder):
    """Reads all source positions at once."""

    def __init__(self, config: TransformerEncoderConfig, dimensions: Dimensions) -> None:
        super().__init__()
        assert config.hidden_size is not None
        self.embedding = TokenEmbedding(dimensions.source_vocabulary, config.hidden_size)
        self.positions = positional_encoding(config, dimensions)
        self.dropout = config.dropout
        self.layers = stack(config.layers, lambda: EncoderLayer(config, self.positions), shared=config.share_layers)
        self.norm = top_norm(config)
        initialise(self)

    def forward(self, source: Tensor, lengths: Tensor | None) -> Memory:
        """(B, S) → states (B, S, H)."""
        mask = None if lengths is None else source != PAD  # (B, S)
        x = dropout(add_positions(self.positions, self.embedding(source)), self.dropout, self.training)  # (B, S, H)
        for layer in self.layers:
            x = layer(x, mask)
        return Memory(self.norm(x), mask, None)


@dataclass(frozen=True)
class LayerCache:
    """Keys and values of one decoder layer."""

    own: Tensor  # (2, B, h, max_length, d), of the target positions
    source: tuple[Tensor, ...]  # (B, h, S, d) twice; empty without encoder-decoder attention

    def select(self, rows: Tensor) -> LayerCache:
        """Of these rows, (N,) indices."""
        return LayerCache(self.own[:, rows], tuple(tensor[rows] for tensor in self.source))


@dataclass(frozen=True)
class TransformerState:
    """Between two steps: the number of positions decoded and the caches. `step` writes the caches in place."""

    position: int
    caches: tuple[LayerCache, ...]
    mask: Tensor | None  # (B, S)
    summary: Tensor | None  # (B, 1, H): the source in one vector, without encoder-decoder attention

    @property
    def tensors(self) -> list[Tensor]:
        """What is held for each sequence."""
        caches = [tensor for cache in self.caches for tensor in (*cache.own, *cache.source)]
        return caches if self.summary is None else [*caches, self.summary]

    def select(self, rows: Tensor) -> TransformerState:
        """See `State`."""
        return TransformerState(
            self.position,
            tuple(cache.select(rows) for cache in self.caches),
            None if self.mask is None else self.mask[rows],
            None if self.summary is None else self.summary[rows],
        )


class TransformerDecoder(Decoder):
    """Writes each target position from the earlier ones and from the source."""

    def __init__(self, config: TransformerDecoderConfig, dimensions: Dimensions) -> None:
        super().__init__()
        assert config.hidden_size is not None
        self.embedding = TokenEmbedding(dimensions.target_vocabulary, config.hidden_size)
        self.positions = positional_encoding(config, dimensions)
        self.dropout = config.dropout
        self.layers = stack(config.layers, lambda: DecoderLayer(config, self.positions), shared=config.share_layers)
        self.norm = top_norm(config)
        self.output = nn.Linear(config.hidden_size, dimensions.target_vocabulary)
        self.cross_attention = config.cross_attention
        initialise(self)
        if config.share_embeddings != "none":
            self.output.weight = self.embedding.weight

    def forward(self, target_in: Tensor, memory: Memory) -> Tensor:
        """(B, T) → logits (B, T, V)."""
        x = self._embed(target_in, 0, self._summary(memory))  # (B, T, H)
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            x = layer(x, layer.project(memory.states), memory.mask)
        return self.output(self.norm(x))

    def start(self, memory: Memory, max_length: int) -> TransformerState:
        """Caches with room for `max_length` positions; the source's keys and values are computed once."""
        caches = []
        for layer in self.layers:
            assert isinstance(layer, DecoderLayer)
            own = layer.self_attention.room(memory.states, max_length)
            source = tuple(tensor.contiguous() for tensor in layer.project(memory.states))  # every step reads all of it
            caches.append(LayerCache(own, source))
        return TransformerState(0, tuple(caches), memory.mask, self._summary(memory))

    def step(self, tokens: Tensor, state: TransformerState) -> tuple[Tensor, TransformerState]:
        """(B,) tokens → logits (B, V), attending to the cached positions."""
        x = self._embed(tokens[:, None], state.position, state.summary)  # (B, 1, H)
        for layer, cache in zip(self.layers, state.caches, strict=True):
            assert isinstance(layer, DecoderLayer)
            x = layer.step(x, cache, state.position, state.mask)
        return self.output(self.norm(x[:, 0])), replace(state, position=state.position + 1)

    def _embed(self, tokens: Tensor, start: int, summary: Tensor | None) -> Tensor:
        """(B, T) tokens at positions start … start+T-1 → (B, T, H)."""
        x = add_positions(self.positions, self.embedding(tokens), start)
        return dropout(x if summary is None else x + summary, self.dropout, self.training)

    def _summary(self, memory: Memory) -> Tensor | None:
        """The source in one vector (B, 1, H), where there is no encoder-decoder attention to look at more."""
        return None if self.cross_attention else memory.mean()[:, None]


def add_positions(positions: nn.Module | None, embedded: Tensor, start: int = 0) -> Tensor:
    """(B, T, H) at positions start … start+T-1, with what is added to embeddings; the other kinds act in attention."""
    if isinstance(positions, LearnedPositions | SinusoidalPositions):
        return positions(embedded, start)
    return embedded
