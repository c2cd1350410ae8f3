"""The LSTM family against torch's own layers and cells, and against the papers' equations position by position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_settings import (
    assert_same,
    dimensions_of,
    layer_norm,
    model_of,
    sized,
    source_of,
    target_of,
)
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from models.attention import AdditiveAttention, CrossAttention, LuongAttention
from models.config import LSTMConfig, LSTMTransformerConfig, ModelConfig, TransformerLSTMConfig
from models.cost import on_meta
from models.interface import PAD, Memory
from models.layers import Sublayer
from models.lstm import LSTMDecoder, LSTMEncoder, Recurrence, gate_weights, in_one_piece, lstm_cell
from models.registry import build

Pair = tuple[Tensor, Tensor]  # hidden and cell state
WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)


def lstm_config(**options: object) -> LSTMConfig:
    config = sized(LSTMConfig(**options))  # type: ignore[arg-type]
    assert isinstance(config, LSTMConfig)
    return config


def layers_of(recurrence: Recurrence) -> list[nn.LSTM]:
    layers = [recurrence.first, *recurrence.above]
    assert all(isinstance(layer, nn.LSTM) for layer in layers)
    return layers


# --- torch's LSTM: nothing between the layers -------------------------------------------------------------------------


@pytest.mark.parametrize("precision", [torch.float64, torch.float32])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("layers", [1, 3])
def test_a_plain_stack_equals_torchs(layers: int, bidirectional: bool, padded: bool, precision: torch.dtype) -> None:
    """Outputs at tokens, final states, gradients of inputs and of all weights; of float32 there is another kernel."""
    torch.manual_seed(0)
    tolerance = 1e-10 if precision == torch.float64 else 1e-5
    config = lstm_config(layers=layers, norm="none", residual=False, bidirectional=bidirectional)
    recurrence = Recurrence(config, 10, bidirectional=bidirectional).to(precision)
    hidden = 6 if bidirectional else 12
    theirs = nn.LSTM(10, hidden, layers, bidirectional=bidirectional, dtype=precision)
    pairs = []
    for number, layer in enumerate(layers_of(recurrence)):
        for direction in ("", "_reverse") if bidirectional else ("",):
            for name in WEIGHTS:
                pairs.append((getattr(layer, f"{name}_l0{direction}"), getattr(theirs, f"{name}_l{number}{direction}")))
    for our, their in pairs:
        their.data.copy_(our.data)

    x, lengths = numbers(6, 4, 10).to(precision), torch.tensor([6, 2, 5, 1] if padded else [6, 6, 6, 6])
    mask = torch.arange(6) < lengths[:, None]
    actual, finals = recurrence(x, None, mask if padded else None)
    packed, final = theirs(pack_padded_sequence(x, lengths, enforce_sorted=False))
    expected, _ = pad_packed_sequence(packed)
    tokens = mask.t()
    assert_same(actual[tokens], expected[tokens], tolerance)
    assert len(finals) == layers
    for part in (0, 1):
        assert_same(torch.cat([pair[part] for pair in finals]), final[part], tolerance)

    upstream = numbers(*actual[tokens].shape, seed=1).to(precision)
    end = [numbers(*final[0].shape, seed=seed).to(precision) for seed in (2, 3)]
    own = (actual[tokens] * upstream).sum()
    other = (expected[tokens] * upstream).sum()
    for part in (0, 1):
        own = own + (torch.cat([pair[part] for pair in finals]) * end[part]).sum()
        other = other + (final[part] * end[part]).sum()
    for one, two in zip(
        torch.autograd.grad(own, [x, *(our for our, _ in pairs)]),
        torch.autograd.grad(other, [x, *(their for _, their in pairs)]),
        strict=True,
    ):
        assert_same(one, two, tolerance)


class Operations(TorchDispatchMode):
    """What torch is asked to do."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(function.name())
        return function(*args, **(kwargs or {}))


def operations(length: int, padding: int) -> list[str]:
    """Of a training step."""
    config = lstm_config(layers=2)
    model = build(config, dimensions_of(config))
    source = F.pad(source_of(config, 4, length - padding, 0), (0, padding), value=PAD)
    source[0] = source_of(config, 1, length, 1)
    with Operations() as found:
        model(source, target_of(4, 5, 0), (source != PAD).sum(1)).sum().backward()
    return found.names


