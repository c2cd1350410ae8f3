"""Efficiency: how fast models are, and how much memory they take, against sequence length and position.

Models are measured side by side on random tokens; source and target have the same length. Where a model's sweep ends
before the others' (there is no memory for a length, or no time) is a result, not a failure.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from experiments import machine, memory, schema
from experiments.config import Efficiency
from experiments.data import Batch
from experiments.graphs import RecordedUpdate
from experiments.phases import (
    Generation,
    Work,
    around,
    dimensions,
    first_tokens,
    infer_anew,
    inferring,
    launches_anew,
    next_tokens,
    optimizer_of,
    random_batch,
    train_anew,
    train_once,
    work_of,
)
from experiments.timing import TooSlow, interleaved, percentile, quartiles, relative_interval, timed, wait_for
from experiments.training import Keeper, update, uses_bfloat16
from models.config import ModelConfig
from models.cost import (
    attention_share,
    decode_flops,
    encode_flops,
    generate_flops,
    state_bytes,
    step_flops,
    training_flops,
)
from models.interface import State
from models.registry import build

MATMUL_SIZES = {"cpu": (256, 512, 1024, 2048), "cuda": (4096, 8192)}  # of the square matrices that give the peak
MATMUL_REPEATS = 5
MATMUL_SECONDS = 0.5  # of products at least: the clock of an idle GPU is low


class Recorder(Protocol):
    """Where a model's results go (experiments.tracking)."""

    def point(self, name: str, value: float, step: int) -> None:
        """Takes one value of a metric of experiments.schema, at a length or position; 0 for a scalar."""

    def tag(self, name: str, value: str) -> None:
        """Takes a tag of experiments.schema."""


class FailedBefore(Exception):
    """Something went wrong with a model before its sweep was interrupted."""


@dataclass(frozen=True)
class Subject:
    """A model that is to be measured.

    Attributes:
        config: of the model, widths stated.
        seed: of the weights and the tokens.
        recorder: takes its results.
        keeper: keeps how far its sweep is.
    """

    config: ModelConfig
    seed: int
    recorder: Recorder
    keeper: Keeper


def measure(
    subjects: Sequence[Subject], settings: Efficiency, *, device: torch.device, watch: Callable[[int, int], None]
) -> list[Exception | None]:
    """Measures everything at every length and position, the models in turn.

    Where the keepers have the state of an earlier attempt, lengths that are done are not measured again.

    Args:
        subjects: the models.
        settings: what is measured, the same for all.
        device: on which nothing else runs meanwhile.
        watch: told how many lengths and positions of how many are done, before each phase and each peak of memory, too.

    Returns:
        For each subject what went wrong with it, while the others went on; None where nothing did.
    """
    bfloat16 = uses_bfloat16(settings.precision, device)
    peak = matmul_flops_per_second(device, bfloat16)
    contenders = [_Contender(subject, settings, device, bfloat16) for subject in subjects]
    total = len(settings.lengths) + len(settings.positions)
    with memory.only_what_is_free(device):
        for done, length in enumerate(settings.lengths):
            behind = [contender for contender in contenders if contender.done <= done]
            if behind:  # not all, where the attempt before ended while it kept them one after another
                peak = _at_length(behind, length, peak, device, partial(watch, done, total))
                for contender in behind:
                    contender.keep(done + 1)
        if settings.positions:
            _by_position(contenders, settings, device, lambda done: watch(len(settings.lengths) + done, total))
    watch(total, total)
    return [contender.error for contender in contenders]


def matmul_flops_per_second(device: torch.device, bfloat16: bool) -> float:
    """Operations per second of square matrix products, at their best: what this process could reach on this device."""
    best, start = 0.0, time.perf_counter()
    while best == 0 or time.perf_counter() - start < MATMUL_SECONDS:
        for size in MATMUL_SIZES[device.type]:
            matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16 if bfloat16 else torch.float32)
            seconds = [timed(partial(torch.matmul, matrix, matrix), device) for _ in range(1 + MATMUL_REPEATS)]
            best = max(best, 2 * size**3 / min(seconds[1:]))
    return best


# --- the sweeps ------------------------------------------------------------------------------------------------------


