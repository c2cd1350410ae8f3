"""Morphological inflection: a lemma and what is asked of it to the inflected form (CoNLL-SIGMORPHON 2017, task 1).

One German form::

    source  f i n d e n ;V ;IND ;PST ;1 ;SG <eos>
    target  f a n d <eos>
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from experiments import corpus
from experiments.data import Example, Pair, TaskData, Texts
from experiments.files import published
from experiments.reading import read_columns
from experiments.schema import CER, EDIT_DISTANCE, SEQUENCE_ACCURACY, TEST, TOKEN_ACCURACY, VALIDATION
from experiments.tasks.base import Task

COMMIT = "519bb1677a7c747b3863d37069ffd395062288d8"
URL = f"https://raw.githubusercontent.com/sigmorphon/conll2017/{COMMIT}"
FOLDER = "conll2017_inflection"  # in the data root
SHA256 = Path(__file__).with_name("inflection_sha256.txt")  # `sha256sum -c` checks a data root against it
LENGTH_BINS = (6, 8, 10, 12, 16)  # characters of the lemma, by upper edge; all above 16 are in the last


class Inflection(Task):
    """A lemma and its tags to the form; 1,000 forms for validation and 1,000 to test.

    Source symbols are the characters of the lemma, then its tags, each with the semicolon that stands before it in the
    file, so that no tag is taken for a letter; target symbols are characters. The test score is sliced by the length of
    the lemma. The edit distance is the mean over forms, in characters.

    Attributes:
        language: one of three, of the task's 52.
        size: of the training set: 100 forms, 1,000 or 10,000; each holds the smaller ones.
    """

    name: Literal["inflection"] = "inflection"
    language: Literal["german", "finnish", "turkish"]
    size: Literal["low", "medium", "high"] = "high"

    headline: ClassVar[str] = SEQUENCE_ACCURACY
    metrics: ClassVar[tuple[str, ...]] = (TOKEN_ACCURACY, SEQUENCE_ACCURACY, CER, EDIT_DISTANCE)
    axes: ClassVar[tuple[str, ...]] = ("length",)
    reference: ClassVar[str] = (
        "Cotterell et al. 2017, CoNLL-SIGMORPHON 2017 shared task: universal morphological reinflection in 52 languages"
    )

    def load(self, data_root: Path | None) -> TaskData:
        """Reads ``conll2017_inflection/<language>-{train-<size>,dev,test}``, downloading what is not there.

        Raises:
            DataError: a file differs from the published one, or is not there and cannot be downloaded.
        """
        places = {
            "train": (f"train-{self.size}", f"all/task1/{self.language}-train-{self.size}"),
            VALIDATION: ("dev", f"all/task1/{self.language}-dev"),
            TEST: ("test", f"answers/task1/{self.language}-uncovered-test"),
        }
        pairs, sources, references, fingerprints = {}, {}, {}, []
        for split, (file, remote) in places.items():
            path = published(f"{URL}/{remote}", f"{FOLDER}/{self.language}-{file}", SHA256, data_root)
            table = read_columns(path, ("lemma", "form", "tags"))
            rows = list(zip(table["lemma"], table["form"], table["tags"], strict=True))
            pairs[split] = [inflected(lemma, form, tags) for lemma, form, tags in rows]
            sources[split] = [f"{lemma} {tags}" for lemma, _, tags in rows]
            references[split] = [form for _, form, _ in rows]
            fingerprints.append(table._fingerprint)
        return corpus.corpus_data(
            pairs.pop("train"),
            pairs,
            slices={"length": lambda pair: corpus.upper_edge(_lemma_length(pair), LENGTH_BINS)},
            texts=Texts(sources, references, "".join),
            description={
                "source": f"{URL}/all/task1/{self.language}-train-{self.size}",
                "licence": "none stated; UniMorph data from Wiktionary (CC BY-SA)",
                "fingerprint": ", ".join(fingerprints),
            },
        )

    def example(self) -> Example:
        """German ``finden``, whatever the language."""
        return corpus.worked_example(inflected("finden", "fand", "V;IND;PST;1;SG"))


def inflected(lemma: str, form: str, tags: str) -> Pair:
    """One line of the files as a pair."""
    return Pair((*lemma, *(f";{tag}" for tag in tags.split(";"))), tuple(form))


def _lemma_length(pair: Pair) -> int:
    return sum(len(symbol) == 1 for symbol in pair.source)
