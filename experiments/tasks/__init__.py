"""The tasks by name. One file a family; a new task is a class and a line here."""

from experiments.tasks.base import Task
from experiments.tasks.binary import BinaryAddition, BinaryMultiplication, ComputeSqrt
from experiments.tasks.context_free import ModularArithmeticBrackets, SolveEquation, StackManipulation
from experiments.tasks.context_sensitive import BucketSort, DuplicateString, MissingDuplicate, OddsFirst
from experiments.tasks.g2p import GraphemeToPhoneme
from experiments.tasks.listops import ListOps
from experiments.tasks.recall import AssociativeRecall
from experiments.tasks.regular import CycleNavigation, EvenPairs, ModularArithmetic, ParityCheck
from experiments.tasks.scan import Scan
from experiments.tasks.selective_copy import SelectiveCopy
from experiments.tasks.streams import CopyMemory, DelayedMatch, MarkedAddition, Needle
from experiments.tasks.strings import Addition, Reverse, RunningParity

TASKS: dict[str, type[Task]] = {
    # small ones, quick to learn
    "associative_recall": AssociativeRecall,
    "reverse": Reverse,
    "running_parity": RunningParity,
    "addition": Addition,
    # long distances
    "copy_memory": CopyMemory,
    "marked_addition": MarkedAddition,
    "needle": Needle,
    "delayed_match": DelayedMatch,
    # many items
    "selective_copy": SelectiveCopy,
    # lengths out of range: regular languages, …
    "even_pairs": EvenPairs,
    "parity_check": ParityCheck,
    "cycle_navigation": CycleNavigation,
    "modular_arithmetic": ModularArithmetic,
    # … context-free (and reverse) …
    "stack_manipulation": StackManipulation,
    "modular_arithmetic_brackets": ModularArithmeticBrackets,
    "solve_equation": SolveEquation,
    "listops": ListOps,
    # … and context-sensitive ones
    "duplicate_string": DuplicateString,
    "missing_duplicate": MissingDuplicate,
    "odds_first": OddsFirst,
    "binary_addition": BinaryAddition,
    "binary_multiplication": BinaryMultiplication,
    "compute_sqrt": ComputeSqrt,
    "bucket_sort": BucketSort,
    # corpora
    "scan": Scan,
    "g2p": GraphemeToPhoneme,
}
