"""Checkpoints of other logs in this one: verified, held against the one noted before, and appended."""

from __future__ import annotations

from dataclasses import replace

from policies.canonical import canonical, digest, parse_json
from policies.errors import Conflict, Tampered
from sandbox.audit import merkle
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.export import Export
from sandbox.audit.noted import Noted, require_following
from sandbox.host import Host


def setting_of(origin: str) -> str:
    """The setting that holds what was noted last of a log."""
    return "noted-" + digest(origin).removeprefix("sha256:")[:32]


def note_log(host: Host, export: Export, key: LogKey) -> int | None:
    """Append the checkpoint of an exported log; returns the index of the entry, or None where that very checkpoint is noted already.

    The entries of the export must lead to its checkpoint; from them follows the proof that it extends the one noted before.

    Raises:
        Conflict: code `own-log`, for this log itself. Tampered: as `require_following`, or code `rewritten` where the entries do not lead
            to the checkpoint. Malformed: the export cannot be read.
    """
    if key.name == host.config.origin:
        raise Conflict("a log does not note its own checkpoints", code="own-log")
    asked = Noted(origin=key.name, key=key.public.hex(), note=export.checkpoint())
    size = asked.opened().size
    with host.store.transaction() as tx:
        tx.hold_log()
        kept = tx.setting(setting_of(key.name))
        before = None if kept is None else Noted.from_ids(parse_json(kept.encode()))
        known = 0 if before is None else before.opened().size
        noted = replace(asked, proof=_proof(export, asked, known)) if size else asked
        try:
            require_following(noted, before)
        except Tampered as error:
            if error.code == "stale":
                return None
            raise
        index = tx.append("log_noted", at=host.now(), ids=noted.to_ids(), body={})
        tx.replace_setting(setting_of(key.name), canonical(noted.to_ids()).decode())
    host.publish()
    return index


def _proof(export: Export, noted: Noted, known: int) -> tuple[str, ...]:
    """The proof that an export's tree extends its first `known` entries; empty where it does not reach beyond them."""
    checkpoint = noted.opened()
    leaves = [merkle.leaf_hash(data) for bundle in export.bundles(checkpoint.size) for data in bundle.entries]

    def node(level: int, index: int) -> bytes:
        if not level:
            return leaves[index]
        return merkle.node_hash(node(level - 1, 2 * index), node(level - 1, 2 * index + 1))

    if merkle.Frontier().extend(leaves).root() != checkpoint.root:
        raise Tampered("the export's entries do not lead to its checkpoint", code="rewritten")
    if not 0 < known < checkpoint.size:
        return ()
    return tuple(part.hex() for part in merkle.consistency_proof(known, checkpoint.size, node))
