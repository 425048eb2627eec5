"""Random agreements with every term, and random requests and facts of which a fair part is allowed."""

from __future__ import annotations

import random
from dataclasses import replace

from policies.agreement import Agreement, ColumnTerm, Terms
from policies.conditions import DAYS, Approvals, Onward, Payment, Window
from policies.derive import OPERATIONS
from policies.privacy import NANO, Loss
from policies.query import Plan
from policies.questions import plan_digest, template_digest
from policies.request import Facts, JobRequest, OnwardUse, SpentFact, UsesFact, VersionFact
from tests.support import terms as standard

QUERIES = (
    standard.COUNT_SQL,
    standard.JOIN_SQL,
    "SELECT year, AVG(medical_spend) AS spend FROM insurer.plans WHERE coinsurance = 25 GROUP BY year",
    "SELECT AVG(doctor_visits) AS visits, COUNT(admissions) AS admissions FROM clinic.care WHERE year < 3",
    "SELECT female, coinsurance, COUNT(*) AS n FROM insurer.plans GROUP BY female, coinsurance ORDER BY n LIMIT 7",
)
PURPOSES = ("public-health-research", "actuarial-review", "marketing")
COUNTRIES = ("CN", "DE", "US")
NAMES = ("insurer", "clinic", "institute", "auditor")


def random_agreement(draw: random.Random, plans: list[Plan]) -> Agreement:
    """An agreement in which every party may be a consumer."""
    parties = tuple(
        replace(party, roles=tuple(dict.fromkeys((*party.roles, "consumer"))), jurisdiction=draw.choice((None, *COUNTRIES)))
        for party in standard.parties()
    )
    insurer, clinic = standard.terms_open(standard.declaration_insurer()), standard.terms_open(standard.declaration_clinic())
    return standard.agreement(parties=parties, terms=(_terms(draw, insurer, plans), _terms(draw, clinic, plans)))


def _terms(draw: random.Random, base: Terms, plans: list[Plan]) -> Terms:
    def sometimes(**change: object) -> dict[str, object]:
        return change if draw.random() < 0.15 else {}

    def some(items: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(item for item in items if draw.random() < 0.8)

    change: dict[str, object] = {
        **sometimes(assignees=some(NAMES)),
        **sometimes(recipients=some(NAMES)),
        "purposes": ("public-health-research", *some(PURPOSES[1:])),
        **sometimes(not_after=standard.NOW + draw.choice((-1, 0, 1))),
        **sometimes(columns=_columns(draw, base)),
        "job_loss": Loss(amount=draw.choice((1, 2, 5)) * NANO),
        **sometimes(job_loss=Loss(amount=draw.choice((1, 500_000_000)), delta0=draw.choice((0, 5)))),
        "total_loss": Loss(amount=5 * NANO, delta0=100),
        **sometimes(consumer_loss=Loss(amount=draw.choice((1, 2)) * NANO, delta0=50)),
        **sometimes(uses=draw.choice((0, 1, 2))),
        **sometimes(windows=tuple(dict.fromkeys(_window(draw) for _ in range(draw.choice((0, 1, 3)))))),
        **sometimes(enclave_jurisdictions=some(COUNTRIES)),
        **sometimes(recipient_jurisdictions=some(COUNTRIES)),
        **sometimes(no_debug=True),
        **sometimes(pre_approved=tuple(dict.fromkeys(draw.choice((plan_digest, template_digest))(draw.choice(plans)) for _ in range(3)))),
        **sometimes(output_kinds=some(("number", "table"))),
        **sometimes(output_rows=draw.choice((1, 5, 7, 10))),
        **sometimes(approvals=Approvals(need=draw.choice((1, 2)), of=tuple(draw.sample(NAMES, 3)))),
        **sometimes(payment=Payment(amount="1", currency="CNY", per=draw.choice(("job", "agreement")))),
        **sometimes(delete_after=30),
        **sometimes(onward=Onward(recipients=some(NAMES), purposes=some(PURPOSES))),
    }
    return replace(base, **{"minimum_group": 1, "assignees": NAMES, "recipients": NAMES, **change})


def _columns(draw: random.Random, base: Terms) -> tuple[ColumnTerm, ...]:
    return tuple(
        ColumnTerm(
            column=term.column,
            operations=tuple(op for op in OPERATIONS if draw.random() < 0.9),
            recipients=() if draw.random() < 0.6 else tuple(draw.sample(NAMES, 2)),
        )
        for term in base.columns
        if draw.random() < 0.95
    )


def _window(draw: random.Random) -> Window:
    begins = draw.choice((0, 600))
    return Window(days=tuple(day for day in DAYS if draw.random() < 0.7) or ("mon",), begins=f"{begins // 60:02d}:00", ends="18:00")


def random_request(draw: random.Random) -> JobRequest:
    """A request of a party, or of a stranger."""
    onward = tuple(
        dict.fromkeys(OnwardUse(recipient=draw.choice(NAMES), purpose=draw.choice(PURPOSES)) for _ in range(draw.choice((0, 0, 0, 1, 2))))
    )
    loss = Loss(amount=draw.choice((1, 100_000_000, 500_000_000, NANO, 2 * NANO)), delta0=draw.choice((0, 0, 0, 5)))
    loss = replace(loss, measure="zcdp") if draw.random() < 0.02 else loss
    consumer = draw.choice((*NAMES, "institute", "institute", "stranger"))
    return standard.request(consumer=consumer, purpose=draw.choice((*PURPOSES, *PURPOSES[:1] * 3)), loss=loss, onward=onward)


def random_facts(draw: random.Random, agreement: Agreement, plan: Plan) -> Facts:
    """Facts about two ledgers in all states."""
    versions = tuple(
        VersionFact(dataset=dataset, version=1, file_digest=standard.digest_of("v")) for dataset in plan.sources if draw.random() < 0.98
    )
    spent = tuple(
        SpentFact(
            provider=declaration.provider,
            id_space=declaration.id_space,
            spent=Loss(
                measure=draw.choice(("pure",) * 20 + ("zcdp",)),
                amount=draw.choice((0, NANO, 4 * NANO, 6 * NANO)),
                delta0=draw.choice((0, 99)),
            ),
        )
        for declaration in agreement.declarations
    )
    own = tuple(replace(fact, spent=replace(fact.spent, amount=min(fact.spent.amount, draw.choice((0, NANO))))) for fact in spent)
    uses = tuple(
        UsesFact(provider=name, jobs=(jobs := draw.choice((0, 1, 2))), own=draw.randint(0, jobs), paid=draw.choice((0, 1, 3)))
        for name in ("insurer", "clinic")
    )
    return standard.facts(
        now=standard.NOW + draw.choice((0, 36_000, 86_400, 3 * 86_400)),
        versions=versions,
        spent=spent,
        consumer_spent=own,
        repeats="job-1" if draw.random() < 0.05 else None,
        uses=uses,
        enclave_jurisdiction=draw.choice((None, *COUNTRIES)),
        enclave_debug=draw.choice((None, False, False, True)),
        approved_by=tuple(sorted(name for name in NAMES if draw.random() < 0.4)),
        overdue=("job-2",) if draw.random() < 0.1 else (),
    )
