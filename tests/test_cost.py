"""Parameters, operations and bytes against torch's own counts, and by hand."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_settings import (
    LSTM_DECODERS,
    LSTM_ENCODERS,
    MAX_LENGTH,
    TARGET_VOCABULARY,
    TRANSFORMER_DECODERS,
    configs,
    dimensions_of,
    sized,
    source_of,
)
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from experiments.schema import PARAMETER_PARTS
from models.attention import keep_weights
from models.config import (
    Dimensions,
    LSTMConfig,
    LSTMTransformerConfig,
    ModelConfig,
    ModelError,
    TransformerConfig,
    TransformerLSTMConfig,
)
from models.cost import (
    PARTS,
    attention_share,
    count_parameters,
    decode_flops,
    encode_flops,
    forward_flops,
    generate_flops,
    on_meta,
    parameter_parts,
    start_flops,
    state_bytes,
    step_flops,
    training_flops,
    training_flops_per_token,
)
from models.registry import MODELS, build

lengths = st.integers(1, 9)
T = TypeVar("T")
BFLOAT16 = pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="no bfloat16 here")


def tokens(rows: int, length: int) -> Tensor:
    return torch.zeros(rows, length, dtype=torch.long, device="meta")


def counted(work: Callable[[], T]) -> tuple[int, T]:
    """Operations that torch counts, and what they result in."""
    with FlopCounterMode(display=False) as counter:
        result = work()
    return int(counter.get_total_flops()), result


# --- operations, as torch counts them ---------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(configs(), st.integers(1, 5), st.integers(1, 5), st.booleans())
def test_forward_flops_are_those_that_torch_counts(config: ModelConfig, source: int, target: int, keep: bool) -> None:
    """Of two sequences, in both halves; by the fused kernels and by the readable lines."""
    model = on_meta(config, dimensions_of(config))
    with keep_weights(model) if keep else nullcontext():
        encoding, memory = counted(lambda: model.encode(tokens(2, source), torch.tensor([source, source])))
        decoding, _ = counted(lambda: model.decoder(tokens(2, target), memory))
    assert 2 * encode_flops(config, source) == encoding
    assert 2 * decode_flops(config, source, target, TARGET_VOCABULARY) == decoding
    total = encode_flops(config, source) + decode_flops(config, source, target, TARGET_VOCABULARY)
    assert forward_flops(config, source, target, TARGET_VOCABULARY) == total


@settings(max_examples=30, deadline=None)
@given(configs(), st.integers(1, 5))
def test_start_and_step_flops_are_those_that_torch_counts(config: ModelConfig, source: int) -> None:
    """Of two sequences, at each position; what generation takes are the sums."""
    model = on_meta(config, dimensions_of(config)).eval()
    total, memory = counted(lambda: model.encode(tokens(2, source), torch.tensor([source, source])))
    starting, state = counted(lambda: model.start(memory, MAX_LENGTH))
    assert start_flops(config, source, TARGET_VOCABULARY, 2) == starting
    total += starting
    for position in range(4):
        assert generate_flops(config, source, position, TARGET_VOCABULARY, 2) == total
        stepping, (_, state) = counted(lambda state=state: model.step(tokens(2, 1)[:, 0], state))  # type: ignore[misc]
        assert 2 * step_flops(config, source, position, TARGET_VOCABULARY) == stepping
        total += stepping


def counted_training(config: ModelConfig, source: int, target: int, dimensions: Dimensions) -> int:
    """Forward and backward pass of one sequence; attention unfused, so that nothing is computed twice."""
    model = on_meta(config, dimensions)

    def train() -> None:
        with keep_weights(model):
            model(tokens(1, source), tokens(1, target), torch.tensor([source])).sum().backward()

    return counted(train)[0]


def not_needed(config: ModelConfig) -> int:
    """The gradients of what is zero at the first position: an LSTM encoder's states, and the vector that is fed."""
    operations = 0
    assert config.hidden_size is not None
    if isinstance(config, LSTM_ENCODERS):
        directions = 2 if config.bidirectional else 1
        cell = config.hidden_size // directions
        operations += config.layers * directions * 2 * cell * 4 * cell
    if isinstance(config, LSTM_DECODERS) and config.input_feeding:
        operations += 2 * config.hidden_size * 4 * config.hidden_size
    return operations


