"""Decoding through `step` alone: the same code for every model."""

from __future__ import annotations

import torch
from torch import Tensor

from models.interface import BOS, EOS, PAD, EncoderDecoder


@torch.no_grad()
def greedy(model: EncoderDecoder, source: Tensor, max_length: int, lengths: Tensor | None = None) -> Tensor:
    """The most probable next token, again and again, until every sequence has ended.

    Args:
        model: in evaluation mode (`step` applies no dropout, `encode` would).
        source: (B, S) token ids, padded at the end.
        max_length: stop after this many tokens, `EOS` included.
        lengths: (B,) source lengths on the CPU, where they are known.

    Returns:
        (B, T) token ids with T ≤ max_length; after a sequence's `EOS` follows `PAD`.
    """
    state = model.start(model.encode(source, lengths), max_length)
    tokens = torch.full((source.shape[0],), BOS, device=source.device)
    ended = torch.zeros_like(tokens, dtype=torch.bool)
    written = []
    for _ in range(max_length):
        logits, state = model.step(tokens, state)
        tokens = logits.argmax(-1).masked_fill(ended, PAD)
        written.append(tokens)
        ended |= tokens == EOS
        if ended.all():
            break
    return torch.stack(written, dim=1)
