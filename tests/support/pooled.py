"""Insurers, a notary, an analyst and an auditor of one pool on a running service, with every part at hand."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from enclaves.joint_main import answer
from enclaves.kit.child import Child
from policies.agreement import Offer, Terms
from policies.canonical import canonical, parse_json
from policies.errors import Unavailable
from policies.joint import Pool
from policies.privacy import parse_loss
from policies.request import JobRequest
from sandbox.cli.show import joint_rows
from sandbox.jobs.worker import Worker
from sandbox.party.agreeing import compose
from sandbox.party.contributing import Contributor
from sandbox.party.joint import JointPart
from sandbox.party.joint_client import JointClient
from sandbox.party.key_holding import KeyHolder
from tests.support.market import fresh_home
from tests.support.pool import SQL, claims_declaration, claims_pool, claims_table, claims_terms
from tests.support.service import Service


@dataclass(frozen=True, kw_only=True)
class PoolMarket:
    """One agreement with a pool.

    Attributes:
        insurers: ids of the contributors, in the pool's order.
        tables, files: by insurer.
    """

    service: Service
    clients: dict[str, JointClient]
    insurers: tuple[str, ...]
    notary: str
    analyst: str
    tables: dict[str, pa.Table]
    files: dict[str, Path]
    agreement: str

    def contributor(self, name: str, **changes: Any) -> Contributor:
        """An insurer's part."""
        return Contributor(client=self.clients[name], tables={f"{name}.claims": (self.files[name], {})}, **changes)

    def holder(self) -> KeyHolder:
        """The notary's part."""
        return KeyHolder(client=self.clients[self.notary])

    def parts(self, without: Iterable[str] = ()) -> list[JointPart]:
        """Everybody's part but that of some insurers."""
        return [self.holder(), *(self.contributor(name) for name in self.insurers if name not in without)]

    def request(self, sql: str = SQL, rho: str = "1", **changes: Any) -> JobRequest:
        """A request of the analyst's."""
        values = {
            "request_id": "r-" + secrets.token_hex(8),
            "agreement": self.agreement,
            "consumer": self.analyst,
            "purpose": "claims-statistics",
            "sql": sql,
            "loss": parse_loss("zcdp", rho),
        }
        return JobRequest(**{**values, **changes})

    def submit(self, **changes: Any) -> str:
        """Submit a request; the job's id."""
        return str(self.clients[self.analyst].submit(self.request(**changes))["id"])

    @contextmanager
    def working(self, **settings: Any) -> Iterator[Worker]:
        """A worker in a thread of this process that runs jobs meanwhile."""
        host = replace(self.service.host, config=replace(self.service.config, **settings))
        ended = threading.Event()
        worker = Worker(host=host, stopping=ended.is_set)
        thread = threading.Thread(target=worker.work)
        thread.start()
        try:
            yield worker
        finally:
            ended.set()
            thread.join()

    def finish(self, job: str, parts: list[JointPart], *, seconds: float = 300.0) -> dict[str, Any]:
        """Let parts work until the job has ended; returns its record."""
        deadline = time.monotonic() + seconds
        while (record := self.clients[self.analyst].job(job))["state"] in ("charged", "running"):
            assert time.monotonic() < deadline, "the job does not end"
            for part in parts:
                with suppress(Unavailable):  # a connection that broke off: everybody tries again
                    part.step()
            time.sleep(0.02)
        return record


def open_pool(
    service: Service,
    *,
    insurers: int = 3,
    pool: Callable[[tuple[str, ...], str], Pool] | None = None,
    people: int = 200,
    terms_of: Callable[[str, str], Terms] = claims_terms,
) -> PoolMarket:
    """Admit everybody, make offers and agree on a pool.

    Args:
        terms_of: an insurer's terms for a consumer.
    """
    tag = service.next_tag()
    names = tuple(f"insurer_{letter}_{tag}" for letter in "abcdefghij"[:insurers])
    notary, analyst, auditor = f"notary_{tag}", f"analyst_{tag}", f"auditor_{tag}"
    clients = {}
    for name in (*names, notary, analyst, auditor):
        clients[name] = JointClient(home=fresh_home(service, name))
        clients[name].join(service.code(name))
    offers, tables, files = [], {}, {}
    for index, name in enumerate(names):
        declaration = claims_declaration(name)
        clients[name].declare(declaration)
        terms = terms_of(name, analyst)
        offers.append(clients[name].offer(Offer(uid="claims", title="Claims", declaration=declaration, terms=terms))["digest"])
        tables[name] = claims_table(people, seed=index, first_person=index * 10_000)
        files[name] = clients[name].home.folder / "claims.parquet"
        pq.write_table(tables[name], files[name])
    pooled = (pool or (lambda members, holder: claims_pool(members, holder)))(names, notary)
    composed = compose(clients[analyst], f"claims-{tag}", "Claims by region and age", offers, [auditor], (pooled,))
    agreement = clients[analyst].propose(composed)["digest"]
    for client in clients.values():
        client.sign_agreement(agreement)
    return PoolMarket(
        service=service, clients=clients, insurers=names, notary=notary, analyst=analyst, tables=tables, files=files, agreement=agreement
    )


def work_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Children's work without children: starting one costs a second. What a child is asked still goes through JSON and files."""

    def ask(
        self: Child, question: Any, files: dict[str, Path] | None = None, output: Path | None = None, *, timeout: float = 0.0
    ) -> dict[str, Any]:
        found, made = answer(
            parse_json(canonical(dict(question)), limit=1 << 30), {name: path.read_bytes() for name, path in (files or {}).items()}
        )
        if output is not None:
            output.write_bytes(made)
        return found

    monkeypatch.setattr(Child, "ask", ask)
    monkeypatch.setattr(Child, "ready", lambda self: None)


def finish_without(market: PoolMarket, job: str, gone: str) -> dict[str, Any]:
    """Let everybody but one contribute, however long that takes; only then the run's patience is over, and has time again afterwards."""
    parts = market.parts(without=[gone])

    def contributed() -> bool:
        for part in parts:
            part.step()
        with market.service.host.store.reading() as tx:
            return len(tx.joint_contributions(job, 1)) == len(market.insurers) - 1

    with market.working(keys_timeout_s=300) as worker:
        config = worker.host.config

        def patient_again(step: str) -> None:
            """Within the run's own step: however slowly this test looks, the next attempt has all its time."""
            if step == "joint-dropped":
                object.__setattr__(config, "keys_timeout_s", 300.0)

        object.__setattr__(worker.host, "on_step", patient_again)
        until(contributed, 100)
        shown = market.clients[market.analyst].job(job).get("joint")
        assert shown is not None
        assert (shown["attempt"], shown["waiting_for"]) == (1, [gone])
        assert shown["contributed"] == [name for name in market.insurers if name != gone]
        assert market.service.host.now() < shown["until"]
        assert ("waits for", gone) == (joint_rows(shown)[2][0], joint_rows(shown)[2][1].split(" until ")[0])
        object.__setattr__(config, "keys_timeout_s", 0.0)
        return market.finish(job, parts)


def until(condition: Any, seconds: float = 120.0) -> None:
    import time

    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
