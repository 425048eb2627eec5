"""What a replay has folded from the entries so far, and what it found wrong."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from enclaves.kit.envelope import Purpose, Signed, verify_document
from policies.agreement import Agreement, LogIdentity
from policies.budgets import Budget, period_begins
from policies.counts import Counts
from policies.declaration import Declaration
from policies.entries import LedgerCharge
from policies.errors import Tampered
from policies.escrow import Course
from policies.query import Plan
from policies.recent import Generations
from policies.request import VersionFact
from policies.service import Scoring
from policies.training import Training
from sandbox.audit.backtest import Candidate
from sandbox.audit.charge_times import ChargeTimes
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.digest_table import DigestTable
from sandbox.audit.findings import Findings, Relation, What
from sandbox.audit.folds import Acts, AgreementFold, Entry, ExchangeFold, JobFold, Keys, Ledger, Scored, ScoringFold
from sandbox.audit.keyring import Keyring
from sandbox.audit.noted import Noted
from sandbox.audit.totals import Total
from sandbox.audit.verdict import PROMISES, Mismatch, Promise, PromiseState

ENDS: tuple[str, ...] = ("", "denied", "released", "withheld", "failed", "repeated", "joint_released", "joint_withheld", "voided")
"""Last stages of a job; the place of each is its number."""

MAX_PLANS = 2_000
"""Plans of queries that are remembered at most."""


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
        noted: newest checkpoint of each other log that was noted.
        named: agreements' logs, to be judged once all keys of the log are known.
        epoch_id: digest of the epoch that opens this log; `waiting`: providers that have not signed it, None where it is not opened.
        acts: tightenings, approvals and payments so far.
        carried: how exchanges of the log before stand in this one, from the epoch that opens it; None where that is not opened.
        all_counted: whether the log tells of all that consumers used up; an epoch that does not say it leaves some to the log before.
        exchanges: of two legs; `escrowed`: by job whose release is a leg's delivery, its exchange.
        scorings: encrypted scorings by id; `scored`: what they used up, by agreement and model.
        candidate: terms under which every decision is made once more.
        plans: of queries read so far, by agreement, text, training and scoring.
        counting: whether to count what is opened of which agreement.
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
    noted: dict[str, Noted] = field(default_factory=dict)
    named: list[tuple[int, LogIdentity]] = field(default_factory=list)
    epoch_id: str = ""
    waiting: set[str] | None = field(default_factory=set)
    acts: Acts = field(default_factory=Acts)
    carried: dict[str, Course] | None = field(default_factory=dict)
    all_counted: bool = True
    exchanges: dict[str, ExchangeFold] = field(default_factory=dict)
    escrowed: dict[str, str] = field(default_factory=dict)
    scorings: dict[str, ScoringFold] = field(default_factory=dict)
    scored: defaultdict[tuple[str, str], Scored] = field(default_factory=lambda: defaultdict(Scored))
    candidate: Candidate | None = None
    plans: Generations[tuple[str, str, Training | None, Scoring | None], Plan] = field(default_factory=lambda: Generations(MAX_PLANS))
    counting: bool = False
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
        amount, delta0 = self.times.get(ledger, ChargeTimes()).after(period_begins(now, days), consumer)
        return Total(measure=self.ledgers.get(ledger, Total()).measure, amount=amount, delta0=delta0)

    def open_with(self, counts: Counts | None) -> None:
        """Count on from what the epoch that opens the log says consumers have used up; None where it does not say."""
        self.all_counted = counts is not None
        for used in counts.uses if counts else ():
            self.acts.uses[used.agreement, used.provider][used.consumer] += used.jobs
        for called in counts.scored if counts else ():
            before = self.acts.scored[called.agreement, called.model, called.consumer]
            before += [(rows, at * 1000) for at, rows in called.calls]
        for asked in counts.encrypted if counts else ():
            self.scored[asked.agreement, asked.model] = Scored(rows=asked.rows, requests=asked.requests)

    def states(self, stated: tuple[int, ...], counted: tuple[int, ...]) -> bool:
        """Whether a decision states what this log counted; or more, where a log before it may have counted the rest."""
        return stated == counted or (not self.all_counted and all(said >= own for said, own in zip(stated, counted, strict=True)))

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
