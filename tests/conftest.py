"""Fixtures that several test files share."""

from __future__ import annotations

import os

os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before anything imports mlflow

import pandas as pd
import pytest
import tracked_runs

from analysis import runs


@pytest.fixture(scope="session")
def tracked(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Address of the store that tracked_runs builds."""
    return tracked_runs.build(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="session")
def known(tracked: str) -> pd.DataFrame:
    """The table of the runs of its first grid; tests that change it work on a copy."""
    return runs.load(tracked, [tracked_runs.GRID])
