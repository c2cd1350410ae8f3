"""Decoding through `start`, `step` and `select` alone: the same code for every model.

Shapes: B sequences, S source positions, V target vocabulary, K beam size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.interface import BOS, EOS, PAD, EncoderDecoder


@torch.inference_mode()
def greedy(model: EncoderDecoder, source: Tensor, max_length: int, lengths: Tensor | None = None) -> Tensor:
    """The most probable next token, again and again, until every sequence has ended.

    Sequences that have ended are dropped from the batch as soon as they are half of it.

    Args:
        model: in evaluation mode.
        source: (B, S) token ids, padded at the end.
        max_length: stop after this many tokens, `EOS` included.
        lengths: (B,) source lengths on the CPU, where they are known.

    Returns:
        (B, T) token ids with T ≤ max_length; after a sequence's `EOS` follows `PAD`.
    """
    state = model.start(model.encode(source, lengths), max_length)
    written = torch.full((source.shape[0], max_length), PAD, device=source.device)
    rows = torch.arange(source.shape[0], device=source.device)  # of `written`, that are still in the batch
    tokens = torch.full_like(rows, BOS)
    ended = torch.zeros_like(rows, dtype=torch.bool)
    for position in range(max_length):
        logits, state = model.step(tokens, state)
        tokens = logits.argmax(-1).masked_fill(ended, PAD)
        written[rows, position] = tokens
        ended |= tokens == EOS
        left = len(ended) - int(ended.sum())
        if left == 0:
            return written[:, : position + 1]
        if left <= len(ended) // 2:
            kept = (~ended).nonzero()[:, 0]
            rows, tokens, ended, state = rows[kept], tokens[kept], ended[kept], state.select(kept)
    return written


@dataclass(frozen=True)
class Hypothesis:
    """A decoded sequence.

    Attributes:
        tokens: ids, up to and with `EOS`; without, where `max_length` cut it off.
        log_probability: sum over its tokens, in nats.
        score: the log-probability over the length penalty; what hypotheses are ranked by.
    """

    tokens: tuple[int, ...]
    log_probability: float
    score: float


@torch.inference_mode()
def beam_search(
    model: EncoderDecoder,
    source: Tensor,
    max_length: int,
    *,
    beam_size: int,
    length_penalty: float = 0.0,
    n_best: int = 1,
    lengths: Tensor | None = None,
) -> list[list[Hypothesis]]:
    """The best sequences found by keeping the `beam_size` most probable beginnings at every position.

    A beginning that ends among the best K continuations of its sequence becomes a hypothesis. A sequence is done, and
    leaves the batch, when no beginning that is left can reach the n-th best of its hypotheses any more, so that
    stopping changes nothing of the result. Beginnings that reach `max_length` become hypotheses as they are.

    Args:
        model: in evaluation mode.
        source: (B, S) token ids, padded at the end.
        max_length: longest hypothesis, `EOS` included.
        beam_size: K; 1 is greedy decoding, where the length penalty is 0.
        length_penalty: α of ((5 + length) / 6)^α, by which log-probabilities are divided (Wu et al. 2016, equation 14);
            0 ranks by probability alone, which favours short sequences.
        n_best: hypotheses returned for each sequence, at most K.
        lengths: (B,) source lengths on the CPU, where they are known.

    Returns:
        For each sequence its hypotheses, best first: `n_best` of them, fewer where the vocabulary has no more.

    Raises:
        ValueError: the beam is smaller than 1 or than `n_best`, or the length penalty is negative.
    """
    if not 1 <= n_best <= beam_size:
        raise ValueError(f"n_best must be from 1 to the beam size {beam_size}, not {n_best}")
    if length_penalty < 0:
        raise ValueError(f"length_penalty must not be negative, found {length_penalty}")

    def penalty(length: int) -> float:
        return ((5 + length) / 6) ** length_penalty

    def add(sequence: int, tokens: list[int], log_probability: float) -> None:
        hypothesis = Hypothesis(tuple(tokens), log_probability, log_probability / penalty(len(tokens)))
        found[sequence] = sorted([*found[sequence], hypothesis], key=lambda h: -h.score)[:n_best]

    batch, device = source.shape[0], source.device
    found: list[list[Hypothesis]] = [[] for _ in range(batch)]  # the n best of each sequence, best first
    active = torch.arange(batch)  # the sequences that are still searched: K rows each
    state = model.start(model.encode(source, lengths), max_length)
    state = state.select(active.to(device).repeat_interleave(beam_size))
    tokens = torch.full((batch * beam_size,), BOS, device=device)
    written = torch.empty(batch, beam_size, 0, dtype=torch.long, device=device)
    total = torch.full((batch, beam_size), -math.inf, dtype=torch.float64, device=device)  # log-probabilities
    total[:, 0] = 0.0  # all K beginnings are the same yet: one of them counts
    for length in range(1, max_length + 1):
        logits, state = model.step(tokens, state)
        step = logits.log_softmax(-1, dtype=torch.float64).unflatten(0, total.shape)  # (B, K, V)
        candidates = (total[:, :, None] + step).flatten(1)  # (B, K·V)
        # Each beginning has one continuation that ends it, so that among the best 2K at least K go on.
        best, place = candidates.topk(2 * beam_size, dim=1)
        beginning, token = place // step.shape[2], place % step.shape[2]  # (B, 2K)
        ends = token == EOS
        for row, rank in (ends[:, :beam_size] & best[:, :beam_size].isfinite()).nonzero().tolist():
            ids = [*written[row, beginning[row, rank]].tolist(), EOS]
            add(int(active[row]), ids, best[row, rank].item())
        total, going_on = best.masked_fill(ends, -math.inf).topk(beam_size, dim=1)
        beginning, token = beginning.gather(1, going_on), token.gather(1, going_on)  # (B, K)
        written = torch.cat([written.take_along_dim(beginning[:, :, None], 1), token[:, :, None]], dim=2)

        bound = (total.amax(1) / penalty(max_length)).tolist()  # no continuation can score higher
        unsettled = [
            row
            for row, sequence in enumerate(active.tolist())
            if len(found[sequence]) < n_best or found[sequence][-1].score < bound[row]
        ]
        if length == max_length:
            for row in unsettled:
                for rank in range(beam_size):
                    if math.isfinite(total[row, rank].item()):
                        add(int(active[row]), written[row, rank].tolist(), total[row, rank].item())
        if not unsettled:
            break
        rows = torch.tensor(unsettled, device=device)
        state = state.select((rows[:, None] * beam_size + beginning[rows]).flatten())
        active, written, total, tokens = active[unsettled], written[rows], total[rows], token[rows].flatten()
    return found
