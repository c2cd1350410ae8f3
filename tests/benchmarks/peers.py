"""The suite's models against others of the same sizes: ``make bench-peers`` prints a table of ratios.

Peers: torch.nn.Transformer, BART of the library transformers (the extra ``peers``), and bare nn.LSTM stacks. One
process, one thread, float32; on a GPU (``ARGS="--device cuda"``) under autocast to bfloat16, and LSTMs of both sides in
float32 with products in TF32. Both sides of a ratio are timed in turn, and it is that of their medians. On a GPU the
table has launches, too: where there are many for little work, they are what takes the time, and CUDA graphs what they
save of it.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import inspect
import os
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from analysis import scaling
from experiments import efficiency, evaluation, memory, phases, profiling, training
from experiments.attempts import Checkpoints, Place
from experiments.config import Efficiency, Training
from experiments.environment import hardware, prepare_process, rounded
from experiments.graphs import RecordedUpdate
from experiments.inputs import load_task
from experiments.state import RunState
from experiments.stores import open_store
from experiments.tasks import TASKS
from experiments.timing import timed, wait_for
from experiments.tracking import TrackedRun
from models.config import Dimensions, LSTMConfig, ModelConfig, TransformerConfig
from models.cost import training_flops
from models.decoding import greedy
from models.interface import EOS, PAD, EncoderDecoder
from models.registry import build

SIZES, LENGTHS = (64, 128), (32, 128)
LAYERS, HEADS, VOCABULARY, BATCH, TOKENS = 2, 4, 32, 64, 128
UPDATES = 1500  # of the run whose bookkeeping is measured: a minute on a CPU, in which there are checkpoints
LARGE_SIZE, LARGE_LAYERS, LARGE_LENGTH = 512, 6, 512  # on a GPU: of the model that is to fill it
ROUNDS, WARMUP = 11, 2
DIMENSIONS = Dimensions(VOCABULARY, VOCABULARY, same_symbols=False, max_length=2048)


@dataclass(frozen=True)
class Row:
    """A line of the table: what is compared, where, the bar (empty where there is none), and what was found."""

    what: str
    where: str
    bar: str
    found: float
    met: bool


# --- the models ------------------------------------------------------------------------------------------------------


def transformer_config(size: int, layers: int = LAYERS) -> TransformerConfig:
    return TransformerConfig(
        layers=layers, num_heads=HEADS, positions="learned", hidden_size=size, feedforward_size=4 * size
    )


def lstm_config(size: int, attention: str = "none") -> LSTMConfig:
    return LSTMConfig(layers=LAYERS, hidden_size=size, embedding_size=size, attention=attention)  # type: ignore[arg-type]


def small_configs() -> dict[str, ModelConfig]:
    """Of the smallest size: where launches are most of the time on a GPU."""
    return {
        "LSTM": lstm_config(SIZES[0]),
        "LSTM + attention": lstm_config(SIZES[0], "general"),
        "Transformer": transformer_config(SIZES[0]),
    }


class TorchTransformer(nn.Module):
    """torch.nn.Transformer between embeddings with learned positions and an output layer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(VOCABULARY, size), nn.Embedding(VOCABULARY, size)
        self.positions = nn.Embedding(DIMENSIONS.max_length, size)
        with warnings.catch_warnings(action="ignore"):  # that it has no nested tensors where the norm comes first
            self.body = nn.Transformer(
                size, HEADS, LAYERS, LAYERS, 4 * size, dropout=0.0, batch_first=True, norm_first=True
            )
        self.output = nn.Linear(size, VOCABULARY)

    def forward(self, source: Tensor, target: Tensor) -> Tensor:
        places = torch.arange(target.shape[1], device=target.device)
        mask = nn.Transformer.generate_square_subsequent_mask(target.shape[1], device=target.device)
        x = self.source(source) + self.positions(places[: source.shape[1]])
        y = self.target(target) + self.positions(places)
        return self.output(self.body(x, y, tgt_mask=mask, tgt_is_causal=True))


