"""A public test suite judges how we read ODRL: which rules are active, and the whole compliance report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sandbox.audit.odrl_evaluation import ODRL, REPORT, TYPE, XSD, Graph, Node, active, evaluate, instant
from sandbox.cli import cli
from tests.support.vectors import PUBLISHED, needs

pytest.importorskip("rdflib", reason="pip install -r requirements-dev.txt")
SUITE = PUBLISHED / "odrl"
TIME = {"http://example.com/request/currentTime": {"http://purl.org/dc/terms/issued": [Node("2024-02-12T11:20:10Z", XSD + "dateTime")]}}


def run(folder: Path) -> dict[str, Any]:
    done = CliRunner().invoke(cli, ["policy", "odrl-suite", str(folder), "--json"], catch_exceptions=False)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@needs("odrl")
def test_every_case_activates_the_expected_rules_and_one_report_cannot_be_met() -> None:
    found = run(SUITE)
    assert (found["cases"], found["activation_ok"], found["report_ok"]) == (34, 34, 33)
    (failure,) = found["failures"]
    assert failure["case"] == "testcase-065-alice.ttl"
    assert "does not describe" in failure["what"]


@needs("odrl")
def test_a_wrong_expectation_and_an_unreadable_file_are_failures(tmp_path: Path) -> None:
    for name in ("policies", "requests", "sotw"):
        (tmp_path / name).symlink_to(SUITE / name)
    (tmp_path / "cases").mkdir()
    text = (SUITE / "cases" / "testcase-001-alice.ttl").read_text()
    (tmp_path / "cases" / "wrong.ttl").write_text(text.replace("report:Active", "report:Inactive"))
    (tmp_path / "cases" / "other.ttl").write_text(text.replace("report:PermissionReport", "report:ProhibitionReport"))
    (tmp_path / "cases" / "broken.ttl").write_text("@prefix")
    (tmp_path / "cases" / "missing.ttl").write_text(text.replace("ex:sotw", "ex:nothing"))
    found = run(tmp_path)
    assert (found["cases"], found["activation_ok"], found["report_ok"]) == (4, 1, 0)
    assert {failure["case"] for failure in found["failures"]} == {"wrong.ttl", "other.ttl", "broken.ttl", "missing.ttl"}


def _graph(rule: dict[str, list[Node]], kind: str = "Set", of: str = "permission", **others: dict[str, list[Node]]) -> Graph:
    return {"p": {TYPE: [Node(ODRL + kind)], ODRL + of: [Node("r")]}, "r": rule, **others}


def _asked(action: str = "read") -> Graph:
    return _graph({ODRL + "action": [Node(ODRL + action)]}, kind="Request")


@pytest.mark.parametrize(
    ("own", "asked", "covered"),
    [
        ("use", "read", True),
        ("use", "use", True),
        ("read", "use", False),
        ("use", "sell", False),
        ("transfer", "sell", True),
        ("use", "transfer", False),
        ("play", "display", True),
    ],
)
def test_an_action_covers_those_that_the_vocabulary_includes_in_it(own: str, asked: str, covered: bool) -> None:
    report = evaluate(_graph({ODRL + "action": [Node(ODRL + own)]}), _asked(asked), TIME)
    assert active(report) == {"r": covered}


@pytest.mark.parametrize(
    ("member", "value", "held"),
    [
        ("operator", ODRL + "lt", True),
        ("operator", ODRL + "isAnyOf", False),
        ("leftOperand", ODRL + "count", False),
        ("leftOperand", "http://example.org/unknown", False),
    ],
)
def test_what_is_unknown_is_unsatisfied(member: str, value: str, held: bool) -> None:
    constraint = {
        ODRL + "leftOperand": [Node(ODRL + "dateTime")],
        ODRL + "operator": [Node(ODRL + "lt")],
        ODRL + "rightOperand": [Node("2025-01-01T00:00:00Z", XSD + "dateTime")],
        ODRL + member: [Node(value)],
    }
    report = evaluate(_graph({ODRL + "constraint": [Node("c")]}, c=constraint), _asked(), TIME)
    assert active(report) == {"r": held}


@pytest.mark.parametrize(("logical", "held"), [("and", False), ("or", True), ("xone", True), ("andSequence", False)])
def test_logical_constraints_combine(logical: str, held: bool) -> None:
    def one(operator: str) -> dict[str, list[Node]]:
        right = [Node("2025-01-01T00:00:00Z", XSD + "dateTime")]
        return {ODRL + "leftOperand": [Node(ODRL + "dateTime")], ODRL + "operator": [Node(ODRL + operator)], ODRL + "rightOperand": right}

    both = {ODRL + logical: [Node("a"), Node("b")]}
    report = evaluate(_graph({ODRL + "constraint": [Node("c")]}, c=both, a=one("lt"), b=one("gt")), _asked(), TIME)
    assert active(report) == {"r": held}


def test_a_graph_without_a_policy_a_request_or_a_time_is_refused() -> None:
    for policy, request, world in (({}, _asked(), TIME), (_graph({}), {}, TIME), (_graph({}), _asked(), {})):
        with pytest.raises(ValueError, match=r"does not say|of type"):
            evaluate(policy, request, world)
    with pytest.raises(ValueError, match="zone"):
        instant(Node("2024-02-12T11:20:10", XSD + "dateTime"))
    assert REPORT.endswith("#")
