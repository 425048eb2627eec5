"""Cosignatures of witnesses that the operator keeps and serves beside its checkpoints (C2SP tlog-cosignature).

They are evidence for whoever verifies them under a policy of its own: what the operator serves proves what a witness has seen, and what it
does not serve proves nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from policies.canonical import digest
from policies.errors import Conflict, Forbidden, Malformed, NotFound, Tampered
from sandbox.audit.checkpoint import LogKey, NoteKey, parse_text, signature_line, signature_lines
from sandbox.audit.cosignature import add_lines
from sandbox.audit.witness_policy import WitnessPolicy, parse_policy
from sandbox.host import Host

if TYPE_CHECKING:
    from sandbox.store.database import Transaction

SETTING = "witnesses"
"""The setting that holds the policy: whose cosignatures are kept, and how many of them are a quorum."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Cosigned:
    """A checkpoint and the witnesses that have cosigned it, by the names of the policy; `quorum` says whether they are enough."""

    size: int
    note: str
    witnesses: tuple[str, ...]
    quorum: bool


def set_witnesses(host: Host, text: str) -> WitnessPolicy:
    """Keep cosignatures by the witnesses of a C2SP tlog-policy from now on. Raises Malformed (code "witness-policy")."""
    policy = parse_policy(text)
    with host.store.transaction() as tx:
        tx.replace_setting(SETTING, text)
    return policy


def witnesses_of(tx: Transaction) -> WitnessPolicy | None:
    """The policy, if the operator has set one."""
    text = tx.setting(SETTING)
    return None if text is None else parse_policy(text)


def add_cosignatures(host: Host, note: str) -> Cosigned:
    """Keep the cosignatures on a note of one of this log's checkpoints. All of them or none; the same again is the same.

    Raises:
        Conflict: code `no-witnesses`, where the operator has named none.
        Malformed: code "note" or "checkpoint", or a note without a cosignature.
        NotFound: the log has published no such checkpoint. Forbidden: code `unknown-witness` for a line by somebody else, and
            `bad-cosignature` for one that does not verify; both by name.
    """
    with host.store.transaction() as tx:
        policy = witnesses_of(tx)
        if policy is None:
            raise Conflict("the operator has named no witnesses", code="no-witnesses")
        published, size = _published(host, tx, note)
        own, lines = host.log_identity, _lines(note, policy, host.log_identity)
        try:
            found = policy.cosigned(note)
        except Tampered as error:
            raise Forbidden(error.message, code="bad-cosignature") from error
        if not found:
            raise Malformed(f"the note has no cosignature, only that of {own.name}", code="note")
        for witness, line in lines.items():
            tx.add_cosignature(size, witness, line)
        return _cosigned(tx, policy, size, published)


def served_note(tx: Transaction, size: int, note: str) -> str:
    """A checkpoint of the log with the cosignatures that are kept of it, by the witnesses that the operator names now."""
    kept = tx.cosignatures(size)
    policy = witnesses_of(tx) if kept else None
    named = sorted(digest(witness.key.vkey) for witness in policy.witnesses.values()) if policy is not None else []
    return add_lines(note, "".join(kept[key] for key in named if key in kept))


def newest_cosigned(tx: Transaction) -> Cosigned:
    """The newest checkpoint that a quorum of the operator's witnesses has cosigned. Raises NotFound."""
    policy = witnesses_of(tx)
    if policy is not None:
        for size in tx.cosigned_sizes():
            note = tx.checkpoint_of(size)
            found = None if note is None else _cosigned(tx, policy, size, note)
            if found is not None and found.quorum:
                return found
    raise NotFound("no checkpoint is cosigned by a quorum of witnesses yet")


def _published(host: Host, tx: Transaction, note: str) -> tuple[str, int]:
    """This log's own note of the checkpoint that `note` is about, and its size."""
    text, _ = signature_lines(note)
    try:
        size = parse_text(text, host.log_identity.name).size
    except Tampered as error:
        raise NotFound("the note is of another log") from error
    published = tx.checkpoint_of(size)
    if published is None or signature_lines(published)[0] != text:
        raise NotFound(f"the log has published no such checkpoint of {size} entries")
    return published, size


def _lines(note: str, policy: WitnessPolicy, own: LogKey) -> dict[str, str]:
    """The line of every witness of the policy on a note, by the digest of its key. Raises Forbidden for a line by anybody else."""
    known: dict[tuple[str, bytes], NoteKey] = {(w.key.name, w.key.key_id): w.key for w in policy.witnesses.values()}
    found = {}
    for name, key_id, signature in signature_lines(note)[1]:
        if name == own.name:
            continue
        key = known.get((name, key_id))
        if key is None:
            raise Forbidden(f"`{name[:100]}` (key {key_id.hex()}) is no witness of this log", code="unknown-witness")
        found[digest(key.vkey)] = signature_line(key, signature)
    return found


def _cosigned(tx: Transaction, policy: WitnessPolicy, size: int, note: str) -> Cosigned:
    full = served_note(tx, size, note)
    names = tuple(sorted(policy.cosigned(full)))
    return Cosigned(size=size, note=full, witnesses=names, quorum=policy.is_met_by(names))
