"""Grapheme-to-phoneme conversion, real data from Wiktionary: the SIGMORPHON shared tasks of 2020 and 2021.

A French word and its phonemes::

    source  b o n j o u r <eos>
    target  b ɔ̃ ʒ u ʁ <eos>
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from experiments import corpus
from experiments.data import Example, Pair, TaskData
from experiments.files import published
from experiments.reading import read_pairs
from experiments.schema import PER, SEQUENCE_ACCURACY, TEST, TOKEN_ACCURACY, VALIDATION, WER
from experiments.tasks.base import Task

LENGTH_BINS = (4, 6, 8, 10, 12)  # graphemes, by upper edge; all above 12 are in the last

COMMIT = "3d9bb3658b6a964ccd127e2a6781665262516bf6"
URL = f"https://raw.githubusercontent.com/sigmorphon/2020/{COMMIT}/task1/data"
FOLDER = "sigmorphon2020_g2p"  # in the data root
SHA256 = Path(__file__).with_name("g2p_sha256.txt")  # of all files; `sha256sum -c` checks a data root against it

ENGLISH_COMMIT = "821bcdece5a47820872215969f275004b0abe80c"
ENGLISH_URL = f"https://raw.githubusercontent.com/sigmorphon/2021-task1/{ENGLISH_COMMIT}/data/high"
ENGLISH_FOLDER = "sigmorphon2021_g2p_eng_us"
ENGLISH_WORDS = 33_344  # to train on
LICENCE = "CC BY-SA 3.0 (Wiktionary, through WikiPron)"
SPLITS = ("train", "dev", "test")

Language = Literal[
    "ady", "arm", "bul", "dut", "fre", "geo", "gre", "hin", "hun", "ice", "jpn", "kor", "lit", "rum", "vie"
]


class GraphemeToPhoneme(Task):
    """A word's spelling to its pronunciation; 3,600 words to train on, 450 for validation, 450 to test.

    Source symbols are the Unicode characters of the word as published: composed (NFC) in all languages, so that an
    accent is part of its letter and a Korean syllable is one symbol; in Vietnamese the space between syllables is a
    symbol too. Target symbols are the phonemes, each with its diacritics.

    The test score is sliced by the number of graphemes, in bins: up to 4, 5-6, 7-8, 9-10, 11 and more. Each holds at
    least 10 of the 450 words, but for Japanese and Korean: their words are short, and the last bins (nearly) empty.

    Attributes:
        language: by the code of the shared task.
        min_frequency: characters and phonemes that are rarer in training are unknown; where it is not stated, none is.
            The published results are those of 5. Then 23 % of the Korean test words, and at most 1 % of any other
            language's, hold an unknown character; and words with an unknown phoneme, which no answer gets right, are
            2.9 % of the Adyghe, 2.4 % of the Lithuanian, 1.3 % of the Bulgarian and 1.1 % of the Armenian test words,
            and at most 1 % of any other language's.
    """

    name: Literal["g2p"] = "g2p"
    language: Language
    min_frequency: int | None = Field(default=None, ge=2)

    headline: ClassVar[str] = WER
    metrics: ClassVar[tuple[str, ...]] = (TOKEN_ACCURACY, SEQUENCE_ACCURACY, WER, PER)
    axes: ClassVar[tuple[str, ...]] = ("length",)
    reference: ClassVar[str] = (
        "Gorman et al. 2020, The SIGMORPHON 2020 shared task on multilingual grapheme-to-phoneme conversion, section 2 "
        "(data) and table 2 (results)"
    )

    def load(self, data_root: Path | None) -> TaskData:
        """Reads the files ``sigmorphon2020_g2p/{train,dev,test}/<language>_<split>.tsv``, downloading those not there.

        Raises:
            DataError: a file differs from the published one, or is not there and cannot be downloaded.
        """
        files = {split: f"{split}/{self.language}_{split}.tsv" for split in SPLITS}
        pairs, fingerprints = _words(URL, FOLDER, files, data_root)
        source = f"{URL}/{{train,dev,test}}/{self.language}_{{train,dev,test}}.tsv"
        description = {"source": source, "licence": LICENCE, "fingerprint": fingerprints}
        return _task_data(pairs, description, self.min_frequency or 1)

    def example(self) -> Example:
        """French ``bonjour``, whatever the language."""
        return corpus.worked_example(Pair(tuple("bonjour"), ("b", "ɔ̃", "ʒ", "u", "ʁ")))


class EnglishGraphemeToPhoneme(Task):
    """A US English word's pronunciation; up to 33,344 words to train on, 4,168 for validation, 4,168 to test.

    Source and target symbols, and slices, are those of `g2p`. A smaller training set is part of every larger one of the
    same `subset`, so that a curve over sizes adds words and changes none.

    Attributes:
        words: number of words to train on, of 33,344; all where nothing is stated.
        subset: seed of which words come first.
    """

    name: Literal["g2p_english"] = "g2p_english"
    words: int = Field(default=ENGLISH_WORDS, ge=1, le=ENGLISH_WORDS)
    subset: int = Field(default=0, ge=0)

    headline: ClassVar[str] = WER
    metrics: ClassVar[tuple[str, ...]] = (TOKEN_ACCURACY, SEQUENCE_ACCURACY, WER, PER)
    axes: ClassVar[tuple[str, ...]] = ("length",)
    reference: ClassVar[str] = (
        "Ashby et al. 2021, The second SIGMORPHON shared task on multilingual grapheme-to-phoneme conversion "
        "(high-resource)"
    )

    def load(self, data_root: Path | None) -> TaskData:
        """Reads the files ``sigmorphon2021_g2p_eng_us/eng_us_{train,dev,test}.tsv``, downloading those not there.

        Raises:
            DataError: a file differs from the published one, or is not there and cannot be downloaded.
        """
        files = {split: f"eng_us_{split}.tsv" for split in SPLITS}
        pairs, fingerprints = _words(ENGLISH_URL, ENGLISH_FOLDER, files, data_root)
        pairs["train"] = self.first_words(pairs["train"])
        source = f"{ENGLISH_URL}/eng_us_{{train,dev,test}}.tsv"
        return _task_data(pairs, {"source": source, "licence": LICENCE, "fingerprint": fingerprints})

    def first_words(self, pairs: list[Pair]) -> list[Pair]:
        """`words` of `pairs`, in an order that `subset` decides: by the SHA-256 of seed and word."""

        def place(pair: Pair) -> bytes:
            return hashlib.sha256(f"{self.subset} {''.join(pair.source)}".encode()).digest()

        return sorted(pairs, key=place)[: self.words]

    def example(self) -> Example:
        """``aardwolf``."""
        return corpus.worked_example(Pair(tuple("aardwolf"), ("ɑ", "ɹ", "d", "w", "ʊ", "l", "f")))


def _words(
    url: str, folder: str, files: Mapping[str, str], data_root: Path | None
) -> tuple[dict[str, list[Pair]], str]:
    """Split → its words with their phonemes, and the fingerprints of the files."""
    pairs, fingerprints = {}, []
    for split, file in files.items():
        table = read_pairs(published(f"{url}/{file}", f"{folder}/{file}", SHA256, data_root))
        rows = zip(table["source"], table["target"], strict=True)
        pairs[split] = [Pair(tuple(word), tuple(phonemes.split(" "))) for word, phonemes in rows]
        fingerprints.append(table._fingerprint)
    return pairs, ", ".join(fingerprints)


def _task_data(pairs: Mapping[str, list[Pair]], description: Mapping[str, str], min_frequency: int = 1) -> TaskData:
    return corpus.corpus_data(
        pairs["train"],
        {VALIDATION: pairs["dev"], TEST: pairs["test"]},
        slices={"length": lambda pair: corpus.upper_edge(len(pair.source), LENGTH_BINS)},
        description=description,
        min_frequency=min_frequency,
    )
