"""Evaluation: its sums are right by hand, its answers those that decoding gives."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from experiments.config import Decoding
from experiments.data import Batch, TaskData, Tokens, Vocabulary
from experiments.evaluation import GREEDY, compare, edit_counts, evaluate
from experiments.schema import LOSS, PER, SEQUENCE_ACCURACY, TEST, TOKEN_ACCURACY, WER
from experiments.tasks.strings import Reverse
from models.config import Budget
from models.decoding import beam_search
from models.interface import BOS, EOS, PAD
from models.matching import match
from models.registry import MODELS, build

CPU = torch.device("cpu")
tokens = st.lists(st.integers(3, 6), min_size=0, max_size=6)


def padded(sequences: list[list[int]]) -> Tensor:
    width = max(map(len, sequences))
    return torch.tensor([ids + [PAD] * (width - len(ids)) for ids in sequences])


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(tokens, tokens, st.booleans()), min_size=1, max_size=5))
def test_compare_and_edit_counts_by_brute_force(rows: list[tuple[list[int], list[int], bool]]) -> None:
    """Answers may be shorter or longer than the reference, and may not end at all."""
    answers = padded([answer + ([EOS] if ends else [5]) for answer, _, ends in rows])
    target = padded([[*reference, EOS] for _, reference, _ in rows])
    right, exact = compare(answers, target)
    edits = 0
    for row, (answer, reference, ends) in enumerate(rows):
        said = answer if ends else [*answer, 5]
        assert bool(exact[row]) == (ends and answer == reference)
        asked = [*reference, EOS]
        given_ids = answers[row].tolist() + [PAD] * len(asked)
        assert right[row].tolist()[: len(asked)] == [a == b for a, b in zip(given_ids, asked, strict=False)]
        assert not right[row, len(asked) :].any()
        edits += levenshtein(said, reference)
    assert edit_counts(answers, target) == (edits, sum(len(reference) for _, reference, _ in rows))


def levenshtein(a: list[int], b: list[int]) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(levenshtein(a[1:], b) + 1, levenshtein(a, b[1:]) + 1, levenshtein(a[1:], b[1:]) + (a[0] != b[0]))


@dataclass(frozen=True)
class OracleState:
    source: Tensor
    position: int

    def select(self, rows: Tensor) -> OracleState:
        return OracleState(self.source[rows], self.position)


class Oracle(torch.nn.Module):
    """Says what it is told: stands where a model stands."""

    def __init__(self, answers: dict[tuple[int, ...], list[int]], vocabulary: int) -> None:
        super().__init__()
        self.answers, self.vocabulary = answers, vocabulary

    def encode(self, source: Tensor, lengths: Tensor | None = None) -> Tensor:
        return source

    def start(self, memory: Tensor, max_length: int) -> OracleState:
        return OracleState(memory, 0)

    def step(self, tokens: Tensor, state: OracleState) -> tuple[Tensor, OracleState]:
        rows = [[*self.answers[tuple(row)], EOS, EOS, EOS, EOS, EOS][state.position] for row in state.source.tolist()]
        logits = torch.nn.functional.one_hot(torch.tensor(rows), self.vocabulary) * 50.0
        return logits, OracleState(state.source, state.position + 1)

    def forward(self, source: Tensor, target_in: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The end of the sequence is three times as probable as any other symbol."""
        logits = torch.zeros(*target_in.shape, self.vocabulary)
        logits[..., EOS] = math.log(3)
        return logits


