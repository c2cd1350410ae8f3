"""The state of the code that a run is tagged with."""

from __future__ import annotations

import subprocess
from pathlib import Path

from experiments.environment import git_state


def test_what_runs_depend_on_decides_whether_the_code_has_changes(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        done = subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def state() -> tuple[str, bool] | None:
        git_state.cache_clear()
        return git_state(tmp_path)

    assert state() is None
    (tmp_path / "experiments").mkdir()
    for name in ("lvt.py", "experiments/run.py", "README.md"):
        (tmp_path / name).write_text("1\n")
    git("init")
    git("add", ".")
    git("commit", "-m", "first")
    commit = git("rev-parse", "HEAD")
    assert state() == (commit, False)
    (tmp_path / "run.log").write_text("not of the code\n")
    (tmp_path / "README.md").write_text("2\n")
    assert state() == (commit, False)
    (tmp_path / "experiments" / "new.py").write_text("1\n")
    assert state() == (commit, True)
    git("add", ".")
    git("commit", "-m", "second")
    assert state() == (git("rev-parse", "HEAD"), False)
    (tmp_path / "lvt.py").write_text("2\n")
    assert state() == (git("rev-parse", "HEAD"), True)
    git_state.cache_clear()
