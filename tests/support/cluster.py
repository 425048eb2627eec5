"""A PostgreSQL server of one's own, to be killed and started again; never the server that other tests share."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.service import free_port


@dataclass
class Cluster:
    """One server with its data below a folder of its own, durable as an operator would run it."""

    folder: Path
    binaries: Path
    port: int
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Of its only database."""
        return f"postgresql+psycopg://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Start it, with recovery if it was killed, and wait until it answers."""
        options = ["-c", f"port={self.port}", "-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={self.folder}"]
        command = [str(self.binaries / "postgres"), "-D", str(self.folder / "data"), *options]
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(as_postgres(command), stdout=log, stderr=log, start_new_session=True)
        deadline = time.monotonic() + 60
        ready = [str(self.binaries / "pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        while subprocess.run(ready, check=False).returncode != 0:
            assert time.monotonic() < deadline, (self.folder / "server.log").read_text()[-2000:]
            time.sleep(0.05)

    def kill(self) -> None:
        """End the server and all its backends at once, as a power cut would."""
        process, self.process = self.process, None
        if process is None:
            return
        for pid in family(process.pid):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.wait()
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)


def family(pid: int) -> list[int]:
    """A process and all below it, parents first."""
    try:
        tasks = list(Path(f"/proc/{pid}/task").iterdir())
        children = [int(child) for task in tasks for child in (task / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [pid, *(below for child in children for below in family(child))]


def as_postgres(command: list[str]) -> list[str]:
    """The command as an unprivileged user: the server refuses to run as root."""
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command] if os.geteuid() == 0 else command


@contextmanager
def own_cluster() -> Iterator[Cluster]:
    """A running server that nobody else uses. Skips, naming what is missing."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if not found:
        pytest.skip("no PostgreSQL server programs: apt-get install postgresql")
    if os.geteuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("no setpriv to start a server as another user than root: apt-get install util-linux")
    folder = Path(tempfile.mkdtemp(prefix="cluster-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        command = [str(found[-1]), "-D", str(folder / "data"), "-U", "postgres", "--auth=trust", "--no-instructions"]
        subprocess.run(as_postgres(command), check=True, stdout=subprocess.DEVNULL, cwd=folder)
        cluster = Cluster(folder=folder, binaries=found[-1].parent, port=free_port())
        cluster.start()
        try:
            yield cluster
        finally:
            cluster.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
