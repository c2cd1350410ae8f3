"""Training: models learn, runs are reproducible, options do what they say, interrupted ones go on."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.config import Training
from experiments.corpus import corpus_data
from experiments.data import Pair, TaskData, Tokens
from experiments.evaluation import Scores, evaluate
from experiments.gates import GATES, integrity_gates
from experiments.schema import (
    LOSS,
    SEQUENCE_ACCURACY,
    SOLVED_STEP,
    TEST,
    TOKEN_ACCURACY,
    TRAIN_FLOPS,
    TRAIN_LEARNING_RATE,
    TRAIN_LOSS,
    TRAIN_SECONDS,
    TRAIN_TOKENS,
    VALIDATION,
    WER,
    metric,
)
from experiments.session import ResumeError, Selected
from experiments.tasks.strings import Reverse, RunningParity
from experiments.training import Diverged, Keeper, Pruned, Status, merit, schedule, train
from models.config import Budget, ModelConfig
from models.cost import training_flops
from models.interface import EncoderDecoder
from models.matching import match
from models.registry import MODELS, build

BFLOAT16 = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # of this processor
CPU = torch.device("cpu")
METRICS = (TOKEN_ACCURACY, SEQUENCE_ACCURACY)
SETTINGS = Training(steps=60, batch_size=16, learning_rate=4e-3, evaluate_every=25, warmup_steps=5)


@dataclass
class Points:
    """Keeps what is logged."""

    values: dict[str, dict[int, float]] = field(default_factory=dict)

    def point(self, name: str, value: float, step: int) -> None:
        assert step not in self.values.setdefault(name, {})
        self.values[name][step] = value


class Unkept:
    """Keeps nothing."""

    def load(self) -> None:
        return None

    def due(self) -> bool:
        return False

    def save(self, state: Mapping[str, Any]) -> None:
        raise AssertionError


@dataclass(frozen=True)
class Outcome:
    model: EncoderDecoder
    config: ModelConfig
    data: TaskData
    selected: Selected
    points: Points
    watched: list[Status]


def trained(
    name: str,
    settings: Training = SETTINGS,
    *,
    seed: int = 0,
    data: TaskData | None = None,
    dropout: float = 0.0,
    keeper: Keeper | None = None,
    prunes: Callable[[Mapping[int, float]], bool] = lambda curve: False,
) -> Outcome:
    data = data or RunningParity(max_length=6, longer_lengths=(9,)).load(None)
    config = match(replace(MODELS[name], dropout=dropout), Budget(parameters=10_000), data.dimensions)
    torch.manual_seed(seed)
    model = build(config, data.dimensions)
    points, watched = Points(), list[Status]()
    selected = train(
        model,
        config,
        data,
        settings,
        headline=TOKEN_ACCURACY,
        metrics=METRICS,
        seed=seed,
        device=CPU,
        recorder=points,
        keeper=keeper or Unkept(),
        watch=watched.append,
        prunes=prunes,
    )
    return Outcome(model, config, data, selected, points, watched)


@pytest.mark.parametrize("name", MODELS)
def test_a_tiny_model_learns(name: str) -> None:
    """A single-symbol copy: every family gets it right within seconds, from chance."""
    data = Reverse(min_length=1, max_length=1, longer_lengths=(), symbols=8).load(None)
    outcome = trained(name, Training(steps=150, batch_size=64, learning_rate=1e-2, evaluate_every=50), data=data)
    before = outcome.points.values[TRAIN_LOSS][25]
    assert outcome.selected.scores.scalars[SEQUENCE_ACCURACY] == 1
    assert outcome.points.values[TRAIN_LOSS][150] < before / 2


def test_a_run_is_reproducible_bit_for_bit() -> None:
    first, second, other = trained("transformer"), trained("transformer"), trained("transformer", seed=1)
    for a, b in zip(first.selected.weights.values(), second.selected.weights.values(), strict=True):
        assert torch.equal(a, b)
    assert first.points.values[TRAIN_LOSS] == second.points.values[TRAIN_LOSS]
    assert first.points.values[TRAIN_LOSS] != other.points.values[TRAIN_LOSS]


def test_what_is_logged_and_when() -> None:
    outcome = trained("lstm")
    values = outcome.points.values
    assert list(values[TRAIN_LOSS]) == [25, 50, 60]
    for name in (metric(VALIDATION, TOKEN_ACCURACY), metric(VALIDATION, LOSS), TRAIN_TOKENS, TRAIN_FLOPS):
        assert list(values[name]) == [25, 50, 60]
    assert not any(name.startswith(TEST) for name in values)  # training never looks at the test set
    assert [status.step for status in outcome.watched] == [25, 50, 60]
    batches = outcome.data.training(16, torch.Generator().manual_seed(0))
    tokens = flops = 0
    for _ in range(25):
        batch = next(batches)
        tokens += batch.tokens
        flops += 16 * training_flops(outcome.config, batch.source.shape[1], batch.target.shape[1], 5)
    assert values[TRAIN_TOKENS][25] == tokens
    assert values[TRAIN_FLOPS][25] == flops


def test_the_best_checkpoint_is_selected_and_left_in_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Best is the headline metric on validation, then the loss; here it rises, falls, and ties."""
    script = [(0.2, 1.0), (0.9, 2.0), (0.9, 1.0), (0.9, 1.5), (0.5, 0.1)]
    seen: list[dict[str, Tensor]] = []

    def scripted(model: EncoderDecoder, data: TaskData, split: str, **_: Any) -> Scores:
        assert split == VALIDATION
        seen.append({name: value.clone() for name, value in model.state_dict().items()})
        accuracy, loss = script[len(seen) - 1]
        return Scores({TOKEN_ACCURACY: accuracy, LOSS: loss}, {})

    monkeypatch.setattr("experiments.training.evaluate", scripted)
    outcome = trained("lstm", SETTINGS.model_copy(update={"steps": 50, "evaluate_every": 10}))
    assert outcome.selected.step == 30
    for weights in (outcome.selected.weights, outcome.model.state_dict()):
        assert all(torch.equal(value, seen[2][name]) for name, value in weights.items())
        assert not all(torch.equal(value, seen[4][name]) for name, value in weights.items())


