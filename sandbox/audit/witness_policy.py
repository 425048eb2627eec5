"""Which witnesses must have cosigned a checkpoint before it counts: C2SP tlog-policy, with groups of k of n members."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from policies.errors import Malformed, Tampered
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.cosignature import WitnessKey, cosignatures

NONE = "none"
MAX_POLICY = 64 * 1024
_BLANK = re.compile(r"[ \t]+")
_FORBIDDEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True, kw_only=True, slots=True)
class Witness:
    """A witness of a policy; `url` is its submission prefix, empty where the policy gives none."""

    name: str
    key: WitnessKey
    url: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """At least `threshold` of `members` (names of witnesses and groups) must have cosigned."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class WitnessPolicy:
    """A parsed policy.

    Attributes:
        logs: keys of accepted logs; empty where the log is known from elsewhere.
        quorum: name of the witness or group that must have cosigned, or `none`.
    """

    logs: tuple[LogKey, ...]
    witnesses: Mapping[str, Witness]
    groups: Mapping[str, Group]
    quorum: str

    def cosigned(self, note: str) -> dict[str, int]:
        """Names of the policy's witnesses whose cosignature is on a note, with its time. Raises as `cosignatures`."""
        by_key = {witness.key: name for name, witness in self.witnesses.items()}
        return {by_key[key]: at for key, at in cosignatures(note, by_key).items()}

    def is_met_by(self, names: Collection[str]) -> bool:
        """Whether cosignatures of these witnesses are the quorum."""
        return self.quorum == NONE or self._holds(self.quorum, names)

    def require(self, note: str) -> dict[str, int]:
        """The cosignatures on a note that is cosigned as the policy asks.

        Raises:
            Malformed: code "note". Tampered: code "cosignature", or `witness-quorum` where too few have cosigned.
        """
        found = self.cosigned(note)
        if not self.is_met_by(found):
            have = ", ".join(sorted(found)) or "nobody"
            raise Tampered(f"the checkpoint is cosigned by {have}; {self.describe()} must have", code="witness-quorum")
        return found

    def describe(self, name: str = "") -> str:
        """The quorum in words, for example ``2 of a, b, c``."""
        name = name or self.quorum
        group = self.groups.get(name)
        if group is None:
            return name
        members = (self.describe(member) if member in self.witnesses else f"({self.describe(member)})" for member in group.members)
        return f"{group.threshold} of {', '.join(members)}"

    def _holds(self, name: str, names: Collection[str]) -> bool:
        group = self.groups.get(name)
        if group is None:
            return name in names
        return sum(self._holds(member, names) for member in group.members) >= group.threshold


def parse_policy(text: str) -> WitnessPolicy:
    """Parse a policy file.

    Raises:
        Malformed: code "witness-policy", naming the line.
    """
    if len(text.encode()) > MAX_POLICY or _FORBIDDEN.search(text):
        raise Malformed(f"a policy has at most {MAX_POLICY} bytes and no control characters but tabs and newlines", code="witness-policy")
    draft = _Draft()
    for number, line in enumerate(text.split("\n"), start=1):
        words = [word for word in _BLANK.split(line) if word]
        if not words or words[0].startswith("#"):
            continue
        try:
            draft.take(words)
        except Malformed as error:
            raise Malformed(error.message, code="witness-policy", where=f"line {number}") from error
    if not draft.quorum:
        raise Malformed("a policy has exactly one quorum line", code="witness-policy")
    return WitnessPolicy(logs=tuple(draft.logs), witnesses=draft.witnesses, groups=draft.groups, quorum=draft.quorum)


class _Draft:
    """A policy while its lines are read."""

    def __init__(self) -> None:
        self.logs: list[LogKey] = []
        self.witnesses: dict[str, Witness] = {}
        self.groups: dict[str, Group] = {}
        self.members: set[str] = set()
        self.quorum = ""

    def take(self, words: list[str]) -> None:
        """Read one line. Raises Malformed."""
        match words:
            case ["log", vkey] | ["log", vkey, _]:
                self._log(LogKey.parse(vkey))
            case ["witness", name, vkey, *rest] if len(rest) <= 1:
                self._witness(name, WitnessKey.parse(vkey), rest[0] if rest else "")
            case ["group", name, threshold, *members] if members:
                self._group(name, threshold, members)
            case ["quorum", name] if not self.quorum:
                if name != NONE:
                    self._require_known(name)
                self.quorum = name
            case _:
                raise Malformed("a line is `log VKEY [URL]`, `witness NAME VKEY [URL]`, `group NAME K MEMBER...` or one `quorum NAME`")

    def _log(self, key: LogKey) -> None:
        if any(key.public == other.public for other in self.logs):
            raise Malformed("a log's key stands there twice")
        self.logs.append(key)

    def _witness(self, name: str, key: WitnessKey, url: str) -> None:
        self._require_new(name)
        if any(key.public == other.key.public for other in self.witnesses.values()):
            raise Malformed("a witness's key stands there twice")
        self.witnesses[name] = Witness(name=name, key=key, url=url.rstrip("/"))

    def _group(self, name: str, threshold: str, members: list[str]) -> None:
        self._require_new(name)
        for member in members:
            self._require_known(member)
            if member in self.members:
                raise Malformed(f"`{member}` is a member twice: a witness counts once")
            self.members.add(member)
        count = {"any": "1", "all": str(len(members))}.get(threshold, threshold)
        if not re.fullmatch(r"[1-9][0-9]{0,3}", count) or int(count) > len(members):
            raise Malformed("a threshold is `any`, `all` or a number of members")
        self.groups[name] = Group(threshold=int(count), members=tuple(members))

    def _require_new(self, name: str) -> None:
        if name == NONE or name in self.witnesses or name in self.groups:
            raise Malformed(f"the name `{name[:60]}` is taken")

    def _require_known(self, name: str) -> None:
        if name not in self.witnesses and name not in self.groups:
            raise Malformed(f"`{name[:60]}` is not defined on a line before")
