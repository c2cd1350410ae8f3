"""SCAN: simple navigation commands to sequences of actions (Lake & Baroni 2018), generated from its grammar.

One command and its actions::

    source  turn left twice and jump <eos>
    target  I_TURN_LEFT I_TURN_LEFT I_JUMP <eos>
"""

from __future__ import annotations

import hashlib
from itertools import product
from pathlib import Path
from typing import ClassVar, Literal

from experiments import corpus
from experiments.data import Example, Pair, TaskData
from experiments.schema import LONGER, SEQUENCE_ACCURACY, TEST, TOKEN_ACCURACY, VALIDATION
from experiments.tasks.base import Task

VERBS = {"walk": "I_WALK", "look": "I_LOOK", "run": "I_RUN", "jump": "I_JUMP"}
TURNS = {"left": "I_TURN_LEFT", "right": "I_TURN_RIGHT"}
REPEATS = {"twice": 2, "thrice": 3}

SIMPLE_TRAINING = 16_728  # of 20,910 pairs: 80 %, as published
LONGEST_TRAINED = 22  # actions; the split `length` trains up to here
HELD_OUT = 1_000  # validation pairs, and test pairs of the split `length`
ACTION_BINS = (4, 8, 12, 16, 22, 32, 48)  # by upper edge; 48 is the longest of all


class Scan(Task):
    """Commands such as ``walk twice and run left`` to actions.

    Splits (disjoint, and the same for every seed; what is chosen at random is chosen by the order of `shuffled`):

    - ``simple``: 4,182 pairs at random to test, as many as published, though not the same ones. Of the other 16,728,
      1,000 are for validation, which the paper has not, and 15,728 to train on.
    - ``length``: of the 16,990 pairs of at most 22 actions, 1,000 are for validation, 1,000 to test in the range of
      training, which the paper has not, and 14,990 to train on; "longer" are the published 3,920 test pairs, of 24 to
      48 actions.
    """

    name: Literal["scan"] = "scan"
    split: Literal["simple", "length"] = "simple"

    headline: ClassVar[str] = SEQUENCE_ACCURACY
    metrics: ClassVar[tuple[str, ...]] = (TOKEN_ACCURACY, SEQUENCE_ACCURACY)
    axes: ClassVar[tuple[str, ...]] = ("actions",)  # length of the right answer, in bins by upper edge: `ACTION_BINS`
    reference: ClassVar[str] = "Lake & Baroni 2018, Generalization without systematicity, ICML, experiments 1 and 2"

    def load(self, data_root: Path | None) -> TaskData:
        """Generates the commands; `data_root` has no use."""
        train, evaluation = SPLITS[self.split]()
        return corpus.corpus_data(
            train,
            evaluation,
            slices={"actions": lambda pair: corpus.upper_edge(len(pair.target), ACTION_BINS)},
            description={"source": f"generated from the grammar of SCAN, split {self.split}; {self.reference}"},
        )

    def example(self) -> Example:
        """``jump around left and walk``."""
        source = ("jump", "around", "left", "and", "walk")
        return corpus.worked_example(next(pair for pair in commands() if pair.source == source))


def simple_split() -> tuple[list[Pair], dict[str, list[Pair]]]:
    """At random, 80 % to 20 %: training pairs, and the evaluation sets by name."""
    pairs = shuffled(commands())
    known, test = pairs[:SIMPLE_TRAINING], pairs[SIMPLE_TRAINING:]
    return known[HELD_OUT:], {VALIDATION: known[:HELD_OUT], TEST: test}


def length_split() -> tuple[list[Pair], dict[str, list[Pair]]]:
    """By the number of actions: training pairs, and the evaluation sets by name."""
    pairs = shuffled(commands())
    known = [pair for pair in pairs if len(pair.target) <= LONGEST_TRAINED]
    longer = [pair for pair in pairs if len(pair.target) > LONGEST_TRAINED]
    validation, test, train = known[:HELD_OUT], known[HELD_OUT : 2 * HELD_OUT], known[2 * HELD_OUT :]
    return train, {VALIDATION: validation, TEST: test, LONGER: longer}


SPLITS = {"simple": simple_split, "length": length_split}


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
