"""The child process of joint totals and encrypted scoring: limits first, one question on a socket, one answer on
standard output, then the end.

What comes from others is parsed here, so that whatever it does to a library happens to this process alone, between the walls of its
jail. Files come as open descriptors; the answer names what was made, whose contribution was refused, or a code word, and what was made
follows it.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import signal
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enclaves.kit.child import Work
    from policies.agreement import Agreement
    from policies.isolation import Layer
    from policies.joint_grant import JointGrant

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
ADDRESS_SPACE = 16 << 30
CPU_SECONDS = 1800
OPEN_FILES = 128
LARGEST_MEMORY_FILE = 64 << 20
"""SEAL's bindings write keys and single ciphertexts into files in memory, which the limit on files counts."""

LARGEST_QUESTION = 16 << 20


def limit_self() -> None:
    """Die with the parent; no core dump; bounded memory, time, files and descriptors; not readable by other processes."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_DUMPABLE, 0)
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, LARGEST_MEMORY_FILE),
        (resource.RLIMIT_AS, ADDRESS_SPACE),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        hard = resource.getrlimit(what)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (allowed, allowed))


def confine() -> list[Layer]:
    """Allow only the listed system calls from now on, and return the layers that this process finds around itself.

    `limits` is not among them: its files in memory can grow, and more memory is allowed than a run of SQL may have.
    """
    from enclaves.confinement import layers_around, limit_threads
    from enclaves.seccomp import confine_system_calls

    found = layers_around(0)
    if "uid" in found:
        limit_threads()
    if confine_system_calls(memory_files=True):
        found.append("syscalls")
    return found


def preload(work: Work) -> None:
    """Use what this process is for once, on nothing of anybody's: no library can be loaded once system calls are confined.

    What it is not for is not loaded: a host's processor loads an adder while contributors are at work.
    """
    if work == "score":
        from enclaves.kit import he_score

        he_score.use_once()
        return
    import policies.odrl  # noqa: F401
    from enclaves.dp import draw_share

    draw_share(1, 1 << 20)
    _use_scheme()
    if work == "add_up":
        import enclaves.joint_sum

        return
    import enclaves.joint  # noqa: F401
    from enclaves.kit import formats, sources  # noqa: F401
    from enclaves.preload import preload as preload_runs

    preload_runs()
    if work == "contribute":
        formats.use_once()


def _use_scheme() -> None:
    import numpy as np

    from enclaves.kit import he
    from policies.joint import PARAMETERS

    name = min(PARAMETERS, key=lambda known: PARAMETERS[known].ciphertext_bytes)
    pair = he.generate_key(name)
    encrypted = he.encrypt(name, pair.public, he.pack(name, np.zeros(1, dtype=np.int64), 1))
    he.decrypt(name, pair.secret, encrypted)


def answer(question: Mapping[str, Any], files: Mapping[str, bytes]) -> tuple[dict[str, Any], bytes]:
    """Return the answer to one question and the bytes that come with it. Raises SandboxError for what the asker can put right."""
    if question["verb"] == "score":
        return _made(_scored(question, files))
    from policies.codec import decode
    from policies.joint_grant import JointGrant
    from policies.odrl import parse_agreement

    grant, agreement = decode(JointGrant, question["grant"]), parse_agreement(question["agreement"])
    if question["verb"] == "add_up":
        return _summed(question, files, grant, agreement)
    if question["verb"] == "open":
        return _opened(question, files, grant, agreement), b""
    return _made(_contribution(question, files, grant, agreement))


def _summed(
    question: Mapping[str, Any], files: Mapping[str, bytes], grant: JointGrant, agreement: Agreement
) -> tuple[dict[str, Any], bytes]:
    """The sum of everybody's ciphertexts, or whose are none."""
    from enclaves import joint_sum
    from enclaves.kit.child import PUBLIC

    parts = {name: _named(files[name], digest) for name, digest in question["contributions"].items()}
    try:
        return _made(joint_sum.add_up(grant, agreement.by_dataset, parts, _named(files[PUBLIC], question["public"])))
    except joint_sum.Rejected as rejected:
        return {"rejected": rejected.contributor, "code": rejected.code}, b""


