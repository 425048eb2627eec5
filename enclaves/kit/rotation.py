"""Rotations of a participant's keys: signed by the old and by the new key, and followed from the keys that an agreement names. Pure."""

from __future__ import annotations

from enclaves.kit.envelope import Signed, sign_document, verify_document
from enclaves.kit.signatures import SigningKey
from policies.agreement import Party
from policies.codec import encode
from policies.documents import KeyRotation, SignedRotation, follow_rotations
from policies.errors import Tampered


def sign_rotation(rotation: KeyRotation, old: SigningKey, new: SigningKey) -> SignedRotation:
    """Return `rotation` signed with both signing keys: the old one gives its consent, the new one proves that it is held."""
    by_old, by_new = (sign_document("key-rotation", rotation.participant, rotation, key) for key in (old, new))
    return SignedRotation(rotation=rotation, old_signature=by_old.signature, new_signature=by_new.signature)


def verify_rotation(signed: SignedRotation) -> KeyRotation:
    """Return the rotation if the old and the new signing key that it names both signed it. Raises Tampered (code `bad-rotation`)."""
    rotation = signed.rotation
    for key, signature in ((rotation.old_key, signed.old_signature), (rotation.signing_key, signed.new_signature)):
        document = Signed(purpose="key-rotation", by=rotation.participant, body=encode(rotation), signature=signature)
        try:
            verify_document(document, "key-rotation", rotation.participant, key)
        except Tampered as error:
            raise Tampered(f"a rotation of `{rotation.participant}` is not signed by both keys", code="bad-rotation") from error
    return rotation


def keys_in_force(party: Party, rotations: tuple[SignedRotation, ...]) -> tuple[str, str]:
    """Return the (signing, sealing) keys to which verified `rotations` lead from the keys that an agreement gives `party`.

    Raises:
        Tampered: code `bad-rotation`. Malformed: code `rotation-chain`.
    """
    for signed in rotations:
        verify_rotation(signed)
    return follow_rotations(party.id, (party.signing_key, party.sealing_key), rotations)
