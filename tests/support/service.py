"""A real service for tests: gunicorn with two processes, a worker and brokers, on a free loopback port and a database of its own."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import requests
from sqlalchemy import Engine, Table, create_engine, func, literal, select, text, union_all, update
from sqlalchemy.exc import OperationalError

from app import compose
from policies.documents import secret_digest
from sandbox.config import Config, describe
from sandbox.exchange.participants import issue_code
from sandbox.host import Host
from sandbox.party.client import Client
from sandbox.store.schema import admission_codes, metadata, workers

DATABASES = ("sqlite", "postgresql")
POSTGRESQL = os.environ.get("TEST_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1:5432")
ON_ONE_DATABASE = pytest.mark.parametrize("database", ["sqlite"], indirect=True, scope="session")
"""For what is refused before any database is asked."""
START_TIMEOUT_S = 240.0
UPLOAD_BYTES = 400_000
JSON_BYTES = 1 << 20
LOWEST_PORT, HIGHEST_PORT = 20_000, 32_000
_FIRST = LOWEST_PORT + os.getpid() * 97 % (HIGHEST_PORT - LOWEST_PORT)
_PORTS = chain(range(_FIRST, HIGHEST_PORT), range(LOWEST_PORT, _FIRST))
_CLAIMS: list[socket.socket] = []


@contextmanager
def fresh_database(kind: str) -> Iterator[str]:
    """The URL of an empty database, dropped afterwards; empty for SQLite, which lives in the data folder. Skips without PostgreSQL.

    A commit does not wait for the disk here: what a dead server leaves is shown by servers of the tests' own (`tests.support.cluster`).
    """
    if kind == "sqlite":
        yield ""
        return
    name = f"sandbox_test_{uuid.uuid4().hex[:12]}"
    server = create_engine(f"{POSTGRESQL}/postgres", isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 30})
    try:
        with server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
            connection.execute(text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
    except OperationalError:
        server.dispose()
        pytest.skip(f"no PostgreSQL at {POSTGRESQL}: apt-get install postgresql, or name another server in TEST_POSTGRESQL")
    try:
        yield f"{POSTGRESQL}/{name}"
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        server.dispose()


@dataclass(kw_only=True)
class Service:
    """A running service with everything that a test may ask of it from outside.

    Attributes:
        folder: of logs and homes; the service's own data are in `config.data` below it.
        host: composed over the same database, for what an operator does on the service's machine.
    """

    folder: Path
    config: Config
    port: int
    host: Host
    engine: Engine
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    counter: int = 0

    @property
    def url(self) -> str:
        """Address of the service."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def api(self) -> str:
        """Address of the API."""
        return f"{self.url}/api/v1"

    @property
    def environment(self) -> dict[str, str]:
        """What a process of this service finds in its environment."""
        return environment(self.config)

    def next_tag(self) -> str:
        """A word that no earlier call returned, for fresh names."""
        self.counter += 1
        return f"{self.counter:03d}"

    def start(self, name: str, *arguments: str) -> None:
        """Start `sandbox ARGUMENTS`; its output goes to NAME.log."""
        self.processes[name] = spawn(self.folder / f"{name}.log", self.environment, *arguments)

    def stop(self, *names: str) -> None:
        """Stop these processes, or all."""
        for name in names or tuple(self.processes):
            end(self.processes.pop(name))

    @contextmanager
    def brokers(self, *clients: Client) -> Iterator[None]:
        """A broker process for each of these providers, while the context lasts."""
        names = [f"broker-{client.home.participant}" for client in clients]
        for name, client in zip(names, clients, strict=True):
            self.start(name, "party", "broker", "--home", str(client.home.folder))
        try:
            yield
        finally:
            self.stop(*names)

    def code(self, participant: str) -> str:
        """A fresh one-time admission code."""
        return issue_code(self.host, participant)

    def expire_code(self, code: str) -> None:
        """Let an admission code's day be over."""
        with self.engine.begin() as connection:
            connection.execute(update(admission_codes).where(admission_codes.c.code_digest == secret_digest(code)).values(expires_at=1))

    def rows(self, table: Table) -> list[dict[str, Any]]:
        """All rows of a table."""
        with self.engine.connect() as connection:
            return [dict(row._mapping) for row in connection.execute(select(table))]

    def state(self) -> dict[str, tuple[int, str]]:
        """Number of rows and a digest of all contents per table, and the same for the uploads. A worker's lease is no content."""
        found = {}
        for table in contents():
            rows = sorted(repr({k: v for k, v in row.items() if k != "lease_until"}) for row in self.rows(table))
            found[table.name] = (len(rows), hashlib.sha256("\n".join(rows).encode()).hexdigest())
        files = self.uploads()
        return found | {"uploads/": (len(files), ",".join(files))}

    def counts(self) -> dict[str, int]:
        """Number of rows per table, and of uploads: what a change most likely shows in, at a small part of the cost of `state`."""
        parts = [select(literal(table.name), func.count()).select_from(table) for table in metadata.sorted_tables]
        with self.engine.connect() as connection:
            found = {name: int(count) for name, count in connection.execute(union_all(*parts))}
        return found | {"uploads/": len(self.uploads())}

    def uploads(self) -> list[str]:
        """Names of the files in the folder of uploads."""
        folder = self.config.data / "uploads"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def headers(self) -> list[dict[str, Any]]:
        """The public headers of the log, in order."""
        from policies.canonical import parse_json

        with self.host.store.reading() as tx:
            return [parse_json(data) for data in tx.entries(0, tx.log_size())]

    def spent(self, provider: str) -> int:
        """Nano-epsilon that a provider's ledgers have paid."""
        with self.host.store.reading() as tx:
            return sum(loss.amount for (name, _), loss in tx.spent().items() if name == provider)


