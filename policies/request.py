"""What a consumer asks (`JobRequest`) and what the host states as facts when it decides."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from policies.agreement import EnclaveKind
from policies.codec import omitted
from policies.conditions import require_country
from policies.documents import SignedRotation
from policies.errors import Malformed
from policies.escrow import Course
from policies.exchange import Bound, Exchange
from policies.isolation import Layer, require_in_order
from policies.names import require_dataset, require_digest, require_name, require_request_id, require_slug
from policies.privacy import PARAMETERS, Loss
from policies.query import MAX_SQL
from policies.service import Scoring
from policies.tightening import SignedTightening
from policies.training import Training

MAX_ONWARD = 100
"""Most uses onward that one request states."""


@dataclass(frozen=True, kw_only=True, slots=True)
class OnwardUse:
    """To whom, and for what, the consumer will pass a release on."""

    recipient: str
    purpose: str

    def __post_init__(self) -> None:
        require_name(self.recipient, "recipient")
        require_slug(self.purpose, "purpose")


@dataclass(frozen=True, kw_only=True, slots=True)
class JobRequest:
    """A consumer's signed request for one release. `request_id` is chosen by the consumer; the same id never makes a second job.

    Attributes:
        onward: every use by others that the consumer will make of the release; nobody else may have it.
        exchange: the leg of an exchange that the job is part of.
        training: for a model: what is learned from the rows of `sql`, which then selects named columns instead of aggregates.
        scoring: for scores: which model scores the rows of `sql`, which then selects named columns. Its loss is 0.
    """

    kind: Literal["job-request/1"] = "job-request/1"
    request_id: str
    agreement: str
    consumer: str
    purpose: str
    sql: str
    loss: Loss
    onward: tuple[OnwardUse, ...] = omitted(())
    training: Training | None = omitted(None)
    exchange: Bound | None = omitted(None)
    scoring: Scoring | None = omitted(None)

    def __post_init__(self) -> None:
        require_request_id(self.request_id, "request_id")
        require_digest(self.agreement, "agreement")
        require_name(self.consumer, "consumer")
        require_slug(self.purpose, "purpose")
        if len(self.sql) > MAX_SQL:
            raise Malformed(f"is longer than {MAX_SQL} characters", where="sql", code="sql")
        if self.scoring is not None:
            self._require_scoring()
        elif self.loss.amount <= 0:
            raise Malformed(f"{PARAMETERS[self.loss.measure]} must be above 0", where="loss.amount")
        if len(self.onward) > MAX_ONWARD or len(set(self.onward)) != len(self.onward):
            raise Malformed(f"must be distinct uses, at most {MAX_ONWARD}", where="onward")

    def _require_scoring(self) -> None:
        if self.training is not None:
            raise Malformed("a request trains a model or scores rows, not both", where="scoring")
        if self.loss.amount or self.loss.delta0:
            raise Malformed("scores of one's own rows cost no privacy loss: ask for 0", where="loss.amount")


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionFact:
    """The newest published version of a dataset: what a run would read."""

    dataset: str
    version: int
    file_digest: str

    def __post_init__(self) -> None:
        require_dataset(self.dataset, "dataset")
        require_digest(self.file_digest, "file_digest")


@dataclass(frozen=True, kw_only=True, slots=True)
class SpentFact:
    """What a provider's ledger of one id space has paid so far, over all agreements and consumers."""

    provider: str
    id_space: str
    spent: Loss


@dataclass(frozen=True, kw_only=True, slots=True)
class RecentFact:
    """What a ledger was charged in the last `days` days before a decision: in all, and counting to the asking consumer (`own`)."""

    provider: str
    id_space: str
    days: int
    spent: Loss
    own: Loss

    def __post_init__(self) -> None:
        if self.days < 1 or self.own.amount > self.spent.amount or self.own.delta0 > self.spent.delta0:
            raise Malformed("what counts to one consumer is part of all", where="own")


@dataclass(frozen=True, kw_only=True, slots=True)
class UsesFact:
    """How many jobs under the agreement a provider's keys were granted for so far: in all, and for the asking consumer (`own`).

    `paid`: payments of the consumer under the agreement that the provider has confirmed.
    """

    provider: str
    jobs: int
    own: int
    paid: int = omitted(0)

    def __post_init__(self) -> None:
        require_name(self.provider, "provider")
        if not 0 <= self.own <= self.jobs or self.paid < 0:
            raise Malformed("a consumer's jobs are some of all jobs", where="own")


