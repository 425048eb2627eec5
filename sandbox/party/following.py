"""Following the log: every new entry is fetched and hashed onto the frontier kept at home, so history cannot be rewound or rewritten
unseen, and the charges on every ledger are this participant's own total.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, cast

from enclaves.kit.lineage import Lineage, follow_lineage, verify_log_rotation
from policies.agreement import Agreement, LogIdentity, Party
from policies.canonical import digest, parse_json
from policies.codec import decode, encode
from policies.documents import SignedRotation
from policies.entries import Header, LedgerCharge, parse_header
from policies.errors import Malformed, PolicyRefused, Tampered
from policies.lineage import LogLink, SignedLogRotation, links_from
from policies.privacy import Loss
from policies.request import VersionFact
from sandbox.audit.checkpoint import Checkpoint, open_checkpoint
from sandbox.audit.keyring import Keyring
from sandbox.audit.merkle import Frontier, leaf_hash
from sandbox.audit.receipt import log_key
from sandbox.party.home import Home

PAGE = 500
ENDED = "ended.json"
"""Number and digest of the newest epoch that this participant signed or accepted."""

EPOCH = "epoch"
"""Under which the totals stand with which a log opens; no job has such an id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Followed:
    """What this participant has seen of the log, all of it verified.

    Attributes:
        charges: by job, its (index, consumer, ledger losses). What was kept before charges had measure, delta0 and consumer lacks them.
        grants: by job, (index, grant digest).
        versions: by dataset, (index, version, file digest) of every published version, oldest first.
        signatures: by agreement and party, index and commitment of the entry of its signature.
        acts: by agreement, (index, kind, header ids) of tightenings, approvals and duties done.
        keyring: rotations and revocations of participants' keys.
        log_keys: the log's keys (hex) in the order of its `log_rotated` entries; empty as long as there is none.
        epoch: digest of the epoch with which the log opens, and `number` of it; empty and 0 for one that opens with none.
    """

    frontier: Frontier = field(default_factory=Frontier)
    charges: dict[str, Any] = field(default_factory=dict)
    grants: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    signatures: dict[str, Any] = field(default_factory=dict)
    acts: dict[str, Any] = field(default_factory=dict)
    keyring: Keyring = field(default_factory=Keyring)
    log_keys: tuple[str, ...] = ()
    epoch: str = ""
    number: int = 0

    def spent_before(self, job: str, provider: str, id_space: str) -> Loss:
        """Own total of the charges on one ledger that stand before the charge of `job`."""
        return self._spent(job, provider, id_space, None)

    def consumer_spent_before(self, job: str, provider: str, id_space: str, consumer: str) -> Loss:
        """Of that total, what counts to one consumer: charges that name it, and those that name nobody."""
        return self._spent(job, provider, id_space, ("", consumer))

    def _spent(self, job: str, provider: str, id_space: str, consumers: tuple[str, str] | None) -> Loss:
        """Raises Tampered (code `ledger-measure`) where a ledger was charged in two measures."""
        end = self._charged_at(job)
        charged = [
            Loss(measure=loss.get("measure", "pure"), amount=loss["amount"], delta0=loss.get("delta0", 0))
            for charge in self.charges.values()
            if charge["index"] < end and (consumers is None or charge.get("consumer", "") in consumers)
            for loss in charge["losses"]
            if (loss["provider"], loss["id_space"]) == (provider, id_space)
        ]
        if len({loss.measure for loss in charged}) > 1:
            raise Tampered(f"ledger {provider}/{id_space} was charged in two measures", code="ledger-measure")
        return sum(charged[1:], charged[0]) if charged else Loss(amount=0)

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

    def total(self, provider: str, id_space: str) -> Loss:
        """Own total of all charges on one ledger."""
        return self.spent_before("", provider, id_space)

    def ledgers(self) -> set[tuple[str, str]]:
        """Every ledger that was charged."""
        return {(loss["provider"], loss["id_space"]) for charge in self.charges.values() for loss in charge["losses"]}

    def copy(self) -> Followed:
        """A copy that `note` may change."""
        return replace(
            self,
            charges=dict(self.charges),
            grants=dict(self.grants),
            versions={dataset: list(rows) for dataset, rows in self.versions.items()},
            signatures={agreement: dict(rows) for agreement, rows in self.signatures.items()},
            acts={agreement: list(rows) for agreement, rows in self.acts.items()},
            keyring=self.keyring.copy(),
        )

    def noted(self, header: Header, index: int) -> Followed:
        """Fold one entry, which changes the tables of this copy; returns the fold.

        Raises:
            Tampered: code `charged-twice`, `bad-rotation`, `bad-revocation`, `bad-log-rotation` or `bad-epoch`.
        """
        ids, job = header.ids, header.ids.get("job", "")
        if header.kind == "log_rotated":
            rotation = verify_log_rotation(SignedLogRotation.from_ids(ids))
            keys = self.log_keys or (rotation.old_key,)
            if keys[-1] != rotation.old_key or rotation.key in keys:
                raise Tampered("a key of the log is replaced that is not in force", code="bad-log-rotation")
            return replace(self, log_keys=(*keys, rotation.key))
        if header.kind == "epoch_opened":
            if index != 0:
                raise Tampered("an epoch opens within a log", code="bad-epoch")
            self.charges[EPOCH] = {"index": 0, "losses": _losses(header)}
            return replace(self, epoch=ids["epoch"], number=int(ids["number"]))
        if header.kind == "charged":
            if job in self.charges:
                raise Tampered(f"{job} is charged twice", code="charged-twice")
            paid = {"index": index, "losses": _losses(header), "consumer": ids.get("consumer", "")}
            self.charges[job] = paid | {"agreement": ids["agreement"], "public": ids.get("public", "")}
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
        elif header.kind in ("tightened", "approved", "duty_done"):
            self.acts.setdefault(ids["agreement"], []).append({"index": index, "kind": header.kind, "ids": ids})
        self.keyring.fold(index, header)
        return self

    def _charged_at(self, job: str) -> int:
        return int(self.charges[job]["index"]) if job in self.charges else self.frontier.size


