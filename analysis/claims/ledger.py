"""The ledger: every claim of CLAIMS.md with its verdict, and the four folklore rows in one sentence each."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis import units
from analysis.claims import attention, components, data, dependencies, efficiency, gradients, processing
from analysis.claims.base import Claim, Decision, Finding, LeftOut, NotDecided
from analysis.claims.rules import Ruling, Verdict, after_holm
from analysis.evidence import admitted, gated_out, with_most_data
from analysis.statistics import Interval
from analysis.tables import Table

CLAIMS: tuple[Claim, ...] = (
    *processing.CLAIMS,
    *dependencies.CLAIMS,
    *gradients.CLAIMS,
    *attention.CLAIMS,
    *efficiency.CLAIMS,
    *data.CLAIMS,
)
NO_EFFECT = Interval(math.nan, math.nan, math.nan, 0)
COLUMNS = (
    *("id", "claim", "verdict", "effect_of", "effect", "low", "high", "unit", "n", "p", "condition", "numbers"),
    *("supported_when", "refuted_when", "left_out", "runs"),
)


@dataclass(frozen=True)
class Entry:
    """One line of the ledger.

    `effect` is that of the claim's scale (a lead as 0..1, a ratio, an exponent, a share); `p` is corrected by Holm for
    the claims of the family, and NaN where nothing was decided.
    """

    claim: Claim
    verdict: Verdict
    clause: str  # the numbers in words; "" if there are none
    effect: Interval
    p: float
    condition: str
    parts: tuple[tuple[str, str, Verdict], ...]  # where, its effect in words, its verdict
    counting: int  # parts that the verdict stands on; all of them where none has seeds enough
    runs: tuple[str, ...]
    left_out: tuple[LeftOut, ...]

    @property
    def measured(self) -> bool:
        """Whether there is a number."""
        return self.verdict is not Verdict.NOT_MEASURED

    @property
    def name(self) -> str:
        """Claim and verdict: ``"1.2 refuted"``."""
        return f"{self.claim.id} {self.verdict}"

    @property
    def answer(self) -> str:
        """What is the case, in a few words, where that is decided; else what the claim asks."""
        said = {Verdict.SUPPORTED: self.claim.holds, Verdict.REFUTED: self.claim.fails}
        return said.get(self.verdict, self.claim.asks)

    @property
    def number(self) -> str:
        """The effect with its unit: ``"+41.0 points [+33.0, +48.0]"``."""
        return self.claim.scale.quantity.said(self.effect) if self.measured else units.MISSING

    @property
    def why(self) -> str:
        """What makes the verdict conditional or undecided, or keeps tasks out of it; "" where nothing does."""
        return "; ".join(filter(None, (self.condition, *map(str, self.left_out))))

    @property
    def left_out_briefly(self) -> str:
        """``"2 left out: LSTM not trained"``; "" where nothing is."""
        causes = dict.fromkeys(one.cause for one in self.left_out)
        return f"{len(self.left_out)} left out: {', '.join(causes)}" if causes else ""

    @property
    def briefly(self) -> str:
        """As `why`, but in short what is left out; of what was not measured at all, that no run speaks to it."""
        found = "; ".join(filter(None, (self.condition, self.left_out_briefly)))
        return found if found or self.measured else "no run speaks to it"


@dataclass(frozen=True)
class Row:
    """One row of the folklore table: what people say, and the claims that it comes down to."""

    name: str
    lstm: str
    transformer: str
    family: str


FOLKLORE = (
    Row("processing", "sequential, one token at a time", "parallel, all tokens at once", "1"),
    Row("dependencies", "can struggle with long-term dependencies", "excels at long-term dependencies", "2"),
    Row("attention", "none inherent, can be added", "inherent multi-head self-attention", "3"),
    Row(
        "efficiency and scalability",
        "less, for very long sequences",
        "more, for long sequences and large data sets",
        "4",
    ),
)


@dataclass(frozen=True)
class Answer:
    """What the runs say to a row: the entries of its claims, and what was measured task by task."""

    row: Row
    entries: tuple[Entry, ...]
    findings: Mapping[str, tuple[Finding, ...]]

    @property
    def sentence(self) -> str:
        """One sentence made of the answers and the numbers of the row's claims."""
        words = "; ".join(f"{entry.answer} ({entry.name}): {entry.clause}" for entry in self.entries if entry.measured)
        return f"{words[0].upper()}{words[1:]}." if words else "Not measured."

    @property
    def paragraphs(self) -> list[tuple[str, list[str]]]:
        """What was measured, in sentences, under what it was measured on ("" where the sentence says it itself)."""
        found = [finding for findings in self.findings.values() for finding in findings]
        return [
            (setting, [finding.sentence for finding in same])
            for setting, same in itertools.groupby(found, lambda finding: finding.setting)
        ]

    @property
    def unmeasured(self) -> list[str]:
        """What the row's claims ask and the runs do not answer."""
        return [entry.claim.asks for entry in self.entries if not entry.measured]


