"""What every task is: options that a grid may state, and the batches that they lead to.

A `Task` is what a grid says (frozen, validated). `Task.load` makes it ready for a run as `TaskData`: vocabularies,
training batches on demand, fixed evaluation sets. Synthetic tasks (experiments.tasks.synthetic) draw tensors; corpus
tasks (SCAN, G2P) read pairs of symbol sequences (experiments.corpus).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict

from experiments.data import Example, TaskData
from models.config import Dimensions


class Task(BaseModel, ABC):
    """Options of a task, as a grid states them. Subclasses add ``name: Literal["…"] = "…"`` and their own options."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    headline: ClassVar[str]  # the metric of experiments.schema that decides on this task and selects the checkpoint
    metrics: ClassVar[tuple[str, ...]]  # all that an evaluation reports beside the loss
    axes: ClassVar[tuple[str, ...]]  # along which the test score is sliced
    reference: ClassVar[str]  # where it was published
    given_inputs: ClassVar[bool] = False  # the decoder answers given inputs, and is not fed its own answers
    measures: ClassVar[Mapping[str, str]] = {}  # kind of dependency (experiments.schema) → the axis that shows it
    language_class: ClassVar[str | None] = None  # of a formal language: one of experiments.schema.LANGUAGE_CLASSES

    @abstractmethod
    def load(self, data_root: Path | None) -> TaskData:
        """Makes the task ready.

        Args:
            data_root: folder of the real corpora; None for the default one. Synthetic tasks have no use for it.

        Raises:
            DataError: a corpus is missing, corrupt or cannot be downloaded.
        """

    @abstractmethod
    def example(self) -> Example:
        """One worked input → output."""

    @property
    def dimensions(self) -> Dimensions | None:
        """What the task asks of a model, where its options alone decide; None where its data must be seen."""
        return None

    @property
    def chance(self) -> float | None:
        """Token accuracy of guessing, where a closed form is known."""
        return None

    def decisive(self) -> dict[str, Any]:
        """What stands for the task in a run's key: all that decides its data and how they are scored."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def memoryless_loss(self) -> float | None:
        """Test loss (nats per token) of who knows all but what must be remembered, where a closed form is known."""
        return None

    @property
    def label(self) -> str:
        """The name, and the options that differ from their defaults: ``g2p(language=fre)``.

        What is evaluated beyond training (``longer_…``) is not said, for the batches of training are the same; but the
        longest sequence may be another, and a model that learns its positions then has more or fewer of them. Where a
        grid has a model on both, a condition tells them apart.
        """
        fields = type(self).model_fields
        values = {key: value for key, value in self if not key.startswith("longer_")}
        name = values.pop("name")
        options = [f"{k}={v}" for k, v in values.items() if fields[k].is_required() or v != fields[k].default]
        return f"{name}({', '.join(options)})" if options else str(name)
