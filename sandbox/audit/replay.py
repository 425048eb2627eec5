"""Replay: from an exported log and the log's key alone, derive everything again and say which promises hold. Pure."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from policies.agreement import LogIdentity
from policies.errors import Malformed, Tampered
from sandbox.audit.backtest import Candidate
from sandbox.audit.checkpoint import Checkpoint, LogKey, open_checkpoint
from sandbox.audit.comparing import signed_both
from sandbox.audit.export import READER_PATH, Export, Read
from sandbox.audit.judge_reading import judge_reading
from sandbox.audit.judging import Judging
from sandbox.audit.merkle import leaf_hash
from sandbox.audit.reading import Reader, Reading, reader_of
from sandbox.audit.state import State
from sandbox.audit.tree import TreeCheck
from sandbox.audit.verdict import PROMISES, Mismatch, Verdict
from sandbox.audit.witness_policy import WitnessPolicy

__all__ = ["Known", "Mismatch", "Verdict", "replay"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What an auditor knows besides the export.

    Attributes:
        since: a verified checkpoint seen before, which this log must extend; `since_note` is its note with all signatures.
        witnesses: by which the checkpoint must be cosigned.
        candidate: terms under which every decision is made once more.
    """

    since: Checkpoint | None = None
    since_note: str = ""
    witnesses: WitnessPolicy | None = None
    candidate: Candidate | None = None


def replay(
    read: Read,
    key: LogKey,
    *,
    since: Checkpoint | None = None,
    known: Known | None = None,
    progress: Callable[[int, int], None] = lambda done, size: None,
    processes: int = 1,
) -> Verdict:
    """Return the verdict on an exported log. Never raises for what the export holds.

    Args:
        read: path inside the export -> contents; raises NotFound, FileNotFoundError or LookupError for a missing file.
        key: of the log, from the agreement or from the operator out of band, not from the export itself.
        known: what the auditor knows besides; `since` is short for a `Known` with nothing but an earlier checkpoint.
        progress: told (entries done, size) after every part that is judged.
        processes: how many judge at once, where the system can fork.

    Raises:
        RuntimeError: a process died that judged a part.
    """
    known = known or Known(since=since)
    export, state = Export(read=read), State(log=key, candidate=known.candidate)
    reader = _reader(state, export)
    try:
        checkpoint, signer = _opened(export, key)
    except (Malformed, Tampered) as error:
        state.report_at(None, "checkpoint", "log", str(error))
        state.cannot(*PROMISES)
        return _verdict(state, 0, 0, known, {})
    _require_not_rewound(state, checkpoint, known.since)
    cosigned = _cosigned(state, export, known.witnesses)
    done = _replay_entries(export, state, checkpoint, known, progress, processes)
    _judge_log(state, signer)
    reading = None if reader is None else judge_reading(state, reader, state.found)
    return _verdict(state, checkpoint.size, done, known, cosigned, reading)


def _opened(export: Export, key: LogKey) -> tuple[Checkpoint, LogKey]:
    """The checkpoint and the key that signed it: `key`, or one that followed it."""
    *earlier, first = export.log_keys(key)[::-1]
    for found in earlier:
        with suppress(Tampered):
            return open_checkpoint(export.checkpoint(), found), found
    return open_checkpoint(export.checkpoint(), first), first


def _reader(state: State, export: Export) -> Reader | None:
    """Whose credential made the export; what it opens is counted then."""
    try:
        reader = reader_of(export.read)
    except Malformed as error:
        state.report_at(None, "openings", "log", f"{READER_PATH}: {error}")
        return None
    state.counting = reader is not None
    return reader


def _cosigned(state: State, export: Export, policy: WitnessPolicy | None) -> dict[str, int]:
    """The witnesses that cosigned the checkpoint; too few of them, or a false cosignature, is a mismatch."""
    if policy is None:
        return {}
    try:
        return policy.require(export.checkpoint())
    except Tampered as error:
        state.report_at(None, "witness", "log", error.message)
        return policy.cosigned(export.checkpoint()) if error.code == "witness-quorum" else {}


