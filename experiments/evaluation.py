"""How good a model is on a fixed set of batches. Sums and counts are kept; the division comes last."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from rapidfuzz.distance import Levenshtein
from torch import Tensor

from experiments.config import Decoding
from experiments.data import Batch, TaskData
from experiments.schema import LOSS, PER, SEQUENCE_ACCURACY, TOKEN_ACCURACY, WER, of_category
from experiments.text_metrics import TEXT_METRICS
from models.decoding import beam_search, greedy
from models.interface import EOS, PAD, EncoderDecoder

GREEDY = Decoding()


@dataclass
class Ratio:
    """A sum over a count."""

    total: float = 0.0
    count: float = 0.0

    def add(self, total: float, count: float) -> None:
        """Adds to both."""
        self.total += total
        self.count += count

    @property
    def value(self) -> float:
        """The mean; NaN where nothing was counted."""
        return self.total / self.count if self.count else float("nan")


@dataclass(frozen=True)
class Prediction:
    """One sequence of the set and what the model made of it: in texts where the task has them, else in symbols.

    `categories`: axis with names → the name of the sequence on it.
    """

    source: str
    reference: str
    prediction: str
    correct: bool
    categories: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Attributes:
        scalars: name of the metric (experiments.schema) → value; of a metric by names too (`of_category`).
        curves: (name of the metric, axis) → value on the axis → value of the metric.
        predictions: every sequence of the set; empty unless asked for.
    """

    scalars: Mapping[str, float]
    curves: Mapping[tuple[str, str], Mapping[int, float]]
    predictions: Sequence[Prediction] = field(default_factory=tuple)


@torch.inference_mode()
def evaluate(
    model: EncoderDecoder,
    data: TaskData,
    split: str,
    *,
    metrics: Sequence[str],
    device: torch.device,
    decoding: Decoding = GREEDY,
    keep_predictions: bool = False,
) -> Scores:
    """Scores a model, dropout off, on answers that it decodes (or gives to given inputs).

    Args:
        model: left in the mode (training or evaluation) in which it came.
        data: of the task.
        split: which of its evaluation sets.
        metrics: which of token accuracy, sequence accuracy, WER, PER and, where the data have texts, those of
            experiments.text_metrics; the loss comes with them always.
        device: of the model.
        decoding: greedy, or with a beam.
        keep_predictions: return them too.
    """
    was_training = model.training
    model.eval()
    loss, tokens, sequences, edits = Ratio(), Ratio(), Ratio(), Ratio()
    by_token: dict[str, dict[int, Ratio]] = defaultdict(lambda: defaultdict(Ratio))
    by_sequence: dict[str, dict[int, Ratio]] = defaultdict(lambda: defaultdict(Ratio))
    predictions: list[Prediction] = []
    spelt: list[str] = []  # the answers as texts
    whole = bool({PER, *TEXT_METRICS} & set(metrics))
    of_sequences = _axes_of_sequences(data.evaluation[split])
    for cpu_batch in data.evaluation[split]:
        batch = cpu_batch.to(device)
        logits = model(batch.source, batch.target_in, batch.source_lengths)
        asked = cpu_batch.target != PAD  # (B, T)
        loss_sum = F.cross_entropy(
            logits.flatten(0, 1).float(), batch.target.flatten(), ignore_index=PAD, reduction="sum"
        )
        loss.add(loss_sum.item(), asked.sum().item())
        if data.given_inputs:
            answers = logits.argmax(-1).cpu().masked_fill(~asked, PAD)
        else:
            answers = _decode(model, batch, data.max_target_length, decoding, whole=whole)
        reference = data.target_vocabulary.references(cpu_batch.target)
        right, exact = compare(answers, reference)
        tokens.add(right[asked].sum().item(), asked.sum().item())
        sequences.add(exact.sum().item(), batch.size)
        if PER in metrics:
            edits.add(*edit_counts(answers, reference))
        for axis, values in cpu_batch.slices.items():
            for value in values[asked].unique().tolist():
                there = asked & (values == value)
                by_token[axis][value].add(right[there].sum().item(), there.sum().item())
            if axis in of_sequences:
                for value in values[:, 0].unique().tolist():
                    rows = values[:, 0] == value
                    by_sequence[axis][value].add(exact[rows].sum().item(), rows.sum().item())
        if data.texts is not None:
            spelt += [data.texts.join(data.target_vocabulary.decode(ids)) for ids in answers.tolist()]
        if keep_predictions:
            predictions += _predictions(cpu_batch, answers, exact, data)
    model.train(was_training)

    scalars = {LOSS: loss.value}
    curves: dict[tuple[str, str], dict[int, float]] = {}
    for name in metrics:
        if name == TOKEN_ACCURACY:
            scalars[name] = tokens.value
            curves |= {(name, axis): _values(ratios) for axis, ratios in by_token.items()}
        elif name == SEQUENCE_ACCURACY:
            scalars[name] = sequences.value
            curves |= {(name, axis): _values(ratios) for axis, ratios in by_sequence.items()}
        elif name == WER:
            scalars[name] = 1 - sequences.value
            curves |= {(name, axis): {x: 1 - y for x, y in _values(r).items()} for axis, r in by_sequence.items()}
        elif name == PER:
            scalars[name] = edits.value
        elif name in TEXT_METRICS and data.texts is not None:
            scalars[name] = TEXT_METRICS[name](spelt, data.texts.references[split])
        else:
            raise ValueError(f"no metric named {name!r}" + " without texts" * (name in TEXT_METRICS))
    for (name, axis), curve in list(curves.items()):
        if axis in data.categories:  # its values are numbers of names
            scalars |= {of_category(name, axis, data.categories[axis][i]): value for i, value in curve.items()}
            del curves[name, axis]
    if data.texts is not None:
        written = zip(data.texts.sources[split], data.texts.references[split], spelt, strict=True)
        predictions = [
            replace(kept, source=source, reference=reference, prediction=answer)
            for kept, (source, reference, answer) in zip(predictions, written, strict=False)  # none are kept, or all
        ]
    return Scores(scalars, curves, predictions)


