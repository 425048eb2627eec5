"""Replacing and revoking participants' keys. From the entry on, what is signed anew is signed by the new keys or does not count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enclaves.kit.envelope import Signed
from enclaves.kit.rotation import verify_rotation
from policies.codec import decode
from policies.documents import KeyRevocation, KeyRotation, SignedRotation
from policies.errors import Conflict, Forbidden, NotFound, Tampered
from sandbox.audit.keyring import OPERATOR
from sandbox.exchange.records import Participant, StoredAgreement
from sandbox.exchange.signed import require_signed
from sandbox.host import Host

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sandbox.store.database import Transaction


def rotate(host: Host, caller: Participant, signed: Signed, countersignature: str) -> Participant:
    """Replace the caller's keys by those of a rotation that the old and the new key signed. The same rotation again is the same.

    Args:
        signed: the rotation, signed with the old key; `countersignature` is the new key's on the same.

    Raises:
        Forbidden: code `bad-signature`, also for a rotation of somebody else.
        Conflict: the old key is not in force, the sequence number is not the next one, or a new key is or was in use.
    """
    rotation = decode(KeyRotation, signed.body)
    if signed.purpose != "key-rotation" or signed.by != caller.id or rotation.participant != caller.id:
        raise Forbidden("a participant replaces its own keys only", code="bad-signature")
    statement = SignedRotation(rotation=rotation, old_signature=signed.signature, new_signature=countersignature)
    try:
        verify_rotation(statement)
    except Tampered as error:
        raise Forbidden(error.message, code="bad-signature") from error
    with host.store.transaction() as tx:
        tx.hold_log()
        if tx.rotation_of(rotation.old_key) != statement:
            _replace(host, tx, caller.id, statement)
        replaced = tx.participant(caller.id)
    host.on_step("rotated")
    host.publish()
    assert replaced is not None, "a caller is a participant"
    return replaced


def _replace(host: Host, tx: Transaction, name: str, statement: SignedRotation) -> None:
    rotation, before = statement.rotation, tx.participant(name)
    if before is None or before.revoked or before.signing_key != rotation.old_key:
        raise Conflict("the key to be replaced is not in force", code="key-not-in-force")
    if rotation.sequence != len(tx.rotations_to(name, before.signing_key)) + 1:
        raise Conflict("this is not the number of the next rotation", code="rotation-sequence")
    if tx.key_is_known(rotation.signing_key, rotation.sealing_key):
        raise Conflict("a new key is or was in use", code="key-known")
    tx.replace_keys(before, statement)
    tx.append("rotated", at=host.now(), ids=statement.to_ids(), body={})


def revoke_own(host: Host, caller: Participant, signed: Signed) -> Participant:
    """Revoke the caller's keys, as it signed with them.

    Raises:
        Forbidden: code `bad-signature`. Conflict: the revocation is of other keys than those in force.
    """
    require_signed(signed, "key-revocation", caller.id, caller.signing_key)
    if decode(KeyRevocation, signed.body) != KeyRevocation(participant=caller.id, signing_key=caller.signing_key):
        raise Conflict("the revocation is of other keys", code="key-not-in-force")
    return _revoke(host, caller.id, caller.signing_key, caller.id, signed.signature)


def revoke(host: Host, name: str) -> Participant:
    """Revoke a participant's keys as the operator, where they were lost or stolen. Raises NotFound, Conflict if that was done before."""
    with host.store.reading() as tx:
        found = tx.participant(name)
    if found is None:
        raise NotFound(f"there is no participant `{name}`")
    return _revoke(host, name, found.signing_key, OPERATOR, "")


def _revoke(host: Host, name: str, key: str, by: str, signature: str) -> Participant:
    with host.store.transaction() as tx:
        tx.hold_log()
        found = tx.participant(name)
        if found is None or found.revoked or found.signing_key != key:
            raise Conflict(f"the keys of `{name}` are revoked already, or were replaced meanwhile", code="key-not-in-force")
        tx.revoke_keys(found, host.now())
        tx.set_webhook(name, None, host.now())  # whoever had the keys may have set it
        tx.append("revoked", at=host.now(), ids={"participant": name, "key": key, "by": by, "signature": signature}, body={})
        revoked = tx.participant(name)
    host.publish()
    assert revoked is not None, "a revoked participant stays known"
    return revoked


def require_in_force(tx: Transaction, caller: Participant) -> None:
    """Raise Forbidden (code `key-not-in-force`) if the caller's keys were replaced or revoked since it was authenticated.

    The transaction holds the log, so that what is appended next stands after every rotation that this has seen, and before any other.
    """
    if tx.participant(caller.id) != caller:
        raise Forbidden("your keys were replaced or revoked meanwhile", code="key-not-in-force")


def require_carried(tx: Transaction, stored: StoredAgreement, names: Iterable[str]) -> None:
    """Raise Conflict (code `party-revoked`) unless the keys that an agreement gives these parties lead to those in force."""
    for name in names:
        party, known = stored.agreement.party(name), tx.participant(name)
        rotations = tx.rotations_from(party.signing_key)
        key = rotations[-1].rotation.signing_key if rotations else party.signing_key
        if known is None or known.revoked or known.signing_key != key:
            raise Conflict(
                f"the keys that this agreement gives `{name}` were revoked; the parties have to sign a new agreement", code="party-revoked"
            )
