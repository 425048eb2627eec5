"""Encrypted scoring over HTTP with everybody's own code: scores that nobody but the client saw, counted rows, and whoever cheats."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from enclaves.kit.envelope import Signed, sign_document
from policies.agreement import LogIdentity
from policies.canonical import canonical, digest_bytes, parse_json
from policies.codec import decode, encode
from policies.errors import Conflict, Forbidden, Malformed, NotFound, PolicyRefused, ReleaseWithheld, SandboxError, Tampered
from policies.odrl import agreement_document
from policies.scorer import ScoreRequest, ScoreStatement
from policies.scoring import predicted
from policies.tightening import Tightening
from sandbox.audit.receipt import log_key
from sandbox.audit.replay import replay
from sandbox.audit.scoring_receipt import verify_score_receipt
from sandbox.cli import cli
from sandbox.party.acts import next_tightening
from sandbox.party.encrypted_scoring import ModelOwner, Rows
from sandbox.party.exporting import export_log
from tests.support.pooled import work_in_this_process
from tests.support.scored import PURPOSE, ScoreMarket, applicants, open_scoring, risk_model
from tests.support.service import Service, running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("scoring"), "sqlite", upload_bytes=4 << 20) as found:
        yield found


@pytest.fixture(scope="module")
def market(service: Service) -> ScoreMarket:
    return open_scoring(service, rows=100)


@pytest.fixture(scope="module")
def done(market: ScoreMarket) -> str:
    """A scoring that was answered, by a child process."""
    scoring = market.ask(applicants(20))
    assert market.owner().step() == 1
    return scoring


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch, done: str) -> None:
    """The child's work without a child, once a whole scoring has been through one: starting one costs a second."""
    work_in_this_process(monkeypatch)


def replayed(market: ScoreMarket, folder: Path) -> Any:
    log = market.auditor.service()["log"]
    identity = LogIdentity(origin=log["origin"], key=log["key"])
    export_log(market.auditor, folder, identity)
    return replay(lambda path: (folder / path).read_bytes(), log_key(identity))


def test_a_client_gets_the_models_scores_and_everything_is_replayed(market: ScoreMarket, done: str, tmp_path: Path) -> None:
    scores = Rows(client=market.bank).read(done)
    for row, score in zip(applicants(20), scores, strict=True):
        assert score == pytest.approx(predicted(risk_model(), row), abs=2e-4)
    receipt = market.bank.score_receipt(done)
    agreement = market.auditor.signed_agreement(market.agreement)
    assert verify_score_receipt(receipt, agreement).statement.scores is not None
    verdict = replayed(market, tmp_path)
    assert not verdict.mismatches
    kinds = [header["kind"] for header in market.service.headers()]
    assert kinds.count("score_decided") >= 1
    assert kinds.count("score_answered") >= 1


def test_anybody_with_the_agreement_verifies_a_kept_receipt_offline(market: ScoreMarket, done: str, tmp_path: Path) -> None:
    file, changed, log_proof = tmp_path / "receipt.json", tmp_path / "changed.json", tmp_path / "end.tlog-proof"
    home, agreement = str(market.bank.home.folder), tmp_path / "agreement.json"
    agreement.write_bytes(canonical(agreement_document(market.bank.signed_agreement(market.agreement))))
    run = CliRunner().invoke
    assert run(cli, ["model", "read-encrypted", "--home", home, done, "--receipt", str(file)]).exit_code == 0
    for known in (["--agreement", str(agreement)], ["--home", str(market.auditor.home.folder)]):
        shown = run(cli, ["receipt", "verify", str(file), *known, "--json"], catch_exceptions=False)
        facts = parse_json(shown.output.encode(), limit=1 << 20)
        assert (facts["scoring"], facts["outcome"], facts["ok"]) == (done, "answered", True)
    assert run(cli, ["receipt", "tlog-proof", str(file), str(log_proof)], catch_exceptions=False).exit_code == 0
    kept = parse_json(file.read_bytes(), limit=1 << 20)
    kept["statement"]["body"]["scores"] = "sha256:" + "0" * 64
    changed.write_bytes(canonical(kept))
    (tmp_path / "answer").write_bytes(b"other ciphertexts")
    refused = run(cli, ["receipt", "verify", str(changed), "--agreement", str(agreement)])
    other = run(cli, ["receipt", "verify", str(file), "--agreement", str(agreement), "--sealed", str(tmp_path / "answer")])
    assert isinstance(refused.exception, Tampered)
    assert isinstance(other.exception, Tampered)
    assert other.exception.code == "receipt-sealed"


