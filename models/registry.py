"""The models by name, and how one is built from its settings."""

from __future__ import annotations

from models.config import (
    Dimensions,
    LSTMConfig,
    LSTMDecoderConfig,
    LSTMEncoderConfig,
    LSTMTransformerConfig,
    ModelConfig,
    ModelError,
    TransformerConfig,
    TransformerLSTMConfig,
)
from models.interface import Decoder, Encoder, EncoderDecoder
from models.lstm import LSTMDecoder, LSTMEncoder
from models.transformer import TransformerDecoder, TransformerEncoder

MODELS: dict[str, ModelConfig] = {
    "lstm": LSTMConfig(attention="none"),
    "lstm_attention": LSTMConfig(attention="general"),
    "transformer": TransformerConfig(),
    "lstm_transformer": LSTMTransformerConfig(),
    "transformer_lstm": TransformerLSTMConfig(attention="general"),
}


def build(config: ModelConfig, dimensions: Dimensions) -> EncoderDecoder:
    """The model that `config` describes, with fresh weights from torch's global generator.

    Args:
        config: with its widths stated, or solved by `models.matching.match`.
        dimensions: of the task.

    Raises:
        ModelError: a width is not stated, or embeddings cannot be shared.
    """
    if config.hidden_size is None:
        raise ModelError("the model's widths are neither stated nor solved for a budget (models.matching.match)")
    encoder: Encoder
    decoder: Decoder
    if isinstance(config, LSTMEncoderConfig):
        encoder = LSTMEncoder(config, dimensions)
    else:
        encoder = TransformerEncoder(config, dimensions)
    if isinstance(config, LSTMDecoderConfig):
        decoder = LSTMDecoder(config, dimensions)
    else:
        decoder = TransformerDecoder(config, dimensions)
    if config.share_embeddings == "all":
        if not dimensions.same_symbols:
            raise ModelError("share_embeddings all: source and target of this task have different symbols")
        if encoder.embedding.weight.shape != decoder.embedding.weight.shape:
            raise ModelError("share_embeddings all: embedding_size and hidden_size of a hybrid must be the same")
        encoder.embedding.weight = decoder.embedding.weight
    return EncoderDecoder(encoder, decoder)
