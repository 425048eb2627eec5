"""What a participant has seen of a log, folded from its headers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from enclaves.kit.lineage import verify_log_rotation
from policies.agreement import Party
from policies.budgets import period_begins
from policies.counts import Counts, Tally, rows_since
from policies.documents import SignedRenunciation, SignedRotation
from policies.entries import Header, LedgerCharge
from policies.errors import PolicyRefused, Tampered
from policies.lineage import SignedLogRotation
from policies.privacy import Loss
from policies.request import RecentFact, VersionFact
from sandbox.audit.keyring import Keyring
from sandbox.audit.merkle import Frontier

EPOCH = "epoch"
"""Under which the totals stand with which a log opens; no job has such an id."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Followed:
    """What this participant has seen of the log, all of it verified.

    Attributes:
        charges: by job, its (index, consumer, ledger losses). What was kept before charges had measure, delta0 and consumer lacks them.
        grants: by job, (index, grant digest).
        times: by job, when its charge was entered, milliseconds since 1970.
        versions: by dataset, (index, version, file digest) of every published version, oldest first.
        signatures: by agreement and party, index and commitment of the entry of its signature.
        joint: by job, of the newest attempt at a joint total: digest of its manifest, of everybody's ciphertexts, and of the total.
        acts: by agreement, (index, kind, header ids) of tightenings, approvals and duties done.
        scored: by agreement, (index, time in ms, model, rows, consumer) of charged calls of a scoring service.
        voids: by job, (index of what voids its charge or None, (index, header ids) of every renunciation of its grant).
        void: jobs whose voids count for this home (`sandbox.party.voids.judged`); derived, not kept.
        scorings: by encrypted scoring, (index, time in ms and header ids of its decision, digest of the answer, index of the return of its
            rows or None). What was kept before rows could be returned has neither time nor return.
        exchanges: by exchange, (index, time in ms, kind, header ids, leg) of its entries and of those of its legs' jobs.
        legs: by decided job of an exchange, that exchange and the leg.
        keyring: rotations and revocations of participants' keys.
        log_keys: the log's keys (hex) in the order of its `log_rotated` entries; empty as long as there is none.
        epoch: digest of the epoch with which the log opens, and `number` of it; empty and 0 for one that opens with none.
        opening: what consumers had used up when the log began, by that epoch; derived, not kept.
        partial: whether older code kept less of the log than this; derived, not kept.
    """

    frontier: Frontier = field(default_factory=Frontier)
    charges: dict[str, Any] = field(default_factory=dict)
    times: dict[str, int] = field(default_factory=dict)
    grants: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, Any] = field(default_factory=dict)
    signatures: dict[str, Any] = field(default_factory=dict)
    joint: dict[str, Any] = field(default_factory=dict)
    acts: dict[str, Any] = field(default_factory=dict)
    scored: dict[str, Any] = field(default_factory=dict)
    voids: dict[str, Any] = field(default_factory=dict)
    void: frozenset[str] = frozenset()
    scorings: dict[str, Any] = field(default_factory=dict)
    exchanges: dict[str, Any] = field(default_factory=dict)
    legs: dict[str, Any] = field(default_factory=dict)
    keyring: Keyring = field(default_factory=Keyring)
    log_keys: tuple[str, ...] = ()
    epoch: str = ""
    number: int = 0
    opening: Counts = field(default_factory=Counts)
    partial: bool = False

    def spent_before(self, job: str, provider: str, id_space: str) -> Loss:
        """Own total of the charges on one ledger that stand before the charge of `job`."""
        return self._spent(job, provider, id_space, None)

    def consumer_spent_before(self, job: str, provider: str, id_space: str, consumer: str) -> Loss:
        """Of that total, what counts to one consumer: charges that name it, and those that name nobody."""
        return self._spent(job, provider, id_space, ("", consumer))

    def recent_before(self, job: str, provider: str, id_space: str, days: int, consumer: str, now: int) -> RecentFact:
        """Of both totals, what was charged in the last `days` days before `now`, seconds since 1970."""
        after = period_begins(now, days)
        spent, own = (self._spent(job, provider, id_space, consumers, after) for consumers in (None, ("", consumer)))
        return RecentFact(provider=provider, id_space=id_space, days=days, spent=spent, own=own)

    def _spent(self, job: str, provider: str, id_space: str, consumers: tuple[str, str] | None, after: int | None = None) -> Loss:
        """Raises Tampered (code `ledger-measure`) where a ledger was charged in two measures."""
        end = self._charged_at(job)
        charged = [
            Loss(measure=loss.get("measure", "pure"), amount=loss["amount"], delta0=loss.get("delta0", 0))
            for name, charge in self.charges.items()
            if charge["index"] < end
            and not (name in self.void and self.voids[name]["index"] < end)
            and (after is None or self.times[name] > after)
            and (consumers is None or charge.get("consumer", "") in consumers)
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

    def providers(self, job: str) -> set[str]:
        """Providers whose keys the run of a charged job needs: of its ledgers, and of public tables."""
        charge = self.charges[job]
        return {loss["provider"] for loss in charge["losses"]} | {name for name in charge.get("public", "").split(",") if name}

    def total(self, provider: str, id_space: str) -> Loss:
        """Own total of all charges on one ledger."""
        return self.spent_before("", provider, id_space)

    def ledgers(self) -> set[tuple[str, str]]:
        """Every ledger that was charged."""
        return {(loss["provider"], loss["id_space"]) for charge in self.charges.values() for loss in charge["losses"]}

    def tally_before(self, index: int, agreement: str = "", answered: Callable[[str], bool] = lambda _: False) -> Tally:
        """What consumers used up before an entry, with what they had when the log began; under one agreement if given.

        Encrypted requests whose rows were returned before it do not count, unless `answered`.
        """
        tally = Tally.of(self.opening)
        for job, charge in self.charges.items():
            under = charge.get("agreement", "")
            if charge["index"] < index and under and agreement in ("", under):
                tally.use(under, self.providers(job), charge["consumer"])
        for under, calls in self.scored.items():
            for row in calls:
                if row["index"] < index and agreement in ("", under):
                    tally.call(under, row["model"], row["consumer"], row["at"] // 1000, int(row["rows"]))
        for name, row in self.scorings.items():
            back = row.get("back")
            returned = back is not None and back < index and not row["scores"]
            if row["index"] < index and row["ids"]["allowed"] == "yes" and (not returned or answered(name)):
                tally.ask(row["ids"]["agreement"], row["ids"]["model"], int(row["ids"]["rows"]))
        return tally

    def copy(self) -> Followed:
        """A copy that `note` may change."""
        return replace(
            self,
            charges=dict(self.charges),
            times=dict(self.times),
            grants=dict(self.grants),
            versions={dataset: list(rows) for dataset, rows in self.versions.items()},
            signatures={agreement: dict(rows) for agreement, rows in self.signatures.items()},
            joint={job: {**row, "contributions": dict(row["contributions"])} for job, row in self.joint.items()},
            acts={agreement: list(rows) for agreement, rows in self.acts.items()},
            scored={agreement: list(rows) for agreement, rows in self.scored.items()},
            voids={job: {**row, "renounced": list(row["renounced"])} for job, row in self.voids.items()},
            scorings={name: dict(row) for name, row in self.scorings.items()},
            exchanges={name: list(rows) for name, rows in self.exchanges.items()},
            legs=dict(self.legs),
            keyring=self.keyring.copy(),
        )

    def noted(self, header: Header, index: int) -> Followed:
        """Fold one entry, which changes the tables of this copy; returns the fold.

        Raises:
            Tampered: code `charged-twice`, `bad-void`, `bad-rotation`, `bad-revocation`, `bad-log-rotation` or `bad-epoch`.
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
            self.times[EPOCH] = header.at
            self.charges[EPOCH] = {"index": 0, "losses": _losses(header)}
            return replace(self, epoch=ids["epoch"], number=int(ids["number"]))
        if header.kind == "charged":
            if job in self.charges:
                raise Tampered(f"{job} is charged twice", code="charged-twice")
            self.times[job] = header.at
            paid = {"index": index, "losses": _losses(header), "consumer": ids.get("consumer", "")}
            self.charges[job] = paid | {"agreement": ids.get("agreement", ""), "public": ids.get("public", "")}
            if "rows" in ids:
                call = {"index": index, "at": header.at, "model": ids.get("model", ""), "rows": int(ids["rows"])}
                self.scored.setdefault(ids.get("agreement", ""), []).append(call | {"consumer": paid["consumer"]})
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
        elif header.kind == "joint_keyed":
            self.joint[job] = {"manifest": ids["manifest"], "contributions": {}, "total": ""}
        elif header.kind == "joint_contributed" and job in self.joint:
            self.joint[job]["contributions"].setdefault(ids["participant"], ids["ciphertexts"])
        elif header.kind == "joint_summed" and job in self.joint:
            self.joint[job]["total"] = self.joint[job]["total"] or ids["total"]
        elif header.kind in ("tightened", "approved", "duty_done", "audit_scoped"):
            self.acts.setdefault(ids["agreement"], []).append({"index": index, "kind": header.kind, "ids": ids})
        elif header.kind == "score_decided":
            self.scorings.setdefault(ids["scoring"], {"index": index, "at": header.at, "ids": ids, "scores": "", "back": None})
        elif header.kind == "score_answered" and ids["scoring"] in self.scorings:
            row = self.scorings[ids["scoring"]]
            row["scores"] = row["scores"] or ids["scores"]
        elif header.kind == "score_returned" and ids["scoring"] in self.scorings:
            row = self.scorings[ids["scoring"]]
            row["back"] = index if row.get("back") is None else row["back"]
        elif header.kind in ("renounced", "voided"):
            self._note_void(header, index)
        self._note_exchange(header, index)
        self.keyring.fold(index, header)
        return self

    def encrypted_rows_before(self, index: int, agreement: str, model: str, answered: Callable[[str], bool]) -> tuple[int, int]:
        """Rows and number of the allowed requests to a model under an agreement whose decisions stand before an entry.

        Rows that were returned before it do not count, unless this home has `answered` the request, whatever the log says.
        """
        rows, requests = self.tally_before(index, agreement, answered).encrypted[agreement, model]
        return rows, requests

    def scored_before(self, job: str, agreement: str, model: str, consumer: str, since: int) -> int:
        """Rows that a model was charged to score for a consumer under an agreement before `job`, from `since` (seconds since 1970) on."""
        calls = self.tally_before(self._charged_at(job), agreement).scored[agreement, model, consumer]
        return rows_since(calls, since)

    def _note_exchange(self, header: Header, index: int) -> None:
        ids, kind, leg = header.ids, header.kind, ""
        name = ids.get("exchange", "")
        if kind == "decided" and name:
            self.legs[ids["job"]] = (name, ids.get("leg", ""))
            return
        if kind in ("charged", "released", "withheld", "failed"):
            name, leg = self.legs.get(ids.get("job", ""), ("", ""))
        elif kind not in ("exchange_proposed", "exchange_act", "handed_over", "exchange_ended"):
            return
        # What was not proposed first is none.
        if name and (name in self.exchanges or kind == "exchange_proposed"):
            self.exchanges.setdefault(name, []).append({"index": index, "at": header.at, "kind": kind, "ids": ids, "leg": leg})

    def _note_void(self, header: Header, index: int) -> None:
        """Keep a renunciation, or what follows from those of all. Whether they are signed is judged at home, where keys are known."""
        job = header.ids.get("job", "")
        row = self.voids.setdefault(job, {"index": None, "renounced": []})
        if header.kind == "renounced":
            SignedRenunciation.from_ids(header.ids)
            row["renounced"].append({"index": index, "ids": header.ids})
            return
        charge, grant = self.charges.get(job), self.grants.get(job, {}).get("grant")
        signed = {item["ids"]["provider"] for item in row["renounced"] if item["ids"]["grant"] == grant}
        made = charge is not None and (_losses(header), header.ids.get("consumer", "")) == (charge["losses"], charge["consumer"])
        if not made or row["index"] is not None or not self.providers(job) <= signed:
            raise Tampered(f"the charge of {job} is voided otherwise than it was made and renounced", code="bad-void")
        row["index"] = index

    def _charged_at(self, job: str) -> int:
        return int(self.charges[job]["index"]) if job in self.charges else self.frontier.size


def _losses(header: Header) -> list[dict[str, Any]]:
    return [row_of(charge) for charge in header.losses]


def row_of(c: LedgerCharge) -> dict[str, Any]:
    """A ledger's charge as it is kept."""
    return {"provider": c.provider, "id_space": c.id_space, "amount": c.amount, "delta0": c.delta0, "measure": c.measure}
