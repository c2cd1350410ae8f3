"""The LSTM family: a recurrent encoder and a recurrent decoder, with or without attention.

Shapes: B sequences, S source and T target positions, E embedding size, H hidden size, L layers, V vocabulary.
The twin of this file is models/transformer.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.attention import AdditiveAttention, CrossAttention, LuongAttention, SourceAttention
from models.config import Dimensions, LSTMDecoderConfig, LSTMEncoderConfig, LSTMHalf
from models.embeddings import TokenEmbedding
from models.interface import PAD, Decoder, Encoder, Memory
from models.layers import Sublayer, autocasts, dropout, initialise, stack, top_norm

Pair = tuple[Tensor, Tensor]  # hidden and cell state of a layer
SHUT = 1e6  # taken from what a gate sums up, or added: its sigmoid is 0 or 1 to the last bit, and its gradient 0
FLAGS = 8  # inputs that say where there is padding: one would do, but kernels like sizes that 8 divides


@dataclass(frozen=True)
class Padding:
    """Where sequences have ended, positions first."""

    ended: Tensor  # (T, B, 1) boolean
    last: Tensor  # (1, B, 1): the position of a sequence's last token


class Layer(nn.LSTM):
    """nn.LSTM of one layer, which reads padded sequences as they are.

    It reads flags besides, which are 1 at padding and else 0. Their weights are fixed: they shut the input gate and the
    output gate and open the forget gate. So the cell keeps what it has after the last token; where reading begins at
    the end, it is still zero when the first token comes. States at padding are zero.

    torch would have sequences packed. A processor then computes position by position what is otherwise one call, in
    three or four times the time; a GPU is waited for.
    """

    flags: Tensor  # (4H, FLAGS), their weights

    def __init__(self, input_size: int, hidden_size: int, *, bidirectional: bool) -> None:
        super().__init__(input_size, hidden_size, bidirectional=bidirectional)
        gates = torch.tensor([-SHUT, SHUT, 0.0, -SHUT])  # in torch's order: i, f, g, o
        self.register_buffer("flags", gates.repeat_interleave(hidden_size)[:, None].repeat(1, FLAGS), persistent=False)

    def forward(  # type: ignore[override]
        self, x: Tensor, start: Pair | None = None, padding: Padding | None = None
    ) -> tuple[Tensor, Pair]:
        """(T, B, I) and the state before, (directions, B, H) twice → (T, B, directions · H) and the state after.

        It starts at zero where there is no state before; the state after is that after the last token.
        """
        if padding is None:
            return super().forward(x, start)
        if start is None:
            zeros = x.new_zeros(len(self.all_weights), x.shape[1], self.hidden_size)
            start = zeros, zeros
        flagged = torch.cat([x, padding.ended.expand(-1, -1, FLAGS)], dim=-1)
        states, hidden, cell = torch.lstm(
            flagged, start, self._flagged_weights(), True, 1, 0.0, self.training, self.bidirectional, False
        )
        last = states[:, :, : self.hidden_size].take_along_dim(padding.last, dim=0)
        return states, (torch.cat([last, hidden[1:]]), cell)

    def _flagged_weights(self) -> list[Tensor]:
        weights = [
            weight
            for inputs, *others in self.all_weights
            for weight in (torch.cat([inputs, self.flags], dim=1), *others)
        ]
        return in_one_piece(weights) if self.flags.is_cuda else weights


def in_one_piece(weights: Sequence[Tensor]) -> list[Tensor]:
    """The same side by side in memory, matrices before biases, as cuDNN has them: else it copies them one by one."""
    order = sorted(range(len(weights)), key=lambda number: -weights[number].dim())
    memory = torch.cat([weights[number].flatten() for number in order])
    pieces = memory.split([weights[number].numel() for number in order])
    placed = {number: piece.view_as(weights[number]) for number, piece in zip(order, pieces, strict=True)}
    return [placed[number] for number in range(len(weights))]


class Recurrence(nn.Module):
    """Layers of LSTM on top of each other. Those above the first are sublayers, as a Transformer's layers are.

    Positions come first, then sequences: nn.LSTM works in this order, so that nothing is copied between layers.

    Under autocast, too, it works in float32, as a Transformer's residual stream is: a cell sums small increments over
    many positions, and on a GPU autocast would have nn.LSTM in float16, whatever type it was asked for, in which
    gradients over long distances are zero.
    """

    def __init__(self, config: LSTMHalf, input_size: int, *, bidirectional: bool) -> None:
        super().__init__()
        assert config.hidden_size is not None
        hidden_size = config.hidden_size
        directions = 2 if bidirectional else 1

        def layer(size: int) -> Layer:
            return Layer(size, hidden_size // directions, bidirectional=bidirectional)

        above = config.layers - 1
        self.first = layer(input_size)
        self.dropout = config.dropout
        self.above = stack(above, lambda: layer(hidden_size), shared=config.share_layers)
        self.sublayers = stack(above, lambda: Sublayer(config), shared=config.share_layers)
        self.norm = top_norm(config) if above else nn.Identity()

    def forward(self, x: Tensor, start: Sequence[Pair] | None, mask: Tensor | None = None) -> tuple[Tensor, list[Pair]]:
        """All positions at once.

        Args:
            x: (T, B, input), padded at the end.
            start: the state of each layer before the first position; zeros where None.
            mask: (B, T) boolean, False at padding; None where no row is padded.

        Returns:
            States (T, B, H), and each layer's state after the last token, (directions, B, H / directions) twice.
        """
        if autocasts(x.device):
            with torch.autocast(x.device.type, enabled=False):
                return self(x.float(), start and in_float32(start), mask)
        starts: Sequence[Pair | None] = start or [None] * (1 + len(self.above))
        padding = None if mask is None else Padding(~mask.t()[:, :, None], mask.sum(1)[None, :, None] - 1)
        x, final = self.first(x, starts[0], padding)
        x, finals = dropout(x, self.dropout, self.training), [final]
        for lstm, sublayer, start_above in zip(self.above, self.sublayers, starts[1:], strict=True):
            assert isinstance(sublayer, Sublayer)
            y, final = lstm(sublayer.read(x), start_above, padding)
            x = sublayer.add(x, y)
            finals.append(final)
        return self.norm(x), finals

    def step_weights(self) -> StepWeights:
        """Of layers that read one way, for many steps."""
        above = [[by_column(weight) for weight in weights_of(lstm)] for lstm in self.above]
        return StepWeights(gate_weights(self.first), above)

    def step(self, projected: Tensor, state: Sequence[Pair], weights: StepWeights) -> tuple[Tensor, list[Pair]]:
        """One position, of layers that read one way.

        Args:
            projected: what the inputs add to the gates of the first layer, (B, 4H).
            state: of each layer, (B, H) twice.
            weights: as `step_weights` has them.

        Returns:
            The state on top, (B, H), and the state of each layer.
        """
        if autocasts(projected.device):
            with torch.autocast(projected.device.type, enabled=False):
                return self.step(projected.float(), in_float32(state), weights)
        pairs = [lstm_cell(weights.first, projected, state[0])]
        x = dropout(pairs[0][0], self.dropout, self.training)
        for lstm, sublayer, before in zip(weights.above, self.sublayers, state[1:], strict=True):
            assert isinstance(sublayer, Sublayer)
            pairs.append(torch.lstm_cell(sublayer.read(x), before, *lstm))  # the equations of lstm_cell
            x = sublayer.add(x, pairs[-1][0])
        return self.norm(x), pairs


def in_float32(state: Sequence[Pair]) -> list[Pair]:
    """The state of each layer."""
    return [(hidden.float(), cell.float()) for hidden, cell in state]


@dataclass(frozen=True)
class GateWeights:
    """The weights of a layer that is computed step by step, the gates in torch's order: i, f, g, o.

    Those of the candidate g are times -2: as tanh x = 1 - 2 σ(-2x), one call of the sigmoid serves all four.
    """

    inputs: Tensor  # (I, 4H)
    recurrent: Tensor  # (H, 4H)
    bias: Tensor  # (4H,): both of torch's

    def project(self, x: Tensor) -> Tensor:
        """What inputs (…, I), or the first so many of them, add to the gates, the bias included: (…, 4H)."""
        return x @ self.inputs[: x.shape[-1]] + self.bias


def weights_of(lstm: nn.Module) -> Sequence[Tensor]:
    """Of a layer that reads one way: of its inputs (4H, I), recurrent (4H, H), and the biases of both (4H,)."""
    assert isinstance(lstm, nn.LSTM)
    return lstm.all_weights[0]


def gate_weights(lstm: nn.Module) -> GateWeights:
    """Of a layer that reads one way."""
    inputs, recurrent, bias, recurrent_bias = weights_of(lstm)
    factors = bias.new_tensor([1.0, 1.0, -2.0, 1.0]).repeat_interleave(len(bias) // 4)  # (4H,)
    return GateWeights(
        inputs=by_column(factors[:, None] * inputs).t(),
        recurrent=by_column(factors[:, None] * recurrent).t(),
        bias=factors * (bias + recurrent_bias),
    )


@dataclass(frozen=True)
class StepWeights:
    """The weights of all layers for many steps."""

    first: GateWeights
    above: list[list[Tensor]]  # of each layer the four that torch.lstm_cell takes


def by_column(weight: Tensor) -> Tensor:
    """The same matrix, laid out column by column: a product with a few rows reads it in a third less time."""
    return weight.t().contiguous().t()


def lstm_cell(weights: GateWeights, projected: Tensor, state: Pair) -> Pair:
    """One position of a layer: what the inputs add to the gates (B, 4H), and the state before → the state after.

    Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000. The gates: i, how much of the candidate g is
    written; f, how much of the cell is kept; o, how much of it is shown.
    """
    hidden, cell = state
    i, f, g, o = torch.addmm(projected, hidden, weights.recurrent).sigmoid_().chunk(4, dim=1)  # (B, H) each
    written = torch.addcmul(i, i, g, value=-2.0)  # i · (1 - 2g), where 1 - 2g is the candidate
    cell = torch.addcmul(written, f, cell)
    return o * cell.tanh(), cell


class LSTMEncoder(Encoder):
    """Reads the source token by token, both ways if asked (Schuster & Paliwal 1997)."""

    def __init__(self, config: LSTMEncoderConfig, dimensions: Dimensions) -> None:
        super().__init__()
        assert config.embedding_size is not None
        self.embedding = TokenEmbedding(dimensions.source_vocabulary, config.embedding_size)
        self.dropout = config.dropout
        self.recurrence = Recurrence(config, config.embedding_size, bidirectional=config.bidirectional)
        initialise(self)

    def forward(self, source: Tensor, lengths: Tensor | None) -> Memory:
        """(B, S) → states (B, S, H) and the final state of each layer; both directions side by side in H."""
        embedded = dropout(self.embedding(source.t()), self.dropout, self.training)  # (S, B, E)
        mask = None if lengths is None else source != PAD  # (B, S)
        states, finals = self.recurrence(embedded, None, mask)
        final = [(side_by_side(hidden), side_by_side(cell)) for hidden, cell in finals]
        return Memory(states.transpose(0, 1), mask, final)


def side_by_side(final: Tensor) -> Tensor:
    """(directions, B, H / directions) → (B, H)."""
    return final.transpose(0, 1).flatten(1)


@dataclass(frozen=True)
class LSTMState:
    """Between two steps: each layer's state, and what attention looks at and has made, where there is attention."""

    layers: list[Pair]  # (B, H) twice for each layer
    fed: Tensor | None  # (B, H): what attention made of the last position, for input feeding
    source: tuple[Tensor, ...]  # what attention projected
    mask: Tensor | None  # (B, S)
    weights: StepWeights
    inputs: Tensor  # (V, 4H): what each symbol of the vocabulary adds to the gates of the first layer

    @property
    def tensors(self) -> list[Tensor]:
        """What is held for each sequence."""
        fed = [] if self.fed is None else [self.fed]
        return [*(tensor for pair in self.layers for tensor in pair), *fed, *self.source]

    def select(self, rows: Tensor) -> LSTMState:
        """See `State`."""
        return LSTMState(
            [(hidden[rows], cell[rows]) for hidden, cell in self.layers],
            None if self.fed is None else self.fed[rows],
            tuple(tensor[rows] for tensor in self.source),
            None if self.mask is None else self.mask[rows],
            self.weights,
            self.inputs,
        )


