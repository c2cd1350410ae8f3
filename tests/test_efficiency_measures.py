"""What a sweep measures beside time: peaks of memory, energy, launches, shares of the peak, others on the machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from casts import first_and_again
from simulated_graphs import Simulated
from swept import (
    BY_POSITION,
    CPU,
    LEARNED,
    LSTM,
    SETTINGS,
    SINUSOIDAL,
    Kept,
    Recorder,
    measured,
    no_clock,
)

from experiments import efficiency, graphs, memory, phases, profiling, schema
from experiments.config import Efficiency
from experiments.efficiency import Subject
from models.config import Dimensions, ModelConfig
from models.interface import EncoderDecoder
from models.registry import build


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process's memory")
def test_peak_memory_sees_what_a_step_holds() -> None:
    """A hundred megabytes of logits more or less, on top of whatever else a step needs."""
    small = replace(SINUSOIDAL, hidden_size=4, feedforward_size=4, num_heads=1)
    vocabulary = 4_000

    def peak(tokens: int) -> float:
        settings = Efficiency(lengths=(10,), tokens_per_batch=2 * tokens, vocabulary=vocabulary)
        work = partial(phases.train_anew, small, settings, 10, CPU, False)
        rehearsal = partial(phases.train_anew, small, settings.model_copy(update={"batch_size": 1}), 1, CPU, False)
        found = memory.peak(rehearsal, work, CPU)
        assert found is not None
        return found

    grown = peak(12_000) - peak(4_000)
    logits = 8_000 * vocabulary * 4
    assert 1.5 * logits < grown < 5 * logits  # the logits, their softmax, and the gradient


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process's memory")
def test_peak_memory_has_the_state_of_the_model() -> None:
    """Weights, gradients and two moments of a parameter, whatever the rehearsal of the same model has freed before."""
    large = replace(LEARNED, hidden_size=256, feedforward_size=1024, num_heads=4)
    settings = Efficiency(lengths=(1,), batch_size=64, decode_tokens=1)
    parameters = sum(one.numel() for one in build(large, phases.dimensions(settings)).parameters())
    assert parameters > 3_000_000
    for work, a_parameter in ((phases.train_anew, 16), (partial(phases.infer_anew, "generate"), 4)):
        once = partial(work, large, settings, 1, CPU, False)
        found = memory.peak(once, once, CPU)
        assert found is not None
        assert a_parameter * parameters <= found < 1.6 * a_parameter * parameters


@pytest.mark.parametrize("phase", [phase for phase in schema.PEAK_MEMORIES if phase != "train_step"])
def test_what_is_done_for_its_memory_is_the_phase(phase: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it calls of a model that was built for it, with no gradient to come."""
    called: list[str] = []

    class Spy(EncoderDecoder):
        def encode(self, *arguments: Any) -> Any:
            called.append("encode")
            assert not torch.is_grad_enabled()
            assert not self.training
            return super().encode(*arguments)

        def step(self, *arguments: Any) -> Any:
            called.append("step")
            return super().step(*arguments)

    def spied(config: ModelConfig, dimensions: Dimensions) -> EncoderDecoder:
        model = build(config, dimensions)
        model.decoder.register_forward_hook(lambda *_: called.append("decode"))
        return Spy(model.encoder, model.decoder)

    monkeypatch.setattr(phases, "build", spied)
    phases.infer_anew(phase, SINUSOIDAL, SETTINGS, 4, CPU, False)
    expected = {"encode": ["encode"], "decode": ["encode", "decode"], "generate": ["encode", *["step"] * 4]}
    assert called == expected[phase]


