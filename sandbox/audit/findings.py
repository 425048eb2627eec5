"""What judging a part of a log found, apart from the state that it rests on: parts may be judged by several processes.

What can only be judged across jobs whose bodies may be read by different processes is noted as a `Relation` and judged afterwards, in the
order of the entries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from sandbox.audit.backtest import Difference
from sandbox.audit.digest_table import DigestTable
from sandbox.audit.verdict import Mismatch, Promise


@dataclass(frozen=True, slots=True)
class Relation:
    """Something that the entry at `index` says and that concerns other jobs.

    Attributes:
        what: `asked`: consumer and request id are `subject`; `answered`: the job `other` released an answer to the question `subject`,
            which is empty where it was not opened; `repeats`: the question `subject` is stated to have been answered by the job `other`.
    """

    index: int
    what: Literal["asked", "answered", "repeats"]
    subject: str
    other: str = ""


@dataclass(kw_only=True, slots=True)
class Findings:
    """What judging some entries found.

    Attributes:
        missing: promises for which some body was not opened.
        unopened: entries whose body was not opened; `not_reparsed`: decisions replayed from the logged plan only.
        differences: decisions that a candidate would have made otherwise.
        simulated: whether a release rests on `simulated` evidence.
    """

    mismatches: list[Mismatch] = field(default_factory=list)
    missing: set[Promise] = field(default_factory=set)
    relations: list[Relation] = field(default_factory=list)
    unopened: int = 0
    not_reparsed: int = 0
    released: int = 0
    simulated: bool = False
    differences: list[Difference] = field(default_factory=list)

    def take(self, other: Findings) -> None:
        """Add what another part of the log gave, but for its relations."""
        self.mismatches += other.mismatches
        self.missing |= other.missing
        self.unopened += other.unopened
        self.not_reparsed += other.not_reparsed
        self.released += other.released
        self.simulated |= other.simulated
        self.differences += other.differences


_ANSWERED, _UNOPENED = 1, 2


@dataclass(kw_only=True, slots=True)
class Relations:
    """Judges relations in the order of their entries."""

    asked: DigestTable = field(default_factory=DigestTable)
    answers: DigestTable = field(default_factory=DigestTable)

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
            elif f"{relation.subject} {relation.other}" not in self.answers:
                self._unanswered(relation, into)

    def _unanswered(self, relation: Relation, into: Findings) -> None:
        """That a question is run and charged once more is no fault, for the sealed release may be lost; to repeat another one is."""
        if relation.other in self.answers:
            into.missing.add("decisions")
        else:
            what = f"stated as the same question as {relation.other}, which did not ask or release it"
            into.mismatches.append(_mismatch(relation, "decisions", what))


def _mismatch(relation: Relation, promise: Promise, what: str) -> Mismatch:
    return Mismatch(index=relation.index, kind="decided", promise=promise, what=what)
