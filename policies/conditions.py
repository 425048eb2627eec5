"""Values of the terms that an agreement may add: time windows, approvals, payment, onward use. Shapes and what makes them well formed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from policies.codec import omitted
from policies.errors import Malformed
from policies.names import require_name, require_slug
from policies.privacy import decimal_to_units

OutputKind = Literal["number", "table", "discovered", "model", "scores"]
"""What a release is: one row, rows with keys that are public beforehand, rows with keys that were found in the data, a trained model, or a
model's scores of the asker's own rows."""

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]

DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
MINUTES_PER_DAY = 1440
DAY_S = 86_400
MAX_USES = 10**9
MAX_DELETE_DAYS = 36_500
MAX_REFRESH_DAYS = 3650
MAX_QUOTA_DAYS = 3_660
MAX_AMOUNT = 10**15
MAX_EVIDENCE_AGE_S = 86_400
MAX_QUANTUM_S = 86_400
SMALLEST_OUTPUT = 4096
"""Least bound on the bytes of a sealed release that terms may state. `policies.sizes.sealed_bytes` says what the smallest needs."""

_COUNTRY = re.compile(r"[A-Z]{2}\Z")
_CURRENCY = re.compile(r"[A-Z]{3}\Z")
_CLOCK = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])\Z")


def require_country(text: str, where: str) -> str:
    """Return `text` if it has the form of an ISO 3166-1 alpha-2 code. Raises Malformed."""
    if not _COUNTRY.match(text):
        raise Malformed("must be an ISO 3166-1 alpha-2 code like DE", where=where)
    return text


def shown_debug(kind: str) -> bool | None:
    """Return what evidence of a kind shows of debugging: that it is off, as appraisal refuses all other; None for `simulated`."""
    return None if kind == "simulated" else False


def require_distinct(items: Iterable[object], where: str) -> None:
    """Raise Malformed unless no item stands twice."""
    listed = list(items)
    if len(set(listed)) != len(listed):
        raise Malformed("lists something twice", where=where)


@lru_cache(maxsize=4096)
def clock_minutes(text: str, where: str) -> int:
    """Return minutes since midnight of `HH:MM`, up to 24:00. Raises Malformed."""
    match = _CLOCK.match(text)
    minutes = int(match.group(1)) * 60 + int(match.group(2)) if match else MINUTES_PER_DAY + 1
    if minutes > MINUTES_PER_DAY:
        raise Malformed("must be a UTC time of day like 08:30, at most 24:00", where=where)
    return minutes


@dataclass(frozen=True, kw_only=True, slots=True)
class Window:
    """Days of the week and the UTC times of day between which requests are decided: `begins` <= time < `ends`, at most 24:00."""

    days: tuple[Day, ...]
    begins: str
    ends: str

    def __post_init__(self) -> None:
        if not self.days or list(self.days) != sorted(set(self.days), key=DAYS.index):
            raise Malformed("must list distinct days from mon to sun", where="days")
        if clock_minutes(self.begins, "begins") >= clock_minutes(self.ends, "ends"):
            raise Malformed("a window begins before it ends", where="ends")

    @property
    def text(self) -> str:
        """The window for people."""
        return f"{','.join(self.days)} {self.begins}-{self.ends} UTC"

    def holds(self, now: int) -> bool:
        """Whether `now`, seconds since 1970, lies inside."""
        day, second = divmod(now, DAY_S)
        begins, ends = clock_minutes(self.begins, "begins") * 60, clock_minutes(self.ends, "ends") * 60
        return DAYS[(day + 3) % 7] in self.days and begins <= second < ends  # 1970-01-01 was a Thursday

    def next_start(self, now: int) -> int:
        """The first time at or after `now` that lies inside, seconds since 1970."""
        if self.holds(now):
            return now
        midnight = now - now % DAY_S
        begins = (midnight + step * DAY_S + clock_minutes(self.begins, "begins") * 60 for step in range(8))
        return next(start for start in begins if start >= now and self.holds(start))


@dataclass(frozen=True, kw_only=True, slots=True)
class Approvals:
    """How many of which parties must approve a job before it is decided. Whoever asked is never the only one who approves."""

    need: int
    of: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in self.of:
            require_name(name, "of")
        require_distinct(self.of, "of")
        if not 1 <= self.need <= len(self.of):
            raise Malformed("needs at least one and at most all of the approvers", where="need")

    def missing(self, given: Iterable[str], author: str) -> int:
        """How many more approvals it takes; at least one where only the author has approved."""
        counted = set(given) & set(self.of)
        alone = bool(counted) and counted == {author}
        return max(self.need - len(counted), 1 if alone else 0)


@dataclass(frozen=True, kw_only=True, slots=True)
class Payment:
    """What the provider must have confirmed as paid before use: once under the agreement, or once for each job."""

    amount: str
    currency: str
    per: Literal["agreement", "job"]

    def __post_init__(self) -> None:
        if decimal_to_units(self.amount, 4, "amount") <= 0:
            raise Malformed("must be above 0", where="amount")
        if not _CURRENCY.match(self.currency):
            raise Malformed("must be an ISO 4217 code like CNY", where="currency")

    @property
    def text(self) -> str:
        """The price for people."""
        return f"{self.amount} {self.currency} per {self.per}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Onward:
    """To whom, and for which purposes, the recipient of a release may pass it on."""

    recipients: tuple[str, ...]
    purposes: tuple[str, ...]

    def __post_init__(self) -> None:
        for name in self.recipients:
            require_name(name, "recipients")
        for purpose in self.purposes:
            require_slug(purpose, "purposes")
        require_distinct(self.recipients, "recipients")
        require_distinct(self.purposes, "purposes")


@dataclass(frozen=True, kw_only=True, slots=True)
class RowQuota:
    """Most rows that one consumer may have scored: in any `days` times 24 hours, or in all where no days are given."""

    rows: int
    days: int | None = omitted(None)

    def __post_init__(self) -> None:
        if not 0 <= self.rows <= MAX_USES:
            raise Malformed(f"must lie between 0 and {MAX_USES}", where="rows")
        if self.days is not None and not 1 <= self.days <= MAX_QUOTA_DAYS:
            raise Malformed(f"must lie between 1 and {MAX_QUOTA_DAYS}", where="days")

    @property
    def text(self) -> str:
        """The quota for people."""
        return f"{self.rows} rows" + ("" if self.days is None else f" in {self.days} days")

    def counts_from(self, now: int) -> int:
        """The first second, since 1970, whose rows count at `now`."""
        return 0 if self.days is None else now - self.days * DAY_S + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Division:
    """How what a model is worth is divided among the firms whose columns it learned from.

    Attributes:
        method: `shapley` over all coalitions, or `leave-one-out`.
        amount: that is divided: points, or money in its smallest unit.
    """

    method: Literal["shapley", "leave-one-out"]
    amount: int

    def __post_init__(self) -> None:
        if not 0 <= self.amount <= MAX_AMOUNT:
            raise Malformed(f"must lie between 0 and {MAX_AMOUNT}", where="amount")

    @property
    def text(self) -> str:
        """The division for people."""
        return f"{self.amount} by {self.method}"
