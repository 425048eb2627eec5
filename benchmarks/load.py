"""Sustained mixed load (checks, submissions, reads, uploads) and a queue of jobs to drain, on SQLite and, where present, PostgreSQL.

The load comes from a second process, over kept connections, against two gunicorn processes. The floor is a Flask hello-world under the same
gunicorn settings, measured in the same run. `read_ratio_to_hello` is that of the dearest endpoint that only reads: hello-world's requests
per second divided by its own. A job is lost if it was accepted and did not end `released`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
from sqlalchemy import create_engine, text
from sqlalchemy.exc import OperationalError

from app import compose as compose_host
from benchmarks.job_latency import declaration, offer, unasked
from enclaves.kit.measure import checkout_root, measurement
from policies.privacy import parse_epsilon
from policies.request import JobRequest
from sandbox.config import Config, read_config
from sandbox.exchange.participants import issue_code
from sandbox.party.agreeing import compose
from sandbox.party.client import Client
from sandbox.party.forms import declaration_of
from sandbox.party.home import Home
from sandbox.party.publish import publish
from sandbox.party.term_forms import offer_of

POSTGRESQL = os.environ.get("TEST_POSTGRESQL", "postgresql+psycopg://postgres@127.0.0.1:5432")
GUNICORN = ["--workers", "2", "--threads", "8", "--no-control-socket", "--timeout", "120", "--graceful-timeout", "30"]
"""The settings of `sandbox serve`."""
ROWS = 20
CONNECTIONS = 4
WORKERS = 2
DRAIN_S = 900.0


@contextmanager
def process(log: Path, environment: dict[str, str], *command: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a command while the context lasts; its output goes to `log`."""
    with log.open("ab") as output:
        started = subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=output, stderr=output, cwd=checkout_root())
    try:
        yield started
    finally:
        started.send_signal(signal.SIGCONT)
        started.terminate()
        try:
            started.wait(timeout=30)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def free_port() -> int:
    """A loopback port that is free now."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_until_up(port: int, path: str) -> None:
    """Wait until a server answers."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            time.sleep(0.05)
    raise SystemExit(f"nothing answers on port {port}")


@contextmanager
def postgresql() -> Iterator[str | None]:
    """The URL of an empty database, dropped afterwards; None without a server."""
    name = f"sandbox_bench_{uuid.uuid4().hex[:12]}"
    server = create_engine(f"{POSTGRESQL}/postgres", isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 3})
    try:
        with server.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
    except (OperationalError, ModuleNotFoundError):
        yield None
        return
    try:
        yield f"{POSTGRESQL}/{name}"
    finally:
        with server.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        server.dispose()


def set_up(folder: Path, url: str, config: Config) -> tuple[Home, Home, str]:
    """Two participants, a tiny table and terms that allow very many small jobs; returns both homes and the agreement."""
    clients, host = {}, compose_host(config)
    for name in ("north", "consumer"):
        clients[name] = Client(home=Home.create(folder / "homes" / name, name, name, url))
        clients[name].join(issue_code(host, name))
    host.store.close()
    north, consumer = clients["north"], clients["consumer"]
    declared = declaration_of(declaration("north.people", "spending"))
    columns = {"person_id": range(ROWS), "region": [i % 4 for i in range(ROWS)], "spending": [i % 100 for i in range(ROWS)]}
    publish(north, declared, pa.table({key: pa.array(of) for key, of in columns.items()}))
    form = offer("north.people", "spending")
    form["terms"] |= {"epsilon_per_job": 1, "epsilon_total": 100}
    digest = north.offer(offer_of(form, declared, measurement(checkout_root())))["digest"]
    agreement = consumer.propose(compose(consumer, "bench", "Benchmark", [digest], []))["digest"]
    for client in clients.values():
        client.sign_agreement(agreement)
    return north.home, consumer.home, str(agreement)


def job_request(agreement: str) -> JobRequest:
    """A fresh request for the smallest job."""
    return JobRequest(
        request_id="load-" + secrets.token_hex(8),
        agreement=agreement,
        consumer="consumer",
        purpose="benchmark",
        sql=unasked("SELECT COUNT(*) AS people FROM north.people"),
        loss=parse_epsilon("0.1"),
    )


