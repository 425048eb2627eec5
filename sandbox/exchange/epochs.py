"""A new key of the log, and a new log where entries or the key are lost for good.

A new log opens with an epoch: where the log before it ended, and what every ledger has paid. Every provider of a live agreement signs it,
after its own client compared the totals with what it saw; until then nothing is charged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from enclaves.kit.envelope import Signed
from enclaves.kit.lineage import sign_log_rotation
from enclaves.kit.signatures import SigningKey
from policies.agreement import LogIdentity
from policies.canonical import digest
from policies.codec import encode
from policies.counts import Counts, Tally
from policies.entries import EntryKind, Header, LedgerCharge, parse_header
from policies.errors import Conflict, Forbidden, NotFound, Unavailable
from policies.lineage import Consent, Epoch, LogRotation, SignedEpoch, SignedLogRotation
from policies.privacy import Loss
from sandbox.audit import merkle
from sandbox.exchange import escrow
from sandbox.exchange.records import EpochState, Participant
from sandbox.exchange.rotation import require_in_force
from sandbox.exchange.signed import require_signed
from sandbox.host import Host
from sandbox.jobs.handout import receipt
from sandbox.jobs.score_receipts import receipt_of

if TYPE_CHECKING:
    from sandbox.store.database import Transaction

CARRIED: frozenset[EntryKind] = frozenset(
    {
        "admitted", "readmitted", "rotated", "revoked", "declared", "published", "destroyed", "offered", "proposed", "signed", "agreed",
        "tightened", "exchange_proposed", "audit_scoped", "duty_done",
    }
)  # fmt: skip
"""Entries that a new log repeats byte by byte: who takes part with which keys, what is offered, what was agreed and since tightened, and
what auditors may open. Jobs are not; of exchanges only the documents of those that the epoch names, and of duties done only payments."""


def rotate_log_key(host: Host, following: SigningKey) -> Host:
    """Replace the log's key; the old one signs for the new one. Returns the host that signs with the new key.

    The caller keeps `following` on disk before. The same again, after a crash, is the same.
    """
    old, new = host.log_identity, following.public.hex()
    rotation = LogRotation(origin=old.name, old_key=old.public.hex(), key=new)
    signed = sign_log_rotation(rotation, host.log_key, following)
    with host.store.transaction() as tx:
        tx.hold_log()
        if tx.setting("log_key") != rotation.old_key:
            raise Conflict("the log's key was replaced meanwhile", code="log-key")
        tx.append("log_rotated", at=host.now(), ids=signed.to_ids(), body={})
        tx.add_log_link(signed)
        tx.replace_setting("log_key", new)
    host.on_step("log-rotated")
    changed = replace(host, log_key=following)
    changed.publish()
    return changed


def open_epoch(host: Host, totals: Mapping[tuple[str, str], Loss], counts: Iterable[Counts] = ()) -> tuple[Host, Epoch]:
    """End the log and begin a new one, which waits for the providers' signatures. Returns the host of the new log, and the epoch.

    An epoch that not all providers signed is replaced by another. Jobs that had not ended end `failed`, with their charge. Receipts of jobs
    that ended are kept. Exchanges that had not ended end with the log: the epoch says so, and what was in escrow is deleted. The service
    must not run meanwhile.

    Args:
        host: with the key of the log that begins; it may be the one of the log that ends.
        totals: what ledgers have paid at least, by provider and id space, where more is known than the service has; no ledger is ever
            lowered.
        counts: what consumers used up at least, where more is known than the log has; no count is ever lowered.

    Raises:
        Conflict: code `ledger-measure`, for a total in another measure than the ledger's.
    """
    with host.store.transaction() as tx:
        tx.hold_log()
        now = host.now()
        tx.raise_ledgers(totals, now)
        epoch = _epoch(host, tx, now, _counted(tx, counts))
        _keep_receipts(tx)
        carried = tx.begin_epoch(epoch, CARRIED)
        name = digest(encode(epoch))
        ids = {"epoch": name, "number": str(epoch.number), "origin": epoch.log.origin, "key": epoch.log.key}
        for total in epoch.totals:
            tx.date_charge(total, "", now)
        tx.append("epoch_opened", at=now, ids=ids, body={"epoch": encode(epoch)}, losses=epoch.totals)
        named = {item.exchange for item in epoch.exchanges}
        for data, opening in carried:
            if _is_repeated(parse_header(data), named):
                tx.append_bytes(data, opening)
        escrow.end_with_log(tx, epoch.exchanges, now)
        tx.add_notices("epoch", name, epoch.providers, host.now())
        _complete_if_signed(tx, epoch)
    host.on_step("epoch-opened")
    begun = replace(host, config=replace(host.config, origin=epoch.log.origin))
    begun.publish()
    return begun, epoch


def _is_repeated(header: Header, exchanges: Collection[str]) -> bool:
    if header.kind == "exchange_proposed":
        return header.ids["exchange"] in exchanges
    return header.kind != "duty_done" or header.ids["duty"] == "payment"


def _counted(tx: Transaction, known: Iterable[Counts]) -> Counts:
    """What consumers used up by the entries of the log that ends, from the newest epoch on that says what they had before it."""
    tally = Tally()
    for epoch in tx.epochs():
        if epoch.counts is None:
            for data in tx.ended_entries(epoch.number):
                tally.note(parse_header(data))
        else:
            tally = Tally.of(epoch.counts)
    for data in tx.entries(0, tx.log_size()):
        tally.note(parse_header(data))
    for counts in known:
        tally.raise_to(counts)
    return tally.counts()


def _epoch(host: Host, tx: Transaction, now: int, counts: Counts) -> Epoch:
    newest = tx.newest_epoch()
    unsigned = newest[0].exchanges if newest is not None and not newest[1] else ()
    exchanges = {item.exchange: item for item in (*unsigned, *escrow.at_end_of_log(tx, now))}
    if newest is not None and not newest[1]:
        before, size, root = newest[0].before, newest[0].size, newest[0].root
    else:
        size = tx.log_size()
        root = merkle.root_from_nodes(size, tx.node).hex()
        links = tx.log_links()
        ended = [link.rotation.old if isinstance(link, SignedLogRotation) else link.epoch.before[-1] for link in links]
        present = LogIdentity(origin=host.config.origin, key=str(tx.setting("log_key")))
        before = (*ended, present)
    number = 2 if newest is None else newest[0].number + 1
    origin = f"{before[0].origin}/epoch-{number}"
    return Epoch(
        number=number,
        before=before,
        size=size,
        root=root,
        log=LogIdentity(origin=origin, key=host.log_key.public.hex()),
        providers=_providers(tx),
        totals=tuple(
            LedgerCharge(provider=provider, id_space=id_space, amount=loss.amount, delta0=loss.delta0, measure=loss.measure)
            for (provider, id_space), loss in sorted(tx.spent().items())
        ),
        exchanges=tuple(item for _, item in sorted(exchanges.items())),
        counts=counts,
    )


def _providers(tx: Transaction) -> tuple[str, ...]:
    """Providers of live agreements; one whose keys were revoked can sign nothing, and its agreements start no job."""
    stored = (tx.agreement(name) for name in tx.live_agreements())
    names = {declaration.provider for found in stored if found is not None for declaration in found.agreement.declarations}
    known = ((name, tx.participant(name)) for name in sorted(names))
    return tuple(name for name, found in known if found is not None and not found.revoked)


def _keep_receipts(tx: Transaction) -> None:
    for job_id in tx.ended_jobs():
        job = tx.job(job_id)
        assert job is not None, "a statement has a job"
        with suppress(Unavailable, NotFound):  # what no checkpoint covers has no receipt
            tx.keep_receipt(job_id, receipt(tx, job))
    for scoring in tx.ended_scorings():
        with suppress(Unavailable, NotFound):
            tx.keep_score_receipt(scoring.id, receipt_of(tx, scoring))


def epoch_state(host: Host) -> EpochState:
    """Return the newest epoch and who has not signed it. Raises NotFound where the log has none."""
    with host.store.reading() as tx:
        return _state(tx)


def _state(tx: Transaction) -> EpochState:
    newest = tx.newest_epoch()
    if newest is None:
        raise NotFound("the log has no epoch")
    signed = tx.epoch_signatures(newest[0].number)
    return EpochState(epoch=newest[0], complete=newest[1], waiting_for=tuple(name for name in newest[0].providers if name not in signed))


def sign_epoch(host: Host, caller: Participant, signed: Signed) -> EpochState:
    """Store a provider's signature on the newest epoch; with the last one, jobs are accepted again. Again is the same.

    Raises:
        Forbidden: code `bad-signature`, or the caller is none of its providers. NotFound: there is no epoch.
        Conflict: another epoch was signed than the newest.
    """
    require_signed(signed, "epoch", caller.id, caller.signing_key)
    with host.store.transaction() as tx:
        tx.hold_log()
        state = _state(tx)
        epoch = state.epoch
        if signed.body != encode(epoch):
            raise Conflict("this is not the newest epoch", code="other-epoch")
        if caller.id not in epoch.providers:
            raise Forbidden("only providers of live agreements sign an epoch")
        if caller.id in state.waiting_for:
            require_in_force(tx, caller)
            tx.sign_epoch(epoch.number, caller.id, signed.signature, caller.signing_key)
            ids = {"epoch": digest(signed.body), "participant": caller.id}
            tx.append("epoch_signed", at=host.now(), ids=ids, body={"signed": encode(signed)})
            _complete_if_signed(tx, epoch)
        state = _state(tx)
    host.publish()
    return state


def _complete_if_signed(tx: Transaction, epoch: Epoch) -> None:
    signatures = tx.epoch_signatures(epoch.number)
    if any(name not in signatures for name in epoch.providers):
        return
    consents = tuple(
        Consent(provider=name, signature=signature, rotations=tx.rotations_to(name, key)) for name, (signature, key) in signatures.items()
    )
    tx.add_log_link(SignedEpoch(epoch=epoch, consents=consents))
    tx.complete_epoch(epoch.number)


def require_signed_epoch(tx: Transaction) -> None:
    """Raise Unavailable (code `epoch-unsigned`) while the newest epoch waits for a signature."""
    newest = tx.newest_epoch()
    if newest is not None and not newest[1]:
        waiting = ", ".join(_state(tx).waiting_for)
        raise Unavailable(f"the log begins anew, and its epoch waits for the signature of {waiting}", code="epoch-unsigned")
