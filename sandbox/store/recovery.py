"""What a restore could not bring back, and verbs that rebuild rows from entries of the log."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select, update

from sandbox.jobs.states import Job
from sandbox.store.exchange import to_text
from sandbox.store.once import insert_once
from sandbox.store.schema import admission_codes, jobs, lost_jobs, lost_uploads


class RecoveryTables:
    """Verbs inside one transaction that holds the log."""

    connection: Connection

    def lose_upload(self, digest: str) -> None:
        """Remember that a published version names an upload that is gone."""
        insert_once(self.connection, lost_uploads, digest=digest)

    def find_upload(self, digest: str) -> None:
        """An upload is there again."""
        self.connection.execute(delete(lost_uploads).where(lost_uploads.c.digest == digest))

    def upload_is_lost(self, digest: str) -> bool:
        """Whether a published version names this upload and it is gone."""
        return self.connection.execute(select(lost_uploads).where(lost_uploads.c.digest == digest)).one_or_none() is not None

    def lose_job(self, job_id: str) -> None:
        """Remember a job that the log decided and nothing else tells of."""
        insert_once(self.connection, lost_jobs, id=job_id)

    def job_is_lost(self, job_id: str) -> bool:
        """Whether the log decided this job and nothing else tells of it."""
        return self.connection.execute(select(lost_jobs).where(lost_jobs.c.id == job_id)).one_or_none() is not None

    def spend_code(self, code_digest: str, participant: str, used_at: int) -> None:
        """Mark an admission code as used, known or not."""
        known = update(admission_codes).where(admission_codes.c.code_digest == code_digest).values(used_at=used_at)
        if self.connection.execute(known).rowcount == 0:
            values = {"code_digest": code_digest, "participant": participant, "expires_at": used_at, "used_at": used_at}
            self.connection.execute(insert(admission_codes).values(**values))

    def put_job(self, job: Job) -> None:
        """Overwrite state, positions, code and evidence of a stored job, whatever its state was."""
        values = {"state": job.state, "positions": to_text(job.positions), "code": job.code}
        if job.evidence is not None:
            values["evidence"] = to_text(job.evidence)
        self.connection.execute(update(jobs).where(jobs.c.id == job.id).values(**values))

    def unfinished(self) -> list[str]:
        """Ids of jobs that were charged and have not ended, oldest first."""
        rows = self.connection.execute(
            select(jobs.c.id).where(jobs.c.state.in_(("charged", "running"))).order_by(jobs.c.created_at, jobs.c.id)
        )
        return [str(row.id) for row in rows]