def get_forever(port: int, paths: list[str], credential: str, until: float, note: Callable[[int, float], None]) -> None:
    """GET the paths in turn over one kept connection until the clock says `until`; `note` is told status and seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Bearer {credential}"}
    count = 0
    while time.monotonic() < until:
        started = time.perf_counter()
        connection.request("GET", paths[count % len(paths)], headers=headers)
        response = connection.getresponse()
        response.read()
        note(response.status, time.perf_counter() - started)
        count += 1
    connection.close()


def rate(port: int, path: str, credential: str, seconds: float) -> float:
    """Requests per second of one path over `CONNECTIONS` kept connections. Ends the benchmark if one does not answer 200."""
    seen: list[int] = []
    until = time.monotonic() + seconds
    note = lambda status, _: seen.append(status)  # noqa: E731
    threads = [threading.Thread(target=get_forever, args=(port, [path], credential, until, note)) for _ in range(CONNECTIONS)]
    started = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if set(seen) != {200}:
        raise SystemExit(f"{path} answered {sorted(set(seen))}")
    return len(seen) / (time.monotonic() - started)


def generate(port: int, home: Home, agreement: str, reads: list[str], submissions: int, seconds: float) -> dict[str, Any]:
    """The second process: readers on kept connections, one thread that checks, one that submits and one that uploads."""
    until, lock = time.monotonic() + seconds, threading.Lock()
    taken: list[tuple[str, int, float]] = []
    accepted: list[str] = []

    def note(kind: str, status: int, elapsed: float) -> None:
        with lock:
            taken.append((kind, status, elapsed))

    def repeat(kind: str, act: Callable[[Client], Any], most: int) -> None:
        client = Client(home=home)
        client.session.hooks["response"].append(lambda answer, **_: note(kind, answer.status_code, answer.elapsed.total_seconds()))
        for _ in range(most):
            if kind != "submit" and time.monotonic() >= until:
                return
            act(client)
            time.sleep(0.02)

    def upload(client: Client) -> None:
        body = b"PARE" + secrets.token_bytes(20_000) + (1000).to_bytes(4, "little") + b"PARE"
        path = home.folder / f"upload-{threading.get_ident()}"
        path.write_bytes(body)
        client.upload(path)

    read = [
        threading.Thread(target=get_forever, args=(port, reads, home.credential, until, lambda s, t: note("read", s, t)))
        for _ in range(CONNECTIONS)
    ]
    write = [
        threading.Thread(target=repeat, args=("check", lambda client: client.check(job_request(agreement)), 1_000_000)),
        threading.Thread(target=repeat, args=("upload", upload, 1_000_000)),
        threading.Thread(
            target=repeat, args=("submit", lambda client: accepted.append(client.submit(job_request(agreement))["id"]), submissions)
        ),
    ]
    started = time.monotonic()
    for thread in read + write:
        thread.start()
    for thread in read + write:
        thread.join()
    return {"taken": taken, "accepted": accepted, "seconds": time.monotonic() - started}


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of all values do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


def drain(home: Home, accepted: list[str]) -> tuple[int, float]:
    """Wait until every accepted job has ended; returns how many did not end `released`, and seconds."""
    client, started, open_jobs, released = Client(home=home), time.monotonic(), list(accepted), 0
    while open_jobs and time.monotonic() < started + DRAIN_S:
        state = client.job(open_jobs[0])["state"]
        if state in ("charged", "running"):
            time.sleep(0.1)
            continue
        released += state == "released"
        open_jobs.pop(0)
    return len(accepted) - released, time.monotonic() - started


def measure(folder: Path, database: str, hello: int, *, jobs: int, seconds: float, each: float) -> dict[str, Any]:
    """Everything on one database."""
    folder.mkdir()
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SANDBOX_")}
    environment |= {"SANDBOX_DATA": str(folder / "data"), "SANDBOX_DATABASE": database, "SANDBOX_KEYS_TIMEOUT_S": "300"}
    environment |= {"SANDBOX_CREDENTIAL_RATE": "0", "SANDBOX_ADDRESS_RATE": "0"}
    port = free_port()
    with ExitStack() as running:

        def run(name: str, *command: str) -> subprocess.Popen[bytes]:
            return running.enter_context(process(folder / f"{name}.log", environment, *command))

        run("web", "sandbox", "serve", "--bind", f"127.0.0.1:{port}", "--processes", "2")
        wait_until_up(port, "/healthz")
        workers = [run(f"worker-{number}", "sandbox", "worker") for number in range(WORKERS)]
        provider, consumer, agreement = set_up(folder, f"http://127.0.0.1:{port}", read_config(environment))
        run("broker", "sandbox", "party", "broker", "--home", str(provider.folder))
        client = Client(home=consumer)
        first = client.submit(job_request(agreement))["id"]
        client.wait(first, 60)
        for worker in workers:
            worker.send_signal(signal.SIGSTOP)  # the queue is to grow
        reads = read_paths(first, agreement)
        ratios, floors = {}, []
        for path in reads:
            floors.append(rate(hello, "/", consumer.credential, each))
            ratios[path] = floors[-1] / rate(port, path, consumer.credential, each)
        command = [str(port), str(consumer.folder), agreement, json.dumps(reads), str(jobs), str(seconds)]
        answer = subprocess.run(
            [sys.executable, "-m", "benchmarks.load", "--generate", *command],
            env=environment,
            cwd=checkout_root(),
            capture_output=True,
            text=True,
            check=True,
        )
        load = json.loads(answer.stdout)
        for worker in workers:
            worker.send_signal(signal.SIGCONT)
        lost, drained = drain(consumer, load["accepted"])
    times = [elapsed for _, _, elapsed in load["taken"]]
    kinds = {kind: [t for k, _, t in load["taken"] if k == kind] for kind in ("read", "check", "submit", "upload")}
    return {
        "read_ratio_to_hello": round(max(ratios.values()), 2),
        "ratios": {shown(path, first, agreement): round(value, 2) for path, value in ratios.items()},
        "hello_per_s": round(sum(floors) / len(floors)),
        "requests_per_s": round(len(times) / load["seconds"], 1),
        "p99_ms": round(percentile(times, 0.99) * 1000, 1),
        "p99_ms_by_kind": {kind: round(percentile(of, 0.99) * 1000, 1) for kind, of in kinds.items()},
        "errors_5xx": sum(status >= 500 for _, status, _ in load["taken"]),
        "errors_4xx": sum(400 <= status < 500 for _, status, _ in load["taken"]),
        "jobs": len(load["accepted"]),
        "jobs_lost": lost + jobs - len(load["accepted"]),
        "drain_jobs_per_s": round(len(load["accepted"]) / drained, 2),
    }


def read_paths(job: str, agreement: str) -> list[str]:
    """Every endpoint that only reads, with what it reads."""
    names = ["service", "me", "participants", "datasets", "datasets/north.people", "offers", "agreements", f"agreements/{agreement}"]
    names += ["ledgers", "jobs", f"jobs/{job}", f"jobs/{job}/release", f"jobs/{job}/receipt", "key-requests"]
    names += [
        "log/checkpoint",
        "log/entries?from=0&to=10",
        "log/openings?from=0&to=10",
        "log/consistency?from=3&to=9",
        "log/tile/0/000.p/8",
    ]
    return ["/healthz", *(f"/api/v1/{name}" for name in names)]


def shown(path: str, job: str, agreement: str) -> str:
    """A path without what differs from run to run."""
    return path.replace(job, "JOB").replace(agreement, "AGREEMENT")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="20 jobs in all instead of 500 on each database")
    parser.add_argument("--generate", nargs=6, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.generate:
        port, home, agreement, reads, jobs, seconds = arguments.generate
        print(json.dumps(generate(int(port), Home.open(Path(home)), agreement, json.loads(reads), int(jobs), float(seconds))))
        return
    found: dict[str, dict[str, Any]] = {}
    with ExitStack() as context:
        folder = Path(context.enter_context(tempfile.TemporaryDirectory(prefix="load-")))
        server = context.enter_context(postgresql())
        hello = free_port()
        command = ["gunicorn", "--bind", f"127.0.0.1:{hello}", *GUNICORN, "benchmarks._hello:app"]
        context.enter_context(process(folder / "hello.log", dict(os.environ), *command))
        wait_until_up(hello, "/")
        databases = {"sqlite": ""} | ({} if server is None else {"postgresql": server})
        for name, url in databases.items():
            jobs = 20 // len(databases) if arguments.quick else 500
            scale = {"seconds": 2.0, "each": 0.15} if arguments.quick else {"seconds": 20.0, "each": 2.0}
            found[name] = measure(folder / name, url, hello, jobs=jobs, **scale)
            print(name, json.dumps(found[name], indent=2))
    totals = {
        "read_ratio_to_hello": max(of["read_ratio_to_hello"] for of in found.values()),
        "jobs_lost": sum(of["jobs_lost"] for of in found.values()),
        "p99_ms": max(of["p99_ms"] for of in found.values()),
        "errors_5xx": sum(of["errors_5xx"] for of in found.values()),
    }
    print(json.dumps(totals | {"databases": found}))


if __name__ == "__main__":
    main()
