"""The models by name, and how one is built from its settings."""

from __future__ import annotations

from models.config import Dimensions, LSTMConfig, ModelConfig, TransformerConfig
from models.interface import EncoderDecoder
from models.lstm import LSTMDecoder, LSTMEncoder
from models.transformer import TransformerDecoder, TransformerEncoder

MODELS: dict[str, ModelConfig] = {
    "lstm": LSTMConfig(attention="none"),
    "lstm_attention": LSTMConfig(attention="general"),
    "transformer": TransformerConfig(),
}


def build(config: ModelConfig, dimensions: Dimensions) -> EncoderDecoder:
    """The model that `config` describes, with fresh weights from torch's global generator.

    Args:
        config: with its widths stated, or solved by `models.matching.match`.
        dimensions: of the task.

    Raises:
        ValueError: a width is not stated.
    """
    if config.hidden_size is None:
        raise ValueError("the model's widths are neither stated nor solved for a budget (models.matching.match)")
    match config:
        case LSTMConfig():
            return EncoderDecoder(LSTMEncoder(config, dimensions), LSTMDecoder(config, dimensions))
        case TransformerConfig():
            return EncoderDecoder(TransformerEncoder(config, dimensions), TransformerDecoder(config, dimensions))
