"""The enclave process: limits first, then frames on standard input and output, then the end.

Frames in: grant, agreement and nonces; later the sealed keys and paths of the encrypted files. Frames out: evidence; later the statement
and the sealed release. Nothing else is written anywhere: the process may not grow a file, and standard error is not connected.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from typing import IO

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
ADDRESS_SPACE = 8 << 30
MEMORY_MIB = 2048
CPU_SECONDS = 600
OPEN_FILES = 64


def limit_self() -> None:
    """Die with the parent; no core dump, no file writes, bounded memory, time and descriptors; not readable by other processes."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_DUMPABLE, 0)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_AS, ADDRESS_SPACE),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        hard = resource.getrlimit(what)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (allowed, allowed))


def take_standard_output() -> IO[bytes]:
    """Return the only way out, and leave nothing at descriptor 1: whatever a library prints goes nowhere."""
    outgoing = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return outgoing


def serve(incoming: IO[bytes], outgoing: IO[bytes]) -> None:
    """Speak the protocol of this module for one run."""
    from enclaves.evidence import attest
    from enclaves.frames import read_frame, write_frame
    from enclaves.kit.measure import checkout_root, measurement
    from enclaves.run import Inputs, run
    from policies.canonical import canonical, parse_json
    from policies.codec import decode, encode
    from policies.grant import Grant
    from policies.odrl import parse_agreement
    from policies.statement import Nonce

    measured = measurement(checkout_root())
    write_frame(outgoing, canonical({"ready": measured}))
    start = parse_json(read_frame(incoming), limit=16 << 20)
    grant, agreement = decode(Grant, start["grant"]), parse_agreement(start["agreement"])
    identity = attest(grant, decode(tuple[Nonce, ...], start["nonces"]), measured)
    write_frame(outgoing, canonical(encode(identity.evidence)))
    given = parse_json(read_frame(incoming), limit=16 << 20)
    inputs = Inputs(
        sealed_keys={provider: bytes.fromhex(sealed) for provider, sealed in given["keys"].items()},
        files={dataset: _read_file(path) for dataset, path in given["files"].items()},
    )
    statement, sealed = run(grant, agreement, identity, inputs, memory_mib=MEMORY_MIB)
    write_frame(outgoing, canonical(encode(statement)))
    write_frame(outgoing, sealed or b"")


def _read_file(path: str) -> bytes:
    """The whole file in memory: what is digested is what is read."""
    with open(path, "rb") as file:
        return file.read()


def main() -> None:
    """Entry point of the child process; ends with status 1 and no word if anything goes wrong before a statement exists."""
    limit_self()
    try:
        serve(sys.stdin.buffer, take_standard_output())
    except BaseException:  # noqa: BLE001 - nothing about an error may leave
        os._exit(1)
    os._exit(0)
