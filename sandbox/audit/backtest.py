"""Backtest: what candidate terms would have decided about every logged request. One idea, asked in two ways.

`Candidate`, beside a replay, takes ledgers as they were: a request that the candidate would have denied still counts as spent for later
ones. `history_under` goes on from its own decisions: a request that the candidate denies is charged nothing from then on, and one that it
allows is; what later decisions read follows. It takes the export as it is: `sandbox audit replay` says whether it may.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from policies.agreement import Agreement, Terms
from policies.budgets import period_begins, periods
from policies.codec import decode
from policies.decide import LAW_VERSION
from policies.entries import Header, LedgerCharge, Opening, open_body, parse_header
from policies.errors import Malformed, SandboxError
from policies.finding import Decision, Finding
from policies.grant import AnyPlan, ledgers_charged
from policies.odrl import parse_agreement, parse_offer
from policies.privacy import LARGEST, Loss
from policies.request import Facts, JobRequest, RecentFact, SpentFact
from sandbox.audit.bodies import DecidedBody, SignedBody
from sandbox.audit.charge_times import ChargeTimes
from sandbox.audit.checkpoint import LogKey, open_checkpoint
from sandbox.audit.export import Export
from sandbox.audit.laws import law_of
from sandbox.audit.totals import Total

Ledger = tuple[str, str]

EVER = -(2**62)
"""Before every time of an entry."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """Terms by dataset, in place of those that agreements have.

    Attributes:
        uid: of the only agreement that is concerned; None where every agreement on the datasets is.
    """

    terms: Mapping[str, Terms]
    uid: str | None = None

    def concerns(self, agreement: Agreement, plan: AnyPlan) -> bool:
        """Whether a query under an agreement reads a dataset that the candidate has terms on."""
        named = self.uid in (None, agreement.uid)
        return named and any(dataset in self.terms and dataset in agreement.by_dataset for dataset in plan.sources)

    def periods(self, agreement: Agreement, plan: AnyPlan) -> tuple[tuple[str, str, int], ...]:
        """Ledgers and days of which the decision reads recent charges; none where the terms do not fit the agreement."""
        try:
            return periods(self._applied(agreement), plan.sources)
        except Malformed:
            return ()

    def _applied(self, agreement: Agreement) -> Agreement:
        return replace(agreement, terms=tuple(self.terms.get(item.dataset, item) for item in agreement.terms))

    def decide(self, request: JobRequest, agreement: Agreement, plan: AnyPlan, facts: Facts, law: str) -> Decision:
        """The decision under the agreement with the candidate's terms; denied where these do not fit its parties and declarations."""
        try:
            return law_of(law).decide(request, self._applied(agreement), plan, facts)
        except Malformed as error:
            finding = Finding(rule="terms", dataset="", allowed=False, message=str(error))
            return Decision(allowed=False, minimum_group=1, findings=(finding,))


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """A logged decision that the candidate would have made otherwise.

    Attributes:
        index: of its entry.
        logged, candidate: whether each allows.
        why: the failing findings of the one that denies.
    """

    index: int
    job: str
    logged: bool
    candidate: bool
    why: tuple[str, ...]


def parse_candidate(document: Any) -> Candidate:
    """Candidate terms (ODRL JSON-LD): of an offer for every agreement on its dataset, of an agreement for those of its uid.

    Raises:
        Malformed: the document is neither.
    """
    kind = document.get("@type") if isinstance(document, dict) else None
    if kind == "Offer":
        offer = parse_offer(document)
        return Candidate(terms={offer.terms.dataset: offer.terms})
    if kind == "Agreement":
        agreement = parse_agreement(document)
        return Candidate(terms={terms.dataset: terms for terms in agreement.terms}, uid=agreement.uid)
    raise Malformed("a candidate is an offer or an agreement", where="@type")


