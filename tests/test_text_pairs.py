"""Your own data: read as stated, refused by file and line, counted where left out; the content decides the key."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from typer.testing import CliRunner

from analysis.variants import options
from experiments.config import parse_run, run_key
from experiments.data import DataError, TaskData
from experiments.grid import GridError, load_grid
from experiments.reading import read_hub
from experiments.settings import SettingsError
from experiments.tasks.text_pairs import TextPairs
from experiments.text import CHARACTERS, WORDS, learn_pieces
from experiments.text_metrics import bleu, character_errors, chrf, edit_distance
from lvt import app

TRAIN = [("the dogs run", "3"), ("a dog runs", "1"), ("the  cats sleep", "2"), ("NA", "null")]
VALIDATION = [("a cat runs", "1")]
TEST = [("the cat is running", "1 2"), ("cats", "3")]
ROWS = {"train": TRAIN, "validation": VALIDATION, "test": TEST}


def write(
    folder: Path, kind: str, names: tuple[str, str] | None = None, **other: list[tuple[str, str]]
) -> dict[str, str]:
    """The three parts as files of a kind; the options that name them."""
    folder.mkdir(exist_ok=True)
    source, target = names or ("source", "target")
    paths = {}
    for part, rows in (ROWS | other).items():
        path = folder / f"{part}.{kind}"
        if kind == "tsv":
            lines = [f"number\t{target}\t{source}"] if names else []
            lines += [f"{i}\t{b}\t{a}" if names else f"{a}\t{b}" for i, (a, b) in enumerate(rows)]
            path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        elif kind == "jsonl":
            path.write_text("".join(json.dumps({target: b, "number": 1, source: a}) + "\n" for a, b in rows))
        else:
            table = {"number": [0] * len(rows), target: [b for _, b in rows], source: [a for a, _ in rows]}
            parquet.write_table(pa.table(table), path)
        paths[part] = str(path)
    return paths


def task(paths: dict[str, str], **options: Any) -> TextPairs:
    return TextPairs.model_validate_json(json.dumps({"tokenisation": "words"} | paths | options))


def texts(data: TaskData, split: str) -> list[tuple[str, str]]:
    """Sources and references as they were written, in the order of the batches."""
    assert data.texts is not None
    return list(zip(data.texts.sources[split], data.texts.references[split], strict=True))


@pytest.mark.parametrize("kind", ["tsv", "jsonl", "parquet"])
@pytest.mark.parametrize("names", [None, ("question", "answer")])
def test_every_kind_of_file_says_the_same(tmp_path: Path, kind: str, names: tuple[str, str] | None) -> None:
    data = task(write(tmp_path, kind, names), columns=names, target_tokenisation="characters").load(None)
    assert data.source_vocabulary.symbols[4:] == tuple(sorted({w for text, _ in TRAIN for w in text.split()}))
    assert data.target_vocabulary.symbols[4:] == tuple(sorted(set("".join(text for _, text in TRAIN))))
    assert sorted(texts(data, "test")) == sorted(TEST)
    assert sorted(texts(data, "validation")) == sorted(VALIDATION)
    # What is written stands in the order of the batches: each reference beside its own symbols.
    for (source, _), ids in zip(texts(data, "test"), data.evaluation["test"][0].source.tolist(), strict=True):
        known = [word if word in data.source_vocabulary.symbols else "<unk>" for word in source.split()]
        assert data.source_vocabulary.decode(ids) == known
    assert data.description["test_unknown_targets"] == "1"  # "1 2": the space
    assert data.description["train_left_out"] == "0 too long"


@settings(deadline=None, max_examples=50)
@given(text=st.text(st.characters(codec="utf-8", exclude_characters="\0\r\n▁"), min_size=1, max_size=30))
def test_tokenisers_spell_what_they_were_given(text: str) -> None:
    assert CHARACTERS.join(CHARACTERS.split(text)) == text
    assert WORDS.join(WORDS.split(text)) == " ".join(text.split())
    pieces = learn_pieces([text, "and more words, and more"], 300)
    assert pieces.join(pieces.split(text)) == " ".join(text.split())


def test_pieces_are_learnt_by_merging_what_stands_together_most() -> None:
    """Sennrich et al. 2016: characters first, then the most frequent pair, again and again."""
    texts = ["low low low low low lower lower new"]
    # <unk> and the characters ▁ e l n o r w are 8; then come lo (or ow) and low and ▁low, 7 times each, and er, twice.
    assert learn_pieces(texts, 8).split("lower") == ("▁", "l", "o", "w", "e", "r")
    pieces = learn_pieces(texts, 11)
    assert pieces.split("low lower new") == ("▁low", "▁low", "e", "r", "▁", "n", "e", "w")
    assert "<unk>" in pieces.split("xylophone")
    with pytest.raises(DataError, match="vocabulary_size 5 is too small: the training texts have 7 characters"):
        learn_pieces(["low lower new"], 5)


def test_pieces_are_shared_by_both_sides_and_learnt_on_training_alone(tmp_path: Path) -> None:
    same = [("abab abab", "abab"), ("ba", "abab")]
    paths = write(tmp_path, "tsv", train=same, test=[("zz abab", "abab")])
    data = task(paths, tokenisation="bpe", vocabulary_size=8).load(None)
    assert data.source_vocabulary == data.target_vocabulary
    assert "z" not in data.source_vocabulary.symbols
    assert "<unk>" in data.source_vocabulary.decode(data.evaluation["test"][0].source[0].tolist())
    assert texts(data, "test") == [("zz abab", "abab")]


BAD_LINES = {
    "no tab": ("tsv", "a b\n", r"train\.tsv, line 2: 0 tabs where there must be 1, between source and target"),
    "empty line": ("tsv", "\n", r"train\.tsv, line 2: empty line"),
    "NUL": ("tsv", "a\0\tb\n", r"train\.tsv, line 2: holds a NUL byte"),
    "encoding": ("tsv", "ä\tb\n".encode("latin-1"), r"train\.tsv, line 2: not UTF-8 \(byte 1 .* 0xe4\)"),
    "no JSON": ("jsonl", "{source\n", r"train\.jsonl, line 2: no JSON"),
    "no object": ("jsonl", "[1]\n", r"train\.jsonl, line 2: no JSON object"),
    "no field": ("jsonl", '{"source": "a"}\n', r"train\.jsonl, line 2: no field 'target'; the fields are 'source'"),
    "no text": ("jsonl", '{"source": "a", "target": 3}\n', r"train\.jsonl, line 2: target is no text \(3\)"),
    "nothing": ("jsonl", '{"source": " ", "target": "b"}\n', r"train\.jsonl, line 2: source is empty"),
    "NUL in JSON": ("jsonl", '{"source": "\\u0000", "target": "b"}\n', r"line 2: source holds a NUL byte"),
    "half a character": ("jsonl", '{"source": "\\ud83d", "target": "b"}\n', r"line 2: source holds half a character"),
    "two lines in one": ("jsonl", '{"source": "a\\nb", "target": "b"}\n', r"line 2: source holds the end of a line"),
}


@pytest.mark.parametrize(("kind", "line", "message"), BAD_LINES.values(), ids=BAD_LINES)
def test_a_bad_line_is_refused_by_file_and_line(tmp_path: Path, kind: str, line: str | bytes, message: str) -> None:
    paths = write(tmp_path, kind, train=TRAIN[:1])
    with Path(paths["train"]).open("ab") as file:
        file.write(line if isinstance(line, bytes) else line.encode())
    with pytest.raises(DataError, match=message):
        task(paths).load(None)


def test_other_bad_files_are_refused(tmp_path: Path) -> None:
    paths = write(tmp_path, "tsv", ("question", "answer"))
    with pytest.raises(DataError, match=r"train\.tsv, line 1: no column 'q'; the columns are 'number', 'answer', 'que"):
        task(paths, columns=["q", "answer"]).load(None)
    Path(paths["train"]).write_text("number\tanswer\tquestion\n1\tx\n")
    with pytest.raises(DataError, match=r"train\.tsv, line 2: 2 columns where the first line names 3"):
        task(paths, columns=["question", "answer"]).load(None)
    Path(paths["train"]).write_text("answer\tquestion\tanswer\nx\ty\tz\n")
    with pytest.raises(DataError, match=r"train\.tsv, line 1: the column 'answer' is there 2 times"):
        task(paths, columns=["question", "answer"]).load(None)
    Path(paths["train"]).write_text("question\tanswer\n")
    with pytest.raises(DataError, match="names of its columns and nothing else"):
        task(paths, columns=["question", "answer"]).load(None)
    parquets = write(tmp_path, "parquet", train=[("a", "x"), (None, "y")])  # type: ignore[list-item]
    with pytest.raises(DataError, match=r"train\.parquet, row 2: source is no text \(None\)"):
        task(parquets).load(None)
    with pytest.raises(DataError, match=r"train\.parquet: no column 'a'; the columns are"):
        task(parquets, columns=["a", "b"]).load(None)
    Path(parquets["train"]).write_text("no table")
    with pytest.raises(DataError, match=r"train\.parquet: no Parquet file"):
        task(parquets).load(None)
    other = tmp_path / "train.xlsx"
    other.write_text("a\tb\n")
    with pytest.raises(DataError, match=r"train\.xlsx: data are read from \.tsv, \.jsonl and \.parquet"):
        task(paths | {"train": str(other)}).load(None)


def test_what_is_too_long_is_an_error_or_counted(tmp_path: Path) -> None:
    paths = write(tmp_path, "tsv", train=[*TRAIN, ("one two three four", "5"), ("five", "6 7 8 9")])
    with pytest.raises(DataError, match=r"train\.tsv, line 5: longer than max_length, 3 symbols, and so are 1 more"):
        task(paths, max_length=3).load(None)
    data = task(paths, max_length=3, longer="exclude").load(None)
    assert data.description["train_left_out"] == "2 too long"
    assert data.description["validation_left_out"] == "0 too long, 0 whose source stands in training"
    left_out = "1 too long, 0 whose source stands in training, 0 whose source stands in validation"
    assert data.description["test_left_out"] == left_out
    assert data.description["train_sequences"] == "4"
    assert texts(data, "test") == [("cats", "3")]
    with pytest.raises(DataError, match=r"test\.tsv: nothing is left of it \(2 too long"):
        task(write(tmp_path, "tsv", test=TEST[:1] * 2), max_length=3, longer="exclude").load(None)


def test_what_stands_in_training_is_an_error_counted_or_kept(tmp_path: Path) -> None:
    paths = write(tmp_path, "tsv", test=[*TEST, TRAIN[1]])
    with pytest.raises(DataError, match=r"test\.tsv, line 3: its source stands in the training part, too"):
        task(paths).load(None)
    data = task(paths, overlap="exclude").load(None)
    left_out = "0 too long, 1 whose source stands in training, 0 whose source stands in validation"
    assert data.description["test_left_out"] == left_out
    assert (data.overlap, sorted(texts(data, "test"))) == (0, sorted(TEST))
    kept = task(paths, overlap="keep").load(None)
    assert (kept.overlap, len(texts(kept, "test"))) == (0, 3)  # the gate has nothing to say: it is meant to be there
    assert kept.description["test_sources_in_training"] == "1"


def test_what_was_left_out_of_training_stands_nowhere(tmp_path: Path) -> None:
    """A training pair that is too long is not trained on: its source may be asked for, with a shorter target."""
    paths = write(tmp_path, "tsv", train=[*TRAIN, ("cats", "3 and many, many more")])
    for overlap in ("error", "exclude"):
        data = task(paths, max_length=4, longer="exclude", overlap=overlap).load(None)
        assert data.description["train_left_out"] == "1 too long"
        assert ("cats", "3") in texts(data, "test")
        assert data.overlap == 0


def test_what_stands_in_validation_is_no_test_either(tmp_path: Path) -> None:
    """The checkpoint is selected there. What stands in training, too, is said to stand there."""
    both = [*VALIDATION, TRAIN[1]]
    paths = write(tmp_path, "tsv", validation=both, test=[*TEST, *VALIDATION, ("a cat  runs", "1"), TRAIN[1]])
    with pytest.raises(DataError, match=r"validation\.tsv, line 2: its source stands in the training part, too"):
        task(paths).load(None)
    data = task(paths, overlap="exclude").load(None)
    assert data.description["validation_left_out"] == "0 too long, 1 whose source stands in training"
    left_out = "0 too long, 1 whose source stands in training, 2 whose source stands in validation"
    assert data.description["test_left_out"] == left_out
    assert (texts(data, "validation"), sorted(texts(data, "test"))) == (VALIDATION, sorted(TEST))
    kept = task(paths, overlap="keep").load(None)
    assert (len(texts(kept, "validation")), len(texts(kept, "test"))) == (2, 5)
    Path(paths["validation"]).write_text("a cat runs\t1\n")
    told = r"test\.tsv, line 3: its source stands in the validation part, too, and so do those of 1 more"
    with pytest.raises(DataError, match=told):
        task(paths).load(None)
    with pytest.raises(DataError, match=r"validation\.tsv, line 1: its source stands in the validation part, too"):
        task(paths | {"test": paths["validation"]}).load(None)


@pytest.mark.parametrize(
    ("tokens", "reference"),
    [
        ({"tokenisation": "characters"}, "a  dog   runs"),
        ({"tokenisation": "words"}, "a dog runs"),
        ({"tokenisation": "bpe", "vocabulary_size": 40}, "a dog runs"),
        ({"tokenisation": "characters", "target_tokenisation": "words"}, "a dog runs"),
        ({"tokenisation": "words", "target_tokenisation": "characters"}, "a  dog   runs"),
    ],
)
def test_spaces_that_nobody_can_answer_are_no_errors(tokens: dict[str, Any], reference: str, tmp_path: Path) -> None:
    pair = ("ein  Hund läuft", "a  dog   runs")
    data = task(write(tmp_path, "tsv", train=[pair], test=[("Hund", pair[1])]), **tokens).load(None)
    assert data.texts is not None
    target = data.evaluation["test"][0].target[0].tolist()
    perfect = [data.texts.join(data.target_vocabulary.decode(target))]
    assert texts(data, "test") == [("Hund", reference)]
    for metric in (character_errors, edit_distance):
        assert metric(perfect, data.texts.references["test"]) == 0
    for score in (bleu, chrf):  # which never saw such spaces
        assert score(["a dog ran"], [reference]) == score(["a dog ran"], [pair[1]])


@pytest.mark.parametrize("tokens", [{"tokenisation": "words"}, {"tokenisation": "bpe", "vocabulary_size": 40}])
def test_spaces_that_are_no_symbols_make_no_other_source(tokens: dict[str, Any], tmp_path: Path) -> None:
    paths = write(tmp_path, "tsv", test=[*TEST, ("the  dogs run ", "3")])
    with pytest.raises(DataError, match=r"test\.tsv, line 3: its source stands in the training part, too"):
        task(paths, **tokens).load(None)
    data = task(paths, **tokens, overlap="exclude").load(None)
    assert (data.overlap, data.description["test_sources_in_training"]) == (0, "0")
    assert ("the  dogs run ", "3") in texts(task(paths, tokenisation="characters").load(None), "test")


def key(paths: dict[str, str], **options: Any) -> str:
    tree = {
        "kind": "learn",
        "task": {"name": "text_pairs", "tokenisation": "words", **paths, **options},
        "model": "lstm",
        "budget": {"parameters": 30_000},
        "seed": 0,
        "training": {"steps": 1, "batch_size": 2, "learning_rate": 1e-3, "evaluate_every": 1},
    }
    return run_key(parse_run(tree), "cpu")


def test_the_content_decides_the_key_not_the_place(tmp_path: Path) -> None:
    here, there = write(tmp_path / "a", "tsv"), write(tmp_path / "b", "tsv")
    first = key(here)
    assert first == key(there)
    assert first != key(here, max_length=9)
    assert first != key(write(tmp_path / "c", "jsonl"))  # other bytes
    swapped = here | {"validation": here["test"], "test": here["validation"]}
    assert first != key(swapped)
    planned = task(here)
    assert planned.label.startswith("text_pairs(train=train.tsv, tokenisation=words, data=")
    assert list(options(planned.label)) == ["train", "tokenisation", "data"]  # as the analysis reads it
    assert planned.label == task(there).label
    for part in ROWS:
        path = Path(here[part])
        before = path.read_text()
        path.write_text(before.replace("a", "e"))
        assert key(here) != first
        assert task(here).label != planned.label
        with pytest.raises(DataError, match=rf"{part}\.tsv: changed since the run was planned"):
            planned.load(None)
        path.write_text(before)
    assert key(here) == first
    planned.load(None)


def test_settings_travel(tmp_path: Path) -> None:
    """What a run's settings say (config.json of a run) is the same run again, as long as the files are the same."""
    planned = task(write(tmp_path, "tsv"))
    again = TextPairs.model_validate_json(planned.model_dump_json())
    assert again == planned
    assert hash(again) == hash(planned)  # tasks are keys of the cache of loaded data
    assert Path(planned.train).is_absolute()  # another process may stand elsewhere


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "no file": ({"train": "none.tsv"}, r"none\.tsv: cannot be read \(No such file"),
    "a metric": ({"metrics": ["blue"]}, r"metrics.*'blue'.*did you mean bleu\?"),
    "another word error rate": ({"metrics": ["wer"]}, r"'wer'.* Allowed: .*per, sequence_accuracy"),  # of whole answers
    "no metric": ({"metrics": []}, "metrics"),
    "a metric twice": ({"metrics": ["bleu", "bleu"]}, "a metric stands twice"),
    "a tokenisation": ({"tokenisation": "word"}, r"did you mean words\?"),
    "no vocabulary size": ({"tokenisation": "bpe"}, "vocabulary_size belongs to bpe"),
    "a vocabulary size": ({"vocabulary_size": 100}, "vocabulary_size belongs to bpe"),
    "no limit": ({"longer": "exclude"}, "longer: exclude needs a max_length"),
    "no revision": ({"hub": "owner/name"}, "hub and revision belong together"),
    "a branch": ({"hub": "owner/name", "revision": "main"}, "revision: found 'main'"),
    "a key": ({"trian": "a.tsv"}, r"trian: unknown key; did you mean train\?"),
}


