"""The settings of a model: what a grid may state about it. Frozen, and refused when impossible.

A width of None is one that `models.matching` solves for a budget.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True)
class LSTMConfig:
    """LSTM encoder and decoder, with or without attention.

    Attributes:
        layers: of the encoder and of the decoder, each.
        bidirectional: the encoder reads both ways, each with half the hidden size.
        attention: "none" (the source passes through the state alone; Sutskever et al. 2014) or "general" (Luong et al.
            2015, section 3.1).
        dropout: on embeddings, between layers and before the output.
        hidden_size: of encoder and decoder; even where bidirectional.
        embedding_size: of the source and of the target embeddings.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    layers: int = 1
    bidirectional: bool = True
    attention: Literal["none", "general"] = "none"
    dropout: float = 0.0
    hidden_size: int | None = None
    embedding_size: int | None = None

    def __post_init__(self) -> None:
        _at_least("layers", self.layers, 1)
        _probability("dropout", self.dropout)
        _width("hidden_size", self.hidden_size, 2 if self.bidirectional else 1)
        _width("embedding_size", self.embedding_size, 1)
        _both_or_none("hidden_size", self.hidden_size, "embedding_size", self.embedding_size)


@dataclass(frozen=True)
class TransformerConfig:
    """Transformer encoder and decoder (Vaswani et al. 2017), normalised before each sublayer (Xiong et al. 2020).

    Attributes:
        layers: of the encoder and of the decoder, each.
        num_heads: of every attention; divides the hidden size.
        dropout: on embeddings and on the output of each sublayer.
        positions: "learned" (a vector for each position, up to the longest that the task has; Gehring et al. 2017,
            section 3.1) or "sinusoidal" (computed, for any length; section 3.5).
        hidden_size: "d_model" of the paper; even where positions are sinusoidal.
        feedforward_size: the inner width of the feed-forward networks, "d_ff".
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    layers: int = 2
    num_heads: int = 4
    dropout: float = 0.0
    positions: Literal["learned", "sinusoidal"] = "learned"
    hidden_size: int | None = None
    feedforward_size: int | None = None

    def __post_init__(self) -> None:
        _at_least("layers", self.layers, 1)
        _at_least("num_heads", self.num_heads, 1)
        _probability("dropout", self.dropout)
        _width("hidden_size", self.hidden_size, self.num_heads)
        if self.positions == "sinusoidal":
            _width("hidden_size", self.hidden_size, 2)
        _width("feedforward_size", self.feedforward_size, 1)
        _both_or_none("hidden_size", self.hidden_size, "feedforward_size", self.feedforward_size)


ModelConfig = LSTMConfig | TransformerConfig


@dataclass(frozen=True)
class Dimensions:
    """What a task asks of a model: the sizes that no budget decides.

    Attributes:
        source_vocabulary, target_vocabulary: number of symbols of each side, special ones included.
        max_length: positions of the longest source or target; the rows of a learned table of positions.
    """

    source_vocabulary: int
    target_vocabulary: int
    max_length: int


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be at least {least}, not {value}")


def _probability(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name} must be in [0, 1), not {value}")


def _width(name: str, value: int | None, multiple: int) -> None:
    if value is not None and (value < 1 or value % multiple):
        raise ValueError(f"{name} must be a positive multiple of {multiple}, not {value}")


def _both_or_none(name: str, value: int | None, other_name: str, other: int | None) -> None:
    if (value is None) != (other is None):
        raise ValueError(f"{name} and {other_name} are stated together or not at all (then a budget decides both)")