@settings(max_examples=20, deadline=None)
@given(configs(), st.integers(1, 4), st.integers(1, 4))
def test_training_flops_are_those_that_torch_counts(config: ModelConfig, source: int, target: int) -> None:
    """To the last one, but for gradients that torch knows are not needed."""
    expected = counted_training(config, source, target, dimensions_of(config)) + not_needed(config)
    assert training_flops(config, source, target, TARGET_VOCABULARY) == expected


@pytest.mark.parametrize("name", MODELS)
def test_training_flops_of_the_models(name: str) -> None:
    """The backward pass takes twice what the forward pass takes; at length 30 what is not needed is below 1 %."""
    config = sized(MODELS[name], 64, 48, 96)
    expected = counted_training(config, 30, 30, Dimensions(50, 70, False, 30))
    assert training_flops(config, 30, 30, 70) == pytest.approx(expected, rel=0.01)
    assert training_flops(config, 30, 30, 70) == 3 * forward_flops(config, 30, 30, 70)
    assert training_flops_per_token(config, 30, 70) == training_flops(config, 30, 30, 70) / 60


# --- operations, by hand ----------------------------------------------------------------------------------------------


def test_flops_of_a_transformer_by_hand() -> None:
    """One layer, hidden size 4, feed-forward 8, source 3, target 2, vocabulary 5, from the shapes in the paper."""
    config = TransformerConfig(layers=1, num_heads=1, hidden_size=4, feedforward_size=8)
    encoder = 3 * 2 * (4 * 4 * 4) + 2 * (2 * 3 * 3 * 4) + 3 * 2 * 2 * (4 * 8)
    own = 2 * 2 * (4 * 4 * 4) + 2 * (2 * 2 * 2 * 4)
    source = 3 * 2 * (2 * 4 * 4)
    cross = 2 * 2 * (2 * 4 * 4) + 2 * (2 * 2 * 3 * 4)
    assert encode_flops(config, 3) == encoder
    assert decode_flops(config, 3, 2, 5) == own + source + cross + 2 * 2 * 2 * (4 * 8) + 2 * 2 * 4 * 5
    assert start_flops(config, 3, 5, 2) == 2 * source
    step = 2 * (4 * 4 * 4) + 2 * (2 * 2 * 4) + 2 * (2 * 4 * 4) + 2 * (2 * 3 * 4) + 2 * 2 * (4 * 8) + 2 * 4 * 5
    assert step_flops(config, 3, 1, 5) == step  # at the second position, which looks at two


def test_flops_of_an_lstm_by_hand() -> None:
    """Two layers, hidden size 6 (3 each way), embedding 5, source 3, target 2, vocabulary 7."""
    config = LSTMConfig(layers=2, attention="general", hidden_size=6, embedding_size=5)
    first, second = 2 * (5 + 3) * (4 * 3), 2 * (6 + 3) * (4 * 3)
    assert encode_flops(config, 3) == 3 * 2 * (first + second)
    inputs, cells = 2 * 5 * 24, 2 * 6 * 24 + 2 * 12 * 24
    attention = 2 * (2 * 3 * 6) + 2 * 12 * 6  # scores, sum; attentional state
    position = cells + attention + 2 * 6 * 7
    assert decode_flops(config, 3, 2, 7) == 3 * (2 * 6 * 6) + 2 * (inputs + position)
    assert start_flops(config, 3, 7, 2) == 2 * 3 * (2 * 6 * 6) + 7 * inputs
    assert step_flops(config, 3, 0, 7) == step_flops(config, 3, 50, 7) == position


@given(configs(), st.integers(1, 9), st.integers(1, 9))
def test_attention_takes_what_grows_with_the_product_of_lengths(config: ModelConfig, source: int, target: int) -> None:
    """All other work is a constant and what is linear in each length, of which the second difference is none."""

    def work(factor: int) -> int:
        return forward_flops(config, factor * source, factor * target, 11)

    quadratic = (work(3) - 2 * work(2) + work(1)) / 2
    assert attention_share(config, source, target, 11) == pytest.approx(quadratic / work(1))


# --- parameters -------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(configs())
def test_parts_add_up(config: ModelConfig) -> None:
    model = on_meta(config, dimensions_of(config))
    parts = parameter_parts(model)
    assert tuple(parts) == PARTS
    assert sum(parts.values()) == count_parameters(model)
    real = {id(parameter): parameter.numel() for parameter in build(config, dimensions_of(config)).parameters()}
    assert count_parameters(model) == sum(real.values())


