"""Admission: the operator hands out a one-time code, the participant answers with its keys and proof that it holds them."""

from __future__ import annotations

import secrets

from enclaves.kit.envelope import Signed
from policies.codec import decode, encode
from policies.documents import Admission, secret_digest
from policies.errors import Conflict, Forbidden, Unauthenticated
from policies.names import require_name
from sandbox.exchange.records import Participant
from sandbox.exchange.signed import require_signed
from sandbox.host import Host

CODE_LIFETIME_MS = 24 * 3600 * 1000


def issue_code(host: Host, participant: str) -> str:
    """Return a fresh one-time admission code for a participant id; it expires after 24 hours. Raises Malformed, Conflict."""
    require_name(participant, "participant")
    code = secrets.token_urlsafe(24)
    with host.store.transaction() as tx:
        if tx.participant(participant) is not None:
            raise Conflict(f"`{participant}` is admitted already")
        tx.add_admission_code(secret_digest(code), participant, host.now() + CODE_LIFETIME_MS)
    return code


def admit(host: Host, signed: Signed, code: str) -> tuple[Participant, str]:
    """Admit a participant and return it with its bearer credential, which is shown once and stored hashed.

    Raises:
        Forbidden: code `bad-signature`, if the document is not signed with the key it names.
        Forbidden: the code is unknown, used, expired or for another participant.
        Conflict: the id or a key is taken.
    """
    admission = decode(Admission, signed.body)
    require_signed(signed, "admission", admission.participant, admission.signing_key)
    if secret_digest(code) != admission.code_digest:
        raise Forbidden("the admission code is not the signed one", code="admission-code")
    participant = Participant(
        id=admission.participant, title=admission.title, signing_key=admission.signing_key, sealing_key=admission.sealing_key
    )
    credential = secrets.token_urlsafe(32)
    with host.store.transaction() as tx:
        tx.hold_log()
        if not tx.use_admission_code(admission.code_digest, participant.id, host.now()):
            raise Forbidden("the admission code is unknown, used, expired or for another participant", code="admission-code")
        if tx.participant(participant.id) is not None or tx.key_is_known(participant.signing_key, participant.sealing_key):
            raise Conflict("this participant or one of its keys is admitted already")
        tx.add_participant(participant, secret_digest(credential), host.now())
        ids = {"participant": participant.id}
        tx.append("admitted", at=host.now(), ids=ids, body={"signed": encode(signed)})
    host.publish()
    return participant, credential


def authenticate(host: Host, credential: str) -> Participant:
    """Return the participant whose bearer credential this is. Raises Unauthenticated."""
    with host.store.reading() as tx:
        found = tx.participant_by_credential(secret_digest(credential))
    if found is None:
        raise Unauthenticated("the credential is unknown")
    return found
