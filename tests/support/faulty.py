"""Host processes that kill themselves: `python -m tests.support.faulty FOLDER` forks one per line of its input, `ROLE STEP PORT`.

Each composes the service as `SANDBOX_*` spells it and ends with SIGKILL, as in a power cut, when the durable order reaches STEP. Its
exit status goes to the output. Forking from a process that has only loaded its libraries makes each a process like any other, in a
fraction of the time.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from werkzeug.serving import make_server

from app import compose
from sandbox.config import read_config
from sandbox.host import Host
from sandbox.jobs.launch import EnclaveProcess
from sandbox.jobs.worker import Worker
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
    """Be a worker or a web process until that step."""

    def on_step(reached: str) -> None:
        if reached == step:
            os.kill(os.getpid(), signal.SIGKILL)

    host = compose(read_config(), on_step)
    if role == "web":
        make_server("127.0.0.1", port, make_app(host), threaded=True).serve_forever()
    else:
        work(host, step, folder / f"{step}.pids")


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