def test_the_tracked_names_are_those_of_the_parts() -> None:
    assert PARAMETER_PARTS == PARTS


DIMENSIONS = Dimensions(13, 9, False, 20)


def parts_of(config: ModelConfig, dimensions: Dimensions = DIMENSIONS) -> dict[str, int]:
    return parameter_parts(on_meta(config, dimensions))


def test_parts_of_lstms_by_hand() -> None:
    """A layer has 4H(I + H + 2) weights."""
    plain = LSTMConfig(hidden_size=6, embedding_size=5)
    encoder, decoder = 2 * 4 * 3 * (5 + 3 + 2), 4 * 6 * (5 + 6 + 2)
    parts = {"embedding": 13 * 5 + 9 * 5, "encoder": encoder, "attention": 0, "decoder": decoder, "output": 9 * 6 + 9}
    assert parts_of(plain) == parts
    assert parts_of(replace(plain, attention="general")) == parts | {"attention": 6 * 6 + 12 * 6}
    assert parts_of(replace(plain, attention="additive")) == parts | {"attention": 2 * 6 * 6 + 6 + 12 * 6}
    fed = replace(plain, attention="dot", input_feeding=True)
    assert parts_of(fed) == parts | {"attention": 12 * 6, "decoder": decoder + 4 * 6 * 6}
    deep = replace(plain, layers=3)  # two layers more, each with its norm, and the norm at the top
    more_encoder, more_decoder = 2 * (2 * 4 * 3 * (6 + 3 + 2) + 12) + 12, 2 * (4 * 6 * (6 + 6 + 2) + 12) + 12
    assert parts_of(deep) == parts | {"encoder": encoder + more_encoder, "decoder": decoder + more_decoder}
    shared = replace(plain, share_embeddings="output")
    assert parts_of(shared) == parts | {"output": 6 * 5 + 9}
    same = Dimensions(9, 9, True, 20)
    assert parts_of(replace(shared, share_embeddings="all"), same) == parts | {"embedding": 9 * 5, "output": 6 * 5 + 9}


def test_parts_of_transformers_by_hand() -> None:
    """Multi-head attention has 4(H² + H) weights, a feed-forward network 2HF + F + H, a norm 2H."""
    plain = TransformerConfig(layers=1, num_heads=2, hidden_size=6, feedforward_size=10)
    norm, attention, feedforward = 2 * 6, 4 * (6 * 6 + 6), 2 * 6 * 10 + 10 + 6
    half = feedforward + norm + norm  # one for the network, one at the top
    parts = {
        "embedding": (13 + 9 + 20 + 20) * 6,
        "encoder": half,
        "attention": 3 * (attention + norm),
        "decoder": half,
        "output": 9 * 6 + 9,
    }
    assert parts_of(plain) == parts
    assert parts_of(replace(plain, positions="alibi")) == parts | {"embedding": (13 + 9) * 6}
    assert parts_of(replace(plain, positions="rotary", num_heads=3)) == parts | {"embedding": (13 + 9) * 6}
    assert parts_of(replace(plain, cross_attention=False)) == parts | {"attention": 2 * (attention + norm)}
    gated = half + 6 * 10 + 10
    assert parts_of(replace(plain, feedforward="swiglu")) == parts | {"encoder": gated, "decoder": gated}
    without = {"encoder": feedforward, "attention": 3 * attention, "decoder": feedforward}
    assert parts_of(replace(plain, norm="none")) == parts | without
    assert parts_of(replace(plain, norm="post")) == parts | {"encoder": half - norm, "decoder": half - norm}
    assert parts_of(replace(plain, share_embeddings="output")) == parts | {"output": 9}


def test_parts_of_hybrids_by_hand() -> None:
    """Each half is that of its family; what starts an LSTM from a mean is a part of the decoder."""
    norm, feedforward = 2 * 6, 2 * 6 * 10 + 10 + 6
    attention = 4 * (6 * 6 + 6) + norm
    assert parts_of(sized(LSTMTransformerConfig(layers=1, num_heads=2), 6, 5, 10)) == {
        "embedding": 13 * 5 + (9 + 20) * 6,
        "encoder": 2 * 4 * 3 * (5 + 3 + 2),
        "attention": 2 * attention,
        "decoder": feedforward + norm + norm,
        "output": 9 * 6 + 9,
    }
    assert parts_of(sized(TransformerLSTMConfig(layers=1, num_heads=2, attention="general"), 6, 5, 10)) == {
        "embedding": (13 + 20) * 6 + 9 * 5,
        "encoder": feedforward + norm + norm,
        "attention": attention + 6 * 6 + 12 * 6,
        "decoder": 4 * 6 * (5 + 6 + 2) + 6 * 12 + 12,
        "output": 9 * 6 + 9,
    }


