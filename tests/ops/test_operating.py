"""What an operator sees and sets on a running service: probes, metrics, logs, limits, quotas, TLS."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from app import compose
from enclaves.kit.columns import FOOTER, encrypt_table
from policies.documents import secret_digest
from policies.errors import TooMany
from sandbox.config import Config
from sandbox.host import Host
from sandbox.jobs.upkeep import remove_unreferenced, say_alive
from sandbox.web.application import make_app
from sandbox.web.limits import BURST_S, Buckets
from tests.support.certificates import certificate
from tests.support.service import DATABASES, Service, checkout, environment, free_port, kill, running, spawn
from tests.support.story import tables, tell

OLD_S = 25 * 3600


@pytest.fixture(scope="module", params=DATABASES if os.environ.get("SANDBOX_FULL") else DATABASES[:1])
def service(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service with two web processes and a worker, with metrics and JSON logs."""
    with running(tmp_path_factory.mktemp("service"), str(request.param), worker=True, metrics=True, log="json") as found:
        yield found


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder of a history, with a known credential of the insurer's."""
    found = tell(tmp_path_factory.mktemp("told") / "data")
    with found.host.store.transaction() as tx:
        tx.connection.exec_driver_sql(f"UPDATE participants SET credential_digest = '{secret_digest('x' * 32)}' WHERE id = 'insurer'")
    found.host.store.close()
    return found.host.config.data


@pytest.fixture
def host(told: Path, tmp_path: Path) -> Iterator[Host]:
    """A service in this process with a copy of the history, which a test may break."""
    shutil.copytree(told, tmp_path / "data")
    found = compose(Config(data=tmp_path / "data"))
    yield found
    found.store.close()


HEADERS = {"Authorization": f"Bearer {'x' * 32}"}


def lines(service: Service, name: str) -> list[dict[str, object]]:
    found = (service.folder / f"{name}.log").read_text().splitlines()
    return [json.loads(line) for line in found if line.startswith("{")]


def test_a_running_service_is_ready(service: Service) -> None:
    answer = requests.get(f"{service.url}/readyz", timeout=60)
    assert answer.status_code == 200
    assert answer.json()["checks"] == dict.fromkeys(("database", "schema", "log_key", "checkpoint", "uploads"), "ok")


def test_metrics_add_up_over_all_web_processes_and_name_nobody(service: Service) -> None:
    def counted() -> float:
        text = requests.get(f"{service.url}/metrics", timeout=60).text
        wanted = 'sandbox_requests_total{method="GET",route="/api/v1/datasets/<name>",status="401"}'
        return sum(float(line.rpartition(" ")[2]) for line in text.splitlines() if line.startswith(wanted))

    before = counted()
    for number in range(20):
        requests.get(f"{service.api}/datasets/secret_name.of_{number}", timeout=60)
    deadline = time.monotonic() + 60
    while counted() < before + 20 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert counted() == before + 20
    text = requests.get(f"{service.url}/metrics", timeout=60).text
    assert "secret_name" not in text
    for name in ('sandbox_jobs{state="charged"} 0.0', "sandbox_log_entries ", "sandbox_log_published_entries ", "sandbox_database_up 1.0"):
        assert name in text
    assert "sandbox_request_seconds_bucket" in text


def test_a_worker_is_seen(service: Service) -> None:
    deadline = time.monotonic() + 60
    while "sandbox_workers 1.0" not in (text := requests.get(f"{service.url}/metrics", timeout=60).text):
        assert time.monotonic() < deadline, text
        time.sleep(0.2)
    assert any(line["event"] == "started" for line in lines(service, "worker"))


def test_a_request_is_logged_with_its_id_and_nothing_that_it_carries(service: Service) -> None:
    secret = "s3cret-word-" * 3
    sent = {"Authorization": f"Bearer {secret}", "X-Request-Id": "my.request-1"}
    body = {"signed": secret, "sql": f"SELECT {secret}"}
    answer = requests.post(f"{service.api}/jobs?{secret}", json=body, headers=sent, timeout=60)
    assert answer.headers["X-Request-Id"] == "my.request-1"
    found = [line for line in lines(service, "web") if line.get("request_id") == "my.request-1"]
    assert [(line["route"], line["method"], line["status"], line["code"]) for line in found] == [
        ("/api/v1/jobs", "POST", answer.status_code, answer.json()["code"])
    ]
    assert secret not in (service.folder / "web.log").read_text()


def test_a_request_id_of_another_form_is_replaced(service: Service) -> None:
    for given_id in ("", "a b", "x" * 65, "<script>"):
        echoed = requests.get(f"{service.api}/service", headers={"X-Request-Id": given_id}, timeout=60).headers["X-Request-Id"]
        assert echoed != given_id
        assert len(echoed) == 16


