"""The table of peers (peers.py), in miniature: that each row is measured, not what it says."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from typing import Any

import peers
import pytest
import torch
from casts import first_and_again
from simulated_graphs import simulate
from torch import Tensor

from experiments import evaluation, phases, training
from experiments.data import TaskData
from models.interface import EncoderDecoder

CPU = torch.device("cpu")

ROWS = {
    **{"training": 2, "lstm": 3, "decoding": 3, "step": 1, "memory": 1, "peak": 1},
    **{"graphs": 0, "bookkeeping": 1, "launches": 0},  # without a GPU
}
ON_GPU = {"peak": 1, "launches": 6, "graphs": 6}  # more
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
    assert len(found) == ROWS[name] + (ON_GPU.get(name, 0) if device == "cuda" else 0)
    for row in found:
        assert math.isfinite(row.found)
        if not row.bar:
            assert row.found > 0
            continue
        at_most, bar = row.bar[0] == "≤", float(row.bar[2:].rstrip("×"))
        assert row.met == (row.found <= bar if at_most else row.found >= bar)


@pytest.mark.parametrize(("name", "rows"), [("training", 1), ("decoding", 1)])
def test_without_bart_its_rows_are_left_out(
    name: str, rows: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for constant, value in {"SIZES": (8,), "LENGTHS": (4,), "BATCH": 3, "TOKENS": 2, "ROUNDS": 1}.items():
        monkeypatch.setattr(peers, constant, value)
    monkeypatch.setattr(peers.importlib.util, "find_spec", lambda name: None)
    peers.has_bart.cache_clear()
    found = list(peers.ROWS[name](CPU))
    peers.has_bart.cache_clear()
    assert len(found) == rows
    assert not any("BART" in row.what for row in found)
    (said,) = capsys.readouterr().err.splitlines()
    assert "pip install -e '.[peers]'" in said


def test_what_is_profiled_is_profiled_last() -> None:
    """A process launches more slowly ever after."""
    assert list(peers.ROWS)[-1] == "launches"


def test_rows_of_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU."""
    for constant, value in {"SIZES": (8,), "LENGTHS": (4,), "BATCH": 3, "TOKENS": 2, "ROUNDS": 1}.items():
        monkeypatch.setattr(peers, constant, value)
    monkeypatch.setattr(peers, "on_gpu", lambda device: True)
    simulate(monkeypatch)
    found = list(peers.graph_rows(CPU))
    assert len(found) == ON_GPU["graphs"]
    assert all(row.found > 0 for row in found)


def test_weights_are_cast_before_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of both sides, as on a GPU: nothing is left for the second repetition."""
    counts: list[tuple[int, int]] = []

    def repeated(device: torch.device, *works: Callable[[], object], rounds: int = 1) -> list[float]:
        # Of weights: matrices of states have fewer rows.
        counts.extend(first_and_again(work, lambda shape: min(shape) >= 8) for work in works)
        return [1.0 for _ in works]

    monkeypatch.setattr(peers, "TOKENS", 3)
    monkeypatch.setattr(peers, "SIZES", (8,))
    monkeypatch.setattr(peers, "medians", repeated)
    monkeypatch.setattr(peers, "on_gpu", lambda device: True)
    assert len(list(peers.step_rows(CPU))) == 1
    assert [again for _, again in counts] == [0, 0]
    assert min(first for first, _ in counts) > 0
    model = peers.ours(peers.transformer_config(8), CPU).eval()
    with phases.inferring(CPU, bfloat16=True):
        repeated(CPU, peers.decoding(model, peers.tokens(1, 5, device=CPU), torch.full((1,), 5)))
    assert counts[-1][0] > 0
    assert counts[-1][1] == 0


def test_bare_lstms_are_in_float32_and_the_rest_is_not() -> None:
    bare, tokens = peers.BareLSTM(8), peers.tokens(2, 5, device=CPU)
    cast: list[bool] = []
    for lstm in (bare.encoder, bare.decoder):
        lstm.register_forward_pre_hook(lambda module, arguments: cast.append(torch.is_autocast_enabled("cpu")))
    with torch.autocast("cpu", torch.bfloat16):
        logits = bare(tokens, tokens)
        next_logits, _ = bare.step(tokens[:, 0], None)
    assert cast == [False] * 3
    assert logits.dtype == next_logits.dtype == torch.bfloat16


def test_bare_lstms_do_not_read_padding() -> None:
    """A shorter source in a batch has the logits that it has alone."""
    bare, source, lengths = peers.BareLSTM(8), peers.tokens(3, 6, device=CPU), torch.tensor([4, 6, 3])
    rows = peers.padded(source, lengths)
    assert [int((row != 0).sum()) for row in rows] == [4, 6, 3]
    logits = bare(rows, source, lengths)
    for row, length in enumerate(lengths.tolist()):
        alone = bare(source[row : row + 1, :length], source[row : row + 1])
        torch.testing.assert_close(logits[row : row + 1], alone)


def test_what_a_device_does_for_the_model_is_no_bookkeeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only the device's work moves; in evaluation it is asked for at once and done when waited for."""
    now, left = [0.0], [0.0]
    forward = EncoderDecoder.forward

    def asked_for(self: EncoderDecoder, *arguments: Any) -> Tensor:
        if self.training:
            now[0] += 1.0
        else:
            left[0] += 0.5
        return forward(self, *arguments)

    def wait(device: torch.device) -> None:
        now[0], left[0] = now[0] + left[0], 0.0

    def evaluate(model: EncoderDecoder, data: TaskData, split: str, **more: Any) -> evaluation.Scores:
        batch = data.evaluation[split][0].select(torch.arange(2))
        model.eval()(batch.source, batch.target_in, batch.source_lengths)
        wait(CPU)  # as whoever reads the scores does
        model.train()
        return evaluation.Scores(dict.fromkeys(("loss", "token_accuracy", "sequence_accuracy"), 0.5), {})

    monkeypatch.setattr(EncoderDecoder, "forward", asked_for)
    monkeypatch.setattr(training, "evaluate", evaluate)
    monkeypatch.setattr(peers, "wait_for", wait)
    monkeypatch.setattr(peers, "UPDATES", 3)
    monkeypatch.setattr(peers.time, "perf_counter", lambda: now[0])
    (row,) = peers.bookkeeping_rows(CPU)
    assert now[0] == 3 * 1.0 + 3 * 0.5
    assert row.found == 0
