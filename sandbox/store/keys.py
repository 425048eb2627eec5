"""Stored rotations and revocations of participants' keys."""

from __future__ import annotations

from sqlalchemy import Connection, bindparam, insert, select, update

from policies.codec import decode
from policies.documents import SignedRotation
from sandbox.exchange.records import Participant
from sandbox.store.exchange import from_text, to_text
from sandbox.store.schema import participants, revocations, rotations

_ROTATION = select(rotations.c.signed).where(rotations.c.old_key == bindparam("key"))


class KeyTables:
    """Verbs on keys that were replaced or revoked, inside one transaction that holds the log wherever it writes."""

    connection: Connection

    def rotation_of(self, signing_key: str) -> SignedRotation | None:
        """The rotation that replaced a signing key."""
        found = self.connection.execute(_ROTATION, {"key": signing_key}).scalar_one_or_none()
        return None if found is None else decode(SignedRotation, from_text(found))

    def rotations_from(self, signing_key: str) -> tuple[SignedRotation, ...]:
        """All rotations that lead on from a signing key, in their order."""
        found = []
        while (signed := self.rotation_of(signing_key)) is not None:
            found.append(signed)
            signing_key = signed.rotation.signing_key
        return tuple(found)

    def rotations_to(self, participant: str, signing_key: str) -> tuple[SignedRotation, ...]:
        """All rotations that led a participant to a signing key, from the key that it was admitted with."""
        rows = self.connection.execute(select(rotations.c.signed).where(rotations.c.participant == participant))
        made = {signed.rotation.signing_key: signed for signed in (decode(SignedRotation, from_text(row.signed)) for row in rows)}
        found: list[SignedRotation] = []
        while signing_key in made:
            found.insert(0, made[signing_key])
            signing_key = made[signing_key].rotation.old_key
        return tuple(found)

    def replace_keys(self, before: Participant, signed: SignedRotation) -> None:
        """Store a rotation and give the participant its new keys."""
        rotation = signed.rotation
        self.connection.execute(
            insert(rotations).values(
                old_key=before.signing_key,
                old_sealing_key=before.sealing_key,
                participant=before.id,
                sequence=rotation.sequence,
                signed=to_text(signed),
            )
        )
        self.connection.execute(
            update(participants)
            .where(participants.c.id == before.id)
            .values(signing_key=rotation.signing_key, sealing_key=rotation.sealing_key)
        )

    def revoke_keys(self, participant: Participant, revoked_at: int) -> None:
        """Store that a participant's keys count no more (`revoked_at` in milliseconds since 1970)."""
        self.connection.execute(
            insert(revocations).values(signing_key=participant.signing_key, sealing_key=participant.sealing_key, participant=participant.id)
        )
        self.connection.execute(update(participants).where(participants.c.id == participant.id).values(revoked_at=revoked_at))

    def readmit(self, participant: Participant, credential_digest: str) -> None:
        """Give a revoked participant new keys and another credential."""
        self.connection.execute(
            update(participants)
            .where(participants.c.id == participant.id)
            .values(
                title=participant.title,
                signing_key=participant.signing_key,
                sealing_key=participant.sealing_key,
                credential_digest=credential_digest,
                revoked_at=None,
            )
        )