class BareLSTM(nn.Module):
    """nn.LSTM stacks alone: what reads both ways, what starts where that ended, embeddings and an output layer.

    They are in float32, as `Recurrence` is: autocast would have them in float16 on a GPU.
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.source, self.target = nn.Embedding(VOCABULARY, size), nn.Embedding(VOCABULARY, size)
        self.encoder = nn.LSTM(size, size // 2, LAYERS, batch_first=True, bidirectional=True)
        self.decoder = nn.LSTM(size, size, LAYERS, batch_first=True)
        self.output = nn.Linear(size, VOCABULARY)

    def forward(self, source: Tensor, target: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits; `lengths`, on the processor, where sources are padded."""
        read: Any = self.source(source)
        if lengths is not None:
            read = pack_padded_sequence(read, lengths, batch_first=True, enforce_sorted=False)
        with torch.autocast(source.device.type, enabled=False):
            _, final = self.encoder(read)
            hidden, cell = (s.unflatten(0, (LAYERS, 2)).transpose(1, 2).flatten(2).contiguous() for s in final)
            states, _ = self.decoder(self.target(target), (hidden, cell))
        return self.output(states)

    def step(self, token: Tensor, state: Any) -> tuple[Tensor, Any]:
        """(B,) tokens → logits of the next position, and the state that follows."""
        with torch.autocast(token.device.type, enabled=False):
            states, state = self.decoder(self.target(token[:, None]), state)
        return self.output(states[:, 0]), state


@functools.cache  # so that it is said once
def has_bart() -> bool:
    """Whether there is BART to compare with; says how to get it where there is none."""
    if importlib.util.find_spec("transformers") is not None:
        return True
    print("bench-peers: no rows against BART without pip install -e '.[peers]' -c constraints.txt", file=sys.stderr)
    return False


def bart(size: int) -> Any:
    from transformers import BartConfig, BartForConditionalGeneration

    settings: dict[str, Any] = {
        **dict.fromkeys(("encoder_layers", "decoder_layers"), LAYERS),
        **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), HEADS),
        **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 4 * size),
        **dict.fromkeys(("dropout", "attention_dropout", "activation_dropout"), 0.0),
    }
    config = BartConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=DIMENSIONS.max_length,
        d_model=size,
        activation_function="relu",
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=EOS,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
        **settings,
    )
    return BartForConditionalGeneration(config)


def ours(config: ModelConfig, device: torch.device) -> EncoderDecoder:
    torch.manual_seed(0)
    return build(config, DIMENSIONS).to(device)


def tokens(*shape: int, device: torch.device) -> Tensor:
    """Random symbols, none of them special."""
    return torch.randint(3, VOCABULARY, shape, device=device)


