"""A grant is exactly what an allowed decision entails: nothing more to read, spend or send."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, get_args

import pytest

from policies.canonical import canonical, digest_bytes, parse_json
from policies.codec import decode, encode
from policies.decide import decide
from policies.errors import Malformed
from policies.finding import Decision, is_spelled_by
from policies.grant import Grant, grant_digest, grant_text, ledgers_charged, make_grant
from policies.granted import Read, Recipient, WithheldCode, job_id
from policies.odrl import agreement_digest
from policies.plan_text import plan_text
from policies.privacy import parse_epsilon
from policies.schedule import schedule
from tests.support.terms import (
    COUNT_SQL,
    JOIN_SQL,
    MEASUREMENT,
    agreement,
    declaration_clinic,
    declaration_insurer,
    digest_of,
    facts,
    key_of,
    parties,
    plan,
    request,
    terms_clinic,
    terms_insurer,
)


def _grant(sql: str = JOIN_SQL, **asked: Any) -> Grant:
    signed, wanted, stated = agreement(), request(sql=sql, **asked), facts()
    decision = decide(wanted, signed, plan(sql), stated)
    return make_grant(agreement_digest(signed), digest_of("request"), wanted, signed, plan(sql), stated, decision)


def test_the_bytes_of_a_grant_are_those_of_its_document() -> None:
    for sql in (JOIN_SQL, COUNT_SQL):
        grant = _grant(sql)
        assert grant_text(grant) == canonical(encode(grant)) == grant_text(decode(Grant, encode(grant)))
        assert plan_text(grant.plan) == canonical(encode(grant.plan))
        assert digest_bytes(grant_text(grant)) == grant_digest(grant)


def test_only_its_own_document_spells_a_decision() -> None:
    decision = decide(request(sql=JOIN_SQL), agreement(), plan(JOIN_SQL), facts())
    assert is_spelled_by(decision, encode(decision))
    changes: list[Callable[[dict[str, Any]], object]] = [
        lambda document: document.update(allowed=1),
        lambda document: document.update(allowed=not decision.allowed),
        lambda document: document.update(minimum_group=True),
        lambda document: document.update(minimum_group=decision.minimum_group + 1),
        lambda document: document.update(more=None),
        lambda document: document.pop("minimum_group"),
        lambda document: document.update(findings={}),
        lambda document: document["findings"].pop(),
        lambda document: document["findings"].append(document["findings"][0]),
        lambda document: document["findings"].reverse(),
        lambda document: document["findings"][0].update(allowed=1),
        lambda document: document["findings"][-1].update(other=document["findings"][-1].pop("remedy")),
        *(
            lambda document, name=name: document["findings"][2].update({name: "another"})
            for name in ("rule", "dataset", "message", "column", "clause", "remedy")
        ),
    ]
    for number, change in enumerate(changes):
        document = encode(decision)
        change(document)
        assert not is_spelled_by(decision, document), number
    others: tuple[Any, ...] = (None, [], "", 3, {"allowed": True, "minimum_group": 1, "findings": [3]})
    for value in others:
        assert not is_spelled_by(decision, value)


def test_grant_of_a_join_is_exact() -> None:
    assert _grant() == Grant(
        job=job_id(digest_of("request")),
        agreement=agreement_digest(agreement()),
        request=digest_of("request"),
        plan=plan(JOIN_SQL),
        reads=(
            Read(
                dataset="insurer.plans",
                provider="insurer",
                version=3,
                file_digest=digest_of("plans v3"),
                columns=("coinsurance", "female", "medical_spend", "person_id", "year"),
            ),
            Read(
                dataset="clinic.care",
                provider="clinic",
                version=1,
                file_digest=digest_of("care v1"),
                columns=("doctor_visits", "person_id", "year"),
            ),
        ),
        statistics=schedule(plan(JOIN_SQL), agreement().by_dataset, parse_epsilon("0.5"), 25),
        loss=parse_epsilon("0.5"),
        minimum_group=25,
        recipient=Recipient(id="institute", sealing_key=key_of("institute opens")),
        enclave_kind="simulated",
        measurement=MEASUREMENT,
    )


@pytest.mark.parametrize(
    ("sql", "columns"),
    [
        (COUNT_SQL, ("person_id", "year")),
        ("SELECT AVG(medical_spend) AS s FROM insurer.plans", ("medical_spend", "person_id", "year")),
        ("SELECT COUNT(*) AS n FROM insurer.plans WHERE NOT (female = 1 OR year = 2)", ("female", "person_id", "year")),
        ("SELECT coinsurance, COUNT(*) AS n FROM insurer.plans GROUP BY coinsurance", ("coinsurance", "person_id", "year")),
    ],
)
def test_grant_reads_the_columns_of_its_plan_the_unit_and_the_key_only(sql: str, columns: tuple[str, ...]) -> None:
    (read,) = _grant(sql).reads
    assert (read.dataset, read.columns) == ("insurer.plans", columns)


def test_same_inputs_give_the_same_grant_and_digest() -> None:
    assert _grant() == _grant()
    assert grant_digest(_grant()) == grant_digest(_grant())
    assert decode(Grant, parse_json(canonical(encode(_grant())))) == _grant()


def test_grant_digest_covers_every_field() -> None:
    grant = _grant()
    changes: list[dict[str, Any]] = [
        {"job": "job-2"},
        {"agreement": digest_of("x")},
        {"request": digest_of("x")},
        {"plan": plan(COUNT_SQL)},
        {"reads": grant.reads[:1]},
        {"reads": grant.reads[::-1]},
        {"reads": (replace(grant.reads[0], columns=(*grant.reads[0].columns, "name")), *grant.reads[1:])},
        {"reads": (replace(grant.reads[0], version=2), *grant.reads[1:])},
        {"reads": (replace(grant.reads[0], file_digest=digest_of("x")), *grant.reads[1:])},
        {"statistics": grant.statistics[:-1]},
        {"statistics": (replace(grant.statistics[0], scale=1), *grant.statistics[1:])},
        {"loss": parse_epsilon("0.500000001")},
        {"minimum_group": 24},
        {"recipient": replace(grant.recipient, sealing_key=key_of("x"))},
        {"measurement": digest_of("x")},
        {"isolation": ("network",)},
    ]
    digests = {grant_digest(replace(grant, **change)) for change in changes}
    assert len(digests | {grant_digest(grant)}) == len(changes) + 1
    assert {name for change in changes for name in change} >= set(encode(grant)) - {"kind", "enclave_kind"}


def test_denied_request_has_no_grant() -> None:
    denied = decide(request(purpose="marketing"), agreement(), plan(), facts())
    for decision in (denied, Decision(allowed=False, minimum_group=1, findings=())):
        with pytest.raises(Malformed, match="a denied request has no grant"):
            make_grant(digest_of("a"), digest_of("r"), request(), agreement(), plan(), facts(), decision)


def test_grant_spends_no_more_than_the_request() -> None:
    for epsilon in ("1", "0.3", "0.001234567"):
        grant = _grant(epsilon=epsilon)
        assert grant.loss == parse_epsilon(epsilon)
        assert 0 < sum(statistic.amount for statistic in grant.statistics) <= grant.loss.amount


def test_smallest_group_of_one_needs_no_unit_count() -> None:
    signed = agreement(terms=(terms_insurer(minimum_group=1), terms_clinic(minimum_group=1)))
    decision = decide(request(), signed, plan(), facts())
    grant = make_grant(agreement_digest(signed), digest_of("r"), request(), signed, plan(), facts(), decision)
    assert "units" not in {statistic.measured.quantity for statistic in grant.statistics}
    assert "units" in {statistic.measured.quantity for statistic in _grant().statistics}


def test_release_goes_to_the_key_in_the_agreement() -> None:
    rekeyed = tuple(replace(p, sealing_key=key_of("new")) if p.id == "institute" else p for p in parties())
    signed = agreement(parties=rekeyed)
    decision = decide(request(), signed, plan(), facts())
    grant = make_grant(agreement_digest(signed), digest_of("r"), request(), signed, plan(), facts(), decision)
    assert grant.recipient == Recipient(id="institute", sealing_key=key_of("new"))


def test_a_request_has_one_job_id_and_another_request_another() -> None:
    assert job_id(digest_of("r")) == job_id(digest_of("r")) != job_id(digest_of("s"))
    assert _grant(JOIN_SQL).job == job_id(digest_of("request"))
    with pytest.raises(Malformed):
        job_id("../x")


def test_every_ledger_of_the_sources_is_charged_once() -> None:
    assert ledgers_charged(agreement(), plan(COUNT_SQL)) == (("insurer", "rand-hie"),)
    assert ledgers_charged(agreement(), plan(JOIN_SQL)) == (("clinic", "rand-hie"), ("insurer", "rand-hie"))


def test_two_datasets_of_one_provider_and_id_space_charge_one_ledger() -> None:
    claims = declaration_clinic(dataset="insurer.care")
    columns = terms_clinic().columns
    signed = agreement(
        declarations=(declaration_insurer(), claims),
        terms=(terms_insurer(), terms_insurer(dataset="insurer.care", columns=columns)),
    )
    joined = plan(JOIN_SQL.replace("clinic.care", "insurer.care"), signed)
    assert ledgers_charged(signed, joined) == (("insurer", "rand-hie"),)


def test_enclave_answers_are_a_closed_set_of_words() -> None:
    words = get_args(WithheldCode)
    assert len(set(words)) == len(words)
    assert all(word.replace("-", "").isalpha() and len(word) < 20 for word in words)
