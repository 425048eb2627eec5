"""After a restore: the missing entries are appended exactly as they were, from participants' exports, and what they imply is rebuilt.

Ledgers always, from public headers; the rest as far as bodies are opened. No run is continued or repeated: every job that had not ended
ends `failed`, and its charge stays. Nothing is charged less than the log says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from enclaves.kit.envelope import Signed, document_digest
from policies.acts import SignedApproval, SignedDuty
from policies.audit_scope import SignedAuditScope
from policies.canonical import canonical
from policies.codec import decode
from policies.declaration import Declaration
from policies.documents import Admission, SignedRotation, VersionManifest
from policies.entries import EntryKind, Header, parse_header
from policies.errors import NotFound
from policies.grant import AnyGrant
from policies.lineage import SignedLogRotation
from policies.odrl import parse_agreement
from policies.request import JobRequest
from policies.tightening import SignedTightening
from sandbox.audit import merkle
from sandbox.audit.bodies import DecidedBody, SignedBody
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.export import Export
from sandbox.audit.judge_run import AttestedBody, EndedBody
from sandbox.audit.laws import law_of
from sandbox.audit.merging import Found, merge_exports
from sandbox.exchange.noting import setting_of
from sandbox.exchange.records import Participant, Version
from sandbox.host import Host
from sandbox.jobs import recovered_exchanges, recovered_scorings
from sandbox.jobs.states import Job, JobState, Positions, StoredRelease

if TYPE_CHECKING:
    from sandbox.store.database import Transaction

NAME = "recovery"
"""What the log calls the worker of runs that ended with a restore."""

LOST = "release-lost"
"""Code of a job whose sealed release was stored and is gone."""


@dataclass(kw_only=True, slots=True)
class Recovery:
    """What was brought back.

    Attributes:
        entries: appended from the exports.
        ended: jobs that had not ended and now are `failed`.
        releases_lost: jobs whose sealed release is gone.
        jobs_lost: jobs and encrypted scorings of which only the headers are known.
        uploads_lost: `dataset/version` whose encrypted file is gone.
        unopened: entries whose body no export held.
    """

    entries: int = 0
    ended: list[str] = field(default_factory=list)
    releases_lost: list[str] = field(default_factory=list)
    jobs_lost: list[str] = field(default_factory=list)
    uploads_lost: list[str] = field(default_factory=list)
    unopened: int = 0


def recover(host: Host, exports: Sequence[Export]) -> Recovery:
    """Append what the exports hold beyond this service's log, rebuild what follows from it, and publish: all of it or nothing.

    Once it is done, the same exports add nothing more. The service must not run meanwhile.

    Raises:
        Tampered, Malformed: as `merge_exports`; nothing is changed.
    """
    report = Recovery()
    with host.store.transaction() as tx:
        tx.hold_log()
        size = tx.log_size()
        found = merge_exports(exports, _keys(host, tx), size, merkle.root_from_nodes(size, tx.node))
        if found.entries:
            _Rebuilding(host=host, tx=tx, found=found, report=report).all()
            tx.add_checkpoint(found.size, found.note)
    host.on_step("recovered")
    host.publish()
    return report


def _keys(host: Host, tx: Transaction) -> list[LogKey]:
    """Every key that this log has had: an export may be older than the newest."""
    own = host.log_identity
    former = [link.rotation.old_key for link in tx.log_links() if isinstance(link, SignedLogRotation) and link.rotation.origin == own.name]
    return [*(LogKey(name=own.name, public=bytes.fromhex(key)) for key in former), own]


@dataclass(kw_only=True)
class _Rebuilding:
    """One recovery inside its transaction. `stages`: kind of the last step of every job that the recovered entries name."""

    host: Host
    tx: Transaction
    found: Found
    report: Recovery
    agreements: dict[str, str] = field(default_factory=dict)
    stages: dict[str, EntryKind] = field(default_factory=dict)
    charged_at: dict[str, int] = field(default_factory=dict)

    def all(self) -> None:
        """Append and fold every entry in order, then end what had not ended."""
        for index, (data, header) in enumerate(zip(self.found.entries, self.found.headers, strict=True), start=self.found.first):
            opening, ids = self.found.openings.get(index), header.ids
            agreement = self._agreement(ids)
            if "job" in ids and header.kind not in (*WAITING, "renounced", "voided"):
                self.stages[ids["job"]] = header.kind if header.kind not in ("key_released", "key_refused") else "attested"
            stored = None
            if opening is not None:
                stored = (opening.salt, canonical(opening.body).decode(), agreement)
            self.tx.append_bytes(data, stored)
            self.report.entries += 1
            self.report.unopened += opening is None
            self._fold(index, header, None if opening is None else opening.body)
        self._end_all()

    def _agreement(self, ids: dict[str, str]) -> str | None:
        """The agreement whose parties may read an entry; None for all."""
        if "exchange" in ids and "job" not in ids:
            return recovered_exchanges.readers(self.tx, ids)
        if "job" not in ids:
            return None if "scope" in ids else ids.get("agreement")
        if "agreement" in ids:
            self.agreements[ids["job"]] = ids["agreement"]
        elif ids["job"] not in self.agreements:
            job = self.tx.job(ids["job"])
            if job is not None:
                self.agreements[ids["job"]] = job.request.agreement
        # Nobody reads the body of a job that nothing tells of.
        return self.agreements.get(ids["job"], "unknown")

    def _charge_time(self, name: str) -> int:
        """When a job was charged, milliseconds since 1970: in the recovered entries or before them."""
        if name not in self.charged_at and (job := self.tx.job(name)) is not None:
            charge = next(iter(self.tx.entries(job.positions.charged, job.positions.charged + 1)))
            self.charged_at[name] = parse_header(charge).at
        return self.charged_at[name]

    def _fold(self, index: int, header: Header, body: dict[str, Any] | None) -> None:
        if header.kind == "charged":
            self.tx.lock_ledgers(sorted({(loss.provider, loss.id_space) for loss in header.losses}))
            self.tx.charge(header.losses, header.ids.get("consumer", ""), header.at)
            self.charged_at[header.ids.get("job", "")] = header.at
        if header.kind == "voided":
            self.tx.lock_ledgers(sorted({(loss.provider, loss.id_space) for loss in header.losses}))
            self.tx.give_back(header.losses, header.ids.get("consumer", ""), self._charge_time(header.ids["job"]))
        if header.kind in recovered_scorings.KINDS:
            if not recovered_scorings.fold(self.tx, header, index, body):
                self.report.jobs_lost.append(header.ids["scoring"])
        elif header.kind in recovered_exchanges.KINDS:
            recovered_exchanges.fold(self.tx, header, index, body)
        elif header.kind in WAITING or header.kind in ("tightened", "duty_done", "audit_scoped"):
            self._acted(index, header)
        elif "job" in header.ids:
            self._fold_job(index, header, body)
        elif header.kind == "log_noted":
            self.tx.replace_setting(setting_of(header.ids["origin"]), canonical(header.ids).decode())
        elif header.kind in KEYS:
            KEYS[header.kind](self, header)
        elif body is not None and header.kind in EXCHANGE:
            EXCHANGE[header.kind](self, header, decode(SignedBody, body).signed)
        elif header.kind == "agreed" and self.tx.agreement(header.ids["agreement"]) is not None:
            self.tx.activate_agreement(header.ids["agreement"])

    # --- participants and what they offer

    def admitted(self, header: Header, signed: Signed) -> None:
        """Add or readmit a participant."""
        admission = decode(Admission, signed.body)
        participant = Participant(
            id=admission.participant, title=admission.title, signing_key=admission.signing_key, sealing_key=admission.sealing_key
        )
        # An admission of the first logs names no credential: nobody has this one, and the operator admits anew.
        credential = admission.credential_digest or document_digest(signed)
        self.tx.spend_code(admission.code_digest, participant.id, header.at)
        if header.kind == "readmitted":
            self.tx.readmit(participant, credential)
        else:
            self.tx.add_participant(participant, credential, header.at)

    def rotated(self, header: Header) -> None:
        """Give a participant its new keys."""
        signed = SignedRotation.from_ids(header.ids)
        before = self.tx.participant(signed.rotation.participant)
        if before is not None:
            self.tx.replace_keys(before, signed)

    def revoked(self, header: Header) -> None:
        """Revoke a participant's keys."""
        found = self.tx.participant(header.ids["participant"])
        if found is not None:
            self.tx.revoke_keys(found, header.at)

    def declared(self, _header: Header, signed: Signed) -> None:
        """Add a dataset."""
        self.tx.add_dataset(decode(Declaration, signed.body), signed)

    def published(self, _header: Header, signed: Signed) -> None:
        """Add a version; its encrypted file may be gone."""
        manifest = decode(VersionManifest, signed.body)
        if self.tx.dataset(manifest.dataset) is None:
            return
        self.tx.add_version(
            Version(
                dataset=manifest.dataset,
                version=manifest.version,
                file_digest=manifest.file_digest,
                size=manifest.size,
                signed=signed,
            )
        )
        try:
            self.host.blobs.path(manifest.file_digest)
        except NotFound:
            self.tx.lose_upload(manifest.file_digest)
            self.report.uploads_lost.append(f"{manifest.dataset}/{manifest.version}")
        else:
            self.tx.add_upload(manifest.file_digest, signed.by, manifest.size)

    def destroyed(self, header: Header, signed: Signed) -> None:
        """Remember that nobody can open a file any more."""
        self.tx.destroy_keys(header.ids["file"], signed)

    def offered(self, header: Header, signed: Signed) -> None:
        """Add an offer."""
        self.tx.add_offer(header.ids["offer"], header.ids["provider"], signed)

    def proposed(self, header: Header, signed: Signed) -> None:
        """Add a proposed agreement."""
        agreement = parse_agreement(signed.body)
        self.tx.add_agreement(header.ids["agreement"], signed.body, [party.id for party in agreement.parties], header.ids["participant"])

    def signed(self, header: Header, signed: Signed) -> None:
        """Add a signature."""
        self.tx.sign_agreement(header.ids["agreement"], signed)

    def _acted(self, index: int, header: Header) -> None:
        """Add what was signed under an agreement in force. A job that waited for approvals is to be asked for anew."""
        ids = header.ids
        if self.tx.agreement(ids["agreement"]) is None:
            return
        if header.kind == "tightened":
            self.tx.add_tightening(SignedTightening.from_ids(ids))
        elif header.kind == "audit_scoped":
            self.tx.add_audit_scope(SignedAuditScope.from_ids(ids))
        elif header.kind == "duty_done":
            self.tx.add_duty(SignedDuty.from_ids(ids))
        elif header.kind == "approved":
            self.tx.add_approval(SignedApproval.from_ids(ids))
        elif header.kind in ("cancelled", "expired") and (job := self.tx.job(ids["job"])) is not None:
            state: JobState = "cancelled" if header.kind == "cancelled" else "expired"
            if job.state == "awaiting_approval":
                self.tx.move_job(job, state, positions=replace(job.positions, ended=index))
        elif header.kind == "awaiting" and self.tx.job(ids["job"]) is None:
            self.tx.lose_job(ids["job"])

    # --- jobs

    def _fold_job(self, index: int, header: Header, body: dict[str, Any] | None) -> None:
        if header.kind == "decided":
            self._decided(index, header, body)
            return
        job = self.tx.job(header.ids["job"])
        if job is None:
            return
        if header.kind == "renounced":
            request = self.tx.key_request(job.id, header.ids["provider"])
            if request is not None:
                self.tx.set_key_request(replace(request, renounced=header.ids["signature"]))
            return
        recovered_exchanges.fold_job(self.tx, job, header.kind, header.ids, header.at)
        positions, state, code, evidence = job.positions, job.state, job.code, job.evidence
        if header.kind in ("charged", "granted", "attested"):
            positions = replace(positions, **{header.kind: index})
        if header.kind == "running":
            state = "running"
        elif header.kind == "attested" and body is not None:
            evidence = decode(AttestedBody, body).evidence
        elif header.kind in ("released", "withheld", "failed"):
            positions = replace(positions, ended=index)
            state, code = self._ended(job, header, body)
        elif header.kind == "repeated":
            positions = replace(positions, ended=index)
            earlier = self.tx.job(header.ids["of"])
            state, code = ("released", "") if earlier is not None and earlier.state == "released" else ("failed", LOST)
        self.tx.put_job(replace(job, positions=positions, state=state, code=code, evidence=evidence))

    def _decided(self, index: int, header: Header, body: dict[str, Any] | None) -> None:
        ids = header.ids
        stored = self.tx.agreement(ids["agreement"])
        if body is None or stored is None:
            self.tx.lose_job(ids["job"])
            self.report.jobs_lost.append(ids["job"])
            return
        found = decode(DecidedBody, body)
        request = decode(JobRequest, found.signed.body)
        grant: AnyGrant | None = None
        if found.decision.allowed and found.facts.repeats is None:
            law = law_of(found.law)
            grant = law.grants(ids["agreement"], ids["request"], request, stored.agreement, found.plan, found.facts, found.decision)
        self.tx.add_job(
            Job(
                id=ids["job"],
                state="denied" if grant is None else "charged",
                request=request,
                request_digest=ids["request"],
                signed=found.signed,
                plan=found.plan,
                facts=found.facts,
                decision=found.decision,
                grant=grant,
                evidence=None,
                positions=Positions(decided=index),
                code="",
                worker=NAME,
                created_at=header.at,
            )
        )

    def _ended(self, job: Job, header: Header, body: dict[str, Any] | None) -> tuple[JobState, str]:
        if header.kind == "failed":
            return "failed", header.ids["code"]
        if header.kind == "withheld" and body is not None:
            statement = decode(EndedBody, body).statement
            self.tx.add_release(StoredRelease(job=job.id, statement=statement, sealed=b""))
            return "withheld", header.ids["code"]
        self.report.releases_lost.append(job.id)
        return "failed", LOST

    def _end_all(self) -> None:
        """End every job that had not ended: what happened to it behind the last entry, nobody knows."""
        unknown = [job for job, stage in self.stages.items() if stage not in ENDED and self.tx.job(job) is None]
        for job_id in dict.fromkeys([*self.tx.unfinished(), *unknown]):
            job = self.tx.job(job_id)
            agreement = self.agreements[job_id] if job is None else job.request.agreement
            if self.stages.get(job_id, "running" if job is not None and job.state == "running" else "granted") in ("charged", "granted"):
                self._append("running", {"job": job_id, "agreement": agreement}, {"worker": NAME}, agreement)
            ids = {"job": job_id, "agreement": agreement, "code": "worker-died"}
            index = self._append("failed", ids, {"code": "worker-died"}, agreement)
            if job is not None:
                recovered_exchanges.fold_job(self.tx, job, "failed", ids, self.host.now())
                self.tx.put_job(replace(job, state="failed", code="worker-died", positions=replace(job.positions, ended=index)))
            self.report.ended.append(job_id)

    def _append(self, kind: EntryKind, ids: dict[str, str], body: dict[str, Any], agreement: str) -> int:
        return self.tx.append(kind, at=self.host.now(), ids=ids, body=body, agreement=agreement)


WAITING: frozenset[EntryKind] = frozenset({"awaiting", "approved", "cancelled", "expired"})
"""Entries about a job that was not decided yet, or never."""

ENDED: frozenset[EntryKind] = frozenset({"decided", "released", "withheld", "failed", "repeated"})
"""Last steps after which a job needs no end; a decision that allows is followed by its charge in the same transaction."""

EXCHANGE: dict[EntryKind, Callable[[_Rebuilding, Header, Signed], None]] = {
    "admitted": _Rebuilding.admitted,
    "readmitted": _Rebuilding.admitted,
    "declared": _Rebuilding.declared,
    "published": _Rebuilding.published,
    "destroyed": _Rebuilding.destroyed,
    "offered": _Rebuilding.offered,
    "proposed": _Rebuilding.proposed,
    "signed": _Rebuilding.signed,
}
KEYS: dict[EntryKind, Callable[[_Rebuilding, Header], None]] = {"rotated": _Rebuilding.rotated, "revoked": _Rebuilding.revoked}