def test_padded_sequences_are_not_read_position_by_position() -> None:
    """On a processor that takes several times as long."""
    assert operations(40, 3) == operations(10, 3) == operations(10, 1)


def test_padded_sequences_do_not_wait_for_the_device() -> None:
    """Nor does their gradient: on the device "meta", which has no numbers, nothing asks for one."""
    config = lstm_config(layers=2, attention="dot")
    model = on_meta(config, dimensions_of(config))
    source = source_of(config, 4, 10, 0, padded=True)
    logits = model(source.to("meta"), target_of(4, 5, 0).to("meta"), (source != PAD).sum(1))
    logits.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_weights_in_one_piece_are_the_same() -> None:
    weights = list(nn.LSTM(5, 7, bidirectional=True).parameters())
    placed = in_one_piece(weights)
    assert all(torch.equal(one, other) for one, other in zip(placed, weights, strict=True))
    matrices, biases = ([one for one in placed if one.dim() == dimensions] for dimensions in (2, 1))
    end = 0
    for weight in (*matrices, *biases):
        assert weight.is_contiguous()
        assert weight.storage_offset() == end
        end += weight.numel()
    assert {weight.untyped_storage().data_ptr() for weight in placed} == {placed[0].untyped_storage().data_ptr()}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.filterwarnings("error")  # cuDNN's weights that are not in one piece
def test_on_cuda_padded_sequences_are_those_of_the_processor_and_nobody_waits() -> None:
    config = sized(LSTMConfig(layers=2, attention="dot"), 64, 33)
    torch.manual_seed(0)
    model = build(config, dimensions_of(config))
    source, target_in = source_of(config, 8, 12, 0, padded=True), target_of(8, 9, 0)
    lengths = (source != PAD).sum(1)
    on_cpu = model(source, target_in, lengths)
    on_cpu.square().mean().backward()
    expected = [parameter.grad for parameter in model.parameters()]
    model.zero_grad()
    model.to("cuda")
    there, fed = source.cuda(), target_in.cuda()
    model(there, fed, lengths)  # what is made at the first call
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        on_cuda = model(there, fed, lengths)
        on_cuda.square().mean().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    torch.testing.assert_close(on_cuda.cpu(), on_cpu, rtol=1e-3, atol=1e-4)
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad.cpu(), gradient, rtol=1e-2, atol=1e-5)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_encoder_equals_torchs_on_padded_sources(bidirectional: bool) -> None:
    """States, zero where there is padding, and both directions' final states side by side."""
    config = lstm_config(layers=1, bidirectional=bidirectional)
    encoder = model_of(config).encoder
    assert isinstance(encoder, LSTMEncoder)
    source = source_of(config, 4, 6, 0, padded=True)
    lengths = (source != PAD).sum(1)
    embedded = encoder.embedding.weight[source] * 10**0.5
    packed, (hidden, cell) = encoder.recurrence.first(
        pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
    )
    expected, _ = pad_packed_sequence(packed, batch_first=True, total_length=6)
    memory = encoder(source, lengths)
    assert_same(memory.states, expected)
    assert not memory.states[source == PAD].any()
    assert memory.final is not None
    ((last_hidden, last_cell),) = memory.final
    assert_same(last_hidden, torch.cat(list(hidden), dim=-1))
    assert_same(last_cell, torch.cat(list(cell), dim=-1))


# --- torch's cell, one position after the other -----------------------------------------------------------------------


def cell_of(lstm: nn.LSTM, direction: str = "") -> nn.LSTMCell:
    weights = [getattr(lstm, f"{name}_l0{direction}") for name in WEIGHTS]
    cell = nn.LSTMCell(weights[0].shape[1], weights[1].shape[1], dtype=torch.float64)
    for name, weight in zip(WEIGHTS, weights, strict=True):
        getattr(cell, name).data.copy_(weight)
    return cell


def scan(cell: nn.LSTMCell, inputs: Sequence[Tensor], state: Pair | None) -> tuple[list[Tensor], Pair]:
    hidden = []
    for x in inputs:
        state = cell(x, state)
        hidden.append(state[0])
    assert state is not None
    return hidden, state