@dataclass(frozen=True, kw_only=True, slots=True)
class ExchangeFact:
    """An exchange, named by its digest, and its course before the decision."""

    exchange: Exchange
    course: Course


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredFact:
    """How many rows a model has scored for the asking consumer under the agreement, within the time that its terms count."""

    dataset: str
    rows: int

    def __post_init__(self) -> None:
        require_dataset(self.dataset, "dataset")
        if self.rows < 0:
            raise Malformed("rows are counted from 0", where="rows")


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """Everything a decision reads besides request, agreement and plan. Replay re-derives all but time and enclave from the log.

    Attributes:
        now: seconds since 1970.
        enclave_kind, measurement: of the enclave that the host would start.
        consumer_spent: of what the ledgers have paid, the part that counts to the asking consumer: what was charged for it, and what was
            charged before charges named their consumer.
        repeats: the job that answered the very same question with a release before; what it released is handed out again, uncharged.
        rotations: those that lead from the consumer's keys in the agreement to its keys in force. Facts of the first logs name none.
        tightenings: of the agreement, in the order of the log.
        uses: of the agreement, for providers whose terms count them.
        enclave_jurisdiction, enclave_debug: of the enclave that the host would start; None where it does not say.
        approved_by: parties that approved this very request, sorted.
        overdue: jobs of the consumer under the agreement whose release was to be deleted by now, and was not reported as deleted.
        recent: of ledgers whose bounds are renewed, sorted by ledger and days.
        exchange: the exchange that the request is bound to, and how far it got, where the asking consumer is a participant of it.
        isolation: the layers around every enclave that the host would start; stated where terms require any.
        scored: of the model that a call asks, where its terms count rows.
    """

    now: int
    enclave_kind: EnclaveKind
    measurement: str
    versions: tuple[VersionFact, ...]
    spent: tuple[SpentFact, ...]
    consumer_spent: tuple[SpentFact, ...] = omitted(())
    repeats: str | None = omitted(None)
    rotations: tuple[SignedRotation, ...] = omitted(())
    tightenings: tuple[SignedTightening, ...] = omitted(())
    uses: tuple[UsesFact, ...] = omitted(())
    enclave_jurisdiction: str | None = omitted(None)
    enclave_debug: bool | None = omitted(None)
    approved_by: tuple[str, ...] = omitted(())
    overdue: tuple[str, ...] = omitted(())
    isolation: tuple[Layer, ...] = omitted(())
    recent: tuple[RecentFact, ...] = omitted(())
    exchange: ExchangeFact | None = omitted(None)
    scored: tuple[ScoredFact, ...] = omitted(())

    def __post_init__(self) -> None:
        require_in_order(self.isolation, "isolation")
        named = [(fact.provider, fact.id_space, fact.days) for fact in self.recent]
        if named != sorted(set(named)):
            raise Malformed("states a ledger's recent charges twice, or not in order", where="recent")
        datasets = [fact.dataset for fact in self.versions]
        for spent in (self.spent, self.consumer_spent):
            if len({(fact.provider, fact.id_space) for fact in spent}) != len(spent):
                raise Malformed("states a ledger twice")
        if len(set(datasets)) != len(datasets) or len({fact.dataset for fact in self.scored}) != len(self.scored):
            raise Malformed("states a dataset twice")
        if self.repeats is not None:
            require_slug(self.repeats, "repeats")
        if self.enclave_jurisdiction is not None:
            require_country(self.enclave_jurisdiction, "enclave_jurisdiction")
        if list(self.approved_by) != sorted(set(self.approved_by)) or len({fact.provider for fact in self.uses}) != len(self.uses):
            raise Malformed("states an approval or a provider's uses twice, or not in order")

    def uses_of(self, provider: str) -> UsesFact:
        """How often a provider's keys were granted under the agreement; never, if nothing is stated."""
        for fact in self.uses:
            if fact.provider == provider:
                return fact
        return _unused(provider)

    def recent_on(self, provider: str, id_space: str, days: int) -> RecentFact:
        """What a ledger was charged in the last `days` days. Raises Malformed where that is not stated."""
        for fact in self.recent:
            if (fact.provider, fact.id_space, fact.days) == (provider, id_space, days):
                return fact
        raise Malformed(f"nothing is stated of what {provider}/{id_space} was charged in the last {days} days", where="recent")

    def scored_by(self, dataset: str) -> int | None:
        """Rows that a model has scored for the consumer so far; None where it is not stated."""
        return next((fact.rows for fact in self.scored if fact.dataset == dataset), None)

    def version_of(self, dataset: str) -> VersionFact | None:
        """The newest version of a dataset, or None if none is published."""
        return next((fact for fact in self.versions if fact.dataset == dataset), None)

    def spent_on(self, provider: str, id_space: str) -> Loss:
        """What a ledger has paid; zero if it has no charge yet."""
        return _spent_on(self.spent, provider, id_space)

    def consumer_spent_on(self, provider: str, id_space: str) -> Loss:
        """What a ledger has paid that counts to the asking consumer."""
        return _spent_on(self.consumer_spent, provider, id_space)


def _spent_on(facts: tuple[SpentFact, ...], provider: str, id_space: str) -> Loss:
    for fact in facts:
        if fact.provider == provider and fact.id_space == id_space:
            return fact.spent
    return _NOTHING


_NOTHING = Loss(amount=0)


@lru_cache(maxsize=1024)
def _unused(provider: str) -> UsesFact:
    return UsesFact(provider=provider, jobs=0, own=0)
