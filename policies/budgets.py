"""The bounds that terms set on ledgers, and what is left under each.

A bound without a period counts all that its ledger ever paid. One that is renewed counts what was charged in the last so many days before a
decision: every such span of time, whenever it begins, stays within the bound. So n consecutive periods cost at most n times the bound, and
a unit's loss over the years has no other end than `Loss` has: a ledger closes when it has paid 100 of its measure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from policies.agreement import Agreement, Terms
from policies.conditions import DAY_S
from policies.privacy import Loss
from policies.request import Facts


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """The strictest bound of one kind on one ledger.

    Attributes:
        own: whether only what counts to the asking consumer is bounded.
        days: the period after which it is renewed; None for a bound on all that was ever charged.
    """

    provider: str
    id_space: str
    own: bool
    days: int | None
    most: Loss

    def spent(self, facts: Facts) -> Loss:
        """What counts against it. Raises Malformed where the facts do not state it."""
        if self.days is None:
            return (facts.consumer_spent_on if self.own else facts.spent_on)(self.provider, self.id_space)
        recent = facts.recent_on(self.provider, self.id_space, self.days)
        return recent.own if self.own else recent.spent

    def left(self, facts: Facts) -> Loss:
        """What it still allows; nothing where the ledger pays in another measure. Raises Malformed as `spent`."""
        return without(self.most, self.spent(facts))


def without(most: Loss, spent: Loss) -> Loss:
    """Return what is left of a bound after a loss; nothing where they are in different measures."""
    payable = spent.measure == most.measure or not spent.amount
    amount = max(0, most.amount - spent.amount) if payable else 0
    return replace(most, amount=amount, delta0=max(0, most.delta0 - spent.delta0) if payable else 0)


def budgets(agreement: Agreement, sources: Iterable[str]) -> tuple[Budget, ...]:
    """Return the bounds that a plan on `sources` has to keep to, over the protected datasets that it reads, in the order of the ledgers."""
    found: dict[tuple[str, str, bool, int], Budget] = {}
    for dataset in agreement.members(tuple(sources)):
        declaration = agreement.by_dataset[dataset]
        if declaration.public:
            continue
        for own, days, most in _bounds(agreement.terms_of(dataset)):
            key = (declaration.provider, declaration.id_space, own, days or 0)
            known = found[key].most if key in found else most
            least = replace(most, amount=min(most.amount, known.amount), delta0=min(most.delta0, known.delta0))
            found[key] = Budget(provider=key[0], id_space=key[1], own=own, days=days, most=least)
    return tuple(found[key] for key in sorted(found))


def periods(agreement: Agreement, sources: Iterable[str]) -> tuple[tuple[str, str, int], ...]:
    """Return (provider, id space, days) of every sum over recent charges that a decision on `sources` reads, each once, sorted."""
    return tuple(sorted({(b.provider, b.id_space, b.days) for b in budgets(agreement, sources) if b.days is not None}))


def period_begins(now: int, days: int) -> int:
    """Return after which time, in milliseconds since 1970, charges count to the last `days` days before `now` (seconds since 1970)."""
    return (now - days * DAY_S) * 1000


def _bounds(terms: Terms) -> Iterator[tuple[bool, int | None, Loss]]:
    yield False, terms.total_refresh, terms.total_loss
    if terms.consumer_loss is not None:
        yield True, terms.consumer_refresh, terms.consumer_loss
