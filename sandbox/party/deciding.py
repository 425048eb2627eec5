"""Deciding again at home: whoever is asked for keys, ciphertexts or an opening derives the grant from its own copy of the agreement."""

from __future__ import annotations

from typing import Any

from enclaves.kit.envelope import Signed, document_digest, verify_document
from policies.agreement import Agreement, Party
from policies.budgets import periods
from policies.codec import decode
from policies.conditions import shown_debug
from policies.decide import decide
from policies.errors import PolicyRefused, Tampered
from policies.grant import CurrentGrant, entail, former_grants, grant_digest, ledgers_charged
from policies.plan import plan_of
from policies.query import Plan
from policies.request import Facts, JobRequest, SpentFact
from sandbox.party.acts import approvals_of, scored_before, tightenings_known, uses_before
from sandbox.party.followed import Followed
from sandbox.party.home import Home

MAX_CLOCK_SKEW_S = 300
"""How far a decision may lie in this clock's future."""

MAX_FACT_AGE_S = 60
"""Most seconds between the time that a decision states and the time of its entries, as in a replay."""

MAX_WAIT_S = 24 * 3600
"""How long ago a decision may have been made: jobs wait for a worker. Whether it still holds is decided again, by this clock."""


def require_logged(grant: CurrentGrant, followed: Followed) -> None:
    """Raise Tampered unless the charge and this very grant stand in the log."""
    if grant.job not in followed.charges:
        raise Tampered("the log holds no charge for this job", code="not-charged")
    if followed.grants.get(grant.job, {}).get("grant") != grant_digest(grant):
        raise Tampered("the log holds another grant for this job", code="not-granted")


def require_decided(home: Home, job: dict[str, Any], grant: CurrentGrant, agreement: Agreement, followed: Followed, now: float) -> None:
    """Decide again: own agreement, own parse of the signed SQL, own totals and acts; the grant must be exactly what follows.

    Args:
        job: as the service states it. now: this participant's clock, seconds since 1970.

    Raises:
        PolicyRefused, Tampered, Malformed: what does not follow.
    """
    signed, stated = decode(Signed, job["signed"]), decode(Facts, job["facts"])
    consumer = agreement.party(signed.by)
    request = decode(JobRequest, verify_document(signed, "job-request", consumer.id, followed.request_key(grant.job, consumer)))
    plan = plan_of(request, agreement.by_dataset)
    for name in agreement.needed(plan.sources):
        followed.request_key(grant.job, agreement.party(name))
    if not -MAX_CLOCK_SKEW_S <= now - stated.now <= MAX_WAIT_S:
        raise PolicyRefused("the host decided at another time than now", code="clock")
    facts = _own_facts(home, grant, agreement, plan, stated, followed, consumer, now)
    decision = decide(request, agreement, plan, facts)
    if not decision.allowed:
        failed = next(finding for finding in decision.findings if not finding.allowed)
        raise PolicyRefused(f"own decision denies: {failed.rule}: {failed.message}", code="policy-refused")
    own = entail(grant.agreement, document_digest(signed), request, agreement, plan, facts, decision)
    if grant not in (own, *former_grants(own)):
        raise PolicyRefused("the grant is not the one that the agreement entails", code="grant-mismatch")
    _require_charged(grant, agreement, followed)
    require_timely_charge(grant, agreement, stated, followed)


def _own_facts(
    home: Home, grant: CurrentGrant, agreement: Agreement, plan: Plan, stated: Facts, followed: Followed, consumer: Party, now: float
) -> Facts:
    """What the followed log says of charges and versions, and this clock of the time; the host only states the enclave, and how far
    an exchange got: a replay holds that against the log.
    """
    ledgers, asker = ledgers_charged(agreement, plan), consumer.id
    versions = (followed.version_before(grant.job, dataset) for dataset in plan.sources)
    return Facts(
        now=int(now),
        enclave_kind=stated.enclave_kind,
        measurement=stated.measurement,
        isolation=stated.isolation,
        versions=tuple(version for version in versions if version is not None),
        spent=tuple(
            SpentFact(provider=provider, id_space=id_space, spent=followed.spent_before(grant.job, provider, id_space))
            for provider, id_space in ledgers
        ),
        consumer_spent=tuple(
            SpentFact(provider=provider, id_space=id_space, spent=followed.consumer_spent_before(grant.job, provider, id_space, asker))
            for provider, id_space in ledgers
        ),
        rotations=followed.rotations_before(grant.job, consumer),
        tightenings=tightenings_known(home, followed, grant.agreement, agreement),
        uses=uses_before(followed, grant.job, grant.agreement, agreement, plan, asker),
        enclave_jurisdiction=stated.enclave_jurisdiction,
        enclave_debug=shown_debug(stated.enclave_kind),
        approved_by=approvals_of(followed, grant.job, grant.agreement, agreement, grant.request),
        overdue=stated.overdue,
        recent=tuple(
            followed.recent_before(grant.job, provider, id_space, days, asker, int(now))
            for provider, id_space, days in periods(agreement, plan.sources)
        ),
        exchange=stated.exchange,
        scored=scored_before(followed, grant.job, grant.agreement, agreement, plan, asker, min(stated.now, int(now))),
    )


def require_timely_charge(grant: CurrentGrant, agreement: Agreement, stated: Facts, followed: Followed) -> None:
    """A charge that was entered under an earlier time than it was made at would be forgotten too early."""
    apart = abs(followed.times[grant.job] // 1000 - stated.now)
    if apart > MAX_FACT_AGE_S and periods(agreement, grant.plan.sources):
        raise Tampered(f"the charge is entered {apart} s apart from its decision, and a budget is renewed", code="charge-time")


def _require_charged(grant: CurrentGrant, agreement: Agreement, followed: Followed) -> None:
    charged = {(c["provider"], c["id_space"]): c for c in followed.charges[grant.job]["losses"]}
    if followed.charges[grant.job].get("consumer") != grant.recipient.id:
        raise Tampered("the log charges another consumer than the one who asks", code="charged-consumer")
    for ledger in ledgers_charged(agreement, grant.plan):
        found = charged.get(ledger)
        if found is None or found["amount"] < grant.loss.amount or found["delta0"] < grant.loss.delta0:
            raise Tampered("the logged charge is smaller than the grant", code="undercharged")
        if found["measure"] != grant.loss.measure:
            raise Tampered("the logged charge is in another measure than the grant", code="undercharged")
