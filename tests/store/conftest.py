"""A store on each kind of database."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sandbox.store.database import Store
from tests.support.service import DATABASES, fresh_database

ORIGIN = "store.test/log"


@pytest.fixture(params=DATABASES)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database."""
    with fresh_database(str(request.param)) as found:
        yield found or f"sqlite:///{tmp_path / 'sandbox.sqlite3'}"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """A prepared store."""
    found = Store(url)
    found.prepare(ORIGIN)
    yield found
    found.close()
