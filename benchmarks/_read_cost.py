"""Processor time of every endpoint that only reads, in one process and without a server, beside a Flask hello-world: unlike requests per
second it hardly depends on what else the machine does. `python -m benchmarks._read_cost DATA CREDENTIAL JOB AGREEMENT`, on a stopped
service's folder, with a participant's credential, one of its released jobs and that job's agreement.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from flask import Flask

from app import create_app
from benchmarks._hello import app as hello
from benchmarks.load import read_paths, shown
from sandbox.config import Config

REQUESTS = 50
ROUNDS = 5


def cost(app: Flask, path: str, credential: str) -> float:
    """Milliseconds of processor time per request, in the cheapest of several rounds: the others shared caches with other work."""
    client, headers = app.test_client(), {"Authorization": f"Bearer {credential}"}
    if client.get(path, headers=headers).status_code != 200:
        raise SystemExit(f"{path} is not answered")
    spent = []
    for _ in range(ROUNDS):
        started = time.process_time()
        for _ in range(REQUESTS):
            client.get(path, headers=headers)
        spent.append((time.process_time() - started) / REQUESTS * 1000)
    return min(spent)


def main() -> None:
    """Measure and print."""
    data, credential, job, agreement = sys.argv[1:]
    app, floor = create_app(Config(data=Path(data), credential_rate=0.0, address_rate=0.0)), cost(hello, "/", credential)
    for path in read_paths(job, agreement):
        spent = cost(app, path, credential)
        print(f"{spent:7.2f} ms {spent / floor:6.1f} x  {shown(path, job, agreement)}")


if __name__ == "__main__":
    main()
