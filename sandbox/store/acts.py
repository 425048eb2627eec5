"""Stored acts under agreements: tightenings, approvals, duties done; and what counts of an agreement's jobs."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, TypeVar

from sqlalchemy import Connection, bindparam, func, insert, select, update

from policies.acts import SignedApproval, SignedDuty
from policies.audit_scope import SignedAuditScope
from policies.tightening import SignedTightening
from sandbox.jobs.states import Job
from sandbox.store.exchange import from_text, parsed, to_text
from sandbox.store.jobs import job_of
from sandbox.store.schema import acts, jobs, releases

A = TypeVar("A")

_ACTS = select(acts.c.signed).where(acts.c.agreement == bindparam("agreement"), acts.c.kind == bindparam("kind")).order_by(acts.c.place)
_SCOPES_OF = (
    select(acts.c.agreement, acts.c.signed)
    .where(acts.c.kind == "audit-scope", acts.c.subject == bindparam("auditor"))
    .order_by(acts.c.agreement, acts.c.place)
)
_READS = select(jobs.c.consumer, jobs.c.grant_document, jobs.c.facts).where(
    jobs.c.agreement == bindparam("agreement"), jobs.c.grant_document.is_not(None), jobs.c.former == 0
)


class ActTables:
    """Verbs inside one transaction that holds the log wherever it writes."""

    connection: Connection

    def tightenings(self, agreement: str) -> tuple[SignedTightening, ...]:
        """All tightenings of an agreement, in the order of the log."""
        return self._acts(SignedTightening, agreement, "tightening")

    def add_tightening(self, signed: SignedTightening) -> None:
        """Store the next tightening."""
        found = signed.tightening
        self._add(found.agreement, "tightening", found.dataset, found.provider, found.sequence, signed)

    def approvals(self, agreement: str, job: str) -> tuple[SignedApproval, ...]:
        """The approvals of a job."""
        return tuple(found for found in self._acts(SignedApproval, agreement, "approval") if found.approval.job == job)

    def add_approval(self, signed: SignedApproval) -> None:
        """Store an approval."""
        self._add(signed.approval.agreement, "approval", signed.approval.job, signed.by, 1, signed)

    def duties_done(self, agreement: str) -> tuple[SignedDuty, ...]:
        """All duties that were done under an agreement."""
        return self._acts(SignedDuty, agreement, "duty")

    def add_duty(self, signed: SignedDuty) -> None:
        """Store that a duty was done."""
        self._add(signed.done.agreement, "duty", f"{signed.done.duty} {signed.done.about}"[:81], signed.by, signed.done.number, signed)

    def audit_scopes(self, agreement: str) -> tuple[SignedAuditScope, ...]:
        """All audit scopes under an agreement, in the order of the log."""
        return self._acts(SignedAuditScope, agreement, "audit-scope")

    def scopes_of_auditor(self, auditor: str) -> dict[str, tuple[SignedAuditScope, ...]]:
        """By agreement, all scopes that were signed for an auditor, in the order of the log."""
        found: defaultdict[str, list[SignedAuditScope]] = defaultdict(list)
        for row in self.connection.execute(_SCOPES_OF, {"auditor": auditor}):
            found[row.agreement].append(parsed(SignedAuditScope, row.signed))
        return {agreement: tuple(items) for agreement, items in found.items()}

    def add_audit_scope(self, signed: SignedAuditScope) -> None:
        """Store the next scope."""
        found = signed.scope
        self._add(found.agreement, "audit-scope", found.auditor, found.owner, found.sequence, signed)

    def uses(self, agreement: str) -> list[tuple[str, frozenset[str]]]:
        """(consumer, providers whose keys were granted) of every job that was granted under an agreement in this log."""
        rows = self.connection.execute(_READS, {"agreement": agreement})
        return [(row.consumer, frozenset(read["provider"] for read in from_text(row.grant_document)["reads"])) for row in rows]

    def scored(self, agreement: str, consumer: str) -> list[tuple[str, int, int]]:
        """(model, rows, seconds since 1970) of every call of a scoring service that a consumer was granted under an agreement in
        this log."""
        found = []
        for row in self.connection.execute(_READS.where(jobs.c.consumer == consumer), {"agreement": agreement}):
            scoring = from_text(row.grant_document)["plan"].get("scoring")
            if scoring is not None:
                found.append((str(scoring["model"]), int(scoring["rows"]), int(from_text(row.facts)["now"])))
        return found

    def released_to(self, agreement: str, consumer: str) -> list[Job]:
        """Jobs of a consumer under an agreement that a run of their own released in this log."""
        query = select(jobs).where(
            jobs.c.agreement == agreement, jobs.c.consumer == consumer, jobs.c.state == "released", jobs.c.former == 0
        )
        return [job_of(row) for row in self.connection.execute(query.where(jobs.c.grant_document.is_not(None)).order_by(jobs.c.id))]

    def decide_job(self, job: Job) -> None:
        """Store what became of a held job that waited for approvals."""
        values: dict[str, Any] = {
            "state": job.state,
            "facts": to_text(job.facts),
            "decision": to_text(job.decision),
            "grant_document": None if job.grant is None else to_text(job.grant),
            "positions": to_text(job.positions),
            "question": job.question,
        }
        self.connection.execute(update(jobs).where(jobs.c.id == job.id, jobs.c.state == "awaiting_approval").values(**values))

    def awaiting_since(self, before: int) -> list[str]:
        """Ids of jobs that wait for approvals since before a time, milliseconds since 1970."""
        query = select(jobs.c.id).where(jobs.c.state == "awaiting_approval", jobs.c.created_at < before).order_by(jobs.c.id)
        return [str(row.id) for row in self.connection.execute(query)]

    def delete_release(self, job: str) -> None:
        """Delete the sealed bytes of a release; its statement stays, so that its receipt does."""
        self.connection.execute(update(releases).where(releases.c.job == job).values(sealed=b""))

    def _acts(self, kind: type[A], agreement: str, name: str) -> tuple[A, ...]:
        rows = self.connection.execute(_ACTS, {"agreement": agreement, "kind": name})
        return tuple(parsed(kind, row.signed) for row in rows)

    def _add(self, agreement: str, kind: str, subject: str, participant: str, number: int, signed: Any) -> None:
        place = select(func.count()).select_from(acts).where(acts.c.agreement == agreement)
        self.connection.execute(
            insert(acts).values(
                agreement=agreement,
                kind=kind,
                subject=subject,
                participant=participant,
                number=number,
                place=self.connection.execute(place).scalar_one(),
                signed=to_text(signed),
            )
        )
