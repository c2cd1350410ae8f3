"""What a model costs: parameters in parts, floating-point operations, bytes of decoding state.

A multiplication and an addition count as two operations; only matrix products are counted (as torch's own counter
does); causal attention is counted in full, as the kernels' nominal work is.
Letters: S source and T target positions, E embedding size, H hidden size, F feed-forward size, V target vocabulary.
"""

from __future__ import annotations

import torch

from models.config import Dimensions, LSTMConfig, ModelConfig, TransformerConfig
from models.interface import EncoderDecoder
from models.registry import build

TRAINING_FACTOR = 3  # the backward pass computes a gradient for both factors of every product of the forward pass
PARTS = ("embedding", "encoder", "attention", "decoder", "output")


def on_meta(config: ModelConfig, dimensions: Dimensions) -> EncoderDecoder:
    """The model without memory for its weights: for counting."""
    with torch.device("meta"):
        return build(config, dimensions)


def count_parameters(model: EncoderDecoder) -> int:
    """Number of trained weights."""
    return sum(parameter.numel() for parameter in model.parameters())


def parameter_parts(model: EncoderDecoder) -> dict[str, int]:
    """Number of trained weights in each of `PARTS`; they add up to `count_parameters`.

    Embedding includes learned positions. Attention is all of it (self-attention and encoder-decoder attention, with
    their normalisation); encoder and decoder are what is left of them.
    """
    parts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        side, inner = name.split(".")[:2]
        own_part = {"embedding": "embedding", "positions": "embedding", "output": "output"}.get(inner, side)
        parts["attention" if "attention" in name else own_part] += parameter.numel()
    return parts


def forward_flops(config: ModelConfig, source: int, target: int, target_vocabulary: int) -> int:
    """Operations of the teacher-forced forward pass for one sequence of `source` and `target` positions."""
    return encode_flops(config, source) + decode_flops(config, source, target, target_vocabulary)


def training_flops(config: ModelConfig, source: int, target: int, target_vocabulary: int) -> int:
    """Operations of forward and backward pass for one sequence; the optimiser is not counted."""
    return TRAINING_FACTOR * forward_flops(config, source, target, target_vocabulary)


def encode_flops(config: ModelConfig, source: int) -> int:
    """Operations of the encoder for one sequence."""
    hidden, inner = _widths(config)
    match config:
        case LSTMConfig():
            directions = 2 if config.bidirectional else 1
            return source * directions * _recurrence(config.layers, inner, hidden // directions, hidden)
        case TransformerConfig():
            projections = source * (_linear(hidden, 4 * hidden) + 2 * _linear(hidden, inner))
            return config.layers * (projections + _attend(source, source, hidden))


def decode_flops(config: ModelConfig, source: int, target: int, target_vocabulary: int) -> int:
    """Operations of the teacher-forced decoder for one sequence, the source's attention keys and values included."""
    hidden, inner = _widths(config)
    output = target * _linear(hidden, target_vocabulary)
    match config:
        case LSTMConfig():
            recurrence = target * _recurrence(config.layers, inner, hidden, hidden)
            if config.attention == "none":
                return recurrence + output
            keys = source * _linear(hidden, hidden)
            combine = target * _linear(2 * hidden, hidden)
            return recurrence + keys + _attend(target, source, hidden) + combine + output
        case TransformerConfig():
            own = target * _linear(hidden, 4 * hidden) + _attend(target, target, hidden)
            cross = target * _linear(hidden, 2 * hidden) + source * _linear(hidden, 2 * hidden)
            feedforward = target * 2 * _linear(hidden, inner)
            return config.layers * (own + cross + _attend(target, source, hidden) + feedforward) + output


def state_bytes(config: ModelConfig, source: int, target: int, element_size: int = 4) -> int:
    """Bytes of decoding state for one sequence, after reading `source` and with room for `target` positions.

    LSTM: constant. LSTM with attention: linear in the source. Transformer: linear in source and target.
    """
    hidden, _ = _widths(config)
    match config:
        case LSTMConfig():
            recurrent = config.layers * 2 * hidden
            attended = 0 if config.attention == "none" else 2 * source * hidden
            return element_size * (recurrent + attended)
        case TransformerConfig():
            return element_size * config.layers * 2 * (source + target) * hidden


def _widths(config: ModelConfig) -> tuple[int, int]:
    """Hidden size and the other width: of the embedding (LSTM) or of the feed-forward network (Transformer)."""
    other = config.embedding_size if isinstance(config, LSTMConfig) else config.feedforward_size
    if config.hidden_size is None or other is None:
        raise ValueError("the model's widths are neither stated nor solved for a budget (models.matching.match)")
    return config.hidden_size, other


def _linear(inputs: int, outputs: int) -> int:
    return 2 * inputs * outputs


def _recurrence(layers: int, embedding: int, cell: int, output: int) -> int:
    """One position through the layers of one direction: `cell` wide, each layer reading `output` of the one below."""
    widths_below = [embedding] + [output] * (layers - 1)
    return sum(_linear(below + cell, 4 * cell) for below in widths_below)


def _attend(queries: int, keys: int, hidden: int) -> int:
    """Scores, then the weighted sum."""
    return 2 * _linear(queries * hidden, keys)
