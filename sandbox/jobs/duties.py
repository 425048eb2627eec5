"""Duties under agreements: payments that providers confirm, releases that are deleted in time and reported as deleted."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from enclaves.kit.envelope import Signed
from policies.acts import DutyDone, SignedDuty, deletion_days
from policies.agreement import Agreement
from policies.codec import decode
from policies.conditions import DAY_S
from policies.counts import Tally, rows_since
from policies.entries import parse_header
from policies.errors import Conflict, Forbidden, Malformed, NotFound
from policies.query import Plan
from policies.request import ScoredFact, UsesFact
from sandbox.exchange.records import Participant, StoredAgreement
from sandbox.exchange.rotation import require_in_force
from sandbox.exchange.signed import require_signed
from sandbox.host import Host
from sandbox.jobs.states import Job

if TYPE_CHECKING:
    from sandbox.store.database import Transaction


def report_duty(host: Host, caller: Participant, signed: Signed) -> SignedDuty:
    """Store and log that a duty was done; of a deletion, delete the host's copy, too. The same again is the same.

    Raises:
        Forbidden: a payment is confirmed by a party without terms that ask for one, or a deletion by another than the consumer.
        NotFound: no such agreement, consumer or release. Conflict: code `payment-number` if the payment is not the next one.
    """
    require_signed(signed, "duty-done", caller.id, caller.signing_key)
    done = decode(DutyDone, signed.body)
    own = SignedDuty(done=done, by=caller.id, signature=signed.signature)
    with host.store.transaction() as tx:
        tx.lock_agreement(done.agreement)
        tx.hold_log()
        stored = tx.agreement(done.agreement)
        if stored is None or not stored.agreement.has_party(caller.id):
            raise NotFound("there is no such agreement of yours")
        before = tx.duties_done(done.agreement)
        known = next((item for item in before if (item.done, item.by) == (done, caller.id)), None)
        if known is not None:
            return known
        require_in_force(tx, caller)
        if done.duty == "payment":
            _require_payment(stored, caller, done, before)
        else:
            _require_deletion(tx, caller, done)
            tx.delete_release(done.about)
        tx.add_duty(own)
        tx.append("duty_done", at=host.now(), ids=own.to_ids(), body={}, agreement=done.agreement)
    host.publish()
    return own


def _require_payment(stored: StoredAgreement, caller: Participant, done: DutyDone, before: tuple[SignedDuty, ...]) -> None:
    agreement = stored.agreement
    asking = [terms for terms in agreement.terms if terms.payment and agreement.by_dataset[terms.dataset].provider == caller.id]
    if not asking:
        raise Forbidden("your terms ask for no payment")
    if not agreement.has_party(done.about) or "consumer" not in agreement.party(done.about).roles:
        raise NotFound("there is no such consumer in this agreement")
    confirmed = payments(before)[caller.id, done.about]
    if done.number != confirmed + 1:
        raise Conflict(f"the next payment of `{done.about}` has number {confirmed + 1}", code="payment-number")


def _require_deletion(tx: Transaction, caller: Participant, done: DutyDone) -> None:
    job = tx.job(done.about)
    if job is None or job.request.consumer != caller.id or job.request.agreement != done.agreement or job.state != "released":
        raise NotFound("there is no such release of yours under this agreement")
    if job.grant is None:
        raise Malformed("the release belongs to the job that it repeats", where="about")


def payments(done: tuple[SignedDuty, ...]) -> Counter[tuple[str, str]]:
    """Return how many payments each provider has confirmed of each consumer."""
    return Counter((item.by, item.done.about) for item in done if item.done.duty == "payment")


def uses_facts(tx: Transaction, digest: str, agreement: Agreement, sources: tuple[str, ...], consumer: str) -> tuple[UsesFact, ...]:
    """Return the uses of those providers whose terms, or tightenings of them, count uses or ask for payment."""
    lowered = {s.tightening.dataset for s in tx.tightenings(digest) if s.tightening.uses is not None}
    counting = {
        agreement.by_dataset[terms.dataset].provider
        for terms in agreement.terms
        if terms.dataset in agreement.members(sources) and (terms.uses is not None or terms.payment is not None or terms.dataset in lowered)
    }
    if not counting:
        return ()
    made, paid = tx.uses(digest), payments(tx.duties_done(digest))
    before = [used for used in tx.opening_counts().uses if used.agreement == digest]
    return tuple(
        UsesFact(
            provider=provider,
            jobs=sum(provider in providers for _, providers in made) + sum(u.jobs for u in before if u.provider == provider),
            own=sum(provider in providers and who == consumer for who, providers in made)
            + sum(used.jobs for used in before if (used.provider, used.consumer) == (provider, consumer)),
            paid=paid[provider, consumer],
        )
        for provider in sorted(counting)
    )


def scored_facts(tx: Transaction, digest: str, agreement: Agreement, plan: Plan, consumer: str, now: int) -> tuple[ScoredFact, ...]:
    """Return how many rows count against the quota of the model that a plan asks, at `now` (seconds); nothing where none is agreed."""
    if plan.scoring is None or plan.scoring.model not in agreement.by_dataset:
        return ()
    quota = agreement.terms_of(plan.scoring.model).scored_rows
    if quota is None:
        return ()
    model, since = plan.scoring.model, quota.counts_from(now)
    rows = sum(rows for name, rows, at in tx.scored(digest, consumer) if name == model and at >= since)
    opening = Tally.of(tx.opening_counts()).scored[digest, model, consumer]
    return (ScoredFact(dataset=model, rows=rows + rows_since(opening, since)),)


def overdue(tx: Transaction, digest: str, agreement: Agreement, consumer: str, now_ms: int) -> tuple[str, ...]:
    """Return the consumer's jobs under an agreement whose release was to be deleted by now and was not reported as deleted."""
    if all(terms.delete_after is None for terms in agreement.terms):
        return ()
    deleted = {item.done.about for item in tx.duties_done(digest) if item.done.duty == "deletion"}
    late = [job for job in tx.released_to(digest, consumer) if job.id not in deleted and is_over(tx, job, agreement, now_ms)]
    return tuple(sorted(job.id for job in late))


def is_over(tx: Transaction, job: Job, agreement: Agreement, now_ms: int) -> bool:
    """Whether the time is over for which a job's release may be kept: so many days from the entry that records it.

    One that no entry of any log records can be shown to nobody, and need not be kept.
    """
    days = deletion_days(agreement, job.plan.sources)
    if days is None or job.positions.ended < 0:
        return False
    released_at = _released_at(tx, job)
    return released_at is None or released_at + days * DAY_S * 1000 <= now_ms


def _released_at(tx: Transaction, job: Job) -> int | None:
    """When a job ended, milliseconds since 1970, by its entry in this log or in one that ended."""
    former, place = tx.former_receipt(job.id), job.positions.ended
    if former is not None:
        return parse_header(str(former["entry"]).encode()).at
    for entry in (*tx.entries(place, place + 1), *tx.ended_entries_at(place)):
        header = parse_header(entry)
        if header.ids.get("job") == job.id:
            return header.at
    return None


def require_in_time(tx: Transaction, job: Job, now_ms: int) -> None:
    """Raise NotFound (code `deleted`) if a job's release was, or is to be, deleted."""
    agreement = tx.terms(job.request.agreement)
    if agreement is None:
        return
    deleted = any(item.done.duty == "deletion" and item.done.about == job.id for item in tx.duties_done(job.request.agreement))
    if deleted or is_over(tx, job, agreement, now_ms):
        raise NotFound("the release was to be deleted by now, and is", code="deleted")