def _at_length(
    contenders: Sequence[_Contender], length: int, peak: float, device: torch.device, watch: Callable[[], None]
) -> float:
    """`peak` is of the matrix products so far; after the models' work, which warms the device, it may be higher."""
    for contender in contenders:
        watch()
        contender.begin(length)
        for phase, metric in schema.PEAK_MEMORIES.items():
            if phase in contender.going_on:
                contender.measure_memory(phase, metric)
    state: dict[str, float] = {}
    for phase in ("train_step", "encode", "decode", "generate", "generate_naive"):
        watch()
        if any(phase in contender.going_on for contender in contenders):
            meanwhile = machine.Watch(device)
            _time(contenders, phase, length, device, watch)
            # By phase: over all of them, whoever was there in a short one is averaged away. The rest is of the last.
            disturbed = state.get(schema.DISTURBED, 0.0)
            state = meanwhile.state()
            state[schema.DISTURBED] = max(disturbed, state[schema.DISTURBED])
    watch()
    if any("train_step" in contender.going_on for contender in contenders):
        peak = max(peak, matmul_flops_per_second(device, contenders[0].bfloat16))
    for contender in contenders:
        if not contender.going_on - {"step"}:
            continue
        contender.log_length(peak)
        watch()
        meanwhile = machine.Watch(device)
        counted = False
        for phase, metric in schema.ENERGIES.items():
            if phase in contender.going_on:
                counted |= contender.measure_energy(phase, metric)
        own = dict(state)
        if counted:  # of all that the GPU did meanwhile
            own[schema.DISTURBED] = max(own[schema.DISTURBED], meanwhile.state()[schema.DISTURBED])
        for name, value in own.items():
            contender.log(name, value, length)
    watch()
    _count_launches(contenders, length, device)
    return peak


def _count_launches(contenders: Sequence[_Contender], length: int, device: torch.device) -> None:
    """Records launches where there is a device for kernels, one by one; those of a model are the same with every seed.

    In a process of its own: CUPTI stays with one that was profiled, and has it launch more slowly ever after.
    """
    pairs = [(one, phase) for one in contenders for phase in schema.SWEEP_LAUNCHES if phase in one.going_on]
    if device.type != "cuda" or contenders[0].settings.cuda_graphs or not pairs:
        return
    wanted = list(dict.fromkeys((one.config, phase) for one, phase in pairs))
    torch.cuda.empty_cache()
    here = torch.device("cuda", torch.cuda.current_device())  # of which there is another in a new process
    work = partial(launches_anew, wanted, contenders[0].settings, length, here, contenders[0].bfloat16)
    try:
        found = memory.in_a_process(work)
    except Exception as error:  # a GPU may be closed to a second process; whatever it is, the clock has its results
        logging.getLogger(__name__).warning("launches at length %d are not counted: %s", length, error)
        return
    for one, phase in pairs:
        if (one.config, phase) in found:
            one.log(schema.SWEEP_LAUNCHES[phase], found[one.config, phase], length)


def _by_position(
    contenders: Sequence[_Contender], settings: Efficiency, device: torch.device, watch: Callable[[int], None]
) -> None:
    for contender in contenders:
        contender.begin(settings.lengths[0])
    for done, position in enumerate(settings.positions):
        for contender in contenders:
            watch(done)
            contender.advance(position)
        watch(done)
        meanwhile = machine.Watch(device)
        _time(contenders, "step", position, device, partial(watch, done))
        state = meanwhile.state()
        for contender in contenders:
            if "step" in contender.going_on:
                contender.log_position(position)
                for name, value in state.items():
                    contender.log(schema.by_position(name), value, position)


def _time(
    contenders: Sequence[_Contender], phase: str, at: int, device: torch.device, watch: Callable[[], None]
) -> None:
    works = {contender: contender.work(phase) for contender in contenders if phase in contender.going_on}
    with around(phase, device, contenders[0].bfloat16):
        outcomes = interleaved(works, contenders[0].settings, device, watch)
    for contender, outcome in outcomes.items():
        if isinstance(outcome, Exception):
            contender.stop(phase, at, outcome)
        else:
            in_a_row = schema.STEPS_IN_A_ROW if phase == "step" else 1
            contender.log_time(phase, [taken / in_a_row for taken in outcome], at)
    for contender in contenders:
        contender.forget_work()


