"""The settings of a model: what a grid may state about it. Frozen, and refused when impossible.

Settings belong to a half (encoder or decoder) of a family (LSTM or Transformer), or to all; a model's settings are
those of its two halves. A width of None is one that `models.matching` solves for a budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

MOST_LAYERS = 1000  # beyond, a model takes minutes to be counted, and is a mistake


class ModelError(ValueError):
    """A model that cannot be made, for this task or this budget; the message says why."""


class BudgetError(ModelError):
    """A budget that no widths of a model meet."""


# --- the halves ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class CommonConfig:
    """What both families have, with the same meaning.

    Attributes:
        layers: of the encoder and of the decoder, each.
        dropout: on embeddings and on the output of each (sub)layer.
        norm: layer normalisation (Ba et al. 2016) "pre", of what a (sub)layer reads, and once more at the top (Xiong et
            al. 2020); "post", of what leaves it (Vaswani et al. 2017, section 3.1); or "none".
        residual: what a (sub)layer reads is added to its output (He et al. 2016). In an LSTM, `norm` and `residual`
            apply to the layers above the first: that one turns embeddings into states, which are of another size.
        share_layers: all layers have the same weights (Dehghani et al. 2019, section 2.1); in an LSTM, all above the
            first.
        share_embeddings: "output": the output layer has the weights of the target embedding (Press & Wolf 2017);
            "all": the source embedding has them too, where both sides have the same symbols (Vaswani et al. 2017,
            section 3.4); or "none".
        hidden_size: of the states of encoder and decoder; "d_model".
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    layers: int = 1
    dropout: float = 0.0
    norm: Literal["pre", "post", "none"] = "pre"
    residual: bool = True
    share_layers: bool = False
    share_embeddings: Literal["none", "output", "all"] = "none"
    hidden_size: int | None = None

    def __post_init__(self) -> None:
        _at_least_one("layers", self.layers)
        if self.layers > MOST_LAYERS:
            raise ValueError(f"layers must be at most {MOST_LAYERS}, not {self.layers}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must be in [0, 1), not {self.dropout}")
        _width("hidden_size", self.hidden_size, self.hidden_multiple)

    @property
    def hidden_multiple(self) -> int:
        """What the hidden size must be a multiple of."""
        return 1


@dataclass(frozen=True, kw_only=True)
class LSTMHalf(CommonConfig):
    """What LSTM encoders and LSTM decoders have.

    Attributes:
        embedding_size: of the embeddings that the first layer reads.
    """

    embedding_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _width("embedding_size", self.embedding_size, 1)
        _both_or_none("hidden_size", self.hidden_size, "embedding_size", self.embedding_size)


@dataclass(frozen=True, kw_only=True)
class LSTMEncoderConfig(LSTMHalf):
    """What LSTM encoders have.

    Attributes:
        bidirectional: the source is read both ways (Schuster & Paliwal 1997), each with half the hidden size.
    """

    bidirectional: bool = True

    @property
    def hidden_multiple(self) -> int:
        """Two halves, where the source is read both ways."""
        return math.lcm(super().hidden_multiple, 2 if self.bidirectional else 1)


@dataclass(frozen=True, kw_only=True)
class LSTMDecoderConfig(LSTMHalf):
    """What LSTM decoders have.

    Attributes:
        attention: "none": the source passes through the initial state alone (Sutskever et al. 2014). Else how well a
            decoder state fits a source state is scored: "additive" (Bahdanau et al. 2015, appendix A.1.2), "dot" or
            "general" (Luong et al. 2015, section 3.1), or "multi_head" (Vaswani et al. 2017, section 3.2.2).
        num_heads: of multi-head attention; divides the hidden size.
        input_feeding: what attention made of one target position is fed to the first layer at the next (Luong et al.
            2015, section 3.3), so that training too goes position by position.
    """

    attention: Literal["none", "additive", "dot", "general", "multi_head"] = "none"
    num_heads: int | None = None
    input_feeding: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention == "multi_head" and self.num_heads is None:
            raise ValueError("attention multi_head needs num_heads")
        if self.attention == "none" and self.input_feeding:
            raise ValueError("input_feeding feeds what attention made, so attention must not be none")

    @property
    def hidden_multiple(self) -> int:
        """As many parts as heads."""
        _at_least_one("num_heads", self.num_heads)
        return math.lcm(super().hidden_multiple, self.num_heads or 1)


