"""The LSTM family: a recurrent encoder and a recurrent decoder, with or without attention.

Shapes: B sequences, S source and T target positions, E embedding size, H hidden size, L layers, V vocabulary.
The twin of this file is models/transformer.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.attention import LuongAttention
from models.config import Dimensions, LSTMConfig
from models.embeddings import TokenEmbedding
from models.interface import PAD, Decoder, Encoder, Memory


class LSTMEncoder(Encoder):
    """Reads the source token by token, both ways if asked (Schuster & Paliwal 1997)."""

    def __init__(self, config: LSTMConfig, dimensions: Dimensions) -> None:
        super().__init__()
        assert config.hidden_size is not None
        assert config.embedding_size is not None
        directions = 2 if config.bidirectional else 1
        self.embedding = TokenEmbedding(dimensions.source_vocabulary, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        self.recurrence = recurrence(
            config, config.embedding_size, config.hidden_size // directions, bidirectional=config.bidirectional
        )

    def forward(self, source: Tensor, lengths: Tensor | None) -> Memory:
        """(B, S) → states (B, S, H) and the final state of each layer; both directions side by side in H."""
        embedded = self.dropout(self.embedding(source))  # (B, S, E)
        if lengths is None:
            states, final = self.recurrence(embedded)
            mask = None
        else:
            packed = pack_padded_sequence(embedded, lengths, batch_first=True, enforce_sorted=False)
            states, final = self.recurrence(packed)
            states, _ = pad_packed_sequence(states, batch_first=True, total_length=source.shape[1])
            mask = source != PAD
        hidden, cell = (self._side_by_side(x) for x in final)
        return Memory(self.dropout(states), mask, (hidden, cell))

    def _side_by_side(self, final: Tensor) -> Tensor:
        """(L·directions, B, H / directions) → (L, B, H)."""
        _, batch, _ = final.shape
        return final.view(self.recurrence.num_layers, -1, batch, final.shape[-1]).transpose(1, 2).flatten(2)


@dataclass(frozen=True)
class LSTMState:
    """Between two steps: hidden and cell state (L, B, H) each, and what attention looks at, where there is any.

    `inputs` is the first layer's projection of every symbol of the vocabulary, (V, 4H), shared by all sequences.
    """

    hidden: tuple[Tensor, ...]
    cell: tuple[Tensor, ...]
    inputs: Tensor
    attended: tuple[Tensor, Tensor] | None  # keys and states of the source, each (B, S, H)
    mask: Tensor | None  # (B, 1, S)

    @property
    def tensors(self) -> list[Tensor]:
        """What is held for each sequence."""
        return [*self.hidden, *self.cell, *(self.attended or ())]


class LSTMDecoder(Decoder):
    """Starts where the encoder ended (Sutskever et al. 2014) and, with attention, looks back at all it saw."""

    def __init__(self, config: LSTMConfig, dimensions: Dimensions) -> None:
        super().__init__()
        assert config.hidden_size is not None
        assert config.embedding_size is not None
        self.embedding = TokenEmbedding(dimensions.target_vocabulary, config.embedding_size)
        self.dropout = nn.Dropout(config.dropout)
        self.recurrence = recurrence(config, config.embedding_size, config.hidden_size, bidirectional=False)
        self.attention = LuongAttention(config.hidden_size) if config.attention == "general" else None
        self.output = nn.Linear(config.hidden_size, dimensions.target_vocabulary)

    def forward(self, target_in: Tensor, memory: Memory) -> Tensor:
        """(B, T) → logits (B, T, V): the recurrence in one call, then attention for all positions at once."""
        assert memory.final is not None
        states, _ = self.recurrence(self.dropout(self.embedding(target_in)), memory.final)  # (B, T, H)
        if self.attention is not None:
            key = self.attention.project(memory.states)
            states = self.attention(states, key, memory.states, _row_mask(memory.mask))
        return self.output(self.dropout(states))

    def start(self, memory: Memory, max_length: int) -> LSTMState:
        """The encoder's final state; its size does not depend on `max_length`."""
        assert memory.final is not None
        hidden, cell = memory.final
        attended = None
        if self.attention is not None:
            attended = self.attention.project(memory.states), memory.states
        weight, _, bias, recurrent_bias = self._weights(0)
        vocabulary = torch.arange(self.embedding.num_embeddings, device=weight.device)
        inputs = F.linear(self.embedding(vocabulary), weight, bias + recurrent_bias)
        return LSTMState(hidden.unbind(0), cell.unbind(0), inputs, attended, _row_mask(memory.mask))

    def step(self, tokens: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """(B,) tokens → logits (B, V). The first layer's input projection is looked up, not computed."""
        hidden: list[Tensor] = []
        cell: list[Tensor] = []
        below = state.inputs[tokens]  # (B, 4H)
        for layer in range(self.recurrence.num_layers):
            weight, recurrent, bias, recurrent_bias = self._weights(layer)
            if layer > 0:
                below = F.linear(hidden[-1], weight, bias + recurrent_bias)
            gates = torch.addmm(below, state.hidden[layer], recurrent.t())
            h, c = lstm_cell(gates, state.cell[layer])
            hidden.append(h)
            cell.append(c)
        top = hidden[-1][:, None]  # (B, 1, H)
        if self.attention is not None:
            assert state.attended is not None
            top = self.attention(top, *state.attended, state.mask)
        logits = self.output(top[:, 0])
        return logits, LSTMState(tuple(hidden), tuple(cell), state.inputs, state.attended, state.mask)

    def _weights(self, layer: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Input weights (4H, ·), recurrent weights (4H, H) and their biases (4H,), of one layer."""
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        weight, recurrent, bias, recurrent_bias = (getattr(self.recurrence, f"{name}_l{layer}") for name in names)
        return weight, recurrent, bias, recurrent_bias


def recurrence(config: LSTMConfig, input_size: int, hidden_size: int, *, bidirectional: bool) -> nn.LSTM:
    """The layers of one side; the forget gates start open (bias 1; Jozefowicz et al. 2015, section 2.2)."""
    lstm = nn.LSTM(
        input_size,
        hidden_size,
        config.layers,
        batch_first=True,
        dropout=config.dropout if config.layers > 1 else 0.0,
        bidirectional=bidirectional,
    )
    for name, parameter in lstm.named_parameters():
        if name.startswith("bias_ih"):
            nn.init.ones_(parameter.data[hidden_size : 2 * hidden_size])
        elif name.startswith("bias_hh"):
            nn.init.zeros_(parameter.data[hidden_size : 2 * hidden_size])
    return lstm


def lstm_cell(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    """One step of the recurrence from its gate activations (B, 4H) and cell state (B, H): new hidden and cell state.

    Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; gates in torch's order i, f, g, o.
    """
    i, f, g, o = gates.chunk(4, dim=-1)
    cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
    return o.sigmoid() * cell.tanh(), cell


def _row_mask(mask: Tensor | None) -> Tensor | None:
    """(B, S) → (B, 1, S): the same for all target positions."""
    return None if mask is None else mask[:, None, :]