def test_a_receipt_that_was_changed_does_not_hold(market: ScoreMarket, done: str) -> None:
    receipt, agreement = market.bank.score_receipt(done), market.bank.signed_agreement(market.agreement)
    other = ScoreStatement(scoring=done, request="sha256:" + "0" * 64, scores=None, refused="model")
    forged = sign_document("score-statement", market.lender.home.participant, other, market.lender.home.signing)
    asked = replace(receipt.request, body={**receipt.request.body, "rows": 21})
    for wrong in (replace(receipt, statement=forged), replace(receipt, request=asked), replace(receipt, index=receipt.index + 1)):
        with pytest.raises(SandboxError):
            verify_score_receipt(wrong, agreement)


def test_neither_rows_nor_scores_nor_weights_are_anywhere_on_the_host(market: ScoreMarket, done: str) -> None:
    """What the service stores is scanned for values of either side that stand out."""
    text = b"".join(path.read_bytes() for path in market.service.config.data.rglob("*") if path.is_file())
    weights = [str(weight).encode() for weight in risk_model().weights[0][1:]]
    incomes = [str(row["income"]).encode() for row in applicants(20) if isinstance(row["income"], int) and row["income"] > 10_000]
    assert incomes
    assert not [word for word in (*weights, *incomes) if b":" + word + b"," in text or b'"' + word + b'"' in text]
    secret = next((market.bank.home.folder / "scorings").glob("*.secret")).read_bytes()
    assert secret[:64] not in text


def test_what_is_sent_twice_counts_once(market: ScoreMarket) -> None:
    before = len(market.service.headers())
    rows, part, owner = applicants(2), Rows(client=market.bank), market.owner()
    asked = [part.ask(market.agreement, market.model, PURPOSE, rows, "twice-0001") for _ in range(2)]
    assert asked[0].scoring == asked[1].scoring
    assert owner.step() == 1
    record = market.lender.scoring(asked[0].scoring)
    market.lender._post("/score-statements", {"signed": record["statement"]})
    assert part.ask(market.agreement, market.model, PURPOSE, rows, "twice-0001").state == "answered"
    assert [header["kind"] for header in market.service.headers()[before:]] == ["score_decided", "score_answered"]
    with pytest.raises(Malformed):
        part.ask(market.agreement, market.model, "other-purpose", rows, "twice-0001")


