"""Audit scopes as response JSON."""

from __future__ import annotations

from dataclasses import dataclass

from policies.audit_scope import SignedAuditScope
from sandbox.exchange.scopes import DecidedOpening


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditScopes:
    """Scopes under one agreement, in the order of the log. Of one owner and one auditor the newest counts."""

    scopes: tuple[SignedAuditScope, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class OpeningDecisions:
    """What scopes say about openings, by index. An entry that is not named is under an agreement that no scope of the caller's is about."""

    decisions: tuple[DecidedOpening, ...]
