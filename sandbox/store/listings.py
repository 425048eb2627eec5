"""Listings by page. A page continues after the sort key of the last item seen, so items added meanwhile neither repeat nor hide others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Integer, Select, and_, bindparam, or_, select

from policies.canonical import parse_json
from policies.entries import MAX_ENTRY
from sandbox.exchange.escrow_states import StoredExchange
from sandbox.exchange.paging import Listing, Page, Position
from sandbox.exchange.records import Dataset, Participant, StoredAgreement, StoredOffer
from sandbox.jobs.notices import Notice
from sandbox.jobs.states import ASKED, Job, KeyRequest
from sandbox.store.escrow import exchange_of
from sandbox.store.exchange import DATASETS, ExchangeTables, dataset_of, offer_of, participant_of
from sandbox.store.jobs import JobTables, job_of, key_request_of
from sandbox.store.notices import notice_of
from sandbox.store.schema import (
    agreement_parties,
    agreements,
    datasets,
    entries,
    exchanges,
    jobs,
    key_requests,
    notices,
    offers,
    openings,
    participants,
)

_OWN = select(agreement_parties.c.agreement).where(agreement_parties.c.participant == bindparam("participant"))
_JOB_OF_PARTY = select(jobs).where(jobs.c.id == bindparam("id"), jobs.c.agreement.in_(_OWN))
_HEADERS = (
    select(entries.c.data)
    .join(openings, openings.c.position == entries.c.position)
    .where(entries.c.position >= bindparam("first"), entries.c.position < bindparam("end"), openings.c.agreement.in_(_OWN))
    .order_by(entries.c.position)
)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Sorted:
    """A listing: what it selects, by which columns it may be narrowed, and its order as (column, descending) pairs."""

    query: Select[Any]
    order: tuple[tuple[Column[Any], bool], ...]
    filters: tuple[Column[Any], ...] = ()


_PARTICIPANTS = _Sorted(query=select(participants), order=((participants.c.id, False),))
_DATASETS = _Sorted(query=DATASETS, order=((datasets.c.dataset, False),), filters=(datasets.c.provider,))
_OFFERS = _Sorted(query=select(offers), order=((offers.c.provider, False), (offers.c.digest, False)), filters=(offers.c.provider,))
_AGREEMENTS = _Sorted(
    query=select(agreements).where(agreements.c.digest.in_(_OWN)), order=((agreements.c.digest, False),), filters=(agreements.c.state,)
)
_JOBS = _Sorted(
    query=select(jobs).where(jobs.c.agreement.in_(_OWN)),
    order=((jobs.c.created_at, True), (jobs.c.id, False)),
    filters=(jobs.c.state, jobs.c.consumer, jobs.c.agreement),
)
_OPEN_KEY_REQUESTS = _Sorted(
    query=select(key_requests, jobs.c.created_at)
    .join(jobs, jobs.c.id == key_requests.c.job)
    .where(
        key_requests.c.provider == bindparam("provider"),
        (key_requests.c.state.in_(["wanted", "attested"]) & (jobs.c.state == "running")) | (key_requests.c.renounced == ASKED),
    ),
    order=((jobs.c.created_at, False), (key_requests.c.job, False)),
)
_NOTICES = _Sorted(
    query=select(notices).where(notices.c.participant == bindparam("participant")),
    order=((notices.c.at, True), (notices.c.id, False)),
    filters=(notices.c.state,),
)
_MINE = or_(*(column == bindparam("participant") for column in (exchanges.c.first, exchanges.c.second, exchanges.c.arbiter)))
_EXCHANGES = _Sorted(
    query=select(exchanges).where(_MINE), order=((exchanges.c.at, True), (exchanges.c.digest, False)), filters=(exchanges.c.stage,)
)


class Listings(ExchangeTables, JobTables):
    """Reading many at once, inside one transaction."""

    connection: Connection

    def participants(self, page: Page) -> Listing[Participant]:
        """Participants by id."""
        rows, following = self._rows(_PARTICIPANTS, page)
        return Listing(items=tuple(participant_of(row) for row in rows), next=following)

    def datasets(self, page: Page, provider: str | None = None) -> Listing[Dataset]:
        """Declared datasets by name, of one provider if given."""
        rows, following = self._rows(_DATASETS, page, {"provider": provider})
        return Listing(items=tuple(dataset_of(row) for row in rows), next=following)

    def offers(self, page: Page, provider: str | None = None) -> Listing[StoredOffer]:
        """Offers by provider and digest, of one provider if given."""
        rows, following = self._rows(_OFFERS, page, {"provider": provider})
        return Listing(items=tuple(offer_of(row) for row in rows), next=following)

    def agreements(self, participant: str, page: Page, state: str | None = None) -> Listing[StoredAgreement]:
        """Agreements that name a participant, by digest, in one state if given."""
        rows, following = self._rows(_AGREEMENTS, page, {"state": state}, participant=participant)
        return Listing(items=self.signed_by(rows), next=following)

    def jobs(
        self, participant: str, page: Page, state: str | None = None, consumer: str | None = None, agreement: str | None = None
    ) -> Listing[Job]:
        """Jobs under a participant's agreements, newest first, with the given state, consumer and agreement."""
        narrowed = {"state": state, "consumer": consumer, "agreement": agreement}
        rows, following = self._rows(_JOBS, page, narrowed, participant=participant)
        return Listing(items=tuple(job_of(row) for row in rows), next=following)

    def open_key_requests(self, provider: str, page: Page) -> Listing[KeyRequest]:
        """Key requests of running jobs, and of failed ones to be renounced, that wait for this provider's broker, oldest job first."""
        rows, following = self._rows(_OPEN_KEY_REQUESTS, page, provider=provider)
        return Listing(items=tuple(key_request_of(row) for row in rows), next=following)

    def notices(self, participant: str, page: Page, state: str | None = None) -> Listing[Notice]:
        """Notices to a participant's webhook, newest first, in one state if given."""
        rows, following = self._rows(_NOTICES, page, {"state": state}, participant=participant)
        return Listing(items=tuple(notice_of(row) for row in rows), next=following)

    def exchanges_of(self, participant: str, page: Page, stage: str | None = None) -> Listing[StoredExchange]:
        """Exchanges of which somebody is a participant or the arbiter, newest first, at one stage if given."""
        rows, following = self._rows(_EXCHANGES, page, {"stage": stage}, participant=participant)
        return Listing(items=tuple(exchange_of(row) for row in rows), next=following)

    def headers_of(self, participant: str, first: int, end: int) -> list[dict[str, Any]]:
        """Entry headers with first <= index < end that are about an agreement of a participant's."""
        rows = self.connection.execute(_HEADERS, {"participant": participant, "first": first, "end": end})
        return [parse_json(bytes(row.data), limit=MAX_ENTRY) for row in rows]

    def job_of_party(self, job_id: str, participant: str) -> Job | None:
        """The job of that id, if it is under an agreement that names the participant."""
        row = self.connection.execute(_JOB_OF_PARTY, {"id": job_id, "participant": participant}).one_or_none()
        return None if row is None else job_of(row)

    def _rows(
        self, listing: _Sorted, page: Page, narrowed: dict[str, str | None] | None = None, **values: Any
    ) -> tuple[Sequence[Any], Position | None]:
        """Rows of a page, and the position of the last if more follow. `narrowed` names columns of the listing's filters."""
        given = {f"only_{name}": value for name, value in (narrowed or {}).items() if value is not None}
        after = {f"after_{index}": value for index, value in enumerate(page.after or ())}
        statement = _statement(listing, frozenset(given), page.after is not None)
        rows = self.connection.execute(statement, {**values, **given, **after, "most": page.limit + 1}).all()
        if len(rows) <= page.limit:
            return rows, None
        last = rows[page.limit - 1]
        return rows[: page.limit], tuple(getattr(last, column.name) for column, _ in listing.order)


@lru_cache(maxsize=256)
def _statement(listing: _Sorted, given: frozenset[str], continued: bool) -> Select[Any]:
    """The statement of a page, built once per form: building one costs more than running it on SQLite."""
    query = listing.query.where(
        *(column == bindparam(f"only_{column.name}") for column in listing.filters if f"only_{column.name}" in given)
    )
    if continued:
        query = query.where(_beyond(listing.order))
    query = query.order_by(*(column.desc() if descending else column.asc() for column, descending in listing.order))
    return query.limit(bindparam("most", type_=Integer))


def _beyond(order: tuple[tuple[Column[Any], bool], ...]) -> ColumnElement[bool]:
    """Rows whose sort key comes after that of `after_0`, `after_1`, ...: the first column that differs decides."""
    cases = []
    for index, (column, descending) in enumerate(order):
        equal = [known == bindparam(f"after_{place}") for place, (known, _) in enumerate(order[:index])]
        cases.append(and_(*equal, column < bindparam(f"after_{index}") if descending else column > bindparam(f"after_{index}")))
    return or_(*cases)