def _axes_of_sequences(batches: Sequence[Batch]) -> set[str]:
    """Those on which all positions of a sequence have the same value, in each of an evaluation set."""
    return {
        axis
        for axis in batches[0].slices
        if all(bool((values := batch.slices[axis]).eq(values[:, :1])[batch.target != PAD].all()) for batch in batches)
    }


def _decode(model: EncoderDecoder, batch: Batch, max_length: int, decoding: Decoding, *, whole: bool) -> Tensor:
    """(B, A) token ids on the CPU; greedy ones end where the references do, unless the `whole` of them matters."""
    if decoding.beam_size == 1:
        limit = max_length if whole else batch.target.shape[1]
        return greedy(model, batch.source, limit, batch.source_lengths).cpu()
    best = beam_search(
        model,
        batch.source,
        max_length,
        beam_size=decoding.beam_size,
        length_penalty=decoding.length_penalty,
        lengths=batch.source_lengths,
    )
    answers = [torch.tensor(hypotheses[0].tokens) for hypotheses in best]
    return torch.nn.utils.rnn.pad_sequence(answers, batch_first=True, padding_value=PAD)


def compare(answers: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Which positions and which whole sequences are right.

    Args:
        answers: (B, A) token ids; missing positions count as wrong, those beyond the target are not looked at: the end
            of sequence is a position of the target, so that a longer answer is wrong there.
        target: (B, T) token ids, `PAD` where nothing is asked, negative where no answer can be right.

    Returns:
        (B, T) boolean, true nowhere on padding, and (B,) boolean.
    """
    length = target.shape[1]
    answers = F.pad(answers[:, :length], (0, max(0, length - answers.shape[1])), value=PAD)
    asked = target != PAD
    right = (answers == target) & asked
    return right, (right | ~asked).all(1)


def edit_counts(answers: Tensor, target: Tensor) -> tuple[int, int]:
    """Edit operations (Levenshtein) that turn the answers into the references, and the references' symbols.

    Both (B, ·) token ids, read up to the end of sequence.
    """
    pairs = [(_until_end(a), _until_end(t)) for a, t in zip(answers.tolist(), target.tolist(), strict=True)]
    return sum(Levenshtein.distance(a, t) for a, t in pairs), sum(len(t) for _, t in pairs)


def _until_end(ids: list[int]) -> list[int]:
    ids = ids[: ids.index(EOS)] if EOS in ids else ids
    return [i for i in ids if i != PAD]


def _values(ratios: Mapping[int, Ratio]) -> dict[int, float]:
    return {x: ratio.value for x, ratio in sorted(ratios.items())}


def _predictions(batch: Batch, answers: Tensor, exact: Tensor, data: TaskData) -> list[Prediction]:
    source, target = data.source_vocabulary, data.target_vocabulary
    categories = {axis: names for axis, names in data.categories.items() if axis in batch.slices}
    return [
        Prediction(
            source=" ".join(source.decode(batch.source[i].tolist())),
            reference=" ".join(target.decode(batch.target[i].tolist())),
            prediction=" ".join(target.decode(answers[i].tolist())),
            correct=bool(exact[i]),
            categories={axis: names[int(batch.slices[axis][i, 0])] for axis, names in categories.items()},
        )
        for i in range(batch.size)
    ]
