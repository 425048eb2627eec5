"""Decisions on pools: every member's terms must allow, enclaves do not come into it, and what cannot be added up is refused."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.agreement import Agreement
from policies.canonical import canonical, parse_json
from policies.codec import decode, encode
from policies.decide import decide
from policies.errors import Malformed
from policies.finding import Decision
from policies.grant import entail, grant_digest, ledgers_charged, public_providers
from policies.joint_grant import JointGrant, make_joint_grant, windows_of
from policies.odrl import agreement_digest, agreement_document, parse_agreement
from policies.privacy import parse_epsilon, parse_loss
from policies.request import SpentFact
from policies.schedule import schedule
from tests.support.pool import (
    SQL,
    agreement_of,
    claims_declaration,
    claims_pool,
    claims_terms,
    distributed,
    insurers,
    pool_facts,
    pool_plan,
    pool_request,
)

NAMES = insurers(3)


def decided(agreement: Agreement, sql: str = SQL, **changes: Any) -> Decision:
    request = pool_request(agreement_digest(agreement), sql, changes.pop("loss", None))
    return decide(request, agreement, pool_plan(agreement, sql), pool_facts(**changes))


def denied_by(decision: Decision) -> set[tuple[str, str]]:
    assert not decision.allowed
    return {(finding.rule, finding.dataset) for finding in decision.findings if not finding.allowed}


def granted(agreement: Agreement, sql: str = SQL) -> JointGrant:
    request = pool_request(agreement_digest(agreement), sql)
    plan, facts = pool_plan(agreement, sql), pool_facts()
    decision = decide(request, agreement, plan, facts)
    grant = entail(agreement_digest(agreement), "sha256:" + "1" * 64, request, agreement, plan, facts, decision)
    assert isinstance(grant, JointGrant)
    return grant


def test_a_pool_is_allowed_when_every_member_allows_and_no_enclave_is_agreed_on() -> None:
    decision = decided(agreement_of(NAMES))
    assert decision.allowed, [f for f in decision.findings if not f.allowed]
    rules = {finding.rule for finding in decision.findings}
    assert "joint" in rules
    assert not rules & {"enclave", "version"}
    assert decision.minimum_group == 5


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"assignees": ()}, "assignee"),
        ({"recipients": ()}, "recipient"),
        ({"purposes": ("another",)}, "purpose"),
        ({"not_after": 1_700_000_000}, "validity"),
        ({"columns": ()}, "columns"),
        ({"job_loss": parse_loss("zcdp", "0.1")}, "job_loss"),
        ({"consumer_loss": parse_loss("zcdp", "0.1")}, "consumer_loss"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_member_that_does_not_allow_denies(name: str, changes: dict[str, Any], rule: str) -> None:
    terms = tuple(claims_terms(other, **(changes if other == name else {})) for other in NAMES)
    assert denied_by(decided(agreement_of(NAMES, terms=terms))) == {(rule, f"{name}.claims")}


def test_the_ledger_of_every_member_pays() -> None:
    agreement = agreement_of(NAMES)
    plan = pool_plan(agreement)
    spaces = {name: claims_declaration(name).id_space for name in NAMES}
    assert ledgers_charged(agreement, plan) == tuple(sorted(spaces.items()))
    assert public_providers(agreement, plan) == ()
    poor = SpentFact(provider=NAMES[1], id_space=spaces[NAMES[1]], spent=parse_loss("zcdp", "19.9"))
    assert denied_by(decided(agreement, spent=(poor,))) == {("total_loss", f"{NAMES[1]}.claims")}


def test_the_strictest_minimum_group_counts() -> None:
    terms = tuple(claims_terms(name, minimum_group=5 + 3 * index) for index, name in enumerate(NAMES))
    assert decided(agreement_of(NAMES, terms=terms)).minimum_group == 11


@pytest.mark.parametrize(
    ("sql", "why"),
    [
        ("SELECT COUNT(DISTINCT amount) AS n FROM pool.claims", "no sum"),
        ("SELECT p.region, COUNT(*) AS n FROM pool.claims p JOIN insurer_a.claims a USING (person, claim) GROUP BY p.region", "joins"),
    ],
)
def test_what_contributors_cannot_compute_alone_is_refused(sql: str, why: str) -> None:
    agreement = agreement_of(NAMES)
    try:
        decision = decided(agreement, sql)
    except Malformed:
        return  # the parser refuses it already
    assert ("joint", "pool.claims") in denied_by(decision)
    assert any(why in finding.message for finding in decision.findings if finding.rule == "joint")


def test_ledgers_in_epsilon_cannot_pay_for_noise_that_is_drawn_in_parts() -> None:
    terms = tuple(claims_terms(name, job_loss=parse_epsilon("1"), total_loss=parse_epsilon("5")) for name in NAMES)
    assert ("joint", "pool.claims") in denied_by(decided(agreement_of(NAMES, terms=terms), loss=parse_epsilon("0.5")))


def test_keys_that_would_be_discovered_are_refused() -> None:
    agreement = agreement_of(NAMES)
    sql = "SELECT person, COUNT(*) AS n FROM pool.claims GROUP BY person"
    assert ("joint", "pool.claims") in denied_by(decided(agreement, sql, loss=parse_loss("zcdp", "0.5", "0.000001")))


def test_totals_that_no_parameters_hold_are_refused_when_the_job_is_made() -> None:
    agreement = agreement_of(NAMES, claims_pool(NAMES, rows=10**9))
    found = denied_by(decided(agreement, "SELECT VAR_POP(amount) AS v FROM pool.claims"))
    assert ("joint", "pool.claims") in found


def test_small_pools_take_the_narrow_parameters_and_large_ones_the_wide() -> None:
    assert granted(agreement_of(NAMES)).parameters == "bfv-4096-40"
    assert granted(agreement_of(NAMES, claims_pool(NAMES, rows=10**7))).parameters == "bfv-8192-60"


def test_a_grant_is_exactly_what_agreement_and_request_entail() -> None:
    for pool in (claims_pool(NAMES), distributed(NAMES)):
        agreement = agreement_of(NAMES, pool)
        grant = granted(agreement)
        assert grant.pool == pool
        assert grant.statistics == schedule(grant.plan, agreement.by_dataset, grant.loss, 5)
        assert [s.mechanism for s in grant.statistics] == ["gaussian"] * len(grant.statistics)
        bounds = dict(zip((s.name for s in grant.statistics), grant.bounds, strict=True))
        assert bounds["rows"] == bounds["units"] == pool.rows
        assert decode(JointGrant, parse_json(canonical(encode(grant)))) == grant
        assert grant_digest(grant) == grant_digest(granted(agreement))
        assert len(windows_of(grant, agreement.by_dataset, 3)) == 6 * len(grant.statistics)


def test_intervals_are_of_all_noise_that_was_drawn() -> None:
    base = granted(agreement_of(NAMES)).statistics[-1].scale
    two_sided = granted(agreement_of(NAMES)).released_statistics(3)[-1].scale
    shared = granted(agreement_of(NAMES, distributed(NAMES, coalition=1))).released_statistics(3)[-1].scale
    assert two_sided / base == pytest.approx(2**0.5, rel=1e-6)
    assert shared / base == pytest.approx(1.5**0.5, rel=1e-5)


def test_a_denied_request_has_no_joint_grant() -> None:
    agreement = agreement_of(NAMES)
    request, plan = pool_request(agreement_digest(agreement)), pool_plan(agreement)
    decision = replace(decide(request, agreement, plan, pool_facts()), allowed=False)
    with pytest.raises(Malformed):
        make_joint_grant(agreement_digest(agreement), "sha256:" + "1" * 64, request, agreement, plan, pool_facts(), decision)


# --- agreements


def test_an_agreement_with_a_pool_has_one_spelling_and_one_without_keeps_its_own() -> None:
    pooled = agreement_of(NAMES)
    assert parse_agreement(agreement_document(pooled)) == pooled
    plain = replace(pooled, pools=())
    assert "sb:pool" not in agreement_document(plain)
    for wrong in ([], None, {}):
        with pytest.raises(Malformed):
            parse_agreement(agreement_document(plain) | {"sb:pool": wrong})
    with pytest.raises(Malformed):
        parse_agreement(agreement_document(pooled) | {"sb:pool": [{**encode(pooled.pools[0]), "more": 1}]})


@pytest.mark.parametrize(
    "change",
    [
        {"rows_per_unit": 4},
        {"unit": "claim"},
        {"columns": ()},
    ],
    ids=repr,
)
def test_members_must_be_declared_alike(change: dict[str, Any]) -> None:
    declarations = list(agreement_of(NAMES).declarations)
    if "columns" in change:
        change = {"columns": (*declarations[1].columns[:-1], replace(declarations[1].columns[-1], upper="6000"))}
    declarations[1] = replace(declarations[1], **change)
    with pytest.raises(Malformed, match="declared alike"):
        agreement_of(NAMES, declarations=tuple(declarations))


def test_members_that_share_people_by_name_are_refused() -> None:
    declarations = tuple(replace(d, id_space="everybody") for d in agreement_of(NAMES).declarations)
    with pytest.raises(Malformed, match="id space"):
        agreement_of(NAMES, declarations=declarations)


@pytest.mark.parametrize(
    "pools",
    [
        (claims_pool((*NAMES[:2], "nobody")),),
        (claims_pool(NAMES), claims_pool(NAMES)),
        (claims_pool(NAMES, key_holder="analyst"),),
        (claims_pool(NAMES, key_holder="stranger"),),
    ],
    ids=["unknown member", "twice", "no key holder", "no party"],
)
def test_a_pool_names_what_the_agreement_has(pools: tuple[Any, ...]) -> None:
    with pytest.raises(Malformed):
        agreement_of(NAMES, pools=pools)


def test_a_query_on_a_member_alone_still_needs_an_enclave() -> None:
    agreement = agreement_of(NAMES)
    sql = "SELECT COUNT(*) AS n FROM insurer_a.claims"
    assert {("enclave", "insurer_a.claims"), ("version", "insurer_a.claims")} <= denied_by(decided(agreement, sql))


@pytest.mark.parametrize("name", NAMES)
def test_a_quantum_that_one_member_asks_for_denies_since_nobody_could_keep_it(name: str) -> None:
    terms = tuple(claims_terms(other, **({"quantum": 60} if other == name else {})) for other in NAMES)
    assert denied_by(decided(agreement_of(NAMES, terms=terms))) == {("quantum", f"{name}.claims")}
