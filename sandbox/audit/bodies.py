"""Bodies that more than one reader of a log decodes."""

from __future__ import annotations

from dataclasses import dataclass

from enclaves.kit.envelope import Signed
from policies.finding import Decision
from policies.grant import AnyPlan
from policies.request import Facts


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedBody:
    """The body of an entry that records one signed document."""

    signed: Signed


@dataclass(frozen=True, kw_only=True, slots=True)
class DecidedBody:
    """The body of `decided`: all inputs of the decision and the decision."""

    signed: Signed
    plan: AnyPlan
    facts: Facts
    decision: Decision
    law: str
    parser: str
