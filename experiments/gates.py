"""Integrity gates: what must hold of a trained model before its result may be used.

Each gate is a function that returns "pass" or says what it found. Outcomes are tags of the run (``gate.<name>``).
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.data import Batch, TaskData
from experiments.schema import GATE_PASSED, TEST
from models.config import ModelConfig
from models.interface import PAD, EncoderDecoder
from models.registry import build

SEQUENCES = 8  # looked at
TOLERANCE = 1e-3  # largest difference of a logit, float32, relative to the largest logit


@dataclass(frozen=True)
class Subject:
    """A trained model, its data, and a few test sequences of the longest batch."""

    model: EncoderDecoder
    config: ModelConfig
    data: TaskData
    source: Tensor
    target_in: Tensor


@torch.inference_mode()
def integrity_gates(
    model: EncoderDecoder, config: ModelConfig, data: TaskData, device: torch.device
) -> Mapping[str, str]:
    """Name of the gate → "pass" or what was found; `model` (selected weights) is left in evaluation mode."""
    model.eval()
    longest: Batch = max(data.evaluation[TEST], key=lambda batch: batch.target.shape[1])
    subject = Subject(
        model, config, data, longest.source[:SEQUENCES].to(device), longest.target_in[:SEQUENCES].to(device)
    )
    return {name: gate(subject) for name, gate in GATES.items()}


def dropout_off(subject: Subject) -> str:
    """Evaluation is deterministic: to the last bit on a processor; a GPU may add up in another order."""
    tolerance = 0 if subject.source.device.type == "cpu" else TOLERANCE
    return _same(_logits(subject), _logits(subject), "two evaluations differ", tolerance)


def stepwise(subject: Subject) -> str:
    """Step by step the model says what it says with all target positions at once."""
    length = subject.target_in.shape[1]
    state = subject.model.start(subject.model.encode(subject.source), length)
    steps = []
    for position in range(length):
        logits, state = subject.model.step(subject.target_in[:, position], state)
        steps.append(logits)
    return _same(torch.stack(steps, dim=1), _logits(subject), "stepwise and teacher-forced logits differ")


def padding_invariant(subject: Subject) -> str:
    """Padding after the source changes nothing."""
    padded = subject.model(F.pad(subject.source, (0, 1), value=PAD), subject.target_in)
    return _same(padded, _logits(subject), "padding changes the logits")


def no_look_ahead(subject: Subject) -> str:
    """What the decoder is fed last changes no earlier position."""
    if subject.target_in.shape[1] == 1:
        return GATE_PASSED
    changed = subject.target_in.clone()
    changed[:, -1] = (changed[:, -1] + 1) % len(subject.data.target_vocabulary)
    earlier = subject.model(subject.source, changed)[:, :-1]
    return _same(earlier, _logits(subject)[:, :-1], "a later input changes earlier logits")


def reloads(subject: Subject) -> str:
    """The checkpoint, saved and loaded into a new model, says the same."""
    file = io.BytesIO()
    torch.save(subject.model.state_dict(), file)
    file.seek(0)
    reloaded = build(subject.config, subject.data.dimensions).to(subject.source.device).eval()
    reloaded.load_state_dict(torch.load(file, weights_only=True))
    return _same(reloaded(subject.source, subject.target_in), _logits(subject), "the reloaded checkpoint differs")


def no_overlap(subject: Subject) -> str:
    """No test source occurs in training, where the space of sources allows it."""
    overlap = subject.data.overlap
    return GATE_PASSED if overlap == 0 else f"{overlap} test sequences occur in training"


GATES = {gate.__name__: gate for gate in (dropout_off, stepwise, padding_invariant, no_look_ahead, reloads, no_overlap)}


def _logits(subject: Subject) -> Tensor:
    return subject.model(subject.source, subject.target_in)


def _same(a: Tensor, b: Tensor, complaint: str, tolerance: float = TOLERANCE) -> str:
    difference = (a - b).abs().max().item()
    allowed = tolerance * b.abs().max().item()
    return GATE_PASSED if difference <= allowed else f"{complaint} by {difference:.2g} (allowed {allowed:.2g})"