def test_an_answer_lost_on_its_way_is_sent_again_and_not_drawn_again(market: ScoreMarket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two answers to one request have two floods, and their mean tells more than either."""
    scoring, owner = market.ask(applicants(2)), market.owner()
    with monkeypatch.context() as patch:
        patch.setattr(type(market.lender), "send_answer", lambda self, statement: (_ for _ in ()).throw(Conflict("lost")))
        with pytest.raises(Conflict):
            owner.step()
    first = decode(ScoreStatement, market.lender.home.read(f"scorings/{scoring}.stated.json"))
    assert owner.step() == 1
    signed = decode(Signed, market.lender.scoring(scoring)["statement"])
    assert decode(ScoreStatement, signed.body) == first
    monkeypatch.setattr(market.lender, "scorings", lambda: [{**market.lender.scoring(scoring), "state": "waiting"}])
    monkeypatch.setattr(ModelOwner, "_scored", lambda *_: pytest.fail("a second answer was computed"))
    market.owner().step()


def test_rows_beyond_those_agreed_are_denied_and_the_denial_is_logged(service: Service, tmp_path: Path) -> None:
    small = open_scoring(service, rows=5)
    assert small.ask(applicants(3))
    with pytest.raises(PolicyRefused) as refused:
        small.ask(applicants(3), "too-many-0001")
    assert [finding["rule"] for finding in refused.value.findings] == ["rows"]
    assert small.ask(applicants(2))
    decided = [header for header in service.headers() if header["kind"] == "score_decided"][-3:]
    assert [header["ids"]["allowed"] for header in decided] == ["yes", "no", "yes"]
    assert not replayed(small, tmp_path).mismatches


def test_an_owner_decides_again_and_refuses_what_its_own_log_does_not_allow(service: Service) -> None:
    """A host that looks away from a tightening gets a refusal: the owner obeys its own home first."""
    suspended = open_scoring(service)
    scoring, home = suspended.ask(applicants(2)), suspended.lender.home
    agreement, followed = suspended.lender.followed_agreement(suspended.agreement)
    tightening = next_tightening(home, followed, suspended.agreement, agreement, suspended.model, revoked=True)
    assert isinstance(tightening.tightening, Tightening)
    suspended.owner().step()
    with pytest.raises(ReleaseWithheld) as refused:
        Rows(client=suspended.bank).read(scoring)
    assert refused.value.code == "decision"


def test_an_owner_answers_no_request_that_the_log_does_not_have(market: ScoreMarket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host in league with a client hands over a signed request that it never logged: its rows would count nowhere."""
    scoring = market.ask(applicants(1))
    record, bank = market.lender.scoring(scoring), market.bank.home
    request = replace(decode(ScoreRequest, record["signed"]["body"]), request_id="unlogged-0001")
    signed = sign_document("score-request", bank.participant, request, bank.signing)
    monkeypatch.setattr(market.lender, "scorings", lambda: [{**record, "signed": encode(signed)}])
    with pytest.raises(Tampered) as refused:
        market.owner().step()
    assert refused.value.code == "not-logged"
    monkeypatch.undo()


def test_ciphertexts_of_another_shape_or_name_are_not_taken(market: ScoreMarket) -> None:
    bank = market.bank
    request = ScoreRequest(
        request_id="shape-0001",
        agreement=market.agreement,
        consumer=bank.home.participant,
        purpose=PURPOSE,
        model=market.model,
        rows=1,
        ciphertexts=digest_bytes(b"others"),
    )
    name = bank.send_request(bank.sign_request(request))["id"]
    with pytest.raises(Malformed) as size:
        bank.send_file(name, b"others")
    assert size.value.code == "he-size"
    whole = (bank.home.folder / "scorings" / "twice-0001.bin").read_bytes()
    with pytest.raises(Malformed) as digest:
        bank.send_file(name, whole)
    assert digest.value.code == "upload-digest"
    with pytest.raises(Conflict):
        market.lender.send_answer(ScoreStatement(scoring=name, request="sha256:" + "0" * 64, scores=None, refused="model"))


def test_bytes_that_are_no_ciphertexts_are_refused_by_name_and_the_owner_goes_on(market: ScoreMarket) -> None:
    """They have the right size and digest, so only the child process sees that they are none."""
    bank = market.bank
    whole = b"\xff" * len((bank.home.folder / "scorings" / "twice-0001.bin").read_bytes())
    request = ScoreRequest(
        request_id="garbage-0001",
        agreement=market.agreement,
        consumer=bank.home.participant,
        purpose=PURPOSE,
        model=market.model,
        rows=1,
        ciphertexts=digest_bytes(whole),
    )
    name = bank.send_request(bank.sign_request(request))["id"]
    bank.send_file(name, whole)
    market.owner().step()
    assert market.bank.scoring(name)["state"] == "refused"
    assert decode(ScoreStatement, market.bank.scoring(name)["statement"]["body"]).refused == "ciphertexts"
    other = market.ask(applicants(1))
    market.owner(model=replace(risk_model(), weights=((0, 2**30, 0, 0, 0),))).step()
    assert decode(ScoreStatement, market.bank.scoring(other)["statement"]["body"]).refused == "model"


def test_scorings_are_the_two_parties_own(market: ScoreMarket, done: str, service: Service) -> None:
    stranger = open_scoring(service)
    for client in (stranger.bank, market.auditor):
        with pytest.raises(NotFound):
            client.scoring(done)
        with pytest.raises(NotFound):
            client.score_receipt(done)
    statement = decode(ScoreStatement, market.bank.scoring(done)["statement"]["body"])
    with pytest.raises(NotFound):
        market.lender.fetch_file(done, str(statement.scores))
    with pytest.raises(NotFound):
        market.bank.send_answer(statement)
    wrong = sign_document("score-request", stranger.bank.home.participant, {}, market.bank.home.signing)
    with pytest.raises(Forbidden):
        stranger.bank.send_request(wrong)
