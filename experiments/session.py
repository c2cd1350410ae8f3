"""The state of a running training, as one object that can be kept and taken up again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from experiments.data import Batch
from experiments.evaluation import Scores
from models.interface import EncoderDecoder


class ResumeError(RuntimeError):
    """A kept state does not belong to this training."""


@dataclass(frozen=True)
class Selected:
    """The checkpoint that validation chose."""

    step: int
    scores: Scores
    weights: dict[str, Tensor]


@dataclass
class Session:
    """All that changes while a model is trained, beside its weights and the optimiser's moments.

    Attributes:
        step: updates done.
        tokens, flops, seconds: spent in them; seconds without evaluations and checkpoints.
        loss_sum: of the steps since the last point of the learning curve, on the device.
        logged_step, logged_tokens, logged_seconds: where that point was.
        warm: what the warm-up took of the limit.
        solved: evaluations in a row in which the task was solved.
        validated: step → headline on validation at each evaluation so far.
        selected: the best of these.
    """

    loss_sum: Tensor
    step: int = 0
    tokens: int = 0
    flops: int = 0
    seconds: float = 0.0
    logged_step: int = 0
    logged_tokens: int = 0
    logged_seconds: float = 0.0
    warm: float = 0
    solved: int = 0
    validated: dict[int, float] = field(default_factory=dict)
    selected: Selected | None = None


def state_of(
    session: Session, model: EncoderDecoder, optimizer: torch.optim.Optimizer, generator: torch.Generator
) -> dict[str, Any]:
    """All that decides how a training goes on: tensors, numbers, texts, and containers of them."""
    selected = session.selected
    return {
        "session": {one.name: getattr(session, one.name) for one in fields(Session) if one.name != "selected"},
        "selected": selected
        and {
            "step": selected.step,
            "scalars": dict(selected.scores.scalars),
            "curves": {name: dict(curve) for name, curve in selected.scores.curves.items()},
            "weights": selected.weights,
        },
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "data": generator.get_state(),
        "dropout": torch.get_rng_state(),
        "dropout_cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_initialized() else [],
    }


def resume(
    state: Mapping[str, Any],
    model: EncoderDecoder,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[Batch],
    generator: torch.Generator,
    device: torch.device,
) -> Session:
    """Puts everything where `state_of` found it.

    The batches that the earlier attempt saw are drawn again: an iterator over a corpus is in the middle of an epoch,
    which the state of its generator alone does not tell.

    Raises:
        ResumeError: they are not the same batches.
    """
    session = Session(**state["session"])
    session.loss_sum = session.loss_sum.to(device)
    if state["selected"] is not None:
        chosen = state["selected"]
        weights = {name: value.to(device) for name, value in chosen["weights"].items()}
        session.selected = Selected(chosen["step"], Scores(chosen["scalars"], chosen["curves"]), weights)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    for _ in range(session.step):
        next(batches)
    if not torch.equal(generator.get_state(), state["data"]):
        raise ResumeError("the checkpoint belongs to other training data")
    torch.set_rng_state(state["dropout"])
    for of_gpu in state["dropout_cuda"]:
        torch.cuda.set_rng_state(of_gpu)
    return session
