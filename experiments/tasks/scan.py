"""SCAN: simple navigation commands to sequences of actions (Lake & Baroni 2018), generated from its grammar.

One command and its actions::

    source  turn left twice and jump <eos>
    target  I_TURN_LEFT I_TURN_LEFT I_JUMP <eos>
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from experiments import corpus
from experiments.data import Example, Pair, TaskData
from experiments.schema import LONGER, SEQUENCE_ACCURACY, TEST, TOKEN_ACCURACY, VALIDATION
from experiments.tasks.base import Task

VERBS = {"walk": "I_WALK", "look": "I_LOOK", "run": "I_RUN", "jump": "I_JUMP"}
TURNS = {"left": "I_TURN_LEFT", "right": "I_TURN_RIGHT"}
REPEATS = {"twice": 2, "thrice": 3}

SIMPLE_TRAINING = 16_728  # of 20,910 pairs: 80 %, as published
LONGEST_TRAINED = 22  # actions; the split `length` trains up to here
REPEATED = {"jump": 1_467, "turn left": 2_189}  # how often the published training sets repeat the one command alone
HELD_OUT = 1_000  # validation pairs, and pairs to test in the range of training where the published test is out of it
ACTION_BINS = (4, 8, 12, 16, 22, 32, 48)  # by upper edge; 48 is the longest of all


class Scan(Task):
    """Commands such as ``walk twice and run left`` to actions.

    Splits (the same for every seed; what is chosen at random is chosen by the order of `shuffled`). Published training
    sets have no validation part: 1,000 pairs are held out of them for it, and where the published test is out of the
    range of training, 1,000 more to test within. That test set is then "longer"; the rest is trained on.

    - ``simple``: published are 16,728 pairs at random to train on and 4,182 to test (as many here, not the same ones).
    - ``length``: 16,990 pairs of at most 22 actions to train on, 3,920 of 24 to 48 to test.
    - ``add_jump``: 14,670 to train on, ``jump`` 1,467 times among them and no other command with it; the 7,706 to test.
    - ``add_turn_left``: 21,890, ``turn left`` 2,189 times among them; 1,208.
    - ``around_right``: 15,225 without ``around right``; 4,476 with it, but none with ``turn around right``.

    Attributes:
        split: as above.
        fraction: share of the training pairs of `simple` that are trained on (Lake & Baroni 2018, experiment 1); a
            smaller training set is part of every larger one.
    """

    name: Literal["scan"] = "scan"
    split: Literal["simple", "length", "add_jump", "add_turn_left", "around_right"] = "simple"
    fraction: float = Field(default=1.0, gt=0, le=1)

    headline: ClassVar[str] = SEQUENCE_ACCURACY
    metrics: ClassVar[tuple[str, ...]] = (TOKEN_ACCURACY, SEQUENCE_ACCURACY)
    axes: ClassVar[tuple[str, ...]] = ("actions",)  # length of the right answer, in bins by upper edge: `ACTION_BINS`
    reference: ClassVar[str] = (
        "Lake & Baroni 2018, Generalization without systematicity, ICML, experiments 1 to 3; around_right: Loula, "
        "Baroni & Lake 2018, Rearranging the familiar"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.fraction < 1 and self.split != "simple":
            raise ValueError(f"fraction: only the split simple has one, split is {self.split}")
        return self

    def load(self, data_root: Path | None) -> TaskData:
        """Generates the commands; `data_root` has no use."""
        known, unknown = SPLITS[self.split]()
        train, evaluation = held_out(known, unknown, in_range=self.split == "simple")
        return corpus.corpus_data(
            train[: math.ceil(self.fraction * len(train))],
            evaluation,
            slices={"actions": lambda pair: corpus.upper_edge(len(pair.target), ACTION_BINS)},
            description={
                "source": f"generated from the grammar of SCAN, split {self.split}; {self.reference}",
                "published": f"{len(known):,} to train on, {len(unknown):,} to test",
            },
        )

    def example(self) -> Example:
        """``jump around left and walk``."""
        source = ("jump", "around", "left", "and", "walk")
        return corpus.worked_example(next(pair for pair in commands() if pair.source == source))


Published = tuple[list[Pair], list[Pair]]  # the pairs to train on, and those to test


def simple_split() -> Published:
    """At random, 80 % to 20 %."""
    pairs = shuffled(commands())
    return pairs[:SIMPLE_TRAINING], pairs[SIMPLE_TRAINING:]


def length_split() -> Published:
    """By the number of actions."""
    return _parted(lambda pair: len(pair.target) > LONGEST_TRAINED)


def add_jump_split() -> Published:
    """All commands with ``jump`` are tested, but for that one word."""
    return _repeating("jump")


def add_turn_left_split() -> Published:
    """All commands with ``turn left`` are tested, but for these two words."""
    return _repeating("turn left")


def around_right_split() -> Published:
    """All commands with ``around right`` are tested, but that those with ``turn around right`` are left out of both."""
    train, test = _parted(lambda pair: contains(pair, "around right"))
    return train, [pair for pair in test if not contains(pair, "turn around right")]


SPLITS: dict[str, Callable[[], Published]] = {
    "simple": simple_split,
    "length": length_split,
    "add_jump": add_jump_split,
    "add_turn_left": add_turn_left_split,
    "around_right": around_right_split,
}


def held_out(known: list[Pair], unknown: list[Pair], *, in_range: bool) -> tuple[list[Pair], dict[str, list[Pair]]]:
    """What is trained on, and the evaluation sets by name, out of the published training and test pairs.

    Held out are commands that stand once among `known`. `in_range`: `unknown` is a test in the range of training.
    """
    times = Counter(known)
    once = [pair for pair in known if times[pair] == 1]
    if in_range:
        evaluation = {VALIDATION: once[:HELD_OUT], TEST: unknown}
    else:
        evaluation = {VALIDATION: once[:HELD_OUT], TEST: once[HELD_OUT : 2 * HELD_OUT], LONGER: unknown}
    kept = set(evaluation[VALIDATION]) | (set() if in_range else set(evaluation[TEST]))
    return [pair for pair in known if pair not in kept], evaluation


def contains(pair: Pair, phrase: str) -> bool:
    """Whether the command has these words, one after the other."""
    return f" {phrase} " in f" {' '.join(pair.source)} "


def _parted(tested: Callable[[Pair], bool]) -> Published:
    pairs = shuffled(commands())
    return [pair for pair in pairs if not tested(pair)], [pair for pair in pairs if tested(pair)]


def _repeating(phrase: str) -> Published:
    """Every command with `phrase` is tested but the phrase itself, which is trained on again and again."""
    train, test = _parted(lambda pair: contains(pair, phrase))
    alone = next(pair for pair in test if " ".join(pair.source) == phrase)
    test.remove(alone)
    return train + [alone] * REPEATED[phrase], test


def shuffled(pairs: list[Pair]) -> list[Pair]:
    """`pairs` in a random order that is fixed for all machines and versions: by the SHA-256 of the command."""
    return sorted(pairs, key=lambda pair: hashlib.sha256(" ".join(pair.source).encode()).digest())


def commands() -> list[Pair]:
    """All 20,910 commands of the grammar with their actions; the same set as github.com/brendenlake/SCAN, tasks.txt."""
    phrases = _phrases()
    repeated = [
        Pair((*words, repeat), actions * times)
        for (words, actions), (repeat, times) in product(phrases, REPEATS.items())
    ]
    sentences = [*phrases, *repeated]
    pairs = sentences.copy()
    for one, two in product(sentences, sentences):
        pairs.append(Pair((*one.source, "and", *two.source), one.target + two.target))
        pairs.append(Pair((*one.source, "after", *two.source), two.target + one.target))
    return pairs


def _phrases() -> list[Pair]:
    """What may be repeated and joined, 34 of them; "turn" alone is none."""
    phrases = [Pair((verb,), (action,)) for verb, action in VERBS.items()]
    acts: dict[str, tuple[str, ...]] = {"turn": ()} | {verb: (action,) for verb, action in VERBS.items()}
    for (verb, act), (direction, turn) in product(acts.items(), TURNS.items()):
        phrases.append(Pair((verb, direction), (turn, *act)))
        phrases.append(Pair((verb, "opposite", direction), (turn, turn, *act)))
        phrases.append(Pair((verb, "around", direction), (turn, *act) * 4))
    return phrases
