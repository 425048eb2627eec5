"""The test on which a model is accepted: a metric on held-out persons and the least that it must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policies.errors import Malformed
from policies.privacy import decimal_to_units

Tested = Literal["auc", "accuracy", "r2"]
"""Metrics on which a model may be accepted: the larger the better."""

Verdict = Literal["yes", "no"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Acceptance:
    """When a model is accepted: the noised metric on held-out persons, which is paid for, is at least so much.

    Attributes:
        least: decimal string with up to 4 decimals, between -1 and 1.
    """

    metric: Tested
    least: str

    def __post_init__(self) -> None:
        if abs(decimal_to_units(self.least, 4, "least")) > 10**4:
            raise Malformed("must lie between -1 and 1", where="least")