@pytest.mark.parametrize("decoding", [GREEDY, Decoding(beam_size=3, length_penalty=0.6)])
def test_evaluation_by_hand(decoding: Decoding) -> None:
    """Three sequences, one with an unknown symbol in its reference, in two batches of different lengths.

    The first answer goes on for ever, and is cut off at the task's longest target.
    """
    vocabulary = Vocabulary.of(["<unk>", "a", "b", "c"])
    unknown, a, b, c = 3, 4, 5, 6
    sources = [[a, EOS], [b, EOS], [c, EOS]]
    references = [[a, b, EOS], [b, EOS, PAD], [unknown, EOS]]
    answers = {tuple(sources[0]): [a, *[c] * 9], tuple(sources[1]): [b], tuple(sources[2]): [unknown]}

    def batch(rows: list[int]) -> Batch:
        target = torch.tensor([references[row] for row in rows])
        length = torch.tensor([[2], [1], [1]])[rows]
        return Batch(
            torch.tensor([sources[row] for row in rows]),
            torch.full_like(target, BOS),
            target,
            torch.full((len(rows),), 2),
            {"length": length.expand_as(target), "position": torch.arange(target.shape[1]).expand_as(target)},
        )

    def training(size: int | Tokens, generator: torch.Generator, device: torch.device = CPU) -> Iterator[Batch]:
        raise AssertionError("nothing is trained here")

    data = TaskData(vocabulary, vocabulary, False, 2, 5, training, {TEST: [batch([0, 1]), batch([2])]}, 0, {})
    oracle = Oracle(answers, len(vocabulary))
    scores = evaluate(
        oracle,  # type: ignore[arg-type]
        data,
        TEST,
        metrics=(TOKEN_ACCURACY, SEQUENCE_ACCURACY, WER, PER),
        device=CPU,
        decoding=decoding,
        keep_predictions=True,
    )
    # Of the mean over tokens: three ends at 1/3 and four other symbols at 1/9.
    assert scores.scalars[LOSS] == pytest.approx((3 * math.log(3) + 4 * math.log(9)) / 7)
    assert scores.scalars[TOKEN_ACCURACY] == pytest.approx((1 + 2 + 1) / (3 + 2 + 2))
    assert scores.scalars[SEQUENCE_ACCURACY] == pytest.approx(1 / 3)
    assert scores.scalars[WER] == pytest.approx(2 / 3)
    assert scores.scalars[PER] == pytest.approx((4 + 0 + 1) / (2 + 1 + 1))
    assert scores.curves[TOKEN_ACCURACY, "length"] == pytest.approx({1: 3 / 4, 2: 1 / 3})
    assert scores.curves[SEQUENCE_ACCURACY, "length"] == pytest.approx({1: 1 / 2, 2: 0})
    assert scores.curves[WER, "length"] == pytest.approx({1: 1 / 2, 2: 1})
    # An axis on which positions differ is none of whole sequences; padding stands nowhere on it.
    assert scores.curves[TOKEN_ACCURACY, "position"] == pytest.approx({0: 2 / 3, 1: 2 / 3, 2: 0})
    assert {(SEQUENCE_ACCURACY, "position"), (WER, "position")}.isdisjoint(scores.curves)
    first, second, third = scores.predictions
    assert (first.source, first.reference, first.prediction, first.correct) == ("a", "a b", "a c c c c", False)
    assert (second.prediction, second.correct) == ("b", True)
    assert (third.reference, third.prediction, third.correct) == ("<unk>", "<unk>", False)


def test_where_only_the_positions_of_the_references_count_greedy_decoding_ends_with_them() -> None:
    data = Reverse(min_length=3, max_length=4, longer_lengths=(), symbols=3).load(None)
    torch.manual_seed(0)
    model = build(match(MODELS["lstm"], Budget(parameters=10_000), data.dimensions), data.dimensions)
    model.decoder.output.bias.data[[PAD, BOS, EOS]] = -1_000.0  # no answer ends by itself
    longest = [batch.target.shape[1] for batch in data.evaluation[TEST] for _ in range(batch.size)]
    assert set(longest) == {4, 5}
    for metrics, expected in (((SEQUENCE_ACCURACY,), longest), ((PER,), [data.max_target_length] * len(longest))):
        scores = evaluate(model, data, TEST, metrics=metrics, device=CPU, keep_predictions=True)
        assert [len(prediction.prediction.split()) for prediction in scores.predictions] == expected


def test_a_beam_is_searched_where_asked_for() -> None:
    """What the scores are made of are the best hypotheses of the beam, which greedy decoding does not find."""
    data = Reverse(min_length=3, max_length=4, longer_lengths=(), symbols=3).load(None)
    torch.manual_seed(0)
    model = build(match(MODELS["lstm_attention"], Budget(parameters=10_000), data.dimensions), data.dimensions).eval()
    model.decoder.output.weight.data *= 5
    batch = data.evaluation[TEST][0]
    best = beam_search(
        model, batch.source, data.max_target_length, beam_size=4, length_penalty=1.0, lengths=batch.source_lengths
    )
    expected = [" ".join(data.target_vocabulary.decode(list(hypotheses[0].tokens))) for hypotheses in best]

    def predicted(decoding: Decoding) -> list[str]:
        scores = evaluate(model, data, TEST, metrics=(PER,), device=CPU, decoding=decoding, keep_predictions=True)
        return [prediction.prediction for prediction in scores.predictions[: batch.size]]

    assert predicted(Decoding(beam_size=4, length_penalty=1.0)) == expected
    assert predicted(GREEDY) != expected
