"""What a replay has folded from the entries so far, and what it found wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from enclaves.kit.appraisal import Attested
from enclaves.kit.envelope import Purpose, Signed, verify_document
from policies.agreement import Agreement, LogIdentity
from policies.declaration import Declaration
from policies.entries import Header, LedgerCharge
from policies.errors import Tampered
from policies.grant import AnyGrant
from policies.privacy import Loss
from policies.request import JobRequest, VersionFact
from policies.tightening import SignedTightening
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.keyring import Keyring
from sandbox.audit.totals import Total
from sandbox.audit.verdict import PROMISES, Mismatch, Promise, PromiseState

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
        totals, consumer_totals: strictest bounds by ledger, of all charges and of those for the asking consumer.
        names_consumer: whether a charge under this law names the consumer.
        repeats: the job whose release is to be handed out again.
        grant: None where the own decision denies or repeats.
    """

    request: JobRequest
    ledgers: tuple[Ledger, ...]
    public: tuple[str, ...]
    totals: dict[Ledger, Loss]
    consumer_totals: dict[Ledger, Loss]
    names_consumer: bool
    repeats: str | None
    grant: AnyGrant | None


@dataclass(kw_only=True, slots=True)
class JobFold:
    """A job as far as the log has told.

    Attributes:
        stage: kind of the last step, `denied`, or `nothing` before the first.
        providers: of the ledgers charged and of public tables: those whose keys a run needs.
        question: digest of what was asked of which data; empty where not opened.
        answered: providers that released or refused keys; `released`: those that released.
        grant_id, evidence_id: digests from the headers of `granted` and `attested`.
        attested_at: time of the entry of its evidence, milliseconds since 1970.
        grant: the logged one, or where it was not opened the derived one; None if neither is known.
    """

    agreement: str
    stage: str = "nothing"
    providers: frozenset[str] = frozenset()
    answered: set[str] = field(default_factory=set)
    released: set[str] = field(default_factory=set)
    question: str = ""
    grant_id: str = ""
    evidence_id: str = ""
    attested_at: int = 0
    derived: Derived | None = None
    grant: AnyGrant | None = None
    attested: Attested | None = None

    def end(self, stage: str) -> None:
        """Keep only what is needed to recognise a step after the end, so that memory grows little with the number of jobs."""
        self.stage, self.derived, self.grant, self.attested = stage, None, None, None
        self.answered, self.released = set(), set()


