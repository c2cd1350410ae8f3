"""The Transformer family against torch's own Transformer, and its parts against the papers' formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from model_settings import add_noise, assert_same, layer_norm, model_of, sized, source_of, target_of
from torch import Tensor, nn

from models.attention import CrossAttention, SelfAttention
from models.config import LSTMTransformerConfig, ModelConfig, TransformerConfig
from models.embeddings import TokenEmbedding
from models.interface import PAD, EncoderDecoder, Memory
from models.layers import Sublayer
from models.transformer import DecoderLayer, EncoderLayer, FeedForward, TransformerDecoder, TransformerEncoder

Match = tuple[Tensor, Tensor, slice]  # our weights, torch's, and which rows of torch's they are
ALL = slice(None)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def transformer(**options: object) -> TransformerConfig:
    config = sized(TransformerConfig(**({"num_heads": 3} | options)))  # type: ignore[arg-type]
    assert isinstance(config, TransformerConfig)
    return config


# --- torch's Transformer ----------------------------------------------------------------------------------------------


def match_linear(ours: nn.Linear, weight: Tensor, bias: Tensor, rows: slice = ALL) -> list[Match]:
    return [(ours.weight, weight, rows), (ours.bias, bias, rows)]


def match_norm(ours: nn.Module, theirs: nn.LayerNorm) -> list[Match]:
    assert isinstance(ours, nn.LayerNorm)
    return [(ours.weight, theirs.weight, ALL), (ours.bias, theirs.bias, ALL)]


def match_attention(ours: SelfAttention | CrossAttention, theirs: nn.MultiheadAttention) -> list[Match]:
    weight, bias, hidden = theirs.in_proj_weight, theirs.in_proj_bias, theirs.embed_dim
    if isinstance(ours, SelfAttention):
        projections = match_linear(ours.query_key_value, weight, bias)
    else:
        projections = match_linear(ours.query, weight, bias, slice(0, hidden))
        projections += match_linear(ours.key_value, weight, bias, slice(hidden, None))
    return projections + match_linear(ours.output, theirs.out_proj.weight, theirs.out_proj.bias)


def match_feedforward(ours: FeedForward, first: nn.Linear, second: nn.Linear) -> list[Match]:
    return match_linear(ours.inner, first.weight, first.bias) + match_linear(ours.outer, second.weight, second.bias)


def match_encoder_layer(ours: EncoderLayer | DecoderLayer, theirs: nn.TransformerEncoderLayer) -> list[Match]:
    """A decoder layer without encoder-decoder attention is an encoder layer that looks back only."""
    own, sublayer = (
        (ours.attention, ours.attention_sublayer)
        if isinstance(ours, EncoderLayer)
        else (ours.self_attention, ours.self_attention_sublayer)
    )
    return (
        match_attention(own, theirs.self_attn)
        + match_norm(sublayer.norm, theirs.norm1)
        + match_feedforward(ours.feedforward, theirs.linear1, theirs.linear2)
        + match_norm(ours.feedforward_sublayer.norm, theirs.norm2)
    )


def match_decoder_layer(ours: DecoderLayer, theirs: nn.TransformerDecoderLayer) -> list[Match]:
    assert ours.cross_attention is not None
    assert ours.cross_attention_sublayer is not None
    return (
        match_attention(ours.self_attention, theirs.self_attn)
        + match_norm(ours.self_attention_sublayer.norm, theirs.norm1)
        + match_attention(ours.cross_attention, theirs.multihead_attn)
        + match_norm(ours.cross_attention_sublayer.norm, theirs.norm2)
        + match_feedforward(ours.feedforward, theirs.linear1, theirs.linear2)
        + match_norm(ours.feedforward_sublayer.norm, theirs.norm3)
    )


def torchs(
    model: EncoderDecoder, *, norm_first: bool, activation: Literal["relu", "gelu"]
) -> tuple[nn.Module, list[Match]]:
    """torch's Transformer with the weights of ours, without a norm at the top where ours has none."""
    theirs = nn.Transformer(
        12,
        3,
        2,
        2,
        20,
        dropout=0.0,
        activation=activation,
        batch_first=True,
        norm_first=norm_first,
        dtype=torch.float64,
    ).eval()
    assert isinstance(model.encoder, TransformerEncoder)
    assert isinstance(model.decoder, TransformerDecoder)
    matches = []
    for own, other in zip(model.encoder.layers, theirs.encoder.layers, strict=True):
        assert isinstance(own, EncoderLayer)
        assert isinstance(other, nn.TransformerEncoderLayer)
        matches += match_encoder_layer(own, other)
    for own, other in zip(model.decoder.layers, theirs.decoder.layers, strict=True):
        assert isinstance(own, DecoderLayer)
        assert isinstance(other, nn.TransformerDecoderLayer)
        matches += match_decoder_layer(own, other)
    for half, other_half in ((model.encoder, theirs.encoder), (model.decoder, theirs.decoder)):
        if norm_first:
            assert isinstance(other_half.norm, nn.LayerNorm)
            matches += match_norm(half.norm, other_half.norm)
        else:
            other_half.norm = None
    for our, their, rows in matches:
        their.data[rows] = our.data
    return theirs, matches


