"""COGS: invented sentences through the whole way of the data, types by name; the real ones where LVT_DATA has them."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from served import served

from experiments import schema
from experiments.data import DataError, TaskData
from experiments.evaluation import evaluate
from experiments.files import checksums
from experiments.tasks import cogs
from experiments.tasks.cogs import KINDS, LEXICAL, SHA256, STRUCTURAL, Cogs
from models.config import Budget
from models.interface import PAD
from models.matching import match
from models.registry import MODELS, build

INVENTED = {
    "train": [("A dog ran .", "dog ( x _ 1 )", "in_distribution"), ("cat", "LAMBDA a . cat ( a )", "primitive")],
    "dev": [("A cat ran .", "cat ( x _ 1 )", "in_distribution")],
    "test": [("A dog .", "dog", "in_distribution"), ("cat .", "cat", "in_distribution")],
    "gen": [
        ("A cat ran", "cat ( x _ 1 )", "pp_recursion"),
        ("dog dog", "dog ( x _ 1 ) dog", "passive_to_active"),
        ("A A A", "a a", "pp_recursion"),
        ("ran .", ") (", "pp_recursion"),
        ("ran", "( )", "prim_to_inf_arg"),
    ],
}


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of invented files laid out as a data root, and their checksums in the place of the real ones."""
    root, lines = tmp_path / "published", []
    (root / "cogs").mkdir(parents=True)
    for split, rows in INVENTED.items():
        path = root / "cogs" / f"{split}.tsv"
        path.write_text("".join("\t".join(row) + "\n" for row in rows))
        lines.append(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  cogs/{split}.tsv\n")
    sums = tmp_path / "sha256.txt"
    sums.write_text("".join(lines))
    monkeypatch.setattr(cogs, "SHA256", sums)
    monkeypatch.setattr(cogs, "URL", "http://127.0.0.1:9/nobody")
    monkeypatch.setattr("experiments.files.DOWNLOAD_PAUSE", 0.0)
    monkeypatch.setenv("no_proxy", "*")
    return root


@pytest.fixture
def server(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The invented files at a public address."""
    with served(published / "cogs") as http:
        monkeypatch.setattr(cogs, "URL", f"http://127.0.0.1:{http.server_address[1]}")
        yield


def rows_of(data: TaskData, split: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Sentence, logical form and categories, read back from the batches."""
    rows = []
    for batch in data.evaluation[split]:
        for i in range(batch.size):
            names = []
            for axis, known in data.categories.items():
                if axis in batch.slices:
                    (value,) = set(batch.slices[axis][i][batch.target[i] != PAD].tolist())
                    names.append(known[value])
            source = " ".join(data.source_vocabulary.decode(batch.source[i].tolist()))
            target = " ".join(data.target_vocabulary.decode(batch.target[i].tolist()))
            rows.append((source, target, tuple(names)))
    return rows


def test_invented_sentences(published: Path) -> None:
    data = Cogs().load(published)
    assert sorted(rows_of(data, "test")) == [("A dog .", "dog", ()), ("cat .", "cat", ())]
    assert set(data.categories) == {"type", "kind"}
    assert Counter(rows_of(data, "longer")) == Counter(
        [
            ("A cat ran", "cat ( x _ 1 )", ("pp_recursion", "structural")),
            ("dog dog", "dog ( x _ 1 ) dog", ("passive_to_active", "lexical")),
            ("A A A", "a a", ("pp_recursion", "structural")),
            ("ran .", ") (", ("pp_recursion", "structural")),
            ("ran", "( )", ("prim_to_inf_arg", "lexical")),
        ]
    )
    fewer = Cogs(longer_per_type=1).load(published)
    assert {row[0] for row in rows_of(fewer, "longer")} == {"A cat ran", "dog dog", "ran"}
    assert fewer.description["longer_sequences"] == "3"


def test_what_is_missing_is_downloaded_and_checked(published: Path, server: None, tmp_path: Path) -> None:
    data = Cogs().load(tmp_path / "root")
    assert (tmp_path / "root/cogs/gen.tsv").read_bytes() == (published / "cogs/gen.tsv").read_bytes()
    assert data.description["digest"] == Cogs().load(published).description["digest"]
    (published / "cogs/gen.tsv").write_text("another\tfile\tprimitive\n")
    with pytest.raises(DataError, match="its content has the SHA-256"):
        Cogs().load(tmp_path / "other root")
    with pytest.raises(DataError, match=r"gen\.tsv: not the published file"):
        Cogs().load(published)


def test_a_type_that_nobody_knows_is_refused(published: Path, tmp_path: Path) -> None:
    path = published / "cogs/gen.tsv"
    path.write_text("a\tb\tsomething_else\n")
    old = checksums(cogs.SHA256)["cogs/gen.tsv"]
    new = hashlib.sha256(path.read_bytes()).hexdigest()
    cogs.SHA256.write_text(cogs.SHA256.read_text().replace(old, new))
    with pytest.raises(DataError, match=r"gen\.tsv: unknown types of generalisation: something_else"):
        Cogs().load(published)


def test_scores_by_name_are_scalars_that_can_be_read(published: Path) -> None:
    data = Cogs().load(published)
    torch.manual_seed(0)
    model = build(match(MODELS["lstm"], Budget(parameters=20_000), data.dimensions), data.dimensions)
    metrics = Cogs.metrics
    scores = evaluate(model, data, "longer", metrics=metrics, device=torch.device("cpu"), keep_predictions=True)
    assert {axis for _, axis in scores.curves} == {"length"}
    by_type: dict[str, list[bool]] = {}
    for prediction in scores.predictions:
        by_type.setdefault(prediction.categories["type"], []).append(prediction.correct)
        assert prediction.categories["kind"] == KINDS[prediction.categories["type"]]
    for kind, correct in by_type.items():
        name = schema.of_category(schema.SEQUENCE_ACCURACY, "type", kind)
        assert scores.scalars[name] == sum(correct) / len(correct)
        full = schema.metric(schema.LONGER, name)
        assert full == f"longer/sequence_accuracy_of_type/{kind}"
        assert schema.category_of(full) == ("longer/sequence_accuracy", "type", kind)
        assert schema.axis_of(full) == ""
    of_kind = [name for name in scores.scalars if name.startswith("token_accuracy_of_kind/")]
    assert sorted(of_kind) == ["token_accuracy_of_kind/lexical", "token_accuracy_of_kind/structural"]
    assert schema.category_of("longer/sequence_accuracy") is None
    assert schema.category_of("longer/sequence_accuracy_by_length") is None


def test_example_and_types() -> None:
    shown = Cogs().example()
    assert shown.source[-1] == shown.target[-1] == "<eos>"
    assert (len(LEXICAL), len(STRUCTURAL), len(KINDS)) == (18, 3, 21)
    assert Cogs(longer_per_type=10).label == "cogs"  # what is evaluated beyond training does not change the task


def test_real_sentences() -> None:
    if "LVT_DATA" not in os.environ:
        pytest.skip("LVT_DATA names no folder with the real data")
    root = Path(os.environ["LVT_DATA"])
    assert set(checksums(SHA256)) == {f"cogs/{split}.tsv" for split in ("train", "dev", "test", "gen")}
    data = Cogs(longer_per_type=20).load(root)
    sizes = {"train": 24_155, "validation": 3_000, "test": 3_000, "longer": 21 * 20}
    assert {split: int(data.description[f"{split}_sequences"]) for split in sizes} == sizes
    assert set(data.categories["type"]) == set(KINDS)
    counts = Counter(names for _, _, names in rows_of(data, "longer"))
    assert counts == {(kind, KINDS[kind]): 20 for kind in KINDS}
    assert all(data.description[f"{split}_sources_in_training"] == "0" for split in ("validation", "test", "longer"))
    lines = [line.split("\t") for line in (root / "cogs/test.tsv").read_text().splitlines()]
    known = set(data.target_vocabulary.symbols)
    expected = [" ".join(w if w in known else "<unk>" for w in form.split(" ")) for _, form, _ in lines]
    assert Counter(form for _, form, _ in rows_of(data, "test")) == Counter(expected)
    longest = [max(batch.tokens for batch in batches) for batches in data.evaluation.values()]
    assert max(longest) <= 16_384
