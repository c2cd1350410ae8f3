"""Drawn sequences of synthetic tasks in symbols, for independent readings of them."""

from __future__ import annotations

from typing import NamedTuple

import torch

from experiments.data import Batch, Vocabulary
from experiments.tasks.synthetic import SyntheticTask, trimmed
from models.interface import PAD


class Row(NamedTuple):
    """One sequence; what is padded after the source left out, what is not asked in the target as ``·``."""

    source: list[str]
    fed: list[str]
    target: list[str]


def rows(task: SyntheticTask, batch: Batch) -> list[Row]:
    source, target = task.vocabularies()

    def symbols(vocabulary: Vocabulary, ids: list[int]) -> list[str]:
        return ["·" if i == PAD else vocabulary.symbols[i] for i in ids]

    return [
        Row(symbols(source, s[:n]), symbols(target, i), symbols(target, t))
        for s, i, t, n in zip(
            batch.source.tolist(),
            batch.target_in.tolist(),
            batch.target.tolist(),
            batch.source_lengths.tolist(),
            strict=True,
        )
    ]


def draw(task: SyntheticTask, size: int, seed: int, count: int = 20) -> list[Row]:
    return rows(task, trimmed(task.draw(count, size, torch.Generator().manual_seed(seed))))


def whole(row: Row) -> tuple[str, list[str]]:
    """The string and the answer of a row whose decoder is fed its own past and says itself where the answer ends."""
    assert row.source[-1] == "<eos>"
    assert "<eos>" not in row.source[:-1]
    end = row.target.index("<eos>")
    assert set(row.target[end + 1 :]) <= {"·"}
    assert row.fed[: end + 1] == ["<bos>", *row.target[:end]]
    return "".join(row.source[:-1]), row.target[:end]


def answered(row: Row) -> tuple[list[str], str]:
    """The string, and the answer of a single symbol."""
    assert row.source[-1] == "<eos>"
    assert "<eos>" not in row.source[:-1]
    assert row.fed == ["<bos>"]
    (answer,) = row.target
    return row.source[:-1], answer


def asked_last(row: Row) -> tuple[list[str], str]:
    """The stream, which the decoder is fed too, and what is asked at its last position only."""
    assert row.fed == row.source
    assert set(row.target[:-1]) <= {"·"}
    return row.source, row.target[-1]
