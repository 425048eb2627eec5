"""The demo's stage: a folder, child processes, and checks that are timed and counted."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import requests
from rich.console import Console

from policies.errors import SandboxError

START_TIMEOUT_S = 30.0


class CheckFailed(Exception):
    """What a check found was not what it promises."""


def expect(condition: bool, otherwise: str) -> None:
    """Fail the current check with `otherwise` unless `condition` holds."""
    if not condition:
        raise CheckFailed(otherwise)


@dataclass
class Stage:
    """Holds everything that the demo starts, and the outcome of its checks."""

    folder: Path
    console: Console
    checks: list[dict[str, object]] = field(default_factory=list)
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    port: int = 0

    @property
    def ok(self) -> bool:
        """Whether every check so far passed."""
        return bool(self.checks) and all(bool(check["ok"]) for check in self.checks)

    @property
    def url(self) -> str:
        """Address of the service."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def data(self) -> Path:
        """The service's data folder."""
        return self.folder / "service"

    @contextmanager
    def check(self, name: str) -> Iterator[None]:
        """One timed check: it passes if nothing is raised. A failed check ends the demo, since what follows builds on it."""
        started = time.monotonic()
        try:
            with self.console.status(f"{name} ..."):
                yield
        except Exception as error:
            self._note(name, False, started)
            shown = f"{error.code}: {error}" if isinstance(error, SandboxError) else f"{type(error).__name__}: {error}"
            self.console.print(f"  [red]✗ {name}[/red]: {shown}", highlight=False)
            raise
        self._note(name, True, started)
        self.console.print(f"  [green]✓[/green] {name} [dim]({time.monotonic() - started:.1f} s)[/dim]", highlight=False)

    def _note(self, name: str, ok: bool, started: float) -> None:
        self.checks.append({"name": name, "ok": ok, "seconds": round(time.monotonic() - started, 3)})

    def start(self, name: str, *arguments: str) -> None:
        """Start `sandbox ARGUMENTS` as a child process; its output goes to NAME.log."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SANDBOX_")}
        environment |= {"SANDBOX_DATA": str(self.data), "SANDBOX_ORIGIN": "demo.sandbox.local/log"}
        with (self.folder / f"{name}.log").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                [sys.executable, "-m", "sandbox", *arguments], env=environment, stdout=output, stderr=output, cwd=self.folder
            )

    def start_service(self) -> None:
        """Start the web service on a free loopback port, and a worker, and wait until the service answers."""
        if not self.port:
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                self.port = free.getsockname()[1]
        self.start("web", "serve", "--bind", f"127.0.0.1:{self.port}", "--processes", "2")
        self.start("worker", "worker")
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                if requests.get(f"{self.url}/healthz", timeout=2).ok:
                    return
            except requests.RequestException:
                pass  # not up yet
            if time.monotonic() > deadline or self.processes["web"].poll() is not None:
                raise CheckFailed(f"the service did not start; see {self.folder / 'web.log'}")
            time.sleep(0.05)

    def stop(self, *names: str) -> None:
        """Stop these processes, or all of them."""
        chosen = [self.processes.pop(name) for name in (names or tuple(self.processes)) if name in self.processes]
        for process in chosen:
            process.send_signal(signal.SIGTERM)
        for process in chosen:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, *arguments: str) -> str:
        """Run `sandbox ARGUMENTS` to its end and return what it printed."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SANDBOX_")}
        environment |= {"SANDBOX_DATA": str(self.data), "SANDBOX_ORIGIN": "demo.sandbox.local/log"}
        done = subprocess.run(
            [sys.executable, "-m", "sandbox", *arguments], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        expect(done.returncode == 0, f"sandbox {arguments[0]} ended with {done.returncode}: {done.stderr.strip()[-300:]}")
        return done.stdout
