"""Sweeps over length: what is measured where, where they end, and how they go on; real measurements of tiny models."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from swept import (
    BY_POSITION,
    CONFIGS,
    LEARNED,
    LSTM,
    SETTINGS,
    SINUSOIDAL,
    Kept,
    measured,
    no_clock,
    twice,
)

from experiments import config, efficiency, memory, phases, schema, timing
from experiments.config import Efficiency, EfficiencyRun, run_key
from experiments.data import Batch
from experiments.grid import load_grid
from experiments.training import update
from models.config import ModelConfig
from models.cost import attention_share, encode_flops, generate_flops, state_bytes, step_flops, training_flops
from models.interface import EncoderDecoder
from models.transformer import TransformerDecoder, TransformerState


def test_everything_is_measured_at_every_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "NARROW", math.inf)  # six repetitions are enough
    watched: list[tuple[int, int]] = []
    configs: list[ModelConfig] = [LSTM, LEARNED]
    recorders, errors = measured(configs, SETTINGS, lambda done, total: watched.append((done, total)))
    assert errors == [None] * 2
    assert list(dict.fromkeys(watched)) == [(0, 2), (1, 2), (2, 2)]
    phases = 5  # a length may take long: between two signs of progress there is one of them, or one model's memory
    assert watched.count((0, 2)) >= phases + len(configs)
    for model, recorder in zip(configs, recorders, strict=True):
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
            flops = batch * training_flops(model, length, length, 32)
            assert at[schema.TRAIN_STEP_FLOPS] == flops
            encoding, decoding = (at[schema.PHASE_FLOPS[phase]] for phase in ("encode", "decode"))
            assert encoding == batch * encode_flops(model, length)
            assert encoding + decoding == flops / 3
            assert at[schema.PHASE_FLOPS["generate"]] == generate_flops(model, length, 4, 32, batch)
            assert at[schema.ATTENTION_SHARE] == attention_share(model, length, length, 32)
            assert at[schema.STATE_BYTES] == state_bytes(model, length, length)
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
    one, other = by_position[:20], by_position[20:40]
    assert one == other == [(0, 3)] * 20
    assert [position for position, _ in by_position[40:]] == [0, 1, 0, 1, *[2] * 40, *[2, 3, 4, 5] * 2, *[6] * 40]
    for model, recorder in zip(configs, recorders, strict=True):
        assert recorder.values[schema.STEP_SECONDS] == {1: 0.2, 3: 0.2, 7: 0.2}  # two seconds for ten in a row
        work = {at: 3 * step_flops(model, 4, at - 1, BY_POSITION.vocabulary) for at in (1, 3, 7)}
        assert recorder.values[schema.PHASE_FLOPS["step"]] == work
        assert recorder.values["efficiency/step_seconds_q1_by_position"] == pytest.approx({1: 0.15, 3: 0.15, 7: 0.15})
        assert {schema.axis_of(name) for name in recorder.values} == {"length", "position"}
        assert set(recorder.values[schema.by_position(schema.DISTURBED)]) == {1, 3, 7}
        assert set(recorder.values[schema.BATCH_SIZE].values()) == {3}


def test_a_repetition_is_ten_steps_at_its_position_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    lengths: list[int] = []  # of what the steps that are timed look back on, the present position included
    step = TransformerDecoder.step

    def counted(works: dict[Any, Callable[[], object]], *_: object) -> dict[Any, Any]:
        lengths.clear()
        found = twice(works)
        seen.append(list(lengths))
        return found

    def watched(self: TransformerDecoder, tokens: Any, state: Any, *more: Any) -> Any:
        logits, after = step(self, tokens, state, *more)
        lengths.append(after.position)
        return logits, after

    seen: list[list[int]] = []
    no_clock(monkeypatch)
    monkeypatch.setattr(efficiency, "interleaved", counted)
    monkeypatch.setattr(TransformerDecoder, "step", watched)
    _, errors = measured([SINUSOIDAL], BY_POSITION)
    assert errors == [None]
    assert seen[-3:] == [[at] * 20 for at in BY_POSITION.positions]


def test_a_sweep_by_position_is_another_run_with_more_steps_in_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    runs = load_grid("length_scaling", profile="small").runs
    before = {run: run_key(run, "cpu") for run in runs}
    monkeypatch.setattr(config, "STEPS_IN_A_ROW", 20)
    changed = {run for run in runs if run_key(run, "cpu") != before[run]}
    assert changed == {run for run in runs if isinstance(run, EfficiencyRun) and run.efficiency.positions}
    assert len(changed) == 15


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
