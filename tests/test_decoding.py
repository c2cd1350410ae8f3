"""Decoding against naive decoding with `forward`, brute force, and a plain beam search without early stopping."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from model_settings import SIZED, assert_same, configs, model_of, sized, source_of
from torch import Tensor

from models.config import Dimensions, ModelConfig, TransformerConfig
from models.decoding import Hypothesis, beam_search, greedy
from models.interface import BOS, EOS, PAD, EncoderDecoder, State

TINY = 5  # symbols: the three special ones and two more
NAMES = list(SIZED)
Tokens = tuple[int, ...]
Scored = tuple[Tokens, float]  # with the log-probability
After = Callable[[Tokens], list[float]]  # the log-probability of each symbol after a prefix


def peaked(config: ModelConfig, seed: int = 0, *, ending: float = 0.0) -> EncoderDecoder:
    """A model of a tiny vocabulary with clear preferences, so that its sequences end at different times."""
    model = model_of(config, seed, Dimensions(TINY, TINY, True, 12))
    model.decoder.output.weight.data *= 4.0
    model.decoder.output.bias.data[EOS] += ending
    return model


def sources(rows: int, seed: int = 0) -> Tensor:
    """Padded; of the tokens that a tiny vocabulary has."""
    tokens = source_of(SIZED["lstm"], rows, 6, seed, padded=True)
    return torch.where(tokens == PAD, PAD, tokens % 2 + 3)


def next_log_probabilities(model: EncoderDecoder, source: Tensor) -> After:
    """Of each symbol after a prefix, by `forward` on the whole of it, for one source (S,)."""

    @functools.cache
    def after(prefix: Tokens) -> list[float]:
        with torch.no_grad():
            logits = model(source[None], torch.tensor([[BOS, *prefix]]))[0, -1]
        return logits.log_softmax(-1).tolist()

    return after


def penalty(length: int, alpha: float) -> float:
    """Wu et al. 2016, equation 14."""
    return ((5 + length) / (5 + 1)) ** alpha


def ranked(scored: list[Scored], alpha: float, n_best: int) -> list[Hypothesis]:
    found = [Hypothesis(tokens, total, total / penalty(len(tokens), alpha)) for tokens, total in scored]
    return sorted(found, key=lambda hypothesis: -hypothesis.score)[:n_best]


def assert_same_hypotheses(actual: list[Hypothesis], expected: list[Hypothesis]) -> None:
    assert [hypothesis.tokens for hypothesis in actual] == [hypothesis.tokens for hypothesis in expected]
    for one, other in zip(actual, expected, strict=True):
        assert one.log_probability == pytest.approx(other.log_probability, rel=1e-9, abs=1e-9)
        assert one.score == pytest.approx(other.score, rel=1e-9, abs=1e-9)


def sizes_of_steps(model: EncoderDecoder) -> list[int]:
    """The number of rows in each step that the model takes from now on."""
    sizes: list[int] = []
    step = model.step

    def counting(tokens: Tensor, state: State) -> tuple[Tensor, State]:
        sizes.append(len(tokens))
        return step(tokens, state)

    model.step = counting  # type: ignore[method-assign]
    return sizes


# --- greedy -----------------------------------------------------------------------------------------------------------


def naive(model: EncoderDecoder, source: Tensor, max_length: int) -> list[int]:
    """The whole prefix again at every step, for one source (S,)."""
    after = next_log_probabilities(model, source)
    prefix: Tokens = ()
    while len(prefix) < max_length and EOS not in prefix:
        scores = after(prefix)
        prefix += (scores.index(max(scores)),)
    return list(prefix)


@pytest.mark.parametrize("name", NAMES)
def test_greedy_equals_naive_decoding(name: str) -> None:
    """Of many sequences that end at different times, so that rows leave the batch again and again."""
    ends = set()
    for seed in range(4):
        model = peaked(SIZED[name], seed, ending=seed)
        source = sources(12, seed)
        decoded = greedy(model, source, max_length=9)
        expected = [naive(model, row[row != PAD], 9) for row in source]
        longest = max(len(row) for row in expected)
        assert decoded.tolist() == [row + [PAD] * (longest - len(row)) for row in expected]
        assert torch.equal(greedy(model, source, 9, (source != PAD).sum(1)), decoded)
        ends |= {len(row) for row in expected}
    assert len(ends) > 3


@pytest.mark.parametrize("config", [TransformerConfig(positions="sinusoidal"), TransformerConfig(positions="rotary")])
def test_what_was_made_in_decoding_can_be_trained_with(config: TransformerConfig) -> None:
    model = peaked(sized(config, hidden=16))
    source = sources(2)
    greedy(model, source, 8)
    model.train()(source, source).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_greedy_drops_what_has_ended_as_soon_as_it_is_half_of_the_batch() -> None:
    model = peaked(SIZED["lstm_attention"], 2, ending=1.0)
    source = sources(16)
    ends = [len(naive(model, row[row != PAD], 9)) for row in source]
    expected, batch = [], ends
    for position in range(1, max(ends) + 1):
        expected.append(len(batch))
        left = [end for end in batch if end > position]
        batch = left if len(left) <= len(batch) // 2 else batch
    assert len(set(expected)) > 2
    sizes = sizes_of_steps(model)
    greedy(model, source, 9)
    assert sizes == expected


@settings(max_examples=25, deadline=None)
@given(configs(), st.integers(0, 1000))
def test_greedy_decodes_a_batch_as_its_rows_alone(config: ModelConfig, seed: int) -> None:
    model = peaked(config, seed, ending=1.0)
    source = sources(6, seed)
    together = greedy(model, source, 7)
    for row in range(6):
        alone = greedy(model, source[row : row + 1], 7)[0].tolist()
        assert together[row].tolist() == alone + [PAD] * (together.shape[1] - len(alone))


@pytest.mark.parametrize("name", NAMES)
def test_greedy_stops_when_all_have_ended_and_where_it_must(name: str) -> None:
    model = peaked(SIZED[name])
    source = sources(3)
    model.decoder.output.bias.data[EOS] = 1_000.0
    assert greedy(model, source, max_length=12).tolist() == [[EOS]] * 3
    model.decoder.output.bias.data[EOS] = -1_000.0
    assert greedy(model, source, max_length=12).shape == (3, 12)
    assert greedy(model, source, max_length=1).shape == (3, 1)


# --- beam search ------------------------------------------------------------------------------------------------------


def every_sequence(model: EncoderDecoder, source: Tensor, max_length: int) -> list[Scored]:
    """All that end within `max_length` tokens, and all that it cuts off, with their probabilities."""
    after, found = next_log_probabilities(model, source), []
    going_on = [token for token in range(TINY) if token != EOS]
    for length in range(max_length + 1):
        for beginning in itertools.product(going_on, repeat=length):
            total = sum(after(beginning[:i])[token] for i, token in enumerate(beginning))
            if length == max_length:
                found.append((beginning, total))
            else:
                found.append(((*beginning, EOS), total + after(beginning)[EOS]))
    return found


@pytest.mark.parametrize("alpha", [0.0, 0.6, 1.0, 2.5])
@pytest.mark.parametrize("name", NAMES)
def test_a_wide_beam_finds_the_best_of_all_sequences(name: str, alpha: float) -> None:
    model = peaked(SIZED[name], ending=1.0)
    source = sources(2)
    for n_best in (1, 4, 80):
        found = beam_search(model, source, 3, beam_size=80, length_penalty=alpha, n_best=n_best)
        for row in range(2):
            everything = every_sequence(model, source[row][source[row] != PAD], 3)
            assert sum(math.exp(total) for _, total in everything) == pytest.approx(1, abs=1e-9)
            assert_same_hypotheses(found[row], ranked(everything, alpha, n_best))


def plain_beam_search(after: After, max_length: int, beam_size: int, alpha: float, n_best: int) -> list[Hypothesis]:
    """For one source, to the very end.

    Of the best K continuations those that end are hypotheses; the best K of those that do not end go on.
    """
    beams: list[Scored] = [((), 0.0)]
    found: list[Scored] = []
    for _ in range(max_length):
        continued = [((*ids, token), total + more) for ids, total in beams for token, more in enumerate(after(ids))]
        continued.sort(key=lambda scored: -scored[1])
        found += [scored for scored in continued[:beam_size] if scored[0][-1] == EOS]
        beams = [scored for scored in continued if scored[0][-1] != EOS][:beam_size]
    return ranked(found + beams, alpha, n_best)


@pytest.mark.parametrize("name", NAMES)
def test_beam_search_equals_a_plain_one_that_never_stops_early(name: str) -> None:
    """Sequence by sequence: neither the batch nor stopping changes anything, nor that many beginnings end at once."""
    lengths, cut_off = set(), 0
    for seed, ending in enumerate((1.5, -1.5, 4.0)):
        model = peaked(SIZED[name], seed, ending=ending)
        source = sources(4, seed)
        afters = [next_log_probabilities(model, row[row != PAD]) for row in source]
        for beam_size, alpha in itertools.product((1, 2, 3, 5), (0.0, 0.7, 2.0)):
            n_best = beam_size if ending > 2 else (beam_size + 1) // 2
            found = beam_search(model, source, 6, beam_size=beam_size, length_penalty=alpha, n_best=n_best)
            for after, hypotheses in zip(afters, found, strict=True):
                assert_same_hypotheses(hypotheses, plain_beam_search(after, 6, beam_size, alpha, n_best))
                lengths |= {len(hypothesis.tokens) for hypothesis in hypotheses}
                cut_off += sum(hypothesis.tokens[-1] != EOS for hypothesis in hypotheses)
    assert len(lengths) > 3
    assert cut_off


NORMED = st.sampled_from(["pre", "post"]).flatmap(lambda norm: configs(residual=True, norm=norm))


@settings(max_examples=20, deadline=None)
@given(NORMED, st.integers(1, 3), st.sampled_from([0.0, 1.0]), st.integers(0, 1000))
def test_beam_search_of_drawn_models(config: ModelConfig, beam_size: int, alpha: float, seed: int) -> None:
    """A batch gives what its rows give alone, and every score can be computed again from `forward`.

    Exact ties are kept out: of models that do not tell what they are fed, and of BOS after BOS without positions.
    """
    model = peaked(config, seed, ending=1.0)
    model.decoder.output.bias.data[[PAD, BOS]] = -1_000.0
    source = sources(3, seed)
    options = {"beam_size": beam_size, "length_penalty": alpha, "n_best": beam_size}
    found = beam_search(model, source, 5, **options)  # type: ignore[arg-type]
    given = beam_search(model, source, 5, lengths=(source != PAD).sum(1), **options)  # type: ignore[arg-type]
    for row, hypotheses in enumerate(found):
        alone = source[row : row + 1, : int((source[row] != PAD).sum())]
        assert_same_hypotheses(beam_search(model, alone, 5, **options)[0], hypotheses)  # type: ignore[arg-type]
        assert_same_hypotheses(given[row], hypotheses)
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for hypothesis in hypotheses:
            target = torch.tensor([hypothesis.tokens])
            target_in = torch.cat([torch.tensor([[BOS]]), target[:, :-1]], dim=1)
            with torch.no_grad():
                each = model(alone, target_in).log_softmax(-1).gather(2, target[:, :, None])
            total = each.sum()
            assert_same(torch.tensor(hypothesis.log_probability, dtype=torch.float64), total, 1e-9)
            assert hypothesis.score == pytest.approx(total.item() / penalty(target.shape[1], alpha), rel=1e-9, abs=1e-9)
            assert EOS not in hypothesis.tokens[:-1]
            assert hypothesis.tokens[-1] == EOS or len(hypothesis.tokens) == 5


@pytest.mark.parametrize("name", NAMES)
def test_a_beam_of_one_is_greedy(name: str) -> None:
    for seed in range(3):
        model = peaked(SIZED[name], seed, ending=1.0)
        source = sources(8, seed)
        written = greedy(model, source, 7)
        for row, (hypothesis,) in enumerate(beam_search(model, source, 7, beam_size=1)):
            tokens = list(hypothesis.tokens)
            assert written[row].tolist() == tokens + [PAD] * (written.shape[1] - len(tokens))


def test_a_longer_penalty_favours_longer_sequences() -> None:
    model = peaked(SIZED["lstm_transformer"], ending=3.0)
    lengths = [
        sum(len(best.tokens) for (best,) in beam_search(model, sources(12), 8, beam_size=4, length_penalty=alpha))
        for alpha in (0.0, 1.0, 3.0)
    ]
    assert lengths[0] < lengths[1] < lengths[2]


@pytest.mark.parametrize("name", NAMES)
def test_beam_search_stops_early_but_not_too_early(name: str) -> None:
    """One step where all end at once, all steps where nothing ends, and else what is done leaves the batch."""
    model = peaked(SIZED[name])
    sizes = sizes_of_steps(model)
    for bias, taken in ((1_000.0, 1), (-1_000.0, 12)):
        sizes.clear()
        model.decoder.output.bias.data[EOS] = bias
        found = beam_search(model, sources(3), 12, beam_size=3)
        assert sizes == [9] * taken
        assert {len(best.tokens) for (best,) in found} == {taken}


def test_what_is_done_leaves_the_batch_of_a_beam_search() -> None:
    model = peaked(SIZED["lstm_transformer"], ending=2.0)
    sizes = sizes_of_steps(model)
    beam_search(model, sources(12), 8, beam_size=3)
    assert sizes[0] == 36
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) > 2


def test_fewer_hypotheses_where_there_are_no_more_sequences() -> None:
    """Of one token there are as many as symbols."""
    model = peaked(SIZED["lstm"])
    (found,) = beam_search(model, sources(1), 1, beam_size=9, n_best=9)
    assert sorted(hypothesis.tokens for hypothesis in found) == [(token,) for token in range(TINY)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "n_best must be from 1 to the beam size 0, not 1"),
        ({"beam_size": 2, "n_best": 3}, "n_best must be from 1 to the beam size 2, not 3"),
        ({"beam_size": 2, "n_best": 0}, "n_best must be from 1 to the beam size 2, not 0"),
        ({"beam_size": 2, "length_penalty": -0.5}, "length_penalty must not be negative, found -0.5"),
    ],
)
def test_impossible_searches_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        beam_search(peaked(SIZED["lstm"]), sources(1), 5, **options)  # type: ignore[arg-type]
