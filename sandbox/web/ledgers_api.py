"""What ledgers have paid, as it is answered."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import Response

from policies.agreement import Agreement
from policies.budgets import budgets, period_begins
from policies.conversion import DISPLAY_DELTA, epsilon_at
from policies.errors import Malformed
from policies.odrl import agreement_digest
from policies.privacy import Loss, units_to_decimal
from policies.tightening import tightened
from sandbox.web.answers import reply
from sandbox.web.auth import host
from sandbox.web.models import Query
from sandbox.web.operation import Call

if TYPE_CHECKING:
    from sandbox.store.database import Transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class RenewedView:
    """A bound of an agreement that is renewed.

    Attributes:
        own: whether it bounds what is charged for the caller alone.
        days: after which a charge counts no more. spent: what counts now.
    """

    agreement: str
    own: bool
    days: int
    most: Loss
    spent: Loss


@dataclass(frozen=True, kw_only=True, slots=True)
class LedgerView:
    """What one ledger has paid.

    Attributes:
        epsilon: for which what is spent is (epsilon, delta)-differentially private, as a decimal string; empty where delta0 has used up
            delta. For people; bounds are in the ledger's own measure.
        delta: a decimal string; 0 in a `pure` ledger without delta0.
        renewed: bounds of the caller's agreements that count recent charges only.
    """

    provider: str
    id_space: str
    spent: Loss
    epsilon: str
    delta: str
    renewed: tuple[RenewedView, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ledgers:
    """The ledgers of the caller's agreements."""

    ledgers: tuple[LedgerView, ...]


def ledgers(call: Call[Query, None]) -> Response:
    """What the ledgers of the caller's agreements have paid, and what of it counts where bounds are renewed."""
    now = host().now() // 1000
    with host().store.reading() as tx:
        found, spent = tx.terms_of(call.who.id), tx.spent()
        renewed = [row for agreement in found for row in renewed_bounds(tx, agreement, call.who.id, now)]
    names = {(declared.provider, declared.id_space) for agreement in found for declared in agreement.declarations}
    rows = [
        _ledger_view(*name, spent[name], tuple(view for ledger, view in renewed if ledger == name))
        for name in sorted(names)
        if name in spent
    ]
    return reply(Ledgers(ledgers=tuple(rows)))


def _ledger_view(provider: str, id_space: str, spent: Loss, renewed: tuple[RenewedView, ...]) -> LedgerView:
    """A ledger as it is answered."""
    delta = DISPLAY_DELTA if spent.measure == "zcdp" or spent.delta0 else 0
    try:
        epsilon = epsilon_at(spent, delta)
    except Malformed:
        epsilon = ""
    return LedgerView(
        provider=provider, id_space=id_space, spent=spent, epsilon=epsilon, delta=units_to_decimal(delta, 12), renewed=renewed
    )


def renewed_bounds(tx: Transaction, agreement: Agreement, who: str, now: int) -> Iterator[tuple[tuple[str, str], RenewedView]]:
    """Yield the bounds of an agreement that are renewed, by ledger, with what counts at `now`, seconds since 1970, in all or for `who`."""
    name = agreement_digest(agreement)
    for budget in budgets(tightened(agreement, tx.tightenings(name)), agreement.by_dataset):
        if budget.days is not None:
            ledger = (budget.provider, budget.id_space)
            everything, own = tx.charged_since(*ledger, period_begins(now, budget.days), who)
            spent = own if budget.own else everything
            yield ledger, RenewedView(agreement=name, own=budget.own, days=budget.days, most=budget.most, spent=spent)
