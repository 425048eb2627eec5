"""Listings by page. A page continues after the sort key of the last item seen, so items added meanwhile neither repeat nor hide others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Column, ColumnElement, Connection, Select, and_, func, or_, select

from policies.canonical import parse_json
from policies.entries import MAX_ENTRY
from sandbox.exchange.paging import Listing, Page, Position
from sandbox.exchange.records import Dataset, Participant, StoredAgreement, StoredOffer
from sandbox.jobs.states import Job, KeyRequest
from sandbox.store.exchange import ExchangeTables, offer_of, participant_of
from sandbox.store.jobs import JobTables, job_of, key_request_of
from sandbox.store.schema import agreement_parties, agreements, entries, jobs, key_requests, offers, openings, participants
from sandbox.store.schema import datasets as dataset_table


class Listings(ExchangeTables, JobTables):
    """Reading many at once, inside one transaction."""

    connection: Connection

    def participants(self, page: Page) -> Listing[Participant]:
        """Participants by id."""
        rows, following = self._rows(select(participants), [(participants.c.id, False)], page)
        return Listing(items=tuple(participant_of(row) for row in rows), next=following)

    def datasets(self, page: Page, provider: str | None = None) -> Listing[Dataset]:
        """Declared datasets by name, of one provider if given."""
        name = dataset_table.c.dataset
        query = _matching(select(name), [(dataset_table.c.provider, provider)])
        rows, following = self._rows(query, [(name, False)], page)
        found = self.datasets_named([row.dataset for row in rows])
        return Listing(items=tuple(found), next=following)

    def offers(self, page: Page, provider: str | None = None) -> Listing[StoredOffer]:
        """Offers by provider and digest, of one provider if given."""
        query = _matching(select(offers), [(offers.c.provider, provider)])
        rows, following = self._rows(query, [(offers.c.provider, False), (offers.c.digest, False)], page)
        return Listing(items=tuple(offer_of(row) for row in rows), next=following)

    def agreements(self, participant: str, page: Page, state: str | None = None) -> Listing[StoredAgreement]:
        """Agreements that name a participant, by digest, in one state if given."""
        query = _matching(select(agreements.c.digest), [(agreements.c.state, state)]).where(agreements.c.digest.in_(_own(participant)))
        rows, following = self._rows(query, [(agreements.c.digest, False)], page)
        found = (self.agreement(row.digest) for row in rows)
        return Listing(items=tuple(item for item in found if item is not None), next=following)

    def jobs(
        self, participant: str, page: Page, state: str | None = None, consumer: str | None = None, agreement: str | None = None
    ) -> Listing[Job]:
        """Jobs under a participant's agreements, newest first, with the given state, consumer and agreement."""
        query = _matching(select(jobs), [(jobs.c.state, state), (jobs.c.consumer, consumer), (jobs.c.agreement, agreement)])
        rows, following = self._rows(
            query.where(jobs.c.agreement.in_(_own(participant))), [(jobs.c.created_at, True), (jobs.c.id, False)], page
        )
        return Listing(items=tuple(job_of(row) for row in rows), next=following)

    def open_key_requests(self, provider: str, page: Page) -> Listing[KeyRequest]:
        """Key requests of running jobs that wait for this provider's broker, oldest job first."""
        query = (
            select(key_requests, jobs.c.created_at)
            .join(jobs, jobs.c.id == key_requests.c.job)
            .where(key_requests.c.provider == provider, key_requests.c.state.in_(["wanted", "attested"]), jobs.c.state == "running")
        )
        rows, following = self._rows(query, [(jobs.c.created_at, False), (key_requests.c.job, False)], page)
        return Listing(items=tuple(key_request_of(row) for row in rows), next=following)

    def headers_of(self, participant: str, first: int, end: int) -> list[dict[str, Any]]:
        """Entry headers with first <= index < end that are about an agreement of a participant's."""
        rows = self.connection.execute(
            select(entries.c.data)
            .join(openings, openings.c.position == entries.c.position)
            .where(entries.c.position >= first, entries.c.position < end, openings.c.agreement.in_(_own(participant)))
            .order_by(entries.c.position)
        )
        return [parse_json(bytes(row.data), limit=MAX_ENTRY) for row in rows]

    def has_agreement(self, participant: str, digest: str) -> bool:
        """Whether an agreement names a participant."""
        query = select(func.count()).where(agreement_parties.c.agreement == digest, agreement_parties.c.participant == participant)
        return bool(self.connection.execute(query).scalar_one())

    def _rows(self, query: Select[Any], order: list[tuple[Column[Any], bool]], page: Page) -> tuple[Sequence[Any], Position | None]:
        """Rows of a page in `order` (column, descending), and the position of the last if more follow."""
        if page.after is not None:
            query = query.where(_beyond(order, page.after))
        query = query.order_by(*(column.desc() if descending else column.asc() for column, descending in order))
        rows = self.connection.execute(query.limit(page.limit + 1)).all()
        if len(rows) <= page.limit:
            return rows, None
        last = rows[page.limit - 1]
        return rows[: page.limit], tuple(getattr(last, column.name) for column, _ in order)


def _own(participant: str) -> Select[Any]:
    return select(agreement_parties.c.agreement).where(agreement_parties.c.participant == participant)


def _matching(query: Select[Any], wanted: list[tuple[Column[Any], str | None]]) -> Select[Any]:
    return query.where(*(column == value for column, value in wanted if value is not None))


def _beyond(order: list[tuple[Column[Any], bool]], after: Position) -> ColumnElement[bool]:
    """Rows whose sort key comes after `after`: the first column that differs decides."""
    cases = []
    for index, ((column, descending), value) in enumerate(zip(order, after, strict=True)):
        equal = [known == before for (known, _), before in zip(order[:index], after[:index], strict=True)]
        cases.append(and_(*equal, column < value if descending else column > value))
    return or_(*cases)
