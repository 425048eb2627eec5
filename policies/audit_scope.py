"""Audit scopes: which openings of a provider's entries the credential of an auditor opens, as that provider has signed it.

A scope is one provider's word on its own entries under one agreement. An opening is given only if every owner of its entry gives it, so
a provider that widens its scope opens nothing of the others', and one that narrows it closes at once what it owns. Like tightenings,
scopes are public: the header of the log entry holds all of one and its signature, so that a replay can say what was open to whom.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from policies.agreement import MAX_TIME, Agreement
from policies.canonical import canonical, parse_json
from policies.codec import decode, encode
from policies.errors import Malformed
from policies.names import require_digest, require_name

MAX_SCOPES = 1000
"""Most scopes that are signed under one agreement, replaced ones included."""

Openable = Literal[
    "proposed", "signed", "agreed", "decided", "charged", "granted", "running", "attested", "key_released", "key_refused", "released",
    "withheld", "failed", "repeated", "tightened", "awaiting", "approved", "cancelled", "expired", "duty_done",
    "joint_keyed", "joint_contributed", "joint_dropped", "joint_summed", "joint_released", "joint_withheld", "renounced", "voided",
    "score_decided", "score_answered", "score_refused", "score_returned",
]  # fmt: skip
"""Kinds of entries whose openings a scope can give. All others are for all participants, or for the parties of an exchange alone."""

OPENABLE: tuple[Openable, ...] = get_args(Openable)

OWN_WORD: Mapping[str, str] = {
    "key_released": "provider",
    "key_refused": "provider",
    "renounced": "provider",
    "joint_contributed": "participant",
}
"""Kinds that hold what one provider alone has signed, and the field of the header that names it: the opening is that provider's."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AuditScope:
    """What a provider signs about one auditor. The newest counts, and replaces those before it.

    Attributes:
        owner: the provider; `auditor`: whose credential opens.
        sequence: 1 for the first of this owner for this auditor under this agreement, then one more each time.
        openings: kinds of entries; none opens nothing.
        not_before, not_after: when the credential opens them, seconds since 1970, half open.
    """

    kind: Literal["audit-scope/1"] = "audit-scope/1"
    agreement: str
    owner: str
    auditor: str
    sequence: int
    openings: tuple[Openable, ...]
    not_before: int
    not_after: int

    def __post_init__(self) -> None:
        require_digest(self.agreement, "agreement")
        require_name(self.owner, "owner")
        require_name(self.auditor, "auditor")
        if self.owner == self.auditor:
            raise Malformed("nobody is its own auditor", where="auditor")
        if not 1 <= self.sequence <= MAX_SCOPES:
            raise Malformed(f"must lie between 1 and {MAX_SCOPES}", where="sequence")
        if len(set(self.openings)) != len(self.openings):
            raise Malformed("names a kind twice", where="openings")
        if not 0 <= self.not_before < self.not_after <= MAX_TIME:
            raise Malformed("the window must begin before it ends", where="not_after")


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedAuditScope:
    """A scope with its owner's signature (128 hex digits)."""

    scope: AuditScope
    signature: str

    def to_ids(self) -> dict[str, str]:
        """The header of its `audit_scoped` entry."""
        return {
            "agreement": self.scope.agreement,
            "participant": self.scope.owner,
            "auditor": self.scope.auditor,
            "scope": canonical(encode(self.scope)).decode(),
            "signature": self.signature,
        }

    @classmethod
    def from_ids(cls, ids: Mapping[str, str]) -> SignedAuditScope:
        """The scope that an `audit_scoped` entry records. Raises Malformed, also for a term that this law does not know."""
        try:
            found = cls(scope=decode(AuditScope, parse_json(ids["scope"].encode())), signature=ids["signature"])
        except KeyError as error:
            raise Malformed("the entry of an audit scope does not say all of it") from error
        if found.to_ids() != dict(ids):
            raise Malformed("the entry of an audit scope says more than that")
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class ScopeFinding:
    """What one owner's scope says about one opening.

    Attributes:
        rule: `scope`, `openings` or `window`.
        owner: whose scope; empty where no owner could give the opening.
        remedy: the smallest change that would open it; empty where there is none, or where nothing is wrong.
    """

    rule: Literal["scope", "openings", "window"]
    owner: str
    allowed: bool
    message: str
    remedy: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScopeDecision:
    """Whether an opening is given, with the findings for every owner."""

    allowed: bool
    findings: tuple[ScopeFinding, ...]


def is_audited_as_party(agreement: Agreement, auditor: str) -> bool:
    """Whether the agreement itself names the auditor, as nothing but an auditor: all parties signed that it may read everything."""
    return agreement.has_party(auditor) and agreement.party(auditor).roles == ("auditor",)


