"""What a dishonest operator can do: it owns the log's key, so it can make a whole consistent tree over whatever entries it likes."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from enclaves.kit.signatures import SigningKey
from policies.canonical import canonical
from policies.codec import encode
from policies.entries import EntryKind, Header, LedgerCharge, Opening, commit, parse_header
from sandbox.audit.checkpoint import Checkpoint, sign
from sandbox.audit.export import CHECKPOINT_PATH, openings_path, render_openings
from sandbox.audit.merkle import Frontier, completed_nodes, leaf_hash
from sandbox.audit.replay import replay
from sandbox.audit.tiles import TILE_WIDTH, layout, pack_entries, tile_hashes
from sandbox.audit.verdict import Promise, Verdict
from sandbox.host import Host
from tests.support.story import Story


@dataclass(frozen=True, kw_only=True, slots=True)
class Draft:
    """One entry before it is hashed. `raw` replaces the header's bytes; without `salt` the commitment is left and nothing is opened."""

    header: Header
    salt: bytes | None
    body: dict[str, Any]
    raw: bytes | None = None

    @property
    def data(self) -> bytes:
        """The bytes that the log hashes; the commitment is always the one to this body."""
        if self.raw is not None:
            return self.raw
        commitment = commit(self.salt, self.body) if self.salt else self.header.commitment
        return canonical(encode(replace(self.header, commitment=commitment)))

    def edited(self, change: Callable[[dict[str, Any]], None] = lambda body: None, at: int | None = None, **ids: str) -> Draft:
        """This draft with a changed body, time and ids."""
        body = copy.deepcopy(self.body)
        change(body)
        header = replace(self.header, ids={**self.header.ids, **ids}, at=self.header.at if at is None else at)
        return replace(self, header=header, body=body)

    def charging(self, *losses: LedgerCharge) -> Draft:
        """This draft with other losses."""
        return replace(self, header=replace(self.header, losses=losses))


def drafts(host: Host) -> list[Draft]:
    """All entries of a host's log with their openings."""
    with host.store.reading() as tx:
        size = tx.log_size()
        openings = tx.openings(0, size, None)
        return [
            Draft(header=parse_header(data), salt=bytes.fromhex(opening.salt), body=opening.body)
            for data, opening in zip(tx.entries(0, size), openings, strict=True)
        ]


def fresh(kind: EntryKind, at: int, ids: dict[str, str], body: dict[str, Any], losses: tuple[LedgerCharge, ...] = ()) -> Draft:
    """A new entry."""
    salt = os.urandom(32)
    return Draft(header=Header(kind=kind, at=at, ids=ids, losses=losses, commitment=commit(salt, body)), salt=salt, body=body)


def find(found: Sequence[Draft], kind: EntryKind, **ids: str) -> int:
    """Index of the first entry of a kind with these ids."""
    return next(
        index
        for index, draft in enumerate(found)
        if draft.header.kind == kind and all(draft.header.ids.get(name) == value for name, value in ids.items())
    )


def sealed(found: Sequence[Draft], key: SigningKey, origin: str) -> dict[str, bytes]:
    """An export over these entries that is consistent in itself: tree, tiles, signed checkpoint and openings."""
    data = [draft.data for draft in found]
    nodes: dict[tuple[int, int], bytes] = {}
    for index, entry in enumerate(data):
        for level, position, value in completed_nodes(index, leaf_hash(entry), lambda *at: nodes[at]):
            nodes[level, position] = value
    root = Frontier().extend([leaf_hash(entry) for entry in data]).root()
    files = {CHECKPOINT_PATH: sign(Checkpoint(origin=origin, size=len(data), root=root), key).encode()}
    for file in layout(len(data)):
        first = file.index * TILE_WIDTH
        if file.kind == "tile":
            files[file.path] = tile_hashes(file.level, file.index, file.width, lambda *at: nodes[at])
            continue
        files[file.path] = pack_entries(data[first : first + file.width])
        opened = [
            Opening(index=first + at, salt=draft.salt.hex(), body=draft.body)
            for at, draft in enumerate(found[first : first + file.width])
            if draft.salt is not None
        ]
        if opened:
            files[openings_path(file.index)] = render_openings(opened)
    return files


Forgery = Callable[[Story, list[Draft]], int]
"""Forges the history in place and returns the index of the entry that must be named."""


def replayed(files: dict[str, bytes], story: Story, **options: Any) -> Verdict:
    """The verdict on an export."""
    return replay(files.__getitem__, story.host.log_identity, **options)


def forged(history: Sequence[Draft], story: Story, **options: Any) -> Verdict:
    """The verdict on a consistent tree over a history."""
    return replayed(sealed(history, story.host.log_key, story.host.config.origin), story, **options)


def require_named(story: Story, history: list[Draft], forge: Forgery, promise: Promise) -> None:
    """Assert that the replay of a forged history breaks the promise at the forged entry, and finds nothing wrong before it."""
    at = forge(story, history)
    verdict = forged(history, story)
    assert not verdict.ok
    assert verdict.promises[promise] == "broken"
    assert verdict.mismatches[0].index == at, verdict.mismatches
    assert promise in {m.promise for m in verdict.mismatches if m.index == at}, verdict.mismatches
    assert verdict.mismatches[0].kind in (history[at].header.kind, "unreadable")