class LSTMDecoder(Decoder):
    """Starts where the encoder ended (Sutskever et al. 2014) and, with attention, looks back at all it saw.

    The encoder's final state is taken over layer by layer. An encoder without one is summed up: a linear layer and tanh
    of the mean of its states (as in Nematus; Sennrich et al. 2017, section 2).
    """

    def __init__(self, config: LSTMDecoderConfig, dimensions: Dimensions) -> None:
        super().__init__()
        assert config.hidden_size is not None
        assert config.embedding_size is not None
        size, embedding_size, vocabulary = config.hidden_size, config.embedding_size, dimensions.target_vocabulary
        self.embedding = TokenEmbedding(vocabulary, embedding_size)
        self.dropout = config.dropout
        self.bridge = None if isinstance(config, LSTMEncoderConfig) else nn.Linear(size, config.layers * 2 * size)
        input_size = embedding_size + (size if config.input_feeding else 0)
        self.recurrence = Recurrence(config, input_size, bidirectional=False)
        self.input_feeding = config.input_feeding
        self.attention = source_attention(config)
        if self.attention is not None:
            self.attentional = nn.Linear(2 * size, size, bias=False)
        shared = config.share_embeddings != "none"
        self.projection = nn.Linear(size, embedding_size, bias=False) if shared else None
        self.output = nn.Linear(embedding_size if shared else size, vocabulary)
        initialise(self)
        if shared:
            self.output.weight = self.embedding.weight

    def forward(self, target_in: Tensor, memory: Memory) -> Tensor:
        """(B, T) → logits (B, T, V): the recurrence in one call, then attention for all positions at once.

        Input feeding makes each position wait for what attention made of the one before.
        """
        embedded = dropout(self.embedding(target_in.t()), self.dropout, self.training)  # (T, B, E)
        layers = self._start(memory)
        source = () if self.attention is None else self.attention.project(memory.states)
        if self.input_feeding:
            weights = self.recurrence.step_weights()
            tops = [torch.zeros_like(layers[-1][0])]
            for projected in weights.first.project(embedded).unbind():  # (B, 4H)
                top, layers = self.advance(projected, layers, tops[-1], source, memory.mask, weights)
                tops.append(top)
            return self._logits(torch.stack(tops[1:], dim=1))
        start = [(hidden[None].contiguous(), cell[None].contiguous()) for hidden, cell in layers]  # as cuDNN asks for
        states, _ = self.recurrence(embedded, start)  # (T, B, H)
        return self._logits(self.attend(states.transpose(0, 1), source, memory.mask))

    def start(self, memory: Memory, max_length: int) -> LSTMState:
        """Its size does not depend on `max_length`."""
        layers = self._start(memory)
        vocabulary = torch.arange(self.embedding.num_embeddings, device=memory.states.device)
        weights = self.recurrence.step_weights()
        return LSTMState(
            layers=layers,
            fed=torch.zeros_like(layers[-1][0]) if self.input_feeding else None,
            source=() if self.attention is None else self.attention.project(memory.states),
            mask=None if self.attention is None else memory.mask,
            weights=weights,
            inputs=weights.first.project(self.embedding(vocabulary)),
        )

    def step(self, tokens: Tensor, state: LSTMState) -> tuple[Tensor, LSTMState]:
        """(B,) tokens → logits (B, V). What a token adds to the first layer's gates is looked up, not computed."""
        projected = state.inputs.index_select(0, tokens)
        top, layers = self.advance(projected, state.layers, state.fed, state.source, state.mask, state.weights)
        fed = None if state.fed is None else top
        return self._logits(top), LSTMState(layers, fed, state.source, state.mask, state.weights, state.inputs)

    def _start(self, memory: Memory) -> list[Pair]:
        """The state of each layer before the first position, (B, H) twice."""
        if self.bridge is None:
            assert memory.final is not None
            return memory.final
        parts = torch.tanh(self.bridge(memory.mean())).chunk(2 * (1 + len(self.recurrence.above)), dim=-1)
        return list(zip(parts[0::2], parts[1::2], strict=True))

    def advance(
        self,
        projected: Tensor,
        layers: list[Pair],
        fed: Tensor | None,
        source: tuple[Tensor, ...],
        mask: Tensor | None,
        weights: StepWeights,
    ) -> tuple[Tensor, list[Pair]]:
        """One position: what its token adds to the first layer's gates (B, 4H) → (B, H) for the output, and states."""
        if fed is not None:
            projected = torch.addmm(projected, fed, weights.first.inputs[self.embedding.embedding_dim :])
        top, layers = self.recurrence.step(projected, layers, weights)
        return (top if self.attention is None else self.attend(top[:, None], source, mask)[:, 0]), layers

    def attend(self, states: Tensor, source: tuple[Tensor, ...], mask: Tensor | None) -> Tensor:
        """(B, T, H) → attentional states tanh(W [context; state]) (B, T, H) (Luong et al. 2015, equation 5).

        Without attention, the states as they are.
        """
        if self.attention is None:
            return states
        context = self.attention(states, source, mask)
        return dropout(torch.tanh(self.attentional(torch.cat([context, states], dim=-1))), self.dropout, self.training)

    def _logits(self, states: Tensor) -> Tensor:
        """(…, H) → (…, V)."""
        return self.output(states if self.projection is None else self.projection(states))


def source_attention(config: LSTMDecoderConfig) -> SourceAttention | None:
    """What the settings name."""
    assert config.hidden_size is not None
    match config.attention:
        case "none":
            return None
        case "additive":
            return AdditiveAttention(config.hidden_size)
        case "dot" | "general":
            return LuongAttention(config.hidden_size, general=config.attention == "general")
        case "multi_head":
            assert config.num_heads is not None
            return CrossAttention(config.hidden_size, config.num_heads)
