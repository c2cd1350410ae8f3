"""Training: one model on one task, the checkpoint selected on validation."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.config import Training
from experiments.data import Batch, TaskData
from experiments.evaluation import Scores, evaluate
from experiments.schema import (
    LOSS,
    LOWER_IS_BETTER,
    TRAIN_FLOPS,
    TRAIN_GRADIENT_NORM,
    TRAIN_LEARNING_RATE,
    TRAIN_LOSS,
    TRAIN_SECONDS,
    TRAIN_TOKENS,
    TRAIN_TOKENS_PER_SECOND,
    VALIDATION,
    metric,
)
from models.config import ModelConfig
from models.cost import training_flops
from models.interface import PAD, EncoderDecoder

LOG_EVERY = 25  # steps; the only place in the loop that waits for the device


class Recorder(Protocol):
    """Where metrics go (experiments.tracking)."""

    def point(self, name: str, value: float, step: int) -> None:
        """Takes one value of a metric of experiments.schema, at a training step."""

    def flush(self) -> None:
        """Lets them be seen."""


class Diverged(RuntimeError):
    """The loss is no number any more."""


@dataclass(frozen=True)
class Selected:
    """The checkpoint that validation chose."""

    step: int
    scores: Scores
    weights: dict[str, Tensor]


@dataclass(frozen=True)
class Status:
    """How far a training is, for whoever watches."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float


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
    watch: Callable[[Status], None],
) -> Selected:
    """Trains `model` in place and leaves the selected weights in it.

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
        watch: told how far it is, at most every `LOG_EVERY` steps.

    Raises:
        Diverged: the loss became NaN or infinite.
    """
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=(0.9, 0.98), weight_decay=settings.weight_decay, fused=True
    )
    batches = data.training(settings.batch, torch.Generator().manual_seed(seed), device)
    bfloat16 = uses_bfloat16(settings.precision, device)
    vocabulary = len(data.target_vocabulary)
    loss_sum = torch.zeros((), device=device)
    tokens = logged_tokens = flops = logged_step = 0
    seconds = logged_seconds = 0.0
    selected: Selected | None = None
    model.train()
    clock = time.perf_counter()
    for step in range(1, settings.steps + 1):
        learning_rate = settings.learning_rate * schedule(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
        batch = next(batches)
        loss, norm = update(
            model, optimizer, batch, clip=settings.clip, label_smoothing=settings.label_smoothing, bfloat16=bfloat16
        )
        loss_sum += loss
        tokens += batch.tokens
        flops += batch.size * training_flops(config, batch.source.shape[1], batch.target.shape[1], vocabulary)

        evaluating = step % settings.evaluate_every == 0 or step == settings.steps
        if step % LOG_EVERY == 0 or evaluating:
            mean_loss = loss_sum.item() / (step - logged_step)  # waits for the device
            if not math.isfinite(mean_loss):
                raise Diverged(f"the loss became {mean_loss} between steps {logged_step + 1} and {step}")
            now = time.perf_counter()
            seconds += now - clock
            clock = now
            speed = (tokens - logged_tokens) / (seconds - logged_seconds)
            recorder.point(TRAIN_LOSS, mean_loss, step)
            recorder.point(TRAIN_LEARNING_RATE, learning_rate, step)
            recorder.point(TRAIN_GRADIENT_NORM, norm.item(), step)
            recorder.point(TRAIN_TOKENS_PER_SECOND, speed, step)
            watch(Status(step, settings.steps, mean_loss, speed, seconds / step * (settings.steps - step)))
            loss_sum.zero_()
            logged_step, logged_tokens, logged_seconds = step, tokens, seconds
        if evaluating:
            scores = evaluate(model, data, VALIDATION, metrics=metrics, device=device)
            for name, value in scores.scalars.items():
                recorder.point(metric(VALIDATION, name), value, step)
            recorder.point(TRAIN_TOKENS, tokens, step)
            recorder.point(TRAIN_SECONDS, seconds, step)
            recorder.point(TRAIN_FLOPS, flops, step)
            if selected is None or merit(scores, headline) > merit(selected.scores, headline):
                weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
                selected = Selected(step, scores, weights)
            recorder.flush()
            clock = time.perf_counter()
    assert selected is not None
    model.load_state_dict(selected.weights)
    return selected


def update(
    model: EncoderDecoder,
    optimizer: torch.optim.Optimizer,
    batch: Batch,
    *,
    clip: float,
    label_smoothing: float,
    bfloat16: bool,
) -> tuple[Tensor, Tensor]:
    """One step of training, which does not wait for the device: the loss, and the gradient's norm before clipping."""
    with torch.autocast(batch.source.device.type, torch.bfloat16, enabled=bfloat16):
        logits = model(batch.source, batch.target_in, batch.source_lengths)
        loss = F.cross_entropy(
            logits.flatten(0, 1), batch.target.flatten(), ignore_index=PAD, label_smoothing=label_smoothing
        )
    optimizer.zero_grad()
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    return loss.detach(), norm


def schedule(step: int, settings: Training) -> float:
    """The learning rate at `step` (from 1), as a share of the highest."""
    warm = settings.warmup_steps
    if step <= warm:
        return step / warm
    if settings.schedule == "inverse_square_root":
        return math.sqrt(max(warm, 1) / step)
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / (settings.steps - warm)))


def merit(scores: Scores, headline: str) -> tuple[float, float]:
    """Larger is better: the headline metric, then the loss."""
    sign = -1 if headline in LOWER_IS_BETTER else 1
    return sign * scores.scalars[headline], -scores.scalars[LOSS]


def uses_bfloat16(precision: str, device: torch.device) -> bool:
    """Whether the matrix products run in bfloat16: when asked for, and on CUDA unless told otherwise.

    Raises:
        ValueError: asked for, but this processor has none (torch's LSTM would end in an error of its library).
    """
    if precision == "bfloat16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise ValueError("precision bfloat16: this processor has no bfloat16 (AVX-512 is needed); float32 works")
    return precision == "bfloat16" or (precision == "auto" and device.type == "cuda")
