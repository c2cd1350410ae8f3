"""Efficiency runs: real measurements of tiny models, and the arithmetic around them."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import pytest
import torch
from simulated_graphs import Simulated
from torch.utils._python_dispatch import TorchDispatchMode

from experiments import efficiency, graphs, memory, phases, profiling, schema, timing
from experiments.config import Efficiency
from experiments.data import Batch
from experiments.efficiency import Subject
from experiments.training import update
from models.config import Dimensions, LSTMConfig, ModelConfig, TransformerConfig
from models.cost import attention_share, encode_flops, generate_flops, state_bytes, step_flops, training_flops
from models.interface import EncoderDecoder
from models.registry import build
from models.transformer import TransformerDecoder, TransformerState

CPU = torch.device("cpu")
SETTINGS = Efficiency(lengths=(4, 16), tokens_per_batch=256, repeats=6, warmup=1, decode_tokens=4, seconds_per_point=60)
BY_POSITION = Efficiency(lengths=(4,), batch_size=3, positions=(1, 3, 7), repeats=3, warmup=1, decode_tokens=4)
LSTM = LSTMConfig(attention="general", hidden_size=16, embedding_size=16)
SINUSOIDAL = TransformerConfig(positions="sinusoidal", hidden_size=16, feedforward_size=32)
LEARNED = replace(SINUSOIDAL, positions="learned")
CONFIGS: list[ModelConfig] = [LSTM, SINUSOIDAL, LEARNED]


@dataclass
class Recorder:
    """Remembers what it is told."""

    values: dict[str, dict[int, float]] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def point(self, name: str, value: float, step: int) -> None:
        curve = self.values.setdefault(name, {})
        assert step not in curve
        curve[step] = value

    def tag(self, name: str, value: str) -> None:
        self.tags[name] = value


@dataclass
class Kept:
    """Keeps how far a sweep is, as a file does."""

    state: Mapping[str, Any] | None = None

    def load(self) -> Mapping[str, Any] | None:
        return self.state

    def due(self) -> bool:
        raise AssertionError  # a sweep is kept at every length

    def save(self, state: Mapping[str, Any]) -> None:
        self.state = json.loads(json.dumps(state))


def measured(
    configs: list[ModelConfig],
    settings: Efficiency,
    watch: Callable[[int, int], None] = lambda done, total: None,
    *,
    kept: list[Kept] | None = None,
    device: torch.device = CPU,
) -> tuple[list[Recorder], list[Exception | None]]:
    recorders, keepers = [Recorder() for _ in configs], kept or [Kept() for _ in configs]
    subjects = [
        Subject(config, 7, recorder, keeper)
        for config, recorder, keeper in zip(configs, recorders, keepers, strict=True)
    ]
    return recorders, efficiency.measure(subjects, settings, device=device, watch=watch)


def no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out what takes long: repetitions, peaks of memory in processes of their own, and that of the machine."""
    monkeypatch.setattr(efficiency, "interleaved", twice)
    monkeypatch.setattr(memory, "peak", lambda rehearsal, work, device: None)
    monkeypatch.setattr(efficiency, "matmul_flops_per_second", lambda device, bfloat16: 1e15)


def twice(works: dict[Any, Callable[[], object]], settings: Efficiency, device: torch.device) -> dict[Any, Any]:
    """In the place of the clock: two repetitions of one and three seconds."""
    found: dict[Any, Any] = {}
    for key, work in works.items():
        try:
            work()
            work()
            found[key] = [1.0, 3.0]
        except Exception as error:
            found[key] = error
    return found


