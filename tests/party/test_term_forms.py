"""A compact form of terms compiles to the signed document and back without loss, whatever the terms say."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
import yaml

from policies.canonical import canonical
from policies.conditions import DAYS, Approvals, Onward, Payment, Window
from policies.declaration import Column
from policies.errors import Malformed
from policies.odrl import agreement_document, offer_document
from policies.privacy import Loss, parse_loss
from sandbox.party.term_forms import compiled, form_of, to_yaml
from tests.support import terms as standard
from tests.support.policies import QUERIES, random_agreement


def back(document: dict[str, Any]) -> dict[str, Any]:
    """A document after it was written as YAML and compiled again."""
    return compiled(yaml.safe_load(to_yaml(form_of(document))))


def test_random_agreements_survive_the_way_there_and_back() -> None:
    draw = random.Random(3)
    plans = [standard.plan(sql) for sql in QUERIES]
    for _ in range(60):
        agreement = random_agreement(draw, plans)
        agreement = replace(
            agreement, terms=tuple(replace(t, job_loss=_loss(draw), total_loss=_loss(draw), consumer_loss=None) for t in agreement.terms)
        )
        document = agreement_document(agreement)
        assert canonical(back(document)) == canonical(document)


def _loss(draw: random.Random) -> Loss:
    return Loss(amount=draw.randint(1, 100 * 10**9), delta0=draw.choice((0, draw.randint(1, 10**12 - 1))))


FULL = standard.terms_insurer(
    not_before=standard.NOT_BEFORE + 1,
    job_loss=parse_loss("zcdp", "0.1", "0.000000000001"),
    total_loss=parse_loss("zcdp", "3"),
    consumer_loss=parse_loss("zcdp", "0.123456789"),
    uses=0,
    windows=(Window(days=DAYS, begins="00:00", ends="24:00"),),
    enclave_jurisdictions=(),
    recipient_jurisdictions=("CN",),
    no_debug=True,
    exchange_only=True,
    evidence_age=30,
    pre_approved=(),
    output_kinds=("number",),
    output_rows=5,
    output_bytes=4096,
    quantum=60,
    approvals=Approvals(need=1, of=("insurer",)),
    payment=Payment(amount="9.5", currency="CNY", per="job"),
    notify=("auditor",),
    attribution="数据: 甲方 'x' # no",
    delete_after=30,
    onward=Onward(recipients=("auditor",), purposes=("audit",)),
)


def test_every_term_survives_in_an_offer_and_in_an_agreement() -> None:
    dated = Column(name="day", type="date", lower="2020-01-01", upper="2020-12-31", domain=(18262, 18263), description="a: b")
    declaration = standard.declaration_insurer(columns=(*standard.declaration_insurer().columns, dated))
    offer = replace(standard.offer(), declaration=declaration, terms=FULL)
    assert back(offer_document(offer)) == offer_document(offer)
    signed = standard.agreement(terms=(FULL, standard.terms_clinic()))
    assert back(agreement_document(signed)) == agreement_document(signed)
    text = to_yaml(form_of(offer_document(offer)))
    assert "rho_per_consumer: 0.123456789" in text
    assert "until: 2027-01-01\n" in text


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("terms", "sing"), True),
        (("terms", "epsilon_per_job"), 1),
        (("terms", "from"), "yesterday"),
        (("terms", "columns"), "all"),
        (("terms", "uses"), "3"),
        (("more",), 1),
        (("declaration", "dataset"), 3),
    ],
)
def test_a_form_that_says_something_else_is_refused(path: tuple[str, ...], value: Any) -> None:
    form = form_of(offer_document(replace(standard.offer(), terms=FULL)))
    place = form
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    with pytest.raises(Malformed):
        compiled(form)


@pytest.mark.parametrize(
    "form", [None, [], {}, {"title": "x"}, {"offer": "x"}, {"agreement": "x", "title": "x", "log": 1, "parties": 1, "datasets": 1}]
)
def test_what_is_no_form_is_refused(form: Any) -> None:
    with pytest.raises(Malformed):
        compiled(form)
