"""Judging all entries of an export in their order, in one process or with the bodies spread over several.

A body rests on little of what stands before it in the log: agreements, keys, versions and datasets, of which there are few, and what
headers alone tell. So each process goes over the whole log: it judges everything in the parts that it claims, and of all others it follows
the headers and reads the few entries of the exchange. What a part says about jobs of other parts comes back as relations, which the first
process judges in the order of the entries.
"""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

from policies.entries import Header
from policies.errors import Malformed, SandboxError, Tampered
from sandbox.audit.claims import Claims
from sandbox.audit.export import Bundle, Export, bundle_count
from sandbox.audit.findings import Findings, Relations
from sandbox.audit.judge import judge_entry, read_header
from sandbox.audit.order import FOLLOWS
from sandbox.audit.state import State
from sandbox.audit.tiles import TILE_WIDTH

PART_BUNDLES = 32
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
    _done: int = field(init=False, default=0)

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
        with Claims() as claims:
            return self._shared(claims)

    def _shared(self, claims: Claims) -> int:
        parts = _Parts(self.found)
        children = [_Child(self, claims, parts) for _ in range(self.processes - 1)]
        problem: SandboxError | None = None
        self._done = 0

        def judged(part: Part) -> None:
            parts.add(part)
            self.progress(parts.merge())

        try:
            try:
                self.walk(claims, judged)
            except (Malformed, Tampered) as error:
                problem = error
            for child in children:
                child.end()
        finally:
            for child in children:
                child.stop()
        self.progress(parts.merge())
        self.state.found = self.found
        if parts.merged != self._done:
            raise RuntimeError("not every part of the log was judged")
        if problem is not None:
            raise problem
        return self._done

    def walk(self, claims: Claims, judged: Callable[[Part], None]) -> None:
        """Go over all bundles in order: judge those that nobody has claimed before, and follow the headers of all others.

        Raises:
            Malformed, Tampered: from here on the entries cannot be read, in whichever process; all before are judged.
        """
        at, count, own = 0, bundle_count(self.size), True
        while at < count:
            before = own
            end, own = claims.take(at, self._bundles(count - at))
            if own:
                if not before:
                    _rejudge(self.export, self.state, self.size)
                self._judge_part(range(at, end), judged)
            else:
                for number in range(at, end):
                    self._follow(self._read(number))
            at = end

    def _judge_part(self, numbers: range, judged: Callable[[Part], None]) -> None:
        """Judge bundles that are claimed, and tell what was found as far as they can be read."""
        self.state.found, entries = Findings(), 0
        try:
            for number in numbers:
                bundle = self.export.bundle(number, self.size)
                self.take(bundle)
                _judge(self.state, bundle, map(read_header, bundle.entries))
                entries += len(bundle.entries)
        finally:
            self._done += entries
            judged(Part(first=numbers.start * TILE_WIDTH, entries=entries, found=self.state.found))

    def _bundles(self, left: int) -> int:
        """How many of the bundles left the next part has: fewer near the end, which all are to reach at once; more with many jobs open."""
        fair = max(2, left // (2 * self.processes))
        again = REJUDGED * sum(len(job.at) for job in self.state.jobs.values() if job.stage != "failed")
        return min(left, max(min(self.part, fair), -(-again // TILE_WIDTH)))

    def _read(self, number: int) -> _Read:
        """Read the headers of a bundle, and its openings where there is an entry of the exchange."""
        bundle = self.export.closed(number, self.size)
        headers = tuple(map(read_header, bundle.entries))
        return _Read(bundle=bundle if all(map(_is_of_a_job, headers)) else self.export.opened(bundle), headers=headers)

    def _follow(self, read: _Read) -> None:
        """Fold the headers of a bundle, and the bodies of the exchange's entries; what is wrong with them is found by another process."""
        self.take(read.bundle)
        self._done += len(read.headers)
        self.state.found = Findings()
        for index, header in enumerate(read.headers, start=read.bundle.first):
            judge_entry(self.state, index, header, None if _is_of_a_job(header) else read.bundle.opened(index))


@dataclass(frozen=True, kw_only=True, slots=True)
class _Read:
    """A bundle and what its entries' bytes spell."""

    bundle: Bundle
    headers: tuple[Header | Malformed, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Part:
    """What was found in so many entries from `first` on."""

    first: int
    entries: int
    found: Findings


class _Parts:
    """Puts what was found in parts together, in the order of the entries, whenever they come."""

    def __init__(self, found: Findings) -> None:
        self.merged = 0
        self._found, self._relations = found, Relations()
        self._come: SimpleQueue[Part] = SimpleQueue()
        self._waiting: dict[int, Part] = {}

    def add(self, part: Part) -> None:
        """Take a part, in whichever thread."""
        self._come.put(part)

    def merge(self) -> int:
        """Put together what has come without a gap; returns up to which entry."""
        while not self._come.empty():
            part = self._come.get()
            self._waiting[part.first] = part
        while self.merged in self._waiting:
            part = self._waiting.pop(self.merged)
            self._found.take(part.found)
            self._relations.judge(part.found.relations, self._found)
            self.merged += part.entries
        return self.merged


class _Child:
    """A copy of a process that has not begun, which judges what it claims."""

    def __init__(self, judging: Judging, claims: Claims, parts: _Parts) -> None:
        context = multiprocessing.get_context("fork")
        receiver, sender = context.Pipe(duplex=False)
        self._process = context.Process(target=_judge_claimed, args=(judging, claims, sender), daemon=True)
        self._process.start()
        sender.close()
        self._ended = False
        self._thread = Thread(target=self._receive, args=(receiver, parts), daemon=True)
        self._thread.start()

    def _receive(self, receiver: Connection[Any, Any], parts: _Parts) -> None:
        with receiver, suppress(EOFError):
            while (part := receiver.recv()) is not None:
                parts.add(part)
            self._ended = True

    def end(self) -> None:
        """Wait until it has judged everything that it claimed. Raises RuntimeError if it died."""
        self._thread.join()
        if not self._ended:
            raise RuntimeError("a process that judged a part of the log died")

    def stop(self) -> None:
        """Let nothing of it be left."""
        if not self._ended:
            self._process.terminate()
        self._process.join()


def _judge_claimed(judging: Judging, claims: Claims, sender: Connection[Any, Any]) -> None:
    """Walk in a process of its own, and send every part, and None after the last."""
    # What came with the fork is shared as long as nobody writes to it; a collection would write to every object.
    gc.freeze()
    alone = replace(judging, take=lambda bundle: None, progress=lambda done: None)
    with suppress(Malformed, Tampered):  # the first process comes upon it too
        alone.walk(claims, sender.send)
    sender.send(None)
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
