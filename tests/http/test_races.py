"""Eight at once: whatever may happen once happens once, and everybody gets the answer that the winner's order gives."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import pytest

from policies.documents import VersionManifest
from policies.errors import BudgetExhausted, Conflict, Forbidden, SandboxError
from policies.privacy import NANO
from sandbox.party.client import Client
from sandbox.store.database import Store
from sandbox.store.schema import jobs, ledgers, versions
from tests.support.doors import DOORS, Door
from tests.support.market import Market, fresh_home, open_market, plans_declaration
from tests.support.service import Service, fresh_database

AT_ONCE = 8
T = TypeVar("T")


def at_once(calls: list[Callable[[], T]]) -> list[T | SandboxError]:
    """Make all calls at the same moment; a typed error is an answer too."""
    barrier = threading.Barrier(len(calls))

    def one(call: Callable[[], T]) -> T | SandboxError:
        barrier.wait(timeout=120)
        try:
            return call()
        except SandboxError as error:
            return error

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(one, calls))


def kinds(answers: list[Any]) -> Counter[str]:
    """How many answers were good, and how many errors there were of each code."""
    return Counter(answer.code if isinstance(answer, SandboxError) else "ok" for answer in answers)


def entries(service: Service, first: int) -> Counter[str]:
    """How many entries of each kind the log holds from `first` on."""
    return Counter(header["kind"] for header in service.headers()[first:])


@pytest.mark.parametrize("spent_before", [False, True])
def test_the_last_of_a_budget_is_paid_out_once(service: Service, spent_before: bool) -> None:
    market = open_market(service, total="2" if spent_before else "1", per_job="1")
    if spent_before:
        market.clients["institute"].submit(market.request(market.join_sql, "1"))
    first = len(service.headers())
    clients = [market.another("institute") for _ in range(AT_ONCE)]
    answers = at_once([lambda c=c: c.submit(market.request(market.join_sql, "1")) for c in clients])
    assert kinds(answers) == {"ok": 1, "budget-exhausted": AT_ONCE - 1}
    assert all(error.findings for error in answers if isinstance(error, BudgetExhausted))
    for role in ("insurer", "clinic"):
        assert service.spent(market.name(role)) == (2 if spent_before else 1) * NANO
    assert entries(service, first) == {"decided": AT_ONCE, "charged": 1, "granted": 1}
    states = Counter(row["state"] for row in service.rows(jobs) if row["agreement"] == market.agreement)
    assert states == {"charged": 2 if spent_before else 1, "denied": AT_ONCE - 1}


def test_as_many_win_as_a_fresh_ledger_can_pay(service: Service) -> None:
    market = open_market(service, total="0.3", per_job="0.1")
    queries = (market.count_sql, market.join_sql)
    clients = [market.another("institute") for _ in range(AT_ONCE)]
    answers = at_once([lambda c=c, n=n: c.submit(market.request(queries[n % 2], "0.1")) for n, c in enumerate(clients)])
    assert set(kinds(answers)) <= {"ok", "budget-exhausted"}, kinds(answers)
    insurer, clinic = (service.spent(market.name(role)) for role in ("insurer", "clinic"))
    assert insurer == 3 * NANO // 10
    won = [answer for answer in answers if not isinstance(answer, SandboxError)]
    assert len(won) == 3
    assert clinic == sum(len(job["grant"]["reads"]) == 2 for job in won) * NANO // 10


def test_one_request_id_makes_one_job_and_one_charge(service: Service, market: Market) -> None:
    first, before = len(service.headers()), service.spent(market.name("insurer"))
    request = market.request(market.join_sql, "0.2")
    clients = [market.another("institute") for _ in range(AT_ONCE)]
    answers = at_once([lambda c=c: c.submit(request) for c in clients])
    assert kinds(answers) == {"ok": AT_ONCE}
    assert len({answer["id"] for answer in answers if not isinstance(answer, SandboxError)}) == 1
    assert len({str(answer) for answer in answers}) == 1
    assert service.spent(market.name("insurer")) - before == NANO // 5
    assert entries(service, first) == {"decided": 1, "charged": 1, "granted": 1}
    assert market.clients["institute"].submit(request) == answers[0]


def test_one_request_id_for_eight_requests_makes_one_job(service: Service, market: Market) -> None:
    first, before = len(service.headers()), service.spent(market.name("insurer"))
    name = f"r-contested-{service.next_tag()}"
    clients = [market.another("institute") for _ in range(AT_ONCE)]
    answers = at_once([lambda c=c, n=n: c.submit(market.request(None, f"0.{n + 1}", name)) for n, c in enumerate(clients)])
    assert kinds(answers) == {"ok": 1, "request-id": AT_ONCE - 1}
    won = next(answer for answer in answers if not isinstance(answer, SandboxError))
    assert service.spent(market.name("insurer")) - before == won["grant"]["loss"]["amount"]
    assert entries(service, first) == {"decided": 1, "charged": 1, "granted": 1}


def test_one_denied_request_id_is_denied_and_logged_once(service: Service, market: Market) -> None:
    first = len(service.headers())
    request = market.request(purpose="marketing")
    answers = at_once([lambda c=market.another("institute"): c.submit(request) for _ in range(AT_ONCE)])
    assert kinds(answers) == {"policy-refused": AT_ONCE}
    assert len({answer.where for answer in answers if isinstance(answer, SandboxError)}) == 1
    assert entries(service, first) == {"decided": 1}


def test_concurrent_signatures_make_an_agreement_active_once(service: Service) -> None:
    market = open_market(service, sign=False)
    first = len(service.headers())
    clients = [market.another(role) for role in market.clients for _ in range(2)]
    answers = at_once([lambda c=c: c.sign_agreement(market.agreement) for c in clients])
    assert kinds(answers) == {"ok": AT_ONCE}
    assert entries(service, first) == {"signed": 4, "agreed": 1}
    _, record = market.clients["auditor"].agreement(market.agreement)
    assert record["state"] == "active"
    assert sorted(signature["by"] for signature in record["signatures"]) == sorted(market.name(role) for role in market.clients)


def test_of_eight_first_versions_one_is_published(service: Service, market: Market) -> None:
    provider, name = market.clients["insurer"], f"plans_{service.next_tag()}"
    declared = plans_declaration(provider.home.participant, name)
    provider.declare(declared)
    known = next(row for row in service.rows(versions) if row["dataset"] == market.plans)
    columns = tuple(column.name for column in declared.columns)
    manifests = [
        VersionManifest(
            dataset=declared.dataset, version=1, file_digest=known["file_digest"], size=known["size"], columns=columns[n:] + columns[:n]
        )
        for n in range(4)
    ]
    first = len(service.headers())
    answers = at_once([lambda n=n: market.another("insurer").publish_version(manifests[n % 4]) for n in range(AT_ONCE)])
    assert set(kinds(answers)) == {"ok", "version-number"}, kinds(answers)
    assert kinds(answers)["ok"] == 2, "the same manifest again is the same version"
    assert entries(service, first) == {"published": 1}
    assert len([row for row in service.rows(versions) if row["dataset"] == declared.dataset]) == 1
    assert provider.dataset(declared.dataset)["newest"] == 1


@pytest.mark.parametrize(
    ("name", "kind"), [("datasets", "declared"), ("offers", "offered"), ("agreements", "proposed"), ("versions", "published")]
)
def test_one_document_handed_in_eight_times_is_taken_once(service: Service, market: Market, name: str, kind: str) -> None:
    door: Door = DOORS[name](market)
    body, first = door.request(), len(service.headers())
    answers = at_once([lambda: door.post(body) for _ in range(AT_ONCE)])
    assert Counter(answer.status_code for answer in answers) == {201: AT_ONCE}  # type: ignore[union-attr]
    assert len({answer.text for answer in answers}) == 1  # type: ignore[union-attr]
    assert entries(service, first) == {kind: 1}


def test_an_admission_code_admits_one(service: Service) -> None:
    name = f"newcomer_{service.next_tag()}"
    code, first = service.code(name), len(service.headers())
    newcomers = [Client(home=fresh_home(service, name)) for _ in range(AT_ONCE)]
    answers = at_once([lambda c=c: c.join(code) for c in newcomers])
    assert kinds(answers) == {"ok": 1, "admission-code": AT_ONCE - 1}
    assert all(isinstance(answer, Forbidden) for answer in answers if answer is not None)
    assert entries(service, first) == {"admitted": 1}


def test_a_name_with_several_codes_is_admitted_once(service: Service) -> None:
    name = f"newcomer_{service.next_tag()}"
    codes, first = [service.code(name) for _ in range(AT_ONCE)], len(service.headers())
    newcomers = [Client(home=fresh_home(service, name)) for _ in range(AT_ONCE)]
    answers = at_once([lambda c=c, code=code: c.join(code) for c, code in zip(newcomers, codes, strict=True)])
    assert kinds(answers) == {"ok": 1, "conflict": AT_ONCE - 1}
    assert all(isinstance(answer, Conflict) for answer in answers if answer is not None)
    assert entries(service, first) == {"admitted": 1}


def test_one_file_uploaded_eight_times_is_kept_once(service: Service, market: Market) -> None:
    provider = market.clients["insurer"]
    digest = next(row for row in service.rows(versions) if row["dataset"] == market.plans)["file_digest"]
    path = service.config.data / "uploads" / digest.removeprefix("sha256:")
    files = service.uploads()
    path_copy = service.folder / "again.parquet"
    path_copy.write_bytes(path.read_bytes())
    answers = at_once([lambda: market.another("clinic").upload(path_copy) for _ in range(AT_ONCE)])
    assert kinds(answers) == {"ok": AT_ONCE}
    assert {answer["digest"] for answer in answers if not isinstance(answer, SandboxError)} == {digest}
    assert service.uploads() == files
    assert provider.upload(path_copy)["digest"] == digest


def test_everything_at_once_keeps_one_log(service: Service, market: Market) -> None:
    doors = [DOORS[name](market) for name in ("participants", "datasets", "versions", "offers", "agreements", "signatures", "jobs", "jobs")]
    first = len(service.headers())
    answers = at_once([lambda d=door: d.post(d.request()) for door in doors])
    assert [answer.status_code for answer in answers] == [door.accepted for door in doors]  # type: ignore[union-attr]
    assert entries(service, first) == {
        "admitted": 1, "declared": 1, "published": 1, "offered": 1, "proposed": 1, "signed": 1, "decided": 2, "charged": 2, "granted": 2,
    }  # fmt: skip
    newest = market.clients["auditor"].checkpoint().splitlines()[1]
    assert int(newest) == len(service.headers()), "every answer was given under a checkpoint that covers it"


def test_the_ledgers_are_the_sum_of_the_charges_in_the_log(service: Service, market: Market) -> None:
    market.clients["institute"].submit(market.request(market.join_sql, "0.1"))
    summed: Counter[tuple[str, str]] = Counter()
    for header in service.headers():
        for loss in header["losses"]:
            void = header["kind"] == "voided"
            summed[loss["provider"], loss["id_space"]] += -loss["amount"] if void else loss["amount"]
    stored = {(row["provider"], row["id_space"]): row["amount"] for row in service.rows(ledgers) if row["amount"]}
    assert stored == dict(summed)


def test_eight_processes_may_start_on_an_empty_database(database: str, tmp_path: Any) -> None:
    with fresh_database(database) as url:
        stores = [Store(url or f"sqlite:///{tmp_path / 'fresh.sqlite3'}") for _ in range(AT_ONCE)]
        try:
            answers = at_once([lambda s=s: s.prepare("tests.sandbox.local/log") for s in stores])
            assert kinds(answers) == {"ok": AT_ONCE}
            with stores[0].reading() as tx:
                assert tx.log_size() == 0
        finally:
            for store in stores:
                store.close()