def test_everything_is_measured_at_every_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "NARROW", math.inf)  # six repetitions are enough
    watched: list[tuple[int, int]] = []
    configs: list[ModelConfig] = [LSTM, LEARNED]
    recorders, errors = measured(configs, SETTINGS, lambda done, total: watched.append((done, total)))
    assert errors == [None] * 2
    assert list(dict.fromkeys(watched)) == [(0, 2), (1, 2), (2, 2)]
    phases = 5  # a length may take long: between two signs of progress there is one of them, or one model's memory
    assert watched.count((0, 2)) >= phases + len(configs)
    for config, recorder in zip(configs, recorders, strict=True):
        values = recorder.values
        assert recorder.tags == {}
        assert all(set(curve) == {4, 16} for curve in values.values())
        assert all(schema.axis_of(name) == "length" for name in values)
        for length in (4, 16):
            at = {name: curve[length] for name, curve in values.items()}
            batch = 128 // length
            assert at[schema.BATCH_SIZE] == batch
            assert schema.STEP_SECONDS not in at
            for phase in set(schema.PHASES) - {"step"}:
                name = schema.PHASES[phase]
                low, high = (at[schema.spread(name, q)] for q in (schema.LOWER_QUARTILE, schema.UPPER_QUARTILE))
                assert 0 < low <= at[name] <= high
                assert at[schema.spread(name, schema.INTERVAL)] >= (high - low) / at[name]
            seconds = at[schema.TRAIN_STEP_SECONDS]
            assert at[schema.EFFICIENCY_TRAIN_TOKENS_PER_SECOND] == pytest.approx(256 / seconds)
            assert at[schema.GENERATE_TOKENS_PER_SECOND] == pytest.approx(4 * batch / at[schema.GENERATE_SECONDS])
            naive = at[schema.GENERATE_NAIVE_SECONDS]
            assert at[schema.GENERATE_NAIVE_TOKENS_PER_SECOND] == pytest.approx(4 * batch / naive)
            assert 0 < at[schema.DECODE_SECONDS_PER_TOKEN] <= at[schema.DECODE_SECONDS_PER_TOKEN_P95]
            assert at[schema.DECODE_SECONDS_PER_TOKEN] < at[schema.GENERATE_SECONDS]
            assert 0 < at[schema.DECODE_NAIVE_SECONDS_PER_TOKEN] <= at[schema.DECODE_NAIVE_SECONDS_PER_TOKEN_P95]
            assert at[schema.DECODE_NAIVE_SECONDS_PER_TOKEN] < at[schema.GENERATE_NAIVE_SECONDS]
            flops = batch * training_flops(config, length, length, 32)
            assert at[schema.TRAIN_STEP_FLOPS] == flops
            encoding, decoding = (at[schema.PHASE_FLOPS[phase]] for phase in ("encode", "decode"))
            assert encoding == batch * encode_flops(config, length)
            assert encoding + decoding == flops / 3
            assert at[schema.PHASE_FLOPS["generate"]] == generate_flops(config, length, 4, 32, batch)
            assert at[schema.ATTENTION_SHARE] == attention_share(config, length, length, 32)
            assert at[schema.STATE_BYTES] == state_bytes(config, length, length)
            assert 0 < at[schema.PEAK_SHARE] < 1
            assert at[schema.DISTURBED] in (0, 1)
            assert at[schema.THREADS] == torch.get_num_threads()
            assert not at.keys() & {*schema.ENERGIES.values(), *schema.SWEEP_LAUNCHES.values()}
            if sys.platform == "linux":
                assert at[schema.PEAK_MEMORY] > 0
                assert all(at[name] >= 0 for name in schema.PEAK_MEMORIES.values())


def test_a_step_is_timed_at_the_positions_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first position has nothing before it; between two of them everything is decoded once."""
    no_clock(monkeypatch)
    seen: list[tuple[int, int]] = []
    step = TransformerDecoder.step

    def spy(self: TransformerDecoder, tokens: torch.Tensor, state: TransformerState) -> Any:
        seen.append((state.position, len(tokens)))
        return step(self, tokens, state)

    monkeypatch.setattr(TransformerDecoder, "step", spy)
    configs: list[ModelConfig] = [LSTM, SINUSOIDAL, LEARNED]
    recorders, errors = measured(configs, BY_POSITION)
    assert errors == [None] * 3
    by_position = seen[2 * 2 * 4 :]  # by length, both Transformers generate four tokens, twice
    assert all(size == 3 for _, size in by_position)
    one, other = by_position[:2], by_position[2:4]
    assert one == other == [(0, 3), (0, 3)]
    assert [position for position, _ in by_position[4:]] == [0, 1, 0, 1, 2, 2, 2, 2, *[2, 3, 4, 5] * 2, 6, 6, 6, 6]
    for config, recorder in zip(configs, recorders, strict=True):
        assert recorder.values[schema.STEP_SECONDS] == {1: 2.0, 3: 2.0, 7: 2.0}
        work = {at: 3 * step_flops(config, 4, at - 1, BY_POSITION.vocabulary) for at in (1, 3, 7)}
        assert recorder.values[schema.PHASE_FLOPS["step"]] == work
        assert recorder.values["efficiency/step_seconds_q1_by_position"] == {1: 1.5, 3: 1.5, 7: 1.5}
        assert {schema.axis_of(name) for name in recorder.values} == {"length", "position"}
        assert set(recorder.values[schema.by_position(schema.DISTURBED)]) == {1, 3, 7}
        assert set(recorder.values[schema.BATCH_SIZE].values()) == {3}


def test_where_memory_ends_a_sweep_ends_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    no_clock(monkeypatch)

    def no_room(model: EncoderDecoder, optimizer: Any, batch: Batch, **more: Any) -> Any:
        if batch.source.shape[1] > 4 and isinstance(model.decoder, TransformerDecoder):
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate")
        return update(model, optimizer, batch, **more)

    monkeypatch.setattr(efficiency, "update", no_room)
    (lstm, transformer), errors = measured([LSTM, SINUSOIDAL], SETTINGS)
    assert errors == [None, None]
    assert lstm.tags == {}
    assert set(lstm.values[schema.TRAIN_STEP_SECONDS]) == {4, 16}
    assert set(transformer.values[schema.TRAIN_STEP_SECONDS]) == {4}
    assert set(transformer.values[schema.PEAK_SHARE]) == {4}
    assert set(transformer.values[schema.ENCODE_SECONDS]) == {4, 16}
    assert transformer.values["stopped/train_step"] == {0: 16}
    assert schema.axis_of("stopped/train_step") == ""
    assert transformer.tags == {"stopped.train_step": "memory: CUDA out of memory."}


def test_a_step_for_which_there_is_no_memory_is_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that measures memory says so, and nothing is timed."""

    def peak(rehearsal: Any, work: Any, device: torch.device) -> float:
        if work.func is phases.train_anew:
            raise MemoryError("no room")
        return 5.0

    no_clock(monkeypatch)
    monkeypatch.setattr(memory, "peak", peak)
    monkeypatch.setattr(efficiency, "update", None)  # it would fail if it were called
    (recorder,), errors = measured([SINUSOIDAL], SETTINGS)
    assert errors == [None]
    assert schema.TRAIN_STEP_SECONDS not in recorder.values
    assert schema.PEAK_MEMORY not in recorder.values
    for phase in ("encode", "decode", "generate"):
        assert recorder.values[schema.PEAK_MEMORIES[phase]] == {4: 5.0, 16: 5.0}
    assert set(recorder.values[schema.ENCODE_SECONDS]) == {4, 16}
    assert recorder.values["stopped/train_step"] == {0: 4}
    assert recorder.tags == {"stopped.train_step": "memory: no room"}


