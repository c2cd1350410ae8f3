"""Attention against torch's own module and against the papers' equations, written out in loops."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from model_settings import (
    LSTM_DECODERS,
    SIZED,
    TRANSFORMER_DECODERS,
    TRANSFORMER_ENCODERS,
    add_noise,
    assert_same,
    configs,
    model_of,
    source_of,
    target_of,
)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from models.attention import (
    AdditiveAttention,
    Attention,
    CrossAttention,
    LuongAttention,
    MultiHeadAttention,
    SelfAttention,
    SourceAttention,
    dot_product_attention,
    filled_up,
    fused,
    keep_weights,
)
from models.config import ModelConfig
from models.interface import PAD
from models.positions import AlibiPositions, RotaryPositions

HIDDEN, HEADS = 12, 3
MASK = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])  # two sequences of five positions, the second padded

SELF_ATTENTIONS: dict[str, Callable[[], SelfAttention]] = {
    "plain": lambda: SelfAttention(HIDDEN, HEADS),
    "rotary": lambda: SelfAttention(HIDDEN, HEADS, RotaryPositions(HIDDEN // HEADS)),
    "alibi": lambda: SelfAttention(HIDDEN, HEADS, AlibiPositions(HEADS)),
}
SOURCE_ATTENTIONS: dict[str, Callable[[], SourceAttention]] = {
    "multi_head": lambda: CrossAttention(HIDDEN, HEADS),
    "dot": lambda: LuongAttention(HIDDEN, general=False),
    "general": lambda: LuongAttention(HIDDEN, general=True),
    "additive": lambda: AdditiveAttention(HIDDEN),
}


Module = TypeVar("Module", bound=nn.Module)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)


def noisy(module: Module) -> Module:
    torch.manual_seed(0)
    add_noise(module.double(), 0.5)
    return module


def softmax(scores: list[Tensor]) -> list[Tensor]:
    exponentials = [torch.exp(score) for score in scores]
    return [e / sum(exponentials) for e in exponentials]


def weighted_sum(weights: list[Tensor], values: list[Tensor]) -> Tensor:
    return torch.stack([weight * value for weight, value in zip(weights, values, strict=True)]).sum(0)


def call(attention: Attention, x: Tensor, memory: Tensor, mask: Tensor | None, *, causal: bool = False) -> Tensor:
    if isinstance(attention, SelfAttention):
        return attention(x, mask, causal=causal)
    assert isinstance(attention, SourceAttention)
    return attention(x, attention.project(memory), mask)


# --- the readable lines and the kernels -------------------------------------------------------------------------------


def test_dot_product_attention_is_that_of_the_paper() -> None:
    """Vaswani et al. 2017, equation 1, number by number."""
    query, key, value, bias = numbers(2, 3, 4), numbers(2, 5, 4, seed=1), numbers(2, 5, 6, seed=2), numbers(2, 3, 5)
    context, weights = dot_product_attention(query, key, value, bias, scale=0.5)
    assert context.shape == (2, 3, 6)
    assert weights.shape == (2, 3, 5)
    for row in range(2):
        for t in range(3):
            scores = [
                sum(query[row, t, i] * key[row, s, i] for i in range(4)) / math.sqrt(4) + bias[row, t, s]
                for s in range(5)
            ]
            expected = softmax(scores)
            assert_same(weights[row, t], torch.stack(expected), 1e-12)
            assert_same(context[row, t], weighted_sum(expected, list(value[row])), 1e-12)


@pytest.mark.parametrize(
    ("kind", "looks"),
    [(kind, looks) for kind in SELF_ATTENTIONS for looks in ("everywhere", "at tokens", "back")]
    + [(kind, looks) for kind in SOURCE_ATTENTIONS for looks in ("everywhere", "at tokens")],
)
def test_kept_weights_change_nothing(kind: str, looks: str) -> None:
    """Where weights are kept the readable lines take the place of the fused kernel: same values, same gradients."""
    attention = noisy((SELF_ATTENTIONS | SOURCE_ATTENTIONS)[kind]())
    x, memory = numbers(2, 5, HIDDEN), numbers(2, 5, HIDDEN, seed=1)
    inputs = [x] if kind in SELF_ATTENTIONS else [x, memory]
    mask, causal = (MASK if looks == "at tokens" else None), looks == "back"
    fused = call(attention, x, memory, mask, causal=causal)
    with keep_weights(attention) as kept:
        readable = call(attention, x, memory, mask, causal=causal)
    assert_same(readable, fused, 1e-12)
    wanted = [*inputs, *attention.parameters()]
    upstream = numbers(*fused.shape, seed=2)
    gradients = [torch.autograd.grad((result * upstream).sum(), wanted) for result in (fused, readable)]
    for one, other in zip(*gradients, strict=True):
        assert_same(one, other, 1e-12)

    (weights,) = kept[""]
    assert weights.shape == (2, HEADS if isinstance(attention, MultiHeadAttention) else 1, 5, 5)
    assert_same(weights.sum(-1), torch.ones_like(weights[..., 0]), 1e-12)
    if looks == "at tokens":
        assert not weights[1, ..., 3:].any()
    if looks == "back":
        assert not weights[..., torch.ones(5, 5).triu(1).bool()].any()
    seen = weights if looks == "everywhere" else weights[0] if looks == "at tokens" else weights[..., 4, :]
    assert (seen > 0).all()


@pytest.mark.parametrize("size", [1, 8, 18, 33])
def test_sizes_that_are_filled_up_change_nothing(size: int) -> None:
    """Neither values nor gradients."""
    inputs, upstream = [numbers(2, 3, 5, size, seed=seed) for seed in range(3)], numbers(2, 3, 5, size, seed=3)

    def attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(query, key, value, MASK[:, None, None], scale=0.3)

    filled = [filled_up(tensor) for tensor in inputs]
    assert {tensor.shape[-1] for tensor in filled} == {-(-size // 8) * 8}
    plain, wide = attended(*inputs), attended(*filled)
    assert not wide[..., size:].any()
    assert_same(wide[..., :size], plain, 1e-12)
    gradients = [torch.autograd.grad((found[..., :size] * upstream).sum(), inputs) for found in (plain, wide)]
    for one, other in zip(*gradients, strict=True):
        assert_same(one, other, 1e-12)


@pytest.mark.parametrize(
    ("device", "size", "queries", "taken"),
    [("cuda", 33, 5, 40), ("cuda", 32, 5, 32), ("cuda", 33, 1, 33), ("cpu", 33, 5, 33)],
)
@torch.no_grad()
def test_sizes_are_filled_up_on_a_gpu(
    device: str, size: int, queries: int, taken: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many queries, where 8 does not divide them. Nothing is computed, so that no GPU need be there."""
    sizes: set[int] = set()

    def kernel(query: Tensor, key: Tensor, value: Tensor, *_: object, **__: object) -> Tensor:
        sizes.update(part.shape[-1] for part in (query, key, value))
        return query

    monkeypatch.setattr(F, "scaled_dot_product_attention", kernel)
    with FakeTensorMode():
        query, source = torch.empty(2, 3, queries, size, device=device), torch.empty(2, 3, 7, size, device=device)
        context = Attention().attend(query, source, source, None, scale=1.0)
    assert sizes == {taken}
    assert context.shape == (2, 3, queries, size)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [18, 33, 47, 105])
