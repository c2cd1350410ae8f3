"""Sharing of weights, first weights and dropout, for both families."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from model_settings import (
    HYBRIDS,
    LSTM_DECODERS,
    LSTM_ENCODERS,
    TARGET_VOCABULARY,
    TRANSFORMER_DECODERS,
    assert_same,
    configs,
    dimensions_of,
    model_of,
    sized,
    source_of,
    target_of,
)
from torch import Tensor, nn

from models.config import (
    Dimensions,
    LSTMConfig,
    LSTMTransformerConfig,
    ModelConfig,
    ModelError,
    TransformerConfig,
    TransformerLSTMConfig,
)
from models.interface import EncoderDecoder
from models.layers import stack
from models.lstm import LSTMDecoder
from models.positions import LearnedPositions
from models.registry import MODELS, build

seeds = st.integers(0, 1000)
SHARES: tuple[Literal["none", "output", "all"], ...] = ("none", "output", "all")


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


# --- shared embeddings ------------------------------------------------------------------------------------------------


def assert_tied(model: EncoderDecoder, share: str) -> None:
    output, target, source = model.decoder.output, model.decoder.embedding, model.encoder.embedding
    assert (output.weight is target.weight) == (share != "none")
    assert (source.weight is target.weight) == (share == "all")


@settings(max_examples=40, deadline=None)
@given(configs(), st.sampled_from(SHARES), seeds)
def test_shared_embeddings_are_one_tensor(
    config: ModelConfig, share: Literal["none", "output", "all"], seed: int
) -> None:
    """When built, after a step of training, and after loading a checkpoint."""
    config = sized(replace(config, share_embeddings=share), config.hidden_size or 0)
    model = model_of(config, seed)
    assert_tied(model, share)
    before = model.decoder.output.weight.detach().clone()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    target = target_of(3, 4, seed)
    F.cross_entropy(model(source_of(config, 3, 5, seed), target).flatten(0, 1), target.flatten()).backward()
    optimizer.step()
    assert not torch.equal(model.decoder.output.weight, before)
    assert_tied(model, share)
    fresh = model_of(config, seed + 1)
    fresh.load_state_dict(model.state_dict())
    assert_tied(fresh, share)
    assert torch.equal(fresh.decoder.output.weight, model.decoder.output.weight)


@settings(max_examples=60, deadline=None)
@given(configs(share_embeddings="none"))
def test_sharing_embeddings_saves_what_is_shared(config: ModelConfig) -> None:
    """An LSTM's output layer then reads embeddings, to which a matrix leads from the hidden size."""
    same = Dimensions(TARGET_VOCABULARY, TARGET_VOCABULARY, True, 12)
    hidden = config.hidden_size
    assert hidden is not None
    lstm = isinstance(config, LSTM_DECODERS)
    config = sized(config, hidden, embedding=hidden if isinstance(config, HYBRIDS) else 9)
    embedding = config.embedding_size if isinstance(config, LSTM_DECODERS) else hidden
    assert embedding is not None
    sizes = {share: count(build(replace(config, share_embeddings=share), same)) for share in SHARES}
    assert sizes["none"] - sizes["output"] == TARGET_VOCABULARY * hidden - (hidden * embedding if lstm else 0)
    assert sizes["output"] - sizes["all"] == TARGET_VOCABULARY * embedding


def test_the_gradient_of_a_shared_weight_is_the_sum_of_its_uses() -> None:
    config = sized(TransformerConfig(share_embeddings="all", num_heads=3))
    shared = model_of(config)
    alone = build(replace(config, share_embeddings="none"), dimensions_of(config)).double()
    alone.load_state_dict(shared.state_dict())
    source, target_in = source_of(config, 3, 5, 0), target_of(3, 4, 0)
    for model in (shared, alone):
        model(source, target_in).square().sum().backward()
    parts = [alone.encoder.embedding.weight, alone.decoder.embedding.weight, alone.decoder.output.weight]
    gradients = [part.grad for part in parts if part.grad is not None]
    assert shared.decoder.embedding.weight.grad is not None
    assert_same(shared.decoder.embedding.weight.grad, torch.stack(gradients).sum(0))


def test_an_lstm_decoder_with_shared_output_leads_its_states_to_embeddings() -> None:
    config = sized(LSTMConfig(share_embeddings="output"))
    decoder = model_of(config).decoder
    assert isinstance(decoder, LSTMDecoder)
    states = torch.randn(2, 3, 12, dtype=torch.float64)
    projection = decoder.projection
    assert isinstance(projection, nn.Linear)
    assert projection.bias is None
    expected = states @ projection.weight.T @ decoder.embedding.weight.T + decoder.output.bias
    assert_same(decoder._logits(states), expected, 1e-12)


