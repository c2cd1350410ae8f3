"""Settings that cannot be are refused with a reason; those that can be make models that run."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import FrozenInstanceError, fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_settings import KINDS, configs_without_widths, model_of, sized, source_of, target_of

from models.config import (
    Budget,
    LSTMConfig,
    LSTMTransformerConfig,
    ModelConfig,
    TransformerConfig,
    TransformerLSTMConfig,
)

REFUSED: list[tuple[Callable[[], object], str]] = [
    # of all models
    (lambda: LSTMConfig(layers=0), "layers must be at least 1, not 0"),
    (lambda: TransformerConfig(layers=-1), "layers must be at least 1, not -1"),
    (lambda: LSTMConfig(dropout=1.0), "dropout must be in [0, 1), not 1.0"),
    (lambda: TransformerConfig(dropout=-0.1), "dropout must be in [0, 1), not -0.1"),
    # of LSTMs
    (lambda: LSTMConfig(hidden_size=7, embedding_size=4), "hidden_size must be a positive multiple of 2, not 7"),
    (lambda: LSTMConfig(hidden_size=0, embedding_size=4), "hidden_size must be a positive multiple of 2, not 0"),
    (lambda: LSTMConfig(hidden_size=-2, embedding_size=4), "hidden_size must be a positive multiple of 2, not -2"),
    (lambda: LSTMConfig(hidden_size=8, embedding_size=0), "embedding_size must be a positive multiple of 1, not 0"),
    (lambda: LSTMConfig(hidden_size=8), "hidden_size and embedding_size are stated together or not at all"),
    (lambda: LSTMConfig(embedding_size=8), "hidden_size and embedding_size are stated together or not at all"),
    (lambda: LSTMConfig(attention="multi_head"), "attention multi_head needs num_heads"),
    (lambda: LSTMConfig(attention="multi_head", num_heads=0), "num_heads must be at least 1, not 0"),
    (lambda: LSTMConfig(attention="general", num_heads=4), "num_heads belongs to attention multi_head"),
    (lambda: LSTMConfig(num_heads=4), "num_heads belongs to attention multi_head"),
    (lambda: LSTMConfig(input_feeding=True), "input_feeding feeds what attention made, so attention must not be none"),
    (
        lambda: LSTMConfig(attention="multi_head", num_heads=3, hidden_size=9, embedding_size=4),
        "hidden_size must be a positive multiple of 6, not 9",
    ),
    (
        lambda: LSTMConfig(attention="multi_head", num_heads=3, bidirectional=False, hidden_size=8, embedding_size=4),
        "hidden_size must be a positive multiple of 3, not 8",
    ),
    # of Transformers
    (lambda: TransformerConfig(num_heads=0), "num_heads must be at least 1, not 0"),
    (lambda: TransformerConfig(hidden_size=8), "hidden_size and feedforward_size are stated together or not at all"),
    (lambda: TransformerConfig(feedforward_size=8), "hidden_size and feedforward_size are stated together or not"),
    (
        lambda: TransformerConfig(hidden_size=8, feedforward_size=0),
        "feedforward_size must be a positive multiple of 1, not 0",
    ),
    (
        lambda: TransformerConfig(num_heads=3, hidden_size=8, feedforward_size=8),
        "hidden_size must be a positive multiple of 3, not 8",
    ),
    (
        lambda: TransformerConfig(num_heads=1, positions="sinusoidal", hidden_size=7, feedforward_size=8),
        "hidden_size must be a positive multiple of 2, not 7",
    ),
    (
        lambda: TransformerConfig(num_heads=4, positions="rotary", hidden_size=12, feedforward_size=8),
        "hidden_size must be a positive multiple of 8, not 12",
    ),
    # of hybrids
    (
        lambda: LSTMTransformerConfig(hidden_size=8, feedforward_size=8),
        "hidden_size and embedding_size are stated together or not at all",
    ),
    (
        lambda: TransformerLSTMConfig(hidden_size=8, embedding_size=8),
        "hidden_size and feedforward_size are stated together or not at all",
    ),
    (
        lambda: LSTMTransformerConfig(num_heads=3, hidden_size=9, embedding_size=8, feedforward_size=8),
        "hidden_size must be a positive multiple of 6, not 9",
    ),
    (lambda: TransformerLSTMConfig(input_feeding=True), "attention must not be none"),
    # of budgets
    (lambda: Budget(), "state one of parameters, training_flops_per_token, state_bytes"),
    (lambda: Budget(parameters=1_000, state_bytes=1_000, length=8), "state one of parameters, training_flops_per_tok"),
    (lambda: Budget(parameters=0), "parameters must be at least 1, not 0"),
    (lambda: Budget(state_bytes=-4, length=8), "state_bytes must be at least 1, not -4"),
    (lambda: Budget(state_bytes=1_000, length=0), "length must be at least 1, not 0"),
    (lambda: Budget(parameters=1_000, length=8), "length belongs to training_flops_per_token and state_bytes, which"),
    (lambda: Budget(state_bytes=1_000), "length belongs to training_flops_per_token and state_bytes, which need it"),
    (lambda: Budget(training_flops_per_token=1_000), "length belongs to training_flops_per_token and state_bytes, "),
]


@pytest.mark.parametrize(
    ("make", "message"), REFUSED, ids=[f"{i}: {message}" for i, (_, message) in enumerate(REFUSED)]
)
def test_impossible_settings_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


@pytest.mark.parametrize(
    ("config", "multiple"),
    [
        (LSTMConfig(), 2),
        (LSTMConfig(bidirectional=False), 1),
        (LSTMConfig(attention="multi_head", num_heads=4), 4),
        (LSTMConfig(attention="multi_head", num_heads=5), 10),
        (TransformerConfig(), 4),
        (TransformerConfig(num_heads=3, positions="sinusoidal"), 6),
        (TransformerConfig(num_heads=3, positions="rotary"), 6),
        (TransformerConfig(num_heads=4, positions="rotary"), 8),
        (TransformerConfig(num_heads=3, positions="alibi"), 3),
        (TransformerConfig(num_heads=1, positions="none"), 1),
        (LSTMTransformerConfig(num_heads=3), 6),
        (LSTMTransformerConfig(num_heads=3, bidirectional=False), 3),
        (TransformerLSTMConfig(num_heads=5, attention="multi_head"), 5),
        (TransformerLSTMConfig(num_heads=5, attention="multi_head", positions="rotary"), 10),
    ],
)
def test_what_the_hidden_size_must_be_a_multiple_of(config: ModelConfig, multiple: int) -> None:
    assert config.hidden_multiple == multiple


@settings(max_examples=60, deadline=None)
@given(configs_without_widths(), st.integers(1, 3))
@torch.no_grad()
def test_every_legal_width_makes_a_model_that_runs(config: ModelConfig, times: int) -> None:
    config = sized(config, times * config.hidden_multiple, 3, 2)
    model = model_of(config)
    logits = model(source_of(config, 2, 4, 0, padded=True), target_of(2, 3, 0))
    assert logits.shape == (2, 3, 11)
    assert logits.isfinite().all()


def test_defaults() -> None:
    """Of the two families each its own; a hybrid has the Transformer's."""
    assert (LSTMConfig().layers, LSTMConfig().num_heads, LSTMConfig().attention) == (1, None, "none")
    for half in (TransformerConfig(), LSTMTransformerConfig(), TransformerLSTMConfig()):
        assert (half.layers, half.num_heads, half.positions, half.feedforward) == (2, 4, "learned", "relu")
    for config in (kind() for kind in KINDS):
        assert (config.norm, config.residual, config.dropout) == ("pre", True, 0.0)
        assert (config.share_embeddings, config.share_layers) == ("none", False)
    assert LSTMConfig().bidirectional
    assert LSTMTransformerConfig().bidirectional
    assert TransformerConfig().cross_attention
    assert not TransformerLSTMConfig().input_feeding


