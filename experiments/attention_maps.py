"""Where a trained model's attention looks in the source: the weights on a few test sequences, to be drawn side by side.

The decoder is given the right answers, so that the maps of all models have the same axes.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from experiments.data import Batch, TaskData
from experiments.schema import TEST
from models.attention import SourceAttention
from models.interface import PAD, EncoderDecoder

SEQUENCES = 3  # that are looked at, the same for every model
LONGEST = 40  # symbols of their sources and answers: more cannot be read in a drawing
DIGITS = 3  # that are kept of a weight


def attention_maps(model: EncoderDecoder, data: TaskData, device: torch.device) -> list[dict[str, Any]]:
    """Maps of a few test sequences of middling length, in plain values.

    Args:
        model: on `device`; left in evaluation mode.
        data: of the task.
        device: of the model.

    Returns:
        Of each sequence "source", its S symbols; "target", the T symbols that are asked, with what the decoder is fed
        where that is given (``"k3 → v7"``); and "weights" (T, S), each row summing to 1. Empty for a model without
        attention to the source, and where all sequences are long.
    """
    if not any(isinstance(module, SourceAttention) for module in model.modules()):
        return []
    model.eval()
    found = []
    for batch, row in _sequences(data):
        length = int(batch.source_lengths[row])
        here = batch.to(device)
        source, target_in = here.source[row : row + 1, :length], here.target_in[row : row + 1]
        asked = batch.target[row] != PAD
        weights = source_attention(model, source, target_in)[0].cpu()[asked]
        found.append(
            {
                "source": [data.source_vocabulary.symbols[i] for i in batch.source[row, :length].tolist()],
                "target": _answers(batch, row, asked, data),
                "weights": [
                    [round(weight, DIGITS) for weight in weights_of_row] for weights_of_row in weights.tolist()
                ],
            }
        )
    return found


@torch.inference_mode()
def source_attention(model: EncoderDecoder, source: Tensor, target_in: Tensor) -> Tensor:
    """Weights of the decoder's attention to the source, (B, T, S): the mean over layers and heads.

    Args:
        model: with such attention, in evaluation mode.
        source: (B, S), without padding.
        target_in: (B, T).
    """
    names = [name for name, module in model.named_modules() if isinstance(module, SourceAttention)]
    kept = model.attention_weights(source, target_in)
    layers: list[Tensor] = []
    for name in names:
        calls = [weights.mean(1) if weights.dim() == 4 else weights for weights in kept[name]]  # (B, ·, S)
        if sum(call.shape[1] for call in calls) == target_in.shape[1]:  # a call, or with input feeding one a position
            calls = [torch.cat(calls, dim=1)]
        layers += calls  # of shared layers one each
    return torch.stack(layers).mean(0)


def _sequences(data: TaskData) -> list[tuple[Batch, int]]:
    """Batch and row of `SEQUENCES` of the test sequences that are short enough, at even distances."""
    short = [
        (batch, row)
        for batch in data.evaluation[TEST]
        for row, length in enumerate(batch.source_lengths.tolist())
        if length <= LONGEST and int((batch.target[row] != PAD).sum()) <= LONGEST
    ]
    count = min(SEQUENCES, len(short))
    return [short[(2 * i + 1) * len(short) // (2 * count)] for i in range(count)]


def _answers(batch: Batch, row: int, asked: Tensor, data: TaskData) -> list[str]:
    symbols = data.target_vocabulary.symbols
    answers = [symbols[i] for i in batch.target[row, asked].tolist()]
    if not data.given_inputs:
        return answers
    fed = batch.target_in[row, asked].tolist()
    return [f"{symbols[i]} → {answer}" for i, answer in zip(fed, answers, strict=True)]
