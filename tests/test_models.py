"""The models against independent truths: torch's own modules, the papers' equations, their own step-by-step form."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from models.attention import CrossAttention, LuongAttention, SelfAttention
from models.config import Dimensions, LSTMConfig, ModelConfig, TransformerConfig
from models.decoding import greedy
from models.embeddings import TokenEmbedding
from models.interface import BOS, EOS, PAD, EncoderDecoder, Memory
from models.lstm import LSTMDecoder, LSTMEncoder
from models.positions import LearnedPositions, SinusoidalPositions, sinusoids
from models.registry import MODELS, build
from models.transformer import DecoderLayer, EncoderLayer, TransformerDecoder, TransformerEncoder

VOCABULARY = 11
DIMENSIONS = Dimensions(VOCABULARY, VOCABULARY, max_length=60)
States = tuple[Tensor, Tensor]  # hidden and cell

lstm_configs = st.builds(
    LSTMConfig,
    layers=st.integers(1, 3),
    bidirectional=st.booleans(),
    attention=st.sampled_from(["none", "general"]),
    dropout=st.sampled_from([0.0, 0.4]),
    hidden_size=st.sampled_from([4, 10]),
    embedding_size=st.sampled_from([3, 8]),
)
transformer_configs = st.builds(
    TransformerConfig,
    layers=st.integers(1, 3),
    num_heads=st.sampled_from([1, 2, 4]),
    positions=st.sampled_from(["learned", "sinusoidal"]),
    dropout=st.sampled_from([0.0, 0.4]),
    hidden_size=st.sampled_from([4, 12]),
    feedforward_size=st.sampled_from([5, 16]),
)
configs = lstm_configs | transformer_configs
SIZED: dict[str, ModelConfig] = {
    name: replace(config, hidden_size=12, embedding_size=10)
    if isinstance(config, LSTMConfig)
    else replace(config, hidden_size=12, feedforward_size=20)
    for name, config in MODELS.items()
}


def model_of(config: ModelConfig, seed: int = 0) -> EncoderDecoder:
    torch.manual_seed(seed)
    return build(config, DIMENSIONS).double().eval()


def sequences(rows: int, length: int, seed: int, *, padded: bool = False) -> Tensor:
    """Random tokens; where padded, every row but the first ends earlier or as late."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(3, VOCABULARY, (rows, length), generator=generator)
    if padded:
        for row in range(1, rows):
            tokens[row, int(torch.randint(1, length + 1, (1,), generator=generator)) :] = PAD
    return tokens


