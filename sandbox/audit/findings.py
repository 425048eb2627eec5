"""What judging a part of a log found, apart from the state that it rests on: parts may be judged by several processes.

What can only be judged across jobs whose bodies may be read by different processes is noted as a `Relation` and judged afterwards, in the
order of the entries.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from sandbox.audit.backtest import Difference
from sandbox.audit.digest_table import DigestTable
from sandbox.audit.verdict import Mismatch, Promise

What = Literal["asked", "answered", "repeats", "kept", "deleted", "overdue"]

Place = tuple[str, str, str]
"""Agreement (digest, empty where the log does not tell), kind of entry, and the provider that alone signed it, if one did."""


@dataclass(frozen=True, slots=True)
class Relation:
    """Something that the entry at `index` says and that concerns other jobs.

    Attributes:
        what: `asked`: consumer and request id are `subject`; `answered`: the job `other` released an answer to the question `subject`,
            which is empty where it was not opened; `repeats`: the question `subject` is stated to have been answered by the job `other`.
            `kept`: under the agreement and by the consumer `subject`, a release may be kept until (milliseconds) and of the job `other`;
            `deleted`: the release of the job `subject` is; `overdue`: of `subject` at a time, `other` names all that was to be deleted.
    """

    index: int
    what: What
    subject: str
    other: str = ""


@dataclass(kw_only=True, slots=True)
class Findings:
    """What judging some entries found.

    Attributes:
        missing: promises for which some body was not opened.
        unopened: entries whose body was not opened; `not_reparsed`: decisions replayed from the logged plan only.
        opened, closed: how many entries were opened and how many were not, where the export names its reader.
        differences: decisions that a candidate would have made otherwise.
        simulated: whether a release rests on `simulated` evidence.
    """

    mismatches: list[Mismatch] = field(default_factory=list)
    missing: set[Promise] = field(default_factory=set)
    relations: list[Relation] = field(default_factory=list)
    unopened: int = 0
    not_reparsed: int = 0
    released: int = 0
    opened: Counter[Place] = field(default_factory=Counter)
    closed: Counter[Place] = field(default_factory=Counter)
    simulated: bool = False
    differences: list[Difference] = field(default_factory=list)

    def take(self, other: Findings) -> None:
        """Add what another part of the log gave, but for its relations."""
        self.mismatches += other.mismatches
        self.missing |= other.missing
        self.unopened += other.unopened
        self.not_reparsed += other.not_reparsed
        self.released += other.released
        self.opened += other.opened
        self.closed += other.closed
        self.simulated |= other.simulated
        self.differences += other.differences


_ANSWERED, _UNOPENED = 1, 2


@dataclass(kw_only=True, slots=True)
class Relations:
    """Judges relations in the order of their entries."""

    asked: DigestTable = field(default_factory=DigestTable)
    answers: DigestTable = field(default_factory=DigestTable)
    deadlines: defaultdict[str, dict[str, int]] = field(default_factory=lambda: defaultdict(dict))
    deleted: set[str] = field(default_factory=set)

    def judge(self, found: Iterable[Relation], into: Findings) -> None:
        """Report what contradicts an earlier relation."""
        for relation in found:
            if relation.what == "asked":
                if relation.subject in self.asked:
                    request_id = relation.subject.partition(" ")[2]
                    into.mismatches.append(_mismatch(relation, "order", f"request id `{request_id}` is decided twice"))
                self.asked.put(relation.subject)
            elif relation.what == "answered":
                if relation.subject:
                    self.answers.put(f"{relation.subject} {relation.other}", _ANSWERED)
                else:
                    self.answers.put(relation.other, _UNOPENED)
            elif relation.what in ("kept", "deleted", "overdue"):
                self._judge_deletion(relation, into)
            elif f"{relation.subject} {relation.other}" not in self.answers:
                self._unanswered(relation, into)

    def _judge_deletion(self, relation: Relation, into: Findings) -> None:
        """That each release is deleted once, and that decisions state every one that was not deleted in time."""
        if relation.what == "kept":
            deadline, _, job = relation.other.partition(" ")
            self.deadlines[relation.subject][job] = int(deadline)
        elif relation.what == "deleted":
            if relation.subject in self.deleted:
                into.mismatches.append(_mismatch(relation, "order", f"{relation.subject} is deleted twice", "duty_done"))
            self.deleted.add(relation.subject)
        else:
            now, *stated = relation.other.split(" ")
            due = self.deadlines.get(relation.subject, {})
            late = sorted(job for job, deadline in due.items() if deadline <= int(now) and job not in self.deleted)
            if not set(late) <= set(stated):
                into.mismatches.append(_mismatch(relation, "decisions", f"does not state as overdue: {', '.join(late)}"))

    def _unanswered(self, relation: Relation, into: Findings) -> None:
        """That a question is run and charged once more is no fault, for the sealed release may be lost; to repeat another one is."""
        if relation.other in self.answers:
            into.missing.add("decisions")
        else:
            what = f"stated as the same question as {relation.other}, which did not ask or release it"
            into.mismatches.append(_mismatch(relation, "decisions", what))


def _mismatch(relation: Relation, promise: Promise, what: str, kind: str = "decided") -> Mismatch:
    return Mismatch(index=relation.index, kind=kind, promise=promise, what=what)
