"""Composing an agreement from offers, and laying out what a party should look at before it signs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from enclaves.kit.envelope import Signed, document_digest, verify_document
from enclaves.kit.signatures import fingerprint
from policies.agreement import Agreement, LogIdentity, Party, Role
from policies.codec import decode
from policies.errors import NotFound, Tampered
from policies.joint import Pool
from policies.odrl import parse_offer
from policies.scorer import Scorer
from sandbox.party.client import Client
from sandbox.party.cosigning import following


def compose(
    client: Client,
    uid: str,
    title: str,
    offers: list[str],
    auditors: list[str],
    pools: tuple[Pool, ...] = (),
    countries: Mapping[str, str] | None = None,
    scorers: tuple[Scorer, ...] = (),
) -> Agreement:
    """Return the agreement that takes `offers` (digests) as they are.

    Parties are the offers' providers, everybody that they name, the key holders of pools, and the auditors, with the keys that the
    service lists; each party checks fingerprints out of band before it signs.

    Args:
        countries: jurisdiction of those parties whose terms somebody asks for; all parties sign it.

    Raises:
        Malformed: terms name somebody who is no party: name it as an auditor.
        NotFound: an offer or participant is unknown. Tampered: an offer is not signed by its provider.
    """
    keys = {item["id"]: item for item in client.participants()}
    listed = {item["digest"]: item for item in client.offers()}
    taken = []
    for name in offers:
        if name not in listed:
            raise NotFound(f"there is no offer {name}")
        signed = decode(Signed, listed[name]["signed"])
        offer = parse_offer(signed.body)
        provider = offer.declaration.provider
        verify_document(signed, "offer", provider, _known(keys, provider)["signing_key"])
        if document_digest(signed) != name:
            raise Tampered("the service sent another offer", code="offer-digest")
        taken.append(offer)
    roles: dict[str, list[Role]] = {}
    for offer in taken:
        _add(roles, offer.declaration.provider, "provider")
        for name in (*offer.terms.assignees, *offer.terms.recipients):
            _add(roles, name, "consumer")
    for pool in pools:
        _add(roles, pool.key_holder, "key_holder")
    for name in auditors:
        _add(roles, name, "auditor")
    log = client.service()["log"]
    return Agreement(
        uid=uid,
        title=title,
        log=LogIdentity(origin=log["origin"], key=log["key"]),
        parties=_parties(roles, keys, countries or {}),
        declarations=tuple(offer.declaration for offer in taken),
        terms=tuple(offer.terms for offer in taken),
        pools=pools,
        scorers=scorers,
    )


def _parties(roles: dict[str, list[Role]], keys: dict[str, Any], countries: Mapping[str, str]) -> tuple[Party, ...]:
    return tuple(
        Party(
            id=name,
            roles=tuple(of),
            signing_key=_known(keys, name)["signing_key"],
            sealing_key=_known(keys, name)["sealing_key"],
            jurisdiction=countries.get(name),
        )
        for name, of in roles.items()
    )


def key_states(client: Client, agreement: Agreement) -> dict[str, str]:
    """Return, per party, what has become of the keys that the agreement gives it, by the log that this participant follows.

    Each is empty where nothing has, `replaced` with how often, or `revoked`.

    Raises:
        Tampered: the log is not one that follows from the agreement's.
    """
    ring = following(client.home, client.log_text).follow_agreed(client.checkpoint(), agreement).keyring
    found = {}
    for party in agreement.parties:
        times = len(ring.chain(party.signing_key))
        revoked = ring.signing_key(party.signing_key) is None
        found[party.id] = "revoked" if revoked else f"replaced {times} x" if times else ""
    return found


def fingerprints(agreement: Agreement) -> list[dict[str, str]]:
    """Return, per party, roles and key fingerprints for comparing over the telephone; the log's key comes last."""
    rows = [
        {
            "party": party.id,
            "roles": ", ".join(party.roles),
            "signing": fingerprint(bytes.fromhex(party.signing_key)),
            "sealing": fingerprint(bytes.fromhex(party.sealing_key)),
        }
        for party in agreement.parties
    ]
    log = fingerprint(bytes.fromhex(agreement.log.key))
    return [*rows, {"party": agreement.log.origin, "roles": "log", "signing": log, "sealing": ""}]


def _known(keys: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    if name not in keys:
        raise NotFound(f"`{name}` is not admitted")
    return keys[name]


def _add(roles: dict[str, list[Role]], name: str, role: Role) -> None:
    of = roles.setdefault(name, [])
    if role not in of:
        of.append(role)
