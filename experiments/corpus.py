"""Real and generated corpora: pairs of symbol sequences, read, downloaded, encoded and batched.

One pair as it is trained on (a French word and its phonemes)::

    source     b o n j o u r <eos>
    target_in  <bos> b ɔ̃ ʒ u ʁ
    target     b ɔ̃ ʒ u ʁ <eos>

The way of the data: `fetch` (a file with a known checksum) → `read_pairs` (a checked table) → `corpus_data`
(vocabularies, batches). Everything is encoded once; drawing a batch is an index into a padded matrix.
"""

from __future__ import annotations

import codecs
import glob
import hashlib
import json
import os
import tempfile
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.error import HTTPError
from urllib.request import urlopen

import torch
from torch import Tensor

from experiments.data import (
    SPECIAL_SYMBOLS,
    UNKNOWN_SYMBOL,
    Batch,
    DataError,
    Example,
    Pair,
    TaskData,
    Vocabulary,
)
from models.interface import BOS, EOS, PAD

if TYPE_CHECKING:
    import datasets

DEFAULT_DATA_ROOT = Path(__file__).resolve().parents[1] / "data"  # at the root of the checkout; git ignores it

UNKNOWN_ID = len(SPECIAL_SYMBOLS)
FIRST_ID = UNKNOWN_ID + 1  # of the symbols of a corpus
EVALUATION_BATCH_SIZE = 256
POOL = 50  # batches that are sorted by length together; larger: less padding; smaller: batches more mixed

DOWNLOAD_ATTEMPTS = 3
DOWNLOAD_TIMEOUT = 10.0  # seconds without an answer
DOWNLOAD_PAUSE = 1.0  # seconds before the second attempt, twice as many before the third
TRANSIENT_HTTP_ERRORS = frozenset({408, 425, 429, 500, 502, 503, 504})  # worth another attempt