@pytest.mark.parametrize(("options", "message"), WRONG.values(), ids=WRONG)
def test_wrong_options_are_refused_before_anything_runs(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        key(write(tmp_path, "tsv") | options)


def test_what_reports_no_exact_match_is_not_ended_by_it(tmp_path: Path) -> None:
    asked = [f"task.{part}={path}" for part, path in write(tmp_path, "tsv").items()]
    asked += ["training.stop_when_solved=true", "task.metrics=[bleu, chrf]"]
    told = (
        r"stop_when_solved: text_pairs\(.*\) reports no exact match, only bleu, chrf; sequence_accuracy would be needed"
    )
    with pytest.raises(GridError, match=told):
        load_grid("compare_my_data", asked)
    assert load_grid("compare_my_data", [*asked, "task.metrics=[bleu, sequence_accuracy]"]).runs


def test_the_bundled_grid_takes_the_files(tmp_path: Path) -> None:
    paths = write(tmp_path, "tsv")
    with pytest.raises(GridError, match=r"task\.train: is missing"):
        load_grid("compare_my_data")
    grid = load_grid("compare_my_data", [f"task.{part}={path}" for part, path in paths.items()])
    assert len(grid.runs) >= 2
    assert len({run.model.name for run in grid.runs}) >= 2


@pytest.mark.filterwarnings("error:constrained_layout not applied")  # as where names leave a figure no room
def test_ones_own_data_from_the_files_to_the_report(tmp_path: Path) -> None:
    changes = [f"task.{part}={path}" for part, path in write(tmp_path / "data", "tsv").items()]
    changes += ["training.steps=2", "training.evaluate_every=2", "budget.parameters=20_000", "compare.seed=[0]"]
    store = ["--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}"]
    asked = [word for change in changes for word in ("--set", change)]
    done = CliRunner().invoke(app, ["run", "compare_my_data", "--workers", "1", "--device", "cpu", *asked, *store])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "report"
    done = CliRunner().invoke(app, ["report", "compare_my_data", "--out", str(folder), *store])
    assert done.exit_code == 0, done.output
    assert "text_pairs(train=train.tsv" in (folder / "report.md").read_text(encoding="utf-8")


def hub_clone(folder: Path, parts: dict[str, list[dict[str, str]]]) -> None:
    """Files laid out as in a data set's repository on the Hub."""
    folder.mkdir(parents=True)
    for part, rows in parts.items():
        (folder / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_data_set_laid_out_as_on_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`datasets` takes a folder named owner/name for the repository: all is real here but the download."""
    rows = {part: [{"en": a, "de": b} for a, b in pairs] for part, pairs in ROWS.items()}
    hub_clone(tmp_path / "owner" / "name", rows)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    options = {"hub": "owner/name", "revision": "0" * 40, "train": "train", "validation": "validation", "test": "test"}
    data = task({}, **options, columns=["en", "de"]).load(None)
    assert sorted(texts(data, "test")) == sorted(TEST)
    assert data.description["source"] == f"owner/name on the Hub, revision {'0' * 40}"
    with pytest.raises(DataError, match=r"owner/name \(Hub, revision 000000000000, split train\): no column 'source'"):
        task({}, **options).load(None)
    with pytest.raises(DataError, match=r"split dev\): cannot be loaded \(ValueError: Unknown split"):
        task({}, **options | {"validation": "dev"}, columns=["en", "de"]).load(None)
    assert key(options) != key(options | {"revision": "1" * 40})


def test_the_fingerprint_from_the_hub_is_of_the_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it lies, whatever else is there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    columns = {"here": ("en", "de"), "there": ("q", "a"), "other": ("en", "de")}
    found = {}
    for name, (source, target) in columns.items():
        rows = [{source: a, "row": str(i), target: b + "." * (name == "other")} for i, (a, b) in enumerate(TRAIN)]
        hub_clone(tmp_path / "owner" / name, {"train": rows})
        found[name] = read_hub(f"owner/{name}", "0" * 40, "train", (source, target)).table._fingerprint
    assert found["here"] == found["there"] != found["other"]
    assert len(found["here"]) == 16


def test_the_hub_is_asked_for_the_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []

    def no_network(*args: Any, **options: Any) -> None:
        asked.append((args, options))
        raise ConnectionError("no network")

    monkeypatch.setattr("datasets.load_dataset", no_network)
    options = {"hub": "owner/name", "revision": "ab" * 20, "train": "train", "validation": "dev", "test": "test"}
    with pytest.raises(DataError, match=r"owner/name \(Hub, revision abababababab, split train\): cannot be .*no ne"):
        task({}, **options).load(None)
    assert asked == [(("owner/name",), {"revision": "ab" * 20, "split": "train"})]


def test_example_and_axes() -> None:
    assert TextPairs.model_construct().example().source == ["the", "dogs", "run", "<eos>"]
    assert TextPairs.model_construct().headline == "sequence_accuracy"