@settings(max_examples=60, deadline=None)
@given(configs, st.integers(1, 7), st.integers(1, 6), st.integers(0, 1000))
def test_repeated_steps_equal_forward(config: ModelConfig, source_length: int, target_length: int, seed: int) -> None:
    model = model_of(config, seed)
    source = sequences(3, source_length, seed, padded=True)
    target_in = sequences(3, target_length, seed + 1)
    with torch.no_grad():
        expected = model(source, target_in)
        state = model.start(model.encode(source), target_length)
        for position in range(target_length):
            logits, state = model.step(target_in[:, position], state)
            torch.testing.assert_close(logits, expected[:, position], rtol=0, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(configs, st.integers(0, 1000))
def test_padding_changes_nothing(config: ModelConfig, seed: int) -> None:
    model = model_of(config, seed)
    source = sequences(4, 6, seed, padded=True)
    target_in = sequences(4, 5, seed + 1)
    together = model(source, target_in)
    for row in range(4):
        length = int((source[row] != PAD).sum())
        alone = model(source[row : row + 1, :length], target_in[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-10)
    wider = model(F.pad(source, (0, 3), value=PAD), target_in)
    torch.testing.assert_close(wider, together, rtol=0, atol=1e-10)


@settings(max_examples=40, deadline=None)
@given(configs, st.integers(1, 5), st.integers(0, 1000))
def test_no_look_ahead(config: ModelConfig, position: int, seed: int) -> None:
    """Changing one target input moves no earlier logits, and does move its own."""
    model = model_of(config, seed)
    source, target_in = sequences(2, 5, seed), sequences(2, 6, seed + 1)
    changed = target_in.clone()
    changed[:, position] = (changed[:, position] - 3 + 1) % (VOCABULARY - 3) + 3
    before, after = model(source, target_in), model(source, changed)
    torch.testing.assert_close(after[:, :position], before[:, :position], rtol=0, atol=1e-12)
    assert (after[:, position] - before[:, position]).abs().max() > 1e-6


@pytest.mark.parametrize("name", SIZED)
def test_lengths_from_outside_change_nothing(name: str) -> None:
    model = model_of(SIZED[name])
    source, target_in = sequences(4, 6, 1, padded=True), sequences(4, 5, 2)
    lengths = (source != PAD).sum(1)
    torch.testing.assert_close(model(source, target_in, lengths), model(source, target_in), rtol=0, atol=0)


@pytest.mark.parametrize("name", SIZED)
def test_the_source_matters_and_so_does_its_order(name: str) -> None:
    model = model_of(SIZED[name])
    source, target_in = sequences(2, 6, 1), sequences(2, 4, 2)
    assert (model(source.flip(1), target_in) - model(source, target_in)).abs().max() > 1e-4


@pytest.mark.parametrize("name", SIZED)
def test_dropout_is_off_in_evaluation_and_on_in_training(name: str) -> None:
    model = model_of(replace(SIZED[name], dropout=0.5))
    source, target_in = sequences(2, 6, 1), sequences(2, 4, 2)
    assert torch.equal(model(source, target_in), model(source, target_in))
    model.train()
    assert not torch.equal(model(source, target_in), model(source, target_in))


@pytest.mark.parametrize("name", SIZED)
def test_state_dict_round_trip(name: str) -> None:
    model, other = model_of(SIZED[name], 0), model_of(SIZED[name], 1)
    source, target_in = sequences(2, 6, 1), sequences(2, 4, 2)
    assert not torch.equal(model(source, target_in), other(source, target_in))
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(source, target_in), other(source, target_in))


# --- the Transformer against torch's own ------------------------------------------------------------------------------


def copy_linear(ours: nn.Linear, weight: Tensor, bias: Tensor) -> None:
    ours.weight.data.copy_(weight)
    ours.bias.data.copy_(bias)


def copy_norm(ours: nn.LayerNorm, theirs: nn.LayerNorm) -> None:
    ours.load_state_dict(theirs.state_dict())


def copy_self_attention(ours: SelfAttention, theirs: nn.MultiheadAttention) -> None:
    copy_linear(ours.query_key_value, theirs.in_proj_weight, theirs.in_proj_bias)
    copy_linear(ours.output, theirs.out_proj.weight, theirs.out_proj.bias)


def copy_cross_attention(ours: CrossAttention, theirs: nn.MultiheadAttention) -> None:
    hidden = theirs.embed_dim
    copy_linear(ours.query, theirs.in_proj_weight[:hidden], theirs.in_proj_bias[:hidden])
    copy_linear(ours.key_value, theirs.in_proj_weight[hidden:], theirs.in_proj_bias[hidden:])
    copy_linear(ours.output, theirs.out_proj.weight, theirs.out_proj.bias)


def test_transformer_equals_torch_nn_transformer() -> None:
    """The same weights give the same logits and the same gradient of the embeddings."""
    torch.manual_seed(0)
    config = TransformerConfig(layers=2, num_heads=3, positions="sinusoidal", hidden_size=12, feedforward_size=20)
    ours = build(config, DIMENSIONS).double().eval()
    theirs = nn.Transformer(
        12, 3, 2, 2, 20, dropout=0.0, activation="relu", batch_first=True, norm_first=True, dtype=torch.float64
    ).eval()
    for parameter in theirs.parameters():  # torch starts biases at zero, which would hide an exchange
        nn.init.normal_(parameter, std=0.3)
    assert isinstance(ours.encoder, TransformerEncoder)
    assert isinstance(ours.decoder, TransformerDecoder)
    for own, other in zip(ours.encoder.layers, theirs.encoder.layers, strict=True):
        assert isinstance(own, EncoderLayer)
        assert isinstance(other, nn.TransformerEncoderLayer)
        copy_self_attention(own.attention, other.self_attn)
        copy_norm(own.attention_norm, other.norm1)
        copy_norm(own.feedforward_norm, other.norm2)
        copy_linear(own.feedforward.inner, other.linear1.weight, other.linear1.bias)
        copy_linear(own.feedforward.outer, other.linear2.weight, other.linear2.bias)
    for own, other in zip(ours.decoder.layers, theirs.decoder.layers, strict=True):
        assert isinstance(own, DecoderLayer)
        assert isinstance(other, nn.TransformerDecoderLayer)
        copy_self_attention(own.self_attention, other.self_attn)
        copy_cross_attention(own.cross_attention, other.multihead_attn)
        copy_norm(own.self_attention_norm, other.norm1)
        copy_norm(own.cross_attention_norm, other.norm2)
        copy_norm(own.feedforward_norm, other.norm3)
        copy_linear(own.feedforward.inner, other.linear1.weight, other.linear1.bias)
        copy_linear(own.feedforward.outer, other.linear2.weight, other.linear2.bias)
    copy_norm(ours.encoder.norm, theirs.encoder.norm)
    copy_norm(ours.decoder.norm, theirs.decoder.norm)

    source, target_in = sequences(3, 6, 1, padded=True), sequences(3, 5, 2)
    padding = source == PAD
    positions = sinusoids(6, 12).double()
    embedded_source = ours.encoder.embedding(source) + positions
    embedded_target = ours.decoder.embedding(target_in) + positions[:5]
    decoded = theirs(
        embedded_source,
        embedded_target,
        tgt_mask=nn.Transformer.generate_square_subsequent_mask(5, dtype=torch.float64),
        src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
    )
    expected = ours.decoder.output(decoded)
    logits = ours(source, target_in)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-10)

    weights = torch.randn(logits.shape, dtype=torch.float64)
    embeddings = [ours.encoder.embedding.weight, ours.decoder.embedding.weight]
    for own_gradient, other_gradient in zip(
        torch.autograd.grad((logits * weights).sum(), embeddings),
        torch.autograd.grad((expected * weights).sum(), embeddings),
        strict=True,
    ):
        torch.testing.assert_close(own_gradient, other_gradient, rtol=0, atol=1e-10)


