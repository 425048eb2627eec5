"""Following the log: every new entry is fetched and hashed onto the frontier kept at home, so history cannot be rewound or rewritten
unseen, and the charges on every ledger are this participant's own total.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from policies.agreement import LogIdentity
from policies.canonical import parse_json
from policies.entries import Header, parse_header
from policies.errors import Tampered
from policies.privacy import Loss
from policies.request import VersionFact
from sandbox.audit.checkpoint import Checkpoint, LogKey, open_checkpoint
from sandbox.audit.merkle import Frontier, leaf_hash
from sandbox.party.home import Home

PAGE = 500


@dataclass(frozen=True, kw_only=True, slots=True)
class Followed:
    """What this participant has seen of the log, all of it verified.

    Attributes:
        charges: by job, its (index, ledger losses).
        grants: by job, (index, grant digest).
        versions: by dataset, (index, version, file digest) of every published version, oldest first.
    """

    frontier: Frontier = field(default_factory=Frontier)
    charges: dict[str, Any] = field(default_factory=dict)
    grants: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)

    def spent_before(self, job: str, provider: str, id_space: str) -> Loss:
        """Own total of the charges on one ledger that stand before the charge of `job`."""
        end = self._charged_at(job)
        amount = sum(
            loss["amount"]
            for charge in self.charges.values()
            if charge["index"] < end
            for loss in charge["losses"]
            if (loss["provider"], loss["id_space"]) == (provider, id_space)
        )
        return Loss(amount=amount)

    def version_before(self, job: str, dataset: str) -> VersionFact | None:
        """The newest version of a dataset that was published before the charge of `job`."""
        end = self._charged_at(job)
        newest = max((row for row in self.versions.get(dataset, ()) if row["index"] < end), key=lambda row: row["index"], default=None)
        return None if newest is None else VersionFact(dataset=dataset, version=newest["version"], file_digest=newest["file"])

    def _charged_at(self, job: str) -> int:
        return int(self.charges[job]["index"]) if job in self.charges else self.frontier.size


@dataclass(frozen=True, kw_only=True, slots=True)
class Follower:
    """Follows one log into a home. `fetch(path)` returns a text of the log's API."""

    home: Home
    fetch: Callable[[str], str]

    def follow(self, note: str, log: LogIdentity) -> Followed:
        """Extend what is kept at home to the checkpoint `note` and return it.

        Raises:
            Tampered: code `rolled-back` if the checkpoint is older than one seen before, `rewritten` if the entries do not lead from
                there to its root, or `checkpoint-signature`.
        """
        key = LogKey(name=log.origin, public=bytes.fromhex(log.key))
        checkpoint = open_checkpoint(note, key)
        with self.home.locked():
            return self._follow(key, checkpoint, note)

    def _follow(self, key: LogKey, checkpoint: Checkpoint, note: str) -> Followed:
        kept = self._load(key)
        if checkpoint.size < kept.frontier.size:
            raise Tampered(
                f"the log has {checkpoint.size} entries, and had {kept.frontier.size} before: it was rewound", code="rolled-back"
            )
        followed = self._extend(kept, checkpoint)
        if followed.frontier.root() != checkpoint.root:
            raise Tampered("the log's entries do not lead to its checkpoint: it was rewritten", code="rewritten")
        self._save(key, followed, note)
        return followed

    def _extend(self, kept: Followed, checkpoint: Checkpoint) -> Followed:
        frontier, charges, grants = kept.frontier, dict(kept.charges), dict(kept.grants)
        versions = {dataset: list(rows) for dataset, rows in kept.versions.items()}
        while frontier.size < checkpoint.size:
            first, end = frontier.size, min(frontier.size + PAGE, checkpoint.size)
            page = parse_json(self.fetch(f"entries?from={first}&to={end}").encode(), limit=256 << 20)["entries"]
            if len(page) != end - first:
                raise Tampered("the log does not have the entries of its own checkpoint", code="rewritten")
            for offset, text in enumerate(page):
                frontier = frontier.append(leaf_hash(text.encode()))
                _note(parse_header(text.encode()), first + offset, charges, grants, versions)
        return Followed(frontier=frontier, charges=charges, grants=grants, versions=versions)

    def _load(self, key: LogKey) -> Followed:
        kept = self.home.read_or(_file(key), None)
        if kept is None:
            return Followed()
        return Followed(
            frontier=Frontier.from_json(kept["frontier"]), charges=kept["charges"], grants=kept["grants"], versions=kept["versions"]
        )

    def _save(self, key: LogKey, followed: Followed, note: str) -> None:
        value = {
            "frontier": followed.frontier.to_json(),
            "charges": followed.charges,
            "grants": followed.grants,
            "versions": followed.versions,
            "checkpoint": note,
        }
        self.home.write(_file(key), value)


def _file(key: LogKey) -> str:
    return f"logs/{key.key_id.hex()}.json"


def _note(header: Header, index: int, charges: dict[str, Any], grants: dict[str, Any], versions: dict[str, Any]) -> None:
    job = header.ids.get("job", "")
    if header.kind == "charged":
        if job in charges:
            raise Tampered(f"{job} is charged twice", code="charged-twice")
        losses = [{"provider": c.provider, "id_space": c.id_space, "amount": c.amount} for c in header.losses]
        charges[job] = {"index": index, "losses": losses}
    elif header.kind == "granted":
        grants[job] = {"index": index, "grant": header.ids["grant"]}
    elif header.kind == "published":
        row = {"index": index, "version": int(header.ids["version"]), "file": header.ids["file"]}
        versions.setdefault(header.ids["dataset"], []).append(row)
