"""How long a run will take, from a few of its steps."""

from __future__ import annotations

import math
import time

import torch

from experiments.config import LearnRun, Training
from experiments.data import TaskData
from experiments.evaluation import evaluate
from experiments.schema import LONGER, TEST, VALIDATION
from experiments.timing import wait_for
from experiments.training import optimizer_for, update, uses_bfloat16
from models.config import ModelConfig
from models.cost import training_flops
from models.registry import build

WARMUP, STEPS = 2, 8  # of training: not timed, timed


def estimated_seconds(run: LearnRun, config: ModelConfig, data: TaskData, device: torch.device) -> float:
    """Seconds that a run will take by itself, its start, checkpoints and tracking left out.

    Untrained models seldom end a sequence, so that their evaluations, and with them the estimate, are rather too long.

    Args:
        run: as it would be executed.
        config: of its model, widths stated.
        data: of its task.
        device: on which to try; nothing else should be running there.
    """
    training = run.training
    torch.manual_seed(run.seed)
    model = build(config, data.dimensions).to(device).train()
    optimizer = optimizer_for(model, training)
    batches = data.training(training.batch, torch.Generator().manual_seed(run.seed), device)
    bfloat16 = uses_bfloat16(training.precision, device)
    tokens = flops = 0
    start = 0.0
    for step in range(WARMUP + STEPS):
        if step == WARMUP:
            start = _now(device)
        batch = next(batches)
        update(model, optimizer, batch, clip=training.clip, label_smoothing=training.label_smoothing, bfloat16=bfloat16)
        tokens += batch.tokens
        sizes = batch.source.shape[1], batch.target.shape[1]
        flops += batch.size * training_flops(config, *sizes, len(data.target_vocabulary))
    of_step = (_now(device) - start) / STEPS
    steps = _steps(training, tokens / (WARMUP + STEPS), flops / (WARMUP + STEPS), of_step)
    start = _now(device)
    evaluate(model, data, VALIDATION, metrics=run.task.metrics, device=device)
    of_evaluation = _now(device) - start
    size = {split: sum(batch.target.numel() for batch in batches) for split, batches in data.evaluation.items()}
    tests = (size[TEST] + size.get(LONGER, 0)) / size[VALIDATION] * run.decoding.beam_size
    return steps * of_step + (math.ceil(steps / training.evaluate_every) + tests) * of_evaluation


def _steps(training: Training, tokens: float, flops: float, seconds: float) -> float:
    """Until the limit, from what a step takes of each."""
    limit, amount = training.limit
    return amount / {"steps": 1.0, "tokens": tokens, "flops": flops, "seconds": seconds}[limit]


def _now(device: torch.device) -> float:
    wait_for(device)
    return time.perf_counter()
