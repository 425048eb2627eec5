"""When a ledger was charged: what a replay keeps of charges for bounds that are renewed, in 28 bytes each."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from dataclasses import dataclass, field


@dataclass(kw_only=True, slots=True)
class ChargeTimes:
    """Charges of one ledger in the order of their times, milliseconds since 1970, whatever order they were entered in.

    Attributes:
        names: of consumers; `whom` holds their places in it.
    """

    at: array[int] = field(default_factory=lambda: array("q"))
    amount: array[int] = field(default_factory=lambda: array("q"))
    delta0: array[int] = field(default_factory=lambda: array("q"))
    whom: array[int] = field(default_factory=lambda: array("i"))
    names: dict[str, int] = field(default_factory=dict)

    def add(self, at: int, amount: int, delta0: int, consumer: str) -> None:
        """Note a charge; `consumer` is empty where it counts to everybody."""
        place = bisect_right(self.at, at)
        who = self.names.setdefault(consumer, len(self.names))
        for column, value in ((self.at, at), (self.amount, amount), (self.delta0, delta0), (self.whom, who)):
            column.insert(place, value)

    def after(self, at: int, consumer: str | None = None) -> tuple[int, int]:
        """Sums of amount and delta0 after a time: of all charges, or of those that count to a consumer."""
        first = bisect_right(self.at, at)
        if consumer is None:
            return sum(self.amount[first:]), sum(self.delta0[first:])
        counted = {self.names.get(name, -1) for name in ("", consumer)}
        places = [place for place in range(first, len(self.at)) if self.whom[place] in counted]
        return sum(self.amount[place] for place in places), sum(self.delta0[place] for place in places)
