"""The enclave process: it confines itself, then frames in on one socket and out on one pipe, then the end.

Frames in: grant, agreement, nonces and what the launcher states about the process's cgroup; later the sealed keys, and with them the
encrypted files as open descriptors. Frames out: that it is ready, and between which layers; for evidence of a TEE, what the launcher is
to have signed; evidence; the statement and the sealed release. Nothing else is written anywhere: the process may not grow a file, and
standard error is not connected.
"""

from __future__ import annotations

import mmap
import os
import socket
import sys
from typing import IO, TYPE_CHECKING

from enclaves.confinement import layers_around, limit_self, limit_threads
from enclaves.seccomp import confine_system_calls

if TYPE_CHECKING:
    from policies.isolation import Layer
    from policies.statement import Endorsed

BASE_MIB = 256
"""What an enclave uses before it reads anything, and beside its tables; the rest of its memory is for them."""


def take_standard_output() -> IO[bytes]:
    """Return the only way out, and leave nothing at descriptor 1: whatever a library prints goes nowhere."""
    outgoing = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    return outgoing


def take_standard_input() -> socket.socket:
    """Return the socket on which input comes, closed for sending. Raises OSError if it is none."""
    incoming = socket.socket(fileno=os.dup(0))
    incoming.shutdown(socket.SHUT_WR)
    return incoming


def confine(memory_mib: int) -> list[Layer]:
    """Allow only the listed system calls from now on, and return the layers that this process finds around itself."""
    found = layers_around(memory_mib)
    if "uid" in found:
        limit_threads()
    if confine_system_calls():
        found.append("syscalls")
    return found


class AttesterOutside:
    """The launcher's machine as a source of evidence: between its layers an enclave reaches no device.

    The launcher runs inside the same TEE. One that gives the TEE other bytes to sign gets evidence that nobody accepts.
    """

    def __init__(self, incoming: socket.socket, outgoing: IO[bytes], kind: str) -> None:
        self._incoming, self._outgoing, self._kind = incoming, outgoing, kind

    def endorse(self, bound: bytes) -> Endorsed:
        """Return what the TEE says of `bound`. Raises OSError if there is no such TEE."""
        from enclaves.kit.frames import receive_frame, write_frame
        from policies.canonical import canonical, parse_json
        from policies.codec import decode
        from policies.statement import Endorsed

        write_frame(self._outgoing, canonical({"endorse": self._kind, "bound": bound.hex()}))
        answer = parse_json(receive_frame(self._incoming)[0], limit=16 << 20)
        if answer.get("endorsed") is None:
            raise OSError("no such TEE")
        return decode(Endorsed, answer["endorsed"])


def serve(incoming: socket.socket, outgoing: IO[bytes], memory_mib: int) -> None:
    """Speak the protocol of this module for one run."""
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # it would start a thread per core when it is loaded
    from enclaves.evidence import attest
    from enclaves.kit.frames import receive_frame, write_frame
    from enclaves.kit.measure import checkout_root, measurement
    from enclaves.kit.tables import bound_threads
    from enclaves.preload import preload
    from enclaves.run import Inputs, run
    from policies.canonical import canonical, parse_json
    from policies.codec import decode, encode
    from policies.grant import Grant
    from policies.isolation import Layer, in_order
    from policies.odrl import parse_agreement
    from policies.statement import Nonce

    bound_threads()
    preload()
    measured = measurement(checkout_root())
    found = confine(memory_mib)
    write_frame(outgoing, canonical({"ready": measured, "isolation": list(in_order(found))}))
    start = parse_json(receive_frame(incoming)[0], limit=16 << 20)
    grant, agreement = decode(Grant, start["grant"]), parse_agreement(start["agreement"])
    stated = set(decode(tuple[Layer, ...], start["cgroup"])) & {"memory", "pids"}
    isolation = in_order({*found, *stated})
    launcher = AttesterOutside(incoming, outgoing, grant.enclave_kind)
    identity = attest(grant, decode(tuple[Nonce, ...], start["nonces"]), measured, isolation, launcher)
    write_frame(outgoing, canonical(encode(identity.evidence)))
    text, files = receive_frame(incoming)
    given = parse_json(text, limit=16 << 20)
    inputs = Inputs(
        sealed_keys={provider: bytes.fromhex(sealed) for provider, sealed in given["keys"].items()},
        files={dataset: _mapped(file) for dataset, file in zip(given["files"], files, strict=True)},
    )
    statement, sealed = run(grant, agreement, identity, inputs, memory_mib=max(1, memory_mib - BASE_MIB))
    write_frame(outgoing, canonical(encode(statement)))
    write_frame(outgoing, sealed or b"")


def _mapped(file: int) -> bytes | memoryview:
    """A whole file, mapped to read, so that it takes no memory of its own.

    Whoever holds the file can still change it. What is read afterwards is authenticated under the keys of this dataset version and this
    file's own id, whatever its digest was when it was looked at.
    """
    size = os.fstat(file).st_size
    return memoryview(mmap.mmap(file, size, prot=mmap.PROT_READ)) if size else b""


def main(memory_mib: int) -> None:
    """Entry point of the child process; ends with status 1 and no word if anything goes wrong before a statement exists."""
    limit_self(memory_mib)
    try:
        serve(take_standard_input(), take_standard_output(), memory_mib)
    except BaseException:  # noqa: BLE001 - nothing about an error may leave
        os._exit(1)
    os._exit(0)


def probe(memory_mib: int) -> None:
    """Print the layers that a process started like an enclave would find, for the launcher to choose how to start them."""
    import importlib.util

    from enclaves.kit.measure import checkout_root, measurement

    limit_self(memory_mib)
    found = [] if importlib.util.find_spec("pyarrow") is None else [measurement(checkout_root()), *confine(memory_mib)]
    sys.stdout.write(" ".join(found))
    sys.stdout.flush()
    os._exit(0)
