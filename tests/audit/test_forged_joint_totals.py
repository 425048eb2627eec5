"""Logs of joint totals that somebody forged: a replay names the entry and what is broken. Everything is made here, with keys at hand."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from enclaves.kit.envelope import Signed, document_digest, sign_document
from enclaves.kit.sealing import SealingKey
from enclaves.kit.signatures import SigningKey
from policies.codec import decode, encode
from policies.decide import LAW_VERSION, decide
from policies.documents import Admission, AgreementSignature
from policies.entries import EntryKind, Header, LedgerCharge, commit
from policies.grant import entail, grant_digest, ledgers_charged
from policies.granted import job_id
from policies.joint import NARROW, WIDE
from policies.joint_documents import JointContribution, JointManifest, JointStatement, contributions_digest, manifest_digest
from policies.joint_grant import JointGrant
from policies.odrl import agreement_digest, agreement_document
from policies.plan import PARSER_VERSION
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.export import Opened
from sandbox.audit.judge import judge_entry
from sandbox.audit.state import State
from tests.support.pool import NOW, agreement_of, claims_pool, insurers, pool_facts, pool_plan, pool_request

NAMES = insurers(3)
LOG = LogKey(name="log.example/claims", public=bytes.fromhex("0b" * 32))


@dataclass
class Row:
    """One entry before it is made."""

    kind: EntryKind
    ids: dict[str, str]
    body: dict[str, Any]
    losses: tuple[LedgerCharge, ...] = ()


class World:
    """An honest history up to a released joint total."""

    def __init__(self, rows: int = 10_000, parameters: str = "") -> None:
        """With so many rows in the pool, and a grant that names these parameters instead of those that the decision entails."""
        self.parameters = parameters
        self.keys = {name: (SigningKey.generate(), SealingKey.generate()) for name in (*NAMES, "notary", "analyst")}
        self.agreement = agreement_of(NAMES, claims_pool(NAMES, rows=rows), self.keys)
        self.name = agreement_digest(self.agreement)
        self.rows: list[Row] = []
        self._exchange()
        self._decided()
        self._total()

    def sign(self, purpose: Any, by: str, body: Any) -> Signed:
        return sign_document(purpose, by, body, self.keys[by][0])

    def _exchange(self) -> None:
        for name, (signing, sealing) in self.keys.items():
            admission = Admission(
                participant=name,
                title=name,
                signing_key=signing.public.hex(),
                sealing_key=sealing.public.hex(),
                code_digest="sha256:" + "1" * 64,
                credential_digest="sha256:" + signing.public.hex(),
            )
            self.rows.append(Row("admitted", {"participant": name}, {"signed": encode(self.sign("admission", name, admission))}))
        for declaration in self.agreement.declarations:
            signed = self.sign("declaration", declaration.provider, declaration)
            ids = {"dataset": declaration.dataset, "declaration": document_digest(signed)}
            self.rows.append(Row("declared", ids, {"signed": encode(signed)}))
        signed = self.sign("agreement", "analyst", agreement_document(self.agreement))
        self.rows.append(Row("proposed", {"agreement": self.name, "participant": "analyst"}, {"signed": encode(signed)}))
        for name in self.keys:
            signed = self.sign("agreement-signature", name, AgreementSignature(agreement=self.name))
            self.rows.append(Row("signed", {"agreement": self.name, "participant": name}, {"signed": encode(signed)}))
        self.rows.append(Row("agreed", {"agreement": self.name}, {"agreement": self.name}))

    def _decided(self) -> None:
        request, plan, facts = pool_request(self.name), pool_plan(self.agreement), pool_facts()
        signed = self.sign("job-request", "analyst", request)
        digest = document_digest(signed)
        decision = decide(request, self.agreement, plan, facts)
        assert decision.allowed
        grant = entail(self.name, digest, request, self.agreement, plan, facts, decision)
        assert isinstance(grant, JointGrant)
        self.grant, self.job = replace(grant, parameters=self.parameters or grant.parameters), job_id(digest)
        body = {
            "signed": encode(signed), "plan": encode(plan), "facts": encode(facts), "decision": encode(decision),
            "law": LAW_VERSION, "parser": PARSER_VERSION,
        }  # fmt: skip
        self.rows.append(Row("decided", {"job": self.job, "agreement": self.name, "request": digest, "allowed": "yes"}, body))
        losses = tuple(
            LedgerCharge(provider=p, id_space=s, amount=request.loss.amount, measure="zcdp")
            for p, s in ledgers_charged(self.agreement, plan)
        )
        named = {"job": self.job, "agreement": self.name, "grant": grant_digest(self.grant)}
        self.rows.append(Row("charged", named | {"consumer": "analyst"}, {"job": self.job}, losses))
        self.rows.append(Row("granted", named, {"grant": encode(self.grant)}))
        self.rows.append(Row("running", {"job": self.job, "agreement": self.name}, {"worker": "w"}))

    def _total(self) -> None:
        self.manifest = JointManifest(
            job=self.job, grant=grant_digest(self.grant), attempt=1, contributors=NAMES, public_key="sha256:" + "2" * 64
        )
        self.add_manifest(self.manifest)
        self.contributions = [
            JointContribution(job=self.job, manifest=manifest_digest(self.manifest), ciphertexts="sha256:" + str(index) * 64)
            for index in range(3)
        ]
        for name, contribution in zip(NAMES, self.contributions, strict=True):
            self.rows.append(self.contributed(name, contribution))
        self.total = "sha256:" + "9" * 64
        ids = {"job": self.job, "manifest": manifest_digest(self.manifest), "total": self.total}
        self.rows.append(Row("joint_summed", ids, {"job": self.job}))
        self.rows.append(self.released(self.statement()))

    def add_manifest(self, manifest: JointManifest) -> None:
        signed = self.sign("joint-manifest", "notary", manifest)
        self.rows.append(Row("joint_keyed", {"job": self.job, "manifest": manifest_digest(manifest)}, {"signed": encode(signed)}))

    def contributed(self, name: str, contribution: JointContribution, by: str = "") -> Row:
        signed = replace(self.sign("joint-contribution", by or name, contribution), by=name)
        ids = {"job": self.job, "participant": name, "manifest": contribution.manifest, "ciphertexts": contribution.ciphertexts}
        return Row("joint_contributed", ids, {"signed": encode(signed)})

    def statement(self, **changes: Any) -> JointStatement:
        made = JointStatement(
            job=self.job,
            grant=grant_digest(self.grant),
            manifest=manifest_digest(self.manifest),
            contributions=contributions_digest(self.contributions),
            total=self.total,
            sealed="sha256:" + "8" * 64,
            withheld=None,
            statistics=self.grant.statistics,
            loss=self.grant.loss,
        )
        return replace(made, **changes)

    def released(self, statement: JointStatement, by: str = "notary") -> Row:
        signed = replace(self.sign("joint-statement", by, statement), by="notary")
        ids = {
            "job": self.job, "agreement": self.name, "grant": statement.grant, "manifest": statement.manifest, "total": statement.total,
            "statement": document_digest(signed), "sealed": str(statement.sealed),
        }  # fmt: skip
        return Row("joint_released", ids, {"signed": encode(signed)})

    def place(self, kind: str) -> int:
        return next(index for index, row in enumerate(self.rows) if row.kind == kind)


def judged(rows: list[Row], closed: tuple[str, ...] = ()) -> tuple[dict[str, str], set[tuple[str, str]]]:
    """The promises, and (kind, promise) of every mismatch, where entries of the `closed` kinds are not opened."""
    state = State(log=LOG)
    for index, row in enumerate(rows):
        salt = bytes([index % 256]) * 32
        header = Header(kind=row.kind, at=NOW * 1000, ids=row.ids, losses=row.losses, commitment=commit(salt, row.body))
        judge_entry(state, index, header, None if row.kind in closed else Opened(body=row.body, commitment=commit(salt, row.body)))
    return dict(state.promises()), {(mismatch.kind, mismatch.promise) for mismatch in state.found.mismatches}


def test_an_honest_history_replays() -> None:
    promises, mismatches = judged(World().rows)
    assert mismatches == set()
    assert set(promises.values()) == {"ok"}


@pytest.mark.parametrize("closed", [(), ("granted",)], ids=["opened", "grant not opened"])
def test_a_grant_of_the_encryption_of_before_replays_and_no_other_does(closed: tuple[str, ...]) -> None:
    former = World(rows=10**7, parameters=WIDE.formerly)
    assert judged(World(rows=10**7).rows, closed)[1] == judged(former.rows, closed)[1] == set()
    for world in (World(rows=10**7, parameters=NARROW.name), World(parameters=WIDE.name), World(parameters=WIDE.formerly)):
        assert ("granted", "grants") in judged(world.rows, closed)[1]


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("key of another", ("joint_keyed", "signatures")),
        ("attempt with fewer", ("joint_keyed", "evidence")),
        ("second attempt without a drop", ("joint_keyed", "order")),
        ("contribution by another", ("joint_contributed", "signatures")),
        ("contribution twice", ("joint_contributed", "order")),
        ("contribution of another attempt", ("joint_contributed", "order")),
        ("contribution of a stranger", ("joint_contributed", "order")),
        ("summed without one", ("joint_summed", "releases")),
        ("dropped after the sum", ("joint_dropped", "order")),
        ("statement by another", ("joint_released", "signatures")),
        ("statement of another total", ("joint_released", "releases")),
        ("statement of other contributions", ("joint_released", "releases")),
        ("statement of less noise", ("joint_released", "releases")),
        ("released twice", ("joint_released", "order")),
        ("released by an enclave", ("attested", "evidence")),
    ],
)
def test_a_forged_step_is_named(what: str, expected: tuple[str, str]) -> None:
    world = World()
    rows = world.rows
    keyed, first, summed, released = (world.place(kind) for kind in ("joint_keyed", "joint_contributed", "joint_summed", "joint_released"))
    stranger = world.contributions[0]
    forged: dict[str, list[Row]] = {
        "key of another": [*rows[:keyed], replace_signer(world, rows[keyed]), *rows[keyed + 1 :]],
        "contribution by another": [*rows[:first], world.contributed(NAMES[0], stranger, by=NAMES[1]), *rows[first + 1 :]],
        "contribution twice": [*rows[: first + 1], rows[first], *rows[first + 1 :]],
        "contribution of another attempt": [
            *rows[:first],
            world.contributed(NAMES[0], replace(stranger, manifest="sha256:" + "7" * 64)),
            *rows[first + 1 :],
        ],
        "contribution of a stranger": [*rows[: first + 1], world.contributed("analyst", stranger), *rows[first + 1 :]],
        "summed without one": [*rows[:first], *rows[first + 1 :]],
        "dropped after the sum": [*rows[: summed + 1], dropped(world, NAMES[0]), *rows[summed + 1 :]],
        "statement by another": [*rows[:released], world.released(world.statement(), by=NAMES[0])],
        "statement of another total": [*rows[:released], world.released(world.statement(total="sha256:" + "6" * 64))],
        "statement of other contributions": [*rows[:released], world.released(world.statement(contributions="sha256:" + "6" * 64))],
        "statement of less noise": [
            *rows[:released],
            world.released(world.statement(statistics=tuple(replace(s, scale=1) for s in world.grant.statistics))),
        ],
        "released twice": [*rows, rows[released]],
        "second attempt without a drop": [*rows[: keyed + 1], rows[keyed], *rows[keyed + 1 :]],
    }
    if what == "attempt with fewer":
        fewer = World()
        fewer.rows = fewer.rows[: fewer.place("joint_keyed")]
        fewer.add_manifest(replace(fewer.manifest, contributors=NAMES[:2]))
        forged[what] = fewer.rows
    if what == "released by an enclave":
        named = {
            "job": world.job,
            "grant": grant_digest(world.grant),
            "evidence": "sha256:" + "5" * 64,
            "measurement": "sha256:" + "4" * 64,
        }
        forged[what] = [*rows[:keyed], Row("attested", named, {"evidence": {}})]
    _, mismatches = judged(forged[what])
    assert expected in mismatches, mismatches


def test_a_rerun_without_who_dropped_out_replays_and_one_that_the_agreement_forbids_does_not() -> None:
    world = World()
    rows = world.rows[: world.place("joint_contributed")]
    again = replace(world.manifest, attempt=2, contributors=NAMES[1:])
    world.rows = [*rows, dropped(world, NAMES[0])]
    world.add_manifest(again)
    assert judged(world.rows)[1] == set()
    world.rows = [*rows, dropped(world, NAMES[0])]
    world.add_manifest(replace(again, contributors=NAMES))
    assert ("joint_keyed", "evidence") in judged(world.rows)[1]


def test_a_withheld_total_replays() -> None:
    world = World()
    statement = world.statement(sealed=None, withheld="aborted")
    row = world.released(statement)
    ids = {name: value for name, value in row.ids.items() if name != "sealed"} | {"code": "aborted"}
    promises, mismatches = judged([*world.rows[:-1], Row("joint_withheld", ids, row.body)])
    assert mismatches == set()
    assert promises["releases"] == "ok"


def dropped(world: World, name: str) -> Row:
    ids = {"job": world.job, "participant": name, "attempt": "1", "reason": "no-contribution", "rerun": "yes"}
    return Row("joint_dropped", ids, {"job": world.job})


def replace_signer(world: World, row: Row) -> Row:
    signed = decode(Signed, row.body["signed"])
    other = replace(world.sign("joint-manifest", NAMES[0], signed.body), by="notary")
    return Row(row.kind, row.ids, {"signed": encode(other)})
