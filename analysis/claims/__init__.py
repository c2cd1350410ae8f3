"""The claim ledger: what people say of LSTMs and Transformers, the criteria that decide it, and what the runs decide.

A claim, its criterion in words and the function that is that criterion stand together in the file of its family:
`processing` (1.*), `dependencies` and `gradients` (2.*), `attention` (3.*), `efficiency` and `data` (4.*), `components`
(5.*); family 6, agreement with the published record, is `analysis.published`. All are ruled by `rules`.
"""

from analysis.claims.base import ATTENTION, LSTM, TRANSFORMER, Claim, Finding
from analysis.claims.ledger import (
    CLAIMS,
    FOLKLORE,
    Answer,
    Entry,
    as_frame,
    as_record,
    as_table,
    findings_table,
    folklore,
    headline,
    ledger,
    left_out,
    summary,
)
from analysis.claims.rules import Verdict

__all__ = [
    "ATTENTION",
    "CLAIMS",
    "FOLKLORE",
    "LSTM",
    "TRANSFORMER",
    "Answer",
    "Claim",
    "Entry",
    "Finding",
    "Verdict",
    "as_frame",
    "as_record",
    "as_table",
    "findings_table",
    "folklore",
    "headline",
    "ledger",
    "left_out",
    "summary",
]
