"""Grapheme-to-phoneme conversion of 15 languages: the SIGMORPHON 2020 shared task, real data from Wiktionary.

A French word and its phonemes::

    source  b o n j o u r <eos>
    target  b ɔ̃ ʒ u ʁ <eos>
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from experiments import corpus
from experiments.data import Example, Pair, TaskData
from experiments.schema import PER, SEQUENCE_ACCURACY, TEST, TOKEN_ACCURACY, VALIDATION, WER
from experiments.tasks.base import Task

COMMIT = "3d9bb3658b6a964ccd127e2a6781665262516bf6"
URL = f"https://raw.githubusercontent.com/sigmorphon/2020/{COMMIT}/task1/data"
FOLDER = "sigmorphon2020_g2p"  # in the data root
SHA256 = Path(__file__).with_name("g2p_sha256.txt")  # of the 45 files; `sha256sum -c` checks a data root against it
LENGTH_BINS = (4, 6, 8, 10, 12)  # graphemes, by upper edge; all above 12 are in the last

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
    """

    name: Literal["g2p"] = "g2p"
    language: Language

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
        root = corpus.DEFAULT_DATA_ROOT if data_root is None else data_root
        expected = corpus.checksums(SHA256)
        pairs, fingerprints = {}, []
        for split in ("train", "dev", "test"):
            file = f"{split}/{self.language}_{split}.tsv"
            table = corpus.read_pairs(corpus.fetch(f"{URL}/{file}", root / FOLDER / file, expected[f"{FOLDER}/{file}"]))
            rows = zip(table["source"], table["target"], strict=True)
            pairs[split] = [Pair(tuple(word), tuple(phonemes.split(" "))) for word, phonemes in rows]
            fingerprints.append(table._fingerprint)
        return corpus.corpus_data(
            pairs["train"],
            {VALIDATION: pairs["dev"], TEST: pairs["test"]},
            slices={"length": lambda pair: corpus.upper_edge(len(pair.source), LENGTH_BINS)},
            description={
                "source": f"{URL}/{{train,dev,test}}/{self.language}_{{train,dev,test}}.tsv",
                "licence": "CC BY-SA 3.0 (Wiktionary, through WikiPron)",
                "fingerprint": ", ".join(fingerprints),
            },
        )

    def example(self) -> Example:
        """French ``bonjour``, whatever the language."""
        return corpus.worked_example(Pair(tuple("bonjour"), ("b", "ɔ̃", "ʒ", "u", "ʁ")))
