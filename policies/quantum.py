"""When the end of a run may be told: only at multiples of a fixed time after it began, so that how long it computed tells nothing."""

from __future__ import annotations

import math
from collections.abc import Iterable

from policies.agreement import Agreement


def longest_quantum(agreement: Agreement, datasets: Iterable[str]) -> int:
    """Return the strictest quantum that the terms of any of these datasets ask for, seconds; 0 if none does. Raises Malformed."""
    return max((agreement.terms_of(dataset).quantum or 0 for dataset in datasets), default=0)


def due_at(began: float, now: float, quantum: float) -> float:
    """Return when what is known `now` may be told: at the next multiple of `quantum` after `began`, seconds; at once if there is none."""
    return began + max(1, math.ceil((now - began) / quantum)) * quantum if quantum else now
