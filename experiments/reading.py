"""Files of text as tables: every line is looked at before anything is made of it, and nothing is dropped or guessed.

What a reader returns is a `datasets.Dataset` in memory whose fingerprint is that of the content (of the file, or of the
two columns of what is on the Hub), the same on every machine; `datasets` never parses a file itself, so that no word
becomes a number or a missing value. What cannot be read as stated is refused with the file and the line.
"""

from __future__ import annotations

import codecs
import gzip
import hashlib
import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.data import DataError

if TYPE_CHECKING:
    import datasets

PAIR = ("source", "target")


@dataclass(frozen=True)
class TextTable:
    """Two columns of text, "source" and "target", and where each row comes from.

    `name` is a file's path, `first` the number of the line (or row) of the first pair.
    """

    table: datasets.Dataset
    name: str
    unit: str = "line"
    first: int = 1

    def place(self, row: int) -> str:
        """``"a.tsv, line 7"``, of the row of that index."""
        return f"{self.name}, {self.unit} {self.first + row}"


def read_table(path: Path, columns: tuple[str, str] | None) -> TextTable:
    """Two columns of text, "source" and "target", from a file of the kind that its name says.

    - ``.tsv``: without `columns`, every line is ``source TAB target``; with them, the first line names the columns.
    - ``.jsonl``: one JSON object a line; `columns` are two of its fields, "source" and "target" if not stated.
    - ``.parquet``: `columns` likewise.

    Raises:
        DataError: another kind of file; a column is not there; a line is not what it should be.
    """
    if path.suffix == ".tsv":
        if columns is None:
            return TextTable(read_columns(path, PAIR), str(path))
        return TextTable(_read_tsv_with_header(path, columns), str(path), first=2)
    if path.suffix == ".jsonl":
        return TextTable(_read_jsonl(path, columns or PAIR), str(path))
    if path.suffix == ".parquet":
        return TextTable(_read_parquet(path, columns or PAIR), str(path), unit="row")
    raise DataError(f"{path}: data are read from .tsv, .jsonl and .parquet files")


def read_parallel(source: Path, target: Path) -> TextTable:
    """Two files whose lines belong together.

    Raises:
        DataError: see `read_columns`; or they have not the same number of lines.
    """
    sides = [read_columns(path, ("text",)) for path in (source, target)]
    if len(sides[0]) != len(sides[1]):
        raise DataError(f"{source}: {len(sides[0])} lines, but {target}: {len(sides[1])}; they have to belong together")
    values = {name: side["text"][:] for name, side in zip(PAIR, sides, strict=True)}
    fingerprints = "".join(side._fingerprint for side in sides)
    table = _table(values, hashlib.sha256(fingerprints.encode()).hexdigest()[:16])
    return TextTable(table, f"{source} and {target}")


def read_hub(name: str, revision: str, split: str, columns: tuple[str, str]) -> TextTable:
    """Two columns of one split of a data set on the Hugging Face Hub, as it was at one commit.

    It is downloaded once, into the cache of `datasets`, and found there without a network later.

    Raises:
        DataError: it cannot be had, the columns are not there, or a row is not fit.
    """
    import datasets

    _quiet()
    place = f"{name} (Hub, revision {revision[:12]}, split {split})"
    try:
        table = datasets.load_dataset(name, revision=revision, split=split)
    except Exception as error:  # whatever the Hub's libraries raise: no network, no such data set, commit or split
        raise DataError(f"{place}: cannot be loaded ({type(error).__name__}: {error})") from error
    for column in columns:
        if column not in table.column_names:
            raise DataError(
                f"{place}: no column {column!r}; the columns are {', '.join(map(repr, table.column_names))}"
            )
    values = {side: table[column][:] for side, column in zip(PAIR, columns, strict=True)}
    _check_rows(values, columns, place)
    return TextTable(_table(values, _fingerprint(json.dumps(values).encode())), place, unit="row")


def read_pairs(path: Path) -> datasets.Dataset:
    """A file of lines ``source TAB target``; see `read_columns`."""
    return read_columns(path, PAIR)


def read_columns(path: Path, columns: Sequence[str]) -> datasets.Dataset:
    """A UTF-8 file of lines with exactly these `columns`, tabs between them; every field as it stands in the file.

    With one column, a line is a field, whatever it holds. A file whose name ends in ``.gz`` is decompressed first.

    Raises:
        DataError: no such file, an empty one, or a compressed one that is broken; a byte-order mark; a line that is
            empty, is not UTF-8, holds a NUL byte, or a carriage return that does not end it, has another number of
            tabs, or has nothing in one of its columns.
    """
    content = _content(path)
    rows = []
    for number, text in _lines(path, content):
        fields = text.split("\t") if len(columns) > 1 else [text]
        if len(fields) != len(columns):
            raise _refuse(path, number, f"{len(fields) - 1} tabs where there must be {_tabs(columns)}")
        for name, value in zip(columns, fields, strict=True):
            if not value.strip():
                raise _refuse(path, number, f"the {name} is empty")
        rows.append(fields)
    return _table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True)), _fingerprint(content))


