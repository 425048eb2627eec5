"""Agreements that require layers of isolation: their document, their rule, and what the grant and the appraisal make of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enclaves.evidence import attest_simulated
from enclaves.kit.appraisal import appraise
from enclaves.run import Withhold, run, verify_grant
from policies.agreement import Agreement
from policies.codec import encode
from policies.decide import decide
from policies.errors import EvidenceRejected, Malformed
from policies.finding import Decision
from policies.grant import Grant, make_grant
from policies.isolation import LAYERS, Layer, in_order, lacking
from policies.odrl import agreement_digest, agreement_document, parse_agreement
from tests.support.runs import Bench, bench, replace_grant
from tests.support.terms import COUNT_SQL, JOIN_SQL, agreement, digest_of, facts, plan, request, terms_clinic, terms_insurer

SETS = st.sets(st.sampled_from(LAYERS)).map(in_order)


def signed(insurer: tuple[Layer, ...] = (), clinic: tuple[Layer, ...] = ()) -> Agreement:
    """The standard agreement with required layers."""
    return agreement(terms=(terms_insurer(isolation=insurer), terms_clinic(isolation=clinic)))


def decided(terms: Agreement, present: tuple[Layer, ...], sql: str = JOIN_SQL) -> Decision:
    """The decision where every worker gives these layers."""
    return decide(request(), terms, plan(sql), facts(isolation=present))


def granted(terms: Agreement, present: tuple[Layer, ...]) -> Grant:
    asked = request(agreement=agreement_digest(terms))
    stated = facts(isolation=present)
    return make_grant(
        agreement_digest(terms), digest_of("r"), asked, terms, plan(JOIN_SQL), stated, decide(asked, terms, plan(JOIN_SQL), stated)
    )


@given(required=SETS, clinic=SETS, present=SETS)
def test_a_request_is_allowed_exactly_where_no_required_layer_is_missing(
    required: tuple[Layer, ...], clinic: tuple[Layer, ...], present: tuple[Layer, ...]
) -> None:
    decision = decided(signed(required, clinic), present)
    assert decision.allowed == (set(required) | set(clinic) <= set(present))
    denied = {finding.dataset for finding in decision.findings if not finding.allowed}
    assert denied == {name for name, layers in (("insurer.plans", required), ("clinic.care", clinic)) if lacking(layers, present)}


def test_a_denial_names_what_is_missing_and_who_can_add_it() -> None:
    (finding,) = [f for f in decided(signed(("network", "memory")), ("network",)).findings if not f.allowed]
    assert (finding.rule, finding.dataset) == ("isolation", "insurer.plans")
    assert "lack memory" in finding.message
    assert finding.remedy is not None
    assert "operator" in finding.remedy


def test_terms_that_require_nothing_leave_document_findings_and_grant_as_they_were() -> None:
    plain = signed()
    assert "isolation" not in str(agreement_document(plain))
    assert not [finding for finding in decided(plain, LAYERS).findings if finding.rule == "isolation"]
    assert "isolation" not in encode(granted(plain, LAYERS))


def test_a_dataset_that_is_not_read_requires_nothing() -> None:
    assert decided(signed(clinic=LAYERS), (), COUNT_SQL).allowed


@given(required=SETS)
def test_required_layers_survive_the_document(required: tuple[Layer, ...]) -> None:
    terms = signed(required)
    assert parse_agreement(agreement_document(terms)) == terms


@pytest.mark.parametrize("listed", [["memory", "network"], ["network", "network"], ["firewall"], [], "network", [1], None])
def test_a_list_of_layers_has_one_spelling(listed: Any) -> None:
    document = agreement_document(signed(("network",)))
    (constraint,) = [c for c in document["permission"][0]["constraint"] if c["leftOperand"] == "sb:isolation"]
    assert constraint["operator"] == "isAllOf"
    constraint["rightOperand"] = listed
    with pytest.raises(Malformed):
        parse_agreement(document)


def test_a_grant_requires_what_any_of_its_datasets_requires() -> None:
    assert granted(signed(("memory",), ("network", "memory")), LAYERS).isolation == ("network", "memory")


@pytest.fixture(scope="module")
def laid() -> Bench:
    return bench()


def test_evidence_without_a_required_layer_is_refused_by_name(laid: Bench) -> None:
    grant = replace(laid.grant, isolation=("network", "memory"))
    known: dict[str, Any] = {"grant": grant, "kinds": ["simulated"], "measurements": [grant.measurement], "nonce": None}
    for present in (("network", "memory"), LAYERS):
        evidence = attest_simulated(grant, laid.nonces, grant.measurement, present).evidence
        assert appraise(evidence, **known).evidence.isolation == present
    for present in ((), ("memory",), ("network", "limits")):
        with pytest.raises(EvidenceRejected) as refused:
            appraise(attest_simulated(grant, laid.nonces, grant.measurement, present).evidence, **known)
        assert refused.value.code == "isolation"


def test_layers_cannot_be_added_to_evidence_afterwards(laid: Bench) -> None:
    evidence = attest_simulated(laid.grant, laid.nonces, laid.grant.measurement, ("limits",)).evidence
    better = replace(evidence, evidence=replace(evidence.evidence, isolation=LAYERS))
    with pytest.raises(EvidenceRejected) as refused:
        appraise(better, grant=laid.grant, kinds=["simulated"], measurements=[laid.grant.measurement], nonce=None)
    assert refused.value.code == "signature"


def test_an_enclave_refuses_a_grant_that_leaves_out_what_the_agreement_requires(laid: Bench) -> None:
    required = replace(laid.agreement, terms=tuple(replace(terms, isolation=("network",)) for terms in laid.agreement.terms))
    loose = replace(laid.grant, agreement=agreement_digest(required))
    with pytest.raises(Withhold):
        verify_grant(loose, required)
    verify_grant(replace(loose, isolation=("network",)), required)


def test_an_enclave_between_too_few_layers_withholds_though_it_was_given_keys(laid: Bench) -> None:
    required = replace(laid.agreement, terms=tuple(replace(terms, isolation=("network",)) for terms in laid.agreement.terms))
    strict = replace_grant(replace(laid, agreement=required), agreement=agreement_digest(required), isolation=("network",))
    statement, sealed = run(strict.grant, required, strict.identity, strict.inputs(), memory_mib=256)
    assert (statement.statement.withheld, sealed) == ("grant-mismatch", None)
