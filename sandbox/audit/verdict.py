"""What a replay answers: promise by promise what holds, every mismatch by entry, and what a log cannot show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from sandbox.audit.backtest import Difference
from sandbox.audit.reading import Reading
from sandbox.audit.totals import Total

Promise = Literal["log", "signatures", "decisions", "budgets", "grants", "order", "evidence", "releases"]

PromiseState = Literal["ok", "broken", "unopened"]
"""`unopened`: nothing contradicts the promise, but a body that it rests on was not opened, so it is not shown."""

PROMISES: dict[Promise, str] = {
    "log": "the entries are those of the signed checkpoint, nothing seen before was rewritten, and openings fit their commitments"
    " and were given to the reader whom the export names",
    "signatures": "every document is signed by its admitted participant, and every agreement by all parties over the same digest",
    "decisions": "every decision follows from the logged request, agreement, plan and facts",
    "budgets": "every charge is what the grant spends, stated totals are the sums of earlier charges, and no total exceeds its budget",
    "grants": "every grant is exactly what its decision entails",
    "order": "every job went decided, charged, granted, running, attested, keys, end; each step once and nothing after the end",
    "evidence": "every enclave was appraised against the agreement's reference values and bound to its grant, and so were its keys",
    "releases": "every outcome is signed by the attested enclave and keeps to the grant in mechanism, scale and loss",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Mismatch:
    """One thing that does not follow.

    Attributes:
        index: of the entry; None where it is about the log as a whole.
        kind: of the entry, or the kind of file: `checkpoint`, `tile`, `openings`, `unreadable`; `witness` and
            `split-view` about cosignatures and about two histories that the log signed.
    """

    index: int | None
    kind: str
    promise: Promise
    what: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """The result of a replay.

    Attributes:
        ok: every promise is `ok` and every body was opened.
        size: entries that the checkpoint covers; 0 if it could not be verified.
        entries: how many of them were read.
        mismatches: by index; those of the log as a whole last.
        ledgers: sum of all charges by `provider/id_space`, in units of 10^-9; from public headers, whatever was opened.
        totals: the same with measure and delta0.
        unopened: entries whose body was not opened.
        not_reparsed: decisions replayed from the logged plan only, because another parser version made it.
        notes: what this replay cannot show.
        witnesses: that cosigned the checkpoint, of those the auditor trusts, with the time of each in seconds since 1970.
        differences: decisions that the candidate terms would have made otherwise; None where none were given.
        reading: whose credential made the export, under which scopes, and what was closed to it; None where the export does not say.
    """

    ok: bool
    size: int
    entries: int
    mismatches: tuple[Mismatch, ...]
    promises: Mapping[Promise, PromiseState]
    ledgers: Mapping[str, int]
    totals: Mapping[str, Total]
    unopened: int
    not_reparsed: int
    notes: tuple[str, ...]
    witnesses: Mapping[str, int]
    differences: tuple[Difference, ...] | None
    reading: Reading | None = None
