"""Training: one model on one task, the checkpoint selected on validation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.config import SOLVED, Training
from experiments.data import Batch, TaskData
from experiments.environment import rounded
from experiments.evaluation import Scores, evaluate
from experiments.schema import (
    LOSS,
    LOWER_IS_BETTER,
    SEQUENCE_ACCURACY,
    SOLVED_STEP,
    TRAIN_FLOPS,
    TRAIN_GRADIENT_NORM,
    TRAIN_LEARNING_RATE,
    TRAIN_LOSS,
    TRAIN_SECONDS,
    TRAIN_TOKENS,
    TRAIN_TOKENS_PER_SECOND,
    VALIDATION,
    WER,
    metric,
)
from experiments.session import Selected, Session, resume, state_of
from experiments.timing import wait_for
from models.config import ModelConfig
from models.cost import training_flops
from models.interface import PAD, EncoderDecoder

LOG_EVERY = 25  # steps; the only place in the loop that waits for the device


class Recorder(Protocol):
    """Where metrics go (experiments.tracking)."""

    def point(self, name: str, value: float, step: int) -> None:
        """Takes one value of a metric of experiments.schema, at a training step."""


class Update(Protocol):
    """One step of training: see `update`, or experiments.team of several processes."""

    def __call__(
        self,
        model: EncoderDecoder,
        optimizer: torch.optim.Optimizer,
        batch: Batch,
        *,
        clip: float,
        label_smoothing: float,
        bfloat16: bool,
    ) -> tuple[Tensor, Tensor]:
        """The loss, and the gradient's norm before clipping."""


class Diverged(RuntimeError):
    """The loss is no number any more."""


class Pruned(Exception):
    """The training is not worth going on with, which shows after `step`."""

    def __init__(self, step: int) -> None:
        super().__init__(f"after step {step}")
        self.step = step


class Keeper(Protocol):
    """Keeps the state of a training or a sweep, so that it can go on where it was interrupted (experiments.run)."""

    def load(self) -> Mapping[str, Any] | None:
        """What was kept last; None at the beginning."""

    def due(self) -> bool:
        """Whether it is time to keep the state; asked after every step."""

    def save(self, state: Mapping[str, Any]) -> None:
        """Keeps it; may raise, to end the training here."""