def run_layer(lstm: nn.LSTM, inputs: list[Tensor], state: Pair | None) -> tuple[list[Tensor], Pair]:
    """A layer over all positions, both ways where it has both; the final states side by side."""
    forward, (hidden, cell) = scan(cell_of(lstm), inputs, state)
    if not lstm.bidirectional:
        return forward, (hidden, cell)
    backward, (other_hidden, other_cell) = scan(cell_of(lstm, "_reverse"), inputs[::-1], None)
    both = [torch.cat(pair, dim=-1) for pair in zip(forward, backward[::-1], strict=True)]
    return both, (torch.cat([hidden, other_hidden], dim=-1), torch.cat([cell, other_cell], dim=-1))


def run_stack(
    recurrence: Recurrence, config: ModelConfig, x: list[Tensor], starts: Sequence[Pair | None]
) -> tuple[list[Tensor], list[Pair]]:
    """The formulas of `models.layers.Sublayer` around the layers above the first."""
    first, *above = layers_of(recurrence)
    x, final = run_layer(first, x, starts[0])
    finals = [final]
    for lstm, sublayer, start in zip(above, recurrence.sublayers, starts[1:], strict=True):
        assert isinstance(sublayer, Sublayer)
        read = [layer_norm(vector, sublayer.norm) for vector in x] if config.norm == "pre" else x
        y, final = run_layer(lstm, read, start)
        x = [before + made for before, made in zip(x, y, strict=True)] if config.residual else y
        if config.norm == "post":
            x = [layer_norm(vector, sublayer.norm) for vector in x]
        finals.append(final)
    if config.norm == "pre" and above:
        x = [layer_norm(vector, recurrence.norm) for vector in x]
    return x, finals


STACKS = list(product(["pre", "post", "none"], [True, False], [False, True]))


@pytest.mark.parametrize(("norm", "residual", "share"), STACKS)
def test_encoder_and_decoder_equal_cells_with_what_stands_around_them(norm: str, residual: bool, share: bool) -> None:
    for layers, bidirectional in ((1, True), (3, True), (3, False)):
        config = lstm_config(
            layers=layers, norm=norm, residual=residual, share_layers=share, bidirectional=bidirectional
        )
        model = model_of(config)
        assert isinstance(model.encoder, LSTMEncoder)
        assert isinstance(model.decoder, LSTMDecoder)
        source, target_in = source_of(config, 3, 5, 1), target_of(3, 4, 1)
        embedded = (model.encoder.embedding.weight[source] * 10**0.5).unbind(1)
        states, finals = run_stack(model.encoder.recurrence, config, list(embedded), [None] * layers)
        memory = model.encode(source)
        assert_same(memory.states, torch.stack(states, dim=1))
        assert memory.final is not None
        for own, expected in zip(memory.final, finals, strict=True):
            assert_same(torch.cat(own), torch.cat(expected))

        embedded = (model.decoder.embedding.weight[target_in] * 10**0.5).unbind(1)
        states, _ = run_stack(model.decoder.recurrence, config, list(embedded), finals)
        assert_same(model(source, target_in), model.decoder.output(torch.stack(states, dim=1)))


@pytest.mark.parametrize("layers", [1, 2])
def test_under_autocast_a_recurrence_works_in_float32(layers: int) -> None:
    """All positions at once, step by step, and its gradients are those without autocast, bit for bit."""
    torch.manual_seed(0)
    recurrence = Recurrence(LSTMConfig(layers=layers, hidden_size=16, embedding_size=8), 8, bidirectional=False)
    x, start = torch.randn(5, 3, 8), [(torch.randn(1, 3, 16), torch.randn(1, 3, 16)) for _ in range(layers)]
    start = [(hidden.bfloat16().float(), cell.bfloat16().float()) for hidden, cell in start]

    def found(autocast: bool) -> list[Tensor]:
        recurrence.zero_grad()
        given = [(hidden.bfloat16(), cell.bfloat16()) for hidden, cell in start] if autocast else start
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            states, finals = recurrence(x, given)
            weights = recurrence.step_weights()
            projected = weights.first.project(x[0])
            before = [(hidden[0], cell[0]) for hidden, cell in given]
            top, _ = recurrence.step(
                projected.bfloat16() if autocast else projected.bfloat16().float(), before, weights
            )
        states.square().sum().backward()
        gradients = [parameter.grad for parameter in recurrence.parameters() if parameter.grad is not None]
        return [states, top, *(tensor for pair in finals for tensor in pair), *gradients]

    alone, autocast = found(autocast=False), found(autocast=True)
    assert {tensor.dtype for tensor in autocast} == {torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(alone[2:] + alone[:1], autocast[2:] + autocast[:1], strict=True))
    torch.testing.assert_close(autocast[1], alone[1], rtol=1e-2, atol=1e-2)  # of inputs that were projected in bfloat16


