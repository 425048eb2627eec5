"""Judging what an export opens: held against the audit scopes of the log, entry by entry of each kind."""

from __future__ import annotations

from collections.abc import Iterator

from policies.audit_scope import OPENABLE, OWN_WORD, AuditScope, ScopeDecision, decide_opening, reads_as_party, says
from sandbox.audit.findings import Findings, Place
from sandbox.audit.folds import Entry
from sandbox.audit.reading import Closed, GivenScope, Reader, Reading
from sandbox.audit.state import State

CLOCKS_APART_S = 300
"""Most seconds between the clock of the service and that of the reader at which a window may still look differently to both."""

OF_EXCHANGES = frozenset({"exchange_proposed", "exchange_act", "handed_over", "exchange_ended"})
"""Kinds whose openings are for the parties of an exchange."""


def note_place(state: State, entry: Entry, opened: bool) -> None:
    """Count an entry as opened or not, by agreement and kind; before the entry is folded."""
    ids, kind = entry.ids, entry.header.kind
    job = state.jobs.get(ids.get("job", ""))
    agreement = ids.get("agreement") or (job.agreement if job is not None else "")
    place = (agreement, kind, ids.get(OWN_WORD.get(kind, ""), ""))
    (state.found.opened if opened else state.found.closed)[place] += 1


def judge_reading(state: State, reader: Reader, found: Findings) -> Reading:
    """Hold what was opened and what was not against the scopes of the log. An opening that its owners did not give is a mismatch."""
    state.found = found
    for place in sorted(found.opened):
        decisions = [_decision(state, reader, place, reader.at + apart) for apart in (-CLOCKS_APART_S, 0, CLOCKS_APART_S)]
        if not any(decision is None or decision.allowed for decision in decisions):
            agreement, kind, _ = place
            what = f"{found.opened[place]} openings of `{kind}` under {agreement[:19]} that no scope gives to `{reader.participant}`"
            state.report_at(None, "openings", "log", what)
    closed = tuple(
        Closed(agreement=place[0], kind=place[1], signer=place[2], entries=count, why=_why(state, reader, place))
        for place, count in sorted(found.closed.items())
    )
    return Reading(reader=reader.participant, at=reader.at, scopes=tuple(_scopes(state, reader.participant)), closed=closed)


def _scopes(state: State, who: str) -> Iterator[GivenScope]:
    for name in sorted(state.acts.scopes):
        for index, scope in _newest(state, name, who):
            yield GivenScope(
                index=index,
                agreement=name,
                owner=scope.owner,
                sequence=scope.sequence,
                openings=scope.openings,
                not_before=scope.not_before,
                not_after=scope.not_after,
            )


def _newest(state: State, name: str, who: str) -> list[tuple[int, AuditScope]]:
    """The newest scope of every owner for a reader under an agreement with the index of its entry, by owner."""
    found = {item.scope.owner: (index, item.scope) for index, item in state.acts.scopes.get(name, ()) if item.scope.auditor == who}
    return [found[owner] for owner in sorted(found)]


def _decision(state: State, reader: Reader, place: Place, now: int) -> ScopeDecision | None:
    """What the scopes say to the reader at `now`; None where it reads as a party, where all do, or where the log does not tell."""
    name, kind, signer = place
    fold = state.agreements.get(name)
    if fold is None or kind not in OPENABLE:
        return None
    scopes = [item for _, item in state.acts.scopes.get(name, ())]
    if fold.agreement is None:
        strange = reader.participant not in fold.signed and all(item.scope.auditor != reader.participant for item in scopes)
        return ScopeDecision(allowed=False, findings=()) if strange else None
    if reads_as_party(fold.agreement, reader.participant):
        return None
    ids = {OWN_WORD[kind]: signer} if signer and kind in OWN_WORD else {}
    return decide_opening(name, fold.agreement, reader.participant, (kind, ids), scopes, now)


def _why(state: State, reader: Reader, place: Place) -> tuple[str, ...]:
    decision = _decision(state, reader, place, reader.at)
    fold = state.agreements.get(place[0])
    if decision is not None and not decision.allowed:
        return tuple(item.message for item in decision.findings if not item.allowed) or ("no provider has given a scope",)
    if decision is None and fold is not None and fold.agreement is None:
        said = [says(scope, place[1], reader.at) for _, scope in _newest(state, place[0], reader.participant)]
        told = tuple(item.message for item in said if not item.allowed)
        return (*told, "the terms are not opened, so the log does not tell all who own the entries")
    if place[1] in OF_EXCHANGES:
        return ("for the parties of its exchange alone; no scope opens it",)
    return ("open to this reader, and not in the export: erased or kept back",)