@dataclass(frozen=True)
class EncodedPairs:
    """Pairs as ids, padded at the end with `PAD`, all int64 on the CPU.

    Shapes (N pairs, S and T the longest source and target, end of sequence included):
        source (N, S), target_in (N, T), target (N, T), source_lengths (N,), target_lengths (N,)
        slices: name of an axis → (N,), the value of each pair on it
    """

    source: Tensor
    target_in: Tensor
    target: Tensor
    source_lengths: Tensor
    target_lengths: Tensor
    slices: Mapping[str, Tensor]

    def batch(self, rows: Tensor) -> Batch:
        """The pairs `rows` (B,) side by side, in this order, cut to the longest among them."""
        source_lengths = self.source_lengths[rows]
        longest_source, longest_target = int(source_lengths.max()), int(self.target_lengths[rows].max())
        target = self.target[:, :longest_target].index_select(0, rows)
        return Batch(
            source=self.source[:, :longest_source].index_select(0, rows),
            target_in=self.target_in[:, :longest_target].index_select(0, rows),
            target=target,
            source_lengths=source_lengths,
            slices={axis: values[rows, None].expand_as(target).contiguous() for axis, values in self.slices.items()},
        )

    def longest_first(self, rows: Tensor, pools: Tensor | None = None) -> Tensor:
        """`rows` sorted by source length, then target length, both descending; within each of `pools`, if given.

        Equal lengths stay in their order, so that a random order stays random among them.
        """
        key = -(self.source_lengths[rows] * (self.target.shape[1] + 1) + self.target_lengths[rows])
        if pools is not None:
            key += pools * (self.source.shape[1] + 1) * (self.target.shape[1] + 1)
        return rows[key.argsort(stable=True)]

    def evaluation(self) -> list[Batch]:
        """All pairs in fixed batches, the longest first."""
        rows = self.longest_first(torch.arange(len(self.source)))
        return [self.batch(part) for part in rows.split(EVALUATION_BATCH_SIZE)]

    def training(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Endless epochs, each with every pair once, in batches of similar source length.

        An epoch is a fresh permutation; pools of `POOL` batches are sorted by length, cut into batches, and the order
        of the batches is shuffled. What is left over when `batch_size` does not divide the number of pairs is a smaller
        batch of its own, drawn from all lengths: otherwise the shortest pairs would share it in every epoch.
        """
        count = len(self.source)
        pools = torch.arange(count) // (POOL * batch_size)
        pools[count - count % batch_size :] += 1
        while True:
            permutation = torch.randperm(count, generator=generator)
            batches = self.longest_first(permutation, pools).split(batch_size)
            for i in torch.randperm(len(batches), generator=generator).tolist():
                yield self.batch(batches[i])


def corpus_data(
    train: Sequence[Pair],
    evaluation: Mapping[str, Sequence[Pair]],
    *,
    slices: Mapping[str, Callable[[Pair], int]],
    description: Mapping[str, str],
) -> TaskData:
    """Pairs of symbol sequences as a task that is ready for a run.

    The vocabularies hold what `train` shows and nothing else, sorted; any other symbol becomes `UNKNOWN_SYMBOL`, of
    which a model has learnt nothing and which is never a right answer (`Vocabulary.references`).

    Args:
        train: the pairs to train on.
        evaluation: split → its pairs; "validation" and "test", and "longer" where there is one.
        slices: axis → the value of a pair on it, for the evaluation sets.
        description: of the data, at least their "source". Added are: "digest" (SHA-256 of all pairs, the 32 digits that
            MLflow has room for), and in numbers "<split>_sequences", and for the evaluation splits
            "<split>_sources_in_training" (the overlap) and "<split>_unknown_targets" (targets that hold an unknown
            symbol, which nobody can get right).

    Raises:
        DataError: a split is empty.
    """
    splits = {"train": train, **evaluation}
    for split, pairs in splits.items():
        if not pairs:
            raise DataError(f"the split {split!r} of the corpus holds no sequences")
    source_ids = {symbol: i for i, symbol in enumerate(sorted({s for pair in train for s in pair.source}), FIRST_ID)}
    target_ids = {symbol: i for i, symbol in enumerate(sorted({s for pair in train for s in pair.target}), FIRST_ID)}
    encoded = {
        split: _encode(pairs, source_ids, target_ids, slices if split in evaluation else {})
        for split, pairs in splits.items()
    }
    facts = {"digest": digest(splits)}
    for split, pairs in splits.items():
        facts[f"{split}_sequences"] = str(len(pairs))
    for split, pairs in evaluation.items():
        facts[f"{split}_sources_in_training"] = str(source_overlap(train, pairs))
        facts[f"{split}_unknown_targets"] = str(sum(not target_ids.keys() >= set(pair.target) for pair in pairs))
    return TaskData(
        source_vocabulary=Vocabulary.of((UNKNOWN_SYMBOL, *source_ids)),
        target_vocabulary=Vocabulary.of((UNKNOWN_SYMBOL, *target_ids)),
        given_inputs=False,
        max_source_length=max(part.source.shape[1] for part in encoded.values()),
        max_target_length=max(part.target.shape[1] for part in encoded.values()),
        training=encoded["train"].training,
        evaluation={split: encoded[split].evaluation() for split in evaluation},
        overlap=source_overlap(train, evaluation["test"]),
        description={**description, **facts},
    )


def _encode(
    pairs: Sequence[Pair],
    source_ids: Mapping[str, int],
    target_ids: Mapping[str, int],
    slices: Mapping[str, Callable[[Pair], int]],
) -> EncodedPairs:
    sources = [[source_ids.get(symbol, UNKNOWN_ID) for symbol in pair.source] for pair in pairs]
    targets = [[target_ids.get(symbol, UNKNOWN_ID) for symbol in pair.target] for pair in pairs]
    return EncodedPairs(
        source=_padded([[*ids, EOS] for ids in sources]),
        target_in=_padded([[BOS, *ids] for ids in targets]),
        target=_padded([[*ids, EOS] for ids in targets]),
        source_lengths=torch.tensor([len(ids) + 1 for ids in sources]),
        target_lengths=torch.tensor([len(ids) + 1 for ids in targets]),
        slices={axis: torch.tensor([value(pair) for pair in pairs]) for axis, value in slices.items()},
    )


def _padded(rows: list[list[int]]) -> Tensor:
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.full((len(rows), int(lengths.max())), PAD)
    padded[torch.arange(padded.shape[1]) < lengths[:, None]] = torch.tensor([i for row in rows for i in row])
    return padded


def digest(splits: Mapping[str, Sequence[Pair]]) -> str:
    """Digest of the content of all splits: the first 32 hexadecimal digits of its SHA-256 (MLflow's limit is 36)."""
    return hashlib.sha256(json.dumps(splits).encode()).hexdigest()[:32]


def source_overlap(train: Sequence[Pair], other: Sequence[Pair]) -> int:
    """How many pairs of `other` have a source that stands in `train` too."""
    seen = {pair.source for pair in train}
    return sum(pair.source in seen for pair in other)


def upper_edge(value: int, edges: Sequence[int]) -> int:
    """The bin of `value`, named by its upper edge, which it includes; the last bin holds all above, too."""
    return edges[min(bisect_left(edges, value), len(edges) - 1)]


def worked_example(pair: Pair) -> Example:
    """The pair as a run sees it, with the special symbols in their places."""
    _, bos, eos = SPECIAL_SYMBOLS
    return Example([*pair.source, eos], [bos, *pair.target], [*pair.target, eos])


def read_pairs(path: Path) -> datasets.Dataset:
    """A checked file of lines ``source TAB target`` as a table of two columns of text, "source" and "target".

    Every field arrives as it stands in the file: no quoting, no missing values, no numbers. The table is held in
    memory, and its fingerprint is that of the content, the same on every machine.

    Raises:
        DataError: `checked_pairs` refuses the file.
    """
    content = checked_pairs(path)
    import datasets  # takes seconds, and only real corpora need it

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    text = datasets.Value("string")
    # `datasets` reads the name of a file as a pattern, and takes a changed file for the old one if name and time are
    # the same. A copy under a plain name, with a cache of its own, is free of both.
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, "pairs.tsv")
        copy.write_bytes(content)
        table = datasets.Dataset.from_csv(
            glob.escape(str(copy)),
            cache_dir=folder,
            keep_in_memory=True,
            features=datasets.Features({"source": text, "target": text}),
            sep="\t",
            header=None,
            names=["source", "target"],
            quoting=3,
            keep_default_na=False,
        )
    return datasets.Dataset(table.data, info=table.info, fingerprint=hashlib.sha256(content).hexdigest()[:16])


def checked_pairs(path: Path) -> bytes:
    """The content of a UTF-8 file of lines ``source TAB target``; anything else is refused by file and line.

    Raises:
        DataError: no such file, or an empty one; a byte-order mark; a line that is empty, is not UTF-8, holds a NUL
            byte or a carriage return, has not exactly one tab, or has nothing on one side of it.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not content:
        raise DataError(f"{path}: the file is empty")
    if content.startswith(codecs.BOM_UTF8):
        raise DataError(f"{path}, line 1: starts with a byte-order mark; save the file as UTF-8 without one")
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
        if problem := _problem(line.removesuffix(b"\r")):
            raise DataError(f"{path}, line {number}: {problem}")
    return content


def _problem(line: bytes) -> str | None:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        return f"not UTF-8 (byte {error.start + 1} of the line is 0x{line[error.start]:02x})"
    if not text:
        return "empty line"
    if "\0" in text:
        return "holds a NUL byte"
    if "\r" in text:
        return "holds a carriage return"
    fields = text.split("\t")
    if len(fields) != 2:
        return f"{len(fields) - 1} tabs where there must be one, between source and target"
    empty = [name for name, value in zip(("source", "target"), fields, strict=True) if not value.strip()]
    return f"the {empty[0]} is empty" if empty else None


def checksums(path: Path) -> dict[str, str]:
    """File → SHA-256, from a list as ``sha256sum`` writes it."""
    lines = path.read_text().splitlines()
    return {name: sha256 for sha256, name in (line.split("  ", maxsplit=1) for line in lines)}


def fetch(url: str, path: Path, sha256: str) -> Path:
    """`path`, downloaded from `url` unless it is there; its content has the checksum `sha256` in either case.

    The download lies under a name of its own until it is checked, so that any number of processes may fetch the same
    file at once. A file that is there is never overwritten.

    Raises:
        DataError: the file that is there has another checksum; or it is not there and cannot be downloaded or written.
    """
    if path.exists():
        found = _sha256_of(path)
        if found != sha256:
            raise DataError(
                f"{path}: not the published file (SHA-256 {found}, expected {sha256}). Move it away, and it is "
                f"downloaded from {url}; or name another folder by --data DIR or LVT_DATA"
            )
        return path
    content = _download(url, path, sha256)
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_bytes(content)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)  # gone already where all went well
    except OSError as error:
        raise DataError(
            f"{path}: cannot be written ({error.strerror}); name a folder that can, by --data DIR or LVT_DATA"
        ) from error
    return path


def _sha256_of(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error


def _download(url: str, path: Path, sha256: str) -> bytes:
    """The content of `url`, in a few attempts; `path` is where it is expected, for the message."""
    for attempt in range(1, DOWNLOAD_ATTEMPTS + 1):
        try:
            with urlopen(url, timeout=DOWNLOAD_TIMEOUT) as response:
                content: bytes = response.read()
            found = hashlib.sha256(content).hexdigest()
            if found == sha256:
                return content
            reason = f"its content has the SHA-256 {found}, expected {sha256}"
        except (OSError, HTTPException) as error:  # no network, no such host, timeout, HTTP error, cut short
            reason = str(error)
            if isinstance(error, HTTPError) and error.code not in TRANSIENT_HTTP_ERRORS:
                break
        if attempt < DOWNLOAD_ATTEMPTS:
            time.sleep(DOWNLOAD_PAUSE * 2 ** (attempt - 1))
    raise DataError(
        f"cannot download {url}: {reason}. Without a network, name by --data DIR or LVT_DATA a folder that holds "
        f"the data; the file was looked for at {path}"
    )