class _Contender:
    """A model that is being measured: its weights, the batch of the present length, the phases that go on."""

    def __init__(self, subject: Subject, settings: Efficiency, device: torch.device, bfloat16: bool) -> None:
        torch.manual_seed(subject.seed)
        self.config = subject.config
        self.settings = settings
        self.device = device
        self.bfloat16 = bfloat16
        self.recorder, self._keeper = subject.recorder, subject.keeper
        kept = subject.keeper.load()
        self.done = 0 if kept is None else int(kept["lengths"])
        phases = set(schema.PHASES) if settings.positions else set(schema.PHASES) - {"step"}
        self.going_on = phases if kept is None else set(kept["going_on"])
        self.error: Exception | None = FailedBefore(kept["error"]) if kept is not None and kept["error"] else None
        self.model = build(subject.config, dimensions(settings)).to(device)
        self.optimizer = optimizer_of(self.model)
        self.generator = torch.Generator().manual_seed(subject.seed)
        self.batch: Batch
        self._generation: Generation | None = None
        self._state: tuple[Tensor, State, int] | None = None  # tokens, state, positions done
        self._train_seconds: float | None = None

    def keep(self, done: int) -> None:
        """Keeps that so many lengths are done."""
        error = str(self.error) if isinstance(self.error, FailedBefore) else repr(self.error)
        kept = {"lengths": done, "going_on": sorted(self.going_on), "error": error if self.error is not None else ""}
        self._keeper.save(kept)

    def begin(self, length: int) -> None:
        """Draws the batch of this length."""
        self.length = length
        self._train_seconds = None
        try:
            self.batch = random_batch(self.settings, length, self.generator).to(self.device)
        except Exception as error:
            for phase in sorted(self.going_on):
                self.stop(phase, length, error.with_traceback(None))

    # --- work ---

    def work(self, phase: str) -> Work:
        """What a phase repeats."""
        self.model.train(phase == "train_step")
        if phase == "train_step":
            step = RecordedUpdate(self.device) if self.settings.cuda_graphs else update
            return partial(train_once, self.model, self.optimizer, self.batch, self.bfloat16, step)
        if phase == "step":
            assert self._state is not None
            tokens, state, _ = self._state
            return self._inference(partial(self._steps_in_a_row, tokens, state))
        work = work_of(phase, self.model, self.batch, self.settings.decode_tokens, self.settings.cuda_graphs)
        self._generation = work if isinstance(work, Generation) else None
        return self._inference(work)

    def forget_work(self) -> None:
        """Lets go of what only the last phase needed."""
        self._generation = None
        self.optimizer.zero_grad()

    def advance(self, position: int) -> None:
        """Decodes, not timed, so far that the next step is that of `position`."""
        if "step" not in self.going_on:
            return
        try:
            with inferring(self.device, self.bfloat16):
                if self._state is None:
                    self.model.eval()
                    encoded = self.model.encode(self.batch.source, self.batch.source_lengths)
                    start = self.model.start(encoded, self.settings.positions[-1])
                    self._state = first_tokens(self.batch), start, 0
                tokens, state, done = self._state
                for _ in range(done, position - 1):
                    tokens, state = next_tokens(self.model, tokens, state)
                self._state = tokens, state, position - 1
        except Exception as error:
            self.stop("step", position, error.with_traceback(None))

    def _steps_in_a_row(self, tokens: Tensor, state: State) -> None:
        """The same step again and again, each waited for as in `generate`."""
        for _ in range(schema.STEPS_IN_A_ROW):
            self.model.step(tokens, state)
            wait_for(self.device)

    def _inference(self, work: Work) -> Work:
        def one() -> None:
            with inferring(self.device, self.bfloat16):
                work()

        return one

    # --- results ---

    def log(self, name: str, value: float, at: int) -> None:
        """Records one value."""
        self.recorder.point(name, value, at)

    def stop(self, phase: str, at: int, error: Exception) -> None:
        """Ends the sweep of a phase before `at`; the whole model's, where the reason is neither time nor memory."""
        words = (str(error).splitlines() or [""])[0]
        if memory.is_out_of_memory(error):
            reason = f"{schema.BY_MEMORY}: {words}"
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        elif isinstance(error, TooSlow):
            reason = f"{schema.BY_TIME}: {words}"
        else:
            self.error = error
            self.going_on.clear()
            return
        self.going_on.discard(phase)
        self.log(f"{schema.STOPPED_AT}{phase}", at, 0)
        self.recorder.tag(f"{schema.STOPPED_BY}{phase}", reason)

    def log_time(self, phase: str, seconds: list[float], at: int) -> None:
        """Records a time with its spread, and the speeds that follow from it."""
        name = schema.PHASES[phase]
        low, median, high = quartiles(seconds)
        self.log(name, median, at)
        self.log(schema.spread(name, schema.LOWER_QUARTILE), low, at)
        self.log(schema.spread(name, schema.UPPER_QUARTILE), high, at)
        interval = relative_interval(seconds)
        if interval is not None:
            self.log(schema.spread(name, schema.INTERVAL), interval, at)
        written = self.batch.size * self.settings.decode_tokens
        match phase:
            case "train_step":
                self._train_seconds = median
                self.log(schema.EFFICIENCY_TRAIN_TOKENS_PER_SECOND, self.batch.tokens / median, at)
            case "generate":
                self.log(schema.GENERATE_TOKENS_PER_SECOND, written / median, at)
                steps = self._steps(len(seconds))
                self.log(schema.DECODE_SECONDS_PER_TOKEN, percentile(steps, 0.50), at)
                self.log(schema.DECODE_SECONDS_PER_TOKEN_P95, percentile(steps, 0.95), at)
            case "generate_naive":
                self.log(schema.GENERATE_NAIVE_TOKENS_PER_SECOND, written / median, at)
                steps = self._steps(len(seconds))
                self.log(schema.DECODE_NAIVE_SECONDS_PER_TOKEN, percentile(steps, 0.50), at)
                self.log(schema.DECODE_NAIVE_SECONDS_PER_TOKEN_P95, percentile(steps, 0.95), at)

    def _steps(self, repetitions: int) -> list[float]:
        """Seconds of each step of the last so many generations: those before them were to warm up."""
        assert self._generation is not None
        return [taken for one in self._generation.steps[-repetitions:] for taken in one]

    def log_length(self, peak: float) -> None:
        """Records what is counted, not measured, at the present length."""
        config, length, size, vocabulary = self.config, self.length, self.batch.size, self.settings.vocabulary
        flops = {
            "train_step": size * training_flops(config, length, length, vocabulary),
            "encode": size * encode_flops(config, length),
            "decode": size * decode_flops(config, length, length, vocabulary),
            "generate": generate_flops(config, length, self.settings.decode_tokens, vocabulary, size),
        }
        for phase, count in flops.items():
            self.log(schema.PHASE_FLOPS[phase], count, length)
        self.log(schema.BATCH_SIZE, size, length)
        self.log(schema.ATTENTION_SHARE, attention_share(config, length, length, vocabulary), length)
        self.log(schema.STATE_BYTES, state_bytes(config, length, length, 2 if self.bfloat16 else 4), length)
        if self._train_seconds is not None:
            self.log(schema.PEAK_SHARE, flops["train_step"] / self._train_seconds / peak, length)

    def log_position(self, position: int) -> None:
        """Records what is counted at a position of the target."""
        flops = step_flops(self.config, self.length, position - 1, self.settings.vocabulary)
        self.log(schema.PHASE_FLOPS["step"], self.batch.size * flops, position)

    def measure_memory(self, phase: str, metric: str) -> None:
        """Records the peak of a phase; where there is not enough, the phase ends."""
        rehearse: Callable[..., None] = train_anew if phase == "train_step" else partial(infer_anew, phase)
        one = self.settings.model_copy(update={"tokens_per_batch": None, "batch_size": 1, "decode_tokens": 1})
        rehearsal = partial(rehearse, self.config, one, 1, self.device, self.bfloat16)
        work = partial(rehearse, self.config, self.settings, self.length, self.device, self.bfloat16)
        try:
            found = memory.peak(rehearsal, work, self.device)
        except Exception as error:
            self.stop(phase, self.length, error.with_traceback(None))
            return
        if found is not None:
            self.log(metric, found, self.length)

    def measure_energy(self, phase: str, metric: str) -> bool:
        """Records joules for 1,000 tokens, where the device counts them; whether it did."""
        try:
            with around(phase, self.device, self.bfloat16):
                found = machine.joules(self.work(phase), self.device, self.settings.warmup)
        except Exception as error:
            self.stop(phase, self.length, error.with_traceback(None))
            return False
        finally:
            self.forget_work()
        if found is not None:
            tokens = {
                "train_step": self.batch.tokens,
                "encode": self.batch.source.numel(),
                "decode": self.batch.target.numel(),
                "generate": self.batch.size * self.settings.decode_tokens,
            }
            self.log(metric, 1000 * found / tokens[phase], self.length)
        return found is not None