@dataclass(frozen=True, kw_only=True)
class TransformerHalf(CommonConfig):
    """What Transformer encoders and Transformer decoders have.

    Attributes:
        num_heads: of every attention; divides the hidden size.
        positions: "learned" (a vector for each position, up to the longest that the task has; Gehring et al. 2017,
            section 3.1); for any length "sinusoidal" (Vaswani et al. 2017, section 3.5), "rotary" (Su et al. 2021,
            section 3.2) or "alibi" (Press et al. 2022, section 3); or "none".
        feedforward: what the feed-forward networks have between their matrices: "relu" (Vaswani et al. 2017, section
            3.3), "gelu" (Hendrycks & Gimpel 2016), "swiglu" (Shazeer 2020, equation 6) or nothing, "linear".
        feedforward_size: the inner width of the feed-forward networks, "d_ff".
    """

    layers: int = 2
    num_heads: int = 4
    positions: Literal["learned", "sinusoidal", "rotary", "alibi", "none"] = "learned"
    feedforward: Literal["relu", "gelu", "swiglu", "linear"] = "relu"
    feedforward_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        _width("feedforward_size", self.feedforward_size, 1)
        _both_or_none("hidden_size", self.hidden_size, "feedforward_size", self.feedforward_size)

    @property
    def hidden_multiple(self) -> int:
        """As many parts as heads; sinusoids come in pairs of dimensions, rotations in pairs of dimensions of a head."""
        _at_least_one("num_heads", self.num_heads)
        pairs = {"sinusoidal": 2, "rotary": 2 * self.num_heads}.get(self.positions, 1)
        return math.lcm(super().hidden_multiple, self.num_heads, pairs)


@dataclass(frozen=True, kw_only=True)
class TransformerEncoderConfig(TransformerHalf):
    """What Transformer encoders have: nothing that the decoders do not."""


@dataclass(frozen=True, kw_only=True)
class TransformerDecoderConfig(TransformerHalf):
    """What Transformer decoders have.

    Attributes:
        cross_attention: encoder-decoder attention (Vaswani et al. 2017, section 3.2.3). Without it the source passes
            through one vector, the mean of its states, which is added to every target embedding.
    """

    cross_attention: bool = True


# --- the models: an encoder and a decoder. Of two defaults that of the base class that comes first holds. -------------


@dataclass(frozen=True, kw_only=True)
class LSTMConfig(LSTMEncoderConfig, LSTMDecoderConfig):
    """LSTM encoder and decoder, with or without attention."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.attention != "multi_head" and self.num_heads is not None:
            raise ValueError("num_heads belongs to attention multi_head")


@dataclass(frozen=True, kw_only=True)
class TransformerConfig(TransformerEncoderConfig, TransformerDecoderConfig):
    """Transformer encoder and decoder (Vaswani et al. 2017)."""


@dataclass(frozen=True, kw_only=True)
class LSTMTransformerConfig(TransformerDecoderConfig, LSTMEncoderConfig):
    """LSTM encoder, Transformer decoder."""


@dataclass(frozen=True, kw_only=True)
class TransformerLSTMConfig(TransformerEncoderConfig, LSTMDecoderConfig):
    """Transformer encoder, LSTM decoder; its state starts from the mean of the source states."""


ModelConfig = LSTMConfig | TransformerConfig | LSTMTransformerConfig | TransformerLSTMConfig


# --- what is asked of a model ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Dimensions:
    """What a task asks of a model: the sizes that no budget decides.

    Attributes:
        source_vocabulary, target_vocabulary: number of symbols of each side, special ones included.
        same_symbols: both sides have the same symbols, with the same ids, so that they may share embeddings.
        max_length: positions of the longest source or target; the rows of a learned table of positions.
    """

    source_vocabulary: int
    target_vocabulary: int
    same_symbols: bool
    max_length: int


@dataclass(frozen=True)
class Budget:
    """What all models of a comparison are matched to: one of three quantities.

    Attributes:
        parameters: all trained weights.
        training_flops_per_token: operations of forward and backward pass for a source and a target of `length`, divided
            by the tokens of both (`models.cost.training_flops`).
        state_bytes: of decoding state for one sequence, in float32, after a source and a target of `length`
            (`models.cost.state_bytes`).
        length: at which the last two are counted; stated with them only.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    parameters: int | None = None
    training_flops_per_token: int | None = None
    state_bytes: int | None = None
    length: int | None = None

    def __post_init__(self) -> None:
        stated = [name for name in BUDGETS if getattr(self, name) is not None]
        if len(stated) != 1:
            raise ValueError(f"state one of {', '.join(BUDGETS)}")
        if (self.length is None) != (self.parameters is not None):
            raise ValueError("length belongs to training_flops_per_token and state_bytes, which need it")
        for name in (*stated, "length"):
            _at_least_one(name, getattr(self, name))

    @property
    def quantity(self) -> str:
        """Which of `BUDGETS` is stated."""
        return next(name for name in BUDGETS if getattr(self, name) is not None)

    @property
    def amount(self) -> int:
        """How much of it."""
        return int(getattr(self, self.quantity))

    @property
    def words(self) -> str:
        """What is counted, for people: ``"training FLOPs per token at length 64"``."""
        return BUDGETS[self.quantity] + (f" at length {self.length}" if self.length else "")


BUDGETS = {
    "parameters": "parameters",
    "training_flops_per_token": "training FLOPs per token",
    "state_bytes": "bytes of decoding state",
}


def _at_least_one(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


def _width(name: str, value: int | None, multiple: int) -> None:
    if value is not None and (value < 1 or value % multiple):
        raise ValueError(f"{name} must be a positive multiple of {multiple}, not {value}")


def _both_or_none(name: str, value: int | None, other_name: str, other: int | None) -> None:
    if (value is None) != (other is None):
        raise ValueError(f"{name} and {other_name} are stated together or not at all (then a budget decides both)")