def difference(index: int, job: str, logged: Decision, other: Decision) -> Difference | None:
    """How two decisions differ; None if both allow or both deny."""
    if logged.allowed == other.allowed:
        return None
    denying = other if logged.allowed else logged
    why = tuple(f"{f.rule} ({f.dataset}): {f.message}" for f in denying.findings if not f.allowed)
    return Difference(index=index, job=job, logged=logged.allowed, candidate=other.allowed, why=why)


def recent_fact(name: tuple[str, str, int], spent: Total, own: Total) -> RecentFact:
    """Return what a decision reads of recent charges of a ledger over so many days; a sum beyond the largest loss is that."""
    provider, id_space, days = name

    def loss(total: Total) -> Loss:
        return Loss(
            measure=total.measure,
            amount=max(0, min(total.amount, LARGEST.amount)),
            delta0=max(0, min(total.delta0, LARGEST.delta0)),
        )

    everything = loss(spent)
    part = loss(own)
    part = replace(part, amount=min(part.amount, everything.amount), delta0=min(part.delta0, everything.delta0))
    return RecentFact(provider=provider, id_space=id_space, days=days, spent=everything, own=part)


@dataclass(kw_only=True, slots=True)
class History:
    """What came of a history.

    Attributes:
        decisions: opened decisions under agreements that the candidate replaces; `unopened`: those whose body is not open.
        differ: those decided otherwise. `unread`: entries that cannot be read, with why.
    """

    decisions: int = 0
    unopened: int = 0
    differ: list[Difference] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)


def history_under(export: Export, key: LogKey, candidate: Agreement, name: str | None = None) -> History:
    """Return how the decisions of an exported log would have gone under `candidate`.

    Args:
        name: digest of the agreement that it replaces; by default every one with its uid.

    Raises:
        Malformed, Tampered: the checkpoint or a bundle of the export cannot be read.
    """
    size = open_checkpoint(export.checkpoint(), export.log_keys(key)[-1]).size
    world = _World(candidate=candidate, name=name)
    for index, data, opening in export.entries(size):
        try:
            world.take(index, parse_header(data), opening)
        except (SandboxError, KeyError) as error:
            world.found.unread.append(f"entry {index}: {error}")
    if not world.replaced:
        raise Malformed(f"no agreement `{name or candidate.uid}` is opened in this export", where="candidate")
    return world.found


