"""Judging all entries of an export in their order, in one process or with the bodies spread over several.

A body rests on little of what stands before it in the log: agreements, keys, versions and datasets, of which there are few, and what
headers alone tell. So one process follows all headers and the few entries of the exchange, and begins a part of the log with a copy of
itself (a fork) that judges everything in that part, once the part's headers are read. What a part says about jobs of other parts comes
back as relations, which are judged in the order of the entries.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from typing import Any

from policies.entries import Header
from policies.errors import Malformed, SandboxError, Tampered
from sandbox.audit.export import Bundle, Export, bundle_count
from sandbox.audit.findings import Findings, Relations
from sandbox.audit.judge import judge_entry, read_header
from sandbox.audit.order import FOLLOWS
from sandbox.audit.state import State
from sandbox.audit.tiles import TILE_WIDTH

PART_BUNDLES = 16
"""Bundles of a part, where the log is long enough."""

FROM_HEADERS = (
    "agreement", "stage", "providers", "answered", "released", "renounced", "losses", "consumer", "charged_at", "grant_id", "evidence_id",
    "at", "blind", "exchange", "leg",
)  # fmt: skip
"""What the fold of a job knows from headers, in whichever process; all else it knows from judging the job with its bodies."""

REJUDGED = 4
"""A part has at least as many entries as this times those of the jobs under way at its beginning, which it judges again."""

Broken = Callable[[int, SandboxError], None]
"""Told (entries read before, why) where the entries end too early."""


@dataclass(kw_only=True)
class Judging:
    """Folds the entries of an export into `state` and what is found into `found`.

    Args:
        take: told every bundle in order, before anything is judged that stands after it.
        progress: told how many entries are judged.
        processes: that judge at once; one where the machine cannot fork.
        part: bundles of a part.
    """

    export: Export
    state: State
    found: Findings
    size: int
    take: Callable[[Bundle], None]
    progress: Callable[[int], None]
    processes: int = 1
    part: int = PART_BUNDLES

    def run(self) -> int:
        """Judge everything; returns how many entries were read.

        Raises:
            Malformed, Tampered: from here on the entries cannot be read; all before are judged.
        """
        several = self.processes > 1 and bundle_count(self.size) > 1 and "fork" in multiprocessing.get_all_start_methods()
        return self._spread() if several else self._alone()

    def _alone(self) -> int:
        relations, done = Relations(), 0
        self.state.found = self.found
        for bundle in self.export.bundles(self.size):
            self.take(bundle)
            _judge(self.state, bundle, map(read_header, bundle.entries))
            relations.judge(self.found.relations, self.found)
            self.found.relations.clear()
            done += len(bundle.entries)
            self.progress(done)
        return done

    def _spread(self) -> int:
        children: list[_Child] = []
        relations, done, judged = Relations(), 0, 0
        problem: SandboxError | None = None

        def collect(most: int) -> None:
            nonlocal judged
            while len(children) > most:
                child = children.pop(0)
                part = child.result()
                self.found.take(part)
                relations.judge(part.relations, self.found)
                judged += child.entries
                self.progress(judged)

        numbers = iter(range(bundle_count(self.size)))
        while problem is None:
            part: list[_Read] = []
            try:
                for _, number in zip(range(self._bundles()), numbers, strict=False):
                    part.append(self._read(number))
            except (Malformed, Tampered) as error:
                problem = error
            if not part:
                break
            collect(self.processes - 1)
            children.append(_Child(self.export, self.state, part, self.size))
            try:
                for read in part:
                    self._follow(read)
                    done += len(read.headers)
            except (Malformed, Tampered) as error:
                problem = error
        collect(0)
        self.state.found = self.found
        if problem is not None:
            raise problem
        return done

    def _bundles(self) -> int:
        """How many bundles the next part has: fewer where the log is short, more where many jobs are under way."""
        fair = max(1, bundle_count(self.size) // (4 * self.processes))
        again = REJUDGED * sum(len(job.at) for job in self.state.jobs.values() if job.stage != "failed")
        return max(min(self.part, fair), -(-again // TILE_WIDTH))

    def _read(self, number: int) -> _Read:
        """Read the headers of a bundle, and its openings where there is an entry of the exchange."""
        bundle = self.export.closed(number, self.size)
        headers = tuple(map(read_header, bundle.entries))
        return _Read(bundle=bundle if all(map(_is_of_a_job, headers)) else self.export.opened(bundle), headers=headers)

    def _follow(self, read: _Read) -> None:
        """Fold the headers of a bundle, and the bodies of the exchange's entries; what is wrong with them is found by another process."""
        self.take(read.bundle)
        self.state.found = Findings()
        for index, header in enumerate(read.headers, start=read.bundle.first):
            judge_entry(self.state, index, header, None if _is_of_a_job(header) else read.bundle.opened(index))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """A bundle and what its entries' bytes spell."""

    bundle: Bundle
    headers: tuple[Header | Malformed, ...]


