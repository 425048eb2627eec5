"""A provider's key broker, run at home: it challenges, follows the log, appraises, decides again on its own copy of the agreement, and
only then seals the granted columns' keys to the attested enclave.

Durable order at home: nonce kept -> grant and sealed bytes kept -> sent. A repeated ask gets the kept bytes or nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from enclaves.kit.appraisal import Attested, appraise, key_release_info
from enclaves.kit.envelope import Signed, document_digest, verify_document
from enclaves.kit.sealing import seal
from policies.agreement import Agreement, Party
from policies.canonical import canonical, digest_bytes
from policies.codec import decode, encode
from policies.decide import decide
from policies.documents import KeyRefusalStatement, KeyReleaseStatement
from policies.errors import EvidenceRejected, PolicyRefused, SandboxError, Tampered, Unavailable
from policies.grant import Grant, grant_digest, ledgers_charged, make_grant
from policies.names import require_slug
from policies.plan import plan_of
from policies.query import Plan
from policies.request import Facts, JobRequest, SpentFact
from policies.statement import Nonce, SignedEvidence
from sandbox.party.client import Client
from sandbox.party.following import Followed
from sandbox.party.publish import column_keys

NONCE_LIFETIME_S = 60
MAX_CLOCK_SKEW_S = 300
"""How far a decision may lie in this clock's future."""

MAX_WAIT_S = 24 * 3600
"""How long ago a decision may have been made: jobs wait for a worker. Whether it still holds is decided again, by this clock."""

RETRY_S = 1.0
"""How long a broker rests after something went wrong."""

_UNUSABLE = (KeyError, TypeError, ValueError, AttributeError)
"""What an answer of the service of any shape may raise; none may end the broker."""