def test_attention_is_softmax_of_scaled_scores_times_values() -> None:
    """Vaswani et al. 2017, equation 1, head by head."""
    torch.manual_seed(0)
    attention = SelfAttention(12, 3).double()
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    q, k, v = attention.query_key_value(x).chunk(3, dim=-1)
    heads = []
    for head in range(3):
        part = slice(4 * head, 4 * head + 4)
        scores = q[..., part] @ k[..., part].transpose(1, 2) / math.sqrt(4)
        scores = scores.masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
        heads.append(scores.softmax(-1) @ v[..., part])
    expected = attention.output(torch.cat(heads, dim=-1))
    torch.testing.assert_close(attention(x, causal=True), expected, rtol=0, atol=1e-12)


def test_sinusoids_are_those_of_the_paper() -> None:
    """Vaswani et al. 2017, section 3.5, position and dimension one by one."""
    table = sinusoids(50, 8)
    for position in (0, 1, 7, 49):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-6)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-6)


def test_learned_positions_are_rows_of_their_table_and_end_with_it() -> None:
    torch.manual_seed(0)
    positions = LearnedPositions(max_length=5, size=4)
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(positions(x, start=2), x + positions.table[2:5])
    with pytest.raises(ValueError, match=r"position 6 .* ends at 5"):
        positions(x, start=3)


def test_positions_grow_and_start_where_they_are_told() -> None:
    positions = SinusoidalPositions(8)
    short = positions(torch.zeros(1, 3, 8))
    long = positions(torch.zeros(1, 40, 8))
    torch.testing.assert_close(long[:, :3], short)
    torch.testing.assert_close(positions(torch.zeros(1, 1, 8), start=30), long[:, 30:31])


# --- the LSTM against torch's own -------------------------------------------------------------------------------------