def test_the_cell_equals_torchs() -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(5, 7, batch_first=True, dtype=torch.float64)
    x, hidden, cell = numbers(3, 5), numbers(3, 7, seed=1), numbers(3, 7, seed=2)
    expected = cell_of(lstm)(x, (hidden, cell))
    weights = gate_weights(lstm)
    actual = lstm_cell(weights, weights.project(x), (hidden, cell))
    assert_same(torch.stack(actual), torch.stack(expected), 1e-12)


# --- the decoder, position by position --------------------------------------------------------------------------------


def attended(decoder: LSTMDecoder, top: Tensor, source: Tensor) -> Tensor:
    """tanh(W [c; h]) of one decoder state h (H,) and the states (S, H) it looks at (Luong et al. 2015, equation 5)."""
    attention = decoder.attention
    if isinstance(attention, CrossAttention):
        size = attention.head_size
        query, (key, value) = attention.query(top), attention.key_value(source).chunk(2, dim=-1)
        heads = []
        for part in (slice(head * size, (head + 1) * size) for head in range(attention.num_heads)):
            heads.append((key[:, part] @ query[part] / size**0.5).softmax(0) @ value[:, part])
        context = attention.output(torch.cat(heads))
    else:
        scores = []
        for state in source:
            if isinstance(attention, AdditiveAttention):
                fit = torch.tanh(attention.query.weight @ top + attention.key.weight @ state)
                scores.append(attention.score.weight[0] @ fit)
            else:
                assert isinstance(attention, LuongAttention)
                scores.append(top @ (state if attention.key is None else attention.key.weight @ state))
        context = torch.stack(scores).softmax(0) @ source
    return torch.tanh(decoder.attentional.weight @ torch.cat([context, top]))


@pytest.mark.parametrize("input_feeding", [False, True])
@pytest.mark.parametrize("attention", ["additive", "dot", "general", "multi_head"])
def test_attention_and_input_feeding_are_those_of_the_paper(attention: str, input_feeding: bool) -> None:
    """Luong et al. 2015, sections 3.1 and 3.3: each input is [embedding; attentional state before], zero at first."""
    heads = 3 if attention == "multi_head" else None
    config = lstm_config(layers=2, attention=attention, input_feeding=input_feeding, num_heads=heads)
    model = model_of(config)
    decoder = model.decoder
    assert isinstance(decoder, LSTMDecoder)
    source, target_in = source_of(config, 3, 5, 1, padded=True), target_of(3, 4, 1)
    memory = model.encode(source)
    assert memory.final is not None
    actual = model(source, target_in)
    for row in range(3):
        seen = memory.states[row, : int((source[row] != PAD).sum())]
        states: list[Pair] = [(hidden[row, None], cell[row, None]) for hidden, cell in memory.final]
        fed = torch.zeros(1, 12, dtype=torch.float64)
        for t, token in enumerate(target_in[row]):
            x = decoder.embedding.weight[token][None] * 10**0.5
            x = torch.cat([x, fed], dim=-1) if input_feeding else x
            (top,), states = run_stack(decoder.recurrence, config, [x], states)
            fed = attended(decoder, top[0], seen)[None]
            assert_same(actual[row, t], decoder.output(fed)[0])