def test_a_batch_that_no_machine_holds_ends_everything() -> None:
    (recorder,), errors = measured([SINUSOIDAL], BY_POSITION.model_copy(update={"batch_size": 10**11}))
    assert errors == [None]
    assert set(recorder.values) == {f"stopped/{phase}" for phase in schema.PHASES}
    assert all(reason.startswith("memory: ") for reason in recorder.tags.values())


def test_where_time_ends_a_sweep_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    no_clock(monkeypatch)
    monkeypatch.setattr(efficiency, "interleaved", timing.interleaved)
    settings = SETTINGS.model_copy(update={"seconds_per_point": 1e-9})
    (recorder,), errors = measured([SINUSOIDAL], settings)
    assert errors == [None]
    phases = set(schema.PHASES) - {"step"}
    assert {name for name in recorder.values if name.startswith(schema.STOPPED_AT)} == {f"stopped/{p}" for p in phases}
    assert all(recorder.values[f"stopped/{phase}"] == {0: 4} for phase in phases)
    assert all(reason.startswith("time: a repetition of ") for reason in recorder.tags.values())
    assert schema.TRAIN_STEP_SECONDS not in recorder.values


def test_what_goes_wrong_with_one_model_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    no_clock(monkeypatch)

    def broken(self: Any, *arguments: Any) -> Any:
        raise ArithmeticError("broken")

    monkeypatch.setattr(TransformerDecoder, "step", broken)
    (lstm, _), (fine, error) = measured([LSTM, SINUSOIDAL], SETTINGS)
    assert fine is None
    assert isinstance(error, ArithmeticError)
    assert set(lstm.values[schema.GENERATE_SECONDS]) == {4, 16}


class Stop(Exception):
    """In the place of an interrupt."""


def test_an_interrupted_sweep_goes_on_at_the_length_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """What had ended stays ended, and who had failed has failed."""
    no_clock(monkeypatch)

    def at(last: int) -> Callable[[int, int], None]:
        def watch(done: int, total: int) -> None:
            if done == last:
                raise Stop

        return watch

    def step(self: TransformerDecoder, *arguments: Any) -> Any:
        raise ArithmeticError("broken")

    def generate_naively(model: EncoderDecoder, *arguments: Any) -> None:
        raise torch.OutOfMemoryError("no room")

    settings = SETTINGS.model_copy(update={"lengths": (4, 8, 16)})
    kept = [Kept(), Kept()]
    with monkeypatch.context() as context:
        context.setattr(TransformerDecoder, "step", step)
        context.setattr(phases, "generate_naively", generate_naively)
        with pytest.raises(Stop):
            measured([LSTM, SINUSOIDAL], settings, at(2), kept=kept)
    (lstm, transformer), (fine, error) = measured([LSTM, SINUSOIDAL], settings, kept=kept)
    assert fine is None
    assert set(lstm.values[schema.TRAIN_STEP_SECONDS]) == {16}
    assert schema.GENERATE_NAIVE_SECONDS not in lstm.values
    assert (type(error), str(error)) == (efficiency.FailedBefore, "ArithmeticError('broken')")
    assert transformer.values == {}
    assert kept[1].state is not None
    assert kept[1].state["error"] == str(error)  # however often it is interrupted


