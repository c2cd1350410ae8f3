"""What a model costs: parameters in parts, floating-point operations by phase, bytes of decoding state.

A multiplication and an addition count as two operations; only matrix products are counted, as torch's own counter does.
Causal attention is counted in full, as the kernels' nominal work is, and what a fused kernel computes a second time in
the backward pass is not counted. All is for one sequence.
Letters: S source and T target positions, E embedding size, H hidden size, F feed-forward size, V target vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from models.config import (
    Dimensions,
    LSTMDecoderConfig,
    LSTMEncoderConfig,
    ModelConfig,
    ModelError,
    TransformerConfig,
    TransformerHalf,
)
from models.interface import EncoderDecoder
from models.registry import build

TRAINING_FACTOR = 3  # the backward pass computes a gradient for both factors of every product of the forward pass
PARTS = ("embedding", "encoder", "attention", "decoder", "output")
_PART_OF = {"embedding": "embedding", "positions": "embedding", "output": "output", "projection": "output"}

# --- parameters ------------------------------------------------------------------------------------------------------


class _Undrawn(TorchFunctionMode):
    """Leaves first weights undrawn: where they have no memory, drawing them changes nothing, and takes seconds."""

    def __torch_function__(
        self, function: Any, types: Any, arguments: tuple[Any, ...] = (), keywords: dict[str, Any] | None = None
    ) -> Any:
        keywords = keywords or {}
        if getattr(function, "__module__", None) == nn.init.__name__:
            return arguments[0] if arguments else keywords["tensor"]
        if function is torch.randn:
            function = torch.empty
        return function(*arguments, **keywords)


def on_meta(config: ModelConfig, dimensions: Dimensions) -> EncoderDecoder:
    """The model without memory for its weights: for counting."""
    with torch.device("meta"), _Undrawn():
        return build(config, dimensions)


def count_parameters(model: EncoderDecoder) -> int:
    """Number of trained weights; shared ones count once."""
    return sum(parameter.numel() for parameter in model.parameters())


def parameter_parts(model: EncoderDecoder) -> dict[str, int]:
    """Number of trained weights in each of `PARTS`; they add up to `count_parameters`.

    Embedding includes learned positions and, where they are shared, the weights of the output layer. Attention is all
    of it (self-attention and attention to the source, with their normalisation); encoder and decoder are what is left
    of them.
    """
    parts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        side, inner = name.split(".")[:2]
        parts["attention" if "attention" in name else _PART_OF.get(inner, side)] += parameter.numel()
    return parts


# --- operations ------------------------------------------------------------------------------------------------------


def training_flops_per_token(config: ModelConfig, length: int, target_vocabulary: int) -> float:
    """Operations of a training step for each token of a source and a target of `length`."""
    return training_flops(config, length, length, target_vocabulary) / (2 * length)


def training_flops(config: ModelConfig, source: int, target: int, target_vocabulary: int) -> int:
    """Operations of forward and backward pass; the optimiser is not counted."""
    return TRAINING_FACTOR * forward_flops(config, source, target, target_vocabulary)


def forward_flops(config: ModelConfig, source: int, target: int, target_vocabulary: int) -> int:
    """Operations of the teacher-forced forward pass."""
    return encode_flops(config, source) + decode_flops(config, source, target, target_vocabulary)


def encode_flops(config: ModelConfig, source: int) -> int:
    """Operations of the encoder."""
    hidden, embedding = _widths(config)
    if isinstance(config, LSTMEncoderConfig):
        directions = 2 if config.bidirectional else 1
        cell = hidden // directions
        upper = (config.layers - 1) * _linear(hidden + cell, 4 * cell)
        return source * directions * (_linear(embedding + cell, 4 * cell) + upper)
    position = _linear(hidden, 4 * hidden) + _feedforward(config)
    return config.layers * (source * position + _attend(source, source, hidden))


def decode_flops(config: ModelConfig, source: int, target: int, target_vocabulary: int) -> int:
    """Operations of the teacher-forced decoder, with what it makes of the source beforehand."""
    hidden, embedding = _widths(config)
    work = _source_flops(config, source) + target * _position_flops(config, source, target_vocabulary)
    if isinstance(config, LSTMDecoderConfig):
        return work + target * _linear(embedding, 4 * hidden)
    return work + config.layers * _attend(target, target, hidden)


def attention_share(config: ModelConfig, source: int, target: int, target_vocabulary: int) -> float:
    """Share of `forward_flops` (and so of `training_flops`) that grows with the product of two lengths, 0..1.

    These are the scores and weighted sums of every attention; projections, which grow with one length, are not.
    """
    hidden, _ = _widths(config)
    pairs = 0
    if not isinstance(config, LSTMEncoderConfig):
        pairs += config.layers * source * source
    if isinstance(config, LSTMDecoderConfig):
        pairs += source * target if config.attention != "none" else 0
    else:
        pairs += config.layers * (target * target + (source * target if config.cross_attention else 0))
    return _attend(pairs, 1, hidden) / forward_flops(config, source, target, target_vocabulary)


def generate_flops(config: ModelConfig, source: int, target: int, target_vocabulary: int, sequences: int) -> int:
    """Operations of greedy decoding, cached, of a batch: it is encoded, started, and goes `target` steps."""
    steps = sum(step_flops(config, source, position, target_vocabulary) for position in range(target))
    starting = start_flops(config, source, target_vocabulary, sequences)
    return sequences * (encode_flops(config, source) + steps) + starting


def start_flops(config: ModelConfig, source: int, target_vocabulary: int, sequences: int) -> int:
    """Operations of `start` of a batch; an LSTM's table of inputs is made once for all its sequences."""
    hidden, embedding = _widths(config)
    table = _linear(embedding, 4 * hidden) * target_vocabulary if isinstance(config, LSTMDecoderConfig) else 0
    return sequences * _source_flops(config, source) + table


