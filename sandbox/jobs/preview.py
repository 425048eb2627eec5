"""What a submission would bring, decided without charging or logging."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from policies.accuracy import DEFAULT_ROWS, Expected, expected, needed_loss
from policies.agreement import Agreement
from policies.budgets import budgets
from policies.canonical import digest as digest_of
from policies.codec import encode
from policies.decide import decide
from policies.errors import Malformed
from policies.finding import Decision
from policies.grant import CurrentGrant
from policies.privacy import Loss
from policies.query import Plan
from policies.request import Facts, JobRequest
from policies.schedule import schedule
from policies.tightening import tightened
from sandbox.exchange.records import Participant
from sandbox.exchange.rotation import require_carried
from sandbox.host import Host
from sandbox.jobs.facts import facts_of
from sandbox.jobs.submit import grant_of, needed_parties, prepare


@dataclass(frozen=True, kw_only=True, slots=True)
class Preview:
    """What `check` answers: the plan, the decision and, if allowed and not a repetition, the grant that a submission would get now."""

    agreement: Agreement
    plan: Plan
    facts: Facts
    decision: Decision
    grant: CurrentGrant | None


def check(host: Host, caller: Participant, request: JobRequest) -> Preview:
    """Decide without charging or logging. Raises Malformed, NotFound, Conflict like `submit`."""
    stored, plan = prepare(host, caller, request)
    with host.store.reading() as tx:
        require_carried(tx, stored, needed_parties(stored.agreement, plan, request))
        facts = facts_of(host, tx, stored.agreement, request, plan, tx.spent(), host.now())
    decision = decide(request, stored.agreement, plan, facts)
    grant = grant_of(stored, digest_of(encode(request)), request, plan, facts, decision)
    return Preview(agreement=stored.agreement, plan=plan, facts=facts, decision=decision, grant=grant)


@dataclass(frozen=True, kw_only=True, slots=True)
class Remaining:
    """What a ledger could still pay under the strictest bound that applies to the consumer."""

    provider: str
    id_space: str
    loss: Loss


@dataclass(frozen=True, kw_only=True, slots=True)
class Foreseen:
    """What a job would bring and what is left, as `sandbox.web.views.Checked` says."""

    outputs: tuple[Expected, ...]
    remaining: tuple[Remaining, ...]
    needed: Loss | None


def foresee(preview: Preview, request: JobRequest, *, rows: int | None, half_widths: Mapping[str, str]) -> Foreseen:
    """Return the expected accuracy of a checked request, from documents alone. Raises Malformed for half-widths that fit no output.

    Args:
        rows: that a cell is assumed to have, for outputs that are ratios; None for the larger of `DEFAULT_ROWS` and the minimum group.
    """
    declarations, smallest = preview.agreement.by_dataset, preview.decision.minimum_group
    assumed = rows if rows is not None else max(DEFAULT_ROWS, smallest)
    try:
        statistics = schedule(preview.plan, declarations, request.loss, smallest)
        outputs = expected(preview.plan, declarations, statistics, assumed)
    except Malformed:  # the decision's own finding says what cannot be scheduled
        return Foreseen(outputs=(), remaining=_remaining(preview), needed=None)
    needed = needed_loss(preview.plan, declarations, request.loss, smallest, assumed, half_widths) if half_widths else None
    return Foreseen(outputs=outputs, remaining=_remaining(preview), needed=needed)


def _remaining(preview: Preview) -> tuple[Remaining, ...]:
    agreement, facts = preview.agreement, preview.facts
    left: dict[tuple[str, str], Loss] = {}
    for budget in budgets(tightened(agreement, facts.tightenings), preview.plan.sources):
        ledger, loss = (budget.provider, budget.id_space), budget.left(facts)
        known = left.get(ledger, loss)
        left[ledger] = replace(loss, amount=min(loss.amount, known.amount), delta0=min(loss.delta0, known.delta0))
    return tuple(Remaining(provider=provider, id_space=id_space, loss=loss) for (provider, id_space), loss in sorted(left.items()))