def test_on_cuda_padded_batches_have_a_kernel_that_stores_no_weights(size: int, precision: torch.dtype) -> None:
    query, key, value = (numbers(2, 3, 5, size, seed=seed).to("cuda", precision) for seed in range(3))
    bias = MASK[:, None, None].cuda()
    with sdpa_kernel([SDPBackend.EFFICIENT_ATTENTION]):
        actual = fused(query, key, value, bias, scale=0.3)
    expected = F.scaled_dot_product_attention(query.double(), key.double(), value.double(), bias, scale=0.3)
    assert_same(actual.double(), expected, 1e-5 if precision == torch.float32 else 3e-2)


# --- torch's own module -----------------------------------------------------------------------------------------------


def torchs(attention: MultiHeadAttention) -> tuple[nn.MultiheadAttention, list[tuple[Tensor, Tensor, slice]]]:
    """torch's module with the same weights; pairs of our weights and theirs, with the rows that ours are of theirs."""
    theirs = nn.MultiheadAttention(HIDDEN, HEADS, batch_first=True, dtype=torch.float64)
    if isinstance(attention, SelfAttention):
        parts = [(attention.query_key_value, slice(None))]
    else:
        assert isinstance(attention, CrossAttention)
        parts = [(attention.query, slice(0, HIDDEN)), (attention.key_value, slice(HIDDEN, None))]
    pairs: list[tuple[Tensor, Tensor, slice]] = []
    for linear, rows in parts:
        pairs += [(linear.weight, theirs.in_proj_weight, rows), (linear.bias, theirs.in_proj_bias, rows)]
    output = attention.output
    pairs += [(output.weight, theirs.out_proj.weight, slice(None)), (output.bias, theirs.out_proj.bias, slice(None))]
    for our, their, rows in pairs:
        their.data[rows] = our.data
    return theirs, pairs


