"""Multi30k: descriptions of pictures, English to German or back (Elliott et al. 2016).

One description, in pieces::

    source  ▁A ▁dog ▁run s ▁. <eos>
    target  ▁Ein ▁Hund ▁läuft ▁. <eos>
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from experiments import corpus
from experiments.data import DataError, Example, Pair, TaskData
from experiments.files import sha256_of
from experiments.reading import TextTable, read_hub, read_parallel
from experiments.schema import BLEU, CHRF, TEST, TOKEN_ACCURACY, VALIDATION
from experiments.tasks.base import Task
from experiments.tasks.text_pairs import Revision, Sums, checked, tuples
from experiments.text import TRAIN, text_data

HUB = "bentrevett/multi30k"
FILES = {TRAIN: "train", VALIDATION: "val", TEST: "test_2016_flickr"}  # in a folder, each with .en and .de
ROWS = {TRAIN: 29_000, VALIDATION: 1_014, TEST: 1_000}  # as published


class Multi30k(Task):
    """Translation of descriptions of pictures; 29,000 pairs to train on, 1,014 for validation, 1,000 to test.

    Pieces are learnt on the training part of both languages together, which share them. BLEU and chrF are sacreBLEU's,
    on the texts as they were written. The test score is sliced by the number of source pieces, in bins by upper edge.

    The data are ``bentrevett/multi30k`` of the Hub, or a folder with the published text files of a line a description:
    ``train``, ``val`` and ``test_2016_flickr``, each as ``.en`` and ``.de``.

    Attributes:
        direction: from which language to which.
        vocabulary_size: number of pieces.
        revision: the commit on the Hub that is meant, 40 hexadecimal digits; or
        folder: where the files are; their content is part of the run's key.
        sha256: of the files in the folder; found where not stated.
    """

    name: Literal["multi30k"] = "multi30k"
    direction: Literal["en-de", "de-en"] = "en-de"
    vocabulary_size: int = Field(default=8_000, ge=100)
    revision: Revision | None = None
    folder: str | None = None
    sha256: Sums | None = None

    headline: ClassVar[str] = BLEU
    metrics: ClassVar[tuple[str, ...]] = (BLEU, CHRF, TOKEN_ACCURACY)
    axes: ClassVar[tuple[str, ...]] = ("length",)
    reference: ClassVar[str] = "Elliott et al. 2016, Multi30K: multilingual English-German image descriptions"

    @model_validator(mode="before")
    @classmethod
    def _find_files(cls, values: Any) -> Any:
        """Fills in what the folder holds, so that it is a setting of the run."""
        values = tuples(values)
        if not isinstance(values, dict) or values.get("sha256") is not None:
            return values
        if not isinstance(values.get("folder"), str):
            return values  # the Hub, or what is refused with the name of the key
        folder = Path(values["folder"]).expanduser().resolve()
        try:
            sums = tuple((name, sha256_of(folder / name)) for name in _file_names())
        except DataError as error:
            raise ValueError(str(error)) from None
        return {**values, "folder": str(folder), "sha256": sums}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.folder is None) == (self.revision is None):
            raise ValueError(f"state either the revision (commit) of {HUB} on the Hub that is meant, or a folder")
        if sorted(name for name, _ in self.sha256 or ()) != sorted(_file_names() if self.folder is not None else ()):
            raise ValueError(f"sha256 has to name the files of a folder, once each: {', '.join(_file_names())}")
        return self

    @property
    def label(self) -> str:
        """Without the place of the data."""
        shown = self.model_dump(exclude={"name", "revision", "folder", "sha256"}, exclude_defaults=True)
        return (
            ", ".join([f"multi30k({self.direction}", *(f"{k}={v}" for k, v in shown.items() if k != "direction")]) + ")"
        )

    def decisive(self) -> dict[str, Any]:
        """Contents of the files, not their place."""
        return super().decisive() | {"folder": self.folder is not None}

    def load(self, data_root: Path | None) -> TaskData:
        """Reads the folder or asks the Hub; `data_root` has no use.

        Raises:
            DataError: with file and line or row, what cannot be used; a part has not the published size; or the
                Hub does not answer.
        """
        tables = self._tables()
        for part, table in tables.items():
            if len(table.table) != ROWS[part]:
                raise DataError(f"{table.name}: {len(table.table)} pairs where {ROWS[part]} were published")
        return text_data(
            tables,
            source_tokens="bpe",
            target_tokens="bpe",
            vocabulary_size=self.vocabulary_size,
            max_length=None,
            longer="error",
            overlap="keep",  # a description that two pictures share is as published
            description={
                "source": f"{HUB} on the Hub, revision {self.revision}" if self.folder is None else self.folder,
            },
        )

    def _tables(self) -> Mapping[str, TextTable]:
        languages = self.direction.split("-")
        columns = languages[0], languages[1]
        if self.folder is None:
            assert self.revision is not None
            return {part: read_hub(HUB, self.revision, part, columns) for part in FILES}
        sums = dict(self.sha256 or ())
        places = {
            part: [checked(Path(self.folder, f"{name}.{language}"), sums[f"{name}.{language}"]) for language in columns]
            for part, name in FILES.items()
        }
        return {part: read_parallel(source, target) for part, (source, target) in places.items()}

    def example(self) -> Example:
        """A dog, whatever the direction."""
        return corpus.worked_example(Pair(("▁A", "▁dog", "▁run", "s", "▁."), ("▁Ein", "▁Hund", "▁läuft", "▁.")))


def _file_names() -> list[str]:
    return [f"{name}.{language}" for name in FILES.values() for language in ("en", "de")]
