"""`sandbox enclave serve`."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import click

from policies.errors import Malformed
from sandbox.config import Config
from sandbox.logs import write_logs

_file = click.Path(path_type=Path, exists=True, dir_okay=False)


@click.command("serve")
@click.option("--bind", default="127.0.0.1:8710", show_default=True, help="Address and port.")
@click.option("--cert", type=_file, required=True, help="This server's TLS certificate chain (PEM).")
@click.option("--key", type=_file, required=True, help="Its private key (PEM).")
@click.option("--workers", "clients", type=_file, required=True, help="Certificates of the workers that may connect, or of their CA (PEM).")
@click.option("--most", default=4, show_default=True, type=click.IntRange(1, 256), help="Enclaves at a time.")
@click.option("--memory", default=3072, show_default=True, type=click.IntRange(512, 4 << 20), help="Memory of each, MiB.")
@click.option("--first-uid", default=70_000, show_default=True, type=click.IntRange(0), help="First of the 4096 uids that are theirs.")
@click.option("--cgroup", default="", help="Delegated folder of cgroup version 2; one is looked for otherwise.")
@click.option("--log", "form", default="text", show_default=True, type=click.Choice(["text", "json"]), help="Form of the log.")
def enclave_serve(bind: str, cert: Path, key: Path, clients: Path, most: int, memory: int, first_uid: int, cgroup: str, form: str) -> None:
    """Run enclaves for the workers of another operator: at a provider, or at a party that all agree on.

    Workers reach it over TLS 1.3 with certificates on both ends; they send and get nothing but what is sealed.

    \b
    Example: sandbox enclave serve --bind 0.0.0.0:8710 --cert enclaves.pem --key enclaves.key --workers workers.pem
    """
    from sandbox.jobs.isolation import isolation_of
    from sandbox.jobs.remote import parse_address
    from sandbox.jobs.serving import EnclaveServer, server_context

    write_logs(form)
    stopped = False

    def stop(number: int, frame: object) -> None:
        nonlocal stopped
        stopped = True

    config = Config(enclave_memory_mib=memory, enclave_first_uid=first_uid, enclave_cgroup=cgroup)
    address, context = parse_address(bind), server_context(cert, key, clients)
    isolation = isolation_of(config)
    try:
        listening = socket.create_server(address, family=socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
    except OSError as error:
        raise Malformed(f"{bind} cannot be bound: {error.strerror}", where="bind") from error
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    with listening:
        port = listening.getsockname()[1]
        click.echo(f"enclaves on {address[0]}:{port}, isolated by {', '.join(isolation.layers)}")
        EnclaveServer(listening=listening, context=context, isolation=isolation, most=most, stopping=lambda: stopped).serve()