def ledger(runs: pd.DataFrame) -> list[Entry]:
    """Every claim, decided on the runs that passed the gates: families 1 to 4, then one entry a component (5.*).

    Of a task that a grid learns from several sizes of training set the largest counts, but in the claim on these (4.4).
    """
    evidence = admitted(runs)
    most = with_most_data(evidence)
    claims = [*CLAIMS, *components.claims(runs)]
    decisions = {claim.id: claim.decide(evidence if claim.sizes else most) for claim in claims}
    rulings: dict[str, Ruling] = {}
    for family in dict.fromkeys(claim.family for claim in claims):
        own = {
            claim.id: decision.ruling
            for claim in claims
            if claim.family == family and isinstance(decision := decisions[claim.id], Decision)
        }
        rulings |= after_holm(own)
    return [_entry(claim, decisions[claim.id], rulings.get(claim.id)) for claim in claims]


def _entry(claim: Claim, decision: Decision | NotDecided, ruling: Ruling | None) -> Entry:
    if not isinstance(decision, Decision) or ruling is None:
        return Entry(claim, Verdict.NOT_MEASURED, "", NO_EFFECT, math.nan, "", (), 0, (), decision.left_out)
    effect = decision.effect or ruling.effect.interval
    parts = tuple(
        (part.where, claim.scale.said(part.shown or part.effect.interval), part.verdict) for part in ruling.parts
    )
    condition = ruling.condition or _few(ruling)
    return Entry(
        claim,
        ruling.verdict,
        decision.clause,
        claim.scale.shown(effect),
        ruling.p,
        condition,
        parts,
        ruling.counting,
        ruling.runs,
        decision.left_out,
    )


def _few(ruling: Ruling) -> str:
    """Says so where the reason of no verdict is that there are too few seeds."""
    if ruling.verdict is not Verdict.UNDECIDED:
        return ""
    if not any(part.enough for part in ruling.parts):
        most = max(part.effect.n for part in ruling.parts)
        return f"{most} seed{'' if most == 1 else 's'} or repeats; five are the least for a verdict"
    return "the interval covers both sides"


def folklore(runs: pd.DataFrame, entries: Sequence[Entry]) -> list[Answer]:
    """The four rows, each with the entries of its family and what was measured."""
    evidence = with_most_data(admitted(runs))
    return [
        Answer(
            row,
            own := tuple(entry for entry in entries if entry.claim.family == row.family),
            {entry.claim.id: tuple(entry.claim.findings(evidence)) for entry in own},
        )
        for row in FOLKLORE
    ]


def left_out(runs: pd.DataFrame) -> list[str]:
    """A sentence for each model that does not count because a gate failed."""
    columns = ["grid", "kind", "task", "model", "gates"]
    return [
        f"{units.model_name(model)} is left out on {task or grid} ({kind}): {gates}."
        for grid, kind, task, model, gates in gated_out(runs)[columns].itertuples(index=False, name=None)
    ]


