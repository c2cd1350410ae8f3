"""Metrics of texts: against sacreBLEU's own functions, by hand, and through an evaluation."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
import sacrebleu
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.data import DataError
from experiments.evaluation import Prediction, evaluate
from experiments.run import evenly
from experiments.schema import BLEU, CER, CHRF, EDIT_DISTANCE, PER, TEST
from experiments.tasks import multi30k
from experiments.tasks.multi30k import Multi30k
from experiments.text_metrics import bleu, character_errors, chrf, edit_distance, signatures
from models.config import Budget
from models.matching import match
from models.registry import MODELS, build

REFERENCES = ["A dog runs over the green grass.", "Two men, one of them old, are sitting.", "It's 5.5 km."]
ANSWERS = ["A dog is running over grass.", "Two men, one of them old, are sitting.", "It is 5.5 km."]


def test_bleu_and_chrf_are_those_of_the_command_line() -> None:
    assert bleu(ANSWERS, REFERENCES) == sacrebleu.corpus_bleu(ANSWERS, [REFERENCES], tokenize="13a").score
    assert chrf(ANSWERS, REFERENCES) == sacrebleu.corpus_chrf(ANSWERS, [REFERENCES]).score
    assert bleu(REFERENCES, REFERENCES) == pytest.approx(100)
    # Corpus scores, not means of sentences: a sentence without a matching 4-gram does not count as zero.
    assert bleu(ANSWERS, REFERENCES) > 50 > bleu(ANSWERS[:1], REFERENCES[:1])


def test_signatures() -> None:
    found = signatures([BLEU, CER, CHRF])
    version = sacrebleu.__version__
    assert found == {
        BLEU: f"nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:{version}",
        CHRF: f"nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:{version}",
    }
    assert signatures([CER, PER]) == {}


def test_character_errors_by_hand() -> None:
    """kitten → sitting takes 3 (Levenshtein's textbook case); nothing → ab takes 2."""
    answers, references = ["kitten", "", "same"], ["sitting", "ab", "same"]
    assert character_errors(answers, references) == 5 / 13
    assert edit_distance(answers, references) == 5 / 3


def parallel(folder: Path, rows: dict[str, list[tuple[str, str]]]) -> str:
    folder.mkdir(exist_ok=True)
    for part, pairs in rows.items():
        for language, side in (("en", 0), ("de", 1)):
            text = "".join(f"{pair[side]}\n" for pair in pairs)
            (folder / f"{multi30k.FILES[part]}.{language}").write_text(text, encoding="utf-8")
    return str(folder)


ROWS = {
    "train": [("A dog runs.", "Ein Hund läuft."), ("A man runs.", "Ein Mann läuft.")] * 3,
    "validation": [("A dog.", "Ein Hund.")],
    "test": [("Über a dog!", "Ein Hund über ö!"), ("A man.", "Ein  Mann.")],
}


def task(folder: str, **options: object) -> Multi30k:
    return Multi30k.model_validate_json(json.dumps({"folder": folder, "vocabulary_size": 100} | options))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(multi30k, "ROWS", {part: len(rows) for part, rows in ROWS.items()})
    return parallel(tmp_path / "texts", ROWS)


@pytest.mark.parametrize("direction", ["en-de", "de-en"])
def test_translation_from_text_files(folder: str, direction: str) -> None:
    data = task(folder, direction=direction).load(None)
    side = 1 if direction == "en-de" else 0
    assert data.source_vocabulary == data.target_vocabulary  # pieces are learnt on both languages together
    assert data.texts is not None
    written = sorted(" ".join(pair[side].split()) for pair in ROWS["test"])
    assert sorted(data.texts.references["test"]) == written
    torch.manual_seed(0)
    model = build(match(MODELS["lstm_attention"], Budget(parameters=30_000), data.dimensions), data.dimensions)
    metrics = (BLEU, CHRF, CER, EDIT_DISTANCE)
    scores = evaluate(model, data, TEST, metrics=metrics, device=torch.device("cpu"), keep_predictions=True)
    answers = [prediction.prediction for prediction in scores.predictions]
    references = [prediction.reference for prediction in scores.predictions]
    assert sorted(references) == written  # ö, no <unk>
    assert not any("▁" in answer for answer in answers)
    assert scores.scalars[BLEU] == bleu(answers, references)
    assert scores.scalars[CHRF] == chrf(answers, references)
    assert scores.scalars[CER] == character_errors(answers, references)
    assert scores.scalars[EDIT_DISTANCE] == edit_distance(answers, references)


def test_text_files_are_checked(folder: str) -> None:
    planned = task(folder)
    assert planned.label == "multi30k(direction=en-de, vocabulary_size=100)"
    val = Path(folder, "val.de")
    val.write_text("Ein Hund.\nEin Mann.\n")
    with pytest.raises(DataError, match=r"val\.de: changed since the run was planned"):
        planned.load(None)
    assert task(folder).decisive() != planned.decisive()
    with pytest.raises(DataError, match=r"val\.en: 1 lines, but .*val\.de: 2"):
        task(folder).load(None)
    Path(folder, "val.en").write_text("A dog.\nA man.\n")
    with pytest.raises(DataError, match="2 pairs where 1 were published"):
        task(folder).load(None)
    with pytest.raises(ValueError, match="either the revision"):
        task(folder, revision="0" * 40)
    val.unlink()
    with pytest.raises(ValueError, match=r"val\.de: cannot be read"):
        task(folder)
    assert Multi30k(revision="0" * 40).sha256 is None


def test_the_published_files_are_those_of_a_folder(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Compressed, in the data root, each with its checksum; and nothing else is read."""
    root = tmp_path / "data"
    (root / "multi30k").mkdir(parents=True)
    sums = tmp_path / "sums.txt"
    for file in sorted(Path(folder).iterdir()):
        compressed = gzip.compress(file.read_bytes())
        (root / "multi30k" / f"{file.name}.gz").write_bytes(compressed)
        with sums.open("a") as lines:
            lines.write(f"{hashlib.sha256(compressed).hexdigest()}  multi30k/{file.name}.gz\n")
    monkeypatch.setattr(multi30k, "SHA256", sums)
    ours, theirs = Multi30k(vocabulary_size=100).load(root), task(folder).load(None)
    assert ours.texts is not None
    assert theirs.texts is not None
    assert (ours.texts.sources, ours.texts.references) == (theirs.texts.sources, theirs.texts.references)
    assert ours.source_vocabulary == theirs.source_vocabulary
    drawn = [next(data.training(6, torch.Generator().manual_seed(0))) for data in (ours, theirs)]
    assert torch.equal(drawn[0].source, drawn[1].source)
    assert ours.description["source"] == multi30k.URL
    (root / "multi30k" / "val.de.gz").write_bytes(gzip.compress(b"Ein Hund.\n\n"))
    with pytest.raises(DataError, match=r"val\.de\.gz: not the published file"):
        Multi30k(vocabulary_size=100).load(root)


@pytest.mark.skipif(not Path(os.environ.get("LVT_DATA", "data"), "multi30k").is_dir(), reason="no multi30k in LVT_DATA")
@pytest.mark.parametrize("direction", ["en-de", "de-en"])
def test_the_published_corpus(direction: str) -> None:
    data = Multi30k.model_validate({"direction": direction}).load(Path(os.environ.get("LVT_DATA", "data")))
    assert {split: sum(batch.size for batch in data.evaluation[split]) for split in ("validation", "test")} == {
        "validation": 1014,
        "test": 1000,
    }
    assert data.texts is not None
    first = {
        "en": "A man in an orange hat starring at something.",
        "de": "Ein Mann mit einem orangefarbenen Hut, der etwas anstarrt.",
    }
    assert first[direction[-2:]] in data.texts.references["test"]
    assert len(data.target_vocabulary.symbols) <= 8000


@settings(deadline=None)
@given(count=st.integers(0, 50), most=st.integers(1, 20))
def test_predictions_are_kept_at_even_distances(count: int, most: int) -> None:
    every = [Prediction(str(i), "", "", False) for i in range(count)]
    kept = [int(prediction.source) for prediction in evenly(every, most)]
    assert len(kept) == min(count, most)
    assert kept == sorted(set(kept))
    if len(kept) > 1:
        gaps = [b - a for a, b in pairwise(kept)]
        assert max(gaps) - min(gaps) <= 1
