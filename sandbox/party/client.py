"""The Python client: the same verbs as the command line, over HTTP. It signs what binds the firm and verifies before it shows anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from enclaves.kit.envelope import Purpose, Signed, document_digest, sign_document, verify_document
from enclaves.kit.sealing import SealingKey
from enclaves.kit.signatures import SigningKey
from policies.agreement import Agreement, Offer
from policies.canonical import digest, parse_json
from policies.codec import decode, encode
from policies.declaration import Declaration
from policies.documents import Admission, AgreementSignature, KeyDestruction, KeyRevocation, SignedRotation, secret_digest
from policies.entries import Opening, open_body, parse_header
from policies.errors import Conflict, Tampered, Unavailable
from policies.granted import job_id as job_id_of
from policies.lineage import Epoch
from policies.odrl import agreement_document, offer_document, parse_agreement
from policies.request import JobRequest
from sandbox.audit.joint_receipt import AnyReceipt
from sandbox.audit.receipt import Receipt
from sandbox.party.answers import Sized
from sandbox.party.connection import Connection
from sandbox.party.cosigning import following
from sandbox.party.followed import Followed
from sandbox.party.inbox import mark_read
from sandbox.party.kept import kept_agreement, require_all_signatures
from sandbox.party.verify import OpenedRelease, require_same_question, verify_release
from sandbox.party.webhooks import KEPT_KEY


@dataclass
class Client(Connection):
    """One participant talking to the service.

    Raises, from every verb: the typed error that the service answered; Unavailable if it cannot be reached.
    """

    _fully_signed: set[str] = field(default_factory=set)

    # --- joining

    def join(self, code: str) -> None:
        """Be admitted with a one-time code, under a credential that the home chose. After a lost answer, call it again."""
        self.admit(code, self.home.signing, self.home.sealing)
        self.home.keep_credential()

    def admit(self, code: str, signing: SigningKey, sealing: SealingKey) -> None:
        """Ask to be admitted with these keys, under the credential that the home has drafted."""
        home = self.home
        admission = Admission(
            participant=home.participant,
            title=home.read("identity.json")["title"],
            signing_key=signing.public.hex(),
            sealing_key=sealing.public.hex(),
            code_digest=secret_digest(code),
            credential_digest=secret_digest(home.drafted_credential()),
        )
        signed = sign_document("admission", home.participant, admission, signing)
        self._post("/participants", {"signed": encode(signed), "code": code}, anonymous=True)

    def announce_rotation(self, signed: SignedRotation) -> dict[str, Any]:
        """Tell the service of new keys; `sandbox.party.rekeying` keeps them at home first."""
        rotation = signed.rotation
        document = Signed(purpose="key-rotation", by=rotation.participant, body=encode(rotation), signature=signed.old_signature)
        return self._post("/participants/rotations", {"signed": encode(document), "countersignature": signed.new_signature})

    def revoke_keys(self) -> dict[str, Any]:
        """Revoke this participant's keys, for good: the operator has to admit it anew, and its agreements are over."""
        revocation = KeyRevocation(participant=self.home.participant, signing_key=self.home.signing.public.hex())
        return self._post("/participants/revocations", {"signed": self._signed("key-revocation", revocation)})

    def service(self) -> dict[str, Any]:
        """The service's log identity and enclave measurement, as it states them."""
        return self._get("/service", anonymous=True)

    def participants(self) -> list[dict[str, Any]]:
        """All participants with their public keys."""
        return self._pages("/participants", "participants")

    # --- providing

    def declare(self, declaration: Declaration) -> dict[str, Any]:
        """Declare a dataset."""
        return self._post("/datasets", {"signed": self._signed("declaration", declaration)})

    def dataset(self, name: str) -> dict[str, Any]:
        """A dataset's signed declaration and newest version."""
        return self._get(f"/datasets/{name}")

    def upload(self, path: Path, progress: Callable[[int], None] = lambda sent: None) -> dict[str, Any]:
        """Stream an encrypted file to the service; `progress` is told the number of bytes of every chunk."""

        def chunks() -> Iterator[bytes]:
            with path.open("rb") as file:
                while chunk := file.read(1 << 20):
                    yield chunk
                    progress(len(chunk))

        return self._answer("POST", "/uploads", data=Sized(chunks(), path.stat().st_size))

    def download(self, digest: str, path: Path) -> None:
        """Fetch an encrypted file that this participant uploaded."""
        path.write_bytes(self._send("GET", f"/uploads/{digest}").content)

    def state_destruction(self, statement: KeyDestruction) -> dict[str, Any]:
        """State that no key of a version exists any more; `sandbox.party.keeping` destroys them first."""
        return self._post("/versions/destructions", {"signed": self._signed("key-destruction", statement)})

    def publish_version(self, manifest: Any) -> dict[str, Any]:
        """Make an upload the next version of a dataset."""
        return self._post("/versions", {"signed": self._signed("version", manifest)})

    def offer(self, offer: Offer) -> dict[str, Any]:
        """Make an offer."""
        return self._post("/offers", {"signed": self._signed("offer", offer_document(offer))})

    def datasets(self, provider: str | None = None) -> list[dict[str, Any]]:
        """All datasets, or those of one provider."""
        return self._pages("/datasets", "datasets", provider=provider)

    def offers(self, provider: str | None = None) -> list[dict[str, Any]]:
        """All offers, or those of one provider."""
        return self._pages("/offers", "offers", provider=provider)

    # --- agreeing

    def propose(self, agreement: Agreement) -> dict[str, Any]:
        """Propose an agreement to its parties."""
        return self._post("/agreements", {"signed": self._signed("agreement", agreement_document(agreement))})

    def agreement(self, name: str) -> tuple[Agreement, dict[str, Any]]:
        """One agreement, parsed, with the service's record of it. Raises Tampered if it is not the one that `name` (a digest) names."""
        record = self._get(f"/agreements/{name}")
        if digest(record["document"]) != name:
            raise Tampered("the service sent another agreement", code="agreement-digest")
        return parse_agreement(record["document"]), record

    def agreements(self, state: str | None = None) -> list[dict[str, Any]]:
        """All agreements of this participant, or those `proposed` or `active`."""
        return self._pages("/agreements", "agreements", state=state)

    def sign_agreement(self, name: str) -> dict[str, Any]:
        """Sign an agreement by digest, and keep a copy at home: brokers and clients decide on that copy only.

        Raises:
            Conflict: the agreement names other keys for this participant than its own, of now or before.
        """
        agreement, record = self.agreement(name)
        me, home = agreement.party(self.home.participant), self.home
        own = [(home.signing, home.sealing), *home.former()]
        if (me.signing_key, me.sealing_key) not in [(signing.public.hex(), sealing.public.hex()) for signing, sealing in own]:
            raise Conflict("the agreement names other keys for you than yours", code="other-keys")
        self.home.write(f"agreements/{name.removeprefix('sha256:')}.json", record["document"])
        return self._post("/agreements/signatures", {"signed": self._signed("agreement-signature", AgreementSignature(agreement=name))})

    def signed_agreement(self, name: str) -> Agreement:
        """The copy of an agreement that this participant signed, with every party's signature verified.

        Raises:
            NotFound: never signed here. Conflict: not signed by all. Tampered: a signature is wrong.
        """
        return self.followed_agreement(name)[0]

    def followed_agreement(self, name: str, note: str | None = None) -> tuple[Agreement, Followed]:
        """As `signed_agreement`, with the log followed to the checkpoint `note`, or to the newest.

        A party whose keys have changed since may have signed with those before or after: the log's own record of its signature counts
        then, under the key in force at its place, and not what the service shows of it.

        Raises:
            NotFound, Conflict, Tampered: as `signed_agreement`, and as `Follower.follow`.
        """
        agreement = kept_agreement(self.home, name)
        record = None if name in self._fully_signed else self._get(f"/agreements/{name}")
        followed = following(self.home, self.log_text).follow_agreed(note or self.checkpoint(), agreement)
        if record is not None:  # an agreement is immutable: once signed by all, it stays so
            signatures = [decode(Signed, item) for item in record["signatures"]]
            changed = [party.id for party in agreement.parties if not followed.keyring.is_as_agreed(party)]
            signatures = [item for item in signatures if item.by not in changed]
            signatures += [self._logged_signature(name, who, followed) for who in changed]
            require_all_signatures(agreement, name, signatures, followed)
            self._fully_signed.add(name)
        return agreement, followed

    def followed_receipt(self, agreement: str, checkpoint: str) -> tuple[Agreement, Followed | None]:
        """The agreement of a receipt, and the log followed to the receipt's checkpoint; None where that is of a log that has ended.

        Raises:
            NotFound, Conflict, Tampered: as `followed_agreement`.
        """
        in_force = following(self.home, self.log_text).in_force(kept_agreement(self.home, agreement))
        if checkpoint.startswith(f"{in_force.origin}\n"):
            return self.followed_agreement(agreement, checkpoint)
        # What a log that has ended recorded stands under its own checkpoints; the log in force must go on from what was seen all the same.
        return self.followed_agreement(agreement)[0], None

    def _logged_signature(self, name: str, who: str, followed: Followed) -> Signed:
        """A party's signature on an agreement as the log's entry commits to it. Raises Conflict if there is none, Tampered."""
        index = followed.signed_at(name, who)
        if index is None:
            raise Conflict(f"`{who}` has not signed", code="agreement-not-active")
        header = parse_header(parse_json(self.log_bytes(f"entries?from={index}&to={index + 1}"), limit=1 << 20)["entries"][0].encode())
        answer = parse_json(self.log_bytes(f"openings?from={index}&to={index + 1}"), limit=64 << 20)
        opening = next(iter(decode(tuple[Opening, ...], answer["openings"])), None)
        if opening is None or followed.signatures[name][who]["commitment"] != header.commitment:
            raise Tampered(f"the log does not open the signature of `{who}`", code="bad-opening")
        return decode(Signed, open_body(header, opening)["signed"])

    # --- asking

    def check(self, request: JobRequest, rows: int | None = None, half_widths: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Decide a request without charging, and say how accurate it would be.

        Args:
            rows: of a cell, assumed for averages and other ratios.
            half_widths: by output, for which the answer says what loss they would need.
        """
        body: dict[str, Any] = {"request": encode(request)}
        body |= {"rows": rows} if rows is not None else {}
        return self._post("/jobs:check", body | ({"half_widths": dict(half_widths)} if half_widths else {}))

    def submit(self, request: JobRequest) -> dict[str, Any]:
        """Submit a signed request. Raises PolicyRefused or BudgetExhausted with findings."""
        return self._post("/jobs", {"signed": self._signed("job-request", request)})

    def job(self, job_id: str) -> dict[str, Any]:
        """A job's state, decision and positions."""
        return self._get(f"/jobs/{job_id}")

    def jobs(self, state: str | None = None, consumer: str | None = None, agreement: str | None = None) -> list[dict[str, Any]]:
        """All jobs under this participant's agreements, newest first, with the given state, consumer and agreement."""
        return self._pages("/jobs", "jobs", state=state, consumer=consumer, agreement=agreement)

    def wait(self, job_id: str, timeout: float = 120.0, progress: Callable[[str], None] = lambda state: None) -> dict[str, Any]:
        """Poll a job until it has ended. Raises Unavailable when `timeout` seconds are over."""
        began, state, waits = time.monotonic(), "", ""
        deadline = began + timeout
        while time.monotonic() < deadline:
            job = self.job(job_id)
            waits = ", ".join(job.get("waiting_for") or ())
            if job["state"] != state:
                state = str(job["state"])
                progress(state)
            if state not in ("submitted", "awaiting_approval", "charged", "running"):
                return job
            time.sleep(min(1.0, max(0.05, (time.monotonic() - began) / 20)))  # what it adds is a small part of what was waited
        raise Unavailable(f"{job_id} is still {state}" + (f" and waits for {waits}" if waits else ""), code="job-waits")

    def joint_progress(self, job_id: str) -> dict[str, Any] | None:
        """How far a joint total is that runs: `attempt`, who has `contributed`, for whom it waits (`waiting_for`) and `until` when, in
        milliseconds since 1970. None once it has ended, or before it runs.
        """
        found = self.job(job_id).get("joint")
        return None if found is None else dict(found)

    def release(self, job_id: str) -> tuple[OpenedRelease, AnyReceipt]:
        """The release of this participant's job, opened only after receipt, enclave signature and log were verified.

        Raises:
            ReleaseWithheld: the gate kept it. Tampered: something does not fit; nothing is shown.
        """
        answer = self._get_published(f"/jobs/{job_id}/release")
        receipt: AnyReceipt = decode(cast(Any, AnyReceipt), answer["receipt"])
        agreement, _ = self.followed_receipt(receipt.grant.agreement, receipt.checkpoint)
        request = earlier = self.own_request(job_id)
        if isinstance(receipt, Receipt) and receipt.repeated is not None:
            earlier = self.own_request(receipt.grant.job)
            require_same_question(request, earlier, agreement)
        sealed = bytes.fromhex(answer["sealed"])
        release = verify_release(receipt, sealed, agreement, earlier, self.home.sealing_of, job=job_id)
        mark_read(self.home, job_id)
        return release, receipt

    def own_request(self, job_id: str) -> JobRequest:
        """The request that made a job: signed by this participant, and the job is the one that was asked for. Raises Tampered."""
        signed = decode(Signed, self.job(job_id)["signed"])
        body = self._verify_own(signed)
        if job_id != job_id_of(document_digest(signed)):
            raise Tampered("the service sent another job's release", code="receipt-request")
        return decode(JobRequest, body)

    def _verify_own(self, signed: Signed) -> dict[str, Any]:
        """The body of a request that this participant signed, with its key of now or one before. Raises Tampered."""
        *earlier, first = reversed(self.home.signing_publics())
        for key in earlier:
            with suppress(Tampered):
                return verify_document(signed, "job-request", self.home.participant, key)
        return verify_document(signed, "job-request", self.home.participant, first)

    def epoch(self) -> dict[str, Any]:
        """The newest epoch of the log, whether it is complete and for whom it waits. Raises NotFound if there is none."""
        return self._get("/epoch")

    def send_epoch_signature(self, epoch: Epoch) -> dict[str, Any]:
        """Sign an epoch; `sandbox.party.epochs` compares it with what this home saw first."""
        return self._post("/epoch/signatures", {"signed": self._signed("epoch", epoch)})

    def ledgers(self) -> list[dict[str, Any]]:
        """What the ledgers of this participant's agreements have paid."""
        return list(self._get("/ledgers")["ledgers"])

    def receipt(self, job_id: str) -> dict[str, Any]:
        """The receipt of an ended job under one of this participant's agreements."""
        return self._get_published(f"/jobs/{job_id}/receipt")

    # --- brokering

    def key_requests(self) -> list[dict[str, Any]]:
        """Runs that wait for this participant's broker."""
        return self._pages("/key-requests", "key_requests")

    def challenge(self, job_id: str, nonce: str) -> None:
        """Challenge the enclave of a run."""
        self._post(f"/key-requests/{job_id}/challenge", {"nonce": nonce})

    def send_keys(self, statement: Any, sealed: bytes) -> None:
        """Hand over sealed keys with a signed statement."""
        self._post("/key-requests/keys", {"signed": self._signed("key-release", statement), "sealed": sealed.hex()})

    def send_refusal(self, statement: Any) -> None:
        """Refuse keys with a signed statement."""
        self._post("/key-requests/refusals", {"signed": self._signed("key-refusal", statement)})

    def send_renunciation(self, signed: Signed) -> None:
        """Renounce the grant of a run that failed without keys."""
        self._post("/key-requests/renunciations", {"signed": encode(signed)})

    # --- notices

    def set_webhook(self, url: str | None) -> dict[str, Any]:
        """Have notices sent to `url` (None: nowhere), and keep the key that verifies them at home."""
        answer = self._post("/webhook", {"url": url})
        self.home.write(KEPT_KEY, {"key": self.service()["webhook_key"]})
        return answer

    def webhook(self) -> dict[str, Any]:
        """Where notices go, and whether the last attempt failed."""
        return self._get("/webhook")

    def notices(self, state: str | None = None) -> list[dict[str, Any]]:
        """Notices to this participant's webhook, newest first."""
        return self._pages("/notices", "notices", state=state)

    # --- acts under agreements

    def listed(self, path: str, member: str, **filters: str | None) -> list[dict[str, Any]]:
        """All items of a listing on a path below the service's API, `member` of each page."""
        return self._pages(path, member, **filters)

    def fetch(self, path: str) -> dict[str, Any]:
        """What the service answers on a path below its API."""
        return self._get(path)

    def send(self, path: str, purpose: Purpose, body: Any) -> dict[str, Any]:
        """Sign a document for one purpose and post it."""
        return self._post(path, {"signed": self._signed(purpose, body)})

    def tightenings(self, name: str) -> list[dict[str, Any]]:
        """The tightenings of an agreement, in their order."""
        return list(self._get(f"/agreements/{name}/tightenings")["tightenings"])

    def audit_scopes(self, name: str) -> list[dict[str, Any]]:
        """The audit scopes under an agreement that the service shows this participant, in their order."""
        return list(self._get(f"/agreements/{name}/audit-scopes")["scopes"])

    def consistency(self, old: int, new: int) -> list[str]:
        """Proof that the tree of size `new` extends that of size `old`, hashes in hex."""
        return list(self._get(f"/log/consistency?from={old}&to={new}")["proof"])

    def add_cosignatures(self, note: str) -> dict[str, Any]:
        """Send cosignatures on a checkpoint of the service's log; returns what it keeps of that checkpoint now."""
        return self._post("/log/cosignatures", {"note": note})

    def opening_decisions(self, first: int, end: int) -> list[dict[str, Any]]:
        """What this participant's audit scopes say about entries with first <= index < end, at most 1000."""
        return list(self._get(f"/log/opening-decisions?from={first}&to={end}")["decisions"])
