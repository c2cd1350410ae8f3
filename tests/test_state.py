"""What is kept on disk of a running run: claims, records, checkpoints, and what a full disk or a broken file does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import torch

from experiments.state import (
    CHECKPOINT,
    CHECKPOINT_BEFORE,
    RECORD,
    RunState,
    UnreadableError,
    exclusively,
    is_claimed,
    state_folder,
    write_whole,
)

_context = multiprocessing.get_context("fork")


def claimed(folder: Path) -> RunState:
    state = RunState.claim(folder)
    assert state is not None
    return state


def test_a_run_is_claimed_once(tmp_path: Path) -> None:
    folder = tmp_path / "key"
    assert not is_claimed(folder)
    first = claimed(folder)
    assert RunState.claim(folder) is None
    assert is_claimed(folder)
    first.release()
    assert not is_claimed(folder)
    second = claimed(folder)
    second.discard()
    assert not folder.exists()
    claimed(folder).release()


def hold(folder: Path, ready: Barrier) -> None:
    claimed(folder)
    ready.wait()
    signal.pause()


def test_a_claim_ends_with_its_process(tmp_path: Path) -> None:
    ready = _context.Barrier(2)
    process = _context.Process(target=hold, args=(tmp_path / "key", ready))
    process.start()
    ready.wait()
    assert RunState.claim(tmp_path / "key") is None
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    claimed(tmp_path / "key").release()


def claim_and_discard(folder: Path, log: Path, ready: Barrier) -> None:
    ready.wait()
    for _ in range(300):
        state = RunState.claim(folder)
        if state is not None:
            with open(log, "a") as file:
                file.write("in\n")
                file.flush()
                file.write("out\n")
            state.discard()


def test_claims_and_discards_of_several_processes_never_overlap(tmp_path: Path) -> None:
    """Also while others remove the folder that one is about to lock."""
    log, ready = tmp_path / "log", _context.Barrier(4)
    processes = [_context.Process(target=claim_and_discard, args=(tmp_path / "key", log, ready)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    lines = log.read_text().splitlines()
    assert lines == ["in", "out"] * (len(lines) // 2)
    assert lines


def enter(path: Path, log: Path) -> None:
    for _ in range(50):
        with exclusively(path), open(log, "a") as file:
            file.write("in\n")
            file.flush()
            file.write("out\n")


def test_what_is_exclusive_is_waited_for(tmp_path: Path) -> None:
    processes = [_context.Process(target=enter, args=(tmp_path / "a" / "lock", tmp_path / "log")) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert (tmp_path / "log").read_text().splitlines() == ["in", "out"] * 150


def test_who_is_stopped_is_not_waited_for_forever(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    code = f"import fcntl, time; f = open({str(lock)!r}, 'w'); fcntl.flock(f, fcntl.LOCK_EX); print(1, flush=True); "
    holder = subprocess.Popen([sys.executable, "-c", code + "time.sleep(600)"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    holder.send_signal(signal.SIGSTOP)
    try:
        with pytest.raises(TimeoutError, match=r"another process has held .*lock for 0\.2 s"), exclusively(lock, 0.2):
            pass
    finally:
        holder.kill()
        holder.wait()
    with exclusively(lock, 0.2):
        pass


def test_states_lie_beside_a_file_and_elsewhere_for_a_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert state_folder(f"sqlite:///{tmp_path}/m.db") == tmp_path / "m.db.state"
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    a, b = state_folder("http://127.0.0.1:5000"), state_folder("http://127.0.0.1:5001")
    assert a.parent == b.parent == tmp_path / "lvt"
    assert a != b


def test_checkpoints_fall_back_to_the_one_before(tmp_path: Path) -> None:
    state = claimed(tmp_path / "key")
    assert state.load_checkpoint() is None
    for step in range(3):
        state.save_checkpoint({"step": step, "weights": {"w": torch.full((1000,), float(step))}})
    kept = state.load_checkpoint()
    assert kept is not None
    assert kept["step"] == 2
    newest = state.folder / CHECKPOINT
    whole = newest.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        newest.write_bytes(whole[:length])
        kept = state.load_checkpoint()
        assert kept is not None
        assert kept["step"] == 1
        assert torch.equal(kept["weights"]["w"], torch.ones(1000))
    newest.unlink()  # killed between the two renamings
    kept = state.load_checkpoint()
    assert kept is not None
    assert kept["step"] == 1
    (state.folder / CHECKPOINT_BEFORE).write_bytes(b"no checkpoint")
    with pytest.raises(UnreadableError):
        state.load_checkpoint()
    state.release()


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("exit 1",)


def test_a_checkpoint_is_data_and_never_code(tmp_path: Path) -> None:
    state = claimed(tmp_path / "key")
    torch.save({"step": Evil()}, state.folder / CHECKPOINT)
    with pytest.raises(UnreadableError, match="weights_only"):
        state.load_checkpoint()
    state.release()


def test_a_full_disk_leaves_what_was_there(tmp_path: Path) -> None:
    """The file under its temporary name lies on a device that is always full."""
    state = claimed(tmp_path / "key")
    state.save_checkpoint({"step": 1})
    state.write_record({"status": "RUNNING"})
    for name in (CHECKPOINT, RECORD):
        (state.folder / (name + ".new")).symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"(?i)no space left|write failed|unexpected pos"):
        state.save_checkpoint({"step": 2, "weights": torch.zeros(100_000)})
    with pytest.raises(OSError, match="No space left"):
        state.write_record({"status": "FINISHED"})
    assert state.load_checkpoint() == {"step": 1}
    assert state.read_record() == {"status": "RUNNING"}
    state.save_checkpoint({"step": 2})  # there is space again
    assert state.load_checkpoint() == {"step": 2}
    state.release()


def test_a_file_is_written_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, lambda file: file.write(b"old"))

    def killed(file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, killed)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]
