"""The report on who contributed what to a trained model. Shapes only; `policies.division` derives it."""

from __future__ import annotations

from dataclasses import dataclass

from policies.conditions import Division

WORTH = 10**6
"""A worth of 1: all of the variation is explained, every pair of persons is ranked right."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Worth:
    """What a model on the columns of `organisations` is worth, in 10^-6."""

    organisations: tuple[str, ...]
    value: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """One firm's contribution, in 10^-6 rounded to the nearest, and its part of the amount."""

    organisation: str
    value: int
    amount: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Contribution:
    """The report: worths of coalitions, none first and all last, and what follows from them."""

    division: Division
    worths: tuple[Worth, ...]
    shares: tuple[Share, ...]