@pytest.mark.parametrize(
    ("kind", "looks"),
    [
        ("self", "everywhere"),
        ("self", "at tokens"),
        ("self", "back"),
        ("source", "everywhere"),
        ("source", "at tokens"),
    ],
)
def test_attention_with_heads_equals_torchs(kind: str, looks: str) -> None:
    """Outputs, weights (averaged over heads) and gradients of inputs and of all weights."""
    ours = noisy(SelfAttention(HIDDEN, HEADS) if kind == "self" else CrossAttention(HIDDEN, HEADS))
    theirs, pairs = torchs(ours)
    x = numbers(2, 5, HIDDEN)
    memory = x if kind == "self" else numbers(2, 5, HIDDEN, seed=1)
    mask, causal = (MASK if looks == "at tokens" else None), looks == "back"
    with keep_weights(ours) as kept:
        actual = call(ours, x, memory, mask, causal=causal)
    expected, averaged = theirs(
        x,
        memory,
        memory,
        key_padding_mask=None if mask is None else ~mask,
        attn_mask=torch.ones(5, 5, dtype=torch.bool).triu(1) if causal else None,
    )
    assert_same(actual, expected)
    assert_same(call(ours, x, memory, mask, causal=causal), expected)
    assert_same(kept[""][0].mean(1), averaged)

    upstream = numbers(*actual.shape, seed=2)
    inputs = [x] if kind == "self" else [x, memory]
    own = torch.autograd.grad((actual * upstream).sum(), [*inputs, *(our for our, _, _ in pairs)])
    other = torch.autograd.grad((expected * upstream).sum(), [*inputs, *(their for _, their, _ in pairs)])
    rows = [*(slice(None) for _ in inputs), *(rows for _, _, rows in pairs)]
    for one, two, part in zip(own, other, rows, strict=True):
        assert_same(one, two[part])


