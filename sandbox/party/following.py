"""Following the log: every new entry is fetched and hashed onto the frontier kept at home, so history cannot be rewound or rewritten
unseen, and the charges on every ledger are this participant's own total.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from policies.agreement import LogIdentity
from policies.canonical import parse_json
from policies.entries import Header, parse_header
from policies.errors import Tampered
from policies.privacy import Loss
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
    """

    frontier: Frontier
    charges: dict[str, Any]
    grants: dict[str, Any]

    def spent_before(self, job: str, provider: str, id_space: str) -> Loss:
        """Own total of the charges on one ledger that stand before the charge of `job`."""
        end = self.charges[job]["index"] if job in self.charges else self.frontier.size
        amount = sum(
            loss["amount"]
            for charge in self.charges.values()
            if charge["index"] < end
            for loss in charge["losses"]
            if (loss["provider"], loss["id_space"]) == (provider, id_space)
        )
        return Loss(amount=amount)


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
        while frontier.size < checkpoint.size:
            first, end = frontier.size, min(frontier.size + PAGE, checkpoint.size)
            page = parse_json(self.fetch(f"entries?from={first}&to={end}").encode(), limit=256 << 20)["entries"]
            if len(page) != end - first:
                raise Tampered("the log does not have the entries of its own checkpoint", code="rewritten")
            for offset, text in enumerate(page):
                frontier = frontier.append(leaf_hash(text.encode()))
                _note(parse_header(text.encode()), first + offset, charges, grants)
        return Followed(frontier=frontier, charges=charges, grants=grants)

    def _load(self, key: LogKey) -> Followed:
        kept = self.home.read_or(_file(key), None)
        if kept is None:
            return Followed(frontier=Frontier(), charges={}, grants={})
        return Followed(frontier=Frontier.from_json(kept["frontier"]), charges=kept["charges"], grants=kept["grants"])

    def _save(self, key: LogKey, followed: Followed, note: str) -> None:
        value = {
            "frontier": followed.frontier.to_json(),
            "charges": followed.charges,
            "grants": followed.grants,
            "checkpoint": note,
        }
        self.home.write(_file(key), value)


def _file(key: LogKey) -> str:
    return f"logs/{key.key_id.hex()}.json"


def _note(header: Header, index: int, charges: dict[str, Any], grants: dict[str, Any]) -> None:
    job = header.ids.get("job", "")
    if header.kind == "charged":
        if job in charges:
            raise Tampered(f"{job} is charged twice", code="charged-twice")
        losses = [{"provider": c.provider, "id_space": c.id_space, "amount": c.amount} for c in header.losses]
        charges[job] = {"index": index, "losses": losses}
    elif header.kind == "granted":
        grants[job] = {"index": index, "grant": header.ids["grant"]}
