"""The tasks by name. One file a family; a new task is a class and a line here."""

from experiments.tasks.base import Task
from experiments.tasks.g2p import GraphemeToPhoneme
from experiments.tasks.recall import AssociativeRecall
from experiments.tasks.scan import Scan
from experiments.tasks.strings import Addition, Reverse, RunningParity

TASKS: dict[str, type[Task]] = {
    "associative_recall": AssociativeRecall,
    "reverse": Reverse,
    "running_parity": RunningParity,
    "addition": Addition,
    "scan": Scan,
    "g2p": GraphemeToPhoneme,
}