def reads_as_party(agreement: Agreement, who: str) -> bool:
    """Whether `who` takes part otherwise than as an auditor: then its openings are its own, and no scope narrows them."""
    return agreement.has_party(who) and not is_audited_as_party(agreement, who)


def providers_of(agreement: Agreement) -> tuple[str, ...]:
    """The providers of the agreement's datasets, sorted."""
    return tuple(sorted({declaration.provider for declaration in agreement.declarations}))


def owners_of(agreement: Agreement, kind: str, ids: Mapping[str, str]) -> tuple[str, ...]:
    """Return the providers that own the opening of an entry, sorted: who signed it alone, else all providers of the agreement."""
    providers = providers_of(agreement)
    alone = ids.get(OWN_WORD.get(kind, ""), "")
    return (alone,) if alone in providers else providers


def decide_opening(
    name: str, agreement: Agreement, auditor: str, entry: tuple[str, Mapping[str, str]], scopes: Iterable[SignedAuditScope], now: int
) -> ScopeDecision:
    """Decide whether an auditor's credential opens one entry under an agreement. Every owner must allow; nothing said is a no.

    Args:
        name: digest of the agreement.
        entry: kind and ids of its header.
        scopes: verified scopes, in the order of the log; those under other agreements and for others say nothing here.
        now: seconds since 1970.
    """
    kind, ids = entry
    if kind not in OPENABLE:
        never = ScopeFinding(rule="openings", owner="", allowed=False, message=f"no scope opens `{kind[:40]}`")
        return ScopeDecision(allowed=False, findings=(never,))
    newest = {item.scope.owner: item.scope for item in scopes if (item.scope.agreement, item.scope.auditor) == (name, auditor)}
    by_agreement = is_audited_as_party(agreement, auditor)
    found = tuple(_finding(owner, newest.get(owner), kind, auditor, now, by_agreement) for owner in owners_of(agreement, kind, ids))
    return ScopeDecision(allowed=bool(found) and all(item.allowed for item in found), findings=found)


def require_applicable(scope: AuditScope, agreement: Agreement, before: Iterable[SignedAuditScope]) -> None:
    """Raise Malformed unless the owner provides data under `agreement`, the auditor does not take part in it, and the scope is the next."""
    if scope.owner not in providers_of(agreement):
        raise Malformed(f"`{scope.owner}` provides nothing under this agreement", code="audit-scope-owner", where="owner")
    if reads_as_party(agreement, scope.auditor):
        raise Malformed(
            f"`{scope.auditor}` takes part in the agreement and reads its entries by that", code="audit-scope-party", where="auditor"
        )
    require_next(scope, before)


def require_next(scope: AuditScope, before: Iterable[SignedAuditScope]) -> None:
    """Raise Malformed (code `audit-scope-sequence`) unless the scope is the next of its owner for its auditor."""
    pair = (scope.owner, scope.auditor)
    last = max((item.scope.sequence for item in before if (item.scope.owner, item.scope.auditor) == pair), default=0)
    if scope.sequence != last + 1:
        raise Malformed(f"must be {last + 1}, the next for this auditor", where="sequence", code="audit-scope-sequence")


def _finding(owner: str, scope: AuditScope | None, kind: str, auditor: str, now: int, by_agreement: bool) -> ScopeFinding:
    if scope is None:
        if by_agreement:
            return ScopeFinding(rule="scope", owner=owner, allowed=True, message="the signed agreement names the auditor")
        return ScopeFinding(
            rule="scope",
            owner=owner,
            allowed=False,
            message=f"`{owner}` has given `{auditor}` nothing",
            remedy=f"`{owner}` signs a scope with `{kind}`",
        )
    return says(scope, kind, now)


def says(scope: AuditScope, kind: str, now: int) -> ScopeFinding:
    """Return what one scope says about entries of a kind at `now`, seconds since 1970; other owners have their own say."""
    owner = scope.owner
    if kind not in scope.openings:
        return ScopeFinding(
            rule="openings",
            owner=owner,
            allowed=False,
            message=f"scope {scope.sequence} of `{owner}` does not open `{kind}`",
            remedy=f"`{owner}` adds `{kind}`",
        )
    if not scope.not_before <= now < scope.not_after:
        early = now < scope.not_before
        message = f"scope {scope.sequence} of `{owner}` {f'begins at {scope.not_before}' if early else f'ended at {scope.not_after}'}"
        remedy = f"wait until {scope.not_before}" if early else f"`{owner}` signs a later end"
        return ScopeFinding(rule="window", owner=owner, allowed=False, message=message, remedy=remedy)
    return ScopeFinding(rule="scope", owner=owner, allowed=True, message=f"scope {scope.sequence} of `{owner}` opens `{kind}`")
