"""History under candidate terms: every logged decision anew, with ledgers and uses as they would have become under the candidate.

A request that the candidate denies is charged nothing from then on, and one that it allows is; what later decisions read follows. The
export is taken as it is: `sandbox audit replay` says whether it may be.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from policies.agreement import Agreement
from policies.codec import decode
from policies.entries import open_body, parse_header
from policies.errors import Malformed, SandboxError
from policies.grant import AnyPlan, ledgers_charged
from policies.odrl import parse_agreement
from policies.privacy import Loss
from policies.request import Facts, JobRequest, SpentFact
from sandbox.audit.checkpoint import LogKey, open_checkpoint
from sandbox.audit.export import Export
from sandbox.audit.judge_decision import DecidedBody
from sandbox.audit.judge_exchange import SignedBody
from sandbox.audit.laws import law_of

Ledger = tuple[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Otherwise:
    """A logged decision that the candidate would have made otherwise; `why` are the failing findings of the one that denies."""

    index: int
    job: str
    logged: bool
    candidate: bool
    why: tuple[str, ...]


@dataclass(kw_only=True, slots=True)
class History:
    """What came of a history.

    Attributes:
        decisions: opened decisions under agreements that the candidate replaces; `unopened`: those whose body is not open.
        differ: those decided otherwise. `unread`: entries that cannot be read, with why.
    """

    decisions: int = 0
    unopened: int = 0
    differ: list[Otherwise] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


@dataclass(kw_only=True, slots=True)
class _Shift:
    """By how much the candidate's ledgers and uses are above the logged ones."""

    amount: Counter[Ledger] = field(default_factory=Counter)
    delta0: Counter[Ledger] = field(default_factory=Counter)
    of_consumer: Counter[tuple[Ledger, str, str]] = field(default_factory=Counter)
    uses: Counter[tuple[str, str]] = field(default_factory=Counter)


def history_under(export: Export, key: LogKey, candidate: Agreement, name: str | None = None) -> History:
    """Return how the decisions of an exported log would have gone under `candidate`.

    Args:
        name: digest of the agreement that it replaces; by default every one with its uid.

    Raises:
        Malformed, Tampered: the checkpoint or a bundle of the export cannot be read.
    """
    size = open_checkpoint(export.checkpoint(), export.log_keys(key)[-1]).size
    replaced: set[str] = set()
    found, shift = History(), _Shift()
    for index, data, opening in export.entries(size):
        try:
            header = parse_header(data)
            if header.kind == "proposed" and opening is not None:
                proposed = parse_agreement(decode(SignedBody, open_body(header, opening)).signed.body)
                if name == header.ids["agreement"] or (name is None and proposed.uid == candidate.uid):
                    replaced.add(header.ids["agreement"])
            elif header.kind == "decided" and header.ids["agreement"] in replaced:
                if opening is None:
                    found.unopened += 1
                else:
                    _decide(found, shift, candidate, index, header.ids["job"], decode(DecidedBody, open_body(header, opening)))
        except (SandboxError, KeyError) as error:
            found.unread.append(f"entry {index}: {error}")
    if not replaced:
        raise Malformed(f"no agreement `{name or candidate.uid}` is opened in this export", where="candidate")
    return found


def _decide(found: History, shift: _Shift, candidate: Agreement, index: int, job: str, body: DecidedBody) -> None:
    request = decode(JobRequest, body.signed.body)
    found.decisions += 1
    facts = _shifted(body.facts, request.consumer, shift)
    known = all(dataset in candidate.by_dataset for dataset in body.plan.sources)
    decision = law_of(body.law).decide(request, candidate, body.plan, facts)
    if decision.allowed != body.decision.allowed:
        denying = decision if body.decision.allowed else body.decision
        why = tuple(f"{f.rule} ({f.dataset}): {f.message}" for f in denying.findings if not f.allowed)
        found.differ.append(Otherwise(index=index, job=job, logged=body.decision.allowed, candidate=decision.allowed, why=why))
    charged = (decision.allowed and facts.repeats is None) - (body.decision.allowed and body.facts.repeats is None)
    if charged and known:
        _move(shift, candidate, body.plan, request, charged)


def _move(shift: _Shift, candidate: Agreement, plan: AnyPlan, request: JobRequest, sign: int) -> None:
    for ledger in ledgers_charged(candidate, plan):
        shift.amount[ledger] += sign * request.loss.amount
        shift.delta0[ledger] += sign * request.loss.delta0
        shift.of_consumer[ledger, request.consumer, "amount"] += sign * request.loss.amount
        shift.of_consumer[ledger, request.consumer, "delta0"] += sign * request.loss.delta0
    for provider in {candidate.by_dataset[dataset].provider for dataset in plan.sources}:
        shift.uses[provider, ""] += sign
        shift.uses[provider, request.consumer] += sign


def _shifted(facts: Facts, consumer: str, shift: _Shift) -> Facts:
    def one(fact: SpentFact, amount: int, delta0: int) -> SpentFact:
        return replace(fact, spent=_moved(fact.spent, amount, delta0))

    def own(ledger: Ledger, part: str) -> int:
        return shift.of_consumer[ledger, consumer, part]

    ledgers = [((fact.provider, fact.id_space), fact) for fact in facts.spent]
    mine = [((fact.provider, fact.id_space), fact) for fact in facts.consumer_spent]
    return replace(
        facts,
        spent=tuple(one(fact, shift.amount[ledger], shift.delta0[ledger]) for ledger, fact in ledgers),
        consumer_spent=tuple(one(fact, own(ledger, "amount"), own(ledger, "delta0")) for ledger, fact in mine),
        uses=tuple(
            replace(
                fact, jobs=max(0, fact.jobs + shift.uses[fact.provider, ""]), own=max(0, fact.own + shift.uses[fact.provider, consumer])
            )
            for fact in facts.uses
        ),
    )


def _moved(spent: Loss, amount: int, delta0: int) -> Loss:
    return replace(spent, amount=max(0, spent.amount + amount), delta0=max(0, spent.delta0 + delta0))
