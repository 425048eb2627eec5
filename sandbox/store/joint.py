"""Stored attempts at joint totals. Callers hold the job (`lock_job`) while they change one."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from enclaves.kit.envelope import Signed
from policies.canonical import canonical, parse_json
from sandbox.jobs.joint_states import JointAttempt, StoredJointRelease
from sandbox.jobs.states import Job
from sandbox.store.exchange import parsed, to_text
from sandbox.store.jobs import job_of
from sandbox.store.schema import jobs, joint_contributions, joint_releases, joint_runs


class JointTables:
    """Verbs on joint totals, inside one transaction."""

    connection: Connection

    def set_joint_attempt(self, attempt: JointAttempt) -> None:
        """Store the present attempt of a job, in place of an earlier one."""
        self.connection.execute(delete(joint_runs).where(joint_runs.c.job == attempt.job))
        self.connection.execute(
            insert(joint_runs).values(
                job=attempt.job,
                attempt=attempt.attempt,
                contributors=canonical(list(attempt.contributors)).decode(),
                manifest=None if attempt.manifest is None else to_text(attempt.manifest),
                total=attempt.total,
                since=attempt.since,
            )
        )

    def joint_attempt(self, job_id: str) -> JointAttempt | None:
        """The present attempt of a job."""
        row = self.connection.execute(select(joint_runs).where(joint_runs.c.job == job_id)).one_or_none()
        return None if row is None else _attempt_of(row)

    def running_joint(self) -> list[tuple[JointAttempt, Job]]:
        """The attempts of all running jobs, oldest first."""
        query = select(joint_runs, jobs).join(jobs, jobs.c.id == joint_runs.c.job).where(jobs.c.state == "running")
        return [(_attempt_of(row), job_of(row)) for row in self.connection.execute(query.order_by(jobs.c.created_at, jobs.c.id))]

    def set_joint_total(self, job_id: str, total: str, since: int) -> None:
        """Store which total the present attempt of a job has, since when (milliseconds since 1970)."""
        self.connection.execute(update(joint_runs).where(joint_runs.c.job == job_id).values(total=total, since=since))

    def add_joint_contribution(self, job_id: str, attempt: int, participant: str, signed: Signed) -> None:
        """Store what a contributor signed for an attempt. There is at most one."""
        self.connection.execute(
            insert(joint_contributions).values(job=job_id, attempt=attempt, participant=participant, signed=to_text(signed))
        )

    def joint_contributions(self, job_id: str, attempt: int) -> dict[str, Signed]:
        """What contributors signed for an attempt, by contributor."""
        query = select(joint_contributions).where(joint_contributions.c.job == job_id, joint_contributions.c.attempt == attempt)
        return {row.participant: parsed(Signed, row.signed) for row in self.connection.execute(query)}

    def add_joint_release(self, release: StoredJointRelease) -> None:
        """Store what a joint total ended with. A job has at most one."""
        self.connection.execute(insert(joint_releases).values(job=release.job, statement=to_text(release.statement), sealed=release.sealed))

    def joint_release(self, job_id: str) -> StoredJointRelease | None:
        """What a joint total ended with."""
        row = self.connection.execute(select(joint_releases).where(joint_releases.c.job == job_id)).one_or_none()
        if row is None:
            return None
        return StoredJointRelease(job=row.job, statement=parsed(Signed, row.statement), sealed=bytes(row.sealed))


def _attempt_of(row: Any) -> JointAttempt:
    return JointAttempt(
        job=row.job,
        attempt=int(row.attempt),
        contributors=tuple(parse_json(row.contributors.encode())),
        manifest=None if row.manifest is None else parsed(Signed, row.manifest),
        total=row.total,
        since=int(row.since),
    )
