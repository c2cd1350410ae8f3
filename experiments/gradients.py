"""How far back the loss reaches: the norm of its gradient with respect to the embedded input, by distance.

Measured on needles (experiments.tasks.streams.Needle), of which all streams have the length of the longest of training,
while the symbol that decides the answer stands at a stated distance before the question::

    source    g b ! e a c ?
    fed       g b ! e a c ?      the decoder is given the stream
    target    · · · · · · e      the loss is that of the last position
    distance        3            tokens from the marked symbol to the question

A model reads that symbol twice, in the source and in what the decoder is fed, so that the gradient is with respect to
both embeddings, side by side: ‖∂loss/∂(eₛ, eₜ)‖₂, loss in nats. A recurrent decoder passes it back through as many
steps as the distance; attention is a way of one step. That every stream has the same length keeps distance apart from
length: attention that looks everywhere alike gives each of n tokens 1/n of its weight.

It starts at the logits, with ‖∂loss/∂logits‖₂, which is the smaller the surer the model is of the right answer, and no
model is equally sure at all distances; so that norm is measured too.

Hochreiter et al. 2001, "Gradient flow in recurrent nets: the difficulty of learning long-term dependencies".
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.config import Gradients
from experiments.data import Batch
from experiments.evaluation import Ratio
from experiments.tasks.streams import Needle
from experiments.tasks.synthetic import EVALUATED_TOKENS
from models.interface import EncoderDecoder

SEED = 4  # of the streams: the same for every model, every seed, and before and after training


class Reach(NamedTuple):
    """What was found at one distance, each a sum over streams and their number."""

    norm: Ratio  # of the gradient with respect to what decides the answer
    output_norm: Ratio  # of the gradient with respect to the logits
    right: Ratio  # answers


class InputGradients(NamedTuple):
    """Gradients of the losses of B streams of N tokens.

    Shapes:
        norms           (B, N), float64: with respect to both embeddings of each token, side by side
        output_norms    (B,), float64: with respect to the logits of the last position
        answers         (B,): what the model answers there
    """

    norms: Tensor
    output_norms: Tensor
    answers: Tensor


def reach_of_loss(model: EncoderDecoder, task: Needle, settings: Gradients, device: torch.device) -> dict[int, Reach]:
    """The gradient's norm at each distance, over the same streams but for the place of the mark.

    Dropout is off. In float32, as in training: what is smaller than 1e-38 has vanished, and counts as zero.

    Args:
        model: on `device`; left in the mode (training or evaluation) in which it came.
        task: with the lengths of training.
        settings: distances and number of streams.
        device: of the model.
    """
    was_training = model.training
    model.eval()
    found = {}
    for distance in settings.distances:
        reach = Reach(Ratio(), Ratio(), Ratio())
        streams = task.at_distance(settings.sequences, distance, torch.Generator().manual_seed(SEED))
        for rows in torch.arange(streams.size).split(max(1, EVALUATED_TOKENS * streams.size // streams.tokens)):
            batch = streams.select(rows).to(device)
            norms, output_norms, answers = input_gradients(model, batch)
            reach.norm.add(norms[:, -1 - distance].sum().item(), batch.size)
            reach.output_norm.add(output_norms.sum().item(), batch.size)
            reach.right.add((answers == batch.target[:, -1]).sum().item(), batch.size)
        found[distance] = reach
    model.train(was_training)
    return found


def input_gradients(model: EncoderDecoder, batch: Batch) -> InputGradients:
    """Gradient of the last position's loss with respect to every token of the stream, each stream on its own.

    Args:
        model: in evaluation mode.
        batch: source and decoder are given the same streams.
    """
    read: list[tuple[Tensor, Tensor]] = []  # tokens and embeddings, of the source, then of what the decoder is fed

    def keep(module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        read.append((inputs[0], output))

    handles = [half.embedding.register_forward_hook(keep) for half in (model.encoder, model.decoder)]
    try:
        # cuDNN's LSTM has a backward pass in training mode only, where dropout would be on.
        with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
            logits = model(batch.source, batch.target_in, batch.source_lengths)[:, -1]  # (B, V)
            loss = F.cross_entropy(logits, batch.target[:, -1], reduction="sum")
            *of_input, of_output = torch.autograd.grad(loss, [*(embedded for _, embedded in read), logits])
    finally:
        for handle in handles:
            handle.remove()
    by_sequence = [  # an LSTM embeds (N, B) tokens
        gradient if torch.equal(tokens, batch.source) else gradient.transpose(0, 1)
        for (tokens, _), gradient in zip(read, of_input, strict=True)
    ]
    # In float64, in which the square of a small number is not yet zero.
    side_by_side = torch.cat([_normal(gradient).double() for gradient in by_sequence], dim=-1)
    return InputGradients(side_by_side.norm(dim=-1), _normal(of_output).double().norm(dim=-1), logits.argmax(-1))


def _normal(gradient: Tensor) -> Tensor:
    """Zero in place of numbers below the normal ones: a GPU keeps them, a processor does not (prepare_process)."""
    return gradient.masked_fill(gradient.abs() < torch.finfo(gradient.dtype).tiny, 0.0)