def embed(embedding: TokenEmbedding, tokens: Tensor) -> Tensor:
    """√H times the vectors, and sines and cosines of position / 10,000^(2i/H) (Vaswani et al. 2017, 3.4 and 3.5)."""
    position, i = torch.arange(tokens.shape[1])[:, None].double(), torch.arange(6).double()
    angle = position / 10_000 ** (2 * i / 12)
    return embedding.weight[tokens] * math.sqrt(12) + torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def assert_same_gradients(actual: Tensor, expected: Tensor, both: list[Tensor], matches: list[Match]) -> None:
    """Of weights that the two have in common, and of those that match."""
    upstream = numbers(*actual.shape)
    own = torch.autograd.grad((actual * upstream).sum(), [*both, *(our for our, _, _ in matches)])
    other = torch.autograd.grad((expected * upstream).sum(), [*both, *(their for _, their, _ in matches)])
    for one, two, rows in zip(own, other, [*(ALL for _ in both), *(rows for _, _, rows in matches)], strict=True):
        assert_same(one, two[rows])


@pytest.mark.filterwarnings("ignore:enable_nested_tensor")  # torch says which of its fast paths it cannot take
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_the_transformer_equals_torchs(norm: str, activation: Literal["relu", "gelu"]) -> None:
    """Logits, and gradients of embeddings and of every weight."""
    config = transformer(positions="sinusoidal", norm=norm, feedforward=activation)
    ours = model_of(config)
    theirs, matches = torchs(ours, norm_first=norm == "pre", activation=activation)
    source, target_in = source_of(config, 3, 6, 1, padded=True), target_of(3, 5, 2)
    padding = source == PAD
    decoded = theirs(
        embed(ours.encoder.embedding, source),
        embed(ours.decoder.embedding, target_in),
        tgt_mask=torch.ones(5, 5, dtype=torch.bool).triu(1),
        src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
    )
    expected = ours.decoder.output(decoded)
    logits = ours(source, target_in)
    assert_same(logits, expected)
    ends = [ours.encoder.embedding.weight, ours.decoder.embedding.weight, *ours.decoder.output.parameters()]
    assert len(ends) + len(matches) == len(list(ours.parameters()))
    assert_same_gradients(logits, expected, ends, matches)