@contextmanager
def running(
    folder: Path, kind: str = "sqlite", *, worker: bool = False, keys_timeout_s: float = 300.0, **settings: Any
) -> Iterator[Service]:
    """A fresh service; all its processes start at once on an empty database, and are gone at its end. No rate limits."""
    with fresh_database(kind) as database:
        config = Config(
            data=folder / "data",
            database=database,
            origin="tests.sandbox.local/log",
            upload_bytes=settings.pop("upload_bytes", UPLOAD_BYTES),
            json_bytes=JSON_BYTES,
            keys_timeout_s=keys_timeout_s,
            address_rate=0.0,
            credential_rate=0.0,
            **settings,
        )
        port = free_port()
        web = spawn(folder / "web.log", environment(config), "serve", "--bind", f"127.0.0.1:{port}", "--processes", "2")
        processes = {"web": web}
        if worker:
            processes["worker"] = spawn(folder / "worker.log", environment(config), "worker")
        try:
            wait_until_up(f"http://127.0.0.1:{port}", web, folder / "web.log")
            host, engine = compose(config), create_engine(config.database_url)
            service = Service(folder=folder, config=config, port=port, host=host, engine=engine, processes=processes)
            try:
                yield service
            finally:
                host.store.close()
                engine.dispose()
        finally:
            for process in processes.values():
                kill(process)


def contents() -> list[Table]:
    """All tables but that of the workers: they say that they live whatever is asked of the service."""
    return [table for table in metadata.sorted_tables if table is not workers]


def environment(config: Config) -> dict[str, str]:
    """The environment that spells `config`, with nothing of the caller's settings."""
    values = {item.variable: getattr(config, item.name) for item in describe()}
    settings = {name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in values.items()}
    return {k: v for k, v in os.environ.items() if not k.startswith("SANDBOX_")} | settings


def spawn(output: Path, environment: dict[str, str], *arguments: str) -> subprocess.Popen[bytes]:
    """Start `sandbox ARGUMENTS` in a session of its own."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab") as file:
        command = [sys.executable, "-m", "sandbox", *arguments]
        return subprocess.Popen(command, env=environment, stdout=file, stderr=file, cwd=checkout(), start_new_session=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a process to stop, and kill its whole session if it does not."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def free_port() -> int:
    """A loopback port for this process alone.

    It is below those that the kernel gives to whoever asks for any, so that nobody is given it before a service listens there; and while
    this process lives, a name among the kernel's abstract sockets keeps every other test process from it.
    """
    for port in _PORTS:
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0sandbox-tests-{port}")
            with socket.socket() as trial:
                trial.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        _CLAIMS.append(claim)
        return port
    raise AssertionError("no port is free")


def wait_until_up(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until the service answers."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"{url}/healthz", timeout=30).ok:
                return
        except requests.RequestException:
            pass
        time.sleep(0.05)
    raise AssertionError(f"the service did not start: {log.read_text(errors='replace')[-3000:]}")


def checkout() -> Path:
    """The folder that holds the code under test."""
    return Path(__file__).resolve().parents[2]