@dataclass(kw_only=True)
class _World:
    """A history as the log has it, and by how much the candidate's differs.

    Attributes:
        replaced: agreements that the candidate stands for.
        logged: when ledgers were charged; `shift`: what the candidate charged besides, or, negative, did not charge.
        moved: ledgers, consumer and time of what a job shifts. `charged`: charges, consumer and time by job.
        uses: shifts of uses by provider and consumer, of all under the empty name.
    """

    candidate: Agreement
    name: str | None
    found: History = field(default_factory=History)
    replaced: set[str] = field(default_factory=set)
    logged: defaultdict[Ledger, ChargeTimes] = field(default_factory=lambda: defaultdict(ChargeTimes))
    shift: defaultdict[Ledger, ChargeTimes] = field(default_factory=lambda: defaultdict(ChargeTimes))
    moved: dict[str, tuple[DecidedBody, int]] = field(default_factory=dict)
    charged: dict[str, int] = field(default_factory=dict)
    uses: Counter[tuple[str, str]] = field(default_factory=Counter)

    def take(self, index: int, header: Header, opening: Opening | None) -> None:
        """Go on by one entry. Raises Malformed, Tampered or KeyError where it cannot be read."""
        ids = header.ids
        if header.kind == "proposed" and opening is not None:
            proposed = parse_agreement(decode(SignedBody, open_body(header, opening)).signed.body)
            if self.name == ids["agreement"] or (self.name is None and proposed.uid == self.candidate.uid):
                self.replaced.add(ids["agreement"])
        elif header.kind in ("charged", "epoch_opened"):
            self.charged[ids.get("job", "")] = header.at
            self._log(header.losses, ids.get("consumer", ""), header.at, 1)
        elif header.kind == "voided":
            self._log(header.losses, ids.get("consumer", ""), self.charged[ids["job"]], -1)
            if ids["job"] in self.moved:  # what was never charged here cannot be given back
                body, at = self.moved.pop(ids["job"])
                self._move(body, decode(JobRequest, body.signed.body), at, 1)
        elif header.kind == "decided" and ids["agreement"] in self.replaced:
            if opening is None:
                self.found.unopened += 1
            else:
                self._decide(index, ids["job"], header.at, decode(DecidedBody, open_body(header, opening)))

    def _decide(self, index: int, job: str, at: int, body: DecidedBody) -> None:
        request = decode(JobRequest, body.signed.body)
        self.found.decisions += 1
        facts = self._facts(body, request.consumer)
        decision = law_of(body.law).decide(request, self.candidate, body.plan, facts)
        found = difference(index, job, body.decision, decision)
        if found is not None:
            self.found.differ.append(found)
        known = all(dataset in self.candidate.by_dataset for dataset in body.plan.sources)
        moved = (decision.allowed and facts.repeats is None) - (body.decision.allowed and body.facts.repeats is None)
        if moved and known:
            self._move(body, request, at, moved)
            if moved < 0:
                self.moved[job] = (body, at)

    def _log(self, losses: tuple[LedgerCharge, ...], consumer: str, at: int, times: int) -> None:
        for loss in losses:
            self.logged[loss.provider, loss.id_space].add(at, times * loss.amount, times * loss.delta0, consumer)

    def _move(self, body: DecidedBody, request: JobRequest, at: int, times: int) -> None:
        for ledger in ledgers_charged(self.candidate, body.plan):
            self.shift[ledger].add(at, times * request.loss.amount, times * request.loss.delta0, request.consumer)
        for provider in {self.candidate.by_dataset[dataset].provider for dataset in body.plan.sources}:
            self.uses[provider, ""] += times
            self.uses[provider, request.consumer] += times

    def _facts(self, body: DecidedBody, consumer: str) -> Facts:
        facts = body.facts
        known = body.law == LAW_VERSION and all(dataset in self.candidate.by_dataset for dataset in body.plan.sources)
        return replace(
            facts,
            spent=tuple(self._shifted(fact, None) for fact in facts.spent),
            consumer_spent=tuple(self._shifted(fact, consumer) for fact in facts.consumer_spent),
            recent=tuple(
                recent_fact(name, self._recent(name, facts.now, None), self._recent(name, facts.now, consumer))
                for name in (periods(self.candidate, body.plan.sources) if known else ())
            ),
            uses=tuple(
                replace(
                    fact,
                    jobs=max(0, fact.jobs + self.uses[fact.provider, ""]),
                    own=max(0, fact.own + self.uses[fact.provider, consumer]),
                )
                for fact in facts.uses
            ),
        )

    def _shifted(self, fact: SpentFact, consumer: str | None) -> SpentFact:
        amount, delta0 = self.shift[fact.provider, fact.id_space].after(EVER, consumer)
        spent = fact.spent
        return replace(fact, spent=replace(spent, amount=max(0, spent.amount + amount), delta0=max(0, spent.delta0 + delta0)))

    def _recent(self, name: tuple[str, str, int], now: int, consumer: str | None) -> Total:
        provider, id_space, days = name
        sums = [times[provider, id_space].after(period_begins(now, days), consumer) for times in (self.logged, self.shift)]
        of_ledger = (
            self.candidate.terms_of(declaration.dataset).total_loss.measure
            for declaration in self.candidate.declarations
            if (declaration.provider, declaration.id_space) == (provider, id_space)
        )
        measure = next(of_ledger)
        return Total(measure=measure, amount=sum(amount for amount, _ in sums), delta0=sum(delta0 for _, delta0 in sums))