@pytest.mark.parametrize("kind", KINDS)
def test_settings_are_frozen_and_hashed_by_value(kind: type) -> None:
    config = kind()
    with pytest.raises(FrozenInstanceError):
        config.layers = 3
    assert hash(kind()) == hash(config)
    assert kind() == config != kind(layers=3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_settings_of_a_model_are_those_that_its_halves_have(kind: type) -> None:
    names = {field.name for field in fields(kind)}
    common = {"layers", "dropout", "norm", "residual", "share_layers", "share_embeddings", "hidden_size"}
    transformer = {"num_heads", "positions", "feedforward", "feedforward_size"}
    lstm_decoder = {"embedding_size", "attention", "num_heads", "input_feeding"}
    expected = {
        LSTMConfig: {"bidirectional", *lstm_decoder},
        TransformerConfig: {"cross_attention", *transformer},
        LSTMTransformerConfig: {"bidirectional", "embedding_size", "cross_attention", *transformer},
        TransformerLSTMConfig: {*lstm_decoder, *transformer},
    }
    assert names == common | expected[kind]


def test_a_budget_in_words() -> None:
    flops = Budget(training_flops_per_token=2_000_000, length=64)
    assert (flops.quantity, flops.amount) == ("training_flops_per_token", 2_000_000)
    assert flops.words == "training FLOPs per token at length 64"
    state = Budget(state_bytes=4_096, length=32)
    assert (state.quantity, state.amount, state.words) == (
        "state_bytes",
        4_096,
        "bytes of decoding state at length 32",
    )
    parameters = Budget(parameters=300_000)
    assert (parameters.quantity, parameters.amount, parameters.words) == ("parameters", 300_000, "parameters")
