"""The test on which a model is accepted: a metric on held-out persons and the least that it must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policies.codec import omitted
from policies.errors import Malformed
from policies.privacy import decimal_to_units

Tested = Literal["auc", "accuracy", "r2"]
"""Metrics on which a model may be accepted: the larger the better."""

MAX_TEST_SQL = 20_000
"""Longest query of rows of one's own, characters."""

Verdict = Literal["yes", "no"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Acceptance:
    """When a model is accepted: the noised metric on held-out persons, which is paid for, is at least so much.

    Attributes:
        least: decimal string with up to 4 decimals, between -1 and 1.
        sql: a query of rows of tables that take no part in the training and belong to who asks, with the columns of the training query.
            Their persons take the place of those who would be held out.
    """

    metric: Tested
    least: str
    sql: str | None = omitted(None)

    def __post_init__(self) -> None:
        if abs(decimal_to_units(self.least, 4, "least")) > 10**4:
            raise Malformed("must lie between -1 and 1", where="least")
        if self.sql is not None and not 1 <= len(self.sql) <= MAX_TEST_SQL:
            raise Malformed(f"must have 1 to {MAX_TEST_SQL} characters", where="sql", code="sql")
