"""What a sweep times and measures: phases of models at work, on random tokens without padding.

Each is work that can be repeated as often as the clock asks for it (experiments.efficiency).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial

import torch
from torch import Tensor

from experiments import memory
from experiments.config import Efficiency
from experiments.data import Batch
from experiments.environment import rounded
from experiments.graphs import GraphRecorder, Recording
from experiments.profiling import launches
from experiments.timing import timed, wait_for
from experiments.training import Update, update
from models.config import Dimensions, ModelConfig
from models.interface import BOS, EncoderDecoder, Memory, State
from models.registry import build

FIRST_SYMBOL = 3  # after the special ones

Work = Callable[[], object]


def dimensions(settings: Efficiency) -> Dimensions:
    """What a sweep asks of a model; its symbols mean nothing, so that both sides may have the same."""
    longest = max(*settings.lengths, *settings.positions, settings.decode_tokens)
    return Dimensions(settings.vocabulary, settings.vocabulary, True, longest)


def random_batch(settings: Efficiency, length: int, generator: torch.Generator) -> Batch:
    """Random tokens, no padding."""
    shape = (3, settings.batch_at(length), length)
    source, target_in, target = torch.randint(FIRST_SYMBOL, settings.vocabulary, shape, generator=generator)
    return Batch(source, target_in, target, torch.full(shape[1:2], length))


def first_tokens(batch: Batch) -> Tensor:
    """(B,) what every target begins with."""
    return torch.full((batch.size,), BOS, device=batch.source.device)


def next_tokens(model: EncoderDecoder, tokens: Tensor, state: State) -> tuple[Tensor, State]:
    """The (B,) tokens that follow those of the last position, greedily, and the state after them."""
    logits, state = model.step(tokens, state)
    return logits.argmax(-1), state


def optimizer_of(model: EncoderDecoder) -> torch.optim.Optimizer:
    """Such as trainings have."""
    return torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)


@contextmanager
def inferring(device: torch.device, bfloat16: bool) -> Iterator[None]:
    """Outside of training. Weights are cast to bfloat16 once in the outermost of such contexts.

    In inference mode they would be cast at every call: torch casts once only what could have a gradient.
    """
    with (
        torch.no_grad() if bfloat16 else torch.inference_mode(),
        rounded(bfloat16),
        torch.autocast(device.type, torch.bfloat16, enabled=bfloat16),
    ):
        yield


def around(phase: str, device: torch.device, bfloat16: bool) -> AbstractContextManager[None]:
    """Of all repetitions of a phase: casts of weights are part of none, but in training, in which weights change."""
    return nullcontext() if phase == "train_step" else inferring(device, bfloat16)


def train_once(
    model: EncoderDecoder, optimizer: torch.optim.Optimizer, batch: Batch, bfloat16: bool, step: Update = update
) -> None:
    """A step of training."""
    step(model, optimizer, batch, clip=1.0, label_smoothing=0.0, bfloat16=bfloat16)


def work_of(phase: str, model: EncoderDecoder, batch: Batch, tokens: int, cuda_graphs: bool = False) -> Work:
    """What a phase repeats that is neither training nor a single step."""
    match phase:
        case "encode":
            return partial(model.encode, batch.source, batch.source_lengths)
        case "decode":
            return Decoding(model, batch)
        case "generate":
            return Generation(
                RecordedGeneration(model, batch, tokens) if cuda_graphs else partial(generate, model, batch, tokens)
            )
        case "generate_naive":
            return Generation(partial(generate_naively, model, batch, tokens))
    raise ValueError(phase)


class Decoding:
    """Teacher forcing: all target positions at once, from a memory that is made at the first call."""

    def __init__(self, model: EncoderDecoder, batch: Batch) -> None:
        self.model, self.batch = model, batch
        self.memory: Memory | None = None

    def __call__(self) -> None:
        """Decodes; the memory lasts."""
        if self.memory is None:
            self.memory = self.model.encode(self.batch.source, self.batch.source_lengths)
        self.model.decoder(self.batch.target_in, self.memory)


class NextToken:
    """One more token of every sequence, the first, from a state that is made at the first call."""

    def __init__(self, model: EncoderDecoder, batch: Batch) -> None:
        self.model, self.batch = model.eval(), batch
        self.state: State | None = None

    def __call__(self) -> None:
        """Writes the first token; the state lasts."""
        if self.state is None:
            self.state = self.model.start(self.model.encode(self.batch.source, self.batch.source_lengths), 1)
        next_tokens(self.model, first_tokens(self.batch), self.state)


class Generation:
    """Generates whenever it is called, and keeps how long each step took."""

    def __init__(self, generate: Callable[[], list[float]]) -> None:
        self.generate = generate
        self.steps: list[list[float]] = []  # seconds, call by call

    def __call__(self) -> None:
        """Generates."""
        self.steps.append(self.generate())


def generate(model: EncoderDecoder, batch: Batch, tokens: int) -> list[float]:
    """Greedy decoding of exactly so many tokens (random weights would end sequences at random): seconds of each."""
    device = batch.source.device
    state = model.start(model.encode(batch.source, batch.source_lengths), tokens)
    last = first_tokens(batch)
    steps = []
    wait_for(device)
    for _ in range(tokens):
        begin = time.perf_counter()
        last, state = next_tokens(model, last, state)
        wait_for(device)  # as whoever looks for the end of a sequence does
        steps.append(time.perf_counter() - begin)
    return steps


class RecordedGeneration:
    """The same, recorded at the first call: first what precedes the steps, then each of them."""

    def __init__(self, model: EncoderDecoder, batch: Batch, tokens: int) -> None:
        """Raises ValueError where there is no GPU."""
        self._model, self._batch, self._tokens = model, batch, tokens
        self._recorder = GraphRecorder(batch.source.device)
        self._recordings: list[Recording[tuple[State, Tensor]]] = []

    def __call__(self) -> list[float]:
        """Seconds of each step, as `generate` has them."""
        if not self._recordings:
            seconds = self._recorder.aside(partial(generate, self._model, self._batch, self._tokens))
            self._record()
            return seconds
        device = self._batch.source.device
        start, *steps = self._recordings
        start.replay()
        wait_for(device)
        return [timed(step.replay, device) for step in steps]

    def _record(self) -> None:
        model, batch = self._model, self._batch

        def start() -> tuple[State, Tensor]:
            encoded = model.encode(batch.source, batch.source_lengths)
            return model.start(encoded, self._tokens), first_tokens(batch)

        def step() -> tuple[State, Tensor]:
            token, after = next_tokens(model, last, state)
            return after, token

        self._recordings.append(self._recorder.record(start))
        for _ in range(self._tokens):
            state, last = self._recordings[-1].result
            self._recordings.append(self._recorder.record(step))

    @property
    def written(self) -> Tensor:
        """(B, tokens) of the last call but the first."""
        return torch.stack([last for _, last in (step.result for step in self._recordings[1:])], dim=1)


def generate_naively(model: EncoderDecoder, batch: Batch, tokens: int) -> list[float]:
    """The same tokens, but each from a decoder that remembers nothing and reads all before it."""
    device = batch.source.device
    encoded = model.encode(batch.source, batch.source_lengths)
    written = first_tokens(batch)[:, None]
    steps = []
    wait_for(device)
    for _ in range(tokens):
        begin = time.perf_counter()
        last = model.decoder(written, encoded)[:, -1].argmax(-1)
        written = torch.cat([written, last[:, None]], dim=1)
        wait_for(device)
        steps.append(time.perf_counter() - begin)
    return steps


def anew(config: ModelConfig, settings: Efficiency, length: int, device: torch.device) -> tuple[EncoderDecoder, Batch]:
    """A model and a batch, for what is measured apart from the clock."""
    model = build(config, dimensions(settings)).to(device)
    return model, random_batch(settings, length, torch.Generator().manual_seed(0)).to(device)


def train_anew(config: ModelConfig, settings: Efficiency, length: int, device: torch.device, bfloat16: bool) -> None:
    """Builds a model and trains it for two steps: from the second on there is the optimiser's state."""
    model, batch = anew(config, settings, length, device)
    optimizer = optimizer_of(model)
    for _ in range(2):
        train_once(model, optimizer, batch, bfloat16)


def infer_anew(
    phase: str, config: ModelConfig, settings: Efficiency, length: int, device: torch.device, bfloat16: bool
) -> None:
    """Builds a model and does a phase of inference with it; before teacher forcing the source is encoded."""
    model, batch = anew(config, settings, length, device)
    with inferring(device, bfloat16):
        work_of(phase, model.eval(), batch, settings.decode_tokens)()


def launches_anew(
    wanted: Sequence[tuple[ModelConfig, str]], settings: Efficiency, length: int, device: torch.device, bfloat16: bool
) -> dict[tuple[ModelConfig, str], int]:
    """Builds models, and counts the launches of a phase of `schema.SWEEP_LAUNCHES` of each, after a call left out.

    What there is no memory for is left out, and that of which the profiler saw no launch.
    """
    found = {}
    for config, phase in wanted:
        try:
            model, batch = anew(config, settings, length, device)
            training = partial(train_once, model, optimizer_of(model), batch, bfloat16)
            work: Work = training if phase == "train_step" else NextToken(model, batch)
            with around(phase, device, bfloat16):
                work()
                launched = launches(work, device)
            if launched is not None:
                found[config, phase] = launched
        except Exception as error:
            if not memory.is_out_of_memory(error):
                raise
    return found
