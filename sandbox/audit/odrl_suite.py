"""Running a folder of ODRL test cases laid out like the ODRL-Test-Suite: `policies`, `requests`, `sotw` and `cases`, all in Turtle.

Every file is a graph of its own: names of constraints repeat across policies. The library that reads Turtle is only needed here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from policies.errors import Malformed
from sandbox.audit.odrl_evaluation import DCT, ODRL, REPORT, TYPE, XSD, Graph, Node, Report, active, evaluate, instant

EX = "http://example.org/"
MEMBERS = {"policies": "policy", "requests": "request", "sotw": "sotw"}
"""Folder -> by which member of `ex:` a case names a graph of it."""

Canonical = tuple[Any, ...]


@dataclass(kw_only=True, slots=True)
class Outcome:
    """What came of a folder.

    Attributes:
        activation_ok: cases in which exactly the expected rules are active; `report_ok`: whose whole report is the expected one.
        failures: by case, what differs; a case whose parts are missing or unreadable is a failure.
    """

    cases: int = 0
    activation_ok: int = 0
    report_ok: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)


def run_suite(files: Mapping[str, list[tuple[str, str]]], parse: Callable[[str], Graph]) -> Outcome:
    """Return what came of all cases.

    Args:
        files: by folder, (name, Turtle text) of its files.
        parse: reads Turtle; raises ValueError.
    """
    known: dict[str, dict[str, Graph]] = {member: {} for member in MEMBERS.values()}
    outcome = Outcome()
    for folder, member in MEMBERS.items():
        for name, text in files.get(folder, []):
            try:
                graph = parse(text)
            except ValueError as error:
                outcome.failures.append({"case": f"{folder}/{name}", "what": f"cannot be read: {error}"[:300]})
                continue
            known[member] |= dict.fromkeys(graph, graph)
    for name, text in files.get("cases", []):
        outcome.cases += 1
        try:
            _judge(outcome, name, parse(text), known)
        except (ValueError, KeyError) as error:
            outcome.failures.append({"case": name, "what": f"cannot be judged: {error}"[:300]})
    return outcome


def _judge(outcome: Outcome, name: str, case: Graph, known: dict[str, dict[str, Graph]]) -> None:
    (test,) = (subject for subject, members in case.items() if Node(EX + "TestCase") in members.get(TYPE, ()))
    parts = {member: known[member][case[test][EX + member][0].value] for member in MEMBERS.values()}
    root = case[test][EX + "expectedReport"][0].value
    found = evaluate(parts["policy"], parts["request"], parts["sotw"])
    expected = {
        rule[REPORT + "rule"][0].value: rule[REPORT + "activationState"][0].value == REPORT + "Active"
        for rule in (case[node.value] for node in case[root].get(REPORT + "ruleReport", []))
    }
    if active(found) == expected:
        outcome.activation_ok += 1
    else:
        outcome.failures.append({"case": name, "what": f"active: {active(found)}; expected: {expected}"})
    if _canonical(found) == _expected(case, root):
        outcome.report_ok += 1
    elif active(found) == expected:
        dangling = _undescribed(case, root)
        why = (
            f"the expected report names nodes that it does not describe: {', '.join(dangling)}"
            if dangling
            else "the rest of the report differs"
        )
        outcome.failures.append({"case": name, "what": f"the rules are active as expected; {why}"})


def _canonical(report: Report) -> Canonical:
    """A report as nested sorted tuples, without the names of its nodes."""
    stated = [(_predicate(name), _literal(node)) for name, node in report.states.items()]
    held = [
        (REPORT + name, _canonical(part) if isinstance(part, Report) else _literal(part))
        for name, parts in report.parts.items()
        for part in parts
    ]
    return _sorted([(TYPE, (REPORT + report.kind,)), *stated, *held])


def _expected(case: Graph, name: str) -> Canonical:
    """The same of an expected report: a node that the case describes stands for what it says, another for itself."""
    return _sorted(
        (predicate, _expected(case, node.value) if node.datatype is None and node.value in case else _literal(node))
        for predicate, nodes in case[name].items()
        for node in nodes
    )


def _undescribed(case: Graph, name: str) -> list[str]:
    """Premises that an expected report names and does not describe."""
    found = []
    for predicate, nodes in case.get(name, {}).items():
        if predicate in (REPORT + "premiseReport", REPORT + "ruleReport"):
            for node in nodes:
                found += [node.value] if node.value not in case else _undescribed(case, node.value)
    return sorted(found)


def _predicate(name: str) -> str:
    return DCT + name if name == "created" else REPORT + name


def _literal(node: Node) -> tuple[str, ...]:
    """A node as it is compared: times by the moment, all else by its spelling."""
    return (str(instant(node).timestamp()),) if node.datatype == XSD + "dateTime" else (node.value,)


def _sorted(items: Iterator[Any] | list[Any]) -> Canonical:
    return tuple(sorted(items, key=repr))


def parse_turtle(text: str) -> Graph:
    """Return the graph of a Turtle document.

    Raises:
        ValueError: the text is not Turtle. Malformed: code `extra-missing`, without rdflib.
    """
    try:
        import rdflib
    except ImportError as error:
        raise Malformed("reading Turtle needs rdflib: pip install rdflib", code="extra-missing") from error
    parsed = rdflib.Graph()
    try:
        parsed.parse(data=text, format="turtle")
    except Exception as error:  # the parser raises errors of several kinds, all about the text
        raise ValueError(str(error).splitlines()[0] if str(error) else type(error).__name__) from error
    found: dict[str, dict[str, list[Node]]] = {}
    for subject, predicate, item in parsed:
        datatype = str(item.datatype or XSD + "string") if isinstance(item, rdflib.Literal) else None
        found.setdefault(str(subject), {}).setdefault(str(predicate), []).append(Node(str(item), datatype))
    return found


__all__ = ["ODRL", "Outcome", "parse_turtle", "run_suite"]
