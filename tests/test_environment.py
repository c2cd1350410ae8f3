"""What a process is made before it executes runs, and the state of the code that a run is tagged with."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.environment import git_state, prepare_process, rounded, take_gpu

PREPARED = """
import torch
from experiments.environment import flushes_denormals, prepare_process
before = torch.backends.cudnn.rnn.fp32_precision
prepare_process()
print(torch.get_num_threads(), flushes_denormals(), before, torch.backends.cudnn.rnn.fp32_precision)
print(torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cuda.flash_sdp_enabled())
print(torch.backends.cuda.matmul.allow_tf32)
"""


def test_a_process_is_prepared() -> None:
    """On a GPU nn.LSTM would compute in TF32 by default, and attention be planned anew.

    NVIDIA's containers set a variable that has all other products in TF32, too.
    """
    variables = os.environ | {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    done = subprocess.run([sys.executable, "-c", PREPARED], capture_output=True, text=True, check=True, env=variables)
    assert done.stdout.split() == ["1", "True", "tf32", "none", "False", "True", "False"]


FREED = """
import resource, sys, torch
from experiments.environment import keep_freed_memory, prepare_process
prepare_process()
if sys.argv[1] == "given back":
    keep_freed_memory(False)
def fill_and_free():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    held = [torch.ones(512, 1024) for _ in range(20)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(*(fill_and_free() for _ in range(10)))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's malloc")
def test_memory_that_was_freed_is_kept() -> None:
    """20 blocks of 2 MiB, 512 pages each: where they are given back, pages are found anew each time.

    What glibc does by itself would be no comparison: whether it gives them back hangs on what lies behind them.
    """

    def faults(how: str) -> list[int]:
        done = subprocess.run([sys.executable, "-c", FREED, how], capture_output=True, text=True, check=True)
        return [int(number) for number in done.stdout.split()]

    kept, given_back = faults("kept"), faults("given back")
    assert sum(kept[5:]) < 512
    assert min(given_back) > 5000


def test_products_are_rounded_where_they_may_be_and_afterwards_as_before() -> None:
    """Those of nn.LSTM, which cuDNN makes, and those of its steps, which cuBLAS makes."""

    def allowed() -> tuple[bool, bool]:
        return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32

    before = allowed()
    with rounded(products=False):
        assert allowed() == (False, False)
        with rounded(products=True):
            assert allowed() == (True, True)
        assert allowed() == (False, False)
    assert allowed() == before


def test_processes_share_the_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    for number in range(5):
        take_gpu(number)
    assert taken == [0, 1, 0, 1, 0]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_an_lstm_in_float32_is_as_exact_as_on_a_processor() -> None:
    prepare_process()
    torch.manual_seed(0)
    lstm, x = nn.LSTM(256, 256), torch.randn(64, 8, 256)
    here, there = lstm(x)[0], lstm.to("cuda")(x.to("cuda"))[0].cpu()
    assert (there - here).abs().max() < 1e-5  # with TF32 it is some 1e-4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_a_step_of_an_lstm_is_in_float32_or_rounded_as_its_pass_is() -> None:
    prepare_process()
    torch.manual_seed(0)
    matrix = torch.randn(256, 256, device="cuda")
    exact = matrix.double() @ matrix.double()
    for products, least, most in ((False, 0.0, 1e-3), (True, 1e-3, 1.0)):
        with rounded(products):
            assert least <= (matrix @ matrix - exact).abs().max().item() < most


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
    commit = git("rev-parse", "HEAD")
    for name in ("lvt.py", "models/lstm.py", "experiments/run.py", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("2\n")
        assert state() == (commit, True), name
        git("add", name)
        git("commit", "-m", name)
        commit = git("rev-parse", "HEAD")
        assert state() == (commit, False)
    for name in ("analysis/report.py", "tests/test_run.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1\n")
    assert state() == (commit, False)
    git_state.cache_clear()
