"""Enclaves at another party: a real `sandbox enclave serve` process, reached by a worker over mutually authenticated TLS."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from enclaves.kit.frames import MAX_FRAME, read_frame, write_frame
from policies.canonical import canonical, parse_json
from policies.isolation import in_order
from sandbox.config import Config
from sandbox.jobs.remote import RemoteEnclave, RemoteEnclaves, client_context, parse_address
from sandbox.jobs.worker import Worker
from tests.support.certificates import certificate
from tests.support.runs import COUNT_SQL, Town, brokers_running, found_town, gone
from tests.support.service import checkout
from tests.support.steps import require_sound

PATIENCE_S = 120.0


@dataclass(frozen=True)
class Served:
    """A server with room for two enclaves, and a worker's settings for it."""

    process: subprocess.Popen[str]
    port: int
    config: Config
    stranger: tuple[Path, Path]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    pairs = {name: certificate(tmp_path_factory.mktemp(name), name) for name in ("neutral", "worker", "stranger")}
    command = [sys.executable, "-m", "sandbox", "enclave", "serve", "--bind", "127.0.0.1:0", "--most", "2", "--memory", "1024"]
    command += ["--cert", str(pairs["neutral"][0]), "--key", str(pairs["neutral"][1]), "--workers", str(pairs["worker"][0])]
    with subprocess.Popen(command, cwd=checkout(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline().split(",")[0].rpartition(":")[2])
        config = Config(
            enclave_address=f"127.0.0.1:{port}",
            enclave_ca=pairs["neutral"][0],
            enclave_cert=pairs["worker"][0],
            enclave_key=pairs["worker"][1],
        )
        yield Served(process, port, config, pairs["stranger"])
        process.terminate()
        assert process.wait(timeout=PATIENCE_S) == 0


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    found = found_town(tmp_path_factory.mktemp("remote"), persons=10, total="100", queue="off")
    yield found
    found.close()


def remote(town: Town, served: Served) -> Worker:
    """A worker of the town whose enclaves are the server's."""
    enclaves = RemoteEnclaves(config=served.config)
    return Worker(host=town.host, launch=enclaves.launch, layers=enclaves.layers, tidy=enclaves.tidy, keep_spare=True)


def enclaves_of(served: Served) -> list[int]:
    """Processes that the server started."""
    return [int(pid) for pid in Path(f"/proc/{served.process.pid}/task").glob("*/children") for pid in pid.read_text().split()]


def connected(served: Served) -> RemoteEnclave:
    """An enclave of the server's, once a connection that ended has made room."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return RemoteEnclave(parse_address(served.config.enclave_address), client_context(served.config))
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def until_ended(served: Served) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while any(not gone(pid) for pid in enclaves_of(served)):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_job_runs_at_another_party_and_its_evidence_names_that_machines_layers(town: Town, served: Served) -> None:
    worker = remote(town, served)
    job = town.charged("remote", sql=COUNT_SQL, epsilon="0.1")
    with brokers_running(town.clients["insurer"]):
        assert worker.step()
    worker._drop_spare()
    found = town.job(job)
    assert found.state == "released"
    assert found.evidence is not None
    assert found.evidence.evidence.isolation == worker.layers() == in_order(worker.layers()) != ()
    require_sound(town.host)
    until_ended(served)


def test_only_sealed_bytes_travel(town: Town, served: Served) -> None:
    """Between the ends of the connection, where TLS is opened, stand ciphertexts: no column key, no value, no cell."""
    seen: list[bytes] = []

    class Recording(RemoteEnclave):
        def _send(self, message: object) -> None:
            seen.append(str(message).encode())
            super()._send(message)  # type: ignore[arg-type]

        def _frame(self, timeout: float) -> bytes:
            seen.append(super()._frame(timeout))
            return seen[-1]

    def launch() -> RemoteEnclave:
        return Recording(parse_address(served.config.enclave_address), client_context(served.config))

    job = town.charged("sealed", sql=COUNT_SQL, epsilon="0.1")
    with brokers_running(town.clients["insurer"]):
        assert Worker(host=town.host, launch=launch).step()
    assert town.job(job).state == "released"
    said = b"\n".join(seen)
    home = town.clients["insurer"].home
    keys = [value for path in home.folder.rglob("*key*") if path.is_file() for value in (path.read_bytes(),) if len(value) == 32]
    assert not any(key in said or key.hex().encode() in said for key in keys)
    assert b'"cells"' not in said
    until_ended(served)


def test_a_worker_without_the_right_certificate_gets_nothing(served: Served) -> None:
    stranger = replace(served.config, enclave_cert=served.stranger[0], enclave_key=served.stranger[1])
    before = set(enclaves_of(served))  # one that has ended is here until the server looks
    with pytest.raises(OSError):
        RemoteEnclaves(config=stranger).launch()
    anonymous = ssl.create_default_context(cafile=str(served.config.enclave_ca))
    with socket.create_connection(("127.0.0.1", served.port), PATIENCE_S) as plain:
        assert _heard(anonymous, plain) == b""
    assert set(enclaves_of(served)) <= before


def _heard(context: ssl.SSLContext, plain: socket.socket) -> bytes:
    """The first byte that a server says; TLS 1.3 tells a client only then that its certificate was wanted."""
    try:
        with context.wrap_socket(plain, server_hostname="127.0.0.1") as channel:
            return channel.recv(1)
    except OSError:
        return b""


def test_a_server_that_is_not_the_trusted_one_gets_nothing(served: Served, town: Town) -> None:
    foreign = replace(served.config, enclave_ca=served.stranger[0])
    with pytest.raises(OSError):
        RemoteEnclaves(config=foreign).launch()
    enclaves = RemoteEnclaves(config=foreign)
    job = town.charged("foreign", sql=COUNT_SQL, epsilon="0.1")
    worker = Worker(host=town.host, launch=enclaves.launch, keep_spare=True)
    for _ in range(2):
        assert not worker._turn(), "a worker without an enclave takes no job"
    assert town.job(job).state == "charged"
    with brokers_running(town.clients["insurer"]):
        assert remote(town, served).step()
    assert town.job(job).state == "released"


def test_an_unreachable_server_leaves_jobs_waiting(town: Town, served: Served) -> None:
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    enclaves = RemoteEnclaves(config=replace(served.config, enclave_address=f"127.0.0.1:{port}"))
    with pytest.raises(OSError):
        enclaves.layers()


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"{}",
        b"not json",
        canonical({"kind": "start/1", "grant": {}, "agreement": {}, "nonces": []}),
        canonical({"kind": "go/1", "keys": {}, "files": []}),
        b'{"kind": "start/1", "grant": "\xff"}',
    ],
)
def test_garbage_ends_one_connection_with_a_closed_code_and_no_other(served: Served, frame: bytes) -> None:
    with connected(served) as other, connected(served) as enclave:
        write_frame(enclave._stream, frame)
        try:
            answer = read_frame(enclave._stream)
        except (EOFError, OSError):
            answer = b'{"kind": "died/1", "code": "refused"}'
        assert parse_json(answer)["kind"] == "died/1"
        assert other.alive
    until_ended(served)


def test_a_frame_that_is_too_large_or_broken_off_ends_the_connection(served: Served) -> None:
    for start in ((MAX_FRAME + 1).to_bytes(4, "big"), b"\x00\x00\x10\x00abc"):
        with connected(served) as enclave:
            enclave._stream.write(start)
            enclave._stream.flush()
    until_ended(served)


def test_no_more_enclaves_than_the_server_has_room_for(served: Served) -> None:
    with connected(served), connected(served), pytest.raises(OSError, match="said nothing"):
        RemoteEnclaves(config=served.config).launch()
    with connected(served) as again:
        assert again.alive
    until_ended(served)


def test_a_connection_that_breaks_fails_the_run_and_ends_the_enclave(town: Town, served: Served) -> None:
    """Killed at the other end while it has the keys: the run ends `failed`, its charge stays, and nothing runs on."""
    killed: list[int] = []

    def on_step(step: str) -> None:
        if step == "keys-complete":
            killed.extend(enclaves_of(served))
            for pid in killed:
                os.kill(pid, signal.SIGKILL)

    enclaves = RemoteEnclaves(config=served.config)
    job = town.charged("killed-remote", sql=COUNT_SQL, epsilon="0.1")
    with brokers_running(town.clients["insurer"]):
        assert Worker(host=replace(town.host, on_step=on_step), launch=enclaves.launch).step()
    assert killed
    assert (town.job(job).state, town.job(job).code) == ("failed", "engine-error")
    assert len(town.headers("charged", job)) == 1
    require_sound(town.host)
    until_ended(served)