def precision(device: torch.device) -> torch.autocast:
    """In which both sides of a ratio work: float32 on a processor, bfloat16 on a GPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=on_gpu(device))


def on_gpu(device: torch.device) -> bool:
    return device.type == "cuda"


# --- the clock -------------------------------------------------------------------------------------------------------


def medians(device: torch.device, *works: Callable[[], object], rounds: int = ROUNDS) -> list[float]:
    """Median seconds of each work, all timed in turn."""
    seconds: list[list[float]] = [[] for _ in works]
    for repetition in range(WARMUP + rounds):
        for taken, work in zip(seconds, works, strict=True):
            one = timed(work, device)
            if repetition >= WARMUP:
                taken.append(one)
    return [statistics.median(taken) for taken in seconds]


def padded(source: Tensor, lengths: Tensor) -> Tensor:
    """The same tokens (B, S), those from each of the (B,) lengths on replaced by padding."""
    places = torch.arange(source.shape[1], device=source.device)
    return source.masked_fill(places >= lengths.to(source.device)[:, None], PAD)


def training_step(
    model: nn.Module,
    logits: Callable[[Tensor, Tensor], Tensor],
    length: int,
    device: torch.device,
    lengths: Tensor | None = None,
) -> Callable[[], None]:
    """A step on random tokens, of which sources have these lengths; all the longest where None."""
    source, target_in, target = tokens(3, BATCH, length, device=device)
    if lengths is not None:
        source = padded(source, lengths)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    model.train()

    def step() -> None:
        with precision(device):
            loss = F.cross_entropy(logits(source, target_in).flatten(0, 1), target.flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def step_of_ours(
    config: ModelConfig, length: int, device: torch.device, lengths: Tensor | None = None
) -> Callable[[], None]:
    model, known = ours(config, device), torch.full((BATCH,), length) if lengths is None else lengths
    return training_step(model, lambda source, target: model(source, target, known), length, device, lengths)


# --- the rows --------------------------------------------------------------------------------------------------------


def ratio(what: str, where: str, bar: float, peer: float, own: float) -> Row:
    return Row(what, where, f"≥ {bar:.2f}×", peer / own, peer / own >= bar)


def training_rows(device: torch.device) -> Iterator[Row]:
    for size in SIZES:
        for length in LENGTHS:
            where = f"d {size}, length {length}"
            plain = TorchTransformer(size).to(device)
            steps = [
                step_of_ours(transformer_config(size), length, device),
                training_step(plain, plain, length, device),
            ]
            if has_bart():
                library = bart(size).to(device)

                def of_bart(source: Tensor, target: Tensor, library: Any = library) -> Tensor:
                    return library(input_ids=source, decoder_input_ids=target, use_cache=False).logits

                steps.append(training_step(library, of_bart, length, device))
            own, torchs, *barts = medians(device, *steps)
            yield ratio("Transformer training step / torch.nn.Transformer", where, 1.15, torchs, own)
            for found in barts:
                yield ratio("Transformer training step / BART", where, 1.05, found, own)


def lstm_rows(device: torch.device) -> Iterator[Row]:
    for size in SIZES:
        for length in LENGTHS:
            where = f"d {size}, length {length}"
            bare = BareLSTM(size).to(device)
            own, attending, bares = medians(
                device,
                step_of_ours(lstm_config(size), length, device),
                step_of_ours(lstm_config(size, "general"), length, device),
                training_step(bare, bare, length, device),
            )
            yield ratio("LSTM training step / bare nn.LSTM", where, 0.95, bares, own)
            yield ratio("LSTM + attention training step / LSTM", where, 0.85, own, attending)
            lengths = torch.randint(length // 2, length + 1, (BATCH,))  # as of a corpus

            def of_packed(source: Tensor, target: Tensor, bare: BareLSTM = bare, lengths: Tensor = lengths) -> Tensor:
                return bare(source, target, lengths)

            own, bares = medians(
                device,
                step_of_ours(lstm_config(size), length, device, lengths),
                training_step(bare, of_packed, length, device, lengths),
            )
            yield ratio("LSTM training step / bare nn.LSTM", f"{where}, padded", 0.95, bares, own)


def decoding(model: EncoderDecoder, source: Tensor, lengths: Tensor) -> Callable[[], Tensor]:
    """`greedy`, outside of its own inference mode, in which weights would be cast anew for every token."""
    return partial(inspect.unwrap(greedy), model, source, TOKENS, lengths)


def decoding_rows(device: torch.device) -> Iterator[Row]:
    for size in SIZES:
        model = ours(transformer_config(size), device).eval()
        model.decoder.output.bias.data[EOS] = -1e9  # nothing ends early
        library = bart(size).to(device).eval() if has_bart() else None
        for batch, bar in ((1, 3.0), (BATCH, 2.0)):
            source, lengths = tokens(batch, 32, device=device), torch.full((batch,), 32)
            cached = decoding(model, source, lengths)
            if library is None:
                continue
            library.generation_config.forced_eos_token_id = None
            generate = partial(
                library.generate,
                source,
                attention_mask=torch.ones_like(source),
                max_new_tokens=TOKENS,
                min_new_tokens=TOKENS,
                num_beams=1,
                do_sample=False,
            )
            with phases.inferring(device, on_gpu(device)):
                assert cached().shape[1] == generate().shape[1] - 1 == TOKENS
                own, barts = medians(device, cached, generate, rounds=5)
            yield ratio("Transformer cached greedy decoding / BART", f"d {size}, batch {batch}", bar, barts, own)
        plain = phases.random_batch(Efficiency(lengths=(32,), batch_size=BATCH), 32, torch.Generator()).to(device)
        with phases.inferring(device, on_gpu(device)):
            own, naive = medians(device, cached, partial(phases.generate_naively, model, plain, TOKENS), rounds=3)
        yield ratio("Transformer cached / naive decoding", f"d {size}, batch {BATCH}", 15.0, naive, own)


def step_rows(device: torch.device) -> Iterator[Row]:
    for size in SIZES:
        model, bare = ours(lstm_config(size), device).eval(), BareLSTM(size).to(device).eval()
        with phases.inferring(device, on_gpu(device)):
            start = model.start(model.encode(tokens(1, 32, device=device)), TOKENS)
        token = tokens(1, device=device)

        def own_steps(model: EncoderDecoder = model, start: Any = start, token: Tensor = token) -> None:
            state = start
            for _ in range(TOKENS):
                _, state = model.step(token, state)

        def bare_steps(bare: BareLSTM = bare, token: Tensor = token) -> None:
            state = None
            for _ in range(TOKENS):
                _, state = bare.step(token, state)

        with phases.inferring(device, on_gpu(device)):
            own, bares = medians(device, own_steps, bare_steps)
        yield ratio("LSTM step / stepping nn.LSTM", f"d {size}, batch 1", 3.0, bares, own)


def memory_rows(device: torch.device) -> Iterator[Row]:
    lengths = (512, 1024, 2048)
    for size in SIZES:
        settings = Efficiency(lengths=lengths, batch_size=4)
        config = transformer_config(size)
        peaks = []
        for length in lengths:
            rehearsal, work = (
                partial(phases.train_anew, config, settings, one, device, on_gpu(device)) for one in (1, length)
            )
            found = memory.peak(rehearsal, work, device)
            assert found is not None
            peaks.append(found)
        exponent = scaling.fit(lengths, peaks).exponent
        yield Row(
            "Transformer memory exponent, 512 to 2,048", f"d {size}, batch 4", "≤ 1.10", exponent, exponent <= 1.1
        )


def peak_rows(device: torch.device) -> Iterator[Row]:
    shapes = [(128, LAYERS, length) for length in LENGTHS]
    if on_gpu(device):
        shapes.append((LARGE_SIZE, LARGE_LAYERS, LARGE_LENGTH))
    for size, layers, length in shapes:
        config = transformer_config(size, layers)
        before = efficiency.matmul_flops_per_second(device, on_gpu(device))
        (own,) = medians(device, step_of_ours(config, length, device))
        peak = max(before, efficiency.matmul_flops_per_second(device, on_gpu(device)))
        share = BATCH * training_flops(config, length, length, VOCABULARY) / own / peak
        where = f"d {size}, {layers}+{layers} layers, length {length}"
        yield Row("Transformer's share of the matmul peak", where, "≥ 0.65", share, share >= 0.65)


def launch_rows(device: torch.device) -> Iterator[Row]:
    """Of a training step, and of greedy decoding for each token; nothing without a GPU."""
    if not on_gpu(device):
        return
    length = LENGTHS[0]
    for name, config in small_configs().items():
        step = step_of_ours(config, length, device)
        step()  # the first one makes the optimiser's state
        where = f"d {SIZES[0]}, length {length}"
        launched = profiling.launches(step, device)
        if launched is not None:
            yield Row(f"{name}: launches of a training step", where, "", float(launched), True)
        model = ours(config, device).eval()
        model.decoder.output.bias.data[EOS] = -1e9
        decode = decoding(model, tokens(BATCH, length, device=device), torch.full((BATCH,), length))
        with phases.inferring(device, on_gpu(device)):
            decode()  # casts the weights
            launched = profiling.launches(decode, device)
        if launched is not None:
            a_token = f"{name}: launches of a decoded token"
            yield Row(a_token, f"{where}, {TOKENS} tokens", "", launched / TOKENS, True)


def graph_rows(device: torch.device) -> Iterator[Row]:
    """What CUDA graphs make of an update and of greedy decoding; nothing without a GPU."""
    if not on_gpu(device):
        return
    length = LENGTHS[0]
    batch = phases.random_batch(Efficiency(lengths=(length,), batch_size=BATCH), length, torch.Generator())
    batch = batch.to(device)
    for name, config in small_configs().items():
        works = []
        for step in (training.update, RecordedUpdate(device)):
            model = ours(config, device).train()
            works.append(partial(phases.train_once, model, phases.optimizer_of(model), batch, True, step))
        plain, recorded = medians(device, *works)
        where = f"d {SIZES[0]}, length {length}"
        yield Row(f"{name}: training step / recorded", where, "", plain / recorded, True)
        model = ours(config, device).eval()
        one_by_one = partial(phases.generate, model, batch, TOKENS)
        with phases.inferring(device, bfloat16=True):
            plain, recorded = medians(device, one_by_one, phases.RecordedGeneration(model, batch, TOKENS))
        yield Row(f"{name}: decoding / recorded", f"{where}, {TOKENS} tokens", "", plain / recorded, True)


def bookkeeping_rows(device: torch.device) -> Iterator[Row]:
    """What a training run spends in tracking, and in evaluation outside of the model."""
    spent = {"tracking": 0.0, "evaluation": 0.0, "model": 0.0}

    def clocked(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            if name == "model":
                wait_for(device)  # for what was asked of it before
            start = time.perf_counter()
            try:
                found = work(*arguments, **more)
                if name == "model":
                    wait_for(device)  # else it was asked for, not done, and evaluation waits for it
                return found
            finally:
                spent[name] += time.perf_counter() - start

        return call

    task = TASKS["reverse"]()
    data = load_task(task, None)
    config = transformer_config(64)
    torch.manual_seed(0)
    model = build(config, data.dimensions).to(device)
    real_evaluate, real_decode = training.evaluate, evaluation._decode
    with tempfile.TemporaryDirectory() as folder:
        store = open_store(f"sqlite:///{Path(folder) / 'mlflow.db'}", "bookkeeping", "")
        state = RunState.claim(store.states / "bookkeeping")
        assert state is not None
        start = time.perf_counter()
        tracked = clocked("tracking", TrackedRun)(store, state, "bookkeeping", "bookkeeping", {}, {})
        keeper = Checkpoints(state, None, tracked, every=Place.checkpoint_every, stop=lambda: False)
        for owner, name in ((tracked, "point"), (keeper, "due"), (keeper, "save")):
            setattr(owner, name, clocked("tracking", getattr(owner, name)))
        training.evaluate = clocked("evaluation", real_evaluate)
        evaluation._decode = clocked("model", real_decode)
        forward = model.forward

        def only_in_evaluation(*arguments: Any) -> Tensor:
            return forward(*arguments) if model.training else clocked("model", forward)(*arguments)

        model.forward = only_in_evaluation  # type: ignore[assignment]
        settings = Training(steps=UPDATES, batch_size=BATCH, learning_rate=1e-3, evaluate_every=UPDATES // 3)
        training.train(
            model,
            config,
            data,
            settings,
            headline=task.headline,
            metrics=task.metrics,
            seed=0,
            device=device,
            recorder=tracked,
            keeper=keeper,
            watch=lambda status: None,
        )
        clocked("tracking", tracked.finish)("FINISHED")
        total = time.perf_counter() - start
        training.evaluate, evaluation._decode = real_evaluate, real_decode
    share = (spent["tracking"] + spent["evaluation"] - spent["model"]) / total
    where = f"d 64, reverse, {UPDATES} steps, {total:.0f} s"
    yield Row("tracking and evaluation's bookkeeping, share of a run", where, "≤ 0.01", share, share <= 0.01)


ROWS: dict[str, Callable[[torch.device], Iterator[Row]]] = {
    "training": training_rows,
    "lstm": lstm_rows,
    "decoding": decoding_rows,
    "step": step_rows,
    "memory": memory_rows,
    "peak": peak_rows,
    "graphs": graph_rows,
    "bookkeeping": bookkeeping_rows,
    "launches": launch_rows,  # last: CUPTI stays with a process that was profiled, and has it launch more slowly
}


def main() -> None:
    """Prints the rows that the command line names; all without any."""
    parser = argparse.ArgumentParser(prog="bench-peers", description=__doc__)
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], default=[], metavar="ROWS", help=", ".join(ROWS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    prepare_process()
    line = "{:<56} {:<38} {:>8} {:>8}  {}"
    print(line.format("what", "where", "bar", "found", ""), flush=True)
    with rounded(on_gpu(device)):  # as in training, where all other products are in bfloat16
        for name in ROWS:
            if arguments.rows and name not in arguments.rows:
                continue
            for row in ROWS[name](device):
                found = f"{row.found:.3f}"
                print(line.format(row.what, row.where, row.bar, found, "" if row.met else "missed"), flush=True)
    precise = "bfloat16" if on_gpu(device) else "one thread, float32"
    load = os.getloadavg()[0]
    print(
        f"{hardware(device)}, torch {torch.__version__}, {precise}, medians of {ROUNDS} rounds in turn; "
        f"load average {load:.1f}"
    )


if __name__ == "__main__":
    main()
