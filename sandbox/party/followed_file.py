"""Where a home keeps what it has followed of a log: the fold as one file, and beside it the entries since then, one line per step.

So following costs what is new to be written, and the file is written anew only once the lines have outgrown it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from policies.entries import parse_header
from sandbox.audit.keyring import Keyring
from sandbox.audit.merkle import Frontier, leaf_hash
from sandbox.party.followed import Followed
from sandbox.party.home import Home
from sandbox.party.lines import append_line, read_lines

FIELDS = frozenset({
    "charges", "times", "grants", "versions", "signatures", "joint", "acts", "scored", "voids", "scorings",
    "exchanges", "legs",
    "keyring", "log_keys", "epoch", "number",
})  # fmt: skip
"""What a fold has. One that was kept before one of them existed is folded again from the beginning."""

_NO_TABLES = frozenset({"keyring", "log_keys", "epoch", "number"})

MOST_LINES = 1 << 20
"""Bytes of new entries that are kept beside a fold at least, before it is written anew."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FollowedFile:
    """The files of one home. Whoever saves holds the home's lock of the log."""

    home: Home

    def load(self, stem: str, *, whole: bool = True) -> tuple[Followed, Frontier]:
        """What was folded before, and the tree that was seen. What older code folded lacks some, and is folded again from the beginning.

        The fold is that of the file, with the entries that were added to its lines since.

        Args:
            whole: whether a fold that lacks something counts as none. Of a log that ended, nobody has the entries any more: there, what
                older code kept is all that is known, as of a log of which nothing was seen.
        """
        kept = self.home.read_or(fold_file(stem), None)
        if kept is None:
            return Followed(), Frontier()
        seen, lines = Frontier.from_json(kept["frontier"]), self._since(stem, kept["frontier"]["size"])
        lacking = FIELDS - kept.keys()
        if lacking and (whole or lacking & _NO_TABLES):
            return Followed(), seen.extend(leaf_hash(text.encode()) for text in lines)
        kept |= {name: {} for name in lacking}
        followed = Followed(
            frontier=seen,
            charges=kept["charges"],
            times=kept["times"],
            grants=kept["grants"],
            versions=kept["versions"],
            signatures=kept["signatures"],
            joint=kept["joint"],
            acts=kept["acts"],
            scored=kept["scored"],
            voids=kept["voids"],
            scorings=kept["scorings"],
            exchanges=kept["exchanges"],
            legs=kept["legs"],
            keyring=Keyring.from_json(kept["keyring"]),
            log_keys=tuple(kept["log_keys"]),
            epoch=kept["epoch"],
            number=kept["number"],
            partial=bool(lacking),
        )
        followed = _taking(followed, lines)
        return followed, followed.frontier

    def _since(self, stem: str, size: int) -> list[str]:
        """The entries after the first `size`, which the file covers; lines of before it was written anew do not count."""
        found: list[str] = []
        for line in read_lines(self.home, _lines(stem))[0]:
            if line["first"] == size + len(found):
                found += line["entries"]
        return found

    def save(self, stem: str, followed: Followed, note: str, taken: list[str] | None) -> None:
        """Keep the fold: by a line with the entries that are new, or, where there are many lines or no file, by the file as a whole.

        Args:
            taken: the entries since what is kept; None where the fold began anew.
        """
        file = self.home.folder / fold_file(stem)
        if taken is not None and file.is_file():
            _, end = read_lines(self.home, _lines(stem))
            if end <= max(MOST_LINES, file.stat().st_size):
                if taken:
                    line = {"first": followed.frontier.size - len(taken), "entries": taken, "checkpoint": note}
                    append_line(self.home, _lines(stem), line, end)
                return
        value = {
            "frontier": followed.frontier.to_json(),
            "charges": followed.charges,
            "times": followed.times,
            "grants": followed.grants,
            "versions": followed.versions,
            "signatures": followed.signatures,
            "joint": followed.joint,
            "acts": followed.acts,
            "scored": followed.scored,
            "voids": followed.voids,
            "scorings": followed.scorings,
            "exchanges": followed.exchanges,
            "legs": followed.legs,
            "keyring": followed.keyring.to_json(),
            "log_keys": list(followed.log_keys),
            "epoch": followed.epoch,
            "number": followed.number,
            "checkpoint": note,
        }
        self.home.write(fold_file(stem), value)
        (self.home.folder / _lines(stem)).unlink(missing_ok=True)


def fold_file(stem: str) -> str:
    """Where the fold of a log is kept."""
    return f"logs/{stem}.json"


def _lines(stem: str) -> str:
    return f"logs/{stem}.lines"


def _taking(followed: Followed, entries: list[str]) -> Followed:
    """The fold after further entries, which were verified when they were kept."""
    fold, first = followed.copy(), followed.frontier.size
    for offset, text in enumerate(entries):
        fold = fold.noted(parse_header(text.encode()), first + offset)
    return replace(fold, frontier=followed.frontier.extend(leaf_hash(text.encode()) for text in entries))
