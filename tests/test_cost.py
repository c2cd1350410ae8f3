"""Parameters, operations and bytes against torch's own counts, and matching against its promise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from experiments.schema import PARAMETER_PARTS
from models.config import Dimensions, LSTMConfig, ModelConfig, TransformerConfig
from models.cost import (
    PARTS,
    count_parameters,
    decode_flops,
    encode_flops,
    forward_flops,
    on_meta,
    parameter_parts,
    state_bytes,
    training_flops,
)
from models.matching import TOLERANCE, MatchError, match
from models.registry import MODELS, build

DIMENSIONS = Dimensions(source_vocabulary=13, target_vocabulary=9, max_length=20)

lstm_configs = st.builds(
    LSTMConfig,
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    attention=st.sampled_from(["none", "general"]),
    hidden_size=st.sampled_from([4, 10]),
    embedding_size=st.sampled_from([3, 8]),
)
transformer_configs = st.builds(
    TransformerConfig,
    layers=st.integers(1, 3),
    num_heads=st.sampled_from([1, 2]),
    positions=st.sampled_from(["learned", "sinusoidal"]),
    hidden_size=st.sampled_from([4, 12]),
    feedforward_size=st.sampled_from([5, 16]),
)
configs = lstm_configs | transformer_configs


def counted(config: ModelConfig, source: int, target: int, *, backward: bool) -> int:
    """Operations that torch counts for two sequences, on the meta device."""
    model = on_meta(config, DIMENSIONS)
    tokens = torch.zeros(2, source, dtype=torch.long, device="meta")
    with FlopCounterMode(display=False) as counter:
        logits = model(tokens, tokens.new_zeros(2, target), torch.tensor([source, source]))
        if backward:
            logits.sum().backward()
    return counter.get_total_flops()


@settings(max_examples=40, deadline=None)
@given(configs, st.integers(1, 9), st.integers(1, 9))
def test_forward_flops_are_those_that_torch_counts(config: ModelConfig, source: int, target: int) -> None:
    ours = 2 * forward_flops(config, source, target, DIMENSIONS.target_vocabulary)
    assert ours == pytest.approx(counted(config, source, target, backward=False), rel=0.01)


@pytest.mark.parametrize("name", MODELS)
def test_training_flops_are_near_those_that_torch_counts(name: str) -> None:
    """The backward pass has two products for each of the forward pass; torch's fused attention repeats one more."""
    config = match(MODELS[name], 300_000, DIMENSIONS)
    ours = 2 * training_flops(config, 16, 16, DIMENSIONS.target_vocabulary)
    assert ours == pytest.approx(counted(config, 16, 16, backward=True), rel=0.03)


def test_flops_of_a_transformer_by_hand() -> None:
    """One layer, hidden size 4, feed-forward 8, source 3, target 2, vocabulary 5, from the shapes in the paper."""
    config = TransformerConfig(layers=1, num_heads=1, hidden_size=4, feedforward_size=8)
    encoder = 3 * 2 * (4 * 4 * 4) + 2 * (2 * 3 * 3 * 4) + 3 * 2 * 2 * (4 * 8)
    own = 2 * 2 * (4 * 4 * 4) + 2 * (2 * 2 * 2 * 4)
    cross = 2 * 2 * (2 * 4 * 4) + 3 * 2 * (2 * 4 * 4) + 2 * (2 * 2 * 3 * 4)
    assert encode_flops(config, 3) == encoder
    assert decode_flops(config, 3, 2, 5) == own + cross + 2 * 2 * 2 * (4 * 8) + 2 * 2 * 4 * 5


@settings(max_examples=40, deadline=None)
@given(configs)
def test_parts_add_up(config: ModelConfig) -> None:
    model = on_meta(config, DIMENSIONS)
    parts = parameter_parts(model)
    assert tuple(parts) == PARTS
    assert sum(parts.values()) == count_parameters(model)


def test_the_tracked_names_are_those_of_the_parts() -> None:
    assert PARAMETER_PARTS == PARTS


def test_parts_by_hand() -> None:
    """An LSTM layer has 4H(I + H + 2) weights; multi-head attention 4(H² + H); a feed-forward network 2HF + F + H."""
    lstm = LSTMConfig(layers=1, attention="general", hidden_size=6, embedding_size=5)
    assert parameter_parts(on_meta(lstm, DIMENSIONS)) == {
        "embedding": 13 * 5 + 9 * 5,
        "encoder": 2 * 4 * 3 * (5 + 3 + 2),
        "attention": 6 * 6 + 12 * 6,
        "decoder": 4 * 6 * (5 + 6 + 2),
        "output": 9 * 6 + 9,
    }
    transformer = TransformerConfig(layers=1, num_heads=2, hidden_size=6, feedforward_size=10)
    feedforward, norm = 2 * 6 * 10 + 10 + 6, 2 * 6
    assert parameter_parts(on_meta(transformer, DIMENSIONS)) == {
        "embedding": (13 + 9 + 20 + 20) * 6,
        "encoder": feedforward + norm + norm,
        "attention": 3 * (4 * (6 * 6 + 6) + norm),
        "decoder": feedforward + norm + norm,
        "output": 9 * 6 + 9,
    }


@settings(max_examples=30, deadline=None)
@given(configs, st.integers(1, 8), st.integers(1, 8))
def test_state_bytes_are_those_of_the_real_state(config: ModelConfig, source: int, target: int) -> None:
    model = build(config, DIMENSIONS).eval()
    state = model.start(model.encode(torch.full((3, source), 5)), max_length=target)
    assert sum(tensor.nbytes for tensor in state.tensors) == 3 * state_bytes(config, source, target)


@pytest.mark.parametrize("budget", [30_000, 100_000, 300_000, 1_000_000, 10_000_000, 100_000_000])
@pytest.mark.parametrize("vocabulary", [5, 100])
@pytest.mark.parametrize("name", MODELS)
def test_matching_meets_the_budget(name: str, vocabulary: int, budget: int) -> None:
    dimensions = Dimensions(vocabulary, vocabulary, max_length=40)
    config = match(MODELS[name], budget, dimensions)
    assert abs(count_parameters(on_meta(config, dimensions)) / budget - 1) <= TOLERANCE
    assert config.hidden_size is not None
    # Nothing is squeezed to meet it: the second width stays within a factor of two of its usual proportion.
    if isinstance(config, TransformerConfig):
        assert config.feedforward_size is not None
        assert 2 <= config.feedforward_size / config.hidden_size <= 8
    else:
        assert config.embedding_size is not None
        assert 0.5 <= config.embedding_size / config.hidden_size <= 2


def test_matching_refuses_what_cannot_be() -> None:
    with pytest.raises(MatchError, match=r"smallest model has .* more than the budget of 1,000"):
        match(TransformerConfig(), 1_000, Dimensions(10_000, 10_000, 20))
    with pytest.raises(MatchError, match="states its hidden_size"):
        match(replace(LSTMConfig(), hidden_size=8, embedding_size=8), 300_000, DIMENSIONS)