@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("kind", [TransformerConfig, LSTMTransformerConfig])
def test_without_cross_attention_the_decoder_is_a_stack_that_looks_back(kind: type, norm: str) -> None:
    """torch's encoder with a causal mask, on target embeddings to each of which the mean of the source is added."""
    config = sized(kind(num_heads=3, positions="sinusoidal", norm=norm, cross_attention=False))
    ours = model_of(config)
    decoder = ours.decoder
    assert isinstance(decoder, TransformerDecoder)
    layer = nn.TransformerEncoderLayer(
        12, 3, 20, dropout=0.0, batch_first=True, norm_first=norm == "pre", dtype=torch.float64
    )
    top = nn.LayerNorm(12, dtype=torch.float64) if norm == "pre" else None
    theirs = nn.TransformerEncoder(layer, 2, norm=top, enable_nested_tensor=False)
    matches = []
    for own, other in zip(decoder.layers, theirs.layers, strict=True):
        assert isinstance(own, DecoderLayer)
        assert isinstance(other, nn.TransformerEncoderLayer)
        assert own.cross_attention is own.cross_attention_sublayer is None
        matches += match_encoder_layer(own, other)
    if top is not None:
        assert isinstance(theirs.norm, nn.LayerNorm)
        matches += match_norm(decoder.norm, theirs.norm)
    for our, their, rows in matches:
        their.data[rows] = our.data
    source, target_in = source_of(config, 3, 6, 1, padded=True), target_of(3, 5, 2)
    memory = ours.encode(source)
    lengths = (source != PAD).sum(1)
    mean = torch.stack([memory.states[row, : lengths[row]].sum(0) / lengths[row] for row in range(3)])
    x = embed(decoder.embedding, target_in) + mean[:, None]
    expected = decoder.output(theirs(x, mask=torch.ones(5, 5, dtype=torch.bool).triu(1)))
    logits = ours(source, target_in)
    assert_same(logits, expected)
    assert_same_gradients(logits, expected, [ours.encoder.embedding.weight, decoder.embedding.weight], matches)


@torch.no_grad()
def test_without_cross_attention_the_source_is_seen_only_through_its_mean() -> None:
    """With it, states in another order are the same too, but not states of which only the mean is the same."""
    for cross_attention in (True, False):
        model = model_of(transformer(cross_attention=cross_attention))
        states, target_in = numbers(2, 5, 12), target_of(2, 4, 0)
        shift = numbers(2, 5, 12, seed=1)
        moved = states + shift - shift.mean(1, keepdim=True)
        logits = model.decoder(target_in, Memory(states, None, None))
        assert_same(model.decoder(target_in, Memory(states.flip(1), None, None)), logits)
        difference = (model.decoder(target_in, Memory(moved, None, None)) - logits).abs().max()
        assert (difference < 1e-10) == (not cross_attention)
        assert (difference < 1e-3) == (not cross_attention)


# --- the parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("norm", ["pre", "post", "none"])
def test_what_stands_around_a_layer(norm: str, residual: bool) -> None:
    """LayerNorm(x + f(x)), x + f(LayerNorm(x)) or x + f(x); without the residual connection the same without x."""
    torch.manual_seed(0)
    sublayer = Sublayer(transformer(norm=norm, residual=residual)).double()
    add_noise(sublayer)
    x, weight = numbers(2, 3, 12), numbers(12, 12, seed=1)

    def f(x: Tensor) -> Tensor:
        return torch.sin(x @ weight)

    kept = x if residual else 0.0
    expected = {
        "pre": lambda: kept + f(layer_norm(x, sublayer.norm)),
        "post": lambda: layer_norm(kept + f(x), sublayer.norm),
        "none": lambda: kept + f(x),
    }[norm]()
    assert_same(sublayer.add(x, f(sublayer.read(x))), expected, 1e-12)


@pytest.mark.parametrize("norm", ["pre", "none"])
def test_dropout_is_of_what_the_layer_made(norm: str) -> None:
    """At its rate, scaled so that the mean stays; never of what passes by."""
    torch.manual_seed(0)
    sublayer = Sublayer(transformer(norm=norm, dropout=0.3)).train()
    x, y = torch.full((200, 50, 12), 5.0), torch.ones(200, 50, 12)
    made = sublayer.add(x, y) - x
    dropped = made == 0
    assert dropped.double().mean().item() == pytest.approx(0.3, abs=0.01)
    torch.testing.assert_close(made[~dropped], torch.full_like(made[~dropped], 1 / 0.7), rtol=0, atol=1e-5)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("norm", ["pre", "post", "none"])
