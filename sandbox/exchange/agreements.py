"""Agreements: proposed by one party, active once every party has signed the same digest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enclaves.kit.envelope import Signed, document_digest
from policies.agreement import Agreement
from policies.codec import decode, encode
from policies.documents import AgreementSignature
from policies.errors import Conflict, Forbidden, Malformed, NotFound
from policies.odrl import parse_agreement
from sandbox.exchange.records import Participant, StoredAgreement
from sandbox.exchange.rotation import require_carried, require_in_force
from sandbox.exchange.signed import require_signed
from sandbox.host import Host

if TYPE_CHECKING:
    from sandbox.store.database import Transaction


def propose(host: Host, caller: Participant, signed: Signed) -> StoredAgreement:
    """Store a proposed agreement. The same document again is the same agreement.

    Raises:
        Forbidden: the proposer is no party.
        Conflict: a party is not admitted or has other keys, a dataset is declared otherwise, or the agreement names another log.
    """
    require_signed(signed, "agreement", caller.id, caller.signing_key)
    agreement, digest = parse_agreement(signed.body), document_digest(signed)
    if not agreement.has_party(caller.id):
        raise Forbidden("only a party can propose an agreement")
    with host.store.transaction() as tx:
        tx.hold_log()
        known = tx.agreement(digest)
        if known is not None:
            return known
        require_in_force(tx, caller)
        _require_known(host, tx, agreement)
        tx.add_agreement(digest, signed.body, [party.id for party in agreement.parties], caller.id)
        ids = {"agreement": digest, "participant": caller.id}
        tx.append("proposed", at=host.now(), ids=ids, body={"signed": encode(signed)}, agreement=digest)
        tx.add_notices("agreement", digest, [party.id for party in agreement.parties], host.now())
    host.publish()
    return read_agreement(host, caller, digest)


def sign(host: Host, caller: Participant, signed: Signed) -> StoredAgreement:
    """Add a party's signature; the last one makes the agreement active. Again is the same.

    Raises:
        NotFound: no such agreement, or the caller is no party.
        Conflict: code `party-revoked`, if the keys that it names were revoked; code `other-log`, if its log has ended.
    """
    require_signed(signed, "agreement-signature", caller.id, caller.signing_key)
    digest = decode(AgreementSignature, signed.body).agreement
    with host.store.transaction() as tx:
        tx.lock_agreement(digest)
        stored = visible(tx.agreement(digest), caller)
        if caller.id in stored.waiting_for:
            tx.hold_log()
            if stored.agreement.log.origin != host.log_identity.name:
                raise Conflict("the agreement names a log that has ended; propose it anew", code="other-log")
            require_in_force(tx, caller)
            require_carried(tx, stored, [caller.id])
            tx.sign_agreement(digest, signed)
            ids = {"agreement": digest, "participant": caller.id}
            tx.append("signed", at=host.now(), ids=ids, body={"signed": encode(signed)}, agreement=digest)
            if stored.waiting_for == (caller.id,):
                tx.activate_agreement(digest)
                tx.append("agreed", at=host.now(), ids={"agreement": digest}, body={"agreement": digest}, agreement=digest)
    host.publish()
    return read_agreement(host, caller, digest)


def read_agreement(host: Host, caller: Participant, digest: str) -> StoredAgreement:
    """Return an agreement to one of its parties. Raises NotFound to everybody else, as if it did not exist."""
    with host.store.reading() as tx:
        return visible(tx.agreement(digest), caller)


def visible(stored: StoredAgreement | None, caller: Participant) -> StoredAgreement:
    """Return an agreement to one of its parties. Raises NotFound to everybody else."""
    if stored is None or not stored.agreement.has_party(caller.id):
        raise NotFound("there is no such agreement of yours")
    return stored


def _require_known(host: Host, tx: Transaction, agreement: Agreement) -> None:
    log = host.log_identity
    if (agreement.log.origin, agreement.log.key) != (log.name, log.public.hex()):
        raise Conflict("the agreement names another log than this service's", code="other-log")
    for party in agreement.parties:
        known = tx.participant(party.id)
        if known is None:
            raise Conflict(f"`{party.id}` is not admitted", code="unknown-party")
        if (known.signing_key, known.sealing_key) != (party.signing_key, party.sealing_key):
            raise Conflict(f"the keys of `{party.id}` are not those in force", code="other-keys")
        if known.revoked:
            raise Conflict(f"the keys of `{party.id}` were revoked", code="party-revoked")
    for declaration in agreement.declarations:
        dataset = tx.dataset(declaration.dataset)
        if dataset is None or dataset.declaration != declaration:
            raise Malformed(f"`{declaration.dataset}` is not declared like this", where="sb:declaration")
