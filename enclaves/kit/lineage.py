"""Following a log from the identity that an agreement names to the one in force. Pure.

A new key counts if the key before it signed for it. A new epoch counts, for one agreement, if every provider of that agreement signed it.
"""

from __future__ import annotations

from dataclasses import dataclass

from enclaves.kit import signatures
from enclaves.kit.envelope import Signed, verify_document
from enclaves.kit.rotation import keys_in_force
from enclaves.kit.signatures import SigningKey
from policies.agreement import Agreement, LogIdentity
from policies.canonical import canonical
from policies.codec import encode
from policies.documents import SignedRotation
from policies.errors import Malformed, Tampered
from policies.lineage import Consent, Epoch, LogLink, LogRotation, SignedEpoch, SignedLogRotation

LOG_ROTATION = "log-rotation"


@dataclass(frozen=True, kw_only=True, slots=True)
class Lineage:
    """Where an agreement's log stands now.

    Attributes:
        log: under whose key checkpoints are signed now.
        start: the identity with which that log's tree began, as far as this agreement knows.
        epoch: the epoch with which it began; None where it is the log that the agreement names.
    """

    log: LogIdentity
    start: LogIdentity
    epoch: Epoch | None


def sign_log_rotation(rotation: LogRotation, old: SigningKey, new: SigningKey) -> SignedLogRotation:
    """Return a rotation of a log's key, signed with both keys."""
    message = canonical(encode(rotation))
    by_old, by_new = (key.sign(LOG_ROTATION, message).hex() for key in (old, new))
    return SignedLogRotation(rotation=rotation, old_signature=by_old, new_signature=by_new)


def verify_log_rotation(signed: SignedLogRotation) -> LogRotation:
    """Return the rotation if both keys that it names signed it. Raises Tampered (code `bad-log-rotation`)."""
    rotation = signed.rotation
    message = canonical(encode(rotation))
    try:
        for key, signature in ((rotation.old_key, signed.old_signature), (rotation.key, signed.new_signature)):
            signatures.verify(bytes.fromhex(key), LOG_ROTATION, message, bytes.fromhex(signature))
    except (Tampered, ValueError) as error:
        raise Tampered("a new key of the log is not signed by both keys", code="bad-log-rotation") from error
    return rotation


def verify_consent(epoch: Epoch, consent: Consent, key: str) -> None:
    """Raise Tampered (code `bad-epoch`) unless the provider signed the epoch with `key` (hex)."""
    signed = Signed(purpose="epoch", by=consent.provider, body=encode(epoch), signature=consent.signature)
    try:
        verify_document(signed, "epoch", consent.provider, key)
    except Tampered as error:
        raise Tampered(f"`{consent.provider}` did not sign this epoch", code="bad-epoch") from error


def follow_lineage(agreement: Agreement, links: tuple[LogLink, ...]) -> Lineage:
    """Return where `links` lead from the log that an agreement names.

    Raises:
        Tampered: code `bad-log-rotation`, `bad-epoch`, or `lineage` where a link does not begin where the one before ended.
    """
    now = start = agreement.log
    epoch: Epoch | None = None
    for link in links:
        if isinstance(link, SignedLogRotation):
            old, following = link.rotation.old, verify_log_rotation(link).log
        else:
            epoch = _verify_epoch(link, agreement)
            old, following = epoch.before[-1], epoch.log
            start = following
        if old != now:
            raise Tampered("the log's lineage does not lead on from the log of the agreement", code="lineage")
        now = following
    return Lineage(log=now, start=start, epoch=epoch)


def _verify_epoch(signed: SignedEpoch, agreement: Agreement) -> Epoch:
    consents = {consent.provider: consent for consent in signed.consents}
    for name in sorted({declaration.provider for declaration in agreement.declarations}):
        if name not in consents:
            raise Tampered(f"`{name}` did not sign this epoch", code="bad-epoch")
        party = agreement.party(name)
        try:
            key, _ = keys_in_force(party, _rotations_from(party.signing_key, consents[name].rotations))
        except Malformed as error:
            raise Tampered(f"the keys of `{name}` do not lead on", code="bad-epoch") from error
        verify_consent(signed.epoch, consents[name], key)
    return signed.epoch


def _rotations_from(key: str, rotations: tuple[SignedRotation, ...]) -> tuple[SignedRotation, ...]:
    for at, signed in enumerate(rotations):
        if signed.rotation.old_key == key:
            return rotations[at:]
    return ()
