"""A team's tracking server on this machine: MLflow behind HTTP, its runs in a file or in PostgreSQL."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

USER = "lvt"


def free_port() -> int:
    """One that nobody on this machine listens to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class TeamServer:
    """`mlflow server` on a backend, its artifacts in `folder`; it may go away and come back."""

    def __init__(self, folder: Path, backend: str | None = None) -> None:
        self._folder, self._backend = folder, backend or f"sqlite:///{folder / 'server.db'}"
        self._port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        """What a user gives as the tracking URI."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Returns when it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", self._backend, "--workers", "2"]
        command += ["--artifacts-destination", str(self._folder / "artifacts"), "--port", str(self._port)]
        command += ["--allowed-hosts", f"127.0.0.1:{self._port}"]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with open(self._folder / "server.log", "a") as output:
            self._process = subprocess.Popen(
                command, env=os.environ | quiet, start_new_session=True, stdout=output, stderr=output
            )
        for _ in range(240):
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                    return
            except OSError:
                assert self._process.poll() is None, (self._folder / "server.log").read_text()
                time.sleep(0.5)
        pytest.fail("the server did not answer within two minutes")

    def kill(self) -> None:
        """It and its workers, at once."""
        assert self._process is not None
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(30)
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self.kill()


@contextmanager
def postgresql() -> Iterator[str]:
    """The address of an empty database in a PostgreSQL of its own, on loopback; skips the test where there is none."""
    programs = _programs()
    if programs is None:
        pytest.skip("needs PostgreSQL (Debian's package postgresql)")
    pytest.importorskip("psycopg", reason="needs psycopg (the extra `server`)")
    # It refuses to be run by root, who may run it as the user of its package.
    account: Any = {"user": "postgres", "group": "postgres", "extra_groups": []} if os.getuid() == 0 else {}
    port, password = free_port(), secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder:
        if account:
            shutil.chown(folder, "postgres", "postgres")
        secret, data = Path(folder) / "password", Path(folder) / "data"
        secret.write_text(password)
        secret.chmod(0o644)  # in a folder that is the server's own
        initialise: list[str | Path] = [
            programs / "initdb",
            "-D",
            data,
            "-U",
            USER,
            "-A",
            "scram-sha-256",
            "--pwfile",
            secret,
            "-E",
            "UTF8",
        ]
        subprocess.run([*initialise, "--locale=C", "--no-sync"], check=True, capture_output=True, cwd=folder, **account)
        serve: list[str | Path] = [
            programs / "postgres",
            "-D",
            data,
            "-h",
            "127.0.0.1",
            "-p",
            str(port),
            "-k",
            folder,
            "-F",
        ]
        with open(Path(folder) / "log", "wb") as log:
            server = subprocess.Popen(serve, cwd=folder, stdout=log, stderr=log, **account)
        try:
            ready = [str(programs / "pg_isready"), "-h", "127.0.0.1", "-p", str(port), "-t", "5"]
            for _ in range(240):
                if subprocess.run(ready, capture_output=True).returncode == 0:
                    break
                assert server.poll() is None, (Path(folder) / "log").read_text()
                time.sleep(0.5)
            yield f"postgresql+psycopg://{USER}:{password}@127.0.0.1:{port}/postgres"
        finally:
            server.send_signal(signal.SIGQUIT)  # at once
            server.wait(60)


def _programs() -> Path | None:
    """The folder of PostgreSQL's programs, the newest where there are several."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    found = debian[-1] if debian else shutil.which("initdb")
    return Path(found).resolve().parent if found else None
