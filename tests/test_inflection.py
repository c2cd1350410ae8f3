"""Inflection and English words by size: invented files through the whole way; the real ones where LVT_DATA has them."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import get_args

import pytest

from experiments.data import DataError, Pair
from experiments.files import checksums
from experiments.tasks import g2p, inflection
from experiments.tasks.g2p import EnglishGraphemeToPhoneme
from experiments.tasks.inflection import SHA256, Inflection, inflected

FORMS = {
    "train-low": [("Bluff", "Bluffs", "N;GEN;SG")],
    "dev": [("Nuß", "Nüsse", "N;NOM;PL")],
    "test": [("auf gehen", "ging auf", "V;IND;PST;1;SG"), ("N", "V", "N;SG")],
}


def lay_out(root: Path, folder: str, files: dict[str, list[tuple[str, ...]]], sums: Path) -> None:
    """Invented files in a data root, and the list of their checksums."""
    (root / folder).mkdir(parents=True)
    lines = []
    for name, rows in files.items():
        path = root / folder / name
        path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
        lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {folder}/{name}\n")
    sums.write_text("".join(lines))


def test_lemma_and_tags_to_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inflection, "SHA256", tmp_path / "sums.txt")
    monkeypatch.setattr(inflection, "URL", "http://127.0.0.1:9/nobody")
    monkeypatch.setattr("experiments.files.DOWNLOAD_PAUSE", 0.0)
    files = {f"german-{part}": rows for part, rows in FORMS.items()}
    lay_out(tmp_path, "conll2017_inflection", files, tmp_path / "sums.txt")  # type: ignore[arg-type]
    data = Inflection(language="german", size="low").load(tmp_path)
    assert data.source_vocabulary.symbols[4:] == (";GEN", ";N", ";SG", "B", "f", "l", "u")
    assert data.target_vocabulary.symbols[4:] == ("B", "f", "l", "s", "u")
    (batch,) = data.evaluation["test"]
    assert data.texts is not None
    assert data.texts.sources["test"] == ["auf gehen V;IND;PST;1;SG", "N N;SG"]  # the longer one first
    assert data.texts.references["test"] == ["ging auf", "V"]
    assert data.texts.join(["i", "n", " ", "g"]) == "in g"
    assert batch.slices["length"][:, 0].tolist() == [10, 6]  # 9 characters, 1 character; tags are not counted
    assert data.source_vocabulary.decode(batch.source[1].tolist()) == ["<unk>", ";N", ";SG"]  # a letter is no tag
    (tmp_path / "conll2017_inflection/german-test").unlink()
    with pytest.raises(DataError, match=r"nobody/answers/task1/german-uncovered-test: .*LVT_DATA"):
        Inflection(language="german", size="low").load(tmp_path)


def test_one_line_of_the_files() -> None:
    assert inflected("ab", "c d", "N;IN+ESS;SG") == Pair(("a", "b", ";N", ";IN+ESS", ";SG"), ("c", " ", "d"))
    assert Inflection.model_construct().example().target == [*"fand", "<eos>"]


@pytest.mark.parametrize("language", get_args(Inflection.model_fields["language"].annotation))
def test_real_forms(language: str) -> None:
    root = real_root()
    names = ("train-low", "train-medium", "train-high", "dev", "test")
    assert {f"conll2017_inflection/{language}-{name}" for name in names} <= set(checksums(SHA256))
    sizes = {"low": 100, "medium": 1_000, "high": 10_000}
    for size, count in sizes.items():
        data = Inflection(language=language, size=size).load(root)  # type: ignore[arg-type]
        assert data.description["train_sequences"] == str(count)
        assert (data.description["validation_sequences"], data.description["test_sequences"]) == ("1000", "1000")
        assert data.overlap == 0
    lines = [line.split("\t") for line in (root / f"conll2017_inflection/{language}-test").read_text().splitlines()]
    assert data.texts is not None
    written = zip(data.texts.sources["test"], data.texts.references["test"], strict=True)
    assert sorted(written) == sorted((f"{lemma} {tags}", form) for lemma, form, tags in lines)


WORDS = [(f"w{n}", "w ʌ") for n in range(40)]


def test_smaller_sets_of_english_words_are_part_of_larger_ones() -> None:
    pairs = [Pair(tuple(word), tuple(phonemes.split(" "))) for word, phonemes in WORDS]
    chosen = {n: EnglishGraphemeToPhoneme(words=n).first_words(pairs) for n in (1, 10, 39, 40)}
    assert [len(words) for words in chosen.values()] == [1, 10, 39, 40]
    assert chosen[40][:39] == chosen[39]
    assert chosen[39][:10] == chosen[10] == EnglishGraphemeToPhoneme(words=10).first_words(pairs[::-1])
    other = EnglishGraphemeToPhoneme(words=10, subset=1).first_words(pairs)
    assert set(other) != set(chosen[10])
    assert set(chosen[10]) != set(pairs[:10])  # not the first of the alphabet


def test_english_words_from_a_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(g2p, "SHA256", tmp_path / "sums.txt")
    parts = {"train": WORDS, "dev": [("x", "z")], "test": [("y", "w")]}
    files = {f"eng_us_{split}.tsv": rows for split, rows in parts.items()}
    lay_out(tmp_path, "sigmorphon2021_g2p_eng_us", files, tmp_path / "sums.txt")  # type: ignore[arg-type]
    data = EnglishGraphemeToPhoneme(words=7).load(tmp_path)
    assert data.description["train_sequences"] == "7"
    assert data.description["validation_unknown_targets"] == "1"
    assert EnglishGraphemeToPhoneme(words=7).label == "g2p_english(words=7)"


def test_real_english_words() -> None:
    data = EnglishGraphemeToPhoneme(words=1_000).load(real_root())
    counts = {split: data.description[f"{split}_sequences"] for split in ("train", "validation", "test")}
    assert counts == {"train": "1000", "validation": "4168", "test": "4168"}
    assert data.overlap == 0
    assert EnglishGraphemeToPhoneme().load(real_root()).description["train_sequences"] == "33344"


def real_root() -> Path:
    if "LVT_DATA" not in os.environ:
        pytest.skip("LVT_DATA names no folder with the real data")
    return Path(os.environ["LVT_DATA"])
