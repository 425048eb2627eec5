"""Agreements as they are kept at home, and the signatures that make them count."""

from __future__ import annotations

from functools import lru_cache

from enclaves.kit.envelope import Signed, verify_document
from policies.agreement import Agreement
from policies.canonical import digest, parse_json
from policies.codec import decode
from policies.documents import AgreementSignature
from policies.errors import Conflict, Tampered
from policies.odrl import parse_agreement
from sandbox.party.followed import Followed
from sandbox.party.home import Home

LARGEST = 256 << 20


def kept_agreement(home: Home, name: str) -> Agreement:
    """The agreement of digest `name` that this home signed. Raises NotFound, Tampered."""
    return _parsed(str(home.folder), name, home.read_bytes(f"agreements/{name.removeprefix('sha256:')}.json"))


def kept_agreements(home: Home) -> list[str]:
    """Digests of the agreements that this home signed."""
    return sorted(f"sha256:{path.stem}" for path in (home.folder / "agreements").glob("*.json"))


@lru_cache(maxsize=32)
def _parsed(_folder: str, name: str, text: bytes) -> Agreement:
    """What a file of a home spells: comparing its bytes costs less than reading them again at every job."""
    document = parse_json(text, limit=LARGEST)
    if digest(document) != name:
        raise Tampered("the kept agreement was changed", code="agreement-digest")
    return parse_agreement(document)


def require_all_signatures(agreement: Agreement, name: str, signatures: list[Signed], followed: Followed | None = None) -> None:
    """Raise unless every party signed the digest `name` with the key that the agreement gives it (Conflict, Tampered).

    Args:
        followed: the log, for parties whose keys have changed: the key that was in force when they signed counts.
    """
    for party in agreement.parties:
        signed = next((item for item in signatures if item.by == party.id), None)
        if signed is None:
            raise Conflict(f"`{party.id}` has not signed", code="agreement-not-active")
        key = party.signing_key if followed is None else followed.signature_key(name, party)
        body = verify_document(signed, "agreement-signature", party.id, key)
        if decode(AgreementSignature, body).agreement != name:
            raise Tampered(f"`{party.id}` signed another agreement", code="bad-signature")
