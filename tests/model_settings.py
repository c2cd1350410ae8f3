"""What the tests of models/ share: settings of every kind, models with random weights, sequences, comparison."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from models.config import (
    Dimensions,
    LSTMConfig,
    LSTMTransformerConfig,
    ModelConfig,
    TransformerConfig,
    TransformerLSTMConfig,
)
from models.interface import PAD, EncoderDecoder
from models.registry import MODELS, build

LSTM_DECODERS = (LSTMConfig, TransformerLSTMConfig)
LSTM_ENCODERS = (LSTMConfig, LSTMTransformerConfig)
TRANSFORMER_DECODERS = (TransformerConfig, LSTMTransformerConfig)
TRANSFORMER_ENCODERS = (TransformerConfig, TransformerLSTMConfig)
HYBRIDS = (LSTMTransformerConfig, TransformerLSTMConfig)
KINDS: tuple[type, ...] = get_args(ModelConfig)
WIDTHS = ("hidden_size", "embedding_size", "feedforward_size")

# Of every other setting all values are drawn: both of a boolean, each of the named ones.
RANGES: dict[str, st.SearchStrategy[Any]] = {
    "layers": st.integers(1, 3),
    "dropout": st.sampled_from([0.0, 0.4]),
    "num_heads": st.sampled_from([1, 2, 3]),
}

SOURCE_VOCABULARY, TARGET_VOCABULARY, MAX_LENGTH = 13, 11, 12


def dimensions_of(config: ModelConfig) -> Dimensions:
    """Vocabularies of different sizes, unless the model shares them."""
    same = config.share_embeddings == "all"
    return Dimensions(TARGET_VOCABULARY if same else SOURCE_VOCABULARY, TARGET_VOCABULARY, same, MAX_LENGTH)


@st.composite
def configs_without_widths(draw: st.DrawFn, kinds: tuple[type, ...] = KINDS, **stated: Any) -> ModelConfig:
    """Any legal settings of these kinds of models, but for what is `stated`."""
    kind = draw(st.sampled_from(kinds))
    hints = get_type_hints(kind)
    names = [field.name for field in fields(kind) if field.name not in WIDTHS]
    settings = {name: draw(RANGES.get(name, st.from_type(hints[name]))) for name in names} | stated
    if settings.get("attention") == "none":
        settings["input_feeding"] = False
    if kind is LSTMConfig and settings["attention"] != "multi_head":
        settings["num_heads"] = None
    return kind(**settings)


@st.composite
def configs(draw: st.DrawFn, kinds: tuple[type, ...] = KINDS, **stated: Any) -> ModelConfig:
    """The same with legal widths, from 8 on: layer normalisation of fewer numbers leaves little of them."""
    config = draw(configs_without_widths(kinds, **stated))
    smallest = -(-8 // config.hidden_multiple)
    hidden = config.hidden_multiple * draw(st.integers(smallest, smallest + 1))
    return sized(config, hidden, draw(st.sampled_from([5, 9])), draw(st.sampled_from([16, 21])))


def sized(config: ModelConfig, hidden: int = 12, embedding: int = 10, feedforward: int = 20) -> ModelConfig:
    """`config` with those of the widths that it has; a hybrid shares its embeddings only where they are of one size."""
    if isinstance(config, HYBRIDS) and config.share_embeddings == "all":
        embedding = hidden
    widths = dict(zip(WIDTHS, (hidden, embedding, feedforward), strict=True))
    names = {field.name for field in fields(config)}
    return replace(config, **{name: width for name, width in widths.items() if name in names})  # type: ignore[arg-type]


SIZED: dict[str, ModelConfig] = {name: sized(config) for name, config in MODELS.items()}


def model_of(config: ModelConfig, seed: int = 0, dimensions: Dimensions | None = None) -> EncoderDecoder:
    """The model in float64 for evaluation, with noise on all weights: zeros and ones would hide what is left out."""
    torch.manual_seed(seed)
    model = build(config, dimensions or dimensions_of(config)).double().eval()
    add_noise(model)
    return model


def add_noise(module: nn.Module, scale: float = 0.1) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter))


def source_of(config: ModelConfig, rows: int, length: int, seed: int, *, padded: bool = False) -> Tensor:
    """Random source tokens; where padded, the first row is whole, the last (if it can) is not, and others may be."""
    tokens = _tokens(dimensions_of(config).source_vocabulary, rows, length, seed)
    if padded:
        generator = torch.Generator().manual_seed(seed)
        ends = torch.randint(1, length + 1, (rows, 1), generator=generator)
        ends[-1] = ends[-1].clamp(max=max(1, length - 1))
        ends[0] = length
        tokens = tokens.masked_fill(torch.arange(length) >= ends, PAD)
    return tokens


def target_of(rows: int, length: int, seed: int) -> Tensor:
    """Random target tokens."""
    return _tokens(TARGET_VOCABULARY, rows, length, seed + 1_000_000)


def _tokens(vocabulary: int, rows: int, length: int, seed: int) -> Tensor:
    return torch.randint(3, vocabulary, (rows, length), generator=torch.Generator().manual_seed(seed))


def assert_same(actual: Tensor, expected: Tensor, tolerance: float = 1e-10) -> None:
    """To an absolute tolerance, or relative to the largest value where that is above one."""
    scale = max(1.0, expected.abs().max().item()) if expected.numel() else 1.0
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale)


def layer_norm(x: Tensor, norm: nn.Module) -> Tensor:
    """Ba et al. 2016, equation 4, with the weights of `norm` and torch's ε."""
    assert isinstance(norm, nn.LayerNorm)
    deviation = x - x.mean(-1, keepdim=True)
    variance = (deviation**2).mean(-1, keepdim=True)
    return deviation / (variance + 1e-5).sqrt() * norm.weight + norm.bias
