"""Connections between service and PostgreSQL break before a statement arrives, or after it was applied and before its answer comes.

Whatever breaks, at whichever transaction of a job: its request is charged once, its grant runs once, its release comes out, and the log
replays. With SANDBOX_FULL=1 every single statement is cut, not only the ends of the transactions that write.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.engine import make_url

from policies.errors import Unavailable
from sandbox.jobs.submit import submit
from sandbox.party.broker import Broker
from sandbox.party.client import Client
from sandbox.store import database as database_module
from sandbox.store.database import Store
from sandbox.web.application import make_app
from tests.support.proxy import PAIR, How, Proxy, proxied
from tests.support.runs import COUNT_SQL, Direct, Town, found_town
from tests.support.service import fresh_database
from tests.support.steps import Line, again, require_sound, state_of

FULL = bool(os.environ.get("SANDBOX_FULL"))
EPSILON = "0.05"
PROVIDERS = ("insurer", "clinic") if FULL else ("insurer",)
"""One provider has all the steps that two have, in half the time."""


@dataclass
class Wired:
    """A town on PostgreSQL whose service reaches it through a proxy; `town.host` reaches it directly."""

    town: Town
    proxy: Proxy
    line: Line
    institute: Client
    url: str
    jobs: list[str] = field(default_factory=list)

    def through(self, label: str) -> str:
        """Submit a job and see it through to its end, both through the proxy."""
        request = self.town.request(label, sql="" if FULL else COUNT_SQL, epsilon=EPSILON)
        job = str(again(lambda: self.institute.submit(request))["id"])
        self.line.finish(job)
        self.jobs.append(job)
        assert again(lambda: self.institute.submit(request))["id"] == job
        return job


@pytest.fixture(scope="module")
def wired(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Wired]:
    with fresh_database("postgresql") as url:
        town = found_town(tmp_path_factory.mktemp("wired"), persons=10, total="100", database=url, queue="off")
        target = make_url(url)
        with proxied(str(target.host), target.port or 5432) as proxy:
            store = Store(target.set(port=proxy.port).render_as_string(hide_password=False))
            host = replace(town.host, store=store)
            app = make_app(host)

            def client(name: str) -> Client:
                session: Any = Direct(app)
                return Client(home=town.clients[name].home, session=session)

            line = Line(host=host, brokers=[Broker(client=client(name)) for name in PROVIDERS])
            yield Wired(town=town, proxy=proxy, line=line, institute=client("institute"), url=url)
            store.close()
        town.close()


def require_released_once(wired: Wired, job: str) -> None:
    """The job ended with a release, is handed out as the same bytes, and left the log sound."""
    assert wired.town.job(job).state == "released", wired.town.job(job).code
    sealed = [wired.town.clients["institute"]._get(f"/jobs/{job}/release")["sealed"] for _ in range(2)]
    assert sealed[0] == sealed[1]
    require_sound(wired.town.host)


def is_commit(data: bytes) -> bool:
    return b"COMMIT" in data


def commits_of_a_job(wired: Wired) -> int:
    """How many transactions of a job write something."""
    wired.proxy.watch()
    wired.through(f"counted-{len(wired.jobs)}")
    return sum(map(is_commit, wired.proxy.turns))


@pytest.mark.parametrize("how", PAIR)
def test_a_commit_whose_answer_or_question_was_lost_is_done_once(wired: Wired, how: How) -> None:
    count = commits_of_a_job(wired)
    assert count >= 10, "charge, take, challenges, evidence, key releases, release, and their checkpoints"
    fired = 0
    for nth in range(count):
        wired.proxy.cut(how, is_commit, nth)
        job = wired.through(f"commit-{how}-{nth}")
        fired += wired.proxy.fired is not None
        assert wired.town.job(job).state == "released", (nth, wired.town.job(job).code)
    require_released_once(wired, wired.jobs[-1])
    assert fired >= 10, "upkeep and sweeps are not due for every job; the job's own transactions all are"
    spent = wired.town.spent()
    assert len(set(wired.jobs)) == len(wired.jobs)
    assert spent["insurer"] == len(wired.jobs) * 50_000_000


@pytest.mark.parametrize("how", PAIR)
def test_any_statement_may_be_lost(wired: Wired, how: How) -> None:
    wired.proxy.watch()
    wired.through(f"turns-{how}")
    count = len(wired.proxy.turns)
    # Statements in the middle of transactions are alike: by default a few over the whole way are cut.
    chosen = range(count) if FULL else range(17, count, 60)
    for nth in chosen:
        wired.proxy.cut(how, nth=nth)
        job = wired.through(f"turn-{how}-{nth}")
        assert wired.town.job(job).state == "released", (nth, wired.proxy.fired, wired.town.job(job).code)
    require_released_once(wired, wired.jobs[-1])


@pytest.mark.parametrize("how", PAIR)
def test_a_database_that_goes_away_for_a_while_at_each_step_is_waited_for(wired: Wired, how: How) -> None:
    """Longer than any retry of a single statement, and begun by a lost or an applied commit."""
    host = wired.line.host
    for nth in (0, 3, 7):
        away: list[float] = []

        def watch(away: list[float] = away) -> None:
            if wired.proxy.fired is not None and not away:
                away.append(time.monotonic() + 0.4)
                wired.proxy.down = True
            if away and time.monotonic() > away[0]:
                wired.proxy.down = False

        wired.proxy.cut(how, is_commit, nth)
        wired.line.between = watch
        job = str(
            again(lambda nth=nth: wired.institute.submit(wired.town.request(f"away-{how}-{nth}", sql=COUNT_SQL, epsilon=EPSILON)))["id"]
        )  # type: ignore[misc]
        try:
            wired.line.finish(job)
        finally:
            wired.line.between = lambda: None
            wired.proxy.down = False
        wired.jobs.append(job)
        assert state_of(host, job) == "released"
    require_released_once(wired, wired.jobs[-1])


# The server ends the connection itself


def terminate(url: str, pid: int) -> None:
    """End a backend of the server, and wait until it is gone."""
    admin = Store(url)
    with admin.transaction() as tx:
        assert tx.connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": pid}).scalar_one()
    admin.close()


def backend(tx: Any) -> int:
    return int(tx.connection.execute(text("SELECT pg_backend_pid()")).scalar_one())


@pytest.mark.parametrize("when", ["in the middle", "at the commit"])
def test_a_transaction_whose_backend_is_terminated_leaves_nothing(wired: Wired, when: str) -> None:
    store = wired.town.host.store
    with store.reading() as tx:
        before = (tx.log_size(), tx.spent())
    with pytest.raises(Unavailable), store.transaction() as tx:  # noqa: PT012
        tx.hold_log()
        tx.append("opened", at=1, ids={}, body={})
        terminate(wired.url, backend(tx))
        if when == "in the middle":
            tx.append("opened", at=1, ids={}, body={})
    with store.reading() as tx:
        assert (tx.log_size(), tx.spent()) == before


# Whoever froze or was cut off holds nothing for ever


def test_a_process_that_froze_while_it_held_the_log_stops_nobody_for_long(wired: Wired, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database_module, "LOCK_TIMEOUT_MS", 300)
    monkeypatch.setattr(database_module, "IDLE_TIMEOUT_MS", 1500)
    frozen, other = Store(wired.url), Store(wired.url)
    with pytest.raises(Unavailable), frozen.transaction() as tx:  # noqa: PT012
        tx.hold_log()
        began = time.monotonic()
        with pytest.raises(Unavailable), other.transaction() as waiting:
            waiting.hold_log()
        assert time.monotonic() - began < 60, "it does not wait for ever"
        while not _free(other):
            assert time.monotonic() - began < 120
        tx.append("opened", at=1, ids={}, body={"written": "long after the server gave it up"})
    frozen.close()
    other.close()
    require_sound(wired.town.host)


def _free(store: Store) -> bool:
    try:
        with store.transaction() as tx:
            tx.hold_log()
    except Unavailable:
        return False
    return True


def test_more_callers_than_connections_are_told_to_come_back(wired: Wired, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(wired.url)
    monkeypatch.setattr(store._engine.pool, "_timeout", 0.1)
    held = [store.reading() for _ in range(15)]
    for item in held:
        item.__enter__().log_size()
    with pytest.raises(Unavailable), store.reading() as tx:
        tx.log_size()
    with pytest.raises(Unavailable), store.transaction() as tx:
        tx.log_size()
    for item in held:
        item.__exit__(None, None, None)
    with store.reading() as tx:
        assert tx.log_size() > 0
    store.close()


def test_a_submission_whose_backend_is_terminated_before_any_statement_charges_once(wired: Wired) -> None:
    """Every statement of the charging transaction in turn, savepoints included."""
    town = wired.town
    store = Store(wired.url)
    host = replace(town.host, store=store)
    caller = next(p for p in participants(town) if p.id == "institute")
    countdown = [0]
    done = 0

    def strike(connection: Any, cursor: Any, statement: str, *_: Any) -> None:
        if threading.current_thread() is not main or "pg_backend_pid" in statement:
            return
        countdown[0] -= 1
        if countdown[0] == 0:
            terminate(wired.url, int(connection.connection.dbapi_connection.info.backend_pid))

    main = threading.current_thread()
    event.listen(store._engine, "before_cursor_execute", strike)
    for nth in range(1, 60):
        request = town.request(f"terminated-{nth}", sql=COUNT_SQL, epsilon=EPSILON)
        signed = signed_request(town, request)
        countdown[0] = nth
        again(lambda signed=signed: submit(host, caller, signed))  # type: ignore[misc]
        done = nth
        if countdown[0] > 0:
            break
    assert 15 < done < 59, "every statement was struck once"
    store.close()
    town.host.publish()
    require_sound(town.host)


def participants(town: Town) -> list[Any]:
    from sandbox.exchange.paging import Page

    with town.host.store.reading() as tx:
        return list(tx.participants(Page(limit=100)).items)


def signed_request(town: Town, request: Any) -> Any:
    from enclaves.kit.envelope import sign_document

    return sign_document("job-request", "institute", request, town.clients["institute"].home.signing)
