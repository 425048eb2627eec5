"""Replacing a participant's own keys, and joining again after they were revoked.

Durable order at home: next keys drafted -> announced -> former keys kept -> present keys replaced -> draft removed. Whatever it was
interrupted at, the same call again finishes the same change. The wrapping key of one's data never leaves home and stays.
"""

from __future__ import annotations

from enclaves.kit.rotation import sign_rotation
from policies.documents import KeyRotation
from policies.errors import Conflict
from sandbox.party.client import Client
from sandbox.party.home import Home, NextKeys


def rotate_keys(client: Client) -> KeyRotation:
    """Replace this participant's signing and sealing key, and return what it signed about that.

    Raises:
        Conflict: a readmission was begun and not finished, or the keys are no longer in force.
    """
    home = client.home
    with home.locked("keys"):
        draft = home.next_keys() or home.draft_keys(home.rotations + 1)
        if draft.sequence == 0:
            raise Conflict("this participant is about to join again; finish that with `sandbox party rejoin`", code="rejoining")
        rotation = _rotation(home, draft)
        if home.signing.public != draft.signing.public:
            client.announce_rotation(sign_rotation(rotation, home.signing, draft.signing))
        home.adopt_keys(draft)
        home.note("rotated", sequence=draft.sequence, signing_key=rotation.signing_key)
        home.forget_next()
    return rotation


def rejoin(client: Client, code: str) -> None:
    """Be admitted anew with fresh keys and a fresh credential, after the keys were revoked. The former keys stay in the home."""
    home = client.home
    with home.locked("keys"):
        draft = home.next_keys()
        if draft is None or draft.sequence:
            if draft is not None:
                home.keep_former(draft.signing, draft.sealing)  # they may have been announced, and something sealed to them
            draft = home.draft_keys(0)
        if home.signing.public != draft.signing.public:
            client.admit(code, draft.signing, draft.sealing)
        home.adopt_keys(draft)
        if home.has_drafted_credential():
            home.keep_credential()
        home.note("rejoined", signing_key=draft.signing.public.hex())
        home.forget_next()


def _rotation(home: Home, draft: NextKeys) -> KeyRotation:
    return KeyRotation(
        participant=home.participant,
        sequence=draft.sequence,
        old_key=draft.old,
        signing_key=draft.signing.public.hex(),
        sealing_key=draft.sealing.public.hex(),
    )