@pytest.mark.parametrize("name", MODELS)
def test_different_symbols_cannot_share_embeddings(name: str) -> None:
    """Not even where there are equally many of them."""
    config = sized(replace(MODELS[name], share_embeddings="all"))
    with pytest.raises(ModelError, match="share_embeddings all: source and target of this task have different symbols"):
        build(config, Dimensions(11, 11, False, 12))
    build(config, Dimensions(11, 11, True, 12))


@pytest.mark.parametrize("kind", HYBRIDS)
def test_a_hybrid_shares_embeddings_of_one_size(kind: type) -> None:
    config = sized(kind())
    assert isinstance(config, HYBRIDS)
    config = replace(config, share_embeddings="all", embedding_size=10)
    with pytest.raises(ModelError, match="embedding_size and hidden_size of a hybrid must be the same"):
        build(config, Dimensions(11, 11, True, 12))
    build(replace(config, share_embeddings="output"), Dimensions(11, 11, True, 12))


# --- shared layers ----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(configs(share_layers=True), seeds)
def test_shared_layers_are_unshared_ones_with_the_same_weights(config: ModelConfig, seed: int) -> None:
    shared = model_of(config, seed)
    alone = build(replace(config, share_layers=False), dimensions_of(config)).double().eval()
    alone.load_state_dict(shared.state_dict())
    source, target_in = source_of(config, 3, 5, seed, padded=True), target_of(3, 4, seed)
    assert_same(alone(source, target_in), shared(source, target_in), 0)


@settings(max_examples=40, deadline=None)
@given(configs(), st.integers(2, 5))
def test_shared_layers_have_the_weights_of_one(config: ModelConfig, layers: int) -> None:
    """A Transformer's of one layer; an LSTM's of two, the first and one above. A bridge starts every layer."""
    deep = build(replace(config, layers=layers, share_layers=True), dimensions_of(config))
    alone = build(replace(config, layers=layers, share_layers=False), dimensions_of(config))
    for half, lstm in (("encoder", LSTM_ENCODERS), ("decoder", LSTM_DECODERS)):
        fewest = replace(config, layers=2 if isinstance(config, lstm) else 1)
        own, least, unshared = (
            count(getattr(model, half)) for model in (deep, build(fewest, dimensions_of(config)), alone)
        )
        if half == "decoder" and isinstance(config, TransformerLSTMConfig):
            assert config.hidden_size is not None
            least += (layers - 2) * 2 * config.hidden_size * (config.hidden_size + 1)
        assert own == least
        assert own < unshared or layers == fewest.layers


def test_a_stack_of_shared_layers_is_one_and_the_same() -> None:
    shared, alone = (stack(3, lambda: nn.Linear(2, 2), shared=on) for on in (True, False))
    assert len(shared) == len(alone) == 3
    assert shared[0] is shared[1] is shared[2]
    assert len({id(layer) for layer in alone}) == 3
    assert len(stack(0, lambda: nn.Linear(2, 2), shared=True)) == 0


# --- first weights ----------------------------------------------------------------------------------------------------


def fresh(config: ModelConfig) -> EncoderDecoder:
    torch.manual_seed(0)
    return build(sized(config, 48, 40, 64), Dimensions(300, 300, True, 12))


FIRST = {
    **MODELS,
    "additive": LSTMConfig(layers=2, attention="additive", input_feeding=True),
    "multi_head": LSTMConfig(attention="multi_head", num_heads=4, share_embeddings="all"),
    "swiglu": TransformerConfig(feedforward="swiglu", share_embeddings="output"),
    "bridge": TransformerLSTMConfig(layers=3),
}


def assert_glorot(weight: torch.Tensor) -> None:
    """Uniform up to √(6 / (inputs + outputs)) (Glorot & Bengio 2010, equation 16)."""
    limit = math.sqrt(6 / sum(weight.shape))
    assert weight.abs().max().item() <= limit
    if weight.numel() > 500:
        assert weight.abs().max().item() > 0.97 * limit
        assert weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize("name", FIRST)
def test_first_weights(name: str) -> None:
    """One rule for both families: Glorot's for matrices, zero for biases, variance one for what leaves embeddings."""
    model = fresh(FIRST[name])
    for layer in model.modules():
        if isinstance(layer, nn.Linear):
            if layer.weight is not model.decoder.embedding.weight:
                assert_glorot(layer.weight.detach())
            assert layer.bias is None or not layer.bias.any()
        elif isinstance(layer, nn.LayerNorm):
            assert (layer.weight == 1).all()
            assert not layer.bias.any()
        elif isinstance(layer, nn.Embedding):
            assert layer(torch.arange(300)).std().item() == pytest.approx(1, abs=0.03)
            assert layer.weight.std().item() == pytest.approx(layer.embedding_dim**-0.5, rel=0.03)
        elif not isinstance(layer, nn.LSTM | LearnedPositions):  # each with a test of its own
            assert not list(layer.parameters(recurse=False))


