"""What a replay has folded from the entries so far, and what it found wrong."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

from enclaves.kit.appraisal import Attested
from enclaves.kit.envelope import Purpose, Signed, verify_document
from policies.agreement import Agreement, LogIdentity
from policies.budgets import Budget, period_begins
from policies.declaration import Declaration
from policies.entries import Header, LedgerCharge
from policies.errors import Tampered
from policies.escrow import Course
from policies.exchange import Exchange
from policies.grant import AnyGrant
from policies.joint_documents import JointContribution, JointManifest
from policies.query import Plan
from policies.request import JobRequest, VersionFact
from policies.service import Scoring
from policies.tightening import SignedTightening
from policies.training import Training
from sandbox.audit.backtest import Candidate
from sandbox.audit.charge_times import ChargeTimes
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.digest_table import DigestTable
from sandbox.audit.findings import Findings, Relation, What
from sandbox.audit.keyring import Keyring
from sandbox.audit.totals import Total
from sandbox.audit.verdict import PROMISES, Mismatch, Promise, PromiseState

ENDS: tuple[str, ...] = ("", "denied", "released", "withheld", "failed", "repeated", "joint_released", "joint_withheld", "voided")
"""Last stages of a job; the place of each is its number."""

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
    open: bool


@dataclass(kw_only=True, slots=True)
class Scored:
    """Rows and number of all allowed requests to one model under one agreement."""

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
        attested_at: time of the entry of its evidence, milliseconds since 1970.
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
        tightenings: by agreement, in their order.
        awaiting: digest of the request by job that waits, or waited, for approvals.
        asked: whose request it is, where that was opened; `approvals`: who approved it.
        uses: by agreement and provider, number of charges by consumer.
        paid: payments confirmed, by agreement, provider and consumer.
        scored: (rows, milliseconds since 1970) of charged calls by agreement, model and consumer.
    """

    tightenings: defaultdict[str, list[SignedTightening]] = field(default_factory=lambda: defaultdict(list))
    awaiting: dict[str, str] = field(default_factory=dict)
    asked: dict[str, str] = field(default_factory=dict)
    approvals: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    uses: defaultdict[tuple[str, str], Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    paid: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    scored: defaultdict[tuple[str, str, str], list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))


