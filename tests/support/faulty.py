"""Processes that kill themselves: `python -m tests.support.faulty FOLDER` forks one per line of its input, `ROLE STEP PORT`.

Each composes the service as `SANDBOX_*` spells it, or is the insurer's broker of a service on PORT, and ends with SIGKILL, as in a power
cut, when the durable order reaches STEP. Its exit status goes to the output. Forking from a process that has only loaded its libraries
makes each a process like any other, in a fraction of the time.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from werkzeug.serving import make_server

from app import compose
from sandbox.config import read_config
from sandbox.host import Host
from sandbox.jobs.launch import EnclaveProcess
from sandbox.jobs.worker import Worker
from sandbox.party.broker import Broker
from sandbox.party.client import Client
from sandbox.party.home import Home
from sandbox.web.application import make_app


def main() -> None:
    """Start a process for every line, one after another."""
    folder = Path(sys.argv[1])
    for line in sys.stdin:
        role, step, port = line.split()
        pid = os.fork()
        if pid == 0:
            try:
                serve(role, step, int(port), folder)
            finally:
                os._exit(1)
        _, status = os.waitpid(pid, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def serve(role: str, step: str, port: int, folder: Path) -> None:
    """Be a worker, a web process or a broker until that step."""
    if role == "broker":
        answer_keys(step, port, folder)
        return

    def on_step(reached: str) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    host = compose(read_config(), on_step)
    if role == "web":
        make_server("127.0.0.1", port, make_app(host), threaded=True).serve_forever()
    else:
        work(host, step, folder / f"{step}.pids")


def answer_keys(step: str, port: int, folder: Path) -> None:
    """Be the insurer's broker, and die before or after it sends its nonce or its keys; what it sends is kept at home before."""
    client = Client(home=HomeAt(folder=folder / "homes" / "insurer", port=port))
    for verb, before, after in (("challenge", "nonce-kept", "nonce-sent"), ("send_keys", "keys-kept", "keys-sent")):
        setattr(client, verb, dying(getattr(client, verb), before == step, after == step))
    Broker(client=client).serve()


def dying(send: Callable[..., None], before: bool, after: bool) -> Callable[..., None]:
    """`send`, and death on one side of it."""

    def sent(*arguments: Any) -> None:
        if before:
            os.kill(os.getpid(), signal.SIGKILL)
        send(*arguments)
        if after:
            os.kill(os.getpid(), signal.SIGKILL)

    return sent


@dataclass(frozen=True, kw_only=True)
class HomeAt(Home):
    """A home whose service is on a port of this machine."""

    port: int

    @property
    def url(self) -> str:
        """Address of the service."""
        return f"http://127.0.0.1:{self.port}"


def work(host: Host, name: str, pids: Path) -> None:
    """Run jobs under the name of the step that ends this worker; the process id of every enclave goes to a file."""

    def launch() -> EnclaveProcess:
        enclave = EnclaveProcess()
        with pids.open("a") as file:
            file.write(f"{enclave.pid}\n")
        return enclave

    Worker(host=host, launch=launch, name=f"dies-at-{name}").work()


if __name__ == "__main__":
    main()
