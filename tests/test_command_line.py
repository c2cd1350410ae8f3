"""The command line as a user has it: the grid `smoke` from the first command to the report, and what mistakes get."""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pandas as pd
import pytest
from mlflow import MlflowClient
from typer.testing import CliRunner

from analysis.sources import fetch
from experiments import schema as s
from experiments.campaign import Member
from experiments.console import show_runs
from experiments.tasks import TASKS
from experiments.tasks.synthetic import SyntheticTask
from lvt import app
from models.registry import MODELS

ROOT = Path(__file__).parents[1]
LVT = Path(sys.executable).parent / "lvt"


def lvt(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Runs the command, without a network: an unreachable proxy stands in the way of all but this machine."""
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment |= {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "no_proxy": "127.0.0.1"}
    environment.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.run([LVT, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder, and the address of a store in it that holds the finished grid `smoke`."""
    folder = tmp_path_factory.mktemp("user")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    result = lvt("run", "smoke", "--tracking-uri", uri, "--workers", "2", cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "9 runs, 0 finished before, 9 to do" in result.stdout
    assert "all 9 runs are finished" in result.stdout
    assert result.stdout.count("finished  ") == 9
    return folder, uri


def test_runs_know_what_asked_for_them(store: tuple[Path, str]) -> None:
    client = MlflowClient(store[1])
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    assert {run.data.tags[s.COMMAND] for run in runs} == {"lvt run smoke"}
    asked = Member("own grid.yaml", "small", ("task.language=fre", "compare.seed=[0, 1]")).command
    changes = ["--set", "task.language=fre", "--set", "compare.seed=[0, 1]"]
    assert shlex.split(asked) == ["lvt", "run", "own grid.yaml", "--profile", "small", *changes]


def test_a_second_time_nothing_is_run(store: tuple[Path, str]) -> None:
    folder, uri = store
    result = lvt("run", "smoke", "--tracking-uri", uri, cwd=folder)
    assert result.returncode == 0
    assert "9 runs, 9 finished before, 0 to do" in result.stdout
    assert "started" not in result.stdout


def test_plan_says_what_is_done(store: tuple[Path, str]) -> None:
    folder, uri = store
    done = lvt("plan", "smoke", "--tracking-uri", uri, cwd=folder).stdout
    assert done.count(" finished\n") == 9
    more = lvt(
        "plan", "smoke", "--tracking-uri", uri, "--set", "compare.model=[lstm]", "--set", "seed=1", cwd=folder
    ).stdout
    assert more.count(" to do\n") == 3


@pytest.mark.parametrize("command", ["plan", "run"])
def test_what_is_done_is_said_without_mlflow(command: str, store: tuple[Path, str]) -> None:
    """It would take longer to import, and to open the store, than all the rest."""
    folder, uri = store
    code = "import sys, lvt\ntry: lvt.app()\nfinally: print('imported:', 'mlflow' in sys.modules)"
    words = [sys.executable, "-c", code, command, "smoke", "--tracking-uri", uri]
    result = subprocess.run(
        words, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert ("0 to do on cpu" if command == "run" else " finished\n") in result.stdout
    assert result.stdout.endswith("imported: False\n")


def test_a_plan_for_machines_with_estimates(store: tuple[Path, str]) -> None:
    folder, uri = store
    result = lvt("plan", "smoke", "--tracking-uri", uri, "--json", "--estimate", "--device", "cpu", cwd=folder)
    planned = json.loads(result.stdout)
    assert planned["grid"] == "smoke"
    assert all(run["state"] == "finished" and abs(run["off_budget"]) <= 0.01 for run in planned["runs"])
    for run in planned["runs"]:
        assert (run["seconds"] is None) == (run["kind"] != "learn")
        assert run["seconds"] is None or run["seconds"] > 0


def test_a_line_a_run(capsys: pytest.CaptureFixture[str]) -> None:
    """Columns are as wide as they look (a Korean syllable is two), and a line is never folded."""
    show_runs(["task", "seed", "state"], [["kor 한국", "7", "to do"], ["x" * 300, "12", "failed"]], right=["seed"])
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "task" + " " * 296 + "  seed  state",
        "kor 한국" + " " * 292 + "     7  to do",
        "x" * 300 + "    12  failed",
    ]


def test_plan_writes_nothing(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'none.db'}"
    assert lvt("plan", "smoke", "--tracking-uri", uri, cwd=tmp_path).returncode == 0
    assert list(tmp_path.iterdir()) == []


def test_the_ledger(store: tuple[Path, str]) -> None:
    """Every claim has a line; models that are trained for seconds decide none on accuracy, and that is said."""
    folder, uri = store
    result = lvt("claims", "smoke", "--tracking-uri", uri, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "gradient vanishes with distance" in result.stdout
    records = json.loads(lvt("claims", "smoke", "--json", "--tracking-uri", uri, cwd=folder).stdout)
    verdicts = {record["id"]: record["verdict"] for record in records}
    accuracy = {verdict for claim, verdict in verdicts.items() if claim[0] in "23" or claim in ("4.3", "4.4")}
    assert accuracy <= {"not measured", "reported"}
    measured = {record["id"]: record["effect"] for record in records if record["runs"]}
    assert measured.keys() == {"1.2", "3.2"}
    assert all(effect > 0 for effect in measured.values())
    (equal_cost,) = (record for record in records if record["id"] == "4.3")
    assert any("LSTM is not trained on reverse" in sentence for sentence in equal_cost["left_out"])


def test_the_report(store: tuple[Path, str]) -> None:
    """Its tables hold the numbers of the store, and the models are matched."""
    folder, uri = store
    result = lvt("report", "smoke", "--tracking-uri", uri, cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    written = folder / "reports" / "smoke"
    page = (written / "report.html").read_text(encoding="utf-8")
    table = pd.read_parquet(written / "runs.parquet")
    assert set(table["status"]) == {"FINISHED"}
    assert table["run_id"].nunique() == 9
    errors = table.loc[table["metric"] == "model/match_error", "value"]
    assert len(errors) == 9
    assert (errors.abs() <= 0.01).all()
    for word in ("processing", "dependencies", "attention", "efficiency and scalability"):
        assert word in page
    reverse = table[(table["task"] == "reverse(max_length=6)") & (table["metric"] == "test/token_accuracy")]
    for value in reverse["value"]:
        assert f"{100 * value:.1f}" in page
        assert f"{100 * value:.1f}" in result.stdout
    assert {path.suffix for path in (written / "figures").iterdir()} == {".png", ".svg", ".csv"}


def test_export_and_read_back(store: tuple[Path, str]) -> None:
    folder, uri = store
    result = lvt("export", "smoke", "--out", "results", "--tracking-uri", uri, cwd=folder)
    assert result.returncode == 0, result.stderr
    table = fetch(folder / "results", ["smoke"])
    assert table["run_id"].nunique() == 9
    sweep = table[(table["kind"] == "efficiency") & (table["metric"] == "efficiency/train_step_seconds")]
    assert sorted(sweep["at"].unique()) == [8, 16, 32]
    assert (sweep["value"] > 0).all()
    written = folder / "from results"
    result = lvt("report", "smoke", "--results", "results", "--out", str(written), cwd=folder)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "dashboard" not in result.stdout
    result = lvt("report", "smoke", "--out", "from the store", "--tracking-uri", uri, cwd=folder)
    assert result.stdout.endswith("\ndashboard: lvt dashboard\n")
    for name in ("claims.csv", "comparison.csv", "growth.csv", "models.csv"):
        assert (written / name).read_bytes() == (folder / "from the store" / name).read_bytes()


def test_the_dashboard_serves_this_store(store: tuple[Path, str]) -> None:
    folder, uri = store
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([LVT, "dashboard", "--port", str(port), "--tracking-uri", uri], cwd=folder)
    try:
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/api/2.0/mlflow/experiments/get-by-name?experiment_name=smoke"
        )
        for _ in range(120):
            try:
                with urllib.request.urlopen(request, timeout=5) as answer:
                    assert b'"smoke"' in answer.read()
                break
            except OSError:
                assert server.poll() is None
                time.sleep(0.5)
        else:
            pytest.fail("the dashboard did not answer within a minute")
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=10) as page:
            assert b"MLflow" in page.read()
    finally:
        server.terminate()
        server.wait(timeout=30)


def test_a_misspelt_key_is_refused_before_anything_happens(tmp_path: Path) -> None:
    grid = tmp_path / "mine.yaml"
    text = (ROOT / "experiments" / "grids" / "smoke.yaml").read_text(encoding="utf-8")
    grid.write_text(text.replace("batch_size", "batchsize"), encoding="utf-8")
    result = lvt("run", str(grid), "--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}", cwd=tmp_path)
    assert result.returncode == 2
    assert f"{grid}: parts[0].fixed.training.batchsize: unknown key; did you mean batch_size?" in result.stderr
    assert "Traceback" not in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "smok"), "no grid named 'smok'; did you mean smoke?"),
        (("run", "smoke", "--set", "budget.parameters=10"), "the smallest model takes"),
        (("run", "smoke", "--set", "training.step=1"), "--set training.step: unknown key; did you mean steps?"),
        (("run", "g2p", "--data", "/nowhere"), "--data"),
        (("tasks", "revers"), "no task named 'revers'; did you mean reverse?"),
        (("models", "--budget", "parameters=30_000"), "--budget and --task, both"),
        (("models", "smoke", "--task", "reverse"), "a grid states its budgets and tasks itself"),
        (("models", "--task", "reverse", "--budget", "parameter=5"), "unknown key; did you mean parameters?"),
        (("models", "--task", "reverse", "--budget", "parameters"), "'parameters' is not of the form NAME=VALUE"),
        (("models", "--task", "reverse", "--budget", "parameters=[1"), "--budget: 'parameters=[1': not YAML"),
        (("models", "--task", "revers", "--budget", "parameters=30_000"), "task.name: found 'revers'; did you mean"),
        (("report", "smoke"), "no store yet"),
        (("export", "smoke", "--out", "results"), "no store yet"),
        (("report", "--results", "results"), "results holds no exported tables"),
        (("report", "--results", "results", "--publish"), "--results reads none"),
        (("dashboard",), "no store yet"),
        (("run",), "Missing argument"),
        (("run", "smoke", "--device", "tpu"), "Invalid value"),
    ],
)
def test_mistakes_end_with_code_2_and_a_hint(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    store = ("--tracking-uri", f"sqlite:///{tmp_path / 'mlflow.db'}") if arguments[0] not in ("tasks", "models") else ()
    result = lvt(*arguments, *store, cwd=tmp_path)
    assert result.returncode == 2, result.stdout + result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_failed_run_ends_with_code_1_and_a_table(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    grid = tmp_path / "bad.yaml"
    grid.write_text(
        "description: Diverges.\n"
        "fixed:\n"
        "  {kind: learn, seed: 0, model: lstm, budget: {parameters: 5_000}, task: {name: running_parity},\n"
        "   training: {steps: 50, batch_size: 8, evaluate_every: 50, learning_rate: 1e30, clip: 1e30}}\n",
        encoding="utf-8",
    )
    arguments = ["run", str(grid), "--tracking-uri", uri]
    result = lvt(*arguments, cwd=tmp_path)
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Diverged: the loss became" in result.stdout
    again = lvt(*arguments, cwd=tmp_path)
    assert again.returncode == 1
    assert "1 failed before (again with --retry-failed)" in again.stdout
    assert "started" not in again.stdout
    retried = lvt(*arguments, "--retry-failed", cwd=tmp_path)
    assert "started" in retried.stdout


@pytest.mark.parametrize("name", TASKS)
def test_every_task_is_shown_in_full(name: str) -> None:
    """In this process: a command for each would take a second and more."""
    result = CliRunner().invoke(app, ["tasks", name])
    assert result.exit_code == 0, result.output
    shown = " ".join(result.output.split())
    task = TASKS[name]
    example = task.model_construct().example()
    documented, drawn = result.output.split("one example")
    if issubclass(task, SyntheticTask):
        assert re.search(r"^ +source .*\n( +fed .*\n)? +target ", documented, re.MULTILINE)
    for words in example:
        assert " ".join(words) in " ".join(drawn.split())
    for option in task.model_fields.keys() - {"name"}:
        assert re.search(rf"^{option} ", drawn, re.MULTILINE)
    assert f"headline metric: {task.model_construct().headline}" in shown
    assert f"sliced by: {', '.join(task.axes)}" in shown
    assert f"published: {task.reference}" in shown
    chance = task.model_construct().chance
    assert ("chance level: not known in closed form" if chance is None else f"{100 * chance:.4g} % of tokens") in shown
    for kind, axis in task.measures.items():
        assert re.search(rf"measures: .*{kind}( \(by {axis}\))?", shown)
    if task.language_class is not None:
        assert f"class of language: {task.language_class.replace('_', '-')}" in shown


def test_tasks_and_models(tmp_path: Path) -> None:
    listed = lvt("tasks", cwd=tmp_path).stdout
    for name in ("associative_recall", "reverse", "running_parity", "addition", "scan", "g2p"):
        assert name in listed
    shown = lvt("tasks", "reverse", cwd=tmp_path).stdout
    assert "d b a c <eos>" in shown
    assert "max_length" in shown
    models = lvt("models", "smoke", cwd=tmp_path).stdout
    for name in ("lstm", "lstm_attention", "transformer"):
        assert name in models
    listed = lvt("models", cwd=tmp_path).stdout
    for name in ("transformer_lstm", "input_feeding", "none, additive, dot, general, multi_head"):
        assert name in listed


def test_all_models_matched_to_a_budget(tmp_path: Path) -> None:
    """The table's parameters are within 1 % of the budget, and its parts add up to them."""
    result = lvt("models", "--task", "reverse,max_length=20", "--budget", "parameters=50_000", cwd=tmp_path)
    assert "reverse(max_length=20), 50,000 parameters" in result.stdout
    rows = {line.split()[0]: line.split() for line in result.stdout.splitlines()[2:]}
    assert set(rows) == set(MODELS)
    for cells in rows.values():
        numbers = [int(cell.replace(",", "")) for cell in cells[1:] if cell.replace(",", "").isdigit()]
        *_, embeddings, encoder, attention, decoder, output, parameters, _, _, length = numbers
        assert embeddings + encoder + attention + decoder + output == parameters
        assert abs(parameters / 50_000 - 1) <= 0.01
        assert length == 34  # the longest test has 32 symbols and the end of sequence; one is to spare


def test_what_cannot_be_matched_is_said(tmp_path: Path) -> None:
    result = lvt("models", "--task", "reverse", "--budget", f"parameters={2**63}", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "the model is too large: Storage size calculation overflowed" in result.stdout
    result = lvt("models", "--task", "reverse", "--budget", "state_bytes=1000,length=10", cwd=tmp_path)
    assert result.returncode == 0
    assert "cannot be matched" in result.stdout
    assert "transformer" in result.stdout
    assert "more than the budget of 1,000" in result.stdout
