"""Backtest: what candidate terms would have decided about every logged request, on the facts that were logged with it.

Ledgers are those of the history as it was: a request that the candidate would have denied still counts as spent for later ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from policies.agreement import Agreement, Terms
from policies.errors import Malformed
from policies.finding import Decision, Finding
from policies.grant import AnyPlan
from policies.odrl import parse_agreement, parse_offer
from policies.request import Facts, JobRequest
from sandbox.audit.laws import law_of


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

    def decide(self, request: JobRequest, agreement: Agreement, plan: AnyPlan, facts: Facts, law: str) -> Decision:
        """The decision under the agreement with the candidate's terms; denied where these do not fit its parties and declarations."""
        terms = tuple(self.terms.get(item.dataset, item) for item in agreement.terms)
        try:
            return law_of(law).decide(request, replace(agreement, terms=terms), plan, facts)
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
