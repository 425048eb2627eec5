"""Acts under agreements as a party's own copy of the log tells them, each verified with the keys in force at its place; and making them."""

from __future__ import annotations

from typing import Any

from enclaves.kit.acts import sign_duty, sign_tightening, verify_approval, verify_duty, verify_tightening
from policies.acts import DutyDone, SignedApproval, SignedDuty
from policies.agreement import Agreement
from policies.codec import decode, encode
from policies.errors import SandboxError, Tampered
from policies.query import Plan
from policies.request import ScoredFact, UsesFact
from policies.tightening import SignedTightening, Tightening
from sandbox.party.followed import Followed
from sandbox.party.home import Home


def logged_tightenings(followed: Followed, name: str, agreement: Agreement) -> tuple[SignedTightening, ...]:
    """Return the tightenings of an agreement in the log so far. Raises Tampered if one is not signed by its provider."""
    found = []
    for row in _rows(followed, name, "tightened"):
        signed = SignedTightening.from_ids(row["ids"])
        verify_tightening(signed, _key(followed, agreement, signed.tightening.provider, row["index"]))
        found.append(signed)
    return tuple(found)


def tightenings_known(home: Home, followed: Followed, name: str, agreement: Agreement) -> tuple[SignedTightening, ...]:
    """As `logged_tightenings`, with those that this home made itself, whether or not the log has them yet."""
    logged = logged_tightenings(followed, name, agreement)
    kept = (decode(SignedTightening, item) for item in home.read_or(_file(name), []))
    return (*logged, *(own for own in kept if own not in logged))


def next_tightening(home: Home, followed: Followed, name: str, agreement: Agreement, dataset: str, **change: Any) -> SignedTightening:
    """Return the next tightening of a dataset, signed and kept at home: from now on the own broker obeys it.

    Raises:
        Malformed: it tightens nothing.
    """
    known = tightenings_known(home, followed, name, agreement)
    last = max((item.tightening.sequence for item in known if item.tightening.dataset == dataset), default=0)
    signed = sign_tightening(Tightening(agreement=name, dataset=dataset, sequence=last + 1, **change), home.signing)
    home.write(_file(name), [*home.read_or(_file(name), []), encode(signed)])
    return signed


def approvals_of(followed: Followed, job: str, name: str, agreement: Agreement, request: str) -> tuple[str, ...]:
    """Return who approved a request, sorted, by the log so far. An approval that does not verify is none."""
    found = set()
    for row in _rows(followed, name, "approved"):
        try:
            signed = SignedApproval.from_ids(row["ids"])
            if (signed.approval.job, signed.approval.request) == (job, request):
                verify_approval(signed, _key(followed, agreement, signed.by, row["index"]))
                found.add(signed.by)
        except SandboxError:
            continue
    return tuple(sorted(found))


def uses_before(followed: Followed, job: str, name: str, agreement: Agreement, plan: Plan, consumer: str) -> tuple[UsesFact, ...]:
    """Return how often the keys of each provider of a plan were granted under an agreement before `job`, and what was paid."""
    end = followed.charges[job]["index"] if job in followed.charges else followed.frontier.size
    used = followed.tally_before(end, name).uses
    paid = [signed for row in _rows(followed, name, "duty_done") if (signed := _payment(followed, agreement, row)) is not None]
    found = []
    for provider in sorted({agreement.by_dataset[dataset].provider for dataset in agreement.members(plan.sources)}):
        found.append(
            UsesFact(
                provider=provider,
                jobs=sum(jobs for (under, of, _), jobs in used.items() if (under, of) == (name, provider)),
                own=used[name, provider, consumer],
                paid=len({item.done.number for item in paid if (item.by, item.done.about) == (provider, consumer)}),
            )
        )
    return tuple(found)


def scored_before(
    followed: Followed, job: str, name: str, agreement: Agreement, plan: Plan, consumer: str, now: int
) -> tuple[ScoredFact, ...]:
    """Return the rows that count at `now` against the quota of the model that a plan asks; nothing where none is agreed."""
    if plan.scoring is None or plan.scoring.model not in agreement.by_dataset:
        return ()
    model = plan.scoring.model
    quota = agreement.terms_of(model).scored_rows
    if quota is None:
        return ()
    return (ScoredFact(dataset=model, rows=followed.scored_before(job, name, model, consumer, quota.counts_from(now))),)


def payment_received(home: Home, followed: Followed, name: str, consumer: str) -> SignedDuty:
    """Return the confirmation of a consumer's next payment to this participant."""
    rows = (SignedDuty.from_ids(row["ids"]) for row in _rows(followed, name, "duty_done"))
    count = sum((row.by, row.done.duty, row.done.about) == (home.participant, "payment", consumer) for row in rows)
    done = DutyDone(agreement=name, duty="payment", about=consumer, number=count + 1)
    return sign_duty(done, home.participant, home.signing)


def _payment(followed: Followed, agreement: Agreement, row: dict[str, Any]) -> SignedDuty | None:
    try:
        signed = SignedDuty.from_ids(row["ids"])
        verify_duty(signed, _key(followed, agreement, signed.by, row["index"]))
    except SandboxError:
        return None  # a payment that nobody confirmed is none
    return signed if signed.done.duty == "payment" else None


def _rows(followed: Followed, name: str, kind: str) -> list[dict[str, Any]]:
    return [row for row in followed.acts.get(name, ()) if row["kind"] == kind]


def _key(followed: Followed, agreement: Agreement, who: str, index: int) -> str:
    key = followed.keyring.signing_key(agreement.party(who).signing_key, index)
    if key is None:
        raise Tampered(f"`{who}` signed with keys that were revoked", code="bad-signature")
    return key


def _file(name: str) -> str:
    return f"tightenings/{name.removeprefix('sha256:')}.json"
