"""What every model can do, whichever family it is of.

Shapes: B sequences, S source positions, T target positions, H hidden size, V target vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from models.attention import keep_weights
from models.embeddings import TokenEmbedding

PAD, BOS, EOS = 0, 1, 2  # the first three symbols of every vocabulary: padding, beginning, end of sequence


@dataclass(frozen=True)
class Memory:
    """What the encoder found.

    Attributes:
        states: (B, S, H), one vector a source position.
        mask: (B, S) boolean, True = may attend; None where no row is padded.
        final: hidden and cell state, (B, H) each, of each layer of a recurrent encoder after its last position; else
            None.
    """

    states: Tensor
    mask: Tensor | None
    final: list[tuple[Tensor, Tensor]] | None

    def mean(self) -> Tensor:
        """The mean of a sequence's states, (B, H)."""
        if self.mask is None:
            return self.states.mean(1)
        there = self.mask[:, :, None].to(self.states.dtype)
        return (self.states * there).sum(1) / there.sum(1)


def padded(source: Tensor, lengths: Tensor) -> bool:
    """Whether any row of (B, S) token ids is padded; `lengths` (B,) on the CPU."""
    return int(lengths.min()) < source.shape[1]


class State(Protocol):
    """What a decoder remembers between two steps. Explicit: `step` takes one and returns the next."""

    @property
    def tensors(self) -> list[Tensor]:
        """All that is held for each sequence, so that its bytes can be counted."""

    def select(self, rows: Tensor) -> State:
        """The state of these rows, (N,) indices of sequences, in this order; a row may be taken more than once."""


class Encoder(nn.Module, ABC):
    """Reads the source."""

    embedding: TokenEmbedding

    @abstractmethod
    def forward(self, source: Tensor, lengths: Tensor | None) -> Memory:
        """Encodes (B, S) token ids. `lengths` is (B,) on the CPU where rows are padded, None where none is."""


class Decoder(nn.Module, ABC):
    """Writes the target, all positions at once (`forward`) or one at a time (`start`, then `step`)."""

    embedding: TokenEmbedding
    output: nn.Linear

    @abstractmethod
    def forward(self, target_in: Tensor, memory: Memory) -> Tensor:
        """Logits (B, T, V) for (B, T) given inputs; position t sees inputs 0…t only."""

    @abstractmethod
    def start(self, memory: Memory, max_length: int) -> State:
        """The state before the first step, with room for `max_length` steps."""

    @abstractmethod
    def step(self, tokens: Tensor, state: Any) -> tuple[Tensor, State]:
        """Logits (B, V) for the next position after feeding (B,) tokens, and the state that follows."""


class EncoderDecoder(nn.Module):
    """A sequence-to-sequence model: any encoder with any decoder.

    In evaluation mode `forward` and repeated `step` give the same logits, to float tolerance.
    """

    def __init__(self, encoder: Encoder, decoder: Decoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, source: Tensor, target_in: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits for all target positions (teacher forcing).

        Args:
            source: (B, S) token ids, padded at the end with `PAD`.
            target_in: (B, T) token ids that the decoder is fed.
            lengths: (B,) on the CPU, the source lengths; without them they are counted, which waits for the device.

        Returns:
            (B, T, V) logits.
        """
        return self.decoder(target_in, self.encode(source, lengths))

    def attention_weights(
        self, source: Tensor, target_in: Tensor, lengths: Tensor | None = None
    ) -> dict[str, list[Tensor]]:
        """Where each attention looks in a `forward` pass, by the module's name; see `keep_weights` for the shapes."""
        with keep_weights(self) as weights:
            self(source, target_in, lengths)
        return weights

    def encode(self, source: Tensor, lengths: Tensor | None = None) -> Memory:
        """Reads (B, S) token ids; `lengths` as in `forward`."""
        if lengths is None:
            lengths = (source != PAD).sum(1).cpu()
        return self.encoder(source, lengths if padded(source, lengths) else None)

    def start(self, memory: Memory, max_length: int) -> State:
        """The decoding state before the first of at most `max_length` steps."""
        return self.decoder.start(memory, max_length)

    def step(self, tokens: Tensor, state: State) -> tuple[Tensor, State]:
        """Feeds (B,) tokens: logits (B, V) of the next position, and the state that follows."""
        return self.decoder.step(tokens, state)
