"""Two views of one log, held against each other: whether one is a beginning of the other, and who vouched for both if not."""

from __future__ import annotations

from contextlib import suppress

from policies.errors import Malformed, Tampered
from sandbox.audit.checkpoint import Checkpoint, LogKey, open_checkpoint
from sandbox.audit.export import Export
from sandbox.audit.merkle import Frontier, leaf_hash
from sandbox.audit.verdict import Mismatch
from sandbox.audit.witness_policy import WitnessPolicy


def compare(left: Export, right: Export, key: LogKey, policy: WitnessPolicy | None = None) -> tuple[Mismatch, ...]:
    """Return what shows that two exports are no views of one log; nothing if the shorter is a beginning of the longer.

    Both checkpoints must be signed by the log, so a difference is proof against it, and against every witness that cosigned both.

    Raises:
        Tampered: a checkpoint is not signed by the log, or an export's entries do not lead to its own checkpoint. Malformed.
    """
    views = sorted(((open_with(export.checkpoint(), export.log_keys(key)), export) for export in (left, right)), key=lambda v: v[0].size)
    (shorter, shorter_view), (longer, longer_view) = views
    root, differs = _root_at(longer_view, longer, shorter, shorter_view)
    if root == shorter.root:
        return ()
    what = f"the log signed two histories: at {shorter.size} entries one has root {shorter.root.hex()[:16]}, the other {root.hex()[:16]}"
    found = [Mismatch(index=differs, kind="split-view", promise="log", what=what)]
    if policy is not None:
        found += signed_both(shorter_view.checkpoint(), longer_view.checkpoint(), policy)
    return tuple(found)


def signed_both(one: str, other: str, policy: WitnessPolicy) -> list[Mismatch]:
    """Name the witnesses that cosigned two checkpoints which no one log leads to."""
    twice = sorted(_cosigned(one, policy) & _cosigned(other, policy))
    return [
        Mismatch(index=None, kind="witness", promise="log", what=f"witness `{name}` cosigned both histories: it does not keep its word")
        for name in twice
    ]


def open_with(note: str, keys: list[LogKey]) -> Checkpoint:
    """A checkpoint signed with one of a log's keys. Raises as `open_checkpoint`."""
    *others, first = keys[::-1]
    for key in others:
        with suppress(Tampered):
            return open_checkpoint(note, key)
    return open_checkpoint(note, first)


def _cosigned(note: str, policy: WitnessPolicy) -> set[str]:
    with suppress(Malformed, Tampered):
        return set(policy.cosigned(note))
    return set()


def _root_at(view: Export, longer: Checkpoint, shorter: Checkpoint, other: Export) -> tuple[bytes, int | None]:
    """The root of the longer view's first entries, as many as the shorter has, and the first entry in which the two differ."""
    frontier, differs, at = Frontier(), None, b""
    others = other.bundles(shorter.size)
    for bundle in view.bundles(longer.size):
        leaves = [leaf_hash(entry) for entry in bundle.entries]
        before = frontier.size
        if before <= shorter.size < before + len(leaves):
            at = frontier.extend(leaves[: shorter.size - before]).root()
        theirs = next(others, None)
        if differs is None and theirs is not None:
            pairs = zip(bundle.entries, theirs.entries, strict=False)
            differs = next((before + place for place, (mine, their) in enumerate(pairs) if mine != their), None)
        frontier = frontier.extend(leaves)
    if frontier.root() != longer.root:
        raise Tampered("an export's entries do not lead to its checkpoint", code="rewritten")
    return (at or frontier.root()), differs
