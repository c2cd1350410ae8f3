"""What a run keeps on this machine's disk until it is over and the store has all of it.

Each run has a folder, named by its key, in the state folder of its store and grid::

    lock                   held by the process that executes the run: its claim
    record.json            what the store is to be told (experiments.tracking)
    artifacts/             files that the store is to get
    checkpoint.pt          of its training, the newest …
    checkpoint-before.pt   … and the one before, should the newest turn out cut short

A claim is a lock of the operating system on that file. It ends with the process that holds it, whatever ends that, so
that nobody has to wait for it to expire; it holds between all processes that see the same folder.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import torch

from experiments.schema import RUNNING

SQLITE = "sqlite:///"
LOCK, RECORD, ARTIFACTS = "lock", "record.json", "artifacts"
CHECKPOINT, CHECKPOINT_BEFORE = "checkpoint.pt", "checkpoint-before.pt"


def state_folder(tracking_uri: str) -> Path:
    """Beside the file of a SQLite store; for any other in the user's own state folder (XDG_STATE_HOME)."""
    if tracking_uri.startswith(SQLITE):
        return Path(tracking_uri.removeprefix(SQLITE) + ".state").resolve()
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "lvt" / hashlib.sha256(tracking_uri.encode()).hexdigest()[:12]


class UnreadableError(Exception):
    """There are checkpoints, but none can be read."""


class RunState:
    """The folder of one run, claimed by this process until `release`."""

    def __init__(self, folder: Path, lock: int) -> None:
        self.folder = folder
        self._lock = lock

    @classmethod
    def claim(cls, folder: Path) -> RunState | None:
        """Claims the run whose folder this is; None while another process has it."""
        lock = _lock(folder / LOCK)
        return None if lock is None else cls(folder, lock)

    def release(self) -> None:
        """Gives the claim back; the folder stays, so that the run can be resumed."""
        os.close(self._lock)

    def discard(self) -> None:
        """Gives the claim back and removes the folder: the run is over and the store has all of it."""
        self.forget()
        (self.folder / LOCK).unlink()  # while it is held: see _lock
        os.close(self._lock)
        with suppress(OSError):  # another process may just be claiming it anew
            self.folder.rmdir()

    def forget(self) -> None:
        """Removes all but the claim, for a new beginning; the record last, so that a folder without one is rubbish."""
        for path in sorted(self.folder.iterdir(), key=lambda path: path.name == RECORD):
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name != LOCK:
                path.unlink()

    def read_record(self) -> dict[str, Any] | None:
        """What `write_record` wrote last; None where there is nothing."""
        return read_record(self.folder)

    def write_record(self, record: Mapping[str, Any]) -> None:
        """Replaces the record as a whole.

        Raises:
            OSError: it cannot be written; the one before is still there.
        """
        write_whole(self.folder / RECORD, lambda file: file.write(json.dumps(record).encode()))

    def artifact(self, name: str) -> Path:
        """Where to put an artifact that the store is to get."""
        path = self.folder / ARTIFACTS / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def save_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Keeps a checkpoint, and the one before it.

        Args:
            checkpoint: tensors, numbers, texts, and lists, tuples and dictionaries of them.

        Raises:
            OSError: it cannot be written; those before are still there.
        """
        newest = self.folder / CHECKPOINT

        def keep_the_one_before() -> None:
            if newest.exists():
                os.replace(newest, self.folder / CHECKPOINT_BEFORE)

        write_whole(newest, lambda file: torch.save(dict(checkpoint), file), before=keep_the_one_before)

    def load_checkpoint(self) -> dict[str, Any] | None:
        """The newest checkpoint that can be read, tensors on the CPU; None where there is none.

        Raises:
            UnreadableError: there are some, all broken.
        """
        broken = None
        for name in (CHECKPOINT, CHECKPOINT_BEFORE):
            try:
                return torch.load(self.folder / name, map_location="cpu", weights_only=True)
            except FileNotFoundError:
                continue
            except Exception as error:  # whatever torch's archive, its unpickler or the system find
                broken = error
        if broken is not None:
            raise UnreadableError(str(broken)) from broken
        return None


def read_record(folder: Path) -> dict[str, Any] | None:
    """The record in a run's folder, claimed or not; None where there is none."""
    try:
        return json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError):
        return None


def is_claimed(folder: Path) -> bool:
    """Whether a process executes the run of this folder right now."""
    try:
        file = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(file)
    return False


def left_to_send(states: Path) -> list[Path]:
    """The folders of a grid's runs that are over, but of which the store has not got everything; rubbish is removed."""
    left = []
    for folder in sorted(states.glob("*")) if states.is_dir() else []:
        record = read_record(folder)
        if record is not None and record["status"] != RUNNING and not is_claimed(folder):
            left.append(folder)
        elif record is None and not is_claimed(folder):
            with suppress(OSError):  # a folder without a lock, on a disk that takes no more
                if (state := RunState.claim(folder)) is not None:
                    state.discard() if state.read_record() is None else state.release()
    return left


@contextmanager
def exclusively(path: Path, patience: float = 120.0) -> Iterator[None]:
    """Waits until no other process is at what this lock file stands for, `patience` seconds at most.

    Raises:
        OSError: the file cannot be made, or another process is there all that time.
    """
    deadline = time.monotonic() + patience
    while (lock := _lock(path)) is None:
        if time.monotonic() >= deadline:
            raise TimeoutError(f"another process has held {path} for {patience:g} s; if it is stopped, end it")
        time.sleep(0.05)
    try:
        yield
    finally:
        os.close(lock)


def write_whole(path: Path, write: Callable[[IO[bytes]], object], before: Callable[[], None] | None = None) -> None:
    """Writes a file that is either there as a whole or, as it was before, not at all.

    Args:
        path: of the file.
        write: writes the content.
        before: called when the new content is safe, before it takes its name.

    Raises:
        OSError: it cannot be written.
    """
    new = path.with_name(path.name + ".new")
    try:
        with open(new, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
    except BaseException as error:
        new.unlink(missing_ok=True)
        if isinstance(error, RuntimeError):  # how torch reports that its file could not be written
            raise OSError(str(error)) from error
        raise
    if before is not None:
        before()
    os.replace(new, path)


def _lock(path: Path) -> int | None:
    """A descriptor of the locked file, which whoever lets go of it may remove; None where another process has it."""
    while True:
        with suppress(FileExistsError):  # not exist_ok, which looks again and fails if the folder is gone by then
            path.parent.mkdir(parents=True)
        try:
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        except FileNotFoundError:  # its folder was removed since
            continue
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(file), os.stat(path)):
                return file
        except BlockingIOError:
            os.close(file)
            return None
        except FileNotFoundError:
            pass
        os.close(file)  # what was locked is not the file any more that has this name
