"""Profiles: which part an operation is counted for, on real steps of tiny models and on events made by hand."""

from __future__ import annotations

import gzip
import itertools
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.artifacts import load_dict
from torch import nn
from torch.autograd import DeviceType
from torch.autograd.profiler import record_function
from torch.autograd.profiler_util import FunctionEvent

from analysis import runs as runs_table
from experiments import config, profiling, schema
from experiments.attempts import Outcome, Place
from experiments.config import Profile, run_key
from experiments.grid import load_grid
from experiments.inputs import load_task
from experiments.run import execute
from experiments.stores import open_store
from experiments.tasks import TASKS
from models.config import Dimensions, LSTMConfig, ModelConfig, TransformerConfig
from models.lstm import GateWeights
from models.registry import build

CPU = torch.device("cpu")
LSTM = LSTMConfig(hidden_size=16, embedding_size=16)
TRANSFORMER = TransformerConfig(hidden_size=16, feedforward_size=32)
ALWAYS = {
    *(profiling.EMBEDDING, profiling.OUTPUT, profiling.LOSS, profiling.OPTIMISER, profiling.DATA, profiling.LOGGING),
    *(profiling.OTHER, profiling.BETWEEN),
}


@pytest.mark.parametrize(
    ("config", "parts"),
    [
        (LSTM, {profiling.RECURRENCE}),
        (replace(LSTM, attention="general"), {profiling.RECURRENCE, profiling.ATTENTION}),
        (TRANSFORMER, {profiling.ATTENTION, profiling.FEED_FORWARD, profiling.NORMALISATION}),
    ],
    ids=["lstm", "lstm_attention", "transformer"],
)
def test_a_step_is_taken_apart(
    config: ModelConfig, parts: set[str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The parts add up to the steps, as long as these are in the trace; nothing is said on the terminal."""
    data = load_task(TASKS["reverse"](), None)
    logged: list[int] = []
    found = profiling.profile(
        build(config, data.dimensions),
        data,
        Profile(steps=2, batch_size=4, warmup=1),
        seed=0,
        device=CPU,
        log=lambda loss, step: logged.append(step),
        trace=tmp_path / "trace.json.gz",
    )
    assert set(found.seconds) == set(profiling.PARTS)
    assert {part for part, seconds in found.seconds.items() if seconds > 0} == ALWAYS | parts
    assert found.launches is None
    assert logged == [0, 1, 2]
    rows = found.rows()
    assert sum(row[2] for row in rows) == pytest.approx(1)
    assert sum(row[1] for row in rows) == pytest.approx(1000 * sum(found.seconds.values()))
    assert rows == sorted(rows, key=lambda row: -row[1])
    assert capfd.readouterr().err == ""
    trace = json.loads(gzip.decompress((tmp_path / "trace.json.gz").read_bytes()))["traceEvents"]
    assert {f"part: {part}" for part in parts} <= {event.get("name") for event in trace}
    steps = [event["dur"] / 1e6 for event in trace if event.get("name") == "part: other"]
    assert len(steps) == 2
    assert sum(found.seconds.values()) == pytest.approx(sum(steps) / 2, rel=0.01)


@pytest.mark.parametrize(
    ("config", "marks"),
    [
        (LSTM, {profiling.RECURRENCE: 2, profiling.EMBEDDING: 2, profiling.OUTPUT: 1}),
        (  # of each side a layer and a sublayer's normalisation, and that of the top
            replace(LSTM, layers=2, norm="pre", attention="general", share_embeddings="output"),
            {profiling.RECURRENCE: 4, profiling.NORMALISATION: 4, profiling.EMBEDDING: 2, profiling.OUTPUT: 2}
            | {profiling.ATTENTION: 3},  # keys of the source, context, and the layer that merges both
        ),
        (  # 2 layers: self-attention 4, keys and values of the source 2, attention to it 2
            replace(TRANSFORMER, layers=2, norm="pre"),
            {profiling.ATTENTION: 8, profiling.FEED_FORWARD: 4, profiling.NORMALISATION: 4 + 6 + 2}
            | {profiling.EMBEDDING: 4, profiling.OUTPUT: 1},  # tokens and positions of each side
        ),
        (
            replace(TRANSFORMER, layers=1, norm="none", positions="rotary"),
            {profiling.ATTENTION: 4, profiling.FEED_FORWARD: 2, profiling.EMBEDDING: 2, profiling.OUTPUT: 1},
        ),
    ],
    ids=["lstm", "lstm_attention", "transformer", "rotary"],
)
def test_each_part_of_a_model_is_marked(config: ModelConfig, marks: dict[str, int]) -> None:
    model = build(config, Dimensions(9, 9, same_symbols=True, max_length=5))
    source = torch.tensor([[3, 4, 5, 6, 7]])
    with profiling._marked(model), torch.profiler.profile() as profiler:
        model(source, source)
    names = Counter(event.name for event in profiler.events() or [])
    assert {part: names[f"part: {part}"] for part in profiling.PARTS if names[f"part: {part}"]} == marks


def test_steps_of_a_decoder_that_is_fed_its_attention_are_recurrence() -> None:
    """As many as the target has positions, beside the encoder's one call, the weights for steps, and what goes in."""
    model = build(replace(LSTM, attention="general", input_feeding=True), Dimensions(9, 9, True, 5))
    source, target = torch.tensor([[3, 4, 5]]), torch.tensor([[3, 4, 5, 6, 7]])
    with profiling._marked(model), torch.profiler.profile() as profiler:
        model(source, target)
    names = Counter(event.name for event in profiler.events() or [])
    assert names["part: recurrence"] == 1 + 1 + 1 + 5
    assert names["part: attention"] == 1 + 2 * 5


def test_afterwards_a_model_is_as_it_was() -> None:
    model = build(replace(LSTM, attention="general", input_feeding=True), Dimensions(9, 9, True, 5))
    project, own = GateWeights.project, [set(vars(module)) for module in model.modules()]
    with profiling._marked(model):
        assert GateWeights.project is not project
        assert [set(vars(module)) for module in model.modules()] != own
    assert GateWeights.project is project
    assert [set(vars(module)) for module in model.modules()] == own


def test_the_layer_that_merges_context_and_state_is_attention() -> None:
    """The only product over twice the hidden size and the only tanh outside of nn.LSTM, forward and backward."""
    model = build(replace(LSTM, attention="dot"), Dimensions(9, 9, same_symbols=True, max_length=5))
    source = torch.tensor([[3, 4, 5, 6, 7], [3, 4, 5, 6, 7]])
    with profiling._marked(model), torch.profiler.profile(record_shapes=True) as profiler:
        model(source, source).sum().backward()
    events = [
        event
        for event in profiler.events() or []
        if (event.name == "aten::mm" and 2 * 16 in itertools.chain(*event.input_shapes))
        or event.name in ("aten::tanh", "aten::tanh_backward")
    ]
    events = [event for event in events if not any("lstm" in one.name for one in profiling._upwards(event))]
    assert len(events) == 3 + 2
    found = profiling.by_part(events)
    assert {part for part, seconds in found.items() if seconds > 0} == {profiling.ATTENTION}


def test_a_backward_operation_belongs_to_its_forward_part() -> None:
    """Two layers, the first in a part: its product comes first of the forward pass, its gradients last of all."""
    inner, outer = nn.Linear(64, 64), nn.Linear(64, 64)
    with torch.profiler.profile() as profiler:
        x = torch.randn(8, 64, requires_grad=True)
        with record_function("part: attention"):
            y = inner(x)
        outer(y).sum().backward()
    events = [event for event in profiler.events() or [] if event.name in ("aten::addmm", "aten::mm")]
    events.sort(key=lambda event: event.time_range.start)
    times = [event.self_cpu_time_total / 1e6 for event in events]
    assert len(times) == 2 + 2 * 2
    found = profiling.by_part(events)
    assert found[profiling.ATTENTION] == pytest.approx(times[0] + times[4] + times[5])
    assert found[profiling.OTHER] == pytest.approx(times[1] + times[2] + times[3])


def test_what_padding_takes_is_of_the_recurrence() -> None:
    """Flags beside inputs and weights, the states at last tokens, and their gradients."""
    model = build(LSTM, Dimensions(9, 9, same_symbols=True, max_length=5))
    source = torch.tensor([[3, 4, 5, 6, 7], [3, 4, 0, 0, 0]])
    with profiling._marked(model), torch.profiler.profile() as profiler:
        model(source, source, torch.tensor([5, 2])).sum().backward()
    names = (
        "aten::cat",
        "aten::gather",
        "aten::gather_backward",
        "autograd::engine::evaluate_function: GatherBackward0",
    )
    events = [event for event in profiler.events() or [] if event.name in names]
    assert {"aten::cat", "aten::gather"} < {event.name for event in events}
    found = profiling.by_part(events)
    assert {part for part, seconds in found.items() if seconds > 0} == {profiling.RECURRENCE}


def test_only_the_marks_of_the_profiler_are_kept_back(capfd: pytest.CaptureFixture[str]) -> None:
    with profiling.without_usdt():
        os.write(2, b"USDT:2026-11-27 SyncActivityProfilerHandler.cpp:52] profiler_start\nERROR: what is real\n")
    os.write(2, b"later\n")
    assert capfd.readouterr().err == "ERROR: what is real\nlater\n"


def test_with_other_parts_a_profile_is_another_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that trains is the same."""
    runs = [load_grid(grid).runs[0] for grid in ("profile", "real")]
    before = [run_key(run, "cpu") for run in runs]
    monkeypatch.setattr(config, "STEP_PARTS", ("attention", "other"))
    assert [run_key(run, "cpu") == key for run, key in zip(runs, before, strict=True)] == [False, True]


def test_what_is_tracked_is_what_the_table_says(tmp_path: Path) -> None:
    """Metric by metric, in the store and in the table that `analysis` reads from it."""
    grid = tmp_path / "g.yaml"
    grid.write_text(
        "description: For tests.\n"
        "fixed: {kind: profile, task: {name: reverse}, budget: {parameters: 5_000}, seed: 0}\n"
        "compare: {model: [transformer]}\n",
        encoding="utf-8",
    )
    (run,) = load_grid(str(grid), ["fixed.profile={steps: 1, warmup: 1, batch_size: 4}"]).runs
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    store = open_store(uri, "g", "For tests.", [schema.PROFILE])
    outcome = execute((run,), Place(store, "g", "cpu", None), lambda run, status: None)
    assert outcome == {run: Outcome("finished")}
    (kept,) = MlflowClient(uri).search_runs([store.experiment_id], f"tags.`{schema.KEY}` = '{run_key(run, 'cpu')}'")
    table = load_dict(f"{kept.info.artifact_uri}/{schema.PROFILE_ARTIFACT}")
    rows = {part: (milliseconds, share) for part, milliseconds, share in table["data"]}
    assert set(rows) == set(profiling.PARTS)
    step = sum(milliseconds for milliseconds, _ in rows.values())
    assert step > 0
    for part, (milliseconds, share) in rows.items():
        assert 1000 * kept.data.metrics[schema.PART_SECONDS[part]] == pytest.approx(milliseconds)
        assert share == pytest.approx(milliseconds / step)
    found = runs_table.load(uri, ["g"]).set_index("metric")["value"]
    assert {part: found[name] for part, name in schema.PART_SECONDS.items() if name in found} == pytest.approx(
        {part: milliseconds / 1000 for part, (milliseconds, _) in rows.items()}
    )


def event(name: str, end: int, device_type: DeviceType = DeviceType.CPU, **kernels: float) -> FunctionEvent:
    """As a profile on CUDA has it."""
    made = FunctionEvent(0, name, 0, 0, end, device_type=device_type, use_device="cuda")
    for kernel, microseconds in kernels.items():
        made.append_kernel(kernel.replace("_", " "), 0, microseconds)
    return made


def test_a_device_that_waits_is_idle() -> None:
    """Two steps of 100 microseconds each, with kernels of 60 in all, by three launches."""
    events = [event("aten::mm", 50, gemm=40), event("aten::add", 20, add=20)]
    events += [event("cudaLaunchKernel", 5), event("cuLaunchKernel", 5), event("cudaLaunchKernel", 5)]
    found = profiling.summed_up(events, 2, 200e-6, on_device=True)
    assert found.seconds[profiling.IDLE] == pytest.approx(70e-6)
    assert sum(found.seconds.values()) == pytest.approx(100e-6)
    assert found.launches == 1.5
    assert {part for part, _, share in found.rows() if share > 0} == {profiling.OTHER, profiling.IDLE}
    busy = profiling.summed_up(events, 2, 50e-6, on_device=True)  # kernels side by side
    assert busy.seconds[profiling.IDLE] == 0
    here = profiling.summed_up(events, 2, 200e-6, on_device=False)
    assert profiling.IDLE not in here.seconds
    assert here.launches is None


def test_a_device_of_which_nothing_was_seen_is_not_idle() -> None:
    """As where CUPTI is closed to the user: there are operations, marks, and nothing of what the device did."""
    events = [event("aten::mm", 50), event("part: attention", 60)]
    with pytest.raises(RuntimeError, match="saw no kernel"):
        profiling.summed_up(events, 2, 200e-6, on_device=True)
    unlaunched = profiling.summed_up([event("aten::mm", 50, gemm=40)], 1, 200e-6, on_device=True)
    assert unlaunched.launches is None
    assert profiling.summed_up(events, 2, 200e-6, on_device=False).launches is None


def test_a_kernel_counts_once_and_where_it_was_launched() -> None:
    """Operations with their kernels, and kernels and marks on the device."""
    mark = event("part: attention", 100)
    mark.append_kernel("part: attention", 0, 70)
    product, bias = event("aten::addmm", 50, gemm=30), event("aten::add", 20, add_bias=5)
    product.cpu_parent = mark
    on_device = [event(name, end, DeviceType.CUDA) for name, end in (("gemm", 30), ("part: attention", 70))]
    found = profiling.by_part([mark, product, bias, *on_device], on_device=True)
    assert found[profiling.ATTENTION] == pytest.approx(30e-6)
    assert found[profiling.OTHER] == pytest.approx(5e-6)


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_launches_are_counted_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Additions in their place: on a processor there are no launches."""
    matrix = torch.ones(2, 2)
    assert profiling.launches(lambda: (matrix + matrix) * matrix + matrix, CPU) is None
    monkeypatch.setattr(profiling, "_LAUNCHES", ("aten::add",))
    assert profiling.launches(lambda: (matrix + matrix) * matrix + matrix, CPU) == 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("config", [LSTM, TRANSFORMER], ids=["lstm", "transformer"])
def test_a_step_on_cuda_launches_kernels(config: ModelConfig, tmp_path: Path) -> None:
    cuda = torch.device("cuda")
    data = load_task(TASKS["reverse"](), None)
    found = profiling.profile(
        build(config, data.dimensions).to(cuda),
        data,
        Profile(steps=2, batch_size=4, warmup=1),
        seed=0,
        device=cuda,
        log=lambda loss, step: None,
        trace=tmp_path / "trace.json",
    )
    assert found.launches is not None
    assert found.launches > 10
    part = profiling.RECURRENCE if config is LSTM else profiling.ATTENTION
    assert found.seconds[part] > 0
    assert found.seconds[profiling.IDLE] > 0
    matrix = torch.ones(2, 2, device=cuda)
    assert profiling.launches(lambda: (matrix + matrix) * matrix, cuda) == 2
