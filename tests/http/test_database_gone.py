"""A database that cannot be reached or read: the service says try again, tells nothing of the database, and does not fall over."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import create_engine, text

from app import compose
from policies.errors import Tampered, Unavailable
from sandbox.config import Config
from sandbox.exchange.participants import issue_code
from sandbox.jobs.worker import Worker
from sandbox.party.client import Client
from sandbox.party.home import Home
from sandbox.web.application import make_app
from tests.support.runs import Direct
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


def test_connections_that_the_server_ended_are_replaced_without_a_failed_request(tmp_path: Path) -> None:
    with fresh_database("postgresql") as url:
        host = compose(Config(data=tmp_path / "data", database=url, origin="tests.sandbox.local/log"))
        app = make_app(host)
        somebody = Client(home=Home.create(tmp_path / "home", "somebody", "Somebody", "http://127.0.0.1"))
        somebody.session = cast(Any, Direct(app))
        somebody.join(issue_code(host, "somebody"))
        client, headers = app.test_client(), {"Authorization": f"Bearer {somebody.home.credential}"}
        server = create_engine(f"{POSTGRESQL}/postgres", isolation_level="AUTOCOMMIT")
        for path in ("/api/v1/me", "/api/v1/jobs", "/healthz"):
            assert client.get(path, headers=headers).status_code == 200
            with server.connect() as connection:
                name = url.rpartition("/")[2]
                ended = connection.execute(
                    text("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = :name"), {"name": name}
                )
                assert any(ended.scalars())
            assert client.get("/api/v1/me", headers=headers).status_code == 200
            assert client.get(path, headers=headers).status_code == 200
        server.dispose()
        host.store.close()
