"""Positions against the papers' equations, and what they let a Transformer know."""

from __future__ import annotations

import math

import pytest
import torch
from model_settings import MAX_LENGTH, assert_same, model_of, sized, source_of, target_of
from torch import Tensor

from models.attention import SelfAttention, keep_weights
from models.config import LSTMTransformerConfig, TransformerConfig, TransformerLSTMConfig
from models.interface import BOS
from models.lstm import LSTMDecoder
from models.positions import (
    BASE,
    AlibiPositions,
    LearnedPositions,
    RotaryPositions,
    SinusoidalPositions,
    Waves,
    alibi_slopes,
)
from models.transformer import TransformerDecoder, TransformerEncoder

KINDS = ["learned", "sinusoidal", "rotary", "alibi", "none"]
ENDLESS = ["sinusoidal", "rotary", "alibi", "none"]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def transformer(positions: str, **options: object) -> TransformerConfig:
    config = sized(TransformerConfig(num_heads=3, positions=positions, **options))  # type: ignore[arg-type]
    assert isinstance(config, TransformerConfig)
    return config


# --- added to the embeddings ------------------------------------------------------------------------------------------


def test_sinusoids_are_those_of_the_paper() -> None:
    """Vaswani et al. 2017, section 3.5, position and dimension one by one."""
    table = SinusoidalPositions(8).double()(torch.zeros(1, 50, 8, dtype=torch.float64))[0]
    for position in range(50):
        for i in range(4):
            angle = position / 10_000 ** (2 * i / 8)
            assert table[position, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-12)
            assert table[position, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-12)


def test_sinusoids_are_added_and_start_where_they_are_told() -> None:
    """Whether the table has grown before or not."""
    long = SinusoidalPositions(8).double()(torch.zeros(1, 40, 8, dtype=torch.float64))
    x = numbers(2, 3, 8)
    positions = SinusoidalPositions(8).double()
    for start in (0, 2, 30, 5, 37):
        assert_same(positions(x, start), x + long[:, start : start + 3], 1e-12)


def test_the_table_of_waves_doubles() -> None:
    """So that decoding position by position does not make a new one at each; it is no part of a checkpoint."""
    waves = Waves(4)
    sizes = []
    for position in range(9):
        sine, cosine = waves(position, 1)
        assert sine.shape == cosine.shape == (1, 2)
        sizes.append(waves.table.shape[1])
    assert sizes == [1, 2, 4, 4, 8, 8, 8, 8, 16]
    assert not waves.state_dict()


def test_the_table_of_waves_grows_where_it_is_compiled() -> None:
    compiled = torch.compile(Waves(4), backend="eager", fullgraph=True)
    for one, other in zip(compiled(2, 3), Waves(4)(2, 3), strict=True):
        assert_same(one, other, 1e-6)


def test_learned_positions_are_rows_of_their_table_and_end_with_it() -> None:
    torch.manual_seed(0)
    positions = LearnedPositions(max_length=5, size=4)
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(positions(x), x + positions.table[:3], rtol=0, atol=0)
    torch.testing.assert_close(positions(x, start=2), x + positions.table[2:5], rtol=0, atol=0)
    with pytest.raises(ValueError, match=r"position 6 is asked for, but the learned table ends at 5; sinusoidal, rot"):
        positions(x, start=3)


def test_learned_positions_are_drawn_with_variance_one() -> None:
    torch.manual_seed(0)
    assert LearnedPositions(200, 50).table.std().item() == pytest.approx(1, abs=0.02)


# --- in self-attention: rotary ----------------------------------------------------------------------------------------


