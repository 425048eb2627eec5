"""What a replay keeps of one thing that a log tells of: an agreement, a job, an exchange, an encrypted scoring."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from enclaves.kit.appraisal import Attested
from policies.agreement import Agreement
from policies.audit_scope import SignedAuditScope
from policies.budgets import Budget
from policies.entries import Header, LedgerCharge
from policies.escrow import Course
from policies.exchange import Exchange
from policies.grant import AnyGrant
from policies.joint_documents import JointContribution, JointManifest
from policies.request import JobRequest
from policies.tightening import SignedTightening
from sandbox.audit.verdict import PromiseState

Ledger = tuple[str, str]
"""(provider, id space)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One authentic entry and its body; None where it was not opened."""

    index: int
    header: Header
    body: dict[str, Any] | None

    @property
    def ids(self) -> dict[str, str]:
        """Names and digests of the header."""
        return self.header.ids


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """Public keys (hex) of a participant that are in force."""

    signing: str
    sealing: str


@dataclass(kw_only=True, slots=True)
class AgreementFold:
    """An agreement as far as the log has told.

    Attributes:
        agreement: None where the proposal was not opened.
        signed: by participant, whether its signature holds.
        agreed: whether the log says that all have signed.
    """

    agreement: Agreement | None = None
    signed: dict[str, PromiseState] = field(default_factory=dict)
    agreed: bool = False

    @property
    def standing(self) -> PromiseState:
        """Whether every party has validly signed."""
        if self.agreement is None:
            return "unopened"
        states = [self.signed.get(party.id, "broken") for party in self.agreement.parties]
        return "broken" if "broken" in states else "unopened" if "unopened" in states else "ok"


@dataclass(frozen=True, kw_only=True, slots=True)
class Derived:
    """What this replay derived itself from one opened decision.

    Attributes:
        ledgers: that are to be charged; none where nothing is.
        public: providers of public tables that the plan reads.
        now: stated time of the decision, seconds since 1970.
        budgets: strictest bounds on the ledgers.
        names_consumer: whether a charge under this law names the consumer.
        repeats: the job whose release is to be handed out again.
        grant: None where the own decision denies or repeats.
        metered: what the charge says of rows that are scored.
    """

    request: JobRequest
    ledgers: tuple[Ledger, ...]
    public: tuple[str, ...]
    now: int
    budgets: tuple[Budget, ...]
    names_consumer: bool
    repeats: str | None
    grant: AnyGrant | None
    metered: dict[str, str]


@dataclass(kw_only=True, slots=True)
class JointFold:
    """The present attempt at a joint total as far as the log has told.

    Attributes:
        name: digest of the manifest; `manifest` itself where it was opened.
        ciphertexts: by contributor, from the headers; `signed`: what was opened of what contributors signed.
        total: digest of the sum; empty before there is one.
    """

    name: str
    manifest: JointManifest | None = None
    ciphertexts: dict[str, str] = field(default_factory=dict)
    signed: dict[str, JointContribution] = field(default_factory=dict)
    total: str = ""


@dataclass(kw_only=True, slots=True)
class ScoringFold:
    """An encrypted scoring as far as the log has told; `open` from an allowed decision to the end."""

    model: str
    agreement: str
    request: str
    rows: int
    at: int
    open: bool


@dataclass(kw_only=True, slots=True)
class Scored:
    """Rows and number of all allowed requests to one model under one agreement that were not returned."""

    rows: int = 0
    requests: int = 0


@dataclass(kw_only=True, slots=True)
class JobFold:
    """A job as far as the log has told.

    Attributes:
        stage: kind of the last step, `denied`, or `nothing` before the first.
        providers: of the ledgers charged and of public tables: those whose keys a run needs.
        question: digest of what was asked of which data; empty where not opened.
        answered: providers that released or refused keys; `released`: those that released; `renounced`: those that renounced the grant.
        losses, consumer, charged_at: of its charge; the time of its entry in milliseconds since 1970.
        grant_id, evidence_id: digests from the headers of `granted` and `attested`.
        running_at, attested_at: times of the entries by which a worker took it, and of its evidence, milliseconds since 1970.
        at: indices of its entries so far; `blind`: whether it was decided before its agreement was known.
        exchange, leg: that the job is part of; empty and 0 for one that is part of none.
        attempts: at a joint total so far; `gone`: contributors that dropped out of it; `joint`: the present attempt.
        grant: the logged one, or where it was not opened the derived one; None if neither is known. `grant_named`: its digest.
    """

    agreement: str
    stage: str = "nothing"
    providers: frozenset[str] = frozenset()
    answered: set[str] = field(default_factory=set)
    released: set[str] = field(default_factory=set)
    renounced: set[str] = field(default_factory=set)
    losses: tuple[LedgerCharge, ...] = ()
    consumer: str = ""
    charged_at: int = 0
    question: str = ""
    grant_id: str = ""
    evidence_id: str = ""
    running_at: int = 0
    attested_at: int = 0
    at: list[int] = field(default_factory=list)
    blind: bool = False
    derived: Derived | None = None
    grant: AnyGrant | None = None
    grant_named: str = ""
    attested: Attested | None = None
    exchange: str = ""
    leg: int = 0
    joint: JointFold | None = None
    attempts: int = 0
    gone: set[str] = field(default_factory=set)


@dataclass(kw_only=True, slots=True)
class ExchangeFold:
    """An exchange as far as the log has told; document and course are None where the proposal was not opened."""

    exchange: Exchange | None = None
    course: Course | None = None
    agreements: tuple[str, ...] = ()


@dataclass(kw_only=True, slots=True)
class Acts:
    """What parties signed under agreements in force, and what counts by it.

    Attributes:
        tightenings, scopes: by agreement, in their order; of the audit scopes, with the index of the entry.
        awaiting: digest of the request by job that waits, or waited, for approvals.
        asked: whose request it is, where that was opened; `approvals`: who approved it.
        uses: by agreement and provider, number of charges by consumer.
        paid: payments confirmed, by agreement, provider and consumer.
        scored: (rows, milliseconds since 1970) of charged calls by agreement, model and consumer.
    """

    tightenings: defaultdict[str, list[SignedTightening]] = field(default_factory=lambda: defaultdict(list))
    scopes: defaultdict[str, list[tuple[int, SignedAuditScope]]] = field(default_factory=lambda: defaultdict(list))
    awaiting: dict[str, str] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    approvals: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    uses: defaultdict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    paid: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    scored: defaultdict[tuple[str, str, str], list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
