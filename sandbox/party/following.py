"""Following the log: every new entry is fetched and hashed onto the frontier kept at home, so history cannot be rewound or rewritten
unseen, and the charges on every ledger are this participant's own total.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from policies.agreement import LogIdentity, Party
from policies.canonical import parse_json
from policies.documents import SignedRotation
from policies.entries import Header, parse_header
from policies.errors import PolicyRefused, Tampered
from policies.privacy import Loss
from policies.request import VersionFact
from sandbox.audit.checkpoint import Checkpoint, LogKey, open_checkpoint
from sandbox.audit.keyring import Keyring
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
        signatures: by agreement and party, index and commitment of the entry of its signature.
        keyring: rotations and revocations of participants' keys.
    """

    frontier: Frontier = field(default_factory=Frontier)
    charges: dict[str, Any] = field(default_factory=dict)
    grants: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    signatures: dict[str, Any] = field(default_factory=dict)
    keyring: Keyring = field(default_factory=Keyring)

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

    def rotations_before(self, job: str, party: Party) -> tuple[SignedRotation, ...]:
        """The rotations of a party's keys, from those that an agreement names, before the charge of `job`."""
        return self.keyring.chain(party.signing_key, self._charged_at(job))

    def request_key(self, job: str, party: Party) -> str:
        """The signing key of a party when `job` was charged. Raises PolicyRefused (code `party-revoked`) if it was, or is, revoked."""
        key = self.keyring.signing_key(party.signing_key, self._charged_at(job))
        if key is None or self.keyring.signing_key(party.signing_key) is None:
            raise PolicyRefused(f"the keys of `{party.id}` were revoked", code="party-revoked")
        return key

    def signed_at(self, agreement: str, who: str) -> int | None:
        """Index of the entry of a party's signature on an agreement."""
        found = self.signatures.get(agreement, {}).get(who)
        return None if found is None else int(found["index"])

    def signature_key(self, agreement: str, party: Party) -> str:
        """The signing key of a party when it signed an agreement; the agreement's own where nothing changed. Raises Tampered."""
        if self.keyring.is_as_agreed(party):
            return party.signing_key
        key = self.keyring.signing_key(party.signing_key, self.signed_at(agreement, party.id))
        if key is None:
            raise Tampered(f"`{party.id}` signed with keys that were revoked", code="bad-signature")
        return key

    def copy(self) -> Followed:
        """A copy that `note` may change."""
        return Followed(
            frontier=self.frontier,
            charges=dict(self.charges),
            grants=dict(self.grants),
            versions={dataset: list(rows) for dataset, rows in self.versions.items()},
            signatures={agreement: dict(rows) for agreement, rows in self.signatures.items()},
            keyring=self.keyring.copy(),
        )

    def note(self, header: Header, index: int) -> None:
        """Fold one entry. Raises Tampered (code `charged-twice`, `bad-rotation` or `bad-revocation`)."""
        ids, job = header.ids, header.ids.get("job", "")
        if header.kind == "charged":
            if job in self.charges:
                raise Tampered(f"{job} is charged twice", code="charged-twice")
            losses = [{"provider": c.provider, "id_space": c.id_space, "amount": c.amount} for c in header.losses]
            self.charges[job] = {"index": index, "losses": losses}
        elif header.kind == "granted":
            self.grants[job] = {"index": index, "grant": ids["grant"]}
        elif header.kind == "published":
            version = {"index": index, "version": int(ids["version"]), "file": ids["file"]}
            self.versions.setdefault(ids["dataset"], []).append(version)
        elif header.kind == "signed":
            # The first one counts, as in a replay.
            self.signatures.setdefault(ids["agreement"], {}).setdefault(
                ids["participant"], {"index": index, "commitment": header.commitment}
            )
        self.keyring.fold(index, header)

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
        kept, seen = self._load(key)
        if checkpoint.size < seen.size:
            raise Tampered(f"the log has {checkpoint.size} entries, and had {seen.size} before: it was rewound", code="rolled-back")
        followed = self._extend(kept, checkpoint, seen)
        if followed.frontier.root() != checkpoint.root:
            raise Tampered("the log's entries do not lead to its checkpoint: it was rewritten", code="rewritten")
        self._save(key, followed, note)
        return followed

    def _extend(self, kept: Followed, checkpoint: Checkpoint, seen: Frontier) -> Followed:
        """Take every entry up to the checkpoint; on the way, the tree must pass through the one `seen` before."""
        frontier, fold = kept.frontier, kept.copy()
        while frontier.size < checkpoint.size:
            end = min(frontier.size + PAGE, checkpoint.size, seen.size if frontier.size < seen.size else checkpoint.size)
            first = frontier.size
            page = parse_json(self.fetch(f"entries?from={first}&to={end}").encode(), limit=256 << 20)["entries"]
            if len(page) != end - first:
                raise Tampered("the log does not have the entries of its own checkpoint", code="rewritten")
            for offset, text in enumerate(page):
                frontier = frontier.append(leaf_hash(text.encode()))
                fold.note(parse_header(text.encode()), first + offset)
            if frontier.size == seen.size and frontier.root() != seen.root():
                raise Tampered("the log's entries are not those seen before: it was rewritten", code="rewritten")
        return replace(fold, frontier=frontier)

    def _load(self, key: LogKey) -> tuple[Followed, Frontier]:
        """What was folded before, and the tree that was seen. What older code folded lacks some, and is folded again from the beginning."""
        kept = self.home.read_or(_file(key), None)
        if kept is None:
            return Followed(), Frontier()
        seen = Frontier.from_json(kept["frontier"])
        if "keyring" not in kept:
            return Followed(), seen
        followed = Followed(
            frontier=seen,
            charges=kept["charges"],
            grants=kept["grants"],
            versions=kept["versions"],
            signatures=kept["signatures"],
            keyring=Keyring.from_json(kept["keyring"]),
        )
        return followed, seen

    def _save(self, key: LogKey, followed: Followed, note: str) -> None:
        value = {
            "frontier": followed.frontier.to_json(),
            "charges": followed.charges,
            "grants": followed.grants,
            "versions": followed.versions,
            "signatures": followed.signatures,
            "keyring": followed.keyring.to_json(),
            "checkpoint": note,
        }
        self.home.write(_file(key), value)


def _file(key: LogKey) -> str:
    return f"logs/{key.key_id.hex()}.json"
