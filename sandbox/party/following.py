"""Following the log: every new entry is fetched and hashed onto the frontier kept at home, so history cannot be rewound or rewritten
unseen, and the charges on every ledger are this participant's own total.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

from enclaves.kit.lineage import Lineage, follow_lineage, verify_log_rotation
from policies.agreement import Agreement, LogIdentity
from policies.canonical import digest, parse_json
from policies.codec import decode, encode
from policies.counts import Counts
from policies.entries import parse_header
from policies.errors import Malformed, Tampered
from policies.lineage import Epoch, LogLink, SignedLogRotation, links_from
from sandbox.audit.checkpoint import Checkpoint, open_checkpoint
from sandbox.audit.merkle import Frontier, leaf_hash
from sandbox.audit.receipt import log_key
from sandbox.party.followed import EPOCH, Followed, row_of
from sandbox.party.followed_file import FollowedFile, fold_file
from sandbox.party.home import Home
from sandbox.party.voids import judged

PAGE = 500
ENDED = "ended.json"
"""Number and digest of the newest epoch that this participant signed or accepted."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Follower:
    """Follows one log into a home. `fetch(path)` returns a text of the log's API.

    `accept` is asked about a checkpoint (note and content) that is otherwise in order, and raises if it is not to be kept.
    """

    home: Home
    fetch: Callable[[str], str]
    accept: Callable[[str, Checkpoint], None] | None = None

    @property
    def _file(self) -> FollowedFile:
        return FollowedFile(home=self.home)

    def follow(self, note: str, log: LogIdentity) -> Followed:
        """Extend what is kept at home to the checkpoint `note` of exactly this log and return it.

        Raises:
            Tampered: code `rolled-back` if the checkpoint is older than one seen before, `rewritten` if the entries do not lead from
                there to its root, or `checkpoint-signature`.
        """
        return self._follow_checked(note, Lineage(log=log, start=log, epoch=None))

    def follow_agreed(self, note: str, agreement: Agreement) -> Followed:
        """As `follow`, for the log that an agreement names or one that follows from it: by keys of the log that the keys before them
        signed for, and by epochs that every provider of the agreement signed, this participant itself here at home if it is one.

        Raises:
            Tampered: also code `lineage`, `bad-log-rotation` or `bad-epoch`.
        """
        try:
            return self.follow(note, agreement.log)
        except (Tampered, Malformed) as error:
            if error.code not in ("checkpoint-signature", "checkpoint-origin", "log-key"):
                raise
            links = self._links(agreement)
            if not links:
                raise
        lineage = follow_lineage(agreement, links)
        self._require_consented(agreement, links)
        return self._follow_checked(note, lineage)

    def in_force(self, agreement: Agreement) -> LogIdentity:
        """The log to which the service's lineage leads from the one that an agreement names. Raises Tampered as `follow_agreed`."""
        return follow_lineage(agreement, self._links(agreement)).log

    def _links(self, agreement: Agreement) -> tuple[LogLink, ...]:
        answer = parse_json(self.fetch("lineage").encode(), limit=64 << 20)
        return links_from(agreement.log, decode_links(answer["links"]))

    def follow_stated(self, note: str, log: LogIdentity, links: tuple[LogLink, ...]) -> Followed:
        """As `follow`, for a log that no agreement named: what is kept goes on through its former keys."""
        start = log
        for link in reversed(links):
            if isinstance(link, SignedLogRotation) and link.rotation.log == start:
                start = verify_log_rotation(link).old
        return self._follow_checked(note, Lineage(log=log, start=start, epoch=None))

    def kept(self, origin: str) -> Followed | None:
        """What this home has followed of the log of that origin; None if nothing."""
        stem = self._stem(origin)
        return None if stem is None else self._kept(stem)

    def all_kept(self) -> list[Followed]:
        """What this home has followed of every log."""
        return [self._kept(path.stem) for path in sorted((self.home.folder / "logs").glob("*.json"))]

    def _kept(self, stem: str) -> Followed:
        followed = judged(self.home, self._file.load(stem, whole=False)[0])
        epoch = signed_epoch(self.home, followed.epoch)
        return followed if epoch is None else replace(followed, opening=epoch.counts or Counts())

    def end_before(self, number: int, epoch: str) -> None:
        """Accept no log of an earlier epoch any more, and no other of this number: a ledger is not paid from twice."""
        if number > self._ended()["number"]:
            self.home.write(ENDED, {"number": number, "epoch": epoch})

    def _ended(self) -> dict[str, Any]:
        return dict(self.home.read_or(ENDED, {"number": 0, "epoch": ""}))

    def _stem(self, origin: str) -> str | None:
        """Name of the file of the one log of that origin: a second tree under the same name would have totals of its own."""
        for path in sorted((self.home.folder / "logs").glob("*.json")):
            if self.home.read(f"logs/{path.name}")["checkpoint"].startswith(f"{origin}\n"):
                return path.stem
        return None

    def _require_consented(self, agreement: Agreement, links: tuple[LogLink, ...]) -> None:
        """Hold an epoch against what this home knows: what it signed itself, and keys that were replaced or revoked in the log before."""
        me = self.home.participant
        before = agreement.log
        for link in links:
            if isinstance(link, SignedLogRotation):
                continue
            name = digest(encode(link.epoch))
            if any(declaration.provider == me for declaration in agreement.declarations) and not was_signed(self.home, name):
                raise Tampered("this participant did not sign the epoch", code="bad-epoch")
            kept = self.kept(before.origin) or Followed()
            for consent in link.consents:
                party = next((item for item in agreement.parties if item.id == consent.provider), None)
                if party is None:
                    continue
                made = {signed.rotation.signing_key for signed in consent.rotations}
                if any(signed.rotation.signing_key not in made for signed in kept.keyring.chain(party.signing_key)):
                    raise Tampered(f"`{consent.provider}` signed the epoch with keys that it had replaced", code="bad-epoch")
                if kept.keyring.signing_key(party.signing_key) is None:
                    raise Tampered(f"`{consent.provider}` signed the epoch with keys that were revoked", code="bad-epoch")
            before = link.epoch.log

    def _follow_checked(self, note: str, lineage: Lineage) -> Followed:
        checkpoint = open_checkpoint(note, log_key(lineage.log))
        with self.home.locked():
            return self._follow(checkpoint, note, lineage)

    def _follow(self, checkpoint: Checkpoint, note: str, lineage: Lineage) -> Followed:
        own = log_key(lineage.start).key_id.hex()
        stem = own if (self.home.folder / fold_file(own)).is_file() else self._stem(lineage.start.origin) or own
        kept, seen = self._file.load(stem)
        if checkpoint.size < seen.size:
            raise Tampered(f"the log has {checkpoint.size} entries, and had {seen.size} before: it was rewound", code="rolled-back")
        taken: list[str] = []
        followed = self._extend(kept, checkpoint, seen, taken)
        if followed.frontier.root() != checkpoint.root:
            raise Tampered("the log's entries do not lead to its checkpoint: it was rewritten", code="rewritten")
        self._require_lineage(followed, lineage, stem)
        if self.accept is not None:
            self.accept(note, checkpoint)
        self._file.save(stem, followed, note, taken if kept.frontier == seen else None)
        opening = Counts()
        if lineage.epoch is not None:
            self.end_before(followed.number, followed.epoch)
            opening = lineage.epoch.counts or opening
        return replace(judged(self.home, followed), opening=opening)

    def _require_lineage(self, followed: Followed, lineage: Lineage, stem: str) -> None:
        """The entries must tell of the same keys and the same epoch as the lineage under which the checkpoint was accepted."""
        keys, origin = followed.log_keys or (lineage.log.key,), lineage.log.origin
        ids = [log_key(LogIdentity(origin=origin, key=key)).key_id.hex() for key in keys]
        if keys[-1] != lineage.log.key or lineage.start.key not in keys or stem not in ids:
            raise Tampered("the checkpoint is not signed with the key in force of the log followed before", code="log-key")
        ended = self._ended()
        if followed.number < ended["number"] or (followed.number == ended["number"] and followed.epoch != ended["epoch"]):
            raise Tampered("this log has ended: a later epoch was signed", code="rolled-back")
        epoch = "" if lineage.epoch is None else digest(encode(lineage.epoch))
        if lineage.epoch is not None and followed.epoch != epoch:
            raise Tampered("the log does not open with the signed epoch", code="bad-epoch")
        for total in lineage.epoch.totals if lineage.epoch is not None else ():
            kept = followed.charges.get(EPOCH, {"losses": []})["losses"]
            opened = [{"delta0": 0, "measure": "pure"} | loss for loss in kept]
            if row_of(total) not in opened:
                raise Tampered("the log opens with other totals than were signed", code="bad-epoch")

    def _extend(self, kept: Followed, checkpoint: Checkpoint, seen: Frontier, taken: list[str]) -> Followed:
        """Take every entry up to the checkpoint into the fold and `taken`; on the way, the tree must pass through the one `seen` before."""
        frontier, fold = kept.frontier, kept.copy()
        while frontier.size < checkpoint.size:
            end = min(frontier.size + PAGE, checkpoint.size, seen.size if frontier.size < seen.size else checkpoint.size)
            first = frontier.size
            page = parse_json(self.fetch(f"entries?from={first}&to={end}").encode(), limit=256 << 20)["entries"]
            if len(page) != end - first:
                raise Tampered("the log does not have the entries of its own checkpoint", code="rewritten")
            for offset, text in enumerate(page):
                frontier = frontier.append(leaf_hash(text.encode()))
                fold = fold.noted(parse_header(text.encode()), first + offset)
            taken += page
            if frontier.size == seen.size and frontier.root() != seen.root():
                raise Tampered("the log's entries are not those seen before: it was rewritten", code="rewritten")
        return replace(fold, frontier=frontier)


def decode_links(value: Any) -> tuple[LogLink, ...]:
    """The links of a lineage from plain JSON. Raises Malformed."""
    return cast(tuple[LogLink, ...], decode(cast(Any, tuple[LogLink, ...]), value))


def signed_file(epoch: str) -> str:
    """Where an epoch is kept that this participant signed, by digest."""
    return f"epochs/{epoch.removeprefix('sha256:')}.json"


def signed_epoch(home: Home, epoch: str) -> Epoch | None:
    """The epoch of that digest, where this participant signed it."""
    return decode(Epoch, home.read(signed_file(epoch))) if epoch and was_signed(home, epoch) else None


def was_signed(home: Home, epoch: str) -> bool:
    """Whether this participant signed the epoch of that digest, here at home."""
    return (home.folder / signed_file(epoch)).is_file()
