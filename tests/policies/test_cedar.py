"""Another engine, Cedar, decides random requests under random agreements as we do, and denies by the very same rules."""

from __future__ import annotations

import os
import random
from collections import Counter

import pytest

cedarpy = pytest.importorskip("cedarpy", reason="pip install -r requirements-dev.txt")

from benchmarks._cedar import compiled, entities, ours, request_of, theirs  # noqa: E402
from tests.support import terms as standard  # noqa: E402
from tests.support.policies import QUERIES, random_agreement, random_facts, random_request  # noqa: E402

DECISIONS = 100_000 if os.environ.get("SANDBOX_FULL") else 2_500
PER_AGREEMENT = 50


def test_cedar_denies_by_the_same_rules_as_we_do() -> None:
    draw = random.Random(7)
    plans = [standard.plan(sql) for sql in QUERIES]
    known, seen = entities(), Counter[str]()
    allowed = 0
    for _ in range(DECISIONS // PER_AGREEMENT):
        agreement = random_agreement(draw, plans)
        policies = compiled(agreement)
        cases = [
            (random_request(draw), agreement, plan := draw.choice(plans), random_facts(draw, agreement, plan)) for _ in range(PER_AGREEMENT)
        ]
        results = cedarpy.is_authorized_batch([request_of(*case) for case in cases], policies, known)
        for case, result in zip(cases, results, strict=True):
            mine = ours(*case)
            assert theirs(result) == mine, case
            seen.update(rule for rule, _ in mine)
            allowed += not mine
    assert allowed > DECISIONS // 100
    assert set(seen) >= {"assignee", "columns", "total_loss", "uses", "windows", "approvals", "payment", "onward", "pre_approved"}