def test_evaluation_turns_dropout_off_and_training_on_again() -> None:
    data = RunningParity().load(None)
    config = match(replace(MODELS["transformer"], dropout=0.5), Budget(parameters=10_000), data.dimensions)
    model = build(config, data.dimensions).train()
    first, second = (evaluate(model, data, VALIDATION, metrics=METRICS, device=CPU).scalars for _ in range(2))
    assert first == second
    assert model.training


def test_lower_is_better_where_it_is() -> None:
    good, bad = Scores({WER: 0.1, LOSS: 2.0}, {}), Scores({WER: 0.2, LOSS: 1.0}, {})
    assert merit(good, WER) > merit(bad, WER)
    tie = Scores({WER: 0.1, LOSS: 1.0}, {})
    assert merit(tie, WER) > merit(good, WER)
    assert merit(Scores({TOKEN_ACCURACY: 0.2, LOSS: 1}, {}), TOKEN_ACCURACY) > merit(
        Scores({TOKEN_ACCURACY: 0.1, LOSS: 0}, {}), TOKEN_ACCURACY
    )


def test_divergence_ends_the_run() -> None:
    with pytest.raises(Diverged, match=r"the loss became (nan|inf) between steps 1 and 25"):
        trained("transformer", SETTINGS.model_copy(update={"learning_rate": 1e30, "clip": 1e30}))