@dataclass(frozen=True)
class Status:
    """How far a training is, for whoever watches."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float


def optimizer_for(model: EncoderDecoder, settings: Training) -> torch.optim.Optimizer:
    """The optimiser; its learning rate is set at every step."""
    return torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=settings.weight_decay, fused=True
    )


def update(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    clip: float,
    label_smoothing: float,
    bfloat16: bool,
    weight: float | Tensor = 1.0,
) -> tuple[Tensor, Tensor]:
    """One step of training, which does not wait for the device: the loss, and the gradient's norm before clipping.

    `weight`: by what the mean loss of the batch counts.
    """
    with rounded(bfloat16):
        with torch.autocast(batch.source.device.type, torch.bfloat16, enabled=bfloat16):
            logits = model(batch.source, batch.target_in, batch.source_lengths)
            loss = F.cross_entropy(
                logits.flatten(0, 1), batch.target.flatten(), ignore_index=PAD, label_smoothing=label_smoothing
            )
            loss = loss * weight
        optimizer.zero_grad()
        loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(optimizer.param_groups[0]["params"], clip)  # a list that is made already
    optimizer.step()
    return loss.detach(), norm


def train(
    model: EncoderDecoder,
    config: ModelConfig,
    data: TaskData,
    settings: Training,
    *,
    headline: str,
    metrics: tuple[str, ...],
    seed: int,
    device: torch.device,
    recorder: Recorder,
    keeper: Keeper,
    watch: Callable[[Status], None],
    step: Update = update,
    prunes: Callable[[Mapping[int, float]], bool] = lambda curve: False,
) -> Selected:
    """Trains `model` in place and leaves the selected weights in it.

    Where `keeper` has the state of an earlier attempt, training goes on from there; on the CPU it ends with the same
    weights and metrics as one that was never interrupted, bit for bit.

    Args:
        model: on `device`.
        config: of the model, widths stated; for counting FLOPs.
        data: of the task.
        settings: of the training.
        headline: the metric that selects on validation; ties go to the lower validation loss.
        metrics: all that an evaluation reports.
        seed: of the training data; the same data for every model.
        device: where to train.
        recorder: takes every metric of experiments.schema that belongs to training and validation.
        keeper: keeps the state.
        watch: told how far it is, at most every `LOG_EVERY` steps.
        step: makes an update.
        prunes: whether to end it early; asked after each evaluation but the last, with the headline at all so far.

    Raises:
        Diverged: the loss became NaN or infinite.
        Pruned: `prunes` said so.
        experiments.session.ResumeError: the kept state is of a training on other data.
    """
    optimizer = optimizer_for(model, settings)
    generator = torch.Generator().manual_seed(seed)
    batches = data.training(settings.batch, generator, device)
    session = Session(loss_sum=torch.zeros((), device=device))
    kept = keeper.load()
    if kept is not None:
        session = resume(kept, model, optimizer, batches, generator, device)
    bfloat16 = uses_bfloat16(settings.precision, device)
    vocabulary = len(data.target_vocabulary)
    limit, amount = settings.limit
    model.train()
    clock = time.perf_counter()
    over = False
    while not over:
        session.step += 1
        batch = next(batches)
        session.tokens += batch.tokens
        session.flops += batch.size * training_flops(config, batch.source.shape[1], batch.target.shape[1], vocabulary)
        spent = _spent(session, limit, session.seconds + time.perf_counter() - clock)
        over = spent >= amount
        if session.step == settings.warmup_steps:
            session.warm = spent
        learning_rate = settings.learning_rate * schedule(session.step, spent, session.warm, settings)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        loss, norm = step(
            model, optimizer, batch, clip=settings.clip, label_smoothing=settings.label_smoothing, bfloat16=bfloat16
        )
        session.loss_sum += loss

        evaluating = session.step % settings.evaluate_every == 0 or over
        if session.step % LOG_EVERY == 0 or evaluating:
            mean_loss = session.loss_sum.item() / (session.step - session.logged_step)  # waits for the device
            if not math.isfinite(mean_loss):
                raise Diverged(
                    f"the loss became {mean_loss} between steps {session.logged_step + 1} and {session.step}"
                )
            now = time.perf_counter()
            session.seconds += now - clock
            clock = now
            speed = (session.tokens - session.logged_tokens) / (session.seconds - session.logged_seconds)
            recorder.point(TRAIN_LOSS, mean_loss, session.step)
            recorder.point(TRAIN_LEARNING_RATE, learning_rate, session.step)
            recorder.point(TRAIN_GRADIENT_NORM, norm.item(), session.step)
            recorder.point(TRAIN_TOKENS_PER_SECOND, speed, session.step)
            share = min(spent / amount, 1)
            left = session.seconds / share * (1 - share)
            watch(Status(session.step, settings.steps or round(session.step / share), mean_loss, speed, left))
            session.loss_sum.zero_()
            session.logged_step, session.logged_tokens = session.step, session.tokens
            session.logged_seconds = session.seconds
        if evaluating:
            scores = evaluate(model, data, VALIDATION, metrics=metrics, device=device)
            for name, value in scores.scalars.items():
                recorder.point(metric(VALIDATION, name), value, session.step)
            recorder.point(TRAIN_TOKENS, session.tokens, session.step)
            recorder.point(TRAIN_SECONDS, session.seconds, session.step)
            recorder.point(TRAIN_FLOPS, session.flops, session.step)
            best = session.selected
            if best is None or merit(scores, headline) > merit(best.scores, headline):
                weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
                session.selected = Selected(session.step, scores, weights)
            session.validated[session.step] = scores.scalars[headline]
            session.solved = session.solved + 1 if exact_match(scores) >= SOLVED else 0
            if settings.stop_when_solved and session.solved == 2:
                recorder.point(SOLVED_STEP, session.step, 0)
                over = True
            if not over and prunes(session.validated):
                raise Pruned(session.step)
            clock = time.perf_counter()
        if keeper.due() and not over:
            wait_for(device)  # updates that were asked for are no part of what keeping them takes
            session.seconds += time.perf_counter() - clock
            keeper.save(state_of(session, model, optimizer, generator))
            clock = time.perf_counter()
    assert session.selected is not None
    model.load_state_dict(session.selected.weights)
    return session.selected


def schedule(step: int, spent: float, warm: float, settings: Training) -> float:
    """The learning rate at a step, as a share of the highest.

    Args:
        step: from 1.
        spent: of the limit of the training, this step included.
        warm: of the limit, in the warm-up.
        settings: of the training.
    """
    if step <= settings.warmup_steps:
        return step / settings.warmup_steps
    if settings.schedule == "inverse_square_root":
        return math.sqrt(max(settings.warmup_steps, 1) / step)
    _, amount = settings.limit
    return 0.5 * (1 + math.cos(math.pi * (min(spent, amount) - warm) / (amount - warm)))


def _spent(session: Session, limit: str, seconds: float) -> float:
    """Of what is limited."""
    return {"steps": session.step, "tokens": session.tokens, "flops": session.flops, "seconds": seconds}[limit]


def exact_match(scores: Scores) -> float:
    """Share of sequences that are right as a whole; NaN where the task does not report it."""
    if WER in scores.scalars:
        return 1 - scores.scalars[WER]
    return scores.scalars.get(SEQUENCE_ACCURACY, math.nan)


def merit(scores: Scores, headline: str) -> tuple[float, float]:
    """Larger is better: the headline metric, then the loss."""
    sign = -1 if headline in LOWER_IS_BETTER else 1
    return sign * scores.scalars[headline], -scores.scalars[LOSS]


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether the matrix products run in bfloat16: when asked for, and on CUDA unless told otherwise.

    Raises:
        ValueError: asked for, but this processor has none.
    """
    if precision == "bfloat16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise ValueError("precision bfloat16: this processor has no bfloat16 (AVX-512 is needed); float32 works")
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
