"""What holds for every model, whatever its settings: drawn from all that are legal."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from model_settings import (
    SIZED,
    TARGET_VOCABULARY,
    assert_same,
    configs,
    dimensions_of,
    model_of,
    sized,
    source_of,
    target_of,
)
from torch import Tensor

from models.config import (
    Dimensions,
    LSTMConfig,
    LSTMTransformerConfig,
    ModelConfig,
    ModelError,
    TransformerConfig,
    TransformerLSTMConfig,
)
from models.interface import PAD, EncoderDecoder
from models.registry import MODELS, build

seeds = st.integers(0, 1000)


def stepwise(model: EncoderDecoder, source: Tensor, target_in: Tensor) -> Tensor:
    """The logits of `forward`, one step at a time."""
    state = model.start(model.encode(source), target_in.shape[1])
    logits = []
    for tokens in target_in.unbind(1):
        step_logits, state = model.step(tokens, state)
        logits.append(step_logits)
    return torch.stack(logits, dim=1)


@settings(max_examples=80, deadline=None)
@given(configs(), st.integers(1, 7), st.integers(1, 6), seeds)
@torch.no_grad()
def test_repeated_steps_equal_forward(config: ModelConfig, source_length: int, target_length: int, seed: int) -> None:
    model = model_of(config, seed)
    source = source_of(config, 3, source_length, seed, padded=True)
    target_in = target_of(3, target_length, seed)
    assert_same(stepwise(model, source, target_in), model(source, target_in))


@settings(max_examples=60, deadline=None)
@given(configs(), seeds)
@torch.no_grad()
def test_padding_changes_nothing(config: ModelConfig, seed: int) -> None:
    """Rows together give what each gives alone, and the same with still more padding."""
    model = model_of(config, seed)
    source, target_in = source_of(config, 4, 6, seed, padded=True), target_of(4, 5, seed)
    together = model(source, target_in)
    for row in range(4):
        length = int((source[row] != PAD).sum())
        assert_same(model(source[row : row + 1, :length], target_in[row : row + 1]), together[row : row + 1])
    wider = F.pad(source, (0, 3), value=PAD)
    assert_same(model(wider, target_in), together)
    assert_same(stepwise(model, wider, target_in), together)


@settings(max_examples=60, deadline=None)
@given(configs(), st.integers(0, 5), seeds)
@torch.no_grad()
def test_no_look_ahead(config: ModelConfig, position: int, seed: int) -> None:
    """Changing the target input at one position moves no earlier logits, and does move its own.

    With neither residual connections nor normalisation, the change can fade out below what float64 can tell.
    """
    model = model_of(config, seed)
    source, target_in = source_of(config, 4, 5, seed), target_of(4, 6, seed)
    changed = target_in.clone()
    changed[:, position] = (changed[:, position] - 3 + 1) % (TARGET_VOCABULARY - 3) + 3
    before, after = model(source, target_in), model(source, changed)
    assert_same(after[:, :position], before[:, :position], 1e-12)
    if config.residual or config.norm != "none":
        assert not torch.equal(after[:, position], before[:, position])


@settings(max_examples=30, deadline=None)
@given(configs(), seeds)
@torch.no_grad()
def test_lengths_that_are_given_are_those_that_are_counted(config: ModelConfig, seed: int) -> None:
    model = model_of(config, seed)
    target_in = target_of(4, 5, seed)
    for padded in (False, True):
        source = source_of(config, 4, 6, seed, padded=padded)
        lengths = (source != PAD).sum(1)
        assert torch.equal(model(source, target_in, lengths), model(source, target_in))
        assert torch.equal(model.encode(source, lengths).states, model.encode(source).states)


@settings(max_examples=30, deadline=None)
@given(configs(), seeds)
@torch.no_grad()
def test_an_unpadded_batch_has_no_mask(config: ModelConfig, seed: int) -> None:
    """So that the kernels without a mask are taken; else the mask says where the tokens are."""
    model = model_of(config, seed)
    whole = source_of(config, 3, 5, seed)
    assert model.encode(whole).mask is None
    padded = whole.clone()
    padded[1, 3:] = PAD
    mask = model.encode(padded).mask
    assert mask is not None
    assert torch.equal(mask, padded != PAD)


@settings(max_examples=30, deadline=None)
@given(configs(dropout=0.4), seeds)
@torch.no_grad()
def test_dropout_is_off_in_evaluation_and_on_in_training(config: ModelConfig, seed: int) -> None:
    model = model_of(config, seed)
    source, target_in = source_of(config, 4, 6, seed), target_of(4, 5, seed)
    assert torch.equal(model(source, target_in), model(source, target_in))
    assert_same(model(source, target_in), model_of(replace(config, dropout=0.0), seed)(source, target_in), 0)
    model.train()
    assert not torch.equal(model(source, target_in), model(source, target_in))


@settings(max_examples=30, deadline=None)
@given(configs(), seeds)
@torch.no_grad()
def test_state_dict_round_trip(config: ModelConfig, seed: int) -> None:
    """Into a freshly built model of another seed; weights that are shared stay shared."""
    model, other = model_of(config, seed), model_of(config, seed + 1)
    source, target_in = source_of(config, 3, 6, seed), target_of(3, 4, seed)
    assert not torch.equal(model(source, target_in), other(source, target_in))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(source, target_in), other(source, target_in))
    count = [sum(parameter.numel() for parameter in each.parameters()) for each in (model, other)]
    assert count[0] == count[1]
    if config.share_embeddings != "none":
        assert other.decoder.output.weight is other.decoder.embedding.weight
    if config.share_embeddings == "all":
        assert other.encoder.embedding.weight is other.decoder.embedding.weight


@settings(max_examples=60, deadline=None)
@given(configs(), st.integers(0, 4), st.lists(st.integers(0, 3), min_size=1, max_size=6), seeds)
@torch.no_grad()
def test_selected_rows_go_on_as_they_would_have(config: ModelConfig, when: int, chosen: list[int], seed: int) -> None:
    """In another order, repeated or dropped, and whatever becomes of the state they were taken from."""
    model = model_of(config, seed)
    source, target_in = source_of(config, 4, 6, seed, padded=True), target_of(4, 6, seed)
    expected = model(source, target_in)
    state = model.start(model.encode(source), 6)
    for position in range(when):
        _, state = model.step(target_in[:, position], state)
    rows = torch.tensor(chosen)
    selected = state.select(rows)
    assert [len(tensor) for tensor in selected.tensors] == [len(rows)] * len(state.tensors)
    for position in range(when, 6):
        _, state = model.step(target_in.flip(0)[:, position], state)
        logits, selected = model.step(target_in[rows, position], selected)
        assert_same(logits, expected[rows, position])


@settings(max_examples=30, deadline=None)
@given(configs(), seeds)
def test_every_weight_has_a_gradient(config: ModelConfig, seed: int) -> None:
    """But for what normalises the top of an LSTM encoder, where its final state alone is handed on."""
    model = model_of(config, seed)
    model(source_of(config, 3, 5, seed), target_of(3, 4, seed)).sum().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    allowed = set()
    if isinstance(config, LSTMConfig) and config.attention == "none":
        last = 0 if config.share_layers else config.layers - 2
        allowed = {f"encoder.recurrence.{norm}" for norm in ("norm", f"sublayers.{last}.norm")}
    assert {name.rpartition(".")[0] for name in without} <= allowed


@pytest.mark.parametrize("name", SIZED)
@torch.no_grad()
def test_the_source_matters_and_so_does_its_order(name: str) -> None:
    model = model_of(SIZED[name])
    source, target_in = source_of(SIZED[name], 2, 6, 1), target_of(2, 4, 2)
    assert (model(source.flip(1), target_in) - model(source, target_in)).abs().max() > 1e-4


# --- gradients --------------------------------------------------------------------------------------------------------

OTHERS: dict[str, ModelConfig] = {
    "additive, post": LSTMConfig(layers=2, attention="additive", norm="post"),
    "additive, fed": LSTMConfig(attention="additive", input_feeding=True, bidirectional=False),
    "dot, fed, deep": LSTMConfig(layers=3, attention="dot", input_feeding=True, share_layers=True),
    "general, plain": LSTMConfig(layers=2, attention="general", norm="none", residual=False, share_embeddings="output"),
    "multi_head": LSTMConfig(layers=2, attention="multi_head", num_heads=2, share_embeddings="all"),
    "multi_head, fed": TransformerLSTMConfig(layers=2, attention="multi_head", num_heads=2, input_feeding=True),
    "no attention": TransformerLSTMConfig(attention="none", num_heads=1, share_embeddings="output"),
    "rotary, swiglu": TransformerConfig(num_heads=2, positions="rotary", feedforward="swiglu", share_embeddings="all"),
    "alibi, gelu": TransformerConfig(num_heads=3, positions="alibi", feedforward="gelu", norm="post"),
    "sinusoidal, shared": TransformerConfig(num_heads=2, positions="sinusoidal", share_layers=True),
    "no positions, linear": TransformerConfig(num_heads=1, positions="none", feedforward="linear", norm="none"),
    "no cross-attention": TransformerConfig(num_heads=2, cross_attention=False, residual=False),
    "hybrid without": LSTMTransformerConfig(num_heads=2, cross_attention=False, bidirectional=False, positions="alibi"),
}


@pytest.mark.parametrize("config", [*MODELS.values(), *OTHERS.values()], ids=[*MODELS, *OTHERS])
def test_gradients_are_those_of_finite_differences(config: ModelConfig) -> None:
    """Of the logits with respect to all weights: `gradcheck` changes these in place."""
    config = sized(config, config.hidden_multiple * (1 if config.hidden_multiple > 3 else 4), 3, 5)
    same = config.share_embeddings == "all"
    model = model_of(config, dimensions=Dimensions(7 if same else 6, 7, same, 4))
    source, target_in = torch.tensor([[3, 5, 4], [4, 3, PAD]]), torch.tensor([[1, 6, 3], [1, 4, 5]])

    def logits(*_: Tensor) -> Tensor:
        return model(source, target_in)

    assert torch.autograd.gradcheck(logits, tuple(model.parameters()), fast_mode=True, check_undefined_grad=False)


# --- the registry -----------------------------------------------------------------------------------------------------


def test_the_five_models() -> None:
    assert list(MODELS) == ["lstm", "lstm_attention", "transformer", "lstm_transformer", "transformer_lstm"]
    halves = {
        name: (type(model.encoder).__name__, type(model.decoder).__name__)
        for name, model in ((name, build(config, dimensions_of(config))) for name, config in SIZED.items())
    }
    assert halves == {
        "lstm": ("LSTMEncoder", "LSTMDecoder"),
        "lstm_attention": ("LSTMEncoder", "LSTMDecoder"),
        "transformer": ("TransformerEncoder", "TransformerDecoder"),
        "lstm_transformer": ("LSTMEncoder", "TransformerDecoder"),
        "transformer_lstm": ("TransformerEncoder", "LSTMDecoder"),
    }


def test_a_model_without_widths_is_refused() -> None:
    with pytest.raises(ModelError, match=r"neither stated nor solved for a budget \(models.matching.match\)"):
        build(LSTMConfig(), dimensions_of(LSTMConfig()))
