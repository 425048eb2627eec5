"""Admission: the operator hands out a one-time code, the participant answers with its keys and proof that it holds them."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from enclaves.kit.envelope import Signed
from policies.codec import decode, encode
from policies.documents import Admission, secret_digest
from policies.entries import EntryKind
from policies.errors import Conflict, Forbidden, Malformed, Unauthenticated
from policies.names import require_name
from sandbox.exchange.records import Participant
from sandbox.exchange.signed import require_signed
from sandbox.host import Host

if TYPE_CHECKING:
    from sandbox.store.database import Transaction

CODE_LIFETIME_MS = 24 * 3600 * 1000


def issue_code(host: Host, participant: str) -> str:
    """Return a fresh one-time admission code for a participant id, new or revoked; it expires after 24 hours.

    Raises:
        Malformed. Conflict: the participant is admitted, and its keys are in force.
    """
    require_name(participant, "participant")
    code = secrets.token_urlsafe(24)
    with host.store.transaction() as tx:
        known = tx.participant(participant)
        if known is not None and not known.revoked:
            raise Conflict(f"`{participant}` is admitted already")
        tx.add_admission_code(secret_digest(code), participant, host.now() + CODE_LIFETIME_MS)
    return code


def admit(host: Host, signed: Signed, code: str) -> Participant:
    """Admit a participant under the credential whose digest it signed. The very same admission again is the same participant.

    A participant whose answer was lost therefore repeats its request, and is never locked out by a code that is used up.

    Raises:
        Forbidden: code `bad-signature`, if the document is not signed with the key it names.
        Forbidden: the code is unknown, used for another admission, expired or for another participant.
        Conflict: the id, a key or the credential is taken. The id of a participant whose keys were revoked is not: it is readmitted.
    """
    admission = decode(Admission, signed.body)
    require_signed(signed, "admission", admission.participant, admission.signing_key)
    credential = admission.credential_digest
    if credential is None:
        raise Malformed("is missing", where="credential_digest")
    if secret_digest(code) != admission.code_digest:
        raise Forbidden("the admission code is not the signed one", code="admission-code")
    participant = Participant(
        id=admission.participant, title=admission.title, signing_key=admission.signing_key, sealing_key=admission.sealing_key
    )
    with host.store.transaction() as tx:
        tx.hold_log()
        if not _is_repeated(tx, admission, credential, participant):
            _add(host, tx, credential, admission, participant, signed)
    host.publish()
    return participant


def _is_repeated(tx: Transaction, admission: Admission, credential: str, participant: Participant) -> bool:
    return tx.code_was_used(admission.code_digest, participant.id) and (tx.participant_by_credential(credential) == participant)


def _add(host: Host, tx: Transaction, credential: str, admission: Admission, participant: Participant, signed: Signed) -> None:
    if not tx.use_admission_code(admission.code_digest, participant.id, host.now()):
        raise Forbidden("the admission code is unknown, used, expired or for another participant", code="admission-code")
    known = tx.participant(participant.id)
    if (
        (known is not None and not known.revoked)
        or tx.key_is_known(participant.signing_key, participant.sealing_key)
        or tx.participant_by_credential(credential) is not None
    ):
        raise Conflict("this participant, one of its keys or its credential is admitted already")
    if known is None:
        tx.add_participant(participant, credential, host.now())
    else:
        tx.readmit(participant, credential)
    kind: EntryKind = "admitted" if known is None else "readmitted"
    tx.append(kind, at=host.now(), ids={"participant": participant.id}, body={"signed": encode(signed)})


def authenticate(host: Host, credential: str) -> Participant:
    """Return the participant whose bearer credential this is. Raises Unauthenticated."""
    found = host.store.look_up(lambda tx: tx.participant_by_credential(secret_digest(credential)))
    if found is None:
        raise Unauthenticated("the credential is unknown")
    if found.revoked:
        raise Unauthenticated("the keys of this participant were revoked; ask the operator for a new admission code", code="revoked")
    return found
