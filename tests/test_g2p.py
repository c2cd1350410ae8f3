"""Grapheme-to-phoneme: invented words through the whole way of the data; the real words where LVT_DATA has them."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import get_args

import pytest
from pydantic import ValidationError
from served import served

from experiments.data import DataError
from experiments.files import DEFAULT_DATA_ROOT, checksums
from experiments.tasks import g2p
from experiments.tasks.base import TaskData
from experiments.tasks.g2p import LENGTH_BINS, SHA256, GraphemeToPhoneme, Language
from models.interface import PAD

UNKNOWN = 3
LANGUAGES = get_args(Language)
INVENTED = {
    "train": [("blim", "b l iː m"), ("NA", "n a"), ("bo la", "b ɔ̃ l a ˧˥"), ("bolabilombana", "b o l a b i l o m")],
    "dev": [("mil", "m i l")],
    "test": [("o", "ɔ̃"), ("bimalon", "b i m q"), ("żo", "ɔ̃ o")],
}


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of invented files laid out as a data root, and their checksums in the place of the real ones."""
    root, lines = tmp_path / "published", []
    for split, rows in INVENTED.items():
        path = root / "sigmorphon2020_g2p" / split / f"fre_{split}.tsv"
        path.parent.mkdir(parents=True)
        path.write_text("".join(f"{word}\t{phonemes}\n" for word, phonemes in rows))
        lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(root)}\n")
    list_of_sums = tmp_path / "sha256.txt"
    list_of_sums.write_text("".join(lines))
    monkeypatch.setattr(g2p, "SHA256", list_of_sums)
    monkeypatch.setattr(g2p, "URL", "http://127.0.0.1:9/nobody")
    monkeypatch.setattr("experiments.files.DOWNLOAD_PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "*")
    return root


@pytest.fixture
def server(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    """The invented files at a public address."""
    with served(published / "sigmorphon2020_g2p") as http:
        monkeypatch.setattr(g2p, "URL", f"http://127.0.0.1:{http.server_address[1]}")
        yield http


def decoded(data: TaskData, split: str) -> list[tuple[str, str]]:
    """The lines of a split, read back from its batches."""
    return [
        (
            "".join(data.source_vocabulary.decode(source.tolist())),
            " ".join(data.target_vocabulary.decode(target.tolist())),
        )
        for batch in data.evaluation[split]
        for source, target in zip(batch.source, batch.target, strict=True)
    ]


def slice_counts(data: TaskData, split: str) -> Counter[int]:
    """Words by bin of length."""
    return Counter(int(value) for batch in data.evaluation[split] for value in batch.slices["length"][:, 0])


def test_invented_words_from_a_data_root(published: Path) -> None:
    data = GraphemeToPhoneme(language="fre").load(published)
    assert data.source_vocabulary.symbols == ("<pad>", "<bos>", "<eos>", "<unk>", *" ANabilmno")
    phonemes = sorted({phoneme for _, answer in INVENTED["train"] for phoneme in answer.split()})
    assert data.target_vocabulary.symbols == ("<pad>", "<bos>", "<eos>", "<unk>", *phonemes)
    assert (data.max_source_length, data.max_target_length, data.given_inputs) == (14, 10, False)
    assert decoded(data, "validation") == [("mil", "m i l")]
    assert decoded(data, "test") == [("bimalon", "b i m <unk>"), ("<unk>o", "ɔ̃ o"), ("o", "ɔ̃")]
    assert slice_counts(data, "test") == {4: 2, 8: 1}
    assert data.description["train_sequences"] == "4"
    assert data.description["test_sources_in_training"] == "0"
    assert data.description["test_unknown_targets"] == "1"
    assert len(data.description["fingerprint"].split(", ")) == 3


def test_what_is_missing_is_downloaded_once(published: Path, server: ThreadingHTTPServer, tmp_path: Path) -> None:
    root = tmp_path / "root"
    task = GraphemeToPhoneme(language="fre")
    first = task.load(root)
    for split in INVENTED:
        file = f"sigmorphon2020_g2p/{split}/fre_{split}.tsv"
        assert (root / file).read_bytes() == (published / file).read_bytes()
    for path in published.rglob("*.tsv"):
        path.unlink()  # now the address has nothing more to give
    again = task.load(root)
    assert again.description["digest"] == first.description["digest"]
    assert decoded(again, "test") == decoded(first, "test")


def test_the_default_root_is_data_at_the_root_of_the_checkout(
    published: Path, server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert DEFAULT_DATA_ROOT.parent == Path(__file__).resolve().parents[1]
    assert DEFAULT_DATA_ROOT.name == "data"
    monkeypatch.setattr("experiments.files.DEFAULT_DATA_ROOT", tmp_path / "default")
    GraphemeToPhoneme(language="fre").load(None)
    assert (tmp_path / "default/sigmorphon2020_g2p/test/fre_test.tsv").is_file()


def test_a_changed_file_in_the_root_is_refused(published: Path) -> None:
    path = published / "sigmorphon2020_g2p/test/fre_test.tsv"
    path.write_text("o\to\n")
    with pytest.raises(DataError, match=r"fre_test\.tsv: not the published file"):
        GraphemeToPhoneme(language="fre").load(published)


def test_without_a_network_the_remedy_is_named(published: Path) -> None:
    path = published / "sigmorphon2020_g2p/dev/fre_dev.tsv"
    path.unlink()
    with pytest.raises(DataError, match=r"http://127\.0\.0\.1:9/nobody/dev/fre_dev\.tsv.*LVT_DATA") as refused:
        GraphemeToPhoneme(language="fre").load(published)
    assert str(path) in str(refused.value)


def test_options() -> None:
    assert GraphemeToPhoneme(language="fre").label == "g2p(language=fre)"
    with pytest.raises(ValidationError, match="language"):
        GraphemeToPhoneme.model_validate({})
    with pytest.raises(ValidationError, match="'fre'"):
        GraphemeToPhoneme.model_validate({"language": "french"})


def test_example_needs_no_file() -> None:
    shown = GraphemeToPhoneme(language="kor").example()
    assert shown.source == [*"bonjour", "<eos>"]
    assert shown.target == ["b", "ɔ̃", "ʒ", "u", "ʁ", "<eos>"]
    assert shown.target_in == ["<bos>", "b", "ɔ̃", "ʒ", "u", "ʁ"]


def test_every_file_of_every_language_has_a_checksum() -> None:
    sums = {file: digest for file, digest in checksums(SHA256).items() if "2020" in file}
    splits = ("train", "dev", "test")
    assert set(sums) == {f"sigmorphon2020_g2p/{s}/{language}_{s}.tsv" for language in LANGUAGES for s in splits}
    assert len(LANGUAGES) == 15
    assert all(len(digest) == 64 and int(digest, 16) for digest in sums.values())
    assert len(set(sums.values())) == 45


@pytest.fixture
def real_root() -> Path:
    if "LVT_DATA" not in os.environ:
        pytest.skip("LVT_DATA names no folder with the real data")
    return Path(os.environ["LVT_DATA"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_real_words(real_root: Path, language: Language) -> None:
    task = GraphemeToPhoneme(language=language)
    data = task.load(real_root)
    lines = {}
    for split in ("train", "dev", "test"):
        text = (real_root / f"sigmorphon2020_g2p/{split}/{language}_{split}.tsv").read_bytes().decode()
        lines[split] = [tuple(line.split("\t")) for line in text.removesuffix("\n").split("\n")]
    assert {split: len(rows) for split, rows in lines.items()} == {"train": 3600, "dev": 450, "test": 450}
    assert all(unicodedata.is_normalized("NFC", word) for rows in lines.values() for word, _ in rows)

    symbols = {character for word, _ in lines["train"] for character in word}
    phonemes = {phoneme for _, answer in lines["train"] for phoneme in answer.split(" ")}
    assert set(data.source_vocabulary.symbols[4:]) == symbols
    assert set(data.target_vocabulary.symbols[4:]) == phonemes
    for split, file in (("validation", "dev"), ("test", "test")):
        expected = [
            (
                "".join(c if c in symbols else "<unk>" for c in word),
                " ".join(p if p in phonemes else "<unk>" for p in answer.split(" ")),
            )
            for word, answer in lines[file]
        ]
        assert Counter(decoded(data, split)) == Counter(expected)
        hopeless = sum("<unk>" in answer for _, answer in expected)
        assert data.description[f"{split}_unknown_targets"] == str(hopeless)
        assert hopeless <= 5
        assert data.description[f"{split}_sources_in_training"] == "0"
        batches = data.evaluation[split]
        assert sum(batch.size for batch in batches) == 450
        assert sum(int((batch.target != PAD).sum()) for batch in batches) == sum(
            len(answer.split(" ")) + 1 for _, answer in lines[file]
        )
    counts = slice_counts(data, "test")
    assert counts == Counter(
        min((edge for edge in LENGTH_BINS if len(word) <= edge), default=LENGTH_BINS[-1]) for word, _ in lines["test"]
    )
    if language not in ("jpn", "kor"):
        assert set(counts) == set(LENGTH_BINS)
        assert min(counts.values()) >= 10


def unknown_words(data: TaskData) -> int:
    """Test words with an unknown character."""
    return sum(int((batch.source == UNKNOWN).any(dim=1).sum()) for batch in data.evaluation["test"])


@pytest.mark.parametrize("language", LANGUAGES)
def test_words_with_rare_characters_are_those_of_korean(real_root: Path, language: Language) -> None:
    """What the published threshold does to the words of a language."""
    data = GraphemeToPhoneme(language=language, min_frequency=5).load(real_root)
    counts = Counter(
        character
        for line in (real_root / f"sigmorphon2020_g2p/train/{language}_train.tsv").read_text("utf-8").splitlines()
        for character in line.split("\t")[0]
    )
    assert set(data.source_vocabulary.symbols[4:]) == {symbol for symbol, count in counts.items() if count >= 5}
    share = unknown_words(data) / 450
    assert 0.22 < share < 0.24 if language == "kor" else share <= 0.01, share