def turned(x: Tensor, position: int) -> Tensor:
    """Su et al. 2021, section 3.2: pairs of dimensions as complex numbers, times e^(i·m·θ)."""
    size = len(x)
    parts = []
    for i in range(size // 2):
        number = complex(x[2 * i].item(), x[2 * i + 1].item())
        angle = position * BASE ** (-2 * i / size)
        number *= complex(math.cos(angle), math.sin(angle))
        parts += [number.real, number.imag]
    return torch.tensor(parts, dtype=torch.float64)


def test_rotary_positions_are_complex_multiplications() -> None:
    positions, x = RotaryPositions(6).double(), numbers(2, 3, 5, 6)
    for start in (0, 4):
        actual = positions(x, start)
        for t in range(5):
            assert_same(actual[1, 2, t], turned(x[1, 2, t], start + t), 1e-12)


def test_rotated_products_depend_on_the_distance_alone() -> None:
    positions = RotaryPositions(6).double()
    query, key = numbers(1, 1, 1, 6), numbers(1, 1, 1, 6, seed=1)

    def product(m: int, n: int) -> float:
        return (positions(query, m) * positions(key, n)).sum().item()

    for distance in (0, 1, 5):
        assert product(distance, 0) == pytest.approx(product(distance + 17, 17), abs=1e-10)
        assert product(0, distance) == pytest.approx(product(17, distance + 17), abs=1e-10)
    assert product(0, 0) == pytest.approx((query * key).sum().item(), abs=1e-12)
    assert abs(product(3, 0) - product(0, 3)) > 1e-3  # the sign of the distance counts


def test_rotary_self_attention_turns_queries_and_keys_but_not_values() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(12, 3, RotaryPositions(4)).double()
    x = numbers(1, 5, 12)
    query, key, value = attention.query_key_value(x).view(5, 3, 3, 4).unbind(1)  # (T, h, d)
    contexts = []
    for head in range(3):
        scores = torch.stack(
            [
                torch.stack([turned(query[t, head], t) @ turned(key[s, head], s) / math.sqrt(4) for s in range(5)])
                for t in range(5)
            ]
        )
        contexts.append(scores.softmax(-1) @ value[:, head])
    assert_same(attention(x)[0], attention.output(torch.cat(contexts, dim=-1)))


# --- in self-attention: alibi -----------------------------------------------------------------------------------------


def test_alibi_slopes_are_those_that_were_published() -> None:
    """Press et al. 2022, section 3 for 8 heads and 16; for 12 what the authors' code gives."""
    assert alibi_slopes(8) == [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256]
    assert alibi_slopes(16) == pytest.approx([2 ** -(0.5 * i) for i in range(1, 17)], rel=1e-12)
    assert alibi_slopes(12) == pytest.approx(
        [1 / 2, 1 / 4, 1 / 8, 1 / 16, 1 / 32, 1 / 64, 1 / 128, 1 / 256, 2**-0.5, 2**-1.5, 2**-2.5, 2**-3.5], rel=1e-12
    )
    assert alibi_slopes(3) == pytest.approx([1 / 16, 1 / 256, 1 / 4], rel=1e-12)
    assert alibi_slopes(1) == [1 / 256]
    for heads in range(1, 33):
        assert len(set(alibi_slopes(heads))) == heads


def test_alibi_takes_slope_times_distance_from_each_score() -> None:
    bias = AlibiPositions(4)(3, 5)  # the last three of five positions ask
    assert bias.shape == (4, 3, 5)
    for head, slope in enumerate((1 / 4, 1 / 16, 1 / 64, 1 / 256)):
        for t in range(3):
            for s in range(5):
                assert bias[head, t, s].item() == -slope * abs(2 + t - s)


@pytest.mark.parametrize("causal", [False, True])
def test_alibi_self_attention_adds_it_to_the_scaled_scores(causal: bool) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(12, 3, AlibiPositions(3)).double()
    x = numbers(2, 5, 12)
    query, key, _ = attention.query_key_value(x).view(2, 5, 3, 3, 4).unbind(2)  # (B, T, h, d)
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    with keep_weights(attention) as kept:
        attention(x, None if causal else mask, causal=causal)
    for row, length in enumerate((5, 3)):
        for head, slope in enumerate((1 / 16, 1 / 256, 1 / 4)):
            for t in range(5):
                seen = range(t + 1) if causal else range(length)
                scores = [query[row, t, head] @ key[row, s, head] / math.sqrt(4) - slope * abs(t - s) for s in seen]
                assert_same(kept[""][0][row, head, t, : len(seen)], torch.stack(scores).softmax(0))


# --- what a model knows of positions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("positions", KINDS)
@torch.no_grad()
def test_without_positions_the_memory_is_shuffled_with_the_source(positions: str) -> None:
    config = transformer(positions)
    model = model_of(config)
    source = source_of(config, 2, 6, 0)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    difference = model.encode(source[:, order]).states - model.encode(source).states[:, order]
    assert (difference.abs().max() < 1e-12) == (positions == "none")
    assert (difference.abs().max() < 1e-2) == (positions == "none")


@pytest.mark.parametrize("positions", KINDS)
@torch.no_grad()
def test_a_decoder_without_positions_forgets_the_order_of_what_went_before(positions: str) -> None:
    """In one layer: a causal mask alone tells no order of the positions that all are seen."""
    config = transformer(positions, layers=1)
    model = model_of(config)
    source, target_in = source_of(config, 2, 6, 0), target_of(2, 6, 0)
    shuffled = target_in[:, [3, 0, 4, 1, 2, 5]]
    last = [model(source, tokens)[:, -1] for tokens in (target_in, shuffled)]
    assert ((last[1] - last[0]).abs().max() < 1e-10) == (positions == "none")


@pytest.mark.parametrize("positions", ["rotary", "alibi"])
@torch.no_grad()
def test_relative_positions_see_no_difference_in_where_a_sequence_starts(positions: str) -> None:
    """The same two tokens at the same distance have the same score, wherever they stand."""
    config = transformer(positions, layers=1)
    model = model_of(config)
    source = torch.tensor([[3, 3, 3, 5, 3, 3, 3, 3, 5, 3, 3]])
    with keep_weights(model) as kept:
        model.encode(source)
    weights = kept["encoder.layers.0.attention"][0][0]  # (h, 11, 11)
    for distance in (1, 2):  # each five looks at the threes behind it, compared with itself
        early, late = (weights[:, at, at + distance] / weights[:, at, at] for at in (3, 8))
        assert_same(early, late)


@pytest.mark.parametrize("positions", ENDLESS)
@torch.no_grad()
def test_positions_without_a_table_go_on_beyond_the_longest_of_the_task(positions: str) -> None:
    config = transformer(positions)
    model = model_of(config)
    length = 3 * MAX_LENGTH
    source, target_in = source_of(config, 2, length, 0), target_of(2, length, 0)
    logits = model(source, target_in)
    assert logits.isfinite().all()
    assert_same(model_of(config)(source, target_in), logits)
    state = model.start(model.encode(source), length)
    for position in range(length):
        step, state = model.step(target_in[:, position], state)
    assert_same(step, logits[:, -1])


@torch.no_grad()
def test_a_learned_table_refuses_longer_sequences() -> None:
    """Of source and target each, in `forward` and in `step`; the longest that the task has is taken."""
    for kind in (TransformerConfig, LSTMTransformerConfig, TransformerLSTMConfig):
        config = sized(kind(positions="learned"))
        model = model_of(config)
        longest, longer = source_of(config, 2, MAX_LENGTH, 0), source_of(config, 2, MAX_LENGTH + 1, 0)
        written, beyond = target_of(2, MAX_LENGTH, 0), target_of(2, MAX_LENGTH + 1, 0)
        assert model(longest, written).isfinite().all()
        message = f"position {MAX_LENGTH + 1} is asked for, but the learned table ends at {MAX_LENGTH}"
        if isinstance(model.encoder, TransformerEncoder):
            with pytest.raises(ValueError, match=message):
                model.encode(longer)
        else:
            assert model.encode(longer).states.isfinite().all()
        state = model.start(model.encode(longest), MAX_LENGTH + 1)
        for _ in range(MAX_LENGTH):
            _, state = model.step(torch.tensor([BOS, BOS]), state)
        if isinstance(model.decoder, TransformerDecoder):
            with pytest.raises(ValueError, match=message):
                model(longest, beyond)
            with pytest.raises(ValueError, match=message):
                model.step(torch.tensor([BOS, BOS]), state)
        else:
            assert isinstance(model.decoder, LSTMDecoder)
            assert model(longest, beyond).isfinite().all()
