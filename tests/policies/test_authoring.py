"""Help before anybody signs: what is suspicious in terms, and which requests two agreements decide otherwise."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from policies.agreement import Agreement, ColumnTerm
from policies.conditions import DAYS, Approvals, Window
from policies.contrast import contrast
from policies.lint import lint, lint_terms
from policies.privacy import parse_epsilon, parse_loss
from tests.support import terms as standard


def changed(**insurer: Any) -> Agreement:
    """The standard agreement with changed terms of the insurer."""
    return standard.agreement(terms=(standard.terms_insurer(**insurer), standard.terms_clinic()))


def remarks(agreement: Agreement) -> set[tuple[str, str]]:
    """(kind, term) of every remark."""
    return {(remark.kind, remark.term) for remark in lint(agreement)}


def test_terms_that_make_sense_draw_no_remark() -> None:
    assert lint(standard.agreement()) == ()


@pytest.mark.parametrize(
    ("change", "remark"),
    [
        ({"assignees": ()}, ("never-allows", "assignees")),
        ({"recipients": ()}, ("never-allows", "recipients")),
        ({"purposes": ()}, ("never-allows", "purposes")),
        ({"measurements": ()}, ("never-allows", "measurements")),
        ({"windows": ()}, ("never-allows", "windows")),
        ({"pre_approved": ()}, ("never-allows", "pre_approved")),
        ({"output_kinds": ()}, ("never-allows", "output_kinds")),
        ({"uses": 0}, ("never-allows", "uses")),
        ({"output_bytes": 4159}, ("never-allows", "output_bytes")),
        ({"output_bytes": 4160}, None),
        ({"no_debug": True}, ("contradiction", "no_debug")),
        ({"recipient_jurisdictions": ("CN",)}, ("contradiction", "recipient_jurisdictions")),
        ({"approvals": Approvals(need=1, of=("institute",))}, ("contradiction", "approvals")),
        ({"purposes": ("marketing",)}, ("contradiction", "purposes")),
        ({"not_after": standard.NOT_BEFORE + 1, "not_before": 0}, None),
        ({"not_after": standard.NOT_BEFORE, "not_before": 0}, ("contradiction", "not_after")),
        ({"job_loss": parse_loss("zcdp", "1"), "total_loss": parse_loss("zcdp", "1")}, ("contradiction", "total_loss")),
        ({"job_loss": parse_epsilon("4")}, ("never-decides", "job_loss")),
        ({"consumer_loss": parse_epsilon("3")}, ("never-decides", "consumer_loss")),
        ({"consumer_loss": parse_epsilon("3"), "consumer_refresh": 7}, ("never-decides", "consumer_loss")),
        ({"consumer_loss": parse_epsilon("3"), "total_refresh": 366}, None),
        ({"consumer_loss": parse_epsilon("3"), "total_refresh": 366, "consumer_refresh": 366}, ("never-decides", "consumer_loss")),
        ({"total_refresh": 93}, ("admits-everything", "total_refresh")),
        ({"total_refresh": 183}, None),
        ({"evidence_age": 60}, ("never-decides", "evidence_age")),
        ({"output_rows": 10_000}, ("never-decides", "output_rows")),
        ({"columns": (ColumnTerm(column="year", operations=("output",)),)}, ("never-decides", "columns.year")),
        ({"columns": (ColumnTerm(column="person_id", operations=("group_by",)),)}, ("never-decides", "columns.person_id")),
        ({"columns": (ColumnTerm(column="person_id", operations=("sum",)),)}, ("never-decides", "columns.person_id")),
        ({"columns": (ColumnTerm(column="year", operations=()),)}, ("never-decides", "columns.year")),
        ({"columns": (ColumnTerm(column="year", operations=("filter",), recipients=("auditor",)),)}, ("never-decides", "columns.year")),
        ({"minimum_group": 1}, ("admits-everything", "minimum_group")),
        ({"total_loss": parse_epsilon("11")}, ("admits-everything", "total_loss")),
        (
            {"windows": (Window(days=DAYS, begins="00:00", ends="12:00"), Window(days=DAYS, begins="12:00", ends="24:00"))},
            ("admits-everything", "windows"),
        ),
        ({"windows": (Window(days=DAYS[:6], begins="00:00", ends="24:00"),)}, None),
    ],
)
def test_each_fault_draws_its_remark(change: dict[str, Any], remark: tuple[str, str] | None) -> None:
    found = remarks(changed(**change))
    assert (remark in found) if remark else not found


def test_open_terms_admit_everything() -> None:
    declaration = standard.declaration_insurer()
    assert ("admits-everything", "columns") in {(r.kind, r.term) for r in lint_terms(standard.terms_open(declaration), declaration)}


def test_equal_agreements_decide_every_tried_request_alike() -> None:
    tried, found = contrast(standard.agreement(), standard.agreement())
    assert tried > 100
    assert found == ()


@pytest.mark.parametrize(
    ("change", "rule", "in_request"),
    [
        ({"purposes": ("public-health-research",)}, "purpose", "actuarial-review"),
        ({"job_loss": parse_epsilon("0.9")}, "job_loss", "epsilon 1,"),
        ({"not_after": standard.NOT_AFTER - 86_400}, "validity", "2026-12-31"),
        ({"assignees": ()}, "assignee", "`institute`"),
        ({"uses": 0}, "uses", ""),
        ({"windows": (Window(days=("mon",), begins="00:00", ends="24:00"),)}, "windows", ""),
        ({"enclave_jurisdictions": ("CN",)}, "enclave_jurisdictions", ""),
        ({"approvals": Approvals(need=1, of=("insurer",))}, "approvals", ""),
        ({"output_kinds": ("number",)}, "output_kinds", "GROUP BY"),
    ],
)
def test_a_stricter_term_is_found_by_a_request_that_it_denies(change: dict[str, Any], rule: str, in_request: str) -> None:
    _, found = contrast(standard.agreement(), changed(**change))
    hit = [item for item in found if rule in item.rules and in_request in item.request]
    assert hit
    assert all(item.before and not item.after for item in hit)
    _, back = contrast(changed(**change), standard.agreement())
    assert {item.request for item in back if not item.before and item.after} >= {item.request for item in hit[:1]}


def test_an_operation_that_is_added_is_found_by_a_query_that_uses_it() -> None:
    columns = standard.terms_insurer().columns
    more = tuple(replace(c, operations=(*c.operations, "variance")) if c.column == "medical_spend" else c for c in columns)
    _, found = contrast(standard.agreement(), changed(columns=more))
    assert [("VARIANCE(medical_spend)" in item.request, item.before, item.after) for item in found] == [(True, False, True)]
