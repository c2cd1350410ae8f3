"""Labels of models and their variants: what a label says, which of several is the full model, and which to show.

A label is ``family(option=value, …)`` and states the options that differ from the registry's (`experiments.config`,
`NamedModel.label`). Of an option that it does not state the value is the registry's, which analysis does not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import pandas as pd

from analysis.runs import family
from experiments import schema

MOST_LABELS = 6  # of a grid that stand side by side: beyond, columns are unreadable and colours repeat
_OPTION = re.compile(r"(?:^|, )(\w+)=")


def options(label: str) -> dict[str, str]:
    """The options that a label states, in its order, values as text.

    ``"transformer(layers=4, norm=post)"`` → ``{"layers": "4", "norm": "post"}``. A value may hold commas and brackets;
    an option begins only outside the brackets of another's value.

    Raises:
        ValueError: brackets without options in them.
    """
    name = family(label)
    if label == name:
        return {}
    text = label[len(name) + 1 : -1]
    starts = [start for start in _OPTION.finditer(text) if _closed(text[: start.start()])]
    if not starts or starts[0].start() != 0 or not label.endswith(")"):
        raise ValueError(f"{label!r} is not the label of a model: family(option=value, …)")
    ends = [start.start() for start in starts[1:]] + [len(text)]
    return {start[1]: text[start.end() : end] for start, end in zip(starts, ends, strict=True)}


def _closed(text: str) -> bool:
    return all(text.count(left) == text.count(right) for left, right in ("()", "[]", "{}"))


def differing(a: str, b: str) -> set[str]:
    """Names of the options that differ between two labels of a family."""
    return {name for name, _ in options(a).items() ^ options(b).items()}


def change(full: str, variant: str) -> str:
    """What a variant does differently from the full model: ``"norm=post, num_heads: 8 → 1"``.

    Where only the full model states an option, the variant has the registry's value: ``"layers: 2 → default"``.
    """
    before, after, differ = options(full), options(variant), differing(full, variant)
    names = [name for name in {**after, **before} if name in differ]
    return ", ".join(
        f"{name}: {before[name]} → {after.get(name, 'default')}" if name in before else f"{name}={after[name]}"
        for name in names
    )


def full_models(labels: Iterable[str]) -> dict[str, str]:
    """The full model of each family among `labels`: the one from which the others differ least.

    That is the centre of a star of ablations: the number of differing options, summed over the others, is smallest. Of
    several the one that states the fewest options, then the first in alphabetical order.
    """
    members: dict[str, set[str]] = {}
    for label in labels:
        members.setdefault(family(label), set()).add(label)

    def distance(label: str) -> tuple[int, int, str]:
        others = members[family(label)]
        return sum(len(differing(label, other)) for other in others), len(options(label)), label

    return {name: min(same, key=distance) for name, same in members.items()}


def simplified(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with plain labels: a model that is the only one of its family in a grid is called after the family.

    So the models of many grids stand in the same columns and have the same colours, although each grid states options
    of its own. Runs of different kinds are looked at apart.
    """
    families = runs["model"].map({label: family(label) for label in runs["model"].unique()})
    members = runs["model"].groupby([runs["grid"], runs["kind"], families]).transform("nunique")
    return runs.assign(model=families.where(members == 1, runs["model"]))


def side_by_side(runs: pd.DataFrame) -> pd.DataFrame:
    """The learning runs of the models that tables and figures show side by side.

    These are all models of a grid with up to `MOST_LABELS` of them; in a larger one the full model of each family.
    """
    learnt = runs[runs["kind"] == schema.LEARN]

    def shown(models: pd.Series) -> pd.Series:
        labels = models.unique()
        return models.isin(labels if len(labels) <= MOST_LABELS else list(full_models(labels).values()))

    return learnt[learnt.groupby("grid")["model"].transform(shown).astype(bool)]
