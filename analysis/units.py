"""How models, metrics and numbers are written: one place for every table, figure and sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from analysis.runs import family
from analysis.statistics import Interval
from experiments import schema

MISSING = "–"
RANGES = {schema.TEST: "in range", schema.LONGER: "out of range"}  # what a split is called
_MODEL_NAMES = {
    "lstm": "LSTM",
    "lstm_attention": "LSTM + attention",
    "transformer": "Transformer",
    "lstm_transformer": "LSTM → Transformer",
    "transformer_lstm": "Transformer → LSTM",
}


@dataclass(frozen=True)
class Quantity:
    """What a metric is called and how its numbers are shown: value × `scale`, in `unit`, by `form`."""

    name: str
    unit: str = ""
    scale: float = 1.0
    form: str = ",.1f"
    exact: bool = False  # counted, not sampled: shown without an interval
    lower_is_better: bool = False

    @property
    def title(self) -> str:
        """``"training step, ms"``."""
        return f"{self.name}, {self.unit}" if self.unit else self.name

    @property
    def direction(self) -> int:
        """1 where more is better, -1 where less is."""
        return -1 if self.lower_is_better else 1

    @property
    def gap(self) -> Quantity:
        """How a difference of two of these is shown: with its sign, of shares in points."""
        return replace(self, unit="points" if self.unit == "%" else self.unit, form=f"+z{self.form}")

    def number(self, value: float) -> str:
        """`value` in the quantity's unit, without naming it."""
        return MISSING if math.isnan(value) else format(value * self.scale, self.form)

    def within(self, interval: Interval) -> Interval:
        """Cut to what the quantity can be.

        An accuracy lies between 0 and 1 and two of them are at most 1 apart (`gap`); an error rate is at least 0.
        """
        if self.unit == "points" and not self.lower_is_better:
            return interval.inside(-1.0, 1.0)
        if self.unit != "%":
            return interval
        return interval.inside(0.0, math.inf if self.lower_is_better else 1.0)

    def interval(self, interval: Interval) -> str:
        """``"97.3 [96.1, 98.4]"``; the estimate alone where there is no interval."""
        estimate = self.number(interval.estimate)
        if self.exact or not interval.known:
            return estimate
        return f"{estimate} [{self.number(interval.low)}, {self.number(interval.high)}]"

    def said(self, interval: Interval, unit: str | None = None) -> str:
        """With the unit, for a sentence: ``"97.3 % [96.1, 98.4]"``; `unit` where another one is meant."""
        estimate, *rest = self.interval(interval).split(" ", 1)
        return " ".join([estimate, *filter(None, [self.unit if unit is None else unit]), *rest])


@dataclass(frozen=True)
class Ratio(Quantity):
    """A ratio, shown with three digits: 0.28, 3.54, 17.1, 2,048; without an interval where it was only counted."""

    unit: str = "times"

    def number(self, value: float) -> str:
        """`value`, without a unit."""
        if math.isnan(value):
            return MISSING
        return f"{value:,.{sum(value < bound for bound in (9.995, 99.95))}f}"

    def interval(self, interval: Interval) -> str:
        """As of any quantity; the estimate alone where all seeds have the same."""
        return self.number(interval.estimate) if interval.low == interval.high else super().interval(interval)


def _share(name: str) -> Quantity:
    return Quantity(name, "%", 100.0, ".1f")


SCORES = {
    schema.TOKEN_ACCURACY: _share("token accuracy"),
    schema.SEQUENCE_ACCURACY: _share("sequence accuracy"),
    schema.WER: Quantity("word error rate", "%", 100.0, ".1f", lower_is_better=True),
    schema.PER: Quantity("phoneme error rate", "%", 100.0, ".1f", lower_is_better=True),
    schema.CER: Quantity("character error rate", "%", 100.0, ".1f", lower_is_better=True),
    schema.EDIT_DISTANCE: Quantity("edit distance", "characters", 1.0, ".2f", lower_is_better=True),
    schema.BLEU: Quantity("BLEU", "", 1.0, ".1f"),
    schema.CHRF: Quantity("chrF", "", 1.0, ".1f"),
    schema.LOSS: Quantity("loss", "nats per token", 1.0, ".3f", lower_is_better=True),
}
OTHERS = {
    schema.PARAMETERS: Quantity("parameters", "", 1.0, ",.0f", exact=True),
    schema.BUDGET: Quantity("budget", "", 1.0, ",.0f", exact=True),
    schema.STATE: Quantity("decoding state", "KiB", 2.0**-10, ",.1f", exact=True),
    schema.MATCH_ERROR: Quantity("match error", "%", 100.0, "+z.2f", exact=True),
    schema.TRAIN_TOKENS_PER_SECOND: Quantity("training throughput", "tokens/s", 1.0, ",.0f"),
    schema.RUN_SECONDS: Quantity("whole run", "s", 1.0, ",.1f"),
    schema.TRAIN_STEP_SECONDS: Quantity("training step", "ms", 1e3, ",.1f", lower_is_better=True),
    schema.ENCODE_SECONDS: Quantity("encoding a batch", "ms", 1e3, ",.2f", lower_is_better=True),
    schema.DECODE_SECONDS_PER_TOKEN: Quantity("decoding step", "ms", 1e3, ",.3f", lower_is_better=True),
    schema.DECODE_NAIVE_SECONDS_PER_TOKEN: Quantity(
        "decoding step without cache", "ms", 1e3, ",.3f", lower_is_better=True
    ),
    schema.GENERATE_SECONDS: Quantity("generation", "ms", 1e3, ",.1f", lower_is_better=True),
    schema.PEAK_MEMORY: Quantity("peak memory of training", "MiB", 2.0**-20, ",.1f", lower_is_better=True),
    schema.STATE_BYTES: Quantity("decoding state", "KiB per sequence", 2.0**-10, ",.1f", lower_is_better=True),
}
FACTOR = Ratio("ratio")
EXPONENT = Quantity("exponent", form="z.2f")
SHARE = Quantity("share", "%", 100.0, ".0f")


def of(metric: str) -> Quantity:
    """The quantity behind a metric's full name, split and axis left out: ``"test/wer_by_length"`` → word error rate."""
    if metric in OTHERS:
        return OTHERS[metric]
    name = metric.rpartition("/")[2].partition("_by_")[0]
    return SCORES.get(name) or Quantity(
        name.replace("_", " "), form=".4g", lower_is_better=name in schema.LOWER_IS_BETTER
    )


def model_name(label: str) -> str:
    """A model's label in prose: ``"transformer(layers=4)"`` → ``"Transformer (layers=4)"``."""
    base = family(label)
    options = label.removeprefix(base)
    return _MODEL_NAMES.get(base, base) + (f" {options}" if options else "")


def in_order(models: Iterable[str]) -> list[str]:
    """Each label once, the families in the order of schema.MODEL_COLORS, variants after the plain model."""
    families = list(schema.MODEL_COLORS)

    def place(label: str) -> tuple[int, str]:
        base = family(label)
        return (families.index(base) if base in families else len(families), label)

    return sorted(set(models), key=place)


def plain_first(models: Iterable[str]) -> list[str]:
    """As `in_order`, but all variants behind all plain models: a wide table shows first what every row has."""
    return sorted(in_order(models), key=lambda label: label != family(label))
