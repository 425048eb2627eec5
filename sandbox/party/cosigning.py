"""Having a checkpoint cosigned: each witness of a policy is given the proof that it extends what that witness has seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import requests

from policies.canonical import digest_bytes, parse_json
from policies.errors import Malformed, NotFound, SandboxError, Tampered, Unavailable
from sandbox.audit.checkpoint import Checkpoint, signature_lines
from sandbox.audit.cosignature import add_lines, cosignatures
from sandbox.audit.witness import Submission
from sandbox.audit.witness_policy import Witness, WitnessPolicy, parse_policy
from sandbox.party.following import Follower
from sandbox.party.home import Home

POLICY = "witnesses.policy"
"""File of a home: the policy by which its owner accepts checkpoints."""

ATTEMPTS = 3
TIMEOUT_S = 10
MAX_ANSWER = 64 * 1024

Prove = Callable[[int, int], Sequence[bytes]]
"""(old size, new size) -> RFC 6962 consistency proof."""


def kept_policy(home: Home) -> WitnessPolicy | None:
    """The policy of a home, if its owner has set one. Raises Malformed."""
    if not (home.folder / POLICY).is_file():
        return None
    return parse_policy(home.read_bytes(POLICY).decode("utf-8", "surrogateescape"))


def following(home: Home, fetch: Callable[[str], str]) -> Follower:
    """A follower of the log at `fetch` that accepts checkpoints by the policy of the home, if it has one."""
    policy = kept_policy(home)
    if policy is None:
        return Follower(home=home, fetch=fetch)

    def prove(old: int, new: int) -> list[bytes]:
        answer = parse_json(fetch(f"consistency?from={old}&to={new}").encode())
        return [bytes.fromhex(item) for item in answer["proof"]]

    def accept(note: str, checkpoint: Checkpoint) -> None:
        if checkpoint.size:
            cosigned = collect(cosigned_note(home, note), checkpoint, policy, prove)
            if cosigned != cosigned_note(home, note):
                home.write_bytes(_cosigned(checkpoint.origin), cosigned.encode())

    return Follower(home=home, fetch=fetch, accept=accept)


def cosigned_note(home: Home, note: str) -> str:
    """A note with the cosignatures that this home has kept of the same checkpoint, if it has."""
    text, _ = signature_lines(note)
    try:
        kept = home.read_bytes(_cosigned(text.partition("\n")[0])).decode()
    except NotFound:
        return note
    return add_lines(note, kept.removeprefix(text + "\n")) if kept.startswith(text + "\n") else note


def _cosigned(origin: str) -> str:
    return f"cosigned/{digest_bytes(origin.encode()).removeprefix('sha256:')}"


def collect(note: str, checkpoint: Checkpoint, policy: WitnessPolicy, prove: Prove) -> str:
    """Return the note with the cosignatures that the policy asks for.

    Witnesses without an address, and those that cannot be reached or refuse, are left out as long as the others are a quorum.

    Raises:
        Tampered: code `witness-quorum`, saying what each witness that is missing answered.
    """
    if policy.is_met_by(policy.cosigned(note)):
        return note
    note, refused = gather(note, checkpoint, policy, prove)
    try:
        policy.require(note)
    except Tampered as error:
        said = "; ".join(f"{name}: {what}" for name, what in refused.items())
        raise Tampered(f"{error.message}{f' ({said})' if said else ''}", code=error.code) from error
    return note


def gather(note: str, checkpoint: Checkpoint, policy: WitnessPolicy, prove: Prove) -> tuple[str, dict[str, str]]:
    """Ask every witness of the policy that has an address and whose cosignature is missing, be they a quorum or not.

    Returns the note with what they gave, and by name what those said that gave nothing. Raises Tampered for a false line on `note`.
    """
    refused: dict[str, str] = {}
    have = policy.cosigned(note)
    for witness in policy.witnesses.values():
        if witness.name in have or not witness.url:
            continue
        try:
            note = add_lines(note, _cosigned_by(witness, note, checkpoint, prove))
        except SandboxError as error:
            refused[witness.name] = error.message
    return note, refused


def _cosigned_by(witness: Witness, note: str, checkpoint: Checkpoint, prove: Prove) -> str:
    """The witness's own signature lines. Raises Unavailable, Tampered where it has seen another history, Malformed."""
    old = 0
    for _ in range(ATTEMPTS):
        proof = tuple(prove(old, checkpoint.size)) if old else ()
        status, body = _post(f"{witness.url}/add-checkpoint", Submission(old=old, proof=proof, note=note).render())
        if status == 200:
            return _own_lines(witness, note, body)
        if status != 409:
            break
        seen = body.removesuffix("\n")
        if not seen.isdecimal() or int(seen) == old or int(seen) > checkpoint.size:
            break
        old = int(seen)
    if status == 422 or (status == 409 and body == f"{checkpoint.size}\n"):
        raise Tampered("it has seen another history of this log", code="split-view")
    if status == 409:
        raise Tampered("it has seen a longer log", code="rolled-back")
    raise Unavailable(f"it answered {status}", code="witness")


def _own_lines(witness: Witness, note: str, body: str) -> str:
    """Of the answered lines, those of this witness. Raises Malformed, Tampered."""
    answered = add_lines(note, body)
    if witness.key not in cosignatures(answered, [witness.key]):
        raise Tampered("it answered without its cosignature", code="cosignature")
    mine = []
    for line in body.splitlines(keepends=True):
        _, ((name, key_id, _),) = signature_lines("note\n\n" + line)
        if (name, key_id) == (witness.key.name, witness.key.key_id):
            mine.append(line)
    return "".join(mine)


def _post(url: str, body: str) -> tuple[int, str]:
    try:
        answer = requests.post(url, data=body.encode(), timeout=TIMEOUT_S, allow_redirects=False, stream=True)
        data = answer.raw.read(MAX_ANSWER + 1, decode_content=True)
        answer.close()
    except (requests.RequestException, OSError) as error:
        raise Unavailable("it cannot be reached", code="witness") from error
    if len(data) > MAX_ANSWER:
        raise Malformed("it answered too much", code="witness")
    try:
        return answer.status_code, data.decode()
    except UnicodeDecodeError as error:
        raise Malformed("it answered with what is not UTF-8", code="witness") from error