def test_what_is_fed_counts_from_the_second_position_on() -> None:
    config = lstm_config(attention="general", input_feeding=True)
    model = model_of(config)
    assert isinstance(model.decoder, LSTMDecoder)
    source, target_in = source_of(config, 3, 5, 1), target_of(3, 4, 1)
    before = model(source, target_in)
    model.decoder.recurrence.first.all_weights[0][0].data[:, 10:] = 0.0  # the columns of the fed vector
    after = model(source, target_in)
    assert_same(after[:, 0], before[:, 0], 1e-12)
    assert (after[:, 1:] - before[:, 1:]).abs().amin() > 1e-8


def test_the_fed_vector_takes_no_part_where_it_is_not_asked_for() -> None:
    plain, fed = (build(lstm_config(attention="dot", input_feeding=on), dimensions_of(lstm_config())) for on in (0, 1))
    sizes = [sum(parameter.numel() for parameter in model.parameters()) for model in (plain, fed)]
    assert sizes[1] - sizes[0] == 12 * 4 * 12


@pytest.mark.parametrize("layers", [1, 3])
def test_the_bridge_from_an_encoder_without_final_state(layers: int) -> None:
    """tanh(W mean + b): of each layer in turn the hidden, then the cell state; padding is no part of the mean."""
    config = sized(TransformerLSTMConfig(layers=layers, num_heads=2))
    model = model_of(config)
    decoder = model.decoder
    assert isinstance(decoder, LSTMDecoder)
    assert decoder.bridge is not None
    source, target_in = source_of(config, 3, 5, 1, padded=True), target_of(3, 4, 1)
    memory = model.encode(source)
    assert memory.final is None
    lengths = (source != PAD).sum(1)
    mean = torch.stack([memory.states[row, : lengths[row]].sum(0) / lengths[row] for row in range(3)])
    parts = torch.tanh(mean @ decoder.bridge.weight.T + decoder.bridge.bias).split(12, dim=-1)
    assert len(parts) == 2 * layers
    starts = [(parts[2 * layer], parts[2 * layer + 1]) for layer in range(layers)]
    for own, expected in zip(decoder.start(memory, 4).layers, starts, strict=True):
        assert_same(torch.cat(own), torch.cat(expected))
    expected_logits = model(source, target_in)
    decoder.bridge = None
    assert_same(model.decoder(target_in, Memory(memory.states, memory.mask, starts)), expected_logits)


def test_an_lstm_encoder_hands_its_final_states_on_layer_by_layer() -> None:
    config = lstm_config(layers=3)
    model = model_of(config)
    assert isinstance(model.decoder, LSTMDecoder)
    assert model.decoder.bridge is None
    memory = model.encode(source_of(config, 2, 5, 0))
    assert model.decoder.start(memory, 4).layers == memory.final


# --- what the settings say --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [LSTMConfig, LSTMTransformerConfig])
@pytest.mark.parametrize("bidirectional", [False, True])
@torch.no_grad()
def test_the_first_state_knows_the_last_token_where_both_ways_are_read(kind: type, bidirectional: bool) -> None:
    config = sized(kind(bidirectional=bidirectional))
    model = model_of(config)
    source = source_of(config, 2, 6, 0)
    changed = source.clone()
    changed[:, -1] = (changed[:, -1] - 3 + 1) % 8 + 3
    moved = (model.encode(changed).states - model.encode(source).states).abs().amax(-1)
    assert bool((moved[:, 0] > 0).all()) == bidirectional
    assert (moved[:, -1] > 1e-4).all()


def test_attention_without_heads_has_the_weights_of_its_equation() -> None:
    base = lstm_config()
    sizes = {}
    for kind, heads in (("none", None), ("dot", None), ("general", None), ("additive", None), ("multi_head", 3)):
        config = replace(base, attention=kind, num_heads=heads)  # type: ignore[arg-type]
        sizes[kind] = sum(parameter.numel() for parameter in build(config, dimensions_of(config)).parameters())
    attentional = 2 * 12 * 12
    assert {kind: size - sizes["none"] - attentional for kind, size in sizes.items() if kind != "none"} == {
        "dot": 0,
        "general": 12 * 12,
        "additive": 2 * 12 * 12 + 12,
        "multi_head": 4 * (12 * 12 + 12),
    }