@dataclass
class Broker:
    """Answers key requests of one provider."""

    client: Client
    now: Callable[[], float] = time.time

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
            self._challenge(job_id)
        else:
            self._answer(job_id, job)

    def _challenge(self, job_id: str) -> None:
        kept = self.client.home.read_or(_nonce_file(job_id), None)
        if kept is None:
            kept = {"nonce": os.urandom(32).hex(), "at": int(self.now())}
            self.client.home.write(_nonce_file(job_id), kept)
        self.client.challenge(job_id, kept["nonce"])

    def _answer(self, job_id: str, job: dict[str, Any]) -> None:
        home = self.client.home
        try:
            grant = decode(Grant, job["grant"])
            if grant.job != job_id:
                # What was released before is kept under the job's id: under a second id the same grant would run twice.
                raise Tampered("the grant is for another job", code="grant-job")
            with home.locked("release"):  # a second broker on this home must find what this one releases
                statement, sealed = self._released_before(job_id, grant) or self._release(job, grant)
        except Unavailable:
            raise
        except SandboxError as error:
            home.note("refused", job=job_id, code=error.code, message=error.message)
            reason = error.code if error.code.replace("-", "").isalnum() else "refused"
            self.client.send_refusal(KeyRefusalStatement(job=job_id, grant=str(job["grant_digest"]), reason=reason))
            return
        self.client.send_keys(statement, sealed)

    def _released_before(self, job_id: str, grant: Grant) -> tuple[KeyReleaseStatement, bytes] | None:
        kept = self.client.home.read_or(_release_file(job_id), None)
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
        nonce = self._fresh_nonce(grant.job)
        self._require_logged(grant, followed)
        self._require_decided(job, grant, agreement, followed)
        attested = self._appraise(job, grant, agreement, nonce)
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
        home.write(_release_file(grant.job), {"statement": encode(statement), "sealed": sealed.hex()})
        home.note("released", job=grant.job, grant=statement.grant, columns={d: sorted(k) for d, k in keys.items()})
        return statement, sealed

    def _fresh_nonce(self, job_id: str) -> Nonce:
        kept = self.client.home.read_or(_nonce_file(job_id), None)
        if kept is None or not 0 <= self.now() - kept["at"] <= NONCE_LIFETIME_S:
            raise EvidenceRejected("the challenge is unknown or too old", code="nonce-expired")
        return Nonce(provider=self.client.home.participant, value=kept["nonce"])

    def _require_logged(self, grant: Grant, followed: Followed) -> None:
        """The charge and this very grant must stand in the log."""
        if grant.job not in followed.charges:
            raise Tampered("the log holds no charge for this job", code="not-charged")
        if followed.grants.get(grant.job, {}).get("grant") != grant_digest(grant):
            raise Tampered("the log holds another grant for this job", code="not-granted")

    def _require_decided(self, job: dict[str, Any], grant: Grant, agreement: Agreement, followed: Followed) -> None:
        """Decide again: own agreement, own parse of the signed SQL, own totals; the grant must be exactly what follows."""
        signed, stated = decode(Signed, job["signed"]), decode(Facts, job["facts"])
        consumer = agreement.party(signed.by)
        request = decode(JobRequest, verify_document(signed, "job-request", consumer.id, followed.request_key(grant.job, consumer)))
        plan = plan_of(request, agreement.by_dataset)
        for provider in sorted({read.provider for read in grant.reads}):
            followed.request_key(grant.job, agreement.party(provider))
        if not -MAX_CLOCK_SKEW_S <= self.now() - stated.now <= MAX_WAIT_S:
            raise PolicyRefused("the host decided at another time than now", code="clock")
        facts = self._own_facts(grant, agreement, plan, stated, followed, consumer)
        decision = decide(request, agreement, plan, facts)
        if not decision.allowed:
            failed = next(finding for finding in decision.findings if not finding.allowed)
            raise PolicyRefused(f"own decision denies: {failed.rule}: {failed.message}", code="policy-refused")
        own = make_grant(grant.agreement, document_digest(signed), request, agreement, plan, facts, decision)
        if own != grant:
            raise PolicyRefused("the grant is not the one that the agreement entails", code="grant-mismatch")
        self._require_charged(grant, agreement, followed)

    def _own_facts(self, grant: Grant, agreement: Agreement, plan: Plan, stated: Facts, followed: Followed, consumer: Party) -> Facts:
        """What the followed log says of charges and versions, and this clock of the time; the host only states the enclave."""
        ledgers, asker = ledgers_charged(agreement, plan), consumer.id
        versions = (followed.version_before(grant.job, dataset) for dataset in plan.sources)
        return Facts(
            now=int(self.now()),
            enclave_kind=stated.enclave_kind,
            measurement=stated.measurement,
            versions=tuple(version for version in versions if version is not None),
            spent=tuple(
                SpentFact(provider=provider, id_space=id_space, spent=followed.spent_before(grant.job, provider, id_space))
                for provider, id_space in ledgers
            ),
            consumer_spent=tuple(
                SpentFact(provider=provider, id_space=id_space, spent=followed.consumer_spent_before(grant.job, provider, id_space, asker))
                for provider, id_space in ledgers
            ),
            rotations=followed.rotations_before(grant.job, consumer),
        )

    def _require_charged(self, grant: Grant, agreement: Agreement, followed: Followed) -> None:
        charged = {(c["provider"], c["id_space"]): c for c in followed.charges[grant.job]["losses"]}
        if followed.charges[grant.job].get("consumer") != grant.recipient.id:
            raise Tampered("the log charges another consumer than the one who asks", code="charged-consumer")
        for ledger in ledgers_charged(agreement, grant.plan):
            found = charged.get(ledger)
            if found is None or found["amount"] < grant.loss.amount or found["delta0"] < grant.loss.delta0:
                raise Tampered("the logged charge is smaller than the grant", code="undercharged")
            if found["measure"] != grant.loss.measure:
                raise Tampered("the logged charge is in another measure than the grant", code="undercharged")

    def _appraise(self, job: dict[str, Any], grant: Grant, agreement: Agreement, nonce: Nonce) -> Attested:
        evidence = decode(SignedEvidence, job["evidence"])
        terms = [agreement.terms_of(read.dataset) for read in grant.reads if read.provider == nonce.provider]
        if not terms:
            raise PolicyRefused("the grant reads nothing of this provider", code="nothing-granted")
        kinds = set.intersection(*(set(item.enclave_kinds) for item in terms))
        measurements = set.intersection(*(set(item.measurements) for item in terms))
        return appraise(evidence, grant=grant, kinds=kinds, measurements=measurements, nonce=nonce)


def _nonce_file(job_id: str) -> str:
    return f"broker/{job_id}.nonce.json"


def _release_file(job_id: str) -> str:
    return f"broker/{job_id}.release.json"