def test_schedules() -> None:
    cosine = Training(steps=110, batch_size=1, learning_rate=1, evaluate_every=1, warmup_steps=10)

    def share(step: int, settings: Training) -> float:
        return schedule(step, step, settings.warmup_steps, settings)

    assert share(1, cosine) == pytest.approx(0.1)
    assert share(10, cosine) == 1
    assert share(60, cosine) == pytest.approx(0.5)
    assert share(110, cosine) == pytest.approx(0, abs=1e-12)
    root = cosine.model_copy(update={"schedule": "inverse_square_root"})
    assert share(10, root) == 1
    assert share(40, root) == pytest.approx(0.5)
    no_warmup = cosine.model_copy(update={"warmup_steps": 0})
    assert share(55, no_warmup) == pytest.approx(0.5)
    tokens = cosine.model_copy(update={"steps": None, "tokens": 3_000})
    assert schedule(20, 2_000, 1_000, tokens) == pytest.approx(0.5)  # half of what the warm-up left
    assert schedule(40, 3_100, 1_000, tokens) == pytest.approx(0, abs=1e-12)
    assert trained("lstm").points.values[TRAIN_LEARNING_RATE][60] == pytest.approx(0, abs=1e-12)


def test_options_of_training_do_what_they_say() -> None:
    reference = trained("lstm").points.values[TRAIN_LOSS][60]
    changes: list[dict[str, Any]] = [
        {"label_smoothing": 0.3},
        {"weight_decay": 10.0},
        {"clip": 1e-4},
        {"warmup_steps": 50},
        {"schedule": "inverse_square_root"},
        {"batch_size": 8},
        {"batch_size": None, "batch_tokens": 64},
        {"learning_rate": 1e-3},
    ]
    if BFLOAT16:
        changes.append({"precision": "bfloat16"})
    for change in changes:
        assert trained("lstm", SETTINGS.model_copy(update=change)).points.values[TRAIN_LOSS][60] != reference, change
    assert (
        trained("lstm", SETTINGS.model_copy(update={"precision": "float32"})).points.values[TRAIN_LOSS][60] == reference
    )


def test_a_batch_has_one_size() -> None:
    rest: dict[str, Any] = {"steps": 1, "learning_rate": 1.0, "evaluate_every": 1}
    assert Training(batch_tokens=64, **rest).batch == Tokens(64)
    assert Training(batch_size=64, **rest).batch == 64
    wrong: list[dict[str, Any]] = [{}, {"batch_size": 8, "batch_tokens": 64}]
    for sizes in wrong:
        with pytest.raises(ValueError, match="state either batch_size or batch_tokens"):
            Training(**sizes, **rest)