def test_dropout_comes_before_the_residual_connection_and_before_the_norm(norm: str, residual: bool) -> None:
    """LayerNorm(x + dropout(y)) where it comes after; in evaluation nothing is dropped."""
    sublayer = Sublayer(transformer(norm=norm, residual=residual, dropout=0.3)).double()
    add_noise(sublayer)
    x, y = numbers(2, 3, 12), numbers(2, 3, 12, seed=1)

    def normed(total: Tensor) -> Tensor:
        return layer_norm(total, sublayer.norm) if norm == "post" else total

    kept = x if residual else torch.zeros_like(x)
    torch.manual_seed(0)
    expected = normed(kept + nn.functional.dropout(y, 0.3))
    torch.manual_seed(0)
    assert_same(sublayer.train().add(x, y), expected, 1e-12)
    assert_same(sublayer.eval().add(x, y), normed(kept + y), 1e-12)


@pytest.mark.parametrize("kind", ["relu", "gelu", "swiglu", "linear"])
def test_feedforward_networks_are_those_of_the_papers(kind: str) -> None:
    """Vaswani et al. 2017, equation 2; Hendrycks & Gimpel 2016, x Φ(x); Shazeer 2020, equation 6 (with biases)."""
    torch.manual_seed(0)
    network = FeedForward(transformer(feedforward=kind)).double()
    x = numbers(2, 3, 12)
    inner = x @ network.inner.weight.T + network.inner.bias
    if kind == "relu":
        inner = torch.where(inner > 0, inner, 0.0)
    elif kind == "gelu":
        inner = inner * (1 + torch.erf(inner / math.sqrt(2))) / 2
    elif kind == "swiglu":
        assert network.gate is not None
        inner = inner / (1 + torch.exp(-inner)) * (x @ network.gate.weight.T + network.gate.bias)
    assert (network.gate is not None) == (kind == "swiglu")
    assert_same(network(x), inner @ network.outer.weight.T + network.outer.bias, 1e-12)


def test_embeddings_are_scaled_by_the_root_of_their_size() -> None:
    embedding = TokenEmbedding(7, 9).double()
    tokens = torch.tensor([[3, 1], [6, 3]])
    assert_same(embedding(tokens), embedding.weight[tokens] * 3, 1e-12)


# --- what the settings say --------------------------------------------------------------------------------------------

BASE = transformer(positions="sinusoidal")
OTHERS: dict[str, ModelConfig] = {
    "heads": replace(BASE, num_heads=2),
    "rotary": replace(BASE, positions="rotary"),
    "alibi": replace(BASE, positions="alibi"),
    "no positions": replace(BASE, positions="none"),
    "gelu": replace(BASE, feedforward="gelu"),
    "linear": replace(BASE, feedforward="linear"),
    "no residual": replace(BASE, residual=False),
}


@pytest.mark.parametrize("name", OTHERS)
@torch.no_grad()
def test_the_same_weights_under_another_setting_give_another_model(name: str) -> None:
    """In the encoder and in the decoder, each."""
    ours, other = model_of(BASE), model_of(OTHERS[name])
    other.load_state_dict(ours.state_dict())
    source, target_in = source_of(BASE, 2, 5, 0), target_of(2, 4, 0)
    memory = ours.encode(source)
    assert (other.encode(source).states - memory.states).abs().amax(-1).min() > 1e-4
    difference = (other.decoder(target_in, memory) - ours.decoder(target_in, memory)).abs().amax(-1)
    assert difference[:, -1].min() > 1e-4


@pytest.mark.parametrize("norm", ["pre", "post", "none"])
def test_norms_stand_where_the_settings_say(norm: str) -> None:
    """One a sublayer, and one at the top of each half where layers normalise what they read."""
    model = model_of(transformer(norm=norm))
    count = sum(isinstance(module, nn.LayerNorm) for module in model.modules())
    assert count == {"pre": 2 * 2 + 2 * 3 + 2, "post": 2 * 2 + 2 * 3, "none": 0}[norm]