@dataclass(kw_only=True, slots=True)
class Acts:
    """What parties signed under agreements in force, and what counts by it.

    Attributes:
        tightenings: by agreement, in their order.
        awaiting: digest of the request by job that waits, or waited, for approvals; `approvals`: who approved it.
        uses: by agreement and provider, number of charges by consumer.
        paid: payments confirmed, by agreement, provider and consumer.
        deadlines: by agreement and consumer, until when its jobs' releases may be kept, milliseconds since 1970.
        deleted: jobs whose release was reported as deleted.
    """

    tightenings: defaultdict[str, list[SignedTightening]] = field(default_factory=lambda: defaultdict(list))
    awaiting: dict[str, str] = field(default_factory=dict)
    approvals: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    uses: defaultdict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    paid: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    deadlines: defaultdict[tuple[str, str], dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    deleted: set[str] = field(default_factory=set)

    def late(self, agreement: str, consumer: str, now_ms: int) -> list[str]:
        """Jobs of a consumer whose release was to be deleted by `now_ms` and was not reported as deleted, sorted."""
        due = self.deadlines.get((agreement, consumer), {})
        return sorted(job for job, deadline in due.items() if deadline <= now_ms and job not in self.deleted)


@dataclass(kw_only=True, slots=True)
class State:
    """The fold over all entries so far.

    Attributes:
        participants: admitted ones with their keys in force; None where the admission was not opened.
        keyring: rotations and revocations so far; `gone`: participants whose keys are revoked.
        keys: every key and credential digest that was in use; none comes back.
        declarations: declared datasets; None where not opened.
        newest: newest published version by dataset.
        requests: digests of decided requests; `asked`: (consumer, request id) of those opened.
        ledgers: sums of all charges; `of_consumers`: of those for one consumer, under "" of those whose header names none.
        answered: by question, the jobs that released an answer.
        log_keys: keys of this log in the order of its `log_rotated` entries, the first one before them; empty without such entries.
        log_names: logs that agreements may name besides this one, from the epoch that opens it.
        named: agreements' logs, to be judged once all keys of the log are known.
        epoch_id: digest of the epoch that opens this log; `waiting`: providers that have not signed it, None where it is not opened.
        acts: tightenings, approvals and duties so far.
        missing: promises for which some body was not opened.
        simulated: whether a release rests on `simulated` evidence.
    """

    log: LogKey
    participants: dict[str, Keys | None] = field(default_factory=dict)
    keyring: Keyring = field(default_factory=Keyring)
    gone: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)
    declarations: dict[str, Declaration | None] = field(default_factory=dict)
    newest: dict[str, VersionFact] = field(default_factory=dict)
    offers: set[str] = field(default_factory=set)
    agreements: dict[str, AgreementFold] = field(default_factory=dict)
    jobs: dict[str, JobFold] = field(default_factory=dict)
    requests: set[str] = field(default_factory=set)
    asked: set[tuple[str, str]] = field(default_factory=set)
    ledgers: defaultdict[Ledger, Total] = field(default_factory=lambda: defaultdict(Total))
    of_consumers: defaultdict[tuple[Ledger, str], Total] = field(default_factory=lambda: defaultdict(Total))
    answered: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    log_keys: list[str] = field(default_factory=list)
    log_names: set[LogIdentity] = field(default_factory=set)
    named: list[tuple[Entry, LogIdentity]] = field(default_factory=list)
    epoch_id: str = ""
    waiting: set[str] | None = field(default_factory=set)
    acts: Acts = field(default_factory=Acts)
    mismatches: list[Mismatch] = field(default_factory=list)
    missing: set[Promise] = field(default_factory=set)
    unopened: int = 0
    not_reparsed: int = 0
    released: int = 0
    simulated: bool = False

    def charge(self, charge: LedgerCharge, consumer: str) -> bool:
        """Count a charge; returns whether it is in the measure of its ledger."""
        ledger = (charge.provider, charge.id_space)
        total = self.ledgers[ledger] = self.ledgers[ledger].plus(charge)
        self.of_consumers[ledger, consumer] = self.of_consumers[ledger, consumer].plus(charge)
        return total.measure == charge.measure

    def consumer_total(self, ledger: Ledger, consumer: str) -> Total:
        """What counts to one consumer: charges that name it, and those that name nobody."""
        own, unnamed = (self.of_consumers.get((ledger, name), Total()) for name in (consumer, ""))
        return own.plus(unnamed) if consumer else unnamed

    def report(self, entry: Entry, promise: Promise, what: str) -> None:
        """Note something about an entry that does not follow."""
        self.report_at(entry.index, entry.header.kind, promise, what)

    def report_at(self, index: int | None, kind: str, promise: Promise, what: str) -> None:
        """Note something that does not follow, about an entry or about the log as a whole."""
        self.mismatches.append(Mismatch(index=index, kind=kind, promise=promise, what=what))

    def require(self, entry: Entry, holds: bool, promise: Promise, what: str) -> bool:
        """Report `what` unless it holds; returns whether it does."""
        if not holds:
            self.report(entry, promise, what)
        return holds

    def cannot(self, *promises: Promise) -> None:
        """Note that a promise cannot be shown for want of an opening."""
        self.missing.update(promises)

    def agreement(self, digest: str) -> Agreement | None:
        """The agreement of that digest, if it is in the log and opened."""
        fold = self.agreements.get(digest)
        return None if fold is None else fold.agreement

    def verify(self, entry: Entry, signed: Signed, purpose: Purpose, by: str, public: str | None = None) -> bool:
        """Whether `by` signed for `purpose`; reports it if not.

        Args:
            public: the key (hex) that an agreement names, from which the one in force follows; None for the participant's key in force.
        """
        if by not in self.participants:
            self.report(entry, "signatures", f"`{by}` is not admitted")
            return False
        admitted = self.participants[by]
        named = public or (admitted.signing if admitted else None)
        if named is None:
            self.cannot("signatures")
            return False
        key = self.keyring.signing_key(named)
        if key is None:
            self.report(entry, "signatures", f"the keys of `{by}` were revoked before")
            return False
        try:
            verify_document(signed, purpose, by, key)
        except Tampered as error:
            self.report(entry, "signatures", error.message)
            return False
        return True

    def promises(self) -> dict[Promise, PromiseState]:
        """The state of every promise."""
        broken = {mismatch.promise for mismatch in self.mismatches}
        return {promise: "broken" if promise in broken else "unopened" if promise in self.missing else "ok" for promise in PROMISES}
