"""Sums of charges as the log has them, over whatever it says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from policies.entries import LedgerCharge
from policies.privacy import PARAMETERS, Loss, Measure, units_to_decimal


@dataclass(frozen=True, kw_only=True, slots=True)
class Total:
    """A sum of charges, whatever they are: unlike a `Loss`, without an upper bound. The first charge fixes the measure."""

    measure: Measure = "pure"
    amount: int = 0
    delta0: int = 0

    def plus(self, charge: LedgerCharge | Total) -> Total:
        """This total and one charge, or another total, more."""
        measure = self.measure if self.amount or self.delta0 else charge.measure
        return Total(measure=measure, amount=self.amount + charge.amount, delta0=self.delta0 + charge.delta0)

    def minus(self, charge: LedgerCharge) -> Total:
        """This total without one of its charges."""
        return Total(measure=self.measure, amount=self.amount - charge.amount, delta0=self.delta0 - charge.delta0)

    def is_stated_by(self, spent: Loss) -> bool:
        """Whether `spent` says the same. Of nothing, the measure does not count."""
        same = (self.amount, self.delta0) == (spent.amount, spent.delta0)
        return same and (self.measure == spent.measure or not (self.amount or self.delta0))

    @property
    def text(self) -> str:
        """The total in words, for example ``epsilon 0.5``."""
        tail = f", delta0 {units_to_decimal(self.delta0, 12)}" if self.delta0 else ""
        return f"{PARAMETERS[self.measure]} {units_to_decimal(self.amount, 9)}{tail}"


def shown(charges: Iterable[LedgerCharge]) -> str:
    """Charges in words."""
    return ", ".join(f"{Total().plus(c).text} on {c.provider}/{c.id_space}" for c in charges) or "nothing"
