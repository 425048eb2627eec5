"""Evaluating any ODRL 2.2 policy for a request in a state of the world, with a compliance report: how others judge our reading of it.

The law of this service decides by its own typed terms (policies/decide.py). This module reads the language at large, so that a public test
suite can tell whether we mean by its words what the field means. Sources: ODRL Information Model 2.2 (W3C Recommendation 2018) and the
FORCE compliance report model (https://w3id.org/force/compliance-report).

Graphs are plain values: subject -> predicate -> objects, all of them `Node`. Whatever is unknown is unsatisfied.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime

ODRL = "http://www.w3.org/ns/odrl/2/"
REPORT = "https://w3id.org/force/compliance-report#"
DCT = "http://purl.org/dc/terms/"
XSD = "http://www.w3.org/2001/XMLSchema#"
TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
CURRENT_TIME = "http://example.com/request/currentTime"
"""The subject whose `dct:issued` the states of the world of the suite give the time by."""


@dataclass(frozen=True, slots=True)
class Node:
    """An IRI or blank node, or a literal of `datatype`."""

    value: str
    datatype: str | None = None


Graph = Mapping[str, Mapping[str, list[Node]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """One node of a compliance report: its type, what it states, and the reports that it rests on by predicate."""

    kind: str
    states: Mapping[str, Node] = field(default_factory=dict)
    parts: Mapping[str, tuple[Report | Node, ...]] = field(default_factory=dict)

    @property
    def satisfied(self) -> bool:
        """Whether a premise holds."""
        return self.states.get("satisfactionState") == _term("Satisfied")


INCLUDED_IN = {"sell": "transfer", "give": "transfer", "extract": "reproduce", "move": "modify", "display": "play"}
"""Actions that the vocabulary includes in another than `use`; `use` includes every other action but `transfer`."""

COMPARISONS: dict[str, Callable[[datetime, datetime], bool]] = {
    "eq": operator.eq, "neq": operator.ne, "lt": operator.lt, "lteq": operator.le, "gt": operator.gt, "gteq": operator.ge,
}  # fmt: skip

LOGICAL: dict[str, Callable[[list[bool]], bool]] = {
    "and": all,
    "andSequence": all,
    "or": any,
    "xone": lambda held: sum(held) == 1,
}

KINDS = {"permission": "PermissionReport", "prohibition": "ProhibitionReport", "obligation": "ObligationReport"}


def evaluate(policy: Graph, request: Graph, world: Graph) -> Report:
    """Return the report on every rule of the one policy of a graph, for every rule of the one request of another.

    Raises:
        ValueError: no policy, no request, or no time in the state of the world.
    """
    asked, named = _subject(request, "Request"), _policy(policy)
    now = _first(world, CURRENT_TIME, DCT + "issued")
    if now is None:
        raise ValueError("the state of the world does not say what time it is")
    reports = tuple(
        _rule(policy, rule.value, KINDS[kind], request, wanted.value, world, now)
        for kind in KINDS
        for rule in _all(policy, named, ODRL + kind)
        for wanted in _all(request, asked, ODRL + "permission")
    )
    return Report(
        kind="PolicyReport",
        states={"created": now, "policy": Node(named), "policyRequest": Node(asked)},
        parts={"ruleReport": reports},
    )


def active(report: Report) -> dict[str, bool]:
    """Return whether each rule of a report is active, by rule."""
    rules = (part for part in report.parts["ruleReport"] if isinstance(part, Report))
    return {rule.states["rule"].value: rule.states["activationState"] == _term("Active") for rule in rules}


def _rule(policy: Graph, rule: str, kind: str, request: Graph, wanted: str, world: Graph, now: Node) -> Report:
    premises = [*_premises(policy, rule, request, wanted, world)]
    premises += [_constraint(policy, found.value, now) for found in _all(policy, rule, ODRL + "constraint")]
    duties = tuple(_duty_reports(policy, rule, world))
    violated = any(_first(world, duty.value, REPORT + "deonticState") == _term("Violated") for duty in duties)
    holds = all(premise.satisfied for premise in premises) and not violated
    parts: dict[str, tuple[Report | Node, ...]] = {"premiseReport": tuple(premises)} if premises else {}
    return Report(
        kind=kind,
        states={
            "attemptState": _term("Attempted"),
            "rule": Node(rule),
            "ruleRequest": Node(wanted),
            "activationState": _term("Active" if holds else "Inactive"),
        },
        parts=parts | ({"conditionReport": duties} if duties else {}),
    )


def _premises(policy: Graph, rule: str, request: Graph, wanted: str, world: Graph) -> Iterator[Report]:
    """Target, assignee and action: a rule that names none is about all."""
    for member, kind in (("target", "TargetReport"), ("assignee", "PartyReport")):
        named = [node.value for node in _all(policy, rule, ODRL + member)]
        if named:
            found = [node.value for node in _all(request, wanted, ODRL + member)]
            yield _premise(kind, bool(found) and all(_is_one_of(item, named, policy, world) for item in found))
    actions = [node.value for node in _all(policy, rule, ODRL + "action")]
    if actions:
        found = [node.value for node in _all(request, wanted, ODRL + "action")]
        yield _premise("ActionReport", bool(found) and all(any(_includes(own, item) for own in actions) for item in found))


def _is_one_of(item: str, named: list[str], policy: Graph, world: Graph) -> bool:
    """Whether an asset or party is named itself, or is a part of a named collection or of the source of one."""
    collections = {node.value for graph in (world, policy) for node in _all(graph, item, ODRL + "partOf")}
    wide = {*named, *(node.value for name in named for node in _all(policy, name, ODRL + "source"))}
    return item in named or bool(collections & wide)


def _includes(own: str, asked: str) -> bool:
    if not (own.startswith(ODRL) and asked.startswith(ODRL)):
        return own == asked
    general, special = own.removeprefix(ODRL), asked.removeprefix(ODRL)
    while special != general and special not in ("use", "transfer"):
        special = INCLUDED_IN.get(special, "use")
    return special == general


def _constraint(policy: Graph, name: str, now: Node) -> Report:
    stated = {"constraint": Node(name)}
    for logical, holds in LOGICAL.items():
        parts = [_constraint(policy, node.value, now) for node in _all(policy, name, ODRL + logical)]
        if parts:
            met = holds([part.satisfied for part in parts])
            stated |= {"constraintLogicalOperand": Node(ODRL + logical), "satisfactionState": _state(met)}
            return Report(kind="ConstraintReport", states=stated, parts={"premiseReport": tuple(parts)})
    left, how, right = (_first(policy, name, ODRL + member) for member in ("leftOperand", "operator", "rightOperand"))
    met = False
    if left == Node(ODRL + "dateTime") and how is not None and right is not None:
        stated["constraintLeftOperand"] = now
        compare = COMPARISONS.get(how.value.removeprefix(ODRL))
        moments = _moments(right)
        met = compare is not None and bool(moments) and all(compare(instant(now), moment) for moment in moments)
    stated["satisfactionState"] = _state(met)
    if met and how is not None and right is not None:
        stated |= {"constraintOperator": how, "constraintRightOperand": right}
    return Report(kind="ConstraintReport", states=stated)


def _duty_reports(policy: Graph, rule: str, world: Graph) -> Iterator[Node]:
    """What the state of the world reports of the rule's duties. A duty that it says nothing of is not set, which forbids nothing.

    The suite's states tell of a duty under the name that it has in another policy; where none is named, all that are told count.
    """
    duties = set(_all(policy, rule, ODRL + "duty"))
    if not duties:
        return
    told = [name for name, members in world.items() if _term("DutyReport") in members.get(TYPE, ())]
    named = [name for name in told if _first(world, name, REPORT + "rule") in duties]
    yield from (Node(name) for name in named or told)


def instant(literal: Node) -> datetime:
    """Return the moment that an xsd:dateTime with a time zone names. Raises ValueError."""
    found = datetime.fromisoformat(literal.value)
    if found.tzinfo is None:
        raise ValueError("a time without a time zone names no moment")
    return found


def _moments(literal: Node) -> list[datetime]:
    """What a time has to be compared with: a moment, or the first and last in which a day begins that names no time zone. None of others.

    XML Schema part 2, section 3.2.7.4: time zones are at most 14 hours from UTC. Raises ValueError.
    """
    if literal.datatype == XSD + "date":
        return [datetime.fromisoformat(f"{literal.value}T00:00:00{zone}") for zone in ("+14:00", "-14:00")]
    return [instant(literal)] if literal.datatype == XSD + "dateTime" else []


def _premise(kind: str, met: bool) -> Report:
    return Report(kind=kind, states={"satisfactionState": _state(met)})


def _state(met: bool) -> Node:
    return _term("Satisfied" if met else "Unsatisfied")


def _term(name: str) -> Node:
    return Node(REPORT + name)


def _policy(graph: Graph) -> str:
    kinds = ("Set", "Offer", "Agreement", "Policy")
    return next((name for kind in kinds for name in _subjects(graph, kind)), "") or _subject(graph, "Policy")


def _subject(graph: Graph, kind: str) -> str:
    found = list(_subjects(graph, kind))
    if len(found) != 1:
        raise ValueError(f"the graph has {len(found)} of type odrl:{kind}, not one")
    return found[0]


def _subjects(graph: Graph, kind: str) -> Iterator[str]:
    return (name for name, members in graph.items() if Node(ODRL + kind) in members.get(TYPE, ()))


def _all(graph: Graph, subject: str, predicate: str) -> list[Node]:
    return graph.get(subject, {}).get(predicate, [])


def _first(graph: Graph, subject: str, predicate: str) -> Node | None:
    return next(iter(_all(graph, subject, predicate)), None)
