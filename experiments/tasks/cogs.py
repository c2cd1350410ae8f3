"""COGS: English sentences to their logical forms, and 21 ways to generalise (Kim & Linzen 2020).

One sentence, its logical form, which is one line of 21 tokens::

    source  A rose was helped by a dog . <eos>
    target  rose ( x _ 1 ) AND help . theme ( x _ 3 , x _ 1 ) AND help . agent ( x _ 3 , x _ 6 ) AND dog ( x _ 6 ) <eos>
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from experiments import corpus
from experiments.data import DataError, Example, Pair, TaskData
from experiments.files import published
from experiments.reading import read_columns
from experiments.schema import LONGER, SEQUENCE_ACCURACY, TEST, TOKEN_ACCURACY, VALIDATION
from experiments.tasks.base import Task

COMMIT = "165a7b669eade971fa47bf568a2e51925360fed8"
URL = f"https://raw.githubusercontent.com/najoungkim/COGS/{COMMIT}/data"
FOLDER = "cogs"  # in the data root
SHA256 = Path(__file__).with_name("cogs_sha256.txt")  # `sha256sum -c` checks a data root against it

STRUCTURAL = ("obj_pp_to_subj_pp", "cp_recursion", "pp_recursion")  # known words in new structures
LEXICAL = (  # words in roles in which they were not seen, in structures that were
    *("active_to_passive", "passive_to_active", "do_dative_to_pp_dative", "pp_dative_to_do_dative"),
    *("obj_omitted_transitive_to_transitive", "unacc_to_transitive"),
    *("obj_to_subj_common", "obj_to_subj_proper", "subj_to_obj_common", "subj_to_obj_proper"),
    *("only_seen_as_transitive_subj_as_unacc_subj", "only_seen_as_unacc_subj_as_unerg_subj"),
    "only_seen_as_unacc_subj_as_obj_omitted_transitive_subj",
    *("prim_to_inf_arg", "prim_to_obj_common", "prim_to_obj_proper", "prim_to_subj_common", "prim_to_subj_proper"),
)
KINDS = dict.fromkeys(STRUCTURAL, "structural") | dict.fromkeys(LEXICAL, "lexical")
OF_A_TYPE = 1_000  # sentences
LENGTH_BINS = (
    20,
    40,
    60,
    80,
    120,
    160,
    240,
    480,
)  # tokens of the logical form, by upper edge; 153 is the longest trained


class Cogs(Task):
    """A sentence to its logical form; 24,155 to train on, 3,000 for validation, 3,000 to test in the range of training.

    "longer" is the published generalisation set: 1,000 sentences of each of 21 types. It is scored by ``type`` and by
    ``kind``: 18 are lexical (a known word in a new role), 3 are structural (prepositional phrases on the subject, and
    deeper recursion of these phrases and of clauses). Symbols are the words and signs between the spaces of the file.
    All scores are sliced by the length of the logical form, too.

    Attributes:
        longer_per_type: sentences of each type that are decoded, the first of the file.
    """

    name: Literal["cogs"] = "cogs"
    longer_per_type: int = Field(default=OF_A_TYPE, ge=1, le=OF_A_TYPE)

    headline: ClassVar[str] = SEQUENCE_ACCURACY
    metrics: ClassVar[tuple[str, ...]] = (TOKEN_ACCURACY, SEQUENCE_ACCURACY)
    axes: ClassVar[tuple[str, ...]] = ("length", "type", "kind")
    reference: ClassVar[str] = (
        "Kim & Linzen 2020, COGS: a compositional generalization challenge based on semantic interpretation, EMNLP"
    )

    def load(self, data_root: Path | None) -> TaskData:
        """Reads the files ``cogs/{train,dev,test,gen}.tsv``, downloading those not there.

        Raises:
            DataError: a file differs from the published one, or is not there and cannot be downloaded.
        """
        rows, fingerprints = {}, []
        for split in ("train", "dev", "test", "gen"):
            path = published(f"{URL}/{split}.tsv", f"{FOLDER}/{split}.tsv", SHA256, data_root)
            table = read_columns(path, ("sentence", "logical form", "type"))
            columns = (table["sentence"], table["logical form"], table["type"])
            rows[split] = [
                (Pair(tuple(sentence.split(" ")), tuple(form.split(" "))), kind)
                for sentence, form, kind in zip(*columns, strict=True)
            ]
            fingerprints.append(table._fingerprint)
        if unknown := {kind for _, kind in rows["gen"]} - KINDS.keys():
            raise DataError(f"{path}: unknown types of generalisation: {', '.join(sorted(unknown))}")
        kept = self._first_of_each_type(rows["gen"])
        types = [kind for _, kind in kept]
        return corpus.corpus_data(
            [pair for pair, _ in rows["train"]],
            {
                VALIDATION: [pair for pair, _ in rows["dev"]],
                TEST: [pair for pair, _ in rows["test"]],
                LONGER: [pair for pair, _ in kept],
            },
            slices={"length": lambda pair: corpus.upper_edge(len(pair.target), LENGTH_BINS)},
            categories={"type": {LONGER: types}, "kind": {LONGER: [KINDS[kind] for kind in types]}},
            description={
                "source": f"{URL}/{{train,dev,test,gen}}.tsv",
                "licence": "MIT",
                "fingerprint": ", ".join(fingerprints),
                "longer": f"the first {self.longer_per_type} sentences of each type of gen.tsv",
            },
        )

    def _first_of_each_type(self, rows: list[tuple[Pair, str]]) -> list[tuple[Pair, str]]:
        seen: Counter[str] = Counter()
        kept = []
        for pair, kind in rows:
            seen[kind] += 1
            if seen[kind] <= self.longer_per_type:
                kept.append((pair, kind))
        return kept

    def example(self) -> Example:
        """``A rose was helped by a dog .``."""
        form = "rose ( x _ 1 ) AND help . theme ( x _ 3 , x _ 1 ) AND help . agent ( x _ 3 , x _ 6 ) AND dog ( x _ 6 )"
        return corpus.worked_example(Pair(("A", "rose", "was", "helped", "by", "a", "dog", "."), tuple(form.split())))
