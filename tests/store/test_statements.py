"""A page costs the same number of statements however many items it has."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import event

from sandbox.exchange.paging import Page
from sandbox.store.database import Store, Transaction
from tests.support.story import Story, tell


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A whole honest history on SQLite."""
    found = tell(tmp_path_factory.mktemp("story"), "")
    yield found
    found.host.store.close()


@contextmanager
def counted(store: Store) -> Iterator[list[str]]:
    """The statements that a store executes meanwhile."""
    seen: list[str] = []

    def note(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    event.listen(store._engine, "before_cursor_execute", note)
    try:
        yield seen
    finally:
        event.remove(store._engine, "before_cursor_execute", note)


LISTINGS: dict[str, Callable[[Transaction, Page], Any]] = {
    "participants": lambda tx, page: tx.participants(page),
    "datasets": lambda tx, page: tx.datasets(page),
    "offers": lambda tx, page: tx.offers(page),
    "agreements": lambda tx, page: tx.agreements("insurer", page),
    "jobs": lambda tx, page: tx.jobs("insurer", page),
}
MOST = {"participants": 1, "datasets": 1, "offers": 1, "agreements": 2, "jobs": 1}


@pytest.mark.parametrize("name", LISTINGS)
def test_a_page_takes_as_many_statements_for_many_items_as_for_one(story: Story, name: str) -> None:
    for limit in (1, 100):
        with story.host.store.reading() as tx, counted(story.host.store) as seen:
            found = LISTINGS[name](tx, Page(limit=limit))
        assert found.items
        assert len([statement for statement in seen if statement.startswith("SELECT")]) == MOST[name]


def test_the_ledgers_of_all_agreements_take_two_statements(story: Story) -> None:
    with story.host.store.reading() as tx, counted(story.host.store) as seen:
        assert tx.terms_of("insurer")
        assert tx.spent()
    assert len([statement for statement in seen if statement.startswith("SELECT")]) == 2