@dataclass(kw_only=True, slots=True)
class State:
    """The fold over all entries so far.

    Attributes:
        participants: admitted ones with their keys in force; None where the admission was not opened.
        keyring: rotations and revocations so far; `gone`: participants whose keys are revoked.
        keys: every key and credential digest that was in use; none comes back.
        declarations: declared datasets; None where not opened.
        newest: newest published version by dataset.
        jobs: those that have not ended; `ended`: of all others, only the number in `ENDS` of how they ended.
        requests: digests of decided requests.
        ledgers: sums of all charges; `of_consumers`: of those for one consumer, under "" of those whose header names none.
        times: when ledgers were charged.
        log_keys: keys of this log in the order of its `log_rotated` entries, the first one before them; empty without such entries.
        log_names: logs that agreements may name besides this one, from the epoch that opens it.
        named: agreements' logs, to be judged once all keys of the log are known.
        epoch_id: digest of the epoch that opens this log; `waiting`: providers that have not signed it, None where it is not opened.
        acts: tightenings, approvals and payments so far.
        exchanges: of two legs; `escrowed`: by job whose release is a leg's delivery, its exchange.
        scorings: encrypted scorings by id; `scored`: what they used up, by agreement and model.
        candidate: terms under which every decision is made once more.
        plans: of queries read so far, by agreement, text, training and scoring.
        found: what judging the entries so far has found.
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
    ended: DigestTable = field(default_factory=DigestTable)
    requests: DigestTable = field(default_factory=DigestTable)
    ledgers: defaultdict[Ledger, Total] = field(default_factory=lambda: defaultdict(Total))
    of_consumers: defaultdict[tuple[Ledger, str], Total] = field(default_factory=lambda: defaultdict(Total))
    times: defaultdict[Ledger, ChargeTimes] = field(default_factory=lambda: defaultdict(ChargeTimes))
    log_keys: list[str] = field(default_factory=list)
    log_names: set[LogIdentity] = field(default_factory=set)
    named: list[tuple[int, LogIdentity]] = field(default_factory=list)
    epoch_id: str = ""
    waiting: set[str] | None = field(default_factory=set)
    acts: Acts = field(default_factory=Acts)
    exchanges: dict[str, ExchangeFold] = field(default_factory=dict)
    escrowed: dict[str, str] = field(default_factory=dict)
    scorings: dict[str, ScoringFold] = field(default_factory=dict)
    scored: defaultdict[tuple[str, str], Scored] = field(default_factory=lambda: defaultdict(Scored))
    candidate: Candidate | None = None
    plans: dict[tuple[str, str, Training | None, Scoring | None], Plan] = field(default_factory=dict)
    found: Findings = field(default_factory=Findings)

    def job(self, name: str, agreement: str) -> JobFold:
        """The job of that name as far as it is known; one that has ended is known by its end alone."""
        job = self.jobs.get(name)
        if job is None:
            end = self.ended.get(name)
            job = JobFold(agreement=agreement, stage=ENDS[end] if end else "nothing")
            if not end:
                self.jobs[name] = job
        return job

    def stage_of(self, name: str) -> str:
        """The stage of a job; `nothing` for an unknown one."""
        end = self.ended.get(name)
        return ENDS[end] if end else self.jobs[name].stage if name in self.jobs else "nothing"

    def end(self, name: str, stage: str) -> None:
        """Keep of a job only how it ended, to recognise a step after the end: memory grows little with the number of jobs."""
        self.ended.put(name, ENDS.index(stage))
        self.jobs.pop(name, None)

    def relate(self, entry: Entry, what: What, subject: str, other: str = "") -> None:
        """Note what an entry says about other jobs."""
        self.found.relations.append(Relation(entry.index, what, subject, other))

    def charge(self, charge: LedgerCharge, consumer: str, at: int) -> bool:
        """Count a charge that was entered at a time (milliseconds since 1970); returns whether it is in the measure of its ledger."""
        ledger = (charge.provider, charge.id_space)
        self.times[ledger].add(at, charge.amount, charge.delta0, consumer)
        total = self.ledgers[ledger] = self.ledgers[ledger].plus(charge)
        self.of_consumers[ledger, consumer] = self.of_consumers[ledger, consumer].plus(charge)
        return total.measure == charge.measure

    def give_back(self, charge: LedgerCharge, consumer: str, at: int) -> None:
        """Take a void charge, which was entered at a time, from its ledger."""
        ledger = (charge.provider, charge.id_space)
        self.times[ledger].add(at, -charge.amount, -charge.delta0, consumer)
        self.ledgers[ledger] = self.ledgers[ledger].minus(charge)
        self.of_consumers[ledger, consumer] = self.of_consumers[ledger, consumer].minus(charge)

    def consumer_total(self, ledger: Ledger, consumer: str) -> Total:
        """What counts to one consumer: charges that name it, and those that name nobody."""
        own, unnamed = (self.of_consumers.get((ledger, name), Total()) for name in (consumer, ""))
        return own.plus(unnamed) if consumer else unnamed

    def counted(self, budget: Budget, consumer: str, now: int) -> Total:
        """What counts against a bound at `now`, seconds since 1970."""
        ledger = (budget.provider, budget.id_space)
        if budget.days is None:
            return self.consumer_total(ledger, consumer) if budget.own else self.ledgers.get(ledger, Total())
        return self.recent(ledger, budget.days, now, consumer if budget.own else None)

    def recent(self, ledger: Ledger, days: int, now: int, consumer: str | None) -> Total:
        """What a ledger was charged in the last `days` days before `now`, in all or counting to a consumer."""
        times = self.times.get(ledger, ChargeTimes())
        amount, delta0 = times.after(period_begins(now, days), consumer)
        return Total(measure=self.ledgers.get(ledger, Total()).measure, amount=amount, delta0=delta0)

    def report(self, entry: Entry, promise: Promise, what: str) -> None:
        """Note something about an entry that does not follow."""
        self.report_at(entry.index, entry.header.kind, promise, what)

    def report_at(self, index: int | None, kind: str, promise: Promise, what: str) -> None:
        """Note something that does not follow, about an entry or about the log as a whole."""
        self.found.mismatches.append(Mismatch(index=index, kind=kind, promise=promise, what=what))

    def require(self, entry: Entry, holds: bool, promise: Promise, what: str) -> bool:
        """Report `what` unless it holds; returns whether it does."""
        if not holds:
            self.report(entry, promise, what)
        return holds

    def cannot(self, *promises: Promise) -> None:
        """Note that a promise cannot be shown for want of an opening."""
        self.found.missing.update(promises)

    def agreement(self, digest: str) -> Agreement | None:
        """The agreement of that digest, if it is in the log and opened."""
        fold = self.agreements.get(digest)
        return None if fold is None else fold.agreement

    def verify(self, entry: Entry, signed: Signed, purpose: Purpose, by: str, public: str | None = None, text: bytes | None = None) -> bool:
        """Whether `by` signed for `purpose`; reports it if not.

        Args:
            public: the key (hex) that an agreement names, from which the one in force follows; None for the participant's key in force.
            text: the canonical bytes of the document's body, where the caller has them already.
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
            verify_document(signed, purpose, by, key, text)
        except Tampered as error:
            self.report(entry, "signatures", error.message)
            return False
        return True

    def promises(self) -> dict[Promise, PromiseState]:
        """The state of every promise."""
        broken = {mismatch.promise for mismatch in self.found.mismatches}
        missing = self.found.missing
        return {promise: "broken" if promise in broken else "unopened" if promise in missing else "ok" for promise in PROMISES}
