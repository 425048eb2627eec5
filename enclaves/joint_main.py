"""The child process of joint totals and encrypted scoring: limits first, one question on standard input, one
answer on standard output, then the end.

What comes from others is parsed here, so that whatever it does to a library happens to this process alone. Paths name files; the answer
says what was written, whose contribution was refused, or a code word.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

PR_SET_PDEATHSIG, PR_SET_DUMPABLE = 1, 4
ADDRESS_SPACE = 16 << 30
CPU_SECONDS = 1800
OPEN_FILES = 128
LARGEST_FILE = 8 << 30
LARGEST_QUESTION = 16 << 20


def limit_self() -> None:
    """Die with the parent; no core dump; bounded memory, time, files and descriptors; not readable by other processes."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    libc.prctl(PR_SET_DUMPABLE, 0)
    for what, most in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, LARGEST_FILE),
        (resource.RLIMIT_AS, ADDRESS_SPACE),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
    ):
        hard = resource.getrlimit(what)[1]
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(what, (allowed, allowed))


def answer(question: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to one question. Raises SandboxError for what the asker can put right."""
    if question["verb"] == "score":
        return _scored(question)
    from enclaves import joint
    from enclaves.kit.he_masks import MaskKey
    from enclaves.kit.sources import read_table
    from policies.codec import decode
    from policies.granted import MAX_RELEASE
    from policies.joint_documents import JointManifest
    from policies.joint_grant import JointGrant
    from policies.odrl import parse_agreement

    grant, agreement = decode(JointGrant, question["grant"]), parse_agreement(question["agreement"])
    declarations = agreement.by_dataset
    if question["verb"] == "add_up":
        files = {name: _named(Path(path), digest) for name, (path, digest) in question["contributions"].items()}
        try:
            total = joint.add_up(grant, declarations, files, _named(Path(question["public"][0]), question["public"][1]))
        except joint.Rejected as rejected:
            return {"rejected": rejected.contributor, "code": rejected.code}
        return {"digest": _write(question["output"], total)}
    manifest = decode(JointManifest, question["manifest"])
    if question["verb"] == "open":
        total, secret = _named(Path(question["total"][0]), question["total"][1]), Path(question["secret"]).read_bytes()
        allowed = (agreement.terms_of(member).output_bytes for member in grant.pool.members)
        most = min([MAX_RELEASE, *(bound for bound in allowed if bound is not None)])
        sealed, withheld = joint.open_total(grant, manifest, declarations, total, secret, most=most)
        return {"sealed": sealed.hex() if sealed is not None else None, "withheld": withheld}
    member = decode(str, question["member"])
    table = read_table(Path(question["data"]), declarations[member], decode(dict[str, str], question["sources"]))
    masks = [MaskKey(key=bytes.fromhex(item["key"]), adds=item["adds"]) for item in question["masks"]]
    public = _named(Path(question["public"][0]), manifest.public_key)
    data = joint.contribute(grant, manifest, declarations, member, table, public, masks, processes=os.cpu_count() or 1)
    return {"digest": _write(question["output"], data)}


def _scored(question: dict[str, Any]) -> dict[str, Any]:
    """The answer of a model's owner to a client's ciphertexts."""
    from enclaves.kit import he_score
    from policies.codec import decode
    from policies.scorer import Scorer

    scorer, weights = decode(Scorer, question["scorer"]), decode(tuple[tuple[int, ...], ...], question["weights"])
    data = _named(Path(question["file"][0]), question["file"][1])
    bound = (decode(str, question["agreement"]), decode(str, question["request_id"]))
    return {"digest": _write(question["output"], he_score.score(scorer, weights, data, decode(int, question["rows"]), *bound))}


def _named(path: Path, digest: str) -> bytes:
    """The bytes of a file, if its digest is this one. What is digested is what is read."""
    from policies.errors import Tampered

    data = path.read_bytes()
    if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
        raise Tampered("a file is not the one that was named", code="upload-digest")
    return data


def _write(path: str, data: bytes) -> str:
    Path(path).write_bytes(data)
    return "sha256:" + hashlib.sha256(data).hexdigest()


def main() -> None:
    """Entry point of the child process. An unforeseen error ends it with status 1 and no word."""
    limit_self()
    outgoing = os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        import enclaves.joint  # noqa: F401 - loaded before there is a question
        from policies.canonical import canonical, parse_json
        from policies.errors import SandboxError

        try:
            found = answer(parse_json(sys.stdin.buffer.read(), limit=LARGEST_QUESTION))
        except SandboxError as error:
            found = {"error": type(error).__name__, "code": error.code, "message": error.message}
        outgoing.write(canonical(found))
        outgoing.flush()
    except BaseException:  # noqa: BLE001 - what is unforeseen here may tell of data
        os._exit(1)
    os._exit(0)