def test_metrics_are_not_served_unless_asked_for(host: Host) -> None:
    assert make_app(host).test_client().get("/metrics").status_code == 404


def test_an_unexpected_error_is_logged_without_its_text(
    host: Host, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from sandbox.logs import write_logs

    logger = logging.getLogger("sandbox")
    for name in ("handlers", "level", "propagate"):  # as they were for the tests behind this one
        monkeypatch.setattr(logger, name, getattr(logger, name))
    logger.handlers = list(logger.handlers)
    app = make_app(host)

    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError("INSERT INTO jobs VALUES ('a-secret')")

    for kind in ("text", "json"):
        write_logs(kind)
        assert app.test_client().get("/broken").status_code == 500
        written = capfd.readouterr().err
        assert "RuntimeError" in written
        assert "a-secret" not in written


@pytest.mark.parametrize(
    ("part", "word"), [("log_key", "missing"), ("log_key", "another-key"), ("checkpoint", "ahead-of-the-log"), ("schema", "newer-schema")]
)
def test_what_is_broken_is_named_and_the_service_is_not_ready(host: Host, part: str, word: str) -> None:
    key = host.config.data / "log.key"
    changes = {
        "missing": key.unlink,
        "another-key": lambda: key.write_bytes(bytes(range(32))),
        "ahead-of-the-log": lambda: _say(host, "UPDATE log_state SET size = 3"),
        "newer-schema": lambda: _say(host, "UPDATE alembic_version SET version_num = '9999'"),
    }
    changes[word]()
    answer = make_app(host).test_client().get("/readyz")
    assert answer.status_code == 503
    assert answer.get_json()["checks"][part] == word


def test_too_many_requests_are_told_when_to_come_back(host: Host) -> None:
    config = replace(host.config, credential_rate=0.1, address_rate=0.3)
    client = make_app(replace(host, config=config)).test_client()
    assert client.get("/api/v1/me", headers=HEADERS).status_code == 200
    limited = client.get("/api/v1/me", headers=HEADERS)
    assert (limited.status_code, limited.get_json()["code"]) == (429, "too-many")
    assert 1 <= int(limited.headers["Retry-After"]) <= 10
    assert client.get("/api/v1/service").status_code == 200
    assert client.get("/api/v1/service").status_code == 429
    for path in ("/healthz", "/readyz"):
        assert client.get(path).status_code == 200


def test_addresses_behind_a_trusted_proxy_are_told_apart_and_else_not_believed(host: Host) -> None:
    for proxies, expected in ((1, 200), (0, 429)):
        client = make_app(replace(host, config=replace(host.config, address_rate=0.01, proxies=proxies))).test_client()
        assert client.get("/api/v1/service", headers={"X-Forwarded-For": "198.51.100.1"}).status_code == 200
        assert client.get("/api/v1/service", headers={"X-Forwarded-For": "198.51.100.2"}).status_code == expected
        spoofed = {"X-Forwarded-For": "203.0.113.9, 198.51.100.1"}
        assert client.get("/api/v1/service", headers=spoofed).status_code == 429


@given(st.floats(0.1, 50), st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_a_bucket_never_lets_more_through_than_its_burst_and_rate(rate: float, waits: list[float]) -> None:
    now = [0.0]
    told: list[int] = []
    buckets, passed = Buckets(rate=rate, clock=lambda: now[0]), 0
    for wait in waits:
        now[0] += wait
        try:
            buckets.take("somebody")
            passed += 1
        except TooMany as refused:
            told.append(refused.retry_after)
        buckets_full = max(1.0, rate * BURST_S)
        assert passed <= buckets_full + rate * now[0] + 1e-6
    assert all(seconds >= 1 for seconds in told)


def test_whoever_waits_as_told_is_let_through() -> None:
    now = [0.0]
    buckets = Buckets(rate=0.07, clock=lambda: now[0])
    buckets.take("somebody")
    with pytest.raises(TooMany) as refused:
        buckets.take("somebody")
    now[0] += refused.value.retry_after
    buckets.take("somebody")


def test_uploads_stop_at_the_quota_and_leave_nothing(host: Host) -> None:
    with host.store.reading() as tx:
        used = tx.uploaded_bytes("insurer")
    data = _encrypted()
    before = sorted(path.name for path in host.blobs.folder.iterdir())
    for room, expected in ((len(data) - 1, 403), (len(data), 201)):
        config = replace(host.config, upload_quota_bytes=used + room)
        answer = make_app(replace(host, config=config)).test_client().post("/api/v1/uploads", data=data, headers=HEADERS)
        assert answer.status_code == expected
        if expected == 403:
            assert answer.get_json()["code"] == "upload-quota"
            assert sorted(path.name for path in host.blobs.folder.iterdir()) == before


def test_only_old_uploads_that_no_version_names_are_removed(host: Host) -> None:
    published = {path.name for path in host.blobs.folder.iterdir()}
    client = make_app(host).test_client()
    names = [str(client.post("/api/v1/uploads", data=_encrypted(), headers=HEADERS).get_json()["digest"])[7:] for _ in range(2)]
    (host.blobs.folder / ".upload-broken").write_bytes(b"half")
    (host.blobs.folder / "readme.txt").write_text("the operator's own")
    old = time.time() - OLD_S
    for name in (*published, names[0], ".upload-broken", "readme.txt"):
        os.utime(host.blobs.folder / name, (old, old))
    assert remove_unreferenced(host) == 2
    assert {path.name for path in host.blobs.folder.iterdir()} == published | {names[1], "readme.txt"}
    with host.store.reading() as tx:
        assert [tx.has_upload(f"sha256:{name}", "insurer") > 0 for name in names] == [False, True]


def test_a_file_that_is_uploaded_again_while_it_is_removed_stays(host: Host) -> None:
    blobs = host.blobs
    name, _ = blobs.add([_encrypted()])
    path = blobs.path(name)
    assert not blobs.remove(path.name, path.stat().st_mtime)
    assert path.is_file()
    assert blobs.remove(path.name, path.stat().st_mtime + 1)
    assert not path.exists()


def test_a_worker_that_is_long_gone_is_forgotten(host: Host) -> None:
    with host.store.transaction() as tx:
        tx.see_worker("worker-old", 1, 0)
    say_alive(host, "worker-new")
    with host.store.reading() as tx:
        assert 1 not in tx.workers_seen()


def test_the_service_speaks_tls(tmp_path: Path) -> None:
    cert, key = certificate(tmp_path)
    port = free_port()
    web = spawn(
        tmp_path / "web.log",
        environment(Config(data=tmp_path / "data")),
        *("serve", "--bind", f"127.0.0.1:{port}", "--processes", "1", "--cert", str(cert), "--key", str(key)),
    )
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                assert requests.get(f"https://127.0.0.1:{port}/healthz", verify=str(cert), timeout=5).json()["ok"]
                break
            except requests.RequestException:
                assert time.monotonic() < deadline, (tmp_path / "web.log").read_text()
                time.sleep(0.1)
        with pytest.raises(requests.RequestException):
            requests.get(f"http://127.0.0.1:{port}/healthz", timeout=5)
    finally:
        kill(web)


@pytest.mark.parametrize("option", ["--cert", "--key"])
def test_half_of_a_tls_pair_is_refused(option: str, tmp_path: Path) -> None:
    half = tmp_path / "half.pem"
    half.write_text("")
    done = subprocess.run(
        [sys.executable, "-m", "sandbox", "serve", option, str(half)], capture_output=True, text=True, cwd=checkout(), check=False
    )
    assert done.returncode == 2
    assert "belong together" in done.stderr


def test_a_backup_of_a_running_service_verifies_and_restores_by_command(service: Service, tmp_path: Path) -> None:
    def admin(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "sandbox", "admin", *arguments]
        return subprocess.run(
            command, env=service.environment | settings, capture_output=True, text=True, cwd=checkout(), check=False, timeout=60
        )

    backup, data = str(tmp_path / "backup"), tmp_path / "restored"
    made = admin("backup", backup, "--json")
    assert made.returncode == 0, made.stderr
    assert "not in this backup" in made.stderr
    assert admin("verify-backup", backup).returncode == 0
    settings = {"SANDBOX_DATA": str(data), "SANDBOX_DATABASE": ""}
    assert admin("restore", backup, **settings).returncode == 2
    done = admin("restore", backup, "--log-key", str(service.config.data / "log.key"), **settings)
    assert done.returncode == 0, done.stderr
    assert "rewind" in done.stderr
    restored = compose(replace(service.config, data=data, database=""))
    assert restored.log_identity == service.host.log_identity
    restored.store.close()


def _say(host: Host, statement: str) -> None:
    with host.store.transaction() as tx:
        tx.connection.exec_driver_sql(statement)


def _encrypted() -> bytes:
    import random

    table, _ = tables(random.Random(1))
    sink = io.BytesIO()
    encrypt_table(table, sink, dataset="insurer.plans", version=9, keys={name: os.urandom(32) for name in (FOOTER, *table.column_names)})
    return sink.getvalue()
