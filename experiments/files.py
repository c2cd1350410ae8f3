"""Published files: downloaded where they are not there yet, and held against their known checksums in either case."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

from experiments.data import DataError

DEFAULT_DATA_ROOT = Path(__file__).resolve().parents[1] / "data"  # at the root of the checkout; git ignores it

DOWNLOAD_ATTEMPTS = 3
DOWNLOAD_TIMEOUT = 10.0  # seconds without an answer
DOWNLOAD_PAUSE = 1.0  # seconds before the second attempt, twice as many before the third
TRANSIENT_HTTP_ERRORS = frozenset({408, 425, 429, 500, 502, 503, 504})  # worth another attempt


def published(url: str, file: str, sums: Path, data_root: Path | None) -> Path:
    """A published file in the data root, downloaded from `url` unless it is there.

    Args:
        url: its public address, at a pinned commit.
        file: its place in the data root, as the list of checksums names it.
        sums: that list.
        data_root: folder of the real corpora; None for the default one.

    Raises:
        DataError: see `fetch`.
    """
    root = DEFAULT_DATA_ROOT if data_root is None else data_root
    return fetch(url, root / file, checksums(sums)[file])


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
        found = sha256_of(path)
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


def sha256_of(path: Path) -> str:
    """SHA-256 of the content, in hexadecimal digits.

    Raises:
        DataError: the file cannot be read.
    """
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