def test_each_position_in_a_step_equals_all_at_once() -> None:
    """Whatever stands in the room that is not yet written."""
    for make in SELF_ATTENTIONS.values():
        attention = noisy(make())
        x = numbers(2, 5, HIDDEN)
        cache = attention.room(x, 7)
        assert cache.shape == (2, 2, HEADS, 7, HIDDEN // HEADS)
        assert cache.dtype == torch.float64
        cache.fill_(math.nan)
        with torch.no_grad():
            steps = [attention.step(x[:, t : t + 1], cache, t) for t in range(5)]
            assert_same(torch.cat(steps, dim=1), attention(x, causal=True), 1e-12)
        assert cache[..., 5:, :].isnan().all()
        assert not cache[..., :5, :].isnan().any()


# --- the papers' equations --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dot", "general", "additive"])
def test_attention_without_heads_is_that_of_the_papers(kind: str) -> None:
    """Luong et al. 2015, section 3.1, and Bahdanau et al. 2015, appendix A.1.2, target position by target position."""
    attention = noisy(SOURCE_ATTENTIONS[kind]())
    x, memory = numbers(2, 4, HIDDEN), numbers(2, 5, HIDDEN, seed=1)
    with keep_weights(attention) as kept:
        actual = call(attention, x, memory, MASK)
    assert_same(call(attention, x, memory, MASK), actual, 1e-12)

    def score(h: Tensor, s: Tensor) -> Tensor:
        if isinstance(attention, AdditiveAttention):
            return attention.score.weight[0] @ torch.tanh(attention.query.weight @ h + attention.key.weight @ s)
        assert isinstance(attention, LuongAttention)
        assert (attention.key is None) == (kind == "dot")
        return h @ s if attention.key is None else h @ attention.key.weight @ s

    for row, length in enumerate((5, 3)):
        for t in range(4):
            weights = softmax([score(x[row, t], memory[row, s]) for s in range(length)])
            assert_same(actual[row, t], weighted_sum(weights, list(memory[row, :length])))
            assert_same(kept[""][0][row, 0, t, :length], torch.stack(weights))


def test_each_head_attends_with_its_own_part_of_the_projections() -> None:
    """Vaswani et al. 2017, sections 3.2.1 and 3.2.2: scores over √d, heads side by side, one output projection."""
    attention = noisy(CrossAttention(HIDDEN, HEADS))
    x, memory = numbers(2, 4, HIDDEN), numbers(2, 5, HIDDEN, seed=1)
    actual = call(attention, x, memory, MASK)
    query, (key, value) = attention.query(x), attention.key_value(memory).chunk(2, dim=-1)
    size = HIDDEN // HEADS
    for row, length in enumerate((5, 3)):
        for t in range(4):
            contexts = []
            for head in range(HEADS):
                part = slice(head * size, (head + 1) * size)
                scores = [query[row, t, part] @ key[row, s, part] / math.sqrt(size) for s in range(length)]
                contexts.append(weighted_sum(softmax(scores), list(value[row, :length, part])))
            assert_same(actual[row, t], attention.output(torch.cat(contexts)))


# --- where a model looks ----------------------------------------------------------------------------------------------


def expected_entries(config: ModelConfig, target_length: int) -> dict[str, int]:
    """How many weights each attention keeps in a pass over all positions."""
    layers = Counter(0 if config.share_layers else layer for layer in range(config.layers))
    entries: dict[str, int] = {}
    if isinstance(config, TRANSFORMER_ENCODERS):
        entries |= {f"encoder.layers.{layer}.attention": count for layer, count in layers.items()}
    if isinstance(config, TRANSFORMER_DECODERS):
        kinds = ["self_attention", "cross_attention"] if config.cross_attention else ["self_attention"]
        entries |= {f"decoder.layers.{layer}.{kind}": count for layer, count in layers.items() for kind in kinds}
    if isinstance(config, LSTM_DECODERS) and config.attention != "none":
        entries["decoder.attention"] = target_length if config.input_feeding else 1
    return entries


def kept_now(model: nn.Module) -> list[object]:
    return [module.kept for module in model.modules() if isinstance(module, Attention)]


@settings(max_examples=60, deadline=None)
@given(configs(), st.integers(0, 1000))
@torch.no_grad()
def test_attention_weights_of_a_model(config: ModelConfig, seed: int) -> None:
    model = model_of(config, seed)
    source, target_in = source_of(config, 3, 6, seed, padded=True), target_of(3, 4, seed)
    logits = model(source, target_in)
    with keep_weights(model):
        assert_same(model(source, target_in), logits)
    weights = model.attention_weights(source, target_in)
    assert {name: len(entries) for name, entries in weights.items()} == expected_entries(config, 4)
    assert all(kept is None for kept in kept_now(model))
    assert torch.equal(model(source, target_in), logits)

    padding = source == PAD
    for name, entries in weights.items():
        own = "self_attention" in name
        fed = name == "decoder.attention" and isinstance(config, LSTM_DECODERS) and config.input_feeding
        queries = 6 if name.startswith("encoder") else 1 if fed else 4
        for entry in entries:
            module = model.get_submodule(name)
            heads = module.num_heads if isinstance(module, MultiHeadAttention) else 1
            assert entry.shape == (3, heads, queries, 4 if own else 6)
            assert_same(entry.sum(-1), torch.ones_like(entry[..., 0]))
            hidden = torch.ones(4, 4).triu(1).bool() if own else padding[:, None, None, :]
            assert not entry[hidden.expand(entry.shape)].any()
    lengths = (~padding).sum(1)
    for one, other in zip(weights.values(), model.attention_weights(source, target_in, lengths).values(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("name", [name for name in SIZED if name != "lstm"])
def test_nothing_is_kept_after_an_exception(name: str) -> None:
    model = model_of(SIZED[name])
    source = source_of(SIZED[name], 2, 5, 0)
    with pytest.raises(IndexError):
        model.attention_weights(source, torch.full((2, 3), 10_000))
    assert kept_now(model)
    assert all(kept is None for kept in kept_now(model))


def test_projections_that_are_computed_together_are_those_computed_apart() -> None:
    torch.manual_seed(0)
    attention, layer, x = MultiHeadAttention(16, 4), nn.Linear(16, 48), torch.randn(2, 5, 16)
    apart = attention.parts(layer, x, 3)
    with torch.autocast("cpu", torch.bfloat16):
        together = attention.parts(layer, x, 3)
    assert [part.shape for part in together] == [part.shape for part in apart] == [(2, 4, 5, 4)] * 3
    for one, other in zip(together, apart, strict=True):
        assert one.dtype == torch.bfloat16
        torch.testing.assert_close(one.float(), other, rtol=2e-2, atol=2e-2)