def test_a_length_is_as_disturbed_as_its_worst_phase(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is watched alone; the load is that of the last."""
    no_clock(monkeypatch)
    states = iter([(0.0, 1.0), (1.0, 2.0), (0.0, 3.0), (0.0, 4.0), (0.0, 5.0), *[(0.0, 6.0)] * 5])

    class Watch:
        def __init__(self, device: torch.device) -> None:
            pass

        def state(self) -> dict[str, float]:
            disturbed, load = next(states)
            return {schema.DISTURBED: disturbed, schema.LOAD: load}

    monkeypatch.setattr(efficiency.machine, "Watch", Watch)
    (recorder,), errors = measured([SINUSOIDAL], SETTINGS)
    assert errors == [None]
    assert recorder.values[schema.DISTURBED] == {4: 1.0, 16: 0.0}
    assert recorder.values[schema.LOAD] == {4: 5.0, 16: 6.0}
    assert next(states, None) is None


def test_energy_is_that_of_a_thousand_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a counter that says one joule for each call."""
    no_clock(monkeypatch)

    def joules(work: Callable[[], object], device: torch.device, warmup: int) -> float:
        work()
        return 1.0

    monkeypatch.setattr(efficiency.machine, "joules", joules)
    (recorder,), errors = measured([SINUSOIDAL], SETTINGS)
    assert errors == [None]
    tokens = {"train_step": 256, "encode": 128, "decode": 128}  # at every length
    for phase, count in tokens.items():
        assert recorder.values[schema.ENERGIES[phase]] == dict.fromkeys((4, 16), 1000 / count)
    assert recorder.values[schema.ENERGIES["generate"]] == {4: 1000 / (32 * 4), 16: 1000 / (8 * 4)}


def test_a_length_is_disturbed_where_others_were_there_while_energy_was_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While that of the first model was, in the second of two lengths; the clock had the machine for itself."""
    no_clock(monkeypatch)
    quiet = [{schema.DISTURBED: 0.0, schema.LOAD: 1.0}] * 5
    states = iter([*quiet, *[{schema.DISTURBED: 0.0}] * 2, *quiet, {schema.DISTURBED: 1.0}, {schema.DISTURBED: 0.0}])
    monkeypatch.setattr(efficiency.machine.Watch, "state", lambda self: next(states))
    monkeypatch.setattr(efficiency.machine, "joules", lambda work, device, warmup: 1.0)
    (recorder, other), errors = measured([SINUSOIDAL, LSTM], SETTINGS)
    assert errors == [None] * 2
    assert recorder.values[schema.DISTURBED] == {4: 0.0, 16: 1.0}
    assert other.values[schema.DISTURBED] == {4: 0.0, 16: 0.0}
    assert recorder.values[schema.LOAD] == {4: 1.0, 16: 1.0}


def test_energy_has_no_recording_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """All graphs of a phase are there when the counter is read first."""
    no_clock(monkeypatch)
    recorded: list[str] = []

    class Counting(Simulated):
        def record(self, work: Callable[[], Any]) -> Any:
            recorded.append("recorded")
            return super().record(work)

    def counter(handle: object) -> int:
        recorded.append("read")
        return 0

    for module in (graphs, phases):
        monkeypatch.setattr(module, "GraphRecorder", Counting)
    monkeypatch.setattr(efficiency.machine, "_nvidia", lambda device: object())
    monkeypatch.setattr(efficiency.machine, "ENERGY_SECONDS", 0.05)
    monkeypatch.setattr(efficiency.machine.torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(efficiency.machine.pynvml, "nvmlDeviceGetTotalEnergyConsumption", counter)
    settings = SETTINGS.model_copy(update={"warmup": 2, "cuda_graphs": True})
    contender = efficiency._Contender(Subject(SINUSOIDAL, 0, Recorder(), Kept()), settings, CPU, False)
    contender.begin(4)
    for phase, graphs_of_it in (("train_step", 1), ("generate", 1 + settings.decode_tokens)):
        recorded.clear()
        contender.measure_energy(phase, schema.ENERGIES[phase])
        assert contender.error is None
        assert recorded == [*["recorded"] * graphs_of_it, "read", "read"]


@pytest.mark.filterwarnings("ignore:CUDA is not available")
def test_launches_are_of_one_training_step_and_of_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looking up embeddings stands for launches: a step does so for both sides, a token neither for the source."""
    monkeypatch.setattr(profiling, "_LAUNCHES", ("aten::embedding",))
    wanted: list[tuple[ModelConfig, str]]
    wanted = [(SINUSOIDAL, "train_step"), (SINUSOIDAL, "generate"), (replace(LSTM, hidden_size=10**9), "generate")]
    found = phases.launches_anew(wanted, SETTINGS, 4, CPU, False)
    assert found == {wanted[0]: 2, wanted[1]: 1}  # for the last there is no memory
    monkeypatch.setattr(profiling, "_LAUNCHES", ())  # as where the profiler sees none
    assert phases.launches_anew(wanted[:1], SETTINGS, 4, CPU, False) == {}


def test_launches_are_counted_once_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """In another process, by the device's number; of what ended there are none, nor where that process fails."""
    asked: list[tuple[Any, ...]] = []

    def elsewhere(work: Any) -> Any:
        asked.append(work.args)
        if len(asked) == 2:
            raise RuntimeError("all CUDA-capable devices are busy or unavailable")
        if len(asked) == 3:
            raise ValueError("whatever it is")
        return {(LSTM, "train_step"): 90, (LSTM, "generate"): 9, (SINUSOIDAL, "train_step"): 70}

    monkeypatch.setattr(memory, "in_a_process", elsewhere)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    recorders = [Recorder() for _ in range(3)]
    models: list[ModelConfig] = [LSTM, SINUSOIDAL, LSTM]
    contenders = [
        efficiency._Contender(Subject(config, seed, recorders[seed], Kept()), SETTINGS, CPU, False)
        for seed, config in enumerate(models)
    ]
    contenders[1].going_on.remove("generate")
    efficiency._count_launches(contenders, 16, CPU)
    assert asked == []
    for _ in range(3):
        efficiency._count_launches(contenders, 16, torch.device("cuda"))
    wanted = [(LSTM, "train_step"), (LSTM, "generate"), (SINUSOIDAL, "train_step")]
    assert asked == [(wanted, SETTINGS, 16, torch.device("cuda:3"), False)] * 3
    step, token = schema.SWEEP_LAUNCHES.values()
    lstm, transformer, other = (one.values for one in recorders)
    assert lstm == other == {step: {16: 90}, token: {16: 9}}
    assert transformer == {step: {16: 70}}


def test_matmul_peak_counts_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best repetition of the best size, the first of each left out."""
    rest = [9.0] * 4
    seconds = iter([1e-9, 2.0, *rest, 1e-9, 4.0, *rest, 1e-9, 1.0, *rest, 1e-9, 64.0, *rest])  # 256, 512, 1024, 2048
    monkeypatch.setattr(efficiency, "timed", lambda work, device: next(seconds))
    monkeypatch.setattr(efficiency, "MATMUL_SECONDS", 0.0)
    assert efficiency.matmul_flops_per_second(CPU, False) == 2 * 1024**3 / 1.0


def test_a_device_that_wakes_up_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that each product moves by a hundredth of a second, the first twelve of them by two."""
    now, done = [0.0], [0]

    def timed(work: Callable[[], object], device: torch.device) -> float:
        done[0] += 1
        taken = 0.02 if done[0] <= 12 else 0.01
        now[0] += taken
        return taken

    monkeypatch.setattr(efficiency, "timed", timed)
    monkeypatch.setattr(efficiency, "MATMUL_SIZES", {"cpu": (8,)})
    monkeypatch.setattr(efficiency.time, "perf_counter", lambda: now[0])
    assert efficiency.matmul_flops_per_second(CPU, False) == 2 * 8**3 / 0.01


def test_a_share_is_of_the_best_peak_that_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is looked for before all lengths and after each; a length that is done keeps what it was of."""
    no_clock(monkeypatch)
    peaks = iter([1e15, 4e15, 2e15, 8e15, 1e15, 1e15])
    monkeypatch.setattr(efficiency, "matmul_flops_per_second", lambda device, bfloat16: next(peaks))
    settings = SETTINGS.model_copy(update={"lengths": (4, 8, 16)})
    (recorder,), _ = measured([SINUSOIDAL], settings)
    flops, share = (recorder.values[name] for name in (schema.TRAIN_STEP_FLOPS, schema.PEAK_SHARE))
    found = {length: flops[length] / 2.0 / share[length] for length in (4, 8, 16)}
    assert found == pytest.approx({4: 4e15, 8: 4e15, 16: 8e15})
    kept = Kept({"lengths": 2, "going_on": sorted(set(schema.PHASES) - {"step"}), "error": ""})
    (recorder,), _ = measured([SINUSOIDAL], settings, kept=[kept])
    assert set(recorder.values[schema.PEAK_SHARE]) == {16}
    assert flops[16] / 2.0 / recorder.values[schema.PEAK_SHARE][16] == pytest.approx(1e15)


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16")
def test_weights_are_cast_before_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[tuple[int, int]] = []

    def repeated(works: dict[Any, Callable[[], object]], *more: object) -> dict[Any, Any]:
        queries = (16, 16)  # the shape of the weights that make them
        counts.extend(first_and_again(work, lambda shape: shape == queries) for work in works.values())
        return {key: [1.0] for key in works}

    no_clock(monkeypatch)
    monkeypatch.setattr(efficiency, "interleaved", repeated)
    _, errors = measured([SINUSOIDAL], BY_POSITION.model_copy(update={"precision": "bfloat16"}))
    assert errors == [None]
    training, *inference = counts
    assert min(training) > 0  # weights that change
    assert len(inference) == len(schema.PHASES) - 2 + len(BY_POSITION.positions)
    assert [again for _, again in inference] == [0] * len(inference), inference
