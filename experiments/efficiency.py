"""Efficiency: how fast a model is, and how much memory it takes, against sequence length.

One model, alone on the device, on random tokens; source and target have the same length, and every batch holds the same
number of tokens. The clock waits for the device, the first repetitions are not counted, medians are reported.
"""

from __future__ import annotations

import multiprocessing
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection

import torch

from experiments.config import Efficiency
from experiments.data import Batch
from experiments.schema import (
    BATCH_SIZE,
    DECODE_SECONDS_PER_TOKEN,
    EFFICIENCY_TRAIN_TOKENS_PER_SECOND,
    ENCODE_SECONDS,
    PEAK_MEMORY,
    PEAK_SHARE,
    STATE_BYTES,
    TRAIN_STEP_FLOPS,
    TRAIN_STEP_SECONDS,
    TRAIN_STEP_SECONDS_HIGH,
    TRAIN_STEP_SECONDS_LOW,
)
from experiments.training import update, uses_bfloat16
from models.config import Dimensions, ModelConfig
from models.cost import state_bytes, training_flops
from models.interface import BOS, EncoderDecoder
from models.registry import build

FIRST_SYMBOL = 3  # after the special ones
MATMUL_SIZES = {"cpu": (256, 512, 1024, 2048), "cuda": (4096, 8192)}  # of the square matrices that give the peak

Log = Callable[[str, float, int], None]  # name of the metric, value, sequence length


def measure(
    config: ModelConfig,
    settings: Efficiency,
    *,
    seed: int,
    device: torch.device,
    log: Log,
    watch: Callable[[int, int], None],
) -> None:
    """Measures everything at every length.

    Args:
        config: of the model, widths stated.
        settings: which lengths, how often.
        seed: of the weights and the tokens.
        device: on which nothing else runs meanwhile.
        log: takes every ``efficiency/`` metric of experiments.schema.
        watch: told how many lengths of how many are done.
    """
    torch.manual_seed(seed)
    model = build(config, dimensions(settings)).to(device)
    bfloat16 = uses_bfloat16(settings.precision, device)
    peak = matmul_flops_per_second(device, bfloat16, settings)
    for done, length in enumerate(settings.lengths):
        watch(done, len(settings.lengths))
        step = _TrainingStep(model, settings, length, device, bfloat16)
        seconds = timed(step, settings, device)
        low, median, high = quartiles(seconds)
        flops = step.batch.size * training_flops(config, length, length, settings.vocabulary)
        log(BATCH_SIZE, step.batch.size, length)
        log(TRAIN_STEP_SECONDS, median, length)
        log(TRAIN_STEP_SECONDS_LOW, low, length)
        log(TRAIN_STEP_SECONDS_HIGH, high, length)
        log(EFFICIENCY_TRAIN_TOKENS_PER_SECOND, step.batch.size * 2 * length / median, length)
        log(TRAIN_STEP_FLOPS, flops, length)
        log(PEAK_SHARE, flops / median / peak, length)

        model.eval()
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            encode = timed(partial(model.encode, step.batch.source, step.batch.source_lengths), settings, device)
            decode = timed(partial(_generate, model, step.batch, settings.decode_tokens), settings, device)
            start = timed(partial(_generate, model, step.batch, 0), settings, device)
        log(ENCODE_SECONDS, statistics.median(encode), length)
        generation = statistics.median(decode) - statistics.median(start)
        if generation > 0:  # else it is lost in the noise of the machine, and stays missing
            log(DECODE_SECONDS_PER_TOKEN, generation / settings.decode_tokens, length)
        model.train()
        log(STATE_BYTES, state_bytes(config, length, length, 2 if bfloat16 else 4), length)
        memory = peak_memory(config, settings, length, device, bfloat16)
        if memory is not None:
            log(PEAK_MEMORY, memory, length)
    watch(len(settings.lengths), len(settings.lengths))


def dimensions(settings: Efficiency) -> Dimensions:
    """What a sweep asks of a model; its symbols mean nothing, so that both sides may have the same."""
    return Dimensions(settings.vocabulary, settings.vocabulary, True, max(*settings.lengths, settings.decode_tokens))


