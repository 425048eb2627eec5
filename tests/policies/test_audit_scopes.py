"""What an audit scope opens: every term with one case that opens and cases that do not; nothing said, nothing opened."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.audit_scope import (
    OPENABLE,
    OWN_WORD,
    AuditScope,
    Openable,
    SignedAuditScope,
    decide_opening,
    owners_of,
    require_applicable,
)
from policies.canonical import canonical, parse_json
from policies.codec import decode, encode
from policies.entries import KINDS
from policies.errors import Malformed
from tests.support import terms

NAME = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
NOW = terms.NOW
AGREEMENT = terms.agreement()
EXAMINER = "examiner"
PROVIDERS = ("clinic", "insurer")


def scope(owner: str, **change: Any) -> SignedAuditScope:
    """A scope that opens everything to the examiner now."""
    values = {"agreement": NAME, "owner": owner, "auditor": EXAMINER, "sequence": 1, "openings": OPENABLE}
    return SignedAuditScope(scope=AuditScope(**(values | {"not_before": NOW - 10, "not_after": NOW + 10} | change)), signature="00" * 64)


def opens(kind: str, *scopes: SignedAuditScope, auditor: str = EXAMINER, now: int = NOW, **ids: str) -> bool:
    return decide_opening(NAME, AGREEMENT, auditor, (kind, ids), scopes, now).allowed


BOTH = (scope("insurer"), scope("clinic"))


@pytest.mark.parametrize("kind", OPENABLE)
def test_a_kind_opens_once_every_owner_gives_it_and_no_other_kind_does(kind: Openable) -> None:
    ids = dict.fromkeys(OWN_WORD.values(), "insurer")
    given_by_both = tuple(scope(owner, openings=(kind,)) for owner in PROVIDERS)
    assert opens(kind, *given_by_both, **ids)
    others = tuple(scope(owner, openings=tuple(other for other in OPENABLE if other != kind)) for owner in PROVIDERS)
    assert not opens(kind, *others, **ids)


@pytest.mark.parametrize("term", [field.name for field in fields(AuditScope)])
def test_every_term_can_deny(term: str) -> None:
    """One scope that opens, and the same with one term changed does not."""
    changes: dict[str, Any] = {
        "agreement": OTHER,
        "owner": "institute",
        "auditor": "somebody",
        "openings": ("charged",),
        "not_before": NOW + 1,
        "not_after": NOW,
    }
    assert opens("decided", *BOTH)
    if term == "kind":
        with pytest.raises(Malformed):
            decode(AuditScope, encode(BOTH[0].scope) | {"kind": "audit-scope/2"})
    elif term == "sequence":
        assert not opens("decided", *BOTH, scope("insurer", sequence=2, openings=()))
    else:
        assert not opens("decided", scope(**({"owner": "insurer"} | {term: changes[term]})), BOTH[1])


@pytest.mark.parametrize(("now", "open_then"), [(NOW - 11, False), (NOW - 10, True), (NOW + 9, True), (NOW + 10, False)])
def test_the_window_is_half_open(now: int, open_then: bool) -> None:
    assert opens("decided", *BOTH, now=now) is open_then


def test_nothing_said_opens_nothing_and_says_who_could() -> None:
    found = decide_opening(NAME, AGREEMENT, EXAMINER, ("decided", {}), (), NOW)
    assert not found.allowed
    assert {(item.owner, item.rule) for item in found.findings} == {("insurer", "scope"), ("clinic", "scope")}
    assert all(item.remedy for item in found.findings)


def test_one_provider_opens_nothing_of_anothers() -> None:
    found = decide_opening(NAME, AGREEMENT, EXAMINER, ("decided", {}), (BOTH[0],), NOW)
    assert [item.owner for item in found.findings if not item.allowed] == ["clinic"]


def test_what_a_provider_alone_has_signed_is_its_own() -> None:
    assert opens("key_released", scope("insurer"), provider="insurer")
    assert not opens("key_released", scope("insurer"), provider="clinic")
    assert owners_of(AGREEMENT, "key_released", {"provider": "institute"}) == PROVIDERS, "whoever is no provider owns nothing"


@pytest.mark.parametrize("kind", ["audit_scoped", "exchange_act", "of_a_later_law", ""])
def test_a_kind_that_no_scope_knows_stays_closed(kind: str) -> None:
    assert not opens(kind, *BOTH)


def test_an_unknown_term_is_refused_and_not_ignored() -> None:
    with pytest.raises(Malformed):
        decode(AuditScope, encode(BOTH[0].scope) | {"columns": ["salary"]})
    with pytest.raises(Malformed):
        decode(AuditScope, encode(BOTH[0].scope) | {"openings": ["of_a_later_law"]})
    ids = BOTH[0].to_ids()
    later = canonical(parse_json(ids["scope"].encode()) | {"columns": ["salary"]}).decode()
    with pytest.raises(Malformed):
        SignedAuditScope.from_ids(ids | {"scope": later})


def test_an_auditor_of_the_agreement_reads_everything_until_an_owner_narrows_it() -> None:
    assert opens("decided", auditor="auditor")
    narrowed = scope("insurer", auditor="auditor", openings=("charged",))
    assert not opens("decided", narrowed, auditor="auditor")
    assert opens("charged", narrowed, auditor="auditor")


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"owner": "institute"}, "audit-scope-owner"),
        ({"owner": "stranger"}, "audit-scope-owner"),
        ({"auditor": "institute"}, "audit-scope-party"),
        ({"auditor": "clinic"}, "audit-scope-party"),
        ({"sequence": 2}, "audit-scope-sequence"),
    ],
)
def test_a_scope_is_of_a_provider_for_an_outsider_and_the_next(change: dict[str, Any], code: str) -> None:
    given_scope = scope(**({"owner": "insurer"} | change)).scope
    with pytest.raises(Malformed) as caught:
        require_applicable(given_scope, AGREEMENT, ())
    assert caught.value.code == code


@pytest.mark.parametrize(
    "change",
    [{"auditor": "insurer"}, {"sequence": 0}, {"openings": ("decided", "decided")}, {"not_after": NOW - 10}, {"agreement": "sha256:1"}],
)
def test_a_scope_that_says_nothing_sensible_is_none(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        scope("insurer", **change)


def test_every_kind_that_opens_is_a_kind_of_entry() -> None:
    assert set(OPENABLE) < set(KINDS)
    assert set(OWN_WORD) < set(OPENABLE)


SCOPES = st.lists(
    st.builds(
        scope,
        owner=st.sampled_from(("insurer", "clinic", "institute")),
        auditor=st.sampled_from((EXAMINER, "auditor")),
        agreement=st.sampled_from((NAME, OTHER)),
        openings=st.lists(st.sampled_from(OPENABLE[:5]), unique=True).map(tuple),
        not_before=st.integers(NOW - 3, NOW + 1),
        not_after=st.integers(NOW + 2, NOW + 4),
    ),
    max_size=6,
)


@settings(max_examples=60)
@given(SCOPES, st.sampled_from(OPENABLE[:5]), st.integers(NOW - 4, NOW + 5))
def test_an_opening_rests_on_the_newest_word_of_every_owner(scopes: list[SignedAuditScope], kind: Openable, now: int) -> None:
    """The same decision, written a second way: for every owner, look for its newest scope from the end."""

    def says(owner: str) -> bool:
        for item in (signed.scope for signed in reversed(scopes)):
            if (item.owner, item.auditor, item.agreement) == (owner, EXAMINER, NAME):
                return kind in item.openings and item.not_before <= now < item.not_after
        return False

    assert opens(kind, *scopes, now=now) is all(says(owner) for owner in PROVIDERS)


@settings(max_examples=60)
@given(SCOPES, st.sampled_from(OPENABLE[:5]), st.sampled_from(PROVIDERS))
def test_taking_back_closes_at_once_whatever_the_others_say(scopes: list[SignedAuditScope], kind: Openable, owner: str) -> None:
    ended = replace(scope(owner), scope=replace(scope(owner).scope, openings=()))
    assert not opens(kind, *scopes, ended)
