"""Your own data: pairs of texts from files or from the Hugging Face Hub.

One line of a file, ``the dogs run TAB 3``, tokenised by words and by characters::

    source  the dogs run <eos>
    target  3 <eos>
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from experiments import corpus
from experiments.data import DataError, Example, Pair, TaskData
from experiments.files import sha256_of
from experiments.reading import TextTable, read_hub, read_table
from experiments.schema import TEST, VALIDATION
from experiments.tasks.base import Task
from experiments.text import TRAIN, Tokenisation, text_data

Metric = Literal["token_accuracy", "sequence_accuracy", "per", "cer", "edit_distance", "bleu", "chrf"]
Revision = Annotated[str, StringConstraints(pattern="^[0-9a-f]{40}$")]  # a commit: a branch or a tag may move
Sums = tuple[tuple[str, str], ...]  # name of a file → SHA-256 of its content
PARTS = (TRAIN, VALIDATION, TEST)


def checked(path: Path, expected: str) -> Path:
    """`path`, if it still holds what it held when the run was planned.

    Raises:
        DataError: its content is another one.
    """
    if sha256_of(path) != expected:
        raise DataError(f"{path}: changed since the run was planned (SHA-256 {expected} then); plan or run it again")
    return path


def tuples(value: Any) -> Any:
    """Settings as JSON has them, with every list a tuple: what a strict model takes once its values were looked at."""
    if isinstance(value, dict):
        return {key: tuples(inner) for key, inner in value.items()}
    return tuple(map(tuples, value)) if isinstance(value, list) else value


class TextPairs(Task):
    """Pairs of texts of your own: two columns of .tsv, .jsonl or .parquet files, or of a data set on the Hub.

    What decides a run is the content of the files, not where they lie: it is part of the run's key, so that a changed
    file is never taken for the old one. The first metric selects the checkpoint. The test score is sliced by the number
    of source symbols, in bins by upper edge.

    Attributes:
        train, validation, test: a file each; or, with `hub`, the name of a split each.
        columns: names of the source's and the target's column. Not stated: a .tsv has no line of names and two columns,
            other files and the Hub have "source" and "target".
        hub: a data set there, as owner/name.
        revision: its commit, 40 hexadecimal digits.
        tokenisation: of both sides; by bpe, pieces are learnt on the training part.
        target_tokenisation: of the target, where it is another.
        vocabulary_size: number of pieces; bpe needs it.
        metrics: by name; the first is the headline.
        max_length: of source and of target, in symbols.
        longer: what is longer is an error, or left out and counted.
        overlap: a source for validation or test that stands in the training part, or for test in the validation part,
            is an error, left out and counted, or kept.
        sha256: of the files; found where not stated.
    """

    name: Literal["text_pairs"] = "text_pairs"
    train: str
    validation: str
    test: str
    columns: tuple[str, str] | None = None
    hub: Annotated[str, StringConstraints(pattern=r"^[\w.-]+/[\w.-]+$")] | None = None
    revision: Revision | None = None
    tokenisation: Tokenisation
    target_tokenisation: Tokenisation | None = None
    vocabulary_size: int | None = Field(default=None, ge=8)
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1)] = (  # type: ignore[misc]
        "sequence_accuracy",
        "token_accuracy",
    )
    max_length: int | None = Field(default=None, ge=1)
    longer: Literal["error", "exclude"] = "error"
    overlap: Literal["error", "exclude", "keep"] = "error"
    sha256: Sums | None = None

    axes: ClassVar[tuple[str, ...]] = ("length",)
    reference: ClassVar[str] = "your own"

    @property
    def headline(self) -> str:  # type: ignore[override]
        """The first of `metrics`."""
        return self.metrics[0]

    @model_validator(mode="before")
    @classmethod
    def _find_files(cls, values: Any) -> Any:
        """Fills in where the files lie and what they hold, so that both are settings of the run."""
        values = tuples(values)
        if not isinstance(values, dict) or values.get("hub") is not None or values.get("sha256") is not None:
            return values
        paths = {part: values.get(part) for part in PARTS}
        if not all(isinstance(path, str) for path in paths.values()):
            return values  # which is refused with the name of the key
        try:
            found = {part: Path(str(path)).expanduser().resolve() for part, path in paths.items()}
            sums = tuple((part, sha256_of(path)) for part, path in found.items())
        except DataError as error:
            raise ValueError(str(error)) from None
        return {**values, **{part: str(path) for part, path in found.items()}, "sha256": sums}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.hub is None) != (self.revision is None):
            raise ValueError("hub and revision belong together: the data set, and the commit of it that is meant")
        if self.hub is None and {part for part, _ in self.sha256 or ()} != set(PARTS):
            raise ValueError(f"sha256 has to name {', '.join(PARTS)}, once each")
        if self.hub is not None and self.sha256 is not None:
            raise ValueError("sha256 is of files; a data set on the Hub has its revision")
        if ("bpe" in self._tokens) != (self.vocabulary_size is not None):
            raise ValueError("vocabulary_size belongs to bpe: state both, or neither")
        if self.longer == "exclude" and self.max_length is None:
            raise ValueError("longer: exclude needs a max_length")
        if len(set(self.metrics)) < len(self.metrics):
            raise ValueError("a metric stands twice among the metrics")
        return self

    @property
    def _tokens(self) -> tuple[Tokenisation, Tokenisation]:
        return self.tokenisation, self.target_tokenisation or self.tokenisation

    @property
    def label(self) -> str:
        """With the name of the training file and six digits of the content in the place of paths and checksums."""
        if self.sha256 is None:
            return super().label
        content = hashlib.sha256("".join(sum for _, sum in sorted(self.sha256)).encode()).hexdigest()
        shown = self.model_dump(exclude={"name", *PARTS, "sha256"}, exclude_defaults=True)
        options = [f"{key}={'+'.join(v) if isinstance(v, tuple) else v}" for key, v in shown.items()]
        return f"text_pairs({', '.join([f'train={Path(self.train).name}', *options, f'data={content[:6]}'])})"

    def decisive(self) -> dict[str, Any]:
        """Contents and kinds of the files, not their places."""
        settings = super().decisive()
        if self.sha256 is not None:
            settings |= {part: Path(settings[part]).suffix for part in PARTS}
            settings["sha256"] = sorted(settings["sha256"])
        return settings

    def load(self, data_root: Path | None) -> TaskData:
        """Reads the files or asks the Hub; `data_root` has no use.

        Raises:
            DataError: with file and line or row, what cannot be used; or the Hub does not answer.
        """
        return text_data(
            {part: self._read(part) for part in PARTS},
            source_tokens=self._tokens[0],
            target_tokens=self._tokens[1],
            vocabulary_size=self.vocabulary_size,
            max_length=self.max_length,
            longer=self.longer,
            overlap=self.overlap,
            description={
                "source": self.train if self.hub is None else f"{self.hub} on the Hub, revision {self.revision}"
            },
        )

    def _read(self, part: str) -> TextTable:
        place = str(getattr(self, part))
        if self.hub is not None:
            assert self.revision is not None
            return read_hub(self.hub, self.revision, place, self.columns or ("source", "target"))
        return read_table(checked(Path(place), dict(self.sha256 or ())[part]), self.columns)

    def example(self) -> Example:
        """One of many that are possible."""
        return corpus.worked_example(Pair(("the", "dogs", "run"), ("3",)))
