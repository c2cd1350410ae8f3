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
from experiments.files import published, sha256_of
from experiments.reading import TextTable, read_hub, read_parallel
from experiments.schema import BLEU, CHRF, TEST, TOKEN_ACCURACY, VALIDATION
from experiments.tasks.base import Task
from experiments.tasks.text_pairs import Revision, Sums, checked, tuples
from experiments.text import TRAIN, text_data

COMMIT = "c40b37b23d6387214f8ab37335b5a8672b9745f2"
URL = f"https://raw.githubusercontent.com/multi30k/dataset/{COMMIT}/data/task1/raw"
SHA256 = Path(__file__).with_name("multi30k_sha256.txt")
HUB = "bentrevett/multi30k"
FILES = {TRAIN: "train", VALIDATION: "val", TEST: "test_2016_flickr"}  # each with .en and .de
ROWS = {TRAIN: 29_000, VALIDATION: 1_014, TEST: 1_000}  # as published


class Multi30k(Task):
    """Translation of descriptions of pictures; 29,000 pairs to train on, 1,014 for validation, 1,000 to test.

    Pieces are learnt on the training part of both languages together, which share them. BLEU and chrF are sacreBLEU's,
    on the texts as they were written. The test score is sliced by the number of source pieces, in bins by upper edge.

    The data are the authors' files at a pinned commit, ``multi30k/{train,val,test_2016_flickr}.{en,de}.gz`` in the data
    folder. They can be taken from elsewhere, if that is stated: ``bentrevett/multi30k`` of the Hub, or any folder that
    has them without ``.gz``, a line a description.

    Attributes:
        direction: from which language to which.
        vocabulary_size: number of pieces.
        revision: the commit on the Hub that is meant, 40 hexadecimal digits, where the data are to come from there.
        folder: where the text files are, where they are to be read; their content is part of the run's key.
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
            return values  # no folder, or what is refused with the name of the key
        folder = Path(values["folder"]).expanduser().resolve()
        try:
            sums = tuple((name, sha256_of(folder / name)) for name in _file_names())
        except DataError as error:
            raise ValueError(str(error)) from None
        return {**values, "folder": str(folder), "sha256": sums}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.folder is not None and self.revision is not None:
            raise ValueError(f"state either the revision (commit) of {HUB} on the Hub that is meant, or a folder")
        if sorted(name for name, _ in self.sha256 or ()) != sorted(_file_names() if self.folder is not None else ()):
            raise ValueError(f"sha256 has to name the files of a folder, once each: {', '.join(_file_names())}")
        return self

    @property
    def label(self) -> str:
        """Without the place of the data."""
        shown = self.model_dump(exclude={"name", "revision", "folder", "sha256"}, exclude_defaults=True)
        options = {"direction": self.direction} | shown
        return f"multi30k({', '.join(f'{name}={value}' for name, value in options.items())})"

    def decisive(self) -> dict[str, Any]:
        """Contents of the files, not their place."""
        return super().decisive() | {"folder": self.folder is not None}

    def load(self, data_root: Path | None) -> TaskData:
        """Reads ``multi30k/{train,val,test_2016_flickr}.{en,de}.gz``, downloading what is not there; or what is stated.

        Raises:
            DataError: with file and line or row, what cannot be used; a part has not the published size; or a file
                cannot be downloaded.
        """
        tables = self._tables(data_root)
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
            description={"source": self._source},
        )

    @property
    def _source(self) -> str:
        """Where the data come from."""
        if self.folder is not None:
            return self.folder
        return URL if self.revision is None else f"{HUB} on the Hub, revision {self.revision}"

    def _tables(self, data_root: Path | None) -> Mapping[str, TextTable]:
        languages = self.direction.split("-")
        columns = languages[0], languages[1]
        if self.revision is not None:
            return {part: read_hub(HUB, self.revision, part, columns) for part in FILES}
        places = {part: [self._file(f"{name}.{one}", data_root) for one in columns] for part, name in FILES.items()}
        return {part: read_parallel(source, target) for part, (source, target) in places.items()}

    def _file(self, name: str, data_root: Path | None) -> Path:
        """Where the stated or the published file is, its content checked."""
        if self.folder is not None:
            return checked(Path(self.folder, name), dict(self.sha256 or ())[name])
        return published(f"{URL}/{name}.gz", f"multi30k/{name}.gz", SHA256, data_root)

    def example(self) -> Example:
        """A dog, whatever the direction."""
        return corpus.worked_example(Pair(("▁A", "▁dog", "▁run", "s", "▁."), ("▁Ein", "▁Hund", "▁läuft", "▁.")))


def _file_names() -> list[str]:
    return [f"{name}.{language}" for name in FILES.values() for language in ("en", "de")]