@dataclass(frozen=True, kw_only=True, slots=True)
class Follower:
    """Follows one log into a home. `fetch(path)` returns a text of the log's API."""

    home: Home
    fetch: Callable[[str], str]

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
        return None if stem is None else self._load(stem)[0]

    def all_kept(self) -> list[Followed]:
        """What this home has followed of every log."""
        return [self._load(path.stem)[0] for path in sorted((self.home.folder / "logs").glob("*.json"))]

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
        stem = own if (self.home.folder / _file(own)).is_file() else self._stem(lineage.start.origin) or own
        kept, seen = self._load(stem)
        if checkpoint.size < seen.size:
            raise Tampered(f"the log has {checkpoint.size} entries, and had {seen.size} before: it was rewound", code="rolled-back")
        followed = self._extend(kept, checkpoint, seen)
        if followed.frontier.root() != checkpoint.root:
            raise Tampered("the log's entries do not lead to its checkpoint: it was rewritten", code="rewritten")
        self._require_lineage(followed, lineage, stem)
        self._save(stem, followed, note)
        if lineage.epoch is not None:
            self.end_before(followed.number, followed.epoch)
        return followed

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
            if _row(total) not in opened:
                raise Tampered("the log opens with other totals than were signed", code="bad-epoch")

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
                fold = fold.noted(parse_header(text.encode()), first + offset)
            if frontier.size == seen.size and frontier.root() != seen.root():
                raise Tampered("the log's entries are not those seen before: it was rewritten", code="rewritten")
        return replace(fold, frontier=frontier)

    def _load(self, stem: str) -> tuple[Followed, Frontier]:
        """What was folded before, and the tree that was seen. What older code folded lacks some, and is folded again from the beginning."""
        kept = self.home.read_or(_file(stem), None)
        if kept is None:
            return Followed(), Frontier()
        seen = Frontier.from_json(kept["frontier"])
        if "keyring" not in kept or "acts" not in kept:
            return Followed(), seen
        followed = Followed(
            frontier=seen,
            charges=kept["charges"],
            grants=kept["grants"],
            versions=kept["versions"],
            signatures=kept["signatures"],
            acts=kept["acts"],
            keyring=Keyring.from_json(kept["keyring"]),
            log_keys=tuple(kept["log_keys"]),
            epoch=kept["epoch"],
            number=kept["number"],
        )
        return followed, seen

    def _save(self, stem: str, followed: Followed, note: str) -> None:
        value = {
            "frontier": followed.frontier.to_json(),
            "charges": followed.charges,
            "grants": followed.grants,
            "versions": followed.versions,
            "signatures": followed.signatures,
            "acts": followed.acts,
            "keyring": followed.keyring.to_json(),
            "log_keys": list(followed.log_keys),
            "epoch": followed.epoch,
            "number": followed.number,
            "checkpoint": note,
        }
        self.home.write(_file(stem), value)


def _file(stem: str) -> str:
    return f"logs/{stem}.json"


def decode_links(value: Any) -> tuple[LogLink, ...]:
    """The links of a lineage from plain JSON. Raises Malformed."""
    return cast(tuple[LogLink, ...], decode(cast(Any, tuple[LogLink, ...]), value))


def signed_file(epoch: str) -> str:
    """Where an epoch is kept that this participant signed, by digest."""
    return f"epochs/{epoch.removeprefix('sha256:')}.json"


def was_signed(home: Home, epoch: str) -> bool:
    """Whether this participant signed the epoch of that digest, here at home."""
    return (home.folder / signed_file(epoch)).is_file()


def _losses(header: Header) -> list[dict[str, Any]]:
    return [_row(charge) for charge in header.losses]


def _row(c: LedgerCharge) -> dict[str, Any]:
    return {"provider": c.provider, "id_space": c.id_space, "amount": c.amount, "delta0": c.delta0, "measure": c.measure}
