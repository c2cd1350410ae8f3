"""A grid of twelve tiny runs that is killed at random moments and run again until it is finished.

`python tests/faults.py KILLS` does so KILLS times and prints the counts; tests/test_faults.py does it a few times.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from mlflow import MlflowClient
from mlflow.entities import Run as StoredRun

from experiments import schema
from experiments.state import is_claimed, state_folder

LVT = Path(sys.executable).parent / "lvt"
GRID = """
description: Twelve tiny runs, for faults.
fixed:
  kind: learn
  budget: {parameters: 5_000}
  training: {steps: 300, batch_size: 16, evaluate_every: 50, learning_rate: 4e-3}
  task: {name: running_parity, max_length: 6, longer_lengths: [9]}
compare:
  model: [{name: lstm, dropout: 0.1}, {name: transformer, dropout: 0.1}]
  seed: [0, 1, 2, 3, 4, 5]
"""
VICTIMS = ("worker", "parent", "all")
Metrics = dict[str, dict[str, float]]  # key → name → value; what is measured in seconds is left out


@dataclass
class Campaign:
    """A store in a folder, and what happened to the grid on it."""

    folder: Path
    settings: tuple[str, ...] = ()
    kills: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.uri = f"sqlite:///{self.folder / 'mlflow.db'}"
        (self.folder / "g.yaml").write_text(GRID, encoding="utf-8")

    def start(self) -> subprocess.Popen[str]:
        """`lvt run` in a process group of its own; its output goes to a file."""
        command = [str(LVT), "run", "g.yaml", "--tracking-uri", self.uri, "--workers", "2", "--checkpoint-every", "0.3"]
        command += ["--retry-failed", *self.settings]
        with open(self.folder / "output", "a", encoding="utf-8") as output:
            return subprocess.Popen(
                command, cwd=self.folder, stdout=output, stderr=output, text=True, start_new_session=True
            )

    def finish(self) -> None:
        """Runs the grid to its end, undisturbed."""
        assert self.start().wait(timeout=600) == 0, self.output()

    def disturb(self, victim: str, begun: int, delay: float) -> None:
        """Runs the grid and kills the victim when so many runs were begun, and a delay later.

        A parent that survives is awaited; a grid that ends before is not disturbed.
        """
        before = self.output().count("started  ")
        process = self.start()
        while process.poll() is None and self.output().count("started  ") < before + begun:
            time.sleep(0.05)
        time.sleep(delay)
        try:
            parent = psutil.Process(process.pid)
            family = [parent, *parent.children(recursive=True)]
            workers = [child for child in family[1:] if "spawn_main" in " ".join(child.cmdline())]
        except psutil.NoSuchProcess:
            family, workers = [], []
        if victim == "worker" and workers:
            _kill(workers[random.Random(delay).randrange(len(workers))])
            self.kills[victim] += 1
        elif process.poll() is None and victim != "worker":
            for one in family if victim == "all" else family[:1]:
                _kill(one)
            self.kills[victim] += 1
        process.wait(timeout=600)
        for one in family[1:]:  # orphans keep what they have, and end
            one.wait(timeout=120)

    def output(self) -> str:
        """What all the processes printed."""
        path = self.folder / "output"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def runs(self) -> list[StoredRun]:
        """All runs of the grid in the store."""
        client = MlflowClient(self.uri)
        experiment = client.get_experiment_by_name("g")
        assert experiment is not None
        return list(client.search_runs([experiment.experiment_id]))

    def verdict(self, truth: Metrics | None) -> Metrics:
        """Metrics of the finished runs.

        Raises:
            AssertionError: a run is missing, there twice, left running or different from `truth`, a point of a learning
                curve is missing or there twice, or something was left on the disk.
        """
        runs = self.runs()
        finished = [run for run in runs if run.info.status == "FINISHED"]
        assert Counter(run.data.tags[schema.KEY] for run in finished).most_common(1)[0][1] == 1
        assert len(finished) == 12
        assert not [run for run in runs if run.info.status == "RUNNING"]
        found = {}
        client = MlflowClient(self.uri)
        for run in finished:
            curve = client.get_metric_history(run.info.run_id, schema.TRAIN_LOSS)
            assert [point.step for point in sorted(curve, key=lambda p: p.step)] == list(range(25, 301, 25))
            points = {f"{schema.TRAIN_LOSS} {point.step}": point.value for point in curve}
            metrics = {name: value for name, value in run.data.metrics.items() if "second" not in name}
            found[run.data.tags[schema.KEY]] = metrics | points
        assert truth is None or found == truth
        states = state_folder(self.uri) / "g"
        assert [path.name for path in states.iterdir() if (path / "record.json").exists()] == []
        assert not any(is_claimed(path) for path in states.iterdir())
        return found


def workers_of(parent: int) -> int:
    """How many workers a process has, those that still import included."""
    count = 0
    for child in psutil.Process(parent).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            count += "spawn_main" in " ".join(child.cmdline())
    return count


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid, signal.SIGKILL)


def main(kills: int) -> None:
    """Prints a line a kill, and the counts at the end."""
    chance = random.Random(0)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        undisturbed = Campaign(_new(folder, "undisturbed"))
        undisturbed.finish()
        truth = undisturbed.verdict(None)
        whole = time.monotonic() - started
        print(f"undisturbed: 12 runs in {whole:.0f} s", flush=True)
        total: Counter[str] = Counter()
        rounds = resumed = 0
        while total.total() < kills:
            campaign = Campaign(_new(folder, f"round{rounds}"))
            for _ in range(chance.randint(3, 8)):
                if campaign.kills.total() + total.total() < kills:
                    campaign.disturb(chance.choice(VICTIMS), chance.randrange(5), chance.uniform(0, 5))
            campaign.finish()
            campaign.verdict(truth)
            total += campaign.kills
            rounds += 1
            resumed += sum(run.info.status == "KILLED" for run in campaign.runs())
            print(f"round {rounds}: kills {dict(campaign.kills)}, {len(campaign.runs())} runs in the store", flush=True)
        print(f"{total.total()} kills ({dict(total)}) in {rounds} grids of 12 runs: every run finished exactly once,")
        print(f"all metrics equal to the undisturbed grid's; {resumed} attempts were begun anew, all others resumed")


def _new(parent: str, name: str) -> Path:
    folder = Path(parent) / name
    folder.mkdir()
    return folder


if __name__ == "__main__":
    main(int(sys.argv[1]))
