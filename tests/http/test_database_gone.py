"""A database that cannot be reached or read: the service says try again, tells nothing of the database, and does not fall over."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import create_engine, text

from app import compose
from policies.errors import Tampered, Unavailable
from sandbox.config import Config
from sandbox.exchange.participants import issue_code
from sandbox.jobs.worker import Worker
from sandbox.web.application import make_app
from tests.support.service import POSTGRESQL, fresh_database


def take_away(url: str) -> None:
    """Drop a PostgreSQL database, or make a SQLite file unreadable."""
    if url.startswith("sqlite"):
        path = Path(url.removeprefix("sqlite:///"))
        for file in path.parent.glob(path.name + "*"):
            file.write_bytes(b"not a database any more" * 1000)
        return
    server = create_engine(f"{POSTGRESQL}/postgres", isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)"))
    server.dispose()


@pytest.mark.parametrize("used_before", [True, False])
def test_a_lost_database_is_unavailable_and_nothing_of_it_is_told(database: str, tmp_path: Path, used_before: bool) -> None:
    with fresh_database(database) as url:
        host = compose(Config(data=tmp_path / "data", database=url, origin="tests.sandbox.local/log"))
        client = make_app(host).test_client()
        if used_before:
            assert client.get("/healthz").json == {"ok": True, "entries": 0}
        else:
            host.store.close()
        take_away(host.config.database_url)
        headers = {"Authorization": "Bearer " + "x" * 43}
        for path in ("/healthz", "/api/v1/jobs", "/api/v1/log/checkpoint", "/api/v1/log/entries?from=0&to=1"):
            response = client.get(path, headers=headers)
            assert response.status_code == 503, path
            assert response.mimetype == "application/problem+json"
            assert response.json is not None
            assert response.json["code"] == "database"
            assert url.rpartition("/")[2] not in response.text or not url
            assert "sql" not in response.text.lower()
        with pytest.raises(Unavailable):
            issue_code(host, "somebody")
        with pytest.raises(Unavailable):
            Worker(host=host).step()
        host.store.close()


def test_a_database_that_is_not_there_is_unavailable_at_the_start(database: str, tmp_path: Path) -> None:
    nowhere = {"sqlite": f"sqlite:///{tmp_path}", "postgresql": f"{POSTGRESQL}/there_is_no_such_database_{tmp_path.name}"}[database]
    with pytest.raises(Unavailable):
        compose(Config(data=tmp_path / "data", database=nowhere))


def test_the_database_of_another_log_is_not_taken_over(database: str, tmp_path: Path) -> None:
    with fresh_database(database) as url:
        compose(Config(data=tmp_path / "data", database=url, origin="tests.sandbox.local/log")).store.close()
        with pytest.raises(Tampered) as refused:
            compose(Config(data=tmp_path / "data", database=url, origin="other.sandbox.local/log"))
        assert refused.value.code == "other-log"
        compose(Config(data=tmp_path / "data", database=url, origin="tests.sandbox.local/log")).store.close()