def _opened(question: Mapping[str, Any], files: Mapping[str, bytes], grant: JointGrant, agreement: Agreement) -> dict[str, Any]:
    """The sealed release, or why there is none."""
    from enclaves import joint
    from enclaves.kit.child import SECRET, TOTAL
    from policies.codec import decode
    from policies.granted import MAX_RELEASE
    from policies.joint_documents import JointManifest

    allowed = (agreement.terms_of(member).output_bytes for member in grant.pool.members)
    most = min([MAX_RELEASE, *(bound for bound in allowed if bound is not None)])
    total, manifest = _named(files[TOTAL], question["total"]), decode(JointManifest, question["manifest"])
    sealed, withheld = joint.open_total(grant, manifest, agreement.by_dataset, total, files[SECRET], most=most)
    return {"sealed": sealed.hex() if sealed is not None else None, "withheld": withheld}


def _contribution(question: Mapping[str, Any], files: Mapping[str, bytes], grant: JointGrant, agreement: Agreement) -> bytes:
    """A contributor's ciphertexts."""
    from enclaves import joint
    from enclaves.kit.child import PUBLIC, TABLE
    from enclaves.kit.formats import HeldFile
    from enclaves.kit.he_masks import MaskKey
    from enclaves.kit.sources import read_table
    from policies.codec import decode
    from policies.joint_documents import JointManifest

    manifest = decode(JointManifest, question["manifest"])
    member, declarations = decode(str, question["member"]), agreement.by_dataset
    held = HeldFile(name=decode(str, question["table"]), content=files[TABLE])
    table = read_table(held, declarations[member], decode(dict[str, str], question["sources"]))
    masks = [MaskKey(key=bytes.fromhex(item["key"]), adds=item["adds"]) for item in question["masks"]]
    public = _named(files[PUBLIC], manifest.public_key)
    return joint.contribute(grant, manifest, declarations, member, table, public, masks)


def _scored(question: Mapping[str, Any], files: Mapping[str, bytes]) -> bytes:
    """The answer of a model's owner to a client's ciphertexts."""
    from enclaves.kit import he_score
    from enclaves.kit.child import REQUEST
    from policies.codec import decode
    from policies.scorer import Scorer

    scorer, weights = decode(Scorer, question["scorer"]), decode(tuple[tuple[int, ...], ...], question["weights"])
    bound = (decode(str, question["agreement"]), decode(str, question["request_id"]))
    return he_score.score(scorer, weights, _named(files[REQUEST], question["ciphertexts"]), decode(int, question["rows"]), *bound)


def _named(data: bytes, digest: str) -> bytes:
    """The bytes, if their digest is this one."""
    from policies.errors import Tampered

    if _digest(data) != digest:
        raise Tampered("a file is not the one that was named", code="upload-digest")
    return data


def _made(data: bytes) -> tuple[dict[str, Any], bytes]:
    return {"digest": _digest(data)}, data


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def serve(work: Work) -> None:
    """Say between which layers this process stands, then answer one question, which is of the work that it was started for."""
    from enclaves.kit.frames import receive_frame, write_frame
    from enclaves.main import take_standard_input, take_standard_output
    from policies.canonical import canonical, parse_json
    from policies.errors import SandboxError

    outgoing, incoming = take_standard_output(), take_standard_input()
    preload(work)
    write_frame(outgoing, canonical({"isolation": list(confine())}))
    text, handles = receive_frame(incoming)
    made = b""
    try:
        question = parse_json(text, limit=LARGEST_QUESTION)
        if question["verb"] != work:
            raise ValueError("this process is for other work")
        files = {name: _whole(handle) for name, handle in zip(question["files"], handles, strict=True)}
        said, made = answer(question, files)
        said |= {"bytes": len(made)} if made else {}
    except SandboxError as error:
        said = {"error": type(error).__name__, "code": error.code, "message": error.message}
    write_frame(outgoing, canonical(said))
    outgoing.write(made)
    outgoing.flush()


def _whole(handle: int) -> bytes:
    with os.fdopen(handle, "rb") as file:
        return file.read()


def main(work: Work) -> None:
    """Entry point of the child process. An unforeseen error ends it with status 1 and no word."""
    limit_self()
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # it would start a thread per core when it is loaded
    try:
        serve(work)
    except BaseException:  # noqa: BLE001 - what is unforeseen here may tell of data
        os._exit(1)
    os._exit(0)