def timed(work: Callable[[], object], settings: Efficiency, device: torch.device) -> list[float]:
    """Seconds of each counted repetition."""
    seconds = []
    for repetition in range(settings.warmup + settings.repeats):
        _wait_for(device)
        start = time.perf_counter()
        work()
        _wait_for(device)
        if repetition >= settings.warmup:
            seconds.append(time.perf_counter() - start)
    return seconds


def quartiles(seconds: list[float]) -> tuple[float, float, float]:
    """First quartile, median and third quartile; of a single value, that value three times."""
    if len(seconds) == 1:
        return seconds[0], seconds[0], seconds[0]
    low, median, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return low, median, high


def matmul_flops_per_second(device: torch.device, bfloat16: bool, settings: Efficiency) -> float:
    """Operations per second of square matrix products, at their best: what this process could reach on this device."""
    best = 0.0
    for size in MATMUL_SIZES[device.type]:
        matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16 if bfloat16 else torch.float32)
        best = max(best, 2 * size**3 / min(timed(partial(torch.matmul, matrix, matrix), settings, device)))
    return best


def peak_memory(
    config: ModelConfig, settings: Efficiency, length: int, device: torch.device, bfloat16: bool
) -> float | None:
    """Bytes that a training step takes at its highest, over what was held before the model was built.

    On CUDA as the allocator counts; on Linux the high-water mark of the resident set of a process of its own; None
    elsewhere, since nothing there tells.
    """
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        _TrainingStep(build(config, dimensions(settings)).to(device), settings, length, device, bfloat16)()
        return torch.cuda.max_memory_allocated(device) - before
    if sys.platform != "linux":
        return None
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch is imported once, not once a length
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_resident_peak, args=(sender, config, settings, length, bfloat16))
    process.start()
    sender.close()
    try:
        return float(receiver.recv())
    except EOFError:
        raise MemoryError(f"the process that measures memory at length {length} died: out of memory?") from None
    finally:
        process.join()


class _TrainingStep:
    """One batch of random tokens, and what training does with it."""

    def __init__(
        self, model: EncoderDecoder, settings: Efficiency, length: int, device: torch.device, bfloat16: bool
    ) -> None:
        self.model = model
        self.bfloat16 = bfloat16
        shape = (3, settings.tokens_per_batch // (2 * length), length)
        source, target_in, target = torch.randint(FIRST_SYMBOL, settings.vocabulary, shape).to(device)
        self.batch = Batch(source, target_in, target, torch.full(shape[1:2], length))
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def __call__(self) -> None:
        update(self.model, self.optimizer, self.batch, clip=1.0, label_smoothing=0.0, bfloat16=self.bfloat16)


def _generate(model: EncoderDecoder, batch: Batch, tokens: int) -> None:
    """Greedy decoding of exactly so many tokens: random weights would end sequences at random."""
    state = model.start(model.encode(batch.source, batch.source_lengths), max(tokens, 1))
    last = torch.full((batch.size,), BOS, device=batch.source.device)
    for _ in range(tokens):
        logits, state = model.step(last, state)
        last = logits.argmax(-1)


def _resident_peak(sender: Connection, config: ModelConfig, settings: Efficiency, length: int, bfloat16: bool) -> None:
    """Runs in a process of its own: two training steps, since from the second on there is the optimiser's state."""
    torch.set_num_threads(1)
    cpu = torch.device("cpu")

    def two_steps(settings: Efficiency, length: int) -> None:
        step = _TrainingStep(build(config, dimensions(settings)), settings, length, cpu, bfloat16)
        step()
        step()

    two_steps(settings.model_copy(update={"tokens_per_batch": 2}), 1)  # torch loads its kernels at their first use
    before = _status_bytes("VmRSS")
    two_steps(settings, length)
    sender.send(_status_bytes("VmHWM") - before)


def _status_bytes(name: str) -> int:
    """A memory figure of this process from the kernel (proc(5), status)."""
    with open("/proc/self/status", encoding="ascii") as lines:
        for line in lines:
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {name}")


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
