"""What consumers used up under agreements, folded from the public headers of a log: uses of keys, scored rows, encrypted requests.

A log that follows another opens with the counts of the log before it, as it opens with its totals. Pure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from policies.codec import omitted
from policies.entries import Header
from policies.errors import Malformed
from policies.names import require_dataset, require_digest, require_name

_DIGITS = 12
"""Longest number of rows that a header states."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Used:
    """How many jobs under an agreement a provider's keys were charged for, for one consumer; for nobody named in the first logs."""

    agreement: str
    provider: str
    consumer: str
    jobs: int

    def __post_init__(self) -> None:
        require_digest(self.agreement, "agreement")
        require_name(self.provider, "provider")
        _require_counted(self.consumer, self.jobs)


@dataclass(frozen=True, kw_only=True, slots=True)
class Called:
    """When a model scored how many rows for a consumer under an agreement: (seconds since 1970, rows), in order, each second once."""

    agreement: str
    model: str
    consumer: str
    calls: tuple[tuple[int, int], ...]

    def __post_init__(self) -> None:
        require_digest(self.agreement, "agreement")
        require_dataset(self.model, "model")
        times = [at for at, _ in self.calls]
        if not times or times != sorted(set(times)):
            raise Malformed("calls stand in order, each second once", where="calls")
        _require_counted(self.consumer, *(rows for _, rows in self.calls))


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """Rows and number of the encrypted requests to a model under an agreement that were allowed."""

    agreement: str
    model: str
    rows: int
    requests: int

    def __post_init__(self) -> None:
        require_digest(self.agreement, "agreement")
        require_dataset(self.model, "model")
        _require_counted("", self.rows, self.requests)


@dataclass(frozen=True, kw_only=True, slots=True)
class Counts:
    """Everything that was counted, each thing once and in order."""

    uses: tuple[Used, ...] = omitted(())
    scored: tuple[Called, ...] = omitted(())
    encrypted: tuple[Asked, ...] = omitted(())

    def __post_init__(self) -> None:
        keys: tuple[list[tuple[str, ...]], ...] = (
            [(item.agreement, item.provider, item.consumer) for item in self.uses],
            [(item.agreement, item.model, item.consumer) for item in self.scored],
            [(item.agreement, item.model) for item in self.encrypted],
        )
        if any(found != sorted(set(found)) for found in keys):
            raise Malformed("counts stand once each, in order", where="counts")


@dataclass(frozen=True, kw_only=True, slots=True)
class Fewer:
    """Something of which an opening counts fewer than were seen: `what` of a provider or model, for a consumer where one is named."""

    what: str
    agreement: str
    of: str
    consumer: str
    seen: int
    opens: int

    @property
    def text(self) -> str:
        """The lack in words."""
        whose = f" for {self.consumer}" if self.consumer else ""
        return f"{self.what} of {self.of}{whose} under {self.agreement}: {self.opens} instead of {self.seen}"


