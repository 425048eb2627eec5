"""Stored jobs, ledgers, key requests and releases."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal, cast

from sqlalchemy import Connection, bindparam, func, insert, select, update

from enclaves.kit.envelope import Signed
from policies.codec import decode
from policies.entries import LedgerCharge
from policies.errors import Conflict
from policies.finding import Decision
from policies.grant import AnyGrant, AnyPlan
from policies.privacy import Loss
from policies.request import Facts, JobRequest
from policies.statement import SignedEvidence, SignedStatement
from sandbox.jobs.states import Job, JobState, KeyRequest, Positions, StoredRelease, require_transition
from sandbox.store.exchange import parsed, to_text
from sandbox.store.once import insert_once
from sandbox.store.schema import charges, consumer_charges, jobs, key_requests, ledgers, releases

_PLAN, _GRANT = cast(Any, AnyPlan), cast(Any, AnyGrant)  # types by name, as a union is no type to mypy

# Statements of every request, built once: building one costs as much as running it on SQLite.
_JOB = select(jobs).where(jobs.c.id == bindparam("id"))
_JOBS_NAMED = select(jobs).where(jobs.c.id.in_(bindparam("names", expanding=True)))
_LEDGERS = select(ledgers).order_by(ledgers.c.provider, ledgers.c.id_space)
_RELEASE = select(releases).where(releases.c.job == bindparam("job"))


class JobTables:
    """Verbs on jobs and what they cost, inside one transaction."""

    connection: Connection

    def lock_ledgers(self, names: Iterable[tuple[str, str]]) -> dict[tuple[str, str], Loss]:
        """Return what each (provider, id space) ledger has paid and hold them until the transaction ends.

        Ledgers are taken in the given order; callers sort them, so that two jobs never wait for each other.
        """
        spent = {}
        for provider, id_space in names:
            query = select(ledgers).where(ledgers.c.provider == provider, ledgers.c.id_space == id_space).with_for_update()
            row = self.connection.execute(query).one_or_none()
            if row is None:
                insert_once(self.connection, ledgers, provider=provider, id_space=id_space, amount=0, delta0=0)
                row = self.connection.execute(query).one()
            spent[provider, id_space] = _loss(row)
        return spent

    def charge(self, made: Iterable[LedgerCharge], consumer: str, at: int) -> None:
        """Add charges to ledgers that `lock_ledgers` holds.

        Args:
            consumer: whom they are for; empty for charges that count to every consumer.
            at: time of their entry, milliseconds since 1970.

        Raises:
            Conflict: code `ledger-measure`, for a charge in another measure than the ledger's first.
        """
        for charge in made:
            one_measure = (ledgers.c.measure == charge.measure) | ((ledgers.c.amount == 0) & (ledgers.c.delta0 == 0))
            done = self.connection.execute(
                update(ledgers)
                .where(ledgers.c.provider == charge.provider, ledgers.c.id_space == charge.id_space, one_measure)
                .values(amount=ledgers.c.amount + charge.amount, delta0=ledgers.c.delta0 + charge.delta0, measure=charge.measure)
            )
            if done.rowcount != 1:
                raise Conflict(f"ledger {charge.provider}/{charge.id_space} pays in another measure", code="ledger-measure")
            self.date_charge(charge, consumer, at)
            if not consumer:
                continue
            named = {"provider": charge.provider, "id_space": charge.id_space, "consumer": consumer}
            insert_once(self.connection, consumer_charges, **named, amount=0, delta0=0)
            self.connection.execute(
                update(consumer_charges)
                .where(*(consumer_charges.c[name] == value for name, value in named.items()))
                .values(amount=consumer_charges.c.amount + charge.amount, delta0=consumer_charges.c.delta0 + charge.delta0)
            )

    def give_back(self, charges: Iterable[LedgerCharge], consumer: str, at: int) -> None:
        """Take void charges from ledgers that `lock_ledgers` holds.

        Args:
            at: when they were charged, milliseconds since 1970.

        Raises:
            Conflict: code `ledger-void`, where a ledger has not paid as much.
        """
        for charge in charges:
            named = {"provider": charge.provider, "id_space": charge.id_space}
            tables = [(ledgers, named)] + ([(consumer_charges, named | {"consumer": consumer})] if consumer else [])
            for table, where in tables:
                done = self.connection.execute(
                    update(table)
                    .where(*(table.c[name] == value for name, value in where.items()))
                    .where(table.c.amount >= charge.amount, table.c.delta0 >= charge.delta0)
                    .values(amount=table.c.amount - charge.amount, delta0=table.c.delta0 - charge.delta0)
                )
                if done.rowcount != 1:
                    raise Conflict(f"ledger {charge.provider}/{charge.id_space} has not paid as much", code="ledger-void")
            self.date_charge(charge, consumer, at, times=-1)

    def date_charge(self, charge: LedgerCharge, consumer: str, at: int, *, times: Literal[1, -1] = 1) -> None:
        """Note when a ledger was charged, milliseconds since 1970, for bounds that are renewed; `times` -1 takes one of then away."""
        named = {"provider": charge.provider, "id_space": charge.id_space, "consumer": consumer, "at": at}
        self.connection.execute(insert(charges).values(**named, amount=times * charge.amount, delta0=times * charge.delta0))

    def charged_since(self, provider: str, id_space: str, after: int, consumer: str) -> tuple[Loss, Loss]:
        """What a ledger was charged after a time, milliseconds since 1970: in all, and counting to a consumer."""
        sums = (func.coalesce(func.sum(charges.c[name]), 0) for name in ("amount", "delta0"))
        query = select(*sums).where(charges.c.provider == provider, charges.c.id_space == id_space, charges.c.at > after)
        measure = self.connection.execute(
            select(ledgers.c.measure).where(ledgers.c.provider == provider, ledgers.c.id_space == id_space)
        ).scalar_one_or_none()
        rows = (self.connection.execute(asked).one() for asked in (query, query.where(charges.c.consumer.in_(("", consumer)))))
        spent, own = (Loss(measure=measure or "pure", amount=int(amount), delta0=int(delta0)) for amount, delta0 in rows)
        return spent, own

    def raise_ledgers(self, totals: Mapping[tuple[str, str], Loss], at: int) -> None:
        """Raise what ledgers have paid, by provider and id space; one that has paid as much is left alone.

        Args:
            at: when the difference counts as charged, milliseconds since 1970.

        Raises:
            Conflict: code `ledger-measure`, for a total in another measure than the ledger's.
        """
        for (provider, id_space), paid in self.lock_ledgers(sorted(totals)).items():
            wanted = totals[provider, id_space]
            amount, delta0 = max(0, wanted.amount - paid.amount), max(0, wanted.delta0 - paid.delta0)
            missing = LedgerCharge(provider=provider, id_space=id_space, amount=amount, delta0=delta0, measure=wanted.measure)
            self.charge([missing], "", at)

    def spent(self) -> dict[tuple[str, str], Loss]:
        """What every ledger has paid."""
        rows = self.connection.execute(_LEDGERS)
        return {(row.provider, row.id_space): _loss(row) for row in rows}

    def spent_for(self, consumer: str, spent: Mapping[tuple[str, str], Loss]) -> dict[tuple[str, str], Loss]:
        """Of what ledgers have `spent`, the part that counts to a consumer: all that is charged to nobody else by name."""
        found = dict(spent)
        for row in self.connection.execute(select(consumer_charges).where(consumer_charges.c.consumer != consumer)):
            ledger = (row.provider, row.id_space)
            if ledger in found:
                left = found[ledger]
                found[ledger] = replace(left, amount=left.amount - int(row.amount), delta0=left.delta0 - int(row.delta0))
        return found

    def add_job(self, job: Job) -> None:
        """Store a new job with its decision."""
        self.connection.execute(
            insert(jobs).values(
                id=job.id,
                consumer=job.request.consumer,
                request_id=job.request.request_id,
                request_digest=job.request_digest,
                agreement=job.request.agreement,
                state=job.state,
                signed=to_text(job.signed),
                plan=to_text(job.plan),
                facts=to_text(job.facts),
                decision=to_text(job.decision),
                grant_document=None if job.grant is None else to_text(job.grant),
                evidence=None,
                positions=to_text(job.positions),
                code=job.code,
                worker="",
                lease_until=0.0,
                created_at=job.created_at,
                question=job.question,
            )
        )

    def job(self, job_id: str) -> Job | None:
        """The job of that id."""
        row = self.connection.execute(_JOB, {"id": job_id}).one_or_none()
        return None if row is None else job_of(row)

    def jobs_named(self, names: Sequence[str]) -> dict[str, Job]:
        """The jobs of those ids that there are, by id."""
        if not names:
            return {}
        return {row.id: job_of(row) for row in self.connection.execute(_JOBS_NAMED, {"names": list(names)})}

    def lock_job(self, job_id: str) -> Job | None:
        """The job of that id, held until the transaction ends."""
        return self._one_job(jobs.c.id == job_id, lock=True)

    def job_by_request(self, consumer: str, request_id: str) -> Job | None:
        """The job that a consumer's request id made."""
        return self._one_job((jobs.c.consumer == consumer) & (jobs.c.request_id == request_id))

    def answered(self, question: str) -> Job | None:
        """The first job that released an answer to a question, by a run of its own."""
        query = select(jobs).where(jobs.c.question == question, jobs.c.state == "released", jobs.c.grant_document.is_not(None))
        row = self.connection.execute(query.order_by(jobs.c.created_at, jobs.c.id).limit(1)).one_or_none()
        return None if row is None else job_of(row)

    def move_job(self, job: Job, state: JobState, *, positions: Positions | None = None, code: str = "") -> Job:
        """Move a held job to `state`. Raises Conflict where the table of states forbids it or another process moved it first."""
        require_transition(job.state, state)
        moved = replace(job, state=state, positions=positions or job.positions, code=code)
        done = self.connection.execute(
            update(jobs)
            .where(jobs.c.id == job.id, jobs.c.state == job.state)
            .values(state=state, positions=to_text(moved.positions), code=code)
        )
        if done.rowcount != 1:
            require_transition(state, job.state)
        return moved

    def has_charged(self) -> bool:
        """Whether a charged job waits for a worker."""
        query = select(jobs.c.id).where(jobs.c.state == "charged", jobs.c.worker == "").limit(1)
        return self.connection.execute(query).one_or_none() is not None

    def claim_charged(self, worker: str, lease_until: float) -> Job | None:
        """Give the oldest charged job to `worker` and hold it, or return None."""
        oldest = (
            select(jobs.c.id)
            .where(jobs.c.state == "charged", jobs.c.worker == "")
            .order_by(jobs.c.created_at, jobs.c.id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        job_id = self.connection.execute(oldest).scalar_one_or_none()
        if job_id is None:
            return None
        self.connection.execute(update(jobs).where(jobs.c.id == job_id).values(worker=worker, lease_until=lease_until))
        return self.job(job_id)

    def renew_lease(self, job_id: str, worker: str, lease_until: float) -> None:
        """Say that `worker` still runs a job."""
        self.connection.execute(update(jobs).where(jobs.c.id == job_id, jobs.c.worker == worker).values(lease_until=lease_until))

    def leases(self) -> dict[str, float]:
        """By id of every running job, what its worker last renewed its lease to."""
        rows = self.connection.execute(select(jobs.c.id, jobs.c.lease_until).where(jobs.c.state == "running"))
        return {row.id: float(row.lease_until) for row in rows}

    def running_of(self, worker: str) -> list[Job]:
        """Running jobs that `worker` took."""
        rows = self.connection.execute(select(jobs).where(jobs.c.state == "running", jobs.c.worker == worker))
        return [job_of(row) for row in rows]

    def counts(self) -> dict[str, int]:
        """Number of jobs by state."""
        return {
            row.state: int(row.n) for row in self.connection.execute(select(jobs.c.state, func.count().label("n")).group_by(jobs.c.state))
        }

    def set_evidence(self, job: Job, evidence: SignedEvidence, positions: Positions) -> None:
        """Store a running job's evidence."""
        self.connection.execute(update(jobs).where(jobs.c.id == job.id).values(evidence=to_text(evidence), positions=to_text(positions)))

    def add_key_requests(self, job_id: str, providers: Iterable[str]) -> None:
        """Ask every provider for keys."""
        rows = [{"job": job_id, "provider": provider, "state": "wanted", "nonce": "", "sealed": "", "reason": ""} for provider in providers]
        self.connection.execute(insert(key_requests), rows)

    def key_requests(self, job_id: str) -> list[KeyRequest]:
        """All key requests of a job by provider."""
        rows = self.connection.execute(select(key_requests).where(key_requests.c.job == job_id).order_by(key_requests.c.provider))
        return [key_request_of(row) for row in rows]

    def key_request(self, job_id: str, provider: str) -> KeyRequest | None:
        """One provider's key request, held until the transaction ends."""
        row = self.connection.execute(
            select(key_requests).where(key_requests.c.job == job_id, key_requests.c.provider == provider).with_for_update()
        ).one_or_none()
        return None if row is None else key_request_of(row)

    def set_key_request(self, request: KeyRequest) -> None:
        """Store the new state of a held key request."""
        self.connection.execute(
            update(key_requests)
            .where(key_requests.c.job == request.job, key_requests.c.provider == request.provider)
            .values(state=request.state, nonce=request.nonce, sealed=request.sealed, reason=request.reason, renounced=request.renounced)
        )

    def add_release(self, release: StoredRelease) -> None:
        """Store what a run ended with. A job has at most one."""
        self.connection.execute(insert(releases).values(job=release.job, statement=to_text(release.statement), sealed=release.sealed))

    def release(self, job_id: str) -> StoredRelease | None:
        """What a run ended with."""
        row = self.connection.execute(_RELEASE, {"job": job_id}).one_or_none()
        if row is None:
            return None
        return StoredRelease(job=row.job, statement=parsed(SignedStatement, row.statement), sealed=bytes(row.sealed))

    def _one_job(self, condition: Any, *, lock: bool = False) -> Job | None:
        query = select(jobs).where(condition)
        row = self.connection.execute(query.with_for_update() if lock else query).one_or_none()
        return None if row is None else job_of(row)


def _loss(row: Any) -> Loss:
    return Loss(measure=row.measure, amount=int(row.amount), delta0=int(row.delta0))


def job_of(row: Any) -> Job:
    """The job that a row holds."""
    request, signed = _parsed_request(row.signed)
    return Job(
        id=row.id,
        state=row.state,
        request=request,
        request_digest=row.request_digest,
        signed=signed,
        plan=parsed(_PLAN, row.plan),
        facts=parsed(Facts, row.facts),
        decision=parsed(Decision, row.decision),
        grant=parsed(_GRANT, row.grant_document) if row.grant_document else None,
        evidence=parsed(SignedEvidence, row.evidence) if row.evidence else None,
        positions=parsed(Positions, row.positions),
        code=row.code,
        worker=row.worker,
        created_at=int(row.created_at),
        question=row.question,
    )


@lru_cache(maxsize=1024)
def _parsed_request(text: str) -> tuple[JobRequest, Signed]:
    signed = parsed(Signed, text)
    return decode(JobRequest, signed.body), signed


def key_request_of(row: Any) -> KeyRequest:
    """The key request that a row holds."""
    return KeyRequest(
        job=row.job,
        provider=row.provider,
        state=row.state,
        nonce=row.nonce,
        sealed=row.sealed,
        reason=row.reason,
        renounced=row.renounced,
    )
