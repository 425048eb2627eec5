"""Giving a charge back: only where every provider's broker has signed that the grant is dead.

A run that failed before any key was logged as released leaves a grant that may still be dead or may not: a broker whose keys were lost on
the way has released them all the same. So the host asks, brokers answer from what they keep at home, and one answer missing keeps the
charge. The last answer, the entry that voids the charge and the ledgers are one transaction.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from enclaves.kit.envelope import Signed
from policies.codec import decode
from policies.documents import GrantRenunciation, SignedRenunciation
from policies.entries import Header, parse_header
from policies.errors import Conflict, NotFound
from policies.grant import grant_digest
from sandbox.exchange.records import Participant
from sandbox.exchange.rotation import require_in_force
from sandbox.exchange.signed import require_signed
from sandbox.host import Host
from sandbox.jobs.states import ASKED, Job, KeyRequest

if TYPE_CHECKING:
    from sandbox.store.database import Transaction


def ask_to_renounce(tx: Transaction, job: Job) -> None:
    """Ask the brokers of a run that failed to renounce its grant, unless one has released keys for it."""
    requests = tx.key_requests(job.id)
    if any(request.state == "released" for request in requests):
        return
    for request in requests:
        tx.set_key_request(replace(request, renounced=ASKED))


def keep_charge(tx: Transaction, request: KeyRequest) -> KeyRequest:
    """Ask a broker no more that does not renounce: the charge stays for good."""
    kept = replace(request, renounced="")
    tx.set_key_request(kept)
    return kept


def renounce(host: Host, caller: Participant, signed: Signed) -> KeyRequest:
    """Store and log a broker's renunciation; the last one of a job voids its charge in every ledger. The same again is the same.

    Raises:
        NotFound: no run asked the caller for keys under this job.
        Conflict: code `key-state` if nobody asked the caller to renounce, `key-binding` if the renunciation is of another grant.
    """
    require_signed(signed, "grant-renunciation", caller.id, caller.signing_key)
    own = SignedRenunciation(renunciation=decode(GrantRenunciation, signed.body), provider=caller.id, signature=signed.signature)
    with host.store.transaction() as tx:
        job = tx.lock_job(own.renunciation.job)
        request = tx.key_request(own.renunciation.job, caller.id)
        if job is None or request is None or job.grant is None:
            raise NotFound("no run asks you for keys under this job")
        if own.renunciation.grant != grant_digest(job.grant):
            raise Conflict("the renunciation is of another grant", code="key-binding")
        if request.renounced not in ("", ASKED):
            return request
        if request.renounced != ASKED or job.state != "failed":
            raise Conflict("this grant is not to be renounced", code="key-state")
        request = replace(request, renounced=own.signature)
        tx.set_key_request(request)
        void = all(item.renounced not in ("", ASKED) for item in tx.key_requests(job.id))
        charge = _charge(tx, job)
        if void:
            tx.lock_ledgers(sorted((loss.provider, loss.id_space) for loss in charge.losses))
        tx.hold_log()
        require_in_force(tx, caller)
        tx.append("renounced", at=host.now(), ids=own.to_ids(), body={}, agreement=job.request.agreement)
        if void:
            consumer = charge.ids.get("consumer", "")
            tx.give_back(charge.losses, consumer, charge.at)
            ids = {"job": job.id, "agreement": job.request.agreement, "grant": own.renunciation.grant, "consumer": consumer}
            tx.append("voided", at=host.now(), ids=ids, body={}, losses=charge.losses, agreement=job.request.agreement)
    host.on_step("renounced")
    host.publish()
    return request


def _charge(tx: Transaction, job: Job) -> Header:
    """The header of a job's charge in the log."""
    return parse_header(next(iter(tx.entries(job.positions.charged, job.positions.charged + 1))))
