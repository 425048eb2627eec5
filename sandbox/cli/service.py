"""`sandbox serve`, `worker`, `demo`, `admin`, `enclave`."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from enclaves.kit.measure import checkout_root
from policies.errors import Malformed
from sandbox.cli.attesting import appraise, measure
from sandbox.cli.composing import composed
from sandbox.cli.enclaves import enclave_serve
from sandbox.cli.show import json_option, print_json
from sandbox.cli.stopping import until_stopped
from sandbox.config import CONFIG_FILE, read_config
from sandbox.logs import write_logs

KEPT_OPEN_S = 20
"""Seconds for which the server leaves a connection open that nobody uses. Clients give theirs up earlier, so that neither closes as the
other sends."""

_file = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command()
@click.option("--bind", default="127.0.0.1:8700", show_default=True, help="Address and port.")
@click.option("--processes", default=2, show_default=True, type=click.IntRange(1, 64), help="Web processes.")
@click.option("--with-worker", is_flag=True, help="Also run one worker, stopped together with the service.")
@click.option("--cert", type=_file, help="TLS certificate chain (PEM); with --key, the service speaks HTTPS only.")
@click.option("--key", type=_file, help="TLS private key (PEM).")
def serve(bind: str, processes: int, with_worker: bool, cert: Path | None, key: Path | None) -> None:
    """Run the service under gunicorn. Settings come from the file that SANDBOX_CONFIG names and from SANDBOX_* variables.

    A HUP signal replaces the web processes by new ones, which load the code anew, without failing a request.

    \b
    Example: SANDBOX_DATA=/var/lib/sandbox sandbox serve --bind 127.0.0.1:8700 --with-worker
    """
    if (cert is None) != (key is None):
        raise Malformed("--cert and --key belong together")
    config = read_config()
    environment = dict(os.environ) | {"SANDBOX_DATA": str(config.data.resolve())}
    if environment.get(CONFIG_FILE):
        environment[CONFIG_FILE] = str(Path(environment[CONFIG_FILE]).resolve())
    with tempfile.TemporaryDirectory(prefix="sandbox-metrics-") as counters:
        web = dict(environment, PROMETHEUS_MULTIPROC_DIR=counters) if config.metrics else environment
        command = _gunicorn(bind, processes) + _tls(cert, key)
        if config.log == "json":
            command += ["--logger-class", "sandbox.web.server_log.JsonLogger"]
        children = [subprocess.Popen([*command, "app:create_app()"], env=web)]
        if with_worker:
            children.append(subprocess.Popen([sys.executable, "-m", "sandbox", "worker"], env=environment))
        code = _wait(children)
    sys.exit(max(0, code))


def _gunicorn(bind: str, processes: int) -> list[str]:
    command = [sys.executable, "-m", "gunicorn", "--chdir", str(checkout_root()), "--bind", bind, "--workers", str(processes)]
    command += ["--worker-class", "sandbox.web.server_worker.Worker"]
    command += ["--threads", "8", "--keep-alive", str(KEPT_OPEN_S)]
    return [*command, "--no-control-socket", "--timeout", "120", "--graceful-timeout", "30"]


def _tls(cert: Path | None, key: Path | None) -> list[str]:
    return [] if cert is None else ["--certfile", str(cert.resolve()), "--keyfile", str(Path(str(key)).resolve())]


def _wait(children: list[subprocess.Popen[bytes]]) -> int:
    """Wait for the first process, then stop the others; a signal stops all. Returns the first's exit code."""

    def stop(number: int, frame: object) -> None:
        for child in children:
            child.terminate()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGHUP, lambda number, frame: children[0].send_signal(signal.SIGHUP))
    code = children[0].wait()
    stop(0, None)
    for child in children:
        child.wait()
    return code


