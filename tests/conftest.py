"""Fixtures that several test files share."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before anything imports mlflow

import pandas as pd
import pytest
import tracked_runs
from hypothesis import settings

from analysis import runs

settings.register_profile("suite", deadline=None)  # how long an example takes is a matter of what else runs there
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _small_numbers() -> Iterator[None]:
    """What a test does in this process as a worker would, taking tiny numbers as zero, is undone for the next."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


@pytest.fixture(autouse=True)
def _as_a_worker(request: pytest.FixtureRequest) -> None:
    """What is timed, or tested on a GPU, is so in a process like those that compute runs.

    It keeps memory that was freed, without which a time hangs on what was timed before; its float32 is float32.
    """
    if request.path.parent.name == "benchmarks" or request.node.get_closest_marker("gpu"):
        from experiments.environment import prepare_process

        prepare_process()


@pytest.fixture(scope="session")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of the store that tracked_runs builds."""
    return tracked_runs.build(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def known(tracked: str) -> pd.DataFrame:
    """The table of the runs of its first grid; tests that change it work on a copy."""
    return runs.load(tracked, [tracked_runs.GRID])