def test_lstm_equals_torch_lstm_cells() -> None:
    """Encoder and decoder, layer by layer and step by step through nn.LSTMCell, without padding."""
    config = LSTMConfig(layers=2, bidirectional=True, hidden_size=8, embedding_size=5)
    model = model_of(config)
    assert isinstance(model.encoder, LSTMEncoder)
    assert isinstance(model.decoder, LSTMDecoder)

    def cell(lstm: nn.LSTM, suffix: str) -> nn.LSTMCell:
        weight = getattr(lstm, f"weight_ih_{suffix}")
        cell = nn.LSTMCell(weight.shape[1], weight.shape[0] // 4, dtype=torch.float64)
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            getattr(cell, name).data.copy_(getattr(lstm, f"{name}_{suffix}"))
        return cell

    def scan(cell: nn.LSTMCell, inputs: list[Tensor], state: States | None) -> list[States]:
        states = []
        for x in inputs:
            state = cell(x, state)
            states.append(state)
        return states

    source, target_in = sequences(3, 6, 1), sequences(3, 4, 2)
    inputs = list(model.encoder.embedding(source).unbind(1))
    start = []
    for layer in range(2):
        forward = scan(cell(model.encoder.recurrence, f"l{layer}"), inputs, None)
        backward = scan(cell(model.encoder.recurrence, f"l{layer}_reverse"), inputs[::-1], None)
        start.append(tuple(torch.cat([forward[-1][part], backward[-1][part]], dim=1) for part in (0, 1)))
        inputs = [torch.cat([f[0], b[0]], dim=1) for f, b in zip(forward, backward[::-1], strict=True)]
    memory = model.encode(source)
    torch.testing.assert_close(memory.states, torch.stack(inputs, dim=1), rtol=0, atol=1e-10)

    outputs = list(model.decoder.embedding(target_in).unbind(1))
    for layer in range(2):
        states = scan(cell(model.decoder.recurrence, f"l{layer}"), outputs, start[layer])  # type: ignore[arg-type]
        outputs = [state[0] for state in states]
    expected = model.decoder.output(torch.stack(outputs, dim=1))
    torch.testing.assert_close(model(source, target_in), expected, rtol=0, atol=1e-10)


def test_luong_attention_is_that_of_the_paper() -> None:
    """Luong et al. 2015, equations 5 and 7 with the general score, target position by target position."""
    torch.manual_seed(0)
    attention = LuongAttention(6).double()
    memory, x = torch.randn(2, 5, 6, dtype=torch.float64), torch.randn(2, 3, 6, dtype=torch.float64)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    actual = attention(x, attention.project(memory), memory, mask[:, None])
    for row in range(2):
        for t in range(3):
            scores = torch.stack([x[row, t] @ attention.key.weight @ memory[row, s] for s in range(5)])
            weights = scores.masked_fill(~mask[row], -math.inf).softmax(0)
            context = (weights[:, None] * memory[row]).sum(0)
            expected = torch.tanh(attention.combine.weight @ torch.cat([context, x[row, t]]))
            torch.testing.assert_close(actual[row, t], expected, rtol=0, atol=1e-12)


def test_forget_gates_start_open() -> None:
    model = model_of(LSTMConfig(layers=2, hidden_size=8, embedding_size=5))
    assert isinstance(model.decoder, LSTMDecoder)
    for layer in range(2):
        recurrence = model.decoder.recurrence
        bias = getattr(recurrence, f"bias_ih_l{layer}") + getattr(recurrence, f"bias_hh_l{layer}")
        assert torch.equal(bias[8:16], torch.ones(8, dtype=torch.float64))
        assert not torch.equal(bias[:8], torch.ones(8, dtype=torch.float64))


def test_embeddings_have_variance_one() -> None:
    torch.manual_seed(0)
    assert TokenEmbedding(500, 64)(torch.arange(500)).std().item() == pytest.approx(1, abs=0.02)


# --- decoding ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SIZED)
def test_greedy_equals_naive_decoding(name: str) -> None:
    """Feeding the whole prefix to `forward` again at every step, sequence by sequence."""
    model = model_of(SIZED[name])
    source = sequences(5, 6, 3, padded=True)
    decoded = greedy(model, source, max_length=9)
    ends = 0
    for row in range(5):
        prefix = [BOS]
        while len(prefix) <= 9 and prefix[-1] != EOS:
            logits = model(source[row : row + 1], torch.tensor([prefix]))
            prefix.append(int(logits[0, -1].argmax()))
        ends += prefix[-1] == EOS
        written = decoded[row].tolist()
        assert written == prefix[1:] + [PAD] * (len(written) - len(prefix) + 1)
    assert decoded.shape[1] <= 9


def test_greedy_stops_when_all_have_ended() -> None:
    model = model_of(SIZED["lstm"])
    assert isinstance(model.decoder, LSTMDecoder)
    model.decoder.output.bias.data[EOS] = 100.0
    assert greedy(model, sequences(3, 4, 0), max_length=50).tolist() == [[EOS]] * 3


def test_memory_of_an_unpadded_batch_has_no_mask() -> None:
    """So that the kernels without a mask are taken."""
    for config in SIZED.values():
        model = model_of(config)
        memory: Memory = model.encode(sequences(3, 5, 0))
        assert memory.mask is None
        assert model.encode(sequences(3, 5, 0, padded=True)).mask is not None


# --- settings that cannot be ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (lambda: TransformerConfig(num_heads=3, hidden_size=8, feedforward_size=8), "multiple of 3, not 8"),
        (
            lambda: TransformerConfig(num_heads=1, positions="sinusoidal", hidden_size=7, feedforward_size=8),
            "multiple of 2, not 7",
        ),
        (lambda: TransformerConfig(hidden_size=8), "together or not at all"),
        (lambda: LSTMConfig(hidden_size=7, embedding_size=4), "multiple of 2, not 7"),
        (lambda: LSTMConfig(layers=0), "at least 1, not 0"),
        (lambda: LSTMConfig(dropout=1.0), r"in \[0, 1\), not 1.0"),
    ],
)
def test_impossible_settings_are_refused(settings, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        settings()


def test_a_model_without_widths_is_refused() -> None:
    with pytest.raises(ValueError, match="neither stated nor solved"):
        build(LSTMConfig(), DIMENSIONS)
