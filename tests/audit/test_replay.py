"""The auditor replays an honest history, and names what a dishonest operator, who owns the log's key, changed in it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from enclaves.evidence import attest_simulated
from enclaves.kit.appraisal import STATEMENT_PURPOSE
from enclaves.kit.envelope import Signed, document_digest, sign_document
from enclaves.kit.signatures import SigningKey
from policies.agreement import Agreement, LogIdentity
from policies.canonical import canonical, digest
from policies.codec import decode, encode
from policies.decide import decide
from policies.documents import AgreementSignature
from policies.entries import LedgerCharge
from policies.errors import Malformed
from policies.grant import Grant
from policies.odrl import agreement_document, parse_agreement
from policies.plan import parse_plan
from policies.query import Plan
from policies.request import Facts, JobRequest
from policies.statement import SignedEvidence, SignedStatement
from sandbox.audit.checkpoint import LogKey, open_checkpoint
from sandbox.audit.export import Export, openings_path, parse_openings
from sandbox.audit.replay import replay
from sandbox.audit.verdict import PROMISES, Promise, Verdict
from tests.support import terms
from tests.support.forge import Draft, drafts, find, fresh, sealed
from tests.support.story import Story, export, tell

Change = Callable[[Story, list[Draft]], int]
"""Forges the history in place and returns the index of the entry that must be named."""


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return tell(tmp_path_factory.mktemp("host"))


@pytest.fixture
def history(story: Story) -> list[Draft]:
    return drafts(story.host)


def _replay(files: dict[str, bytes], story: Story, **options: Any) -> Verdict:
    return replay(files.__getitem__, story.host.log_identity, **options)


def _forged(history: list[Draft], story: Story, **options: Any) -> Verdict:
    """The verdict on a consistent forged tree."""
    return _replay(sealed(history, story.host.log_key, story.host.config.origin), story, **options)


# The honest history


def test_honest_export_replays_for_an_auditor(story: Story) -> None:
    seen: list[tuple[int, int]] = []
    verdict = _replay(export(story.host, "auditor"), story, progress=lambda done, size: seen.append((done, size)))
    assert verdict.mismatches == ()
    assert verdict.ok
    assert set(verdict.promises.values()) == {"ok"}
    assert verdict.promises.keys() == PROMISES.keys()
    assert verdict.entries == verdict.size == len(drafts(story.host))
    assert (verdict.unopened, verdict.not_reparsed) == (0, 0)
    assert seen == [(verdict.size, verdict.size)]
    assert any("simulated" in note for note in verdict.notes)


def test_the_story_has_every_outcome(story: Story) -> None:
    assert {label: job.state for label, job in story.jobs.items()} == {
        "released": "released", "denied": "denied", "withheld": "withheld", "failed": "failed", "counted": "released"
    }  # fmt: skip


def test_a_stranger_sees_no_agreement_and_still_sums_the_charges(story: Story) -> None:
    verdict = _replay(export(story.host, "stranger"), story)
    assert verdict.mismatches == ()
    assert not verdict.ok
    assert {promise for promise, found in verdict.promises.items() if found == "ok"} == {"log", "order"}
    assert set(verdict.promises.values()) == {"ok", "unopened"}
    assert verdict.ledgers == {"clinic/rand-hie": 1_000_000_000, "insurer/rand-hie": 1_125_000_000}


def test_ledgers_are_those_of_the_host(story: Story) -> None:
    with story.host.store.reading() as tx:
        held = {f"{provider}/{space}": loss.amount for (provider, space), loss in tx.spent().items()}
    assert _replay(export(story.host, "auditor"), story).ledgers == held


def test_forging_nothing_changes_nothing(story: Story, history: list[Draft]) -> None:
    """The forge makes the very tree of the host, so what later tests find is due to their change."""
    own, honest = sealed(history, story.host.log_key, story.host.config.origin), export(story.host, "auditor")
    assert {path: data for path, data in honest.items() if path != "log.vkey"} == own
    assert Export(read=honest.__getitem__).log_key() == story.host.log_identity


def test_a_log_of_several_bundles_replays_and_its_tiles_are_compared(story: Story, history: list[Draft]) -> None:
    """With more than 512 entries there are full tiles, a second level and several openings files."""
    for number in range(520 - len(history)):
        history.append(_admission(f"member_{number}", story.clock.at))
    assert _forged(history[:512], story).ok
    files = sealed(history, story.host.log_key, story.host.config.origin)
    seen: list[int] = []
    assert _replay(files, story, progress=lambda done, size: seen.append(done)).ok
    assert seen == [256, 512, 520]
    assert [index for index, _, opening in Export(read=files.__getitem__).entries(520) if opening] == list(range(520))
    for path, index in (("tile/0/001", 256), ("tile/1/000.p/2", None)):
        verdict = _replay(files | {path: bytes(32) + files[path][32:]}, story)
        assert [(m.kind, m.index) for m in verdict.mismatches] == [("tile", index)]


def _admission(name: str, at: int) -> Draft:
    key = SigningKey.generate()
    admission = {
        "participant": name,
        "title": name,
        "signing_key": key.public.hex(),
        "sealing_key": terms.key_of(name),
        "code_digest": terms.digest_of(name),
    }
    return fresh("admitted", at, {"participant": name}, {"signed": encode(sign_document("admission", name, admission, key))})


# What was erased or never given is never ok


def test_an_erased_opening_is_unopened_and_never_ok(story: Story, history: list[Draft]) -> None:
    at = find(history, "decided", job=story.jobs["released"].id)
    history[at] = replace(history[at], salt=None)
    verdict = _forged(history, story)
    assert verdict.mismatches == ()
    assert verdict.unopened == 1
    assert {p for p, found in verdict.promises.items() if found == "unopened"} == {"signatures", "decisions", "budgets", "grants"}
    assert not verdict.ok


def test_another_parser_is_counted_and_the_plan_still_decides(story: Story, history: list[Draft]) -> None:
    at = find(history, "decided", job=story.jobs["released"].id)
    history[at] = history[at].edited(lambda body: body.update(parser="sqlglot/1.0"))
    verdict = _forged(history, story)
    assert verdict.ok
    assert verdict.not_reparsed == 1
    assert any("parsed" in note for note in verdict.notes)


# The log itself


@settings(max_examples=60, deadline=None)
@given(choice=st.data())
def test_no_flipped_byte_goes_unseen(story: Story, choice: st.DataObject) -> None:
    files = export(story.host, "auditor")
    path = choice.draw(st.sampled_from(sorted(files.keys() - {"log.vkey"})))
    at = choice.draw(st.integers(0, len(files[path]) - 1))
    flipped = bytearray(files[path])
    flipped[at] ^= choice.draw(st.integers(1, 255))
    if path.startswith("openings/"):
        assume(not _same_openings(files[path], bytes(flipped)))
    verdict = _replay(files | {path: bytes(flipped)}, story)
    assert not verdict.ok
    assert verdict.promises["log"] == "broken"


def _same_openings(left: bytes, right: bytes) -> bool:
    try:
        return parse_openings(left) == parse_openings(right)
    except Malformed:
        return False


def test_a_flipped_byte_in_an_entry_is_named(story: Story, history: list[Draft]) -> None:
    files = export(story.host, "auditor")
    path = f"tile/entries/000.p/{len(history)}"
    at = find(history, "charged")
    place = files[path].index(history[at].data) + history[at].data.index(b'"amount":') + len(b'"amount":')
    flipped = bytearray(files[path])
    flipped[place] ^= 1
    verdict = _replay(files | {path: bytes(flipped)}, story)
    found = [(m.index, m.kind) for m in verdict.mismatches if m.promise == "log"]
    assert found == [(None, "checkpoint"), (at, "tile")]
    assert any(m.index == at and m.promise == "budgets" for m in verdict.mismatches)


@pytest.mark.parametrize("path", ["checkpoint", "tile/entries/000.p/{size}", "tile/0/000.p/{size}"])
def test_a_missing_file_is_named_and_nothing_is_ok_without_entries(story: Story, history: list[Draft], path: str) -> None:
    files = export(story.host, "auditor")
    name = path.format(size=len(history))
    del files[name]
    verdict = _replay(files, story)
    assert verdict.promises["log"] == "broken"
    assert name in verdict.mismatches[0].what
    if verdict.entries == 0:
        assert {found for promise, found in verdict.promises.items() if promise != "log"} == {"unopened"}


def test_another_logs_key_is_not_accepted(story: Story) -> None:
    stranger = LogKey(name=story.host.config.origin, public=SigningKey.generate().public)
    verdict = replay(export(story.host, "auditor").__getitem__, stranger)
    assert not verdict.ok
    assert verdict.mismatches[0].promise == "log"
    assert verdict.size == 0


def test_an_opening_that_does_not_match_is_named(story: Story, history: list[Draft]) -> None:
    files = export(story.host, "auditor")
    at = find(history, "running")
    lines = files[openings_path(0)].split(b"\n")
    lines[at] = lines[at].replace(b'"worker-', b'"broker-')
    verdict = _replay(files | {openings_path(0): b"\n".join(lines)}, story)
    assert [(m.index, m.kind, m.promise) for m in verdict.mismatches] == [(at, "running", "log")]


def test_openings_that_cannot_be_read_are_named(story: Story) -> None:
    files = export(story.host, "auditor")
    verdict = _replay(files | {openings_path(0): b"{}\n" + files[openings_path(0)]}, story)
    assert verdict.mismatches[0].kind == "openings"
    assert "line 1" in verdict.mismatches[0].what
    assert verdict.unopened == verdict.size


def test_a_rewound_log_is_caught_by_a_checkpoint_seen_before(story: Story, history: list[Draft]) -> None:
    seen = open_checkpoint(export(story.host, "auditor")["checkpoint"].decode(), story.host.log_identity)
    end = find(history, "decided", job=story.jobs["counted"].id)
    assert _forged(history[:end], story).ok
    verdict = _forged(history[:end], story, since=seen)
    assert [(m.promise, m.index) for m in verdict.mismatches] == [("log", None)]
    assert "rewound" in verdict.mismatches[0].what


@pytest.mark.parametrize("seen_at", [3, 20, 48])
def test_a_rewritten_log_is_caught_by_a_checkpoint_seen_before(story: Story, history: list[Draft], seen_at: int) -> None:
    old = sealed(history[:seen_at], story.host.log_key, story.host.config.origin)["checkpoint"].decode()
    seen = open_checkpoint(old, story.host.log_identity)
    assert _forged(history, story, since=seen).ok
    history[2] = history[2].edited(at=history[2].header.at + 1)
    assert _forged(history, story).ok
    verdict = _forged(history, story, since=seen)
    assert ["rewritten" in m.what for m in verdict.mismatches] == [True]


# A consistent tree over a forged history


REMOVABLE = {
    "offered": "nothing rests on an offer",
    "key_refused": "a run may fail for other reasons",
    "failed": "a run may still be under way",
    "withheld": "a run may still be under way",
    "released": "a run may still be under way",
}


def test_a_removed_entry_is_caught_where_anything_rests_on_it(story: Story, history: list[Draft]) -> None:
    denied, stranger = story.jobs["denied"].id, {"participant": "stranger"}
    for at, draft in enumerate(history):
        verdict = _forged(history[:at] + history[at + 1 :], story)
        alone = draft.header.kind in REMOVABLE or draft.header.ids.get("job") == denied or draft.header.ids == stranger
        assert verdict.ok == alone, (at, draft.header.kind, verdict.mismatches)
        if not alone:
            first = verdict.mismatches[0].index
            assert first is not None
            assert first >= at


def test_a_repeated_entry_is_caught_and_named(story: Story, history: list[Draft]) -> None:
    for at in range(len(history)):
        verdict = _forged([*history[: at + 1], history[at], *history[at + 1 :]], story)
        assert verdict.mismatches, history[at].header.kind
        assert verdict.mismatches[0].index == at + 1


def test_steps_of_one_job_cannot_change_places(story: Story, history: list[Draft]) -> None:
    job = story.jobs["counted"].id
    steps = [at for at, draft in enumerate(history) if draft.header.ids.get("job") == job]
    assert [history[at].header.kind for at in steps] == [
        "decided", "charged", "granted", "running", "attested", "key_released", "released"
    ]  # fmt: skip
    for first, second in zip(steps, steps[1:], strict=False):
        changed = list(history)
        changed[first], changed[second] = changed[second], changed[first]
        verdict = _forged(changed, story)
        assert any(m.promise == "order" and m.index in (first, second) for m in verdict.mismatches)


def _body_decision(body: dict[str, Any], agreement: Agreement) -> None:
    """Make the logged decision the one that follows from the other fields."""
    request, plan = decode(JobRequest, body["signed"]["body"]), decode(Plan, body["plan"])
    body["decision"] = encode(decide(request, agreement, plan, decode(Facts, body["facts"])))


def _flip_denied(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["denied"].id)
    history[at] = history[at].edited(lambda body: body["decision"].update(allowed=True), allowed="yes")
    return at


def _flip_header_only(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["denied"].id)
    history[at] = history[at].edited(allowed="yes")
    return at


def _deny_what_is_allowed(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    history[at] = history[at].edited(lambda body: body["decision"].update(allowed=False), allowed="no")
    del history[at + 1 :]
    return at


def _hide_a_finding(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["denied"].id)
    history[at] = history[at].edited(lambda body: body["decision"]["findings"].pop())
    return at


def _expired_forged_as_allowed(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    honest = history[at].body["decision"]

    def expire(body: dict[str, Any]) -> None:
        body["facts"]["now"] = terms.NOT_AFTER
        body["decision"] = honest

    history[at] = history[at].edited(expire, at=terms.NOT_AFTER * 1000)
    return at


def _time_stated_that_is_not_now(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    history[at] = history[at].edited(at=terms.NOT_AFTER * 1000)
    return at


def _plan_that_the_sql_does_not_mean(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    agreement = story.agreement
    assert agreement is not None

    def replan(body: dict[str, Any]) -> None:
        sql = "SELECT COUNT(*) AS people FROM insurer.plans WHERE female = 1"
        body["plan"] = encode(parse_plan(sql, agreement.by_dataset))
        _body_decision(body, agreement)

    history[at] = history[at].edited(replan)
    return at


def _old_version_of_the_data(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    agreement = story.agreement
    assert agreement is not None

    def rewind(body: dict[str, Any]) -> None:
        body["facts"]["versions"][0] = encode(story.jobs["released"].facts.versions[0])
        _body_decision(body, agreement)

    history[at] = history[at].edited(rewind)
    return at


def _law_that_does_not_exist(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    history[at] = history[at].edited(lambda body: body.update(law="law/0"))
    return at


def _budget_fact_that_lies(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    agreement = story.agreement
    assert agreement is not None

    def lie(body: dict[str, Any]) -> None:
        body["facts"]["spent"][0]["spent"]["amount"] -= 1
        _body_decision(body, agreement)

    history[at] = history[at].edited(lie)
    return at


def _ledger_left_out_of_the_facts(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    agreement = story.agreement
    assert agreement is not None

    def forget(body: dict[str, Any]) -> None:
        body["facts"]["spent"] = []
        _body_decision(body, agreement)

    history[at] = history[at].edited(forget)
    return at


def _smaller_charge(story: Story, history: list[Draft]) -> int:
    at = find(history, "charged", job=story.jobs["released"].id)
    losses = history[at].header.losses
    history[at] = history[at].charging(replace(losses[0], amount=losses[0].amount - 1), *losses[1:])
    return at


def _one_ledger_not_charged(story: Story, history: list[Draft]) -> int:
    at = find(history, "charged", job=story.jobs["released"].id)
    history[at] = history[at].charging(history[at].header.losses[0])
    return at


def _loss_on_an_entry_that_is_no_charge(story: Story, history: list[Draft]) -> int:
    at = find(history, "granted")
    history[at] = history[at].charging(LedgerCharge(provider="clinic", id_space="rand-hie", amount=1))
    return at


def _charge_missing(story: Story, history: list[Draft]) -> int:
    at = find(history, "charged", job=story.jobs["counted"].id)
    del history[at]
    return at


def _release_without_anything(story: Story, history: list[Draft]) -> int:
    at = find(history, "released", job=story.jobs["counted"].id)
    history[:] = [draft for draft in history if draft.header.ids.get("job") != story.jobs["counted"].id] + [history[at]]
    return len(history) - 1


def _release_without_decision(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["counted"].id)
    del history[at]
    return at


def _denied_and_then_charged(story: Story, history: list[Draft]) -> int:
    model, denied = history[find(history, "charged")], story.jobs["denied"].id
    at = find(history, "decided", job=denied) + 1
    history.insert(at, model.edited(lambda body: body.update(job=denied), job=denied))
    return at


def _same_request_as_another_job(story: Story, history: list[Draft]) -> int:
    history.append(history[find(history, "decided", job=story.jobs["denied"].id)].edited(job="job-again"))
    return len(history) - 1


def _request_signed_by_another(story: Story, history: list[Draft]) -> int:
    at = find(history, "decided", job=story.jobs["denied"].id)
    request = history[at].body["signed"]["body"]
    signed = sign_document("job-request", "institute", request, story.firms["clinic"].signing)
    history[at] = history[at].edited(lambda body: body.update(signed=encode(signed)))
    return at


def _forged_signature_on_the_agreement(story: Story, history: list[Draft]) -> int:
    at = find(history, "signed", participant="clinic")
    signature = AgreementSignature(agreement=history[at].header.ids["agreement"])
    forged = sign_document("agreement-signature", "clinic", signature, SigningKey.generate())
    history[at] = history[at].edited(lambda body: body.update(signed=encode(forged)))
    return at


def _signature_on_another_agreement(story: Story, history: list[Draft]) -> int:
    at = find(history, "signed", participant="clinic")
    signature = AgreementSignature(agreement=terms.digest_of("another"))
    signed = story.firms["clinic"].sign("agreement-signature", signature)
    history[at] = history[at].edited(lambda body: body.update(signed=encode(signed)))
    return at


def _propose_instead(story: Story, history: list[Draft], **changes: Any) -> int:
    """Append an agreement that differs from the honest one, duly signed by its proposer."""
    honest = parse_agreement(history[find(history, "proposed")].body["signed"]["body"])
    signed = story.firms["insurer"].sign("agreement", agreement_document(replace(honest, **changes)))
    ids = {"agreement": document_digest(signed), "participant": "insurer"}
    history.append(fresh("proposed", story.clock.at, ids, {"signed": encode(signed)}))
    return len(history) - 1


def _swapped_sealing_key(story: Story, history: list[Draft]) -> int:
    assert story.agreement is not None
    parties = [
        replace(party, sealing_key=terms.key_of("the operator opens")) if party.id == "institute" else party
        for party in story.agreement.parties
    ]
    return _propose_instead(story, history, parties=tuple(parties))


def _swapped_key_at_admission(story: Story, history: list[Draft]) -> int:
    at = find(history, "admitted", participant="institute")
    swapped = terms.key_of("the operator opens")
    history[at] = history[at].edited(lambda body: body["signed"]["body"].update(sealing_key=swapped))
    return at


def _key_of_another_participant(story: Story, history: list[Draft]) -> int:
    at = find(history, "admitted", participant="stranger")
    admission = {**history[at].body["signed"]["body"], "sealing_key": story.firms["institute"].sealing.public.hex()}
    signed = story.firms["stranger"].sign("admission", admission)
    history[at] = history[at].edited(lambda body: body.update(signed=encode(signed)))
    return at


def _agreement_of_another_deployment(story: Story, history: list[Draft]) -> int:
    return _propose_instead(story, history, log=LogIdentity(origin="elsewhere.example/log", key=terms.key_of("log")))


def _agreed_without_all(story: Story, history: list[Draft]) -> int:
    at = find(history, "signed", participant="auditor")
    del history[at]
    return at


def _grant_of_more_columns(story: Story, history: list[Draft]) -> int:
    at = find(history, "granted", job=story.jobs["released"].id)
    grant = decode(Grant, history[at].body["grant"])
    reads = (replace(grant.reads[0], columns=(*grant.reads[0].columns, "extra")), *grant.reads[1:])
    return _regrant(story, history, at, replace(grant, reads=reads))


def _grant_to_another_key(story: Story, history: list[Draft]) -> int:
    at = find(history, "granted", job=story.jobs["released"].id)
    grant = decode(Grant, history[at].body["grant"])
    recipient = replace(grant.recipient, sealing_key=terms.key_of("the operator opens"))
    return _regrant(story, history, at, replace(grant, recipient=recipient))


def _regrant(story: Story, history: list[Draft], at: int, grant: Grant) -> int:
    name = digest(encode(grant))
    history[at - 1] = history[at - 1].edited(grant=name)
    history[at] = history[at].edited(lambda body: body.update(grant=encode(grant)), grant=name)
    return at


def _enclave_of_another_measurement(story: Story, history: list[Draft]) -> int:
    at = find(history, "attested", job=story.jobs["released"].id)
    grant = story.jobs["released"].grant
    assert grant is not None
    honest = decode(SignedEvidence, history[at].body["evidence"])
    other = attest_simulated(grant, honest.evidence.nonces, terms.MEASUREMENT)
    history[at] = history[at].edited(
        lambda body: body.update(evidence=encode(other.evidence)), evidence=other.digest, measurement=terms.MEASUREMENT
    )
    return at


def _evidence_without_a_broker(story: Story, history: list[Draft]) -> int:
    at = find(history, "attested", job=story.jobs["released"].id)
    grant = story.jobs["released"].grant
    assert grant is not None
    honest = decode(SignedEvidence, history[at].body["evidence"])
    other = attest_simulated(grant, honest.evidence.nonces[:1], story.host.measurement)
    history[at] = history[at].edited(lambda body: body.update(evidence=encode(other.evidence)), evidence=other.digest)
    return at


def _release_under_other_evidence(story: Story, history: list[Draft]) -> int:
    at = find(history, "released", job=story.jobs["released"].id)
    grant = story.jobs["released"].grant
    assert grant is not None
    other = attest_simulated(grant, (), story.host.measurement)
    signed = decode(SignedStatement, history[at].body["statement"])
    statement = replace(signed.statement, evidence=other.digest)
    return _restate(history, at, SignedStatement(statement=statement, signature=_sign(other.signing, statement)), evidence=other.digest)


def _statement_of_another_scale(story: Story, history: list[Draft]) -> int:
    at = find(history, "released", job=story.jobs["released"].id)
    statement = decode(SignedStatement, history[at].body["statement"]).statement
    halved = tuple(replace(statistic, scale=statistic.scale // 2) for statistic in statement.statistics)
    statement = replace(statement, statistics=halved)
    enclave = next(identity for identity in story.identities if identity.digest == statement.evidence)
    return _restate(history, at, SignedStatement(statement=statement, signature=_sign(enclave.signing, statement)))


def _statement_nobody_signed(story: Story, history: list[Draft]) -> int:
    at = find(history, "released", job=story.jobs["released"].id)
    statement = replace(decode(SignedStatement, history[at].body["statement"]).statement, sealed=terms.digest_of("other release"))
    signed = SignedStatement(statement=statement, signature=_sign(SigningKey.generate(), statement))
    return _restate(history, at, signed, sealed=terms.digest_of("other release"))


def _withheld_shown_as_released(story: Story, history: list[Draft]) -> int:
    at = find(history, "withheld")
    ids = {name: value for name, value in history[at].header.ids.items() if name != "code"} | {"sealed": terms.digest_of("forged")}
    history[at] = fresh("released", history[at].header.at, ids, history[at].body)
    return at


def _sign(key: SigningKey, statement: Any) -> str:
    return key.sign(STATEMENT_PURPOSE, canonical(encode(statement))).hex()


def _restate(history: list[Draft], at: int, signed: SignedStatement, **ids: str) -> int:
    ids |= {"statement": digest(encode(signed))}
    history[at] = history[at].edited(lambda body: body.update(statement=encode(signed)), **ids)
    return at


def _keys_before_evidence(story: Story, history: list[Draft]) -> int:
    job = story.jobs["counted"].id
    at = find(history, "attested", job=job)
    history.insert(at, history.pop(find(history, "key_released", job=job)))
    return at


def _release_without_all_keys(story: Story, history: list[Draft]) -> int:
    job = story.jobs["released"].id
    del history[find(history, "key_released", job=job, provider="clinic")]
    return find(history, "released", job=job)


def _keys_that_a_provider_did_not_release(story: Story, history: list[Draft]) -> int:
    at = find(history, "key_released", provider="clinic")
    body = history[at].body["signed"]["body"]
    forged = sign_document("key-release", "clinic", body, SigningKey.generate())
    history[at] = history[at].edited(lambda entry: entry.update(signed=encode(forged)))
    return at


def _keys_for_another_enclave(story: Story, history: list[Draft]) -> int:
    at = find(history, "key_released", provider="clinic")
    body = {**history[at].body["signed"]["body"], "evidence": terms.digest_of("other enclave")}
    signed = story.firms["clinic"].sign("key-release", body)
    history[at] = history[at].edited(lambda entry: entry.update(signed=encode(signed)), evidence=terms.digest_of("other enclave"))
    return at


def _second_release(story: Story, history: list[Draft]) -> int:
    history.append(history[find(history, "released", job=story.jobs["released"].id)])
    return len(history) - 1


def _failed_after_the_release(story: Story, history: list[Draft]) -> int:
    model, job = history[find(history, "failed")], story.jobs["counted"].id
    history.append(model.edited(job=job))
    return len(history) - 1


def _other_agreement_in_a_later_step(story: Story, history: list[Draft]) -> int:
    at = find(history, "running")
    history[at] = history[at].edited(agreement=terms.digest_of("another"))
    return at


def _file_swapped_for_a_version(story: Story, history: list[Draft]) -> int:
    at = find(history, "published", dataset="clinic.care")
    history[at] = history[at].edited(file=terms.digest_of("another file"))
    return at


def _dataset_declared_by_another(story: Story, history: list[Draft]) -> int:
    at = find(history, "declared", dataset="clinic.care")
    signed = sign_document("declaration", "clinic", history[at].body["signed"]["body"], story.firms["insurer"].signing)
    history[at] = history[at].edited(lambda body: body.update(signed=encode(signed)))
    return at


def _entry_that_is_not_one(story: Story, history: list[Draft]) -> int:
    history.insert(5, replace(history[5], raw=b'{"kind":"admitted"}', salt=None))
    return 5


def _entry_of_an_unknown_shape(story: Story, history: list[Draft]) -> int:
    at = find(history, "running")
    history[at] = history[at].edited(note="more than a reader expects")
    return at


def _kind_without_a_rule(story: Story, history: list[Draft]) -> int:
    history.append(fresh("opened", story.clock.at, {}, {}))
    return len(history) - 1


def _body_of_another_kind(story: Story, history: list[Draft]) -> int:
    at = find(history, "running")
    history[at] = history[at].edited(lambda body: body.update(sql="SELECT 1"))
    return at


FORGERIES: list[tuple[Change, Promise]] = [
    (_flip_denied, "decisions"),
    (_flip_header_only, "decisions"),
    (_deny_what_is_allowed, "decisions"),
    (_hide_a_finding, "decisions"),
    (_expired_forged_as_allowed, "decisions"),
    (_time_stated_that_is_not_now, "decisions"),
    (_plan_that_the_sql_does_not_mean, "decisions"),
    (_old_version_of_the_data, "decisions"),
    (_law_that_does_not_exist, "decisions"),
    (_budget_fact_that_lies, "budgets"),
    (_ledger_left_out_of_the_facts, "budgets"),
    (_smaller_charge, "budgets"),
    (_one_ledger_not_charged, "budgets"),
    (_loss_on_an_entry_that_is_no_charge, "budgets"),
    (_charge_missing, "order"),
    (_release_without_anything, "order"),
    (_release_without_decision, "order"),
    (_denied_and_then_charged, "order"),
    (_same_request_as_another_job, "order"),
    (_keys_before_evidence, "order"),
    (_release_without_all_keys, "order"),
    (_second_release, "order"),
    (_failed_after_the_release, "order"),
    (_other_agreement_in_a_later_step, "order"),
    (_request_signed_by_another, "signatures"),
    (_forged_signature_on_the_agreement, "signatures"),
    (_signature_on_another_agreement, "signatures"),
    (_swapped_sealing_key, "signatures"),
    (_swapped_key_at_admission, "signatures"),
    (_key_of_another_participant, "signatures"),
    (_agreed_without_all, "signatures"),
    (_file_swapped_for_a_version, "signatures"),
    (_dataset_declared_by_another, "signatures"),
    (_keys_that_a_provider_did_not_release, "signatures"),
    (_agreement_of_another_deployment, "log"),
    (_entry_that_is_not_one, "log"),
    (_entry_of_an_unknown_shape, "log"),
    (_kind_without_a_rule, "log"),
    (_grant_of_more_columns, "grants"),
    (_grant_to_another_key, "grants"),
    (_enclave_of_another_measurement, "evidence"),
    (_evidence_without_a_broker, "evidence"),
    (_keys_for_another_enclave, "evidence"),
    (_release_under_other_evidence, "releases"),
    (_statement_of_another_scale, "releases"),
    (_statement_nobody_signed, "releases"),
    (_withheld_shown_as_released, "releases"),
    (_body_of_another_kind, "order"),
]


@pytest.mark.parametrize(("forge", "promise"), FORGERIES, ids=lambda value: getattr(value, "__name__", value).removeprefix("_"))
def test_a_forged_history_is_caught_and_named(story: Story, history: list[Draft], forge: Change, promise: Promise) -> None:
    at = forge(story, history)
    verdict = _forged(history, story)
    assert not verdict.ok
    first = min(m.index for m in verdict.mismatches if m.index is not None)
    named = {m.promise for m in verdict.mismatches if m.index == at}
    assert (first, promise in named) == (at, True), verdict.mismatches
    assert verdict.promises[promise] == "broken"
    kind = next(m.kind for m in verdict.mismatches if m.index == at)
    assert kind in (history[at].header.kind, "unreadable")


def test_a_charge_beyond_the_budget_is_caught(story: Story, history: list[Draft]) -> None:
    """Even where facts and decision agree with the log, no total passes the agreed one."""
    at = find(history, "charged", job=story.jobs["counted"].id)
    loss = history[at].header.losses[0]
    history[at] = history[at].charging(replace(loss, amount=2_000_000_000))
    verdict = _forged(history, story)
    assert any(m.index == at and m.promise == "budgets" and "the budget is" in m.what for m in verdict.mismatches)


def test_signatures_are_bound_to_their_signer(story: Story, history: list[Draft]) -> None:
    at = find(history, "signed", participant="clinic")
    borrowed = decode(Signed, history[find(history, "signed", participant="insurer")].body["signed"])
    history[at] = history[at].edited(lambda body: body.update(signed=encode(borrowed)))
    verdict = _forged(history, story)
    assert verdict.mismatches[0].index == at
    assert verdict.promises["signatures"] == "broken"