def test_batches_of_drawn_tasks_have_at_most_so_many_tokens() -> None:
    data = RunningParity(max_length=6, longer_lengths=()).load(None)
    batches = data.training(Tokens(64), torch.Generator().manual_seed(0))
    sizes = {batch.source.shape[1]: batch.size for _, batch in zip(range(60), batches, strict=False)}
    assert sizes == {length: 64 // (2 * length) for length in range(1, 7)}
    with pytest.raises(ValueError, match="1 tokens are fewer than the 12 of the longest pair"):
        next(data.training(Tokens(1), torch.Generator().manual_seed(0)))


@pytest.mark.skipif(BFLOAT16, reason="this processor has bfloat16")
def test_bfloat16_is_refused_where_there_is_none() -> None:
    with pytest.raises(ValueError, match="precision bfloat16: this processor has no bfloat16"):
        trained("lstm", SETTINGS.model_copy(update={"precision": "bfloat16"}))


# --- limits ----------------------------------------------------------------------------------------------------------


def limited(**limit: float) -> Training:
    return SETTINGS.model_copy(update={"steps": None, **limit})


def test_a_limit_ends_the_training_and_shapes_its_schedule() -> None:
    """Tokens and FLOPs end with the step that reaches them; the same data as a limit by steps, the same weights."""
    by_steps = trained("lstm")
    for name, limit in ((TRAIN_TOKENS, "tokens"), (TRAIN_FLOPS, "flops")):
        spent = by_steps.points.values[name]
        exact = trained("lstm", limited(**{limit: spent[60]})).points.values
        assert list(exact[name]) == [25, 50, 60]
        assert exact[TRAIN_LEARNING_RATE][60] == pytest.approx(0, abs=1e-12)
        assert exact[name] == spent
        less = trained("lstm", limited(**{limit: spent[60] - 1})).points.values
        assert list(less[name])[-1] == 60
        assert list(trained("lstm", limited(**{limit: spent[50]})).points.values[name]) == [25, 50]
        assert exact[TRAIN_LOSS][25] != by_steps.points.values[TRAIN_LOSS][25]  # batches differ in tokens


def test_a_training_by_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each look at the clock takes a second; evaluations are left out of the limit."""
    ticks = itertools.count()
    monkeypatch.setattr("experiments.training.time.perf_counter", lambda: float(next(ticks)))
    values = trained("lstm", limited(seconds=30.0)).points.values
    last = max(values[TRAIN_LOSS])
    assert 25 <= last <= 30
    assert values[TRAIN_LEARNING_RATE][last] < 0.1 * values[TRAIN_LEARNING_RATE][25]
    assert values[TRAIN_SECONDS][last] == pytest.approx(30, abs=2)


def test_a_solved_task_ends_the_training_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """After two good evaluations in a row, not after two."""
    script = [0.9995, 0.5, 0.999, 1.0, 1.0, 1.0]
    seen = list[float]()

    def scripted(*_: Any, **__: Any) -> Scores:
        seen.append(script[len(seen)])
        return Scores({TOKEN_ACCURACY: 0.0, SEQUENCE_ACCURACY: seen[-1], LOSS: 1.0}, {})

    monkeypatch.setattr("experiments.training.evaluate", scripted)
    asked = SETTINGS.model_copy(update={"evaluate_every": 10, "stop_when_solved": True})
    stopped = trained("lstm", asked).points.values
    assert stopped[SOLVED_STEP] == {0: 40}
    assert max(stopped[TRAIN_LOSS]) == 40
    seen.clear()
    whole = trained("lstm", SETTINGS.model_copy(update={"evaluate_every": 10})).points.values
    assert SOLVED_STEP not in whole
    assert max(whole[TRAIN_LOSS]) == 60


def test_a_training_has_exactly_one_limit() -> None:
    for limits in ({}, {"steps": 5, "tokens": 5}, {"seconds": 1.0, "flops": 1.0}):
        with pytest.raises(ValueError, match="state exactly one of steps, tokens, seconds, flops"):
            Training(batch_size=1, learning_rate=1, evaluate_every=1, **limits)
    assert "tokens" not in SETTINGS.model_dump()  # what is not stated is in no key
    assert limited(tokens=5).model_dump()["tokens"] == 5


# --- interruptions ---------------------------------------------------------------------------------------------------


class Interrupted(Exception):
    pass


@dataclass
class Kept:
    """Keeps the state after one step, as a file would, and ends the training there; then gives it back."""

    step: int
    file: io.BytesIO | None = None
    asked: int = 0

    def load(self) -> dict[str, Any] | None:
        if self.file is None:
            return None
        self.file.seek(0)
        return torch.load(self.file, weights_only=True)

    def due(self) -> bool:
        self.asked += 1
        return self.file is None and self.asked == self.step

    def save(self, state: Mapping[str, Any]) -> None:
        self.file = io.BytesIO()
        torch.save(state, self.file)
        raise Interrupted


def same_but_for_time(a: Points, b: Points, after: int) -> None:
    """`b` holds the points of `a` after a step."""
    for name, values in a.values.items():
        assert list(b.values[name]) == [step for step in values if step > after]
        if "second" not in name:
            assert b.values[name] == {step: value for step, value in values.items() if step > after}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("step", [3, 25, 41])
def test_an_interrupted_training_ends_like_an_undisturbed_one(name: str, step: int) -> None:
    """Bit for bit, with dropout, before and after the first evaluation, at an evaluation and between two."""
    undisturbed = trained(name, dropout=0.2)
    keeper = Kept(step)
    with pytest.raises(Interrupted):
        trained(name, dropout=0.2, keeper=keeper)
    torch.rand(5)  # what else the process draws must not matter
    resumed = trained(name, dropout=0.2, keeper=keeper)
    same_but_for_time(undisturbed.points, resumed.points, after=step)
    assert resumed.selected.step == undisturbed.selected.step
    assert resumed.selected.scores.scalars == undisturbed.selected.scores.scalars
    for a, b in zip(undisturbed.selected.weights.values(), resumed.selected.weights.values(), strict=True):
        assert torch.equal(a, b)


def corpus(symbols: str) -> TaskData:
    pairs = [Pair(tuple(word), tuple(reversed(word))) for word in map("".join, itertools.product(symbols, repeat=4))]
    return corpus_data(
        pairs[:-20],
        {VALIDATION: pairs[-20:-10], TEST: pairs[-10:]},
        slices={},
        description={"source": "made up", "digest": "0"},
    )


def test_an_interrupted_training_goes_on_in_the_middle_of_an_epoch() -> None:
    data = corpus("abcd")
    undisturbed = trained("lstm", data=data)
    keeper = Kept(34)  # of 15 batches an epoch
    with pytest.raises(Interrupted):
        trained("lstm", data=data, keeper=keeper)
    same_but_for_time(undisturbed.points, trained("lstm", data=data, keeper=keeper).points, after=34)
    with pytest.raises(ResumeError, match="belongs to other training data"):
        trained("lstm", data=data, keeper=keeper, seed=1)


# --- trials that are ended early --------------------------------------------------------------------------------------
def test_whether_to_go_on_is_asked_where_it_can_be() -> None:
    """After each evaluation but the last, with all scores so far, also those of before an interruption."""
    asked: list[dict[int, float]] = []

    def prunes(curve: Mapping[int, float]) -> bool:
        asked.append(dict(curve))
        return False

    scores = trained("lstm", prunes=prunes).points.values[metric(VALIDATION, TOKEN_ACCURACY)]
    undisturbed = [{25: scores[25]}, {25: scores[25], 50: scores[50]}]
    assert asked == undisturbed
    asked.clear()
    keeper = Kept(34)
    with pytest.raises(Interrupted):
        trained("lstm", keeper=keeper, prunes=prunes)
    trained("lstm", keeper=keeper, prunes=prunes)
    assert asked == undisturbed


def test_a_training_that_is_not_worth_it_ends() -> None:
    with pytest.raises(Pruned, match="after step 50") as caught:
        trained("lstm", prunes=lambda curve: max(curve) >= 50)
    assert caught.value.step == 50


# --- on a GPU ---------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", MODELS)
def test_a_tiny_model_learns_on_cuda_in_bfloat16(name: str) -> None:
    data = Reverse(min_length=1, max_length=1, longer_lengths=(), symbols=8).load(None)
    config = match(MODELS[name], Budget(parameters=10_000), data.dimensions)
    cuda = torch.device("cuda")
    torch.manual_seed(0)
    model = build(config, data.dimensions).to(cuda)
    selected = train(
        model,
        config,
        data,
        Training(steps=150, batch_size=64, learning_rate=1e-2, evaluate_every=50),
        headline=SEQUENCE_ACCURACY,
        metrics=METRICS,
        seed=0,
        device=cuda,
        recorder=Points(),
        keeper=Unkept(),
        watch=lambda status: None,
    )
    assert selected.scores.scalars[SEQUENCE_ACCURACY] == 1
    assert integrity_gates(model, config, data, cuda) == dict.fromkeys(GATES, "pass")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", MODELS)
def test_cpu_and_cuda_agree(name: str) -> None:
    data = Reverse().load(None)
    config = match(MODELS[name], Budget(parameters=30_000), data.dimensions)
    torch.manual_seed(0)
    model = build(config, data.dimensions).eval()
    batch = data.evaluation[TEST][-1]
    on_cpu = model(batch.source, batch.target_in)
    on_cuda = model.to("cuda")(batch.source.cuda(), batch.target_in.cuda()).cpu()
    torch.testing.assert_close(on_cuda, on_cpu, rtol=1e-3, atol=1e-3)