@dataclass(kw_only=True, slots=True)
class Tally:
    """The fold over headers, and over the counts with which a log opens.

    Attributes:
        uses: by agreement, provider and consumer.
        scored: by agreement, model and consumer, rows by second.
        encrypted: by agreement and model, rows and requests; `open` is by request, what comes off them if its rows are returned.
    """

    uses: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    scored: defaultdict[tuple[str, str, str], Counter[int]] = field(default_factory=lambda: defaultdict(Counter))
    encrypted: defaultdict[tuple[str, str], list[int]] = field(default_factory=lambda: defaultdict(lambda: [0, 0]))
    open: dict[str, tuple[str, str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, counts: Counts | None) -> Tally:
        """What a log opens with; nothing where it does not say."""
        tally = cls()
        tally.raise_to(counts or Counts())
        return tally

    def raise_to(self, counts: Counts) -> None:
        """Count at least as much of everything as `counts` says."""
        for used in counts.uses:
            place = (used.agreement, used.provider, used.consumer)
            self.uses[place] = max(self.uses[place], used.jobs)
        for called in counts.scored:
            calls = self.scored[called.agreement, called.model, called.consumer]
            for at, rows in called.calls:
                calls[at] = max(calls[at], rows)
        for asked in counts.encrypted:
            row = self.encrypted[asked.agreement, asked.model]
            row[:] = max(row[0], asked.rows), max(row[1], asked.requests)

    def note(self, header: Header) -> None:
        """Fold one entry."""
        ids = header.ids
        if header.kind == "charged" and "agreement" in ids:
            rows = ids.get("rows", "")
            if _is_number(rows):
                self.call(ids["agreement"], ids.get("model", ""), ids.get("consumer", ""), header.at // 1000, int(rows))
            providers = {loss.provider for loss in header.losses} | {name for name in ids.get("public", "").split(",") if name}
            self.use(ids["agreement"], providers, ids.get("consumer", ""))
        elif header.kind == "score_decided" and ids.get("allowed") == "yes" and _is_number(ids.get("rows", "")):
            self.ask(ids["agreement"], ids["model"], int(ids["rows"]))
            self.open[ids["scoring"]] = (ids["agreement"], ids["model"], int(ids["rows"]))
        elif header.kind in ("score_answered", "score_refused"):
            self.open.pop(ids["scoring"], None)
        elif header.kind == "score_returned" and (asked := self.open.pop(ids["scoring"], None)):
            self.give_back(*asked)

    def use(self, agreement: str, providers: Iterable[str], consumer: str) -> None:
        """Count a charge as a use of every provider whose keys it is for."""
        for provider in providers:
            self.uses[agreement, provider, consumer] += 1

    def call(self, agreement: str, model: str, consumer: str, at: int, rows: int) -> None:
        """Count the rows of a charged call, at a time in seconds."""
        self.scored[agreement, model, consumer][at] += rows

    def ask(self, agreement: str, model: str, rows: int) -> None:
        """Count an allowed encrypted request."""
        row = self.encrypted[agreement, model]
        row[:] = row[0] + rows, row[1] + 1

    def give_back(self, agreement: str, model: str, rows: int) -> None:
        """Count an encrypted request no longer."""
        row = self.encrypted[agreement, model]
        row[:] = row[0] - rows, row[1] - 1

    def counts(self) -> Counts:
        """Everything counted so far, as a new log opens with it."""
        return Counts(
            uses=tuple(Used(agreement=a, provider=p, consumer=c, jobs=jobs) for (a, p, c), jobs in sorted(self.uses.items())),
            scored=tuple(
                Called(agreement=a, model=m, consumer=c, calls=tuple(sorted(calls.items())))
                for (a, m, c), calls in sorted(self.scored.items())
            ),
            encrypted=tuple(Asked(agreement=a, model=m, rows=r, requests=n) for (a, m), (r, n) in sorted(self.encrypted.items()) if n),
        )

    def fewer_in(self, opening: Tally) -> tuple[Fewer, ...]:
        """Everything of which `opening` counts fewer than this. Rows count by time: at no time may fewer of them be left in a quota."""
        found = [
            Fewer(what="uses", agreement=a, of=p, consumer=c, seen=jobs, opens=opening.uses[a, p, c])
            for (a, p, c), jobs in sorted(self.uses.items())
            if jobs > opening.uses[a, p, c]
        ]
        for (agreement, model, consumer), calls in sorted(self.scored.items()):
            other = opening.scored.get((agreement, model, consumer), Counter())
            short = ((rows_since(calls, at), rows_since(other, at)) for at in calls)
            seen, opens = max(short, key=lambda pair: pair[0] - pair[1], default=(0, 0))
            if seen > opens:
                found.append(Fewer(what="scored rows", agreement=agreement, of=model, consumer=consumer, seen=seen, opens=opens))
        for (agreement, model), mine in sorted(self.encrypted.items()):
            theirs = opening.encrypted.get((agreement, model), [0, 0])
            for what, seen, opens in zip(("encrypted rows", "encrypted requests"), mine, theirs, strict=True):
                if seen > opens:
                    found.append(Fewer(what=what, agreement=agreement, of=model, consumer="", seen=seen, opens=opens))
        return tuple(found)


def rows_since(calls: Counter[int], since: int) -> int:
    """Rows of the calls from a second on."""
    return sum(rows for at, rows in calls.items() if at >= since)


def _is_number(text: str) -> bool:
    return text.isdecimal() and len(text) <= _DIGITS


def _require_counted(consumer: str, *numbers: int) -> None:
    if consumer:
        require_name(consumer, "consumer")
    if any(number < 0 for number in numbers):
        raise Malformed("things are counted from 0", where="counts")