def _judge_log(state: State, signer: LogKey) -> None:
    """Once all keys of the log are known: its newest signed the checkpoint, the one given is among them, and agreements name them."""
    keys = state.log_keys or [state.log.public.hex()]
    if state.log.public.hex() not in keys:
        state.report_at(None, "checkpoint", "log", "the key given is not among those of the log")
    if signer.public.hex() != keys[-1]:
        state.report_at(None, "checkpoint", "log", "the checkpoint is not signed with the log's key in force")
    names = state.log_names | {LogIdentity(origin=state.log.name, key=key) for key in keys}
    for index, log in state.named:
        if log not in names:
            state.report_at(index, "proposed", "log", f"the agreement names another log, `{log.origin}`, or another key of it")


def _replay_entries(
    export: Export, state: State, checkpoint: Checkpoint, known: Known, progress: Callable[[int, int], None], processes: int
) -> int:
    """Judge every entry that can be read; returns how many there were."""
    found = state.found

    def report(index: int | None, kind: str, what: str) -> None:
        found.mismatches.append(Mismatch(index=index, kind=kind, promise="log", what=what))

    tree = TreeCheck(read=export.read, report=report, since=known.since)
    judging = Judging(
        export=export,
        state=state,
        found=found,
        size=checkpoint.size,
        take=lambda bundle: tree.add([leaf_hash(data) for data in bundle.entries]),
        progress=lambda done: progress(done, checkpoint.size),
        processes=processes,
    )
    try:
        judging.run()
        tree.finish(checkpoint)
    except (Malformed, Tampered) as error:
        report(tree.frontier.size, "tile", f"{error}; nothing from here on could be replayed")
        found.missing.update(PROMISES)
    if tree.rewritten and known.witnesses is not None:
        found.mismatches += signed_both(known.since_note, export.checkpoint(), known.witnesses)
    state.found = found
    return tree.frontier.size


def _require_not_rewound(state: State, checkpoint: Checkpoint, since: Checkpoint | None) -> None:
    if since is None:
        return
    if since.origin != checkpoint.origin:
        state.report_at(None, "checkpoint", "log", f"the checkpoint seen before is of another log, `{since.origin}`")
    elif since.size > checkpoint.size:
        what = f"the log has {checkpoint.size} entries, and had {since.size} before: it was rewound"
        state.report_at(None, "checkpoint", "log", what)


def _verdict(state: State, size: int, done: int, known: Known, cosigned: dict[str, int], reading: Reading | None = None) -> Verdict:
    promises = state.promises()
    return Verdict(
        ok=all(found == "ok" for found in promises.values()) and not state.found.unopened,
        size=size,
        entries=done,
        mismatches=tuple(sorted(state.found.mismatches, key=_place)),
        promises=promises,
        ledgers={"/".join(ledger): total.amount for ledger, total in sorted(state.ledgers.items())},
        totals={"/".join(ledger): total for ledger, total in sorted(state.ledgers.items())},
        unopened=state.found.unopened,
        not_reparsed=state.found.not_reparsed,
        notes=_notes(state, known),
        witnesses=cosigned,
        differences=None if known.candidate is None else tuple(state.found.differences),
        reading=reading,
    )


def _place(mismatch: Mismatch) -> tuple[bool, int, bool]:
    """By entry, the log as a whole last; what is wrong with an entry's own bytes before what it says."""
    return mismatch.index is None, mismatch.index or 0, mismatch.promise != "log"


def _notes(state: State, known: Known) -> tuple[str, ...]:
    """What this replay could not show, in words for people."""
    notes = ["the times in the log are the host's; brokers held them against their own clocks when they released keys"]
    if state.found.released:
        notes.append("mechanism, scale and loss of every release were held against its grant; that noise was drawn rests on attestation")
    if state.found.simulated:
        notes.append("evidence is `simulated`: it proves nothing about the machine, so all this rests on whoever ran the enclave")
    if state.found.unopened:
        charges = ", ".join(f"{'/'.join(ledger)} {total.text}" for ledger, total in sorted(state.ledgers.items()))
        notes.append(
            f"{state.found.unopened} entries are not opened; the sums of charges hold without them: {charges or 'nothing charged'}"
        )
    if state.found.not_reparsed:
        notes.append(
            f"{state.found.not_reparsed} queries were not parsed again, for want of their parser; all else follows from their plans"
        )
    if known.since is None:
        notes.append("no earlier checkpoint was given: that nothing seen before was rewritten is not shown")
    if known.witnesses is None:
        notes.append("no witnesses were named: that everybody is shown the same log rests on comparing checkpoints with others")
    if known.candidate is not None:
        notes.append("the backtest takes ledgers as they were: what the candidate denies still counts as spent")
    return tuple(notes)
