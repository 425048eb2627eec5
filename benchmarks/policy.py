"""Decisions per second, beside Cedar on the same requests.

Five providers with twenty rules each, joined by one query: every decision builds the findings of all 100 rules, whether it allows or
denies. Requests are distinct in id, consumer, purpose, loss and time. Each is decided by itself; only what follows from the plan and the
agreement is kept between them. Cedar (cedarpy; policies, entities and schema parsed once) gets the same rules compiled by
`benchmarks._cedar` and must deny by the very same ones; the time of building its contexts is not counted. It is run with a schema, as it
has to be: without one, a request that lacks what a `forbid` reads is allowed. The figure without (`..._unchecked`) stands beside it.

    python -m benchmarks.policy [--requests 4000] [--rounds 5] [--quick]

Time is that of the process (`time.process_time`), so other work on the machine counts little. The last line is one JSON object:
`decisions_per_s_core`, `ratio_to_cedar`, `ratio_to_cedar_unchecked`, `cedar_per_s_core`, `rules`, `findings`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cedarpy

from benchmarks._cedar import compiled, entities, ours, request_of, schema_for, theirs
from policies.agreement import Agreement, Party
from policies.conditions import DAYS, Onward, Window
from policies.decide import decide
from policies.plan import parse_plan
from policies.privacy import NANO, Loss
from policies.query import Plan
from policies.request import Facts, JobRequest, SpentFact, VersionFact
from tests.support import terms

PROVIDERS = 5
RULES_EACH = 20
CONSUMERS = ("institute", "auditor", "stranger")
PURPOSES = ("public-health-research", "actuarial-review", "marketing")


def agreement_and_plan() -> tuple[Agreement, Plan]:
    """Return an agreement of five providers with twenty rules each, and the plan of a join of all."""
    declarations = tuple(terms.declaration_insurer(dataset=f"p{i}.plans") for i in range(PROVIDERS))
    everyone = tuple(party.id for party in _parties())
    held = tuple(
        terms.terms_insurer(
            dataset=declaration.dataset,
            assignees=("institute", "auditor"),
            recipients=("institute", "auditor"),
            job_loss=Loss(amount=NANO),
            total_loss=Loss(amount=50 * NANO),
            consumer_loss=Loss(amount=20 * NANO),
            uses=1000,
            windows=(Window(days=DAYS[:5], begins="06:00", ends="22:00"),),
            output_kinds=("table", "number"),
            output_rows=100,
            output_bytes=65_536,
            evidence_age=30,
            notify=everyone[:1],
            delete_after=30,
            onward=Onward(recipients=everyone[:1], purposes=PURPOSES[:1]),
        )
        for declaration in declarations
    )
    agreement = terms.agreement(parties=_parties(), declarations=declarations, terms=held)
    joins = " ".join(f"JOIN p{i}.plans a{i} ON a0.person_id = a{i}.person_id AND a0.year = a{i}.year" for i in range(1, PROVIDERS))
    sql = (
        f"SELECT a0.coinsurance, COUNT(*) AS n, SUM(a0.medical_spend) AS spend FROM p0.plans a0 {joins} "
        "WHERE a0.female = 1 GROUP BY a0.coinsurance"
    )
    return agreement, parse_plan(sql, agreement.by_dataset)


def _parties() -> tuple[Party, ...]:
    consumers = (terms.party("institute", "consumer"), terms.party("auditor", "consumer", "auditor"))
    return (*(terms.party(f"p{i}", "provider") for i in range(PROVIDERS)), *consumers)


def cases(count: int) -> list[tuple[JobRequest, Facts]]:
    """Return distinct requests with their facts; about two thirds are allowed."""
    found = []
    versions = tuple(VersionFact(dataset=f"p{i}.plans", version=1, file_digest=terms.digest_of(str(i))) for i in range(PROVIDERS))
    for number in range(count):
        loss = Loss(amount=(NANO // 2 if number % 11 else 2 * NANO) + number)
        asked = terms.request(
            request_id=f"request-{number:06d}",
            agreement=terms.digest_of("agreement"),
            consumer=CONSUMERS[0 if number % 13 else number % 3],
            purpose=PURPOSES[number % 2 if number % 17 else 2],
            loss=loss,
        )
        spent = tuple(
            SpentFact(provider=f"p{i}", id_space="rand-hie", spent=Loss(amount=(number * 7 + i) % 45 * NANO)) for i in range(PROVIDERS)
        )
        own = tuple(replace(fact, spent=replace(fact.spent, amount=fact.spent.amount // 3)) for fact in spent)
        found.append((asked, terms.facts(now=terms.NOW + 43_200 + number % 97 * 600, versions=versions, spent=spent, consumer_spent=own)))
    return found


def measure(requests: int, rounds: int) -> dict[str, Any]:
    """Return the figures: medians over interleaved rounds."""
    agreement, plan = agreement_and_plan()
    asked = cases(requests)
    policies, known, schema = compiled(agreement), entities(), schema_for(PROVIDERS)
    contexts = [request_of(request, agreement, plan, facts) for request, facts in asked]
    findings = _require_same(asked, agreement, plan, contexts, (policies, known, schema))

    def we() -> None:
        for request, facts in asked:
            decide(request, agreement, plan, facts)

    def cedar() -> None:
        for context in contexts:
            cedarpy.is_authorized(context, policies, known, schema)

    def unchecked() -> None:
        for context in contexts:
            cedarpy.is_authorized(context, policies, known)

    times = [(_time(we), _time(cedar), _time(unchecked)) for _ in range(rounds)]
    own, other, bare = (requests / statistics.median(column) for column in zip(*times, strict=True))
    return {
        "decisions_per_s_core": round(own, 1),
        "ratio_to_cedar": round(statistics.median(theirs_s / ours_s for ours_s, theirs_s, _ in times), 2),
        "ratio_to_cedar_unchecked": round(statistics.median(theirs_s / ours_s for ours_s, _, theirs_s in times), 2),
        "cedar_per_s_core": round(other, 1),
        "cedar_unchecked_per_s_core": round(bare, 1),
        "rules": PROVIDERS * RULES_EACH,
        "findings": findings,
        "requests": requests,
    }


def _require_same(asked: Any, agreement: Agreement, plan: Plan, contexts: Any, parsed: Any) -> int:
    """Fewest findings of a decision. Both engines deny by the same rules, and neither always allows or always denies."""
    allowed = 0
    for (request, facts), context in zip(asked, contexts, strict=True):
        mine = ours(request, agreement, plan, facts)
        if theirs(cedarpy.is_authorized(context, *parsed)) != mine:
            raise SystemExit(f"the engines disagree on {request.request_id}")
        allowed += not mine
    if not 0 < allowed < len(asked):
        raise SystemExit("all requests end alike")
    return min(len(decide(request, agreement, plan, facts).findings) for request, facts in asked)


def _time(work: Callable[[], None]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=4000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="few requests, one round: does it run?")
    options = parser.parse_args()
    found = measure(200, 1) if options.quick else measure(options.requests, options.rounds)
    own, other = found["decisions_per_s_core"], found["cedar_per_s_core"]
    print(f"{own:.0f} decisions a second and core with {found['rules']} rules; Cedar {other:.0f}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