def _read_tsv_with_header(path: Path, columns: tuple[str, str]) -> datasets.Dataset:
    content = _content(path)
    lines = _lines(path, content)
    header = lines[0][1].split("\t")
    places = []
    for column in columns:
        if header.count(column) > 1:
            raise _refuse(path, 1, f"the column {column!r} is there {header.count(column)} times")
        if column not in header:
            raise _refuse(path, 1, f"no column {column!r}; the columns are {', '.join(map(repr, header))}")
        places.append(header.index(column))
    if len(lines) == 1:
        raise DataError(f"{path}: the file holds the names of its columns and nothing else")
    values: dict[str, list[str]] = {name: [] for name in PAIR}
    for number, text in lines[1:]:
        fields = text.split("\t")
        if len(fields) != len(header):
            raise _refuse(path, number, f"{len(fields)} columns where the first line names {len(header)}")
        for name, column, place in zip(PAIR, columns, places, strict=True):
            if not fields[place].strip():
                raise _refuse(path, number, f"{column} is empty")
            values[name].append(fields[place])
    return _table(values, _fingerprint(content))


def _read_jsonl(path: Path, columns: tuple[str, str]) -> datasets.Dataset:
    content = _content(path)
    values: dict[str, list[str]] = {name: [] for name in PAIR}
    for number, text in _lines(path, content):
        try:
            row = json.loads(text)
        except ValueError as error:
            raise _refuse(path, number, f"no JSON ({error})") from None
        if not isinstance(row, dict):
            raise _refuse(path, number, "no JSON object")
        for name, column in zip(PAIR, columns, strict=True):
            if column not in row:
                raise _refuse(path, number, f"no field {column!r}; the fields are {', '.join(map(repr, row))}")
            if problem := _unfit(row[column]):
                raise _refuse(path, number, f"{column} {problem}")
            values[name].append(row[column])
    return _table(values, _fingerprint(content))


def _read_parquet(path: Path, columns: tuple[str, str]) -> datasets.Dataset:
    import io

    import pyarrow as pa
    from pyarrow import parquet

    content = _content(path)
    try:
        table = parquet.read_table(io.BytesIO(content))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: no Parquet file ({error})") from None
    for column in columns:
        if column not in table.column_names:
            names = ", ".join(map(repr, table.column_names))
            raise DataError(f"{path}: no column {column!r}; the columns are {names}")
    values = {name: table[column].to_pylist() for name, column in zip(PAIR, columns, strict=True)}
    _check_rows(values, columns, str(path))
    return _table(values, _fingerprint(content))


def _check_rows(values: Mapping[str, Sequence[Any]], columns: tuple[str, str], place: str) -> None:
    """Refuses a table without lines by the number of the row, counted from 1.

    Raises:
        DataError: there is no row, or a value is no text, is empty, or holds a NUL byte or the end of a line.
    """
    if not values["source"]:
        raise DataError(f"{place}: holds no rows")
    for name, column in zip(PAIR, columns, strict=True):
        for number, value in enumerate(values[name], start=1):
            if problem := _unfit(value):
                raise DataError(f"{place}, row {number}: {column} {problem}")


def _unfit(value: object) -> str | None:
    """Why a value cannot be the text of a pair; None where it can."""
    if not isinstance(value, str):
        return f"is no text ({value!r})"
    if not value.strip():
        return "is empty"
    if "\0" in value:
        return "holds a NUL byte"
    if any("\ud800" <= character <= "\udfff" for character in value):
        return "holds half a character (a surrogate without its other half)"
    return "holds the end of a line" if "\n" in value or "\r" in value else None


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if path.suffix == ".gz":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"{path}: cannot be decompressed ({error})") from error
    if not content:
        raise DataError(f"{path}: the file is empty")
    return content


def _lines(path: Path, content: bytes) -> list[tuple[int, str]]:
    """The lines with their numbers, from 1, once each of them is sound."""
    if content.startswith(codecs.BOM_UTF8):
        raise _refuse(path, 1, "starts with a byte-order mark; save the file as UTF-8 without one")
    lines = []
    for number, raw in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
        line = raw.removesuffix(b"\r")
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            problem = f"not UTF-8 (byte {error.start + 1} of the line is 0x{line[error.start]:02x})"
            raise _refuse(path, number, problem) from None
        if not text:
            raise _refuse(path, number, "empty line")
        if "\0" in text:
            raise _refuse(path, number, "holds a NUL byte")
        if "\r" in text:
            raise _refuse(path, number, "holds a carriage return")
        lines.append((number, text))
    return lines


def _tabs(columns: Sequence[str]) -> str:
    return f"{len(columns) - 1}, between {' and '.join(columns)}"


def _refuse(path: Path, line: int, problem: str) -> DataError:
    return DataError(f"{path}, line {line}: {problem}")


def _fingerprint(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _quiet() -> None:
    import datasets  # takes seconds, and only real corpora need it

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()


def _table(values: Mapping[str, list[str]], fingerprint: str) -> datasets.Dataset:
    """Columns of text as a data set in memory, under a fingerprint of its content."""
    import datasets

    _quiet()
    text = datasets.Value("string")
    table = datasets.Dataset.from_dict(dict(values), features=datasets.Features(dict.fromkeys(values, text)))
    return datasets.Dataset(table.data, info=table.info, fingerprint=fingerprint)
