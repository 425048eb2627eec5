"""A dishonest operator, who owns the log's key, forges documents, grants, evidence and outcomes; the replay names the entry."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from enclaves.evidence import attest_simulated
from enclaves.kit.appraisal import STATEMENT_PURPOSE
from enclaves.kit.envelope import Signed, document_digest, sign_document
from enclaves.kit.signatures import SigningKey
from policies.agreement import LogIdentity
from policies.canonical import canonical, digest
from policies.codec import decode, encode
from policies.documents import AgreementSignature
from policies.grant import Grant
from policies.odrl import agreement_document, parse_agreement
from policies.statement import SignedEvidence, SignedStatement
from sandbox.audit.verdict import Promise
from tests.support import terms
from tests.support.forge import Draft, Forgery, find, forged, fresh, require_named
from tests.support.story import Story


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


def _credential_of_another_participant(story: Story, history: list[Draft]) -> int:
    at = find(history, "admitted", participant="stranger")
    taken = history[find(history, "admitted", participant="institute")].body["signed"]["body"]["credential_digest"]
    signed = story.firms["stranger"].sign("admission", {**history[at].body["signed"]["body"], "credential_digest": taken})
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


def _grant_that_only_python_reads_alike(story: Story, history: list[Draft]) -> int:
    def zero_is_false(body: dict[str, Any]) -> None:
        assert body["grant"]["loss"]["delta0"] == 0
        body["grant"]["loss"]["delta0"] = False

    at = find(history, "granted", job=story.jobs["counted"].id)
    history[at] = history[at].edited(zero_is_false)
    return at


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
    history[at] = history[at].edited(lambda body: body.update(statement=encode(signed)), None, **ids)
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


def _version_that_is_no_number(story: Story, history: list[Draft]) -> int:
    at = find(history, "published", dataset="clinic.care")
    history[at] = history[at].edited(version="two")
    return at


def _signature_of_no_party(story: Story, history: list[Draft]) -> int:
    at = find(history, "signed", participant="clinic")
    signature = AgreementSignature(agreement=history[at].header.ids["agreement"])
    signed = story.firms["stranger"].sign("agreement-signature", signature)
    history[at] = history[at].edited(lambda body: body.update(signed=encode(signed)), participant="stranger")
    return at


FORGERIES: list[tuple[Forgery, Promise]] = [
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
    (_credential_of_another_participant, "signatures"),
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
    (_grant_that_only_python_reads_alike, "grants"),
    (_enclave_of_another_measurement, "evidence"),
    (_evidence_without_a_broker, "evidence"),
    (_keys_for_another_enclave, "evidence"),
    (_release_under_other_evidence, "releases"),
    (_statement_of_another_scale, "releases"),
    (_statement_nobody_signed, "releases"),
    (_withheld_shown_as_released, "releases"),
    (_body_of_another_kind, "order"),
    (_version_that_is_no_number, "signatures"),
    (_signature_of_no_party, "signatures"),
]


@pytest.mark.parametrize(("forge", "promise"), FORGERIES, ids=lambda value: getattr(value, "__name__", value).removeprefix("_"))
def test_a_forged_document_or_outcome_is_caught_and_named(story: Story, history: list[Draft], forge: Forgery, promise: Promise) -> None:
    require_named(story, history, forge, promise)


def test_signatures_are_bound_to_their_signer(story: Story, history: list[Draft]) -> None:
    at = find(history, "signed", participant="clinic")
    borrowed = decode(Signed, history[find(history, "signed", participant="insurer")].body["signed"])
    history[at] = history[at].edited(lambda body: body.update(signed=encode(borrowed)))
    verdict = forged(history, story)
    assert verdict.mismatches[0].index == at
    assert verdict.promises["signatures"] == "broken"