@click.command()
@click.option("--parallel", default=1, show_default=True, type=click.IntRange(1, 64), help="Runs at a time, one process each.")
@click.option("--supervised", is_flag=True, hidden=True, help="Also stop when the starting process is gone.")
def worker(parallel: int, supervised: bool) -> None:
    """Take charged jobs and run them in enclaves, until stopped.

    A first TERM or INT signal lets the current runs end. No new one is taken.

    \b
    Example: SANDBOX_DATA=/var/lib/sandbox sandbox worker --parallel 4
    """
    parent = os.getppid()
    config = read_config()
    write_logs(config.log)
    log = logging.getLogger("sandbox.worker")

    stopping = until_stopped()
    if parallel > 1:
        _supervise(parallel, stopping)
        return
    from sandbox.jobs.launch import LocalEnclaves
    from sandbox.jobs.remote import RemoteEnclaves, client_context, parse_address
    from sandbox.jobs.worker import Worker

    host = composed(lambda step: log.info("step", extra={"step": step}))
    # A worker whose supervisor was killed ends too: nobody could stop it any more.
    enclaves: LocalEnclaves | RemoteEnclaves = LocalEnclaves(config=config)
    if config.enclave_address:
        parse_address(config.enclave_address), client_context(config)  # a setting that is wrong is said at once
        enclaves = RemoteEnclaves(config=config)
    found = Worker(
        host=host,
        launch=enclaves.launch,
        layers=enclaves.layers,
        tidy=enclaves.tidy,
        keep_spare=True,
        stopping=lambda: stopping() or (supervised and os.getppid() != parent),
    )
    log.info("started", extra={"worker": found.name})
    found.work()
    log.info("stopped", extra={"worker": found.name})


RESTART_S = 1.0
"""How long a worker that ended unasked stays away, so that one that cannot start does not start all the time."""


def _supervise(count: int, stopping: Callable[[], bool]) -> None:
    """Keep `count` worker processes running until `stopping`; then let each end its run.

    Processes, not threads: an enclave dies with the thread that started it (PR_SET_PDEATHSIG in enclaves/main.py), and a worker process
    that crashes or is killed takes down its own run alone.
    """
    command = [sys.executable, "-m", "sandbox", "worker", "--supervised"]

    def start() -> subprocess.Popen[bytes]:
        # A session of its own: an interrupt at the terminal reaches the supervisor alone, which passes it on once.
        return subprocess.Popen(command, start_new_session=True)

    children = [start() for _ in range(count)]
    while not stopping():
        time.sleep(0.2)
        for place, child in enumerate(children):
            if child.poll() is not None and not stopping():
                time.sleep(RESTART_S)
                children[place] = start()
    for child in children:
        child.terminate()
    for child in children:
        child.wait()


@click.command()
@click.option("--json", "report", type=click.Path(path_type=Path, dir_okay=False), help="Write the outcome to this file as JSON.")
@click.option("--keep", type=click.Path(path_type=Path, file_okay=False), help="Keep all folders here instead of deleting them.")
def demo(report: Path | None, keep: Path | None) -> None:
    """Tell the whole story once on real data: from encrypted upload to audited release. Exits 0 only if every check passed.

    \b
    Example: sandbox demo --json outcome.json
    """
    from sandbox.demo.story import tell

    sys.exit(0 if tell(report=report, keep=keep) else 1)


@click.group()
def admin() -> None:
    """What the operator does, on the service's machine."""


@admin.command("admit")
@click.argument("participant")
@json_option
def admin_admit(participant: str, as_json: bool) -> None:
    """Print a one-time admission code for PARTICIPANT, valid for 24 hours.

    \b
    Example: SANDBOX_DATA=/var/lib/sandbox sandbox admin admit insurer
    """
    from sandbox.exchange.participants import issue_code

    code = issue_code(composed(), participant)
    if as_json:
        print_json({"participant": participant, "code": code})
    else:
        click.echo(code)


@click.group()
def enclave() -> None:
    """What runs inside."""


enclave.add_command(measure)
enclave.add_command(appraise)
enclave.add_command(enclave_serve)