def as_frame(entries: Sequence[Entry]) -> pd.DataFrame:
    """The ledger as a table, for a file; `runs` holds their ids, with spaces between."""
    rows = [
        record | {"left_out": "; ".join(record["left_out"]), "runs": " ".join(record["runs"])}
        for record in map(as_record, entries)
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def as_table(entries: Sequence[Entry]) -> Table:
    """The ledger in texts: verdict, effect (of what) with its interval, corrected p, seeds, what it hangs on, runs."""
    header = ("claim", "what people say", "verdict", "effect of", "effect", "p", "seeds", "on what, or why not", "runs")
    rows = tuple(
        (
            one.claim.id,
            one.claim.says,
            str(one.verdict),
            one.claim.scale.quantity.name,
            one.number,
            units.MISSING if math.isnan(one.p) else "< 0.001" if one.p < 0.001 else f"{one.p:.2g}",
            str(one.effect.n) if one.measured else units.MISSING,
            one.briefly,
            str(len(one.runs)) if one.runs else units.MISSING,
        )
        for one in entries
    )
    return Table(header, rows, frozenset({5, 6, 8}))


def as_record(entry: Entry) -> dict[str, Any]:
    """One entry for machines: what is not known is None."""

    def known(value: float) -> float | None:
        return None if math.isnan(value) else value

    scale = entry.claim.scale.quantity
    return {
        "id": entry.claim.id,
        "claim": entry.claim.says,
        "verdict": str(entry.verdict),
        "effect_of": scale.name,
        "effect": known(entry.effect.estimate * scale.scale),
        "low": known(entry.effect.low * scale.scale),
        "high": known(entry.effect.high * scale.scale),
        "unit": scale.unit,
        "n": entry.effect.n,
        "p": known(entry.p),
        "condition": entry.condition,
        "numbers": entry.clause,
        "supported_when": entry.claim.supported,
        "refuted_when": entry.claim.refuted,
        "left_out": [one.sentence for one in entry.left_out],
        "runs": list(entry.runs),
    }


def findings_table(answers: Sequence[Answer]) -> pd.DataFrame:
    """The numbers behind the sentences: columns row, claim, where, statistic, estimate, low, high, n."""
    rows = [
        {"row": answer.row.name, "claim": claim, "where": finding.where, "statistic": statistic} | vars(interval)
        for answer in answers
        for claim, found in answer.findings.items()
        for finding in found
        for statistic, interval in finding.numbers.items()
    ]
    return pd.DataFrame(rows, columns=["row", "claim", "where", "statistic", "estimate", "low", "high", "n"])


def headline(answers: Sequence[Answer]) -> str:
    """What was decided, in a line: ``"dependencies: 2.1 tie · attention: 3.1 supported · 11 not measured"``."""
    open_ones = (Verdict.UNDECIDED, Verdict.REPORTED, Verdict.NOT_MEASURED)
    found = [entry.verdict for answer in answers for entry in answer.entries]
    parts = []
    for answer in answers:
        decided = [entry.name for entry in answer.entries if entry.verdict not in open_ones]
        if decided:
            parts.append(f"{answer.row.name}: {', '.join(decided)}")
    rest = [f"{found.count(verdict)} {verdict}" for verdict in open_ones if verdict in found]
    return " · ".join(filter(None, [*parts, ", ".join(rest)]))


def summary(answers: Sequence[Answer]) -> str:
    """The four rows in Markdown, verdicts and numbers, for the page of a grid in the dashboard."""
    lines = ["| | verdicts | measured |", "|:--|:--|:--|"]
    for answer in answers:
        verdicts = ", ".join(f"{entry.claim.id} **{entry.verdict}**" for entry in answer.entries)
        lines.append(f"| {answer.row.name} | {verdicts} | {answer.sentence.replace('|', '/')} |")
    return "\n".join(lines)
