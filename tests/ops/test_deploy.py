"""The delivered proxy and container: nginx takes the file and does what its lines promise; the image holds what the service needs."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from enclaves.kit.measure import measurement
from sandbox.config import Config
from tests.support.service import free_port

CHECKOUT = Path(__file__).resolve().parents[2]
PROXY = (CHECKOUT / "deploy/nginx.conf").read_text(encoding="utf-8")
IMAGE = (CHECKOUT / "deploy/Containerfile").read_text(encoding="utf-8")


class Echo(BaseHTTPRequestHandler):
    """Answers with the headers that it was sent."""

    def do_GET(self) -> None:
        body = "".join(f"{name.lower()}: {value}\n" for name, value in self.headers.items()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        return


def answer(port: int, path: str, headers: dict[str, str]) -> tuple[int, str]:
    trusting = ssl._create_unverified_context()
    connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=60, context=trusting)
    try:
        connection.request("GET", path, headers=headers)
        found = connection.getresponse()
        return found.status, found.read().decode()
    finally:
        connection.close()


@pytest.fixture(scope="module")
def proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of an nginx that runs the delivered file before a service that echoes headers; only ports and paths are other ones."""
    if shutil.which("nginx") is None or shutil.which("openssl") is None:
        pytest.skip("install nginx-light and openssl")
    folder = tmp_path_factory.mktemp("proxy")
    pair = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    subprocess.run(["openssl", "req", "-x509", *curve, "-subj", "/CN=sandbox.example", *pair], check=True, capture_output=True, timeout=60)
    port, service = free_port(), ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=service.serve_forever, daemon=True).start()
    server = PROXY
    for delivered, here in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/sandbox/fullchain.pem": str(folder / "cert.pem"),
        "/etc/ssl/sandbox/privkey.pem": str(folder / "key.pem"),
        "http://127.0.0.1:8700": f"http://127.0.0.1:{service.server_address[1]}",
    }.items():
        assert server.count(delivered) == 1
        server = server.replace(delivered, here)
    temporary = "".join(f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    whole = f"daemon off; pid {folder}/pid; error_log {folder}/log; events {{}} http {{ access_log off; {temporary}\n{server} }}"
    (folder / "nginx.conf").write_text(whole, encoding="utf-8")
    command = ["nginx", "-p", str(folder), "-e", str(folder / "log"), "-c", str(folder / "nginx.conf")]
    tested = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=120, check=False)
    assert tested.returncode == 0, tested.stderr
    assert "warn" not in tested.stderr
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            until = time.monotonic() + 120
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert time.monotonic() < until
                    time.sleep(0.02)
            yield port
        finally:
            running.terminate()
            running.wait(20)
            service.shutdown()
            service.server_close()


def test_what_a_client_claims_about_itself_does_not_get_through_the_proxy(proxy: int) -> None:
    """With `proxies = 1` the service believes these headers."""
    lie = {"X-Forwarded-For": "203.0.113.9", "X-Forwarded-Proto": "http", "X-Request-Id": "chosen-by-the-client"}
    status, seen = answer(proxy, "/api/v1/jobs", lie)
    assert status == 200
    assert "x-forwarded-for: 127.0.0.1\n" in seen
    assert "x-forwarded-proto: https\n" in seen
    assert not any(value in seen for value in lie.values() if value != "http")


@pytest.mark.parametrize("path", ["/metrics", "/readyz", "/metrics?x=1", "//metrics", "/%6detrics", "/./readyz"])
def test_what_is_for_the_operator_is_not_there_for_others(proxy: int, path: str) -> None:
    assert answer(proxy, path, {})[0] == 404


def test_the_proxy_lets_the_largest_upload_pass_and_nothing_larger() -> None:
    size = re.search(r"client_max_body_size (\d+)g;", PROXY)
    assert size is not None
    assert int(size[1]) << 30 == Config().upload_bytes


def copied(folder: Path) -> None:
    """What the image's COPY lines bring into its working folder."""
    lines = [line.split()[1:] for line in IMAGE.splitlines() if line.startswith("COPY ")]
    assert lines
    for *sources, target in lines:
        for source in sources:
            place = folder / target / (source if target.endswith("/") else "")
            if (CHECKOUT / source).is_dir():
                shutil.copytree(CHECKOUT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(CHECKOUT / source, place)


START = """
import sys
import sandbox
from sandbox.cli import main
assert sandbox.__file__.startswith(sys.argv[1])
sys.argv = ["sandbox", *sys.argv[2:]]
main()
"""


def test_the_image_holds_all_that_the_service_runs_and_measures_as_the_checkout(tmp_path: Path) -> None:
    """From the copied files alone: the image's command is known, a database is made and used, and the enclaves' code is the same."""
    copied(tmp_path)
    command = re.search(r"^CMD \[(.*)\]$", IMAGE, re.MULTILINE)
    assert command is not None
    verb, *options = [word.strip().strip('"') for word in command[1].split(",")]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path), "SANDBOX_DATA": str(tmp_path / "data")}
    said = []
    for arguments in ([verb, "--help"], ["admin", "admit", "insurer"], ["enclave", "measure"]):
        start = [sys.executable, "-P", "-B", "-c", START, str(tmp_path), *arguments]
        done = subprocess.run(start, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert all(option in said[0] for option in options if option.startswith("--"))
    assert said[2].split()[-1] == measurement(tmp_path) == measurement(CHECKOUT)


def test_the_image_and_the_pages_name_one_version_of_the_database_driver() -> None:
    places = ("deploy/Containerfile", "docs/operations.md", "requirements-dev.txt")
    found = {place: set(re.findall(r"psycopg\[binary\]==([0-9.]+\d)", (CHECKOUT / place).read_text(encoding="utf-8"))) for place in places}
    assert len(set.union(*found.values())) == 1
    assert all(found.values())