def test_what_is_on_meta_takes_no_memory() -> None:
    model = on_meta(sized(MODELS["transformer"], 1 << 20), DIMENSIONS)
    assert all(parameter.is_meta for parameter in model.parameters())


# --- bytes of decoding state ------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(configs(), lengths, lengths, st.sampled_from([torch.float32, torch.float64]))
def test_state_bytes_are_those_of_the_real_state(
    config: ModelConfig, source: int, target: int, dtype: torch.dtype
) -> None:
    model = build(config, dimensions_of(config)).to(dtype).eval()
    state = model.start(model.encode(source_of(config, 3, source, 0)), target)
    taken = sum(tensor.nbytes for tensor in state.tensors)
    assert taken == 3 * state_bytes(config, source, target, element_size=dtype.itemsize)
    _, state = model.step(torch.tensor([1, 1, 1]), state)
    assert sum(tensor.nbytes for tensor in state.tensors) == taken
    if dtype == torch.float32:
        assert taken == 3 * state_bytes(config, source, target)


@BFLOAT16
@settings(max_examples=60, deadline=None)
@given(configs(TRANSFORMER_DECODERS, cross_attention=False) | configs(), lengths, lengths)
def test_state_bytes_are_those_of_the_real_state_in_bfloat16(config: ModelConfig, source: int, target: int) -> None:
    """Whatever a layer normalisation leaves in float32 is cast once, where attention looks at it from every step.

    Without such attention the source in one vector is held in what the encoder's states have.
    """
    model = build(config, dimensions_of(config)).eval()
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        state = model.start(model.encode(source_of(config, 3, source, 0)), target)
        _, state = model.step(torch.tensor([1, 1, 1]), state)
    assert sum(tensor.nbytes for tensor in state.tensors) == 3 * state_bytes(config, source, target, element_size=2)


def test_how_state_grows() -> None:
    """An LSTM's not at all; with attention in proportion to the source, a Transformer's to source and target."""
    grids = {
        name: [[state_bytes(config, source, target) for source in (1, 2, 3)] for target in (1, 2, 3)]
        for name, config in (
            ("lstm", LSTMConfig(hidden_size=8, embedding_size=4)),
            ("lstm_attention", LSTMConfig(attention="general", hidden_size=8, embedding_size=4)),
            ("fed", LSTMConfig(attention="dot", input_feeding=True, hidden_size=8, embedding_size=4)),
            ("transformer", TransformerConfig(layers=1, hidden_size=8, feedforward_size=4)),
            ("without", TransformerConfig(layers=1, cross_attention=False, hidden_size=8, feedforward_size=4)),
        )
    }
    vector = 8 * 4  # bytes
    assert grids == {
        "lstm": [[2 * vector] * 3] * 3,
        "lstm_attention": [[(2 + 2 * source) * vector for source in (1, 2, 3)]] * 3,
        "fed": [[(3 + source) * vector for source in (1, 2, 3)]] * 3,
        "transformer": [[2 * (source + target) * vector for source in (1, 2, 3)] for target in (1, 2, 3)],
        "without": [[(2 * target + 1) * vector] * 3 for target in (1, 2, 3)],
    }


def test_a_model_without_widths_has_no_cost() -> None:
    for config in MODELS.values():
        for cost in (forward_flops, state_bytes):
            with pytest.raises(ModelError, match="neither stated nor solved for a budget"):
                cost(config, 3, 3, 5)


def test_counting_draws_nothing_and_loads_no_compiler() -> None:
    """Which torch would load, for seconds, to draw weights that have no memory."""
    code = (
        "import sys\n"
        "from models.config import Budget, Dimensions\n"
        "from models.matching import match\n"
        "from models.registry import MODELS\n"
        "for model in MODELS.values():\n"
        "    match(model, Budget(parameters=50_000), Dimensions(10, 12, False, 30))\n"
        "print(sum(name.startswith(('torch._dynamo', 'torch._inductor')) for name in sys.modules))\n"
    )
    root = Path(__file__).parents[1]
    result = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert result.stdout == "0\n"