@pytest.mark.parametrize("name", ["lstm", "additive", "bridge", "lstm_transformer"])
def test_first_weights_of_recurrent_layers(name: str) -> None:
    """Gate by gate: Glorot for inputs, orthogonal recurrence, biases of zero, together one in the forget gates."""
    lstms = [module for module in fresh(FIRST[name]).modules() if isinstance(module, nn.LSTM)]
    assert lstms
    for lstm in lstms:
        size = lstm.hidden_size
        for input_weight, recurrent_weight, bias, recurrent_bias in lstm.all_weights:
            for gate in range(4):
                rows = slice(gate * size, (gate + 1) * size)
                assert_glorot(input_weight[rows].detach())
                torch.testing.assert_close(recurrent_weight[rows] @ recurrent_weight[rows].T, torch.eye(size))
                together = bias[rows] + recurrent_bias[rows]
                assert (together == (1 if gate == 1 else 0)).all()


# --- dropout ----------------------------------------------------------------------------------------------------------


@contextmanager
def dropped() -> Iterator[list[float]]:
    """The rates of all calls of dropout in this context."""
    rates: list[float] = []

    def noted(x: Tensor, rate: float) -> Tensor:
        rates.append(rate)
        return x

    with patch.object(F, "dropout", noted):
        yield rates


@settings(max_examples=40, deadline=None)
@given(configs(dropout=0.4), st.integers(1, 4))
def test_dropout_is_on_embeddings_and_on_the_output_of_each_layer(config: ModelConfig, length: int) -> None:
    model = model_of(config).train()
    target_in = target_of(2, length, 0)
    with dropped() as encoding:
        memory = model.encode(source_of(config, 2, 5, 0))
    with dropped() as decoding:
        model.decoder(target_in, memory)
    calls = {"encoder": len(encoding), "decoder": len(decoding)}
    assert {*encoding, *decoding} == {0.4}
    expected = {"encoder": config.layers * (1 if isinstance(config, LSTM_ENCODERS) else 2)}
    if isinstance(config, TRANSFORMER_DECODERS):
        expected["decoder"] = config.layers * (3 if config.cross_attention else 2)
    else:
        attentional = 0 if config.attention == "none" else 1
        expected["decoder"] = (length if config.input_feeding else 1) * (config.layers + attentional)
    assert calls == {half: 1 + number for half, number in expected.items()}


@settings(max_examples=40, deadline=None)
@given(configs(dropout=0.4), seeds)
def test_nothing_is_dropped_anywhere_else(config: ModelConfig, seed: int) -> None:
    """Not within attention, feed-forward networks or recurrent layers: with those off, training is evaluation."""
    model = model_of(config, seed)
    source, target_in = source_of(config, 3, 5, seed, padded=True), target_of(3, 4, seed)
    expected = model(source, target_in)
    with dropped():
        assert_same(model.train()(source, target_in), expected, 0)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("kind", [LSTMConfig, LSTMTransformerConfig])
def test_under_autocast_an_lstm_reads_the_source_in_float32(kind: type, norm: str) -> None:
    """The states and what they end in are those without autocast, bit for bit; matrix products are not."""
    config = sized(kind(layers=3, norm=norm))
    model = build(config, dimensions_of(config)).eval()
    source, target_in = source_of(config, 3, 5, 0, padded=True), target_of(3, 4, 0)
    expected, logits = model.encode(source), model(source, target_in)
    with torch.autocast("cpu", torch.bfloat16):
        found, rounded = model.encode(source), model(source, target_in)
    assert expected.final is not None
    assert found.final is not None
    assert torch.equal(found.states, expected.states)
    for pair, other in zip(found.final, expected.final, strict=True):
        assert all(torch.equal(one, two) for one, two in zip(pair, other, strict=True))
    assert not torch.equal(rounded.float(), logits)


@pytest.mark.parametrize("kind", [TransformerConfig, LSTMTransformerConfig])
def test_no_dropout_is_the_default(kind: type) -> None:
    config = sized(kind())
    model = build(config, dimensions_of(config)).train()
    with dropped() as rates:
        model(source_of(config, 2, 5, 0), target_of(2, 4, 0))
    assert set(rates) == {0.0}