class _Child:
    """A process that judges the bundles of one part, from a copy of the state at its beginning."""

    def __init__(self, export: Export, state: State, part: Sequence[_Read], size: int) -> None:
        context = multiprocessing.get_context("fork")
        self.entries = sum(len(read.headers) for read in part)
        self._receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_judge_part, args=(export, state, part, size, sender), daemon=True)
        self._process.start()
        sender.close()

    def result(self) -> Findings:
        """What it found. Raises RuntimeError if it died."""
        try:
            found = self._receiver.recv()
        except EOFError:
            raise RuntimeError("a process that judged a part of the log died") from None
        finally:
            self._receiver.close()
            self._process.join()
        assert isinstance(found, Findings)
        return found


def _judge_part(export: Export, state: State, part: Sequence[_Read], size: int, sender: Connection[Any, Any]) -> None:
    """Judge the bundles of a part, whose headers are read already, and send what was found."""
    # What came with the fork is shared as long as nobody writes to it; a collection would write to every object.
    gc.freeze()
    state.found = Findings()
    _rejudge(export, state, size)
    for read in part:
        _judge(state, export.opened(read.bundle), read.headers)
    sender.send(state.found)
    sender.close()


def _judge(state: State, bundle: Bundle, headers: Iterable[Header | Malformed]) -> None:
    if bundle.problem:
        state.report_at(bundle.first, "openings", "log", bundle.problem)
    for index, header in enumerate(headers, start=bundle.first):
        judge_entry(state, index, header, bundle.opened(index))


def _rejudge(export: Export, state: State, size: int) -> None:
    """Learn again, in silence, what the bodies of the jobs under way said: whoever follows the headers has not read them."""
    wanted = sorted({index for job in state.jobs.values() if job.stage != "failed" for index in job.at})
    if not wanted:
        return
    scratch = State(
        log=state.log,
        participants=state.participants,
        keyring=state.keyring,
        newest=state.newest,
        agreements=state.agreements,
        waiting=None,
    )
    for index, data, bundle in _entries_at(export, wanted, size):
        judge_entry(scratch, index, read_header(data), bundle.opened(index))
    for name, job in state.jobs.items():
        known = scratch.jobs.get(name)
        if known is not None and not job.blind:
            state.jobs[name] = replace(known, **{field: getattr(job, field) for field in FROM_HEADERS})


def _entries_at(export: Export, wanted: Sequence[int], size: int) -> Iterator[tuple[int, bytes, Bundle]]:
    bundle: Bundle | None = None
    for index in wanted:
        if bundle is None or not bundle.first <= index < bundle.first + len(bundle.entries):
            bundle = export.bundle(index // TILE_WIDTH, size)
        yield index, bundle.entries[index - bundle.first], bundle


def _is_of_a_job(header: Header | Malformed) -> bool:
    """Whether an entry is of a kind that tells of one job. An entry that is none has no opening that anybody reads."""
    return isinstance(header, Malformed) or header.kind in FOLLOWS