def step_flops(config: ModelConfig, source: int, position: int, target_vocabulary: int) -> int:
    """Operations of `step` at a target position, from 0. Constant for an LSTM, whose inputs are looked up."""
    hidden, _ = _widths(config)
    work = _position_flops(config, source, target_vocabulary)
    if isinstance(config, LSTMDecoderConfig):
        return work
    return work + config.layers * _attend(1, position + 1, hidden)


def _source_flops(config: ModelConfig, source: int) -> int:
    """What the decoder makes of the source before the first position: keys and values, an LSTM's first state."""
    hidden, _ = _widths(config)
    if isinstance(config, LSTMDecoderConfig):
        bridge = 0 if isinstance(config, LSTMEncoderConfig) else _linear(hidden, config.layers * 2 * hidden)
        projections = {"none": 0, "dot": 0, "additive": 1, "general": 1, "multi_head": 2}[config.attention]
        return bridge + source * projections * _linear(hidden, hidden)
    return config.layers * source * _linear(hidden, 2 * hidden) if config.cross_attention else 0


def _position_flops(config: ModelConfig, source: int, target_vocabulary: int) -> int:
    """One target position; an LSTM's input projection and a Transformer's own scores and sums come on top."""
    hidden, embedding = _widths(config)
    if isinstance(config, LSTMDecoderConfig):
        recurrence = _linear(hidden, 4 * hidden) + (config.layers - 1) * _linear(2 * hidden, 4 * hidden)
        if config.input_feeding:
            recurrence += _linear(hidden, 4 * hidden)
        attention = 0
        if config.attention != "none":
            projections = {"dot": 0, "general": 0, "additive": 1, "multi_head": 2}[config.attention]
            attention = projections * _linear(hidden, hidden) + _attend(1, source, hidden) + _linear(2 * hidden, hidden)
        if config.share_embeddings == "none":
            return recurrence + attention + _linear(hidden, target_vocabulary)
        return recurrence + attention + _linear(hidden, embedding) + _linear(embedding, target_vocabulary)
    cross = _linear(hidden, 2 * hidden) + _attend(1, source, hidden) if config.cross_attention else 0
    layer = _linear(hidden, 4 * hidden) + cross + _feedforward(config)
    return config.layers * layer + _linear(hidden, target_vocabulary)


# --- memory ----------------------------------------------------------------------------------------------------------


def state_bytes(config: ModelConfig, source: int, target: int, element_size: int = 4) -> int:
    """Bytes of decoding state, after reading `source` and with room for `target` positions.

    LSTM: constant. LSTM with attention: linear in the source. Transformer: linear in source and target.

    Args:
        element_size: bytes of a number that matrix products make; what a recurrence or a residual stream makes has at
            least 4 (on a GPU what a layer normalisation makes, too).
    """
    hidden, _ = _widths(config)
    if isinstance(config, LSTMDecoderConfig):
        recurrent = max(element_size, 4) * config.layers * 2
        attended = {"none": 0, "dot": 1, "additive": 2, "general": 2, "multi_head": 2}[config.attention] * source
        return (recurrent + element_size * (attended + config.input_feeding)) * hidden
    own = element_size * config.layers * 2 * target
    if config.cross_attention:
        return (own + element_size * config.layers * 2 * source) * hidden
    summary_of_products = isinstance(config, TransformerConfig) and not config.residual
    return (own + (element_size if summary_of_products else max(element_size, 4))) * hidden


# --- shared ----------------------------------------------------------------------------------------------------------


def _widths(config: ModelConfig) -> tuple[int, int]:
    """Hidden size, and what an LSTM half reads: its embeddings."""
    if config.hidden_size is None:
        raise ModelError("the model's widths are neither stated nor solved for a budget (models.matching.match)")
    embedding = config.hidden_size if isinstance(config, TransformerConfig) else config.embedding_size
    assert embedding is not None
    return config.hidden_size, embedding


def _linear(inputs: int, outputs: int) -> int:
    return 2 * inputs * outputs


def _feedforward(config: TransformerHalf) -> int:
    """One position through a feed-forward network."""
    assert config.hidden_size is not None
    assert config.feedforward_size is not None
    return (3 if config.feedforward == "swiglu" else 2) * _linear(config.hidden_size, config.feedforward_size)


def _attend(queries: int, keys: int, hidden: int) -> int:
    """Scores, then the weighted sum."""
    return 2 * _linear(queries * hidden, keys)
