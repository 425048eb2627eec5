"""A provider's key broker, run at home: it challenges, follows the log, appraises, decides again on its own copy of the agreement, asks a
person where it is told to, and only then seals the granted columns' keys to the attested enclave.

Durable order at home: approved -> nonce kept -> grant and sealed bytes kept -> sent. A repeated ask gets the kept bytes or nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from enclaves.kit.appraisal import Attested, appraise, key_release_info, reference_values
from enclaves.kit.envelope import Signed
from enclaves.kit.sealing import seal
from policies.agreement import Agreement
from policies.canonical import canonical, digest_bytes
from policies.codec import decode, encode
from policies.documents import KeyRefusalStatement, KeyReleaseStatement
from policies.errors import PolicyRefused, SandboxError, Tampered, Unavailable
from policies.grant import Grant, grant_digest
from policies.names import require_slug
from policies.request import JobRequest
from policies.statement import Nonce, SignedEvidence
from sandbox.party.approvals import answer_for, hold, standing_for
from sandbox.party.client import Client
from sandbox.party.deciding import MAX_CLOCK_SKEW_S, MAX_WAIT_S, require_decided, require_logged
from sandbox.party.exchanges import require_under_way
from sandbox.party.keeping import require_available
from sandbox.party.nonces import NONCE_LIFETIME_S, challenge_for, good_nonces, use_up
from sandbox.party.pins import require_pinned
from sandbox.party.publish import column_keys
from sandbox.party.voids import release_file, renounce, require_alive

__all__ = ["MAX_CLOCK_SKEW_S", "MAX_WAIT_S", "NONCE_LIFETIME_S", "Broker"]

RETRY_S = 1.0
"""How long a broker rests after something went wrong."""

_UNUSABLE = (KeyError, TypeError, ValueError, AttributeError)
"""What an answer of the service of any shape may raise; none may end the broker."""


@dataclass
class Broker:
    """Answers key requests of one provider.

    Attributes:
        ask: hold every request for a person unless a standing approval covers it; nothing is challenged before.
    """

    client: Client
    now: Callable[[], float] = time.time
    ask: bool = False

    def serve(self, stopping: Callable[[], bool] = lambda: False, poll_s: float = 0.05) -> None:
        """Answer key requests until told to stop; a service that cannot be reached, or a home that is full, is waited for."""
        while not stopping():
            try:
                if not self._attempt():
                    time.sleep(RETRY_S)
            except Unavailable:
                time.sleep(RETRY_S)
            time.sleep(poll_s)

    def _attempt(self) -> bool:
        """One step; whether it went well. What went wrong stands in the journal. Raises Unavailable."""
        note = self.client.home.note
        try:
            self.step()
        except Unavailable:
            raise
        except SandboxError as error:
            note("error", code=error.code, message=error.message)
            return False
        except _UNUSABLE as error:
            note("error", code="malformed-answer", message=f"the service's answer is unusable: {type(error).__name__}")
            return False
        return True

    def step(self) -> int:
        """Answer every waiting key request once; returns how many there were.

        A request that fails holds up no other; the first failure is raised after all were tried, or at once if nothing can be reached.
        """
        waiting, failures = self.client.key_requests(), list[Exception]()
        for request in waiting:
            try:
                self._one(request)
            except (SandboxError, *_UNUSABLE) as error:
                if isinstance(error, Unavailable) and error.code in ("unreachable", "home"):
                    raise
                failures.append(error)
        if failures:
            raise failures[0]
        return len(waiting)

    def _one(self, request: dict[str, Any]) -> None:
        job = request["job"]
        job_id = require_slug(str(job["id"]), "job")  # the host chose it, and it becomes a file name
        if request["state"] == "wanted":
            self._challenge(job_id, job)
        elif request["state"] == "ended":
            self._renounce(job_id, job)
        else:
            self._answer(job_id, job)

    def _challenge(self, job_id: str, job: dict[str, Any]) -> None:
        try:
            ready = not self.ask or self._approved(decode(Grant, job["grant"]), job)
        except SandboxError as error:
            self._refuse(job_id, job, error)
            return
        if ready:
            self.client.challenge(job_id, challenge_for(self.client.home, job_id, self.now()))

    def _approved(self, grant: Grant, job: dict[str, Any]) -> bool:
        """Whether a run may be challenged; if nobody has said so yet, a person is asked. What the host shows is verified at the release.

        Raises:
            PolicyRefused: a person refused, or was asked about another grant.
        """
        home = self.client.home
        signed = decode(Signed, job["signed"])
        request = decode(JobRequest, signed.body)
        own = frozenset(read.dataset for read in grant.reads if read.provider == home.participant)
        if standing_for(home, request, own, self.now()) is not None:
            return True
        answer = answer_for(home, grant.job, grant_digest(grant))
        if answer == "refused":
            raise PolicyRefused("a person refused", code="person-refused")
        if answer is None:
            columns = {read.dataset: list(read.columns) for read in grant.reads if read.provider == home.participant}
            shown = {"consumer": signed.by, "purpose": request.purpose, "sql": request.sql, "loss": request.loss.text, "columns": columns}
            hold(home, grant.job, grant_digest(grant), {**shown, "enclave": grant.enclave_kind})
        return answer == "approved"

    def _require_approved(self, grant: Grant, job: dict[str, Any]) -> None:
        """By now the grant is known to be what follows from the consumer's signed request."""
        if self.ask and not self._approved(grant, job):
            raise PolicyRefused("nobody has approved this run", code="not-approved")

    def _answer(self, job_id: str, job: dict[str, Any]) -> None:
        home = self.client.home
        try:
            grant = decode(Grant, job["grant"])
            if grant.job != job_id:
                # What was released before is kept under the job's id: under a second id the same grant would run twice.
                raise Tampered("the grant is for another job", code="grant-job")
            with home.locked("release"):  # a second broker on this home must find what this one releases or renounces
                require_alive(home, job_id)
                statement, sealed = self._released_before(job_id, grant) or self._release(job, grant)
        except Unavailable:
            raise
        except SandboxError as error:
            self._refuse(job_id, job, error)
            return
        self.client.send_keys(statement, sealed)

    def _renounce(self, job_id: str, job: dict[str, Any]) -> None:
        """Give up a grant whose run failed, if no key was released for it; else say that its charge stays."""
        home = self.client.home
        try:
            grant = decode(Grant, job["grant"])
            if grant.job != job_id:
                raise Tampered("the grant is for another job", code="grant-job")
            agreement, followed = self.client.followed_agreement(grant.agreement)
            require_logged(grant, followed)
            with home.locked("release"):
                signed = renounce(home, grant, agreement)
        except Unavailable:
            raise
        except SandboxError as error:
            self._refuse(job_id, job, error)
            return
        self.client.send_renunciation(signed)

    def _refuse(self, job_id: str, job: dict[str, Any], error: SandboxError) -> None:
        """Say why in this home's journal, and by a code in the log."""
        self.client.home.note("refused", job=job_id, code=error.code, message=error.message)
        use_up(self.client.home, job_id)
        reason = error.code if error.code.replace("-", "").isalnum() else "refused"
        self.client.send_refusal(KeyRefusalStatement(job=job_id, grant=str(job["grant_digest"]), reason=reason))

    def _released_before(self, job_id: str, grant: Grant) -> tuple[KeyReleaseStatement, bytes] | None:
        kept = self.client.home.read_or(release_file(job_id), None)
        if kept is None:
            return None
        statement = decode(KeyReleaseStatement, kept["statement"])
        if statement.grant != grant_digest(grant):
            raise Tampered("keys of this job were released under another grant", code="grant-replaced")
        return statement, bytes.fromhex(kept["sealed"])

    def _release(self, job: dict[str, Any], grant: Grant) -> tuple[KeyReleaseStatement, bytes]:
        """Check everything, keep what was decided, and return what may be sent."""
        home, me = self.client.home, self.client.home.participant
        agreement, followed = self.client.followed_agreement(grant.agreement)
        nonces = good_nonces(home, grant.job, self.now(), nonce_lifetime(grant, agreement, me))
        require_logged(grant, followed)
        if grant.job in followed.voids:  # what this home signed, it may have forgotten
            raise PolicyRefused("the grant of this job was renounced", code="grant-dead")
        require_decided(home, job, grant, agreement, followed, self.now())
        require_under_way(self.client, decode(JobRequest, decode(Signed, job["signed"]).body).exchange)
        self._require_approved(grant, job)
        attested = self._appraise(job, grant, agreement, nonces)
        nonce = next(nonce for nonce in nonces if nonce in attested.evidence.nonces)
        for read in grant.reads:
            if read.provider == me:
                require_available(home, read.dataset, read.version, read.file_digest)
        keys = {
            read.dataset: {
                name: key.hex() for name, key in column_keys(home, read.dataset, read.version, read.file_digest, read.columns).items()
            }
            for read in grant.reads
            if read.provider == me
        }
        info = key_release_info(nonce.value, grant_digest(grant), attested.digest)
        sealed = seal(bytes.fromhex(attested.evidence.sealing_key), canonical(keys), info)
        statement = KeyReleaseStatement(job=grant.job, grant=grant_digest(grant), evidence=attested.digest, sealed=digest_bytes(sealed))
        home.write(release_file(grant.job), {"statement": encode(statement), "sealed": sealed.hex()})
        use_up(home, grant.job)
        home.note("released", job=grant.job, grant=statement.grant, columns={d: sorted(k) for d, k in keys.items()})
        return statement, sealed

    def _appraise(self, job: dict[str, Any], grant: Grant, agreement: Agreement, nonces: tuple[Nonce, ...]) -> Attested:
        """Judge the evidence against one's own terms, and against what this home has pinned besides."""
        home, evidence = self.client.home, decode(SignedEvidence, job["evidence"])
        terms = [agreement.terms_of(read.dataset) for read in grant.reads if read.provider == home.participant]
        if not terms:
            raise PolicyRefused("the grant reads nothing of this provider", code="nothing-granted")
        wanted = reference_values(terms)
        require_pinned(home, evidence.evidence)
        return appraise(
            evidence,
            grant=grant,
            kinds=wanted.kinds,
            measurements=wanted.measurements,
            nonce=nonces,
            platforms=wanted.platforms,
            at=self.now(),
        )


def nonce_lifetime(grant: Grant, agreement: Agreement, provider: str) -> int:
    """Return how old a challenge, and so the evidence that answers it, may be when keys are released, seconds."""
    ages = (agreement.terms_of(read.dataset).evidence_age for read in grant.reads if read.provider == provider)
    return min([NONCE_LIFETIME_S, *(age for age in ages if age is not None)])
