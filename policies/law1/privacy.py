"""Statistics and the split of a loss under law/1: the discrete Laplace mechanism with scale = sensitivity / epsilon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policies.errors import Malformed
from policies.privacy import NANO, SCALE_UNIT, Loss

SUM_SHARES = 2
"""Shares of a sum where a count has one: relative to its size a sum of bounded values is noisier than a count."""

UNITS_SHARE = 10
"""The minimum-group test takes one part in ten of a job's loss: it only needs to tell large groups from small ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Statistic:
    """One noised vector with a cell per group.

    Attributes:
        quantity: `units` (distinct privacy units), `rows` (rows), `present` (rows where `column` is not null), `sum` (of `column`, in
            its fixed-point units).
        column: `dataset.column` for `present` and `sum`, else None.
        sensitivity: most by which one privacy unit moves the vector in L1.
        amount: nano-epsilon spent on it.
        scale: of the discrete Laplace noise, in units of 2^-20.
    """

    quantity: Literal["units", "rows", "present", "sum"]
    column: str | None = None
    sensitivity: int
    amount: int
    scale: int

    @property
    def name(self) -> str:
        """Stable name inside one schedule, for example ``sum:clinic.care.visits``."""
        return self.quantity if self.column is None else f"{self.quantity}:{self.column}"


def scale_for(sensitivity: int, amount: int) -> int:
    """Return the smallest scale (2^-20 units) whose loss sensitivity/scale, one part in 2^50 larger, is still below `amount` nano-epsilon.

    The room is for a mechanism that rounds its own loss up in floating point, by at most one part in 2^52.
    """
    if sensitivity <= 0 or amount <= 0:
        raise Malformed("the loss is too small to be split over this many statistics", code="loss-too-small")
    return sensitivity * NANO * SCALE_UNIT * (2**50 + 1) // (amount * 2**50) + 1


def split_loss(loss: Loss, wanted: list[tuple[str, str | None, int]], *, with_units: int | None) -> tuple[Statistic, ...]:
    """Split a loss over statistics.

    Args:
        loss: the whole loss of the job.
        wanted: (quantity, column, L1 sensitivity) for every statistic that the outputs need.
        with_units: L1 sensitivity of the distinct-unit count for the minimum-group test, or None when no test is needed.

    Returns:
        the schedule; its amounts add up to at most `loss.amount`.

    Raises:
        Malformed: code `loss-too-small` if a share would be zero.
    """
    rest = loss.amount
    schedule: list[Statistic] = []
    if with_units is not None:
        share = loss.amount // UNITS_SHARE
        rest -= share
        schedule.append(_statistic("units", None, with_units, share))
    shares = [SUM_SHARES if quantity == "sum" else 1 for quantity, _, _ in wanted]
    for (quantity, column, sensitivity), part in zip(wanted, shares, strict=True):
        schedule.append(_statistic(quantity, column, sensitivity, rest * part // sum(shares)))
    return tuple(schedule)


def _statistic(quantity: str, column: str | None, sensitivity: int, amount: int) -> Statistic:
    return Statistic(
        quantity=quantity,  # type: ignore[arg-type]
        column=column,
        sensitivity=sensitivity,
        amount=amount,
        scale=scale_for(sensitivity, amount),
    )