def test_a_sweep_killed_while_it_keeps_its_models_repeats_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second model was not kept after the second length: it alone is measured there again."""
    no_clock(monkeypatch)

    class Full(Kept):
        def save(self, state: Mapping[str, Any]) -> None:
            if state["lengths"] == 2:
                raise Stop
            super().save(state)

    settings = SETTINGS.model_copy(update={"lengths": (4, 8, 16)})
    kept: list[Kept] = [Kept(), Full()]
    with pytest.raises(Stop):
        measured([LSTM, SINUSOIDAL], settings, kept=kept)
    assert [one.state and one.state["lengths"] for one in kept] == [2, 1]
    kept[1] = Kept(kept[1].state)
    recorders, errors = measured([LSTM, SINUSOIDAL], settings, kept=kept)
    assert errors == [None, None]
    assert [set(one.values[schema.TRAIN_STEP_SECONDS]) for one in recorders] == [{16}, {8, 16}]
    assert [one.state and one.state["lengths"] for one in kept] == [3, 3]


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


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lengths": (33,), "tokens_per_batch": 64}, "length 33 does not fit into batches of 64 tokens"),
        ({"lengths": (8, 4), "tokens_per_batch": 64}, "lengths must rise"),
        ({"lengths": (0, 4), "batch_size": 64}, "lengths begin with 1, not 0"),
        ({"lengths": (4,), "batch_size": 64, "positions": (2, 2)}, "positions must rise"),
        ({"lengths": (4,)}, "state either tokens_per_batch or batch_size"),
        ({"lengths": (4,), "tokens_per_batch": 64, "batch_size": 8}, "state either tokens_per_batch or batch_size"),
        ({"lengths": (4,), "tokens_per_batch": 64, "positions": (1,)}, "positions are compared at a fixed batch"),
    ],
)
def test_impossible_sweeps_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Efficiency(**settings)


def test_how_many_sequences_a_batch_has() -> None:
    assert [SETTINGS.batch_at(length) for length in (4, 16, 100)] == [32, 8, 1]
    assert [BY_POSITION.batch_at(length) for length in (4, 16)] == [3, 3]


class Casts(TorchDispatchMode):
    """Counts the matrices that are cast to bfloat16."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._to_copy.default and (kwargs or {}).get("dtype") == torch.bfloat16:
            self.count += args[0].shape == (16, 16)  # as the weights that make queries
        return func(*args, **(kwargs or {}))


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="this processor has no bfloat16")
def test_weights_are_cast_before_what_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    counts: list[tuple[int, int]] = []

    def repeated(works: dict[Any, Callable[[], object]], settings: Efficiency, device: torch.device) -> dict[Any, Any]:
        for work in works.values():
            found = []
            for _ in range(2):
                with Casts() as casts:
                    work()
                found.append(casts.count)
            counts.append((found[0], found[1]))
        return {key: [1.0] for key in works}

    no_clock(monkeypatch)
    monkeypatch.setattr(efficiency, "interleaved", repeated)
    _, errors = measured([SINUSOIDAL], BY_POSITION.model_copy(update={"precision": "bfloat16"}))
    assert errors == [None]
    training, *inference = counts
    assert min(training) > 0  # weights that change
    assert len(inference) == len(schema.PHASES) - 2 + len(BY_POSITION.positions)
    assert [again for _, again in inference] == [0] * len(inference), inference


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("settings", [SETTINGS, BY_POSITION], ids=["by length", "by position"])
def test_everything_is_measured_on_cuda(settings: Efficiency, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "NARROW", math.inf)
    recorders, errors = measured(CONFIGS, settings, device=torch.device("cuda"))
    assert errors == [None] * 3
    for recorder in recorders:
        assert set(recorder.values[schema.PEAK_MEMORY]) == set(settings.lengths)
        assert set(recorder.values[schema.TRAIN_STEP_SECONDS]) == set(settings.lengths)
        step, token = (recorder.values[name] for name in schema.SWEEP_LAUNCHES.values())
        assert set(step) == set(token) == set(settings.lengths)
        assert all(step[length] > token[length] > 5 for length in settings.lengths)
        assert set(recorder.values.get(schema.STEP_SECONDS, {})) == set(settings.positions)
