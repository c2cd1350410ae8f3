"""The table of peers (peers.py), in miniature: that each row is measured, not what it says."""

from __future__ import annotations

import importlib.util
import math

import peers
import pytest
import torch

ROWS = {"training": 2, "lstm": 2, "decoding": 3, "step": 1, "memory": 1, "peak": 1, "bookkeeping": 1}
GPU = pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")])


def test_all_rows_are_known_here() -> None:
    assert list(ROWS) == list(peers.ROWS)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("name", ROWS)
def test_a_row(name: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name in ("training", "decoding") and importlib.util.find_spec("transformers") is None:
        pytest.skip("BART is of the extra `peers`")
    small = {"SIZES": (8,), "LENGTHS": (4,), "BATCH": 3, "TOKENS": 5, "UPDATES": 6, "ROUNDS": 1, "LARGE_SIZE": 16}
    for constant, value in small.items():
        monkeypatch.setattr(peers, constant, value)
    found = list(peers.ROWS[name](torch.device(device)))
    assert len(found) == ROWS[name] + (name == "peak" and device == "cuda")
    for row in found:
        assert math.isfinite(row.found)
        at_most, bar = row.bar[0] == "≤", float(row.bar[2:].rstrip("×"))
        assert row.met == (row.found <= bar if at_most else row.found >= bar)
