"""An owner that never answers: after the agreed time the client takes its rows back, and nobody gains scores or time by it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import requests
from click.testing import CliRunner

from enclaves.kit.envelope import sign_document
from policies.agreement import LogIdentity
from policies.codec import decode, encode
from policies.entries import Header
from policies.errors import Conflict, Forbidden, Malformed, NotFound, PolicyRefused, ReleaseWithheld, Tampered, Unavailable
from policies.scorer import LONGEST_ANSWER_S, Scorer, ScoreRequest, ScoreReturn, ScoreStatement
from sandbox.audit.receipt import log_key
from sandbox.audit.replay import replay
from sandbox.audit.scoring_receipt import verify_score_receipt
from sandbox.cli import cli
from sandbox.exchange.epochs import open_epoch
from sandbox.party.encrypted_scoring import ModelOwner, Rows
from sandbox.party.epochs import sign_epoch
from sandbox.party.exporting import export_log
from sandbox.party.followed import Followed
from sandbox.web.application import make_app
from tests.support.pooled import work_in_this_process
from tests.support.runs import Direct
from tests.support.scored import ScoreMarket, applicants, open_scoring, risk_scorer
from tests.support.service import Service, running

WITHIN_S = 3600


@dataclass
class Clock:
    """How far the host's and the parties' clocks are from the machine's, in seconds."""

    ahead: float = 0.0

    def seconds(self) -> float:
        return time.time() + self.ahead

    def ms(self) -> int:
        return round(self.seconds() * 1000)


@dataclass
class Silent:
    """A market on a service whose clock a test moves."""

    market: ScoreMarket
    clock: Clock
    sessions: dict[str, Direct]

    def owner(self) -> ModelOwner:
        return self.market.owner(now=self.clock.seconds)

    def rows(self) -> Rows:
        return Rows(client=self.market.bank, now=self.clock.seconds)

    def ask(self, count: int = 2, request_id: str | None = None) -> str:
        return self.market.ask(applicants(count), request_id)

    def kinds(self, scoring: str) -> list[str]:
        return [header["kind"] for header in self.market.service.headers() if header["ids"].get("scoring") == scoring]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running(tmp_path_factory.mktemp("silent"), "sqlite", upload_bytes=4 << 20) as found:
        yield found


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    work_in_this_process(monkeypatch)


def opened(service: Service, **agreed: Any) -> Silent:
    market, clock, sessions = open_scoring(service, **{"answer_s": WITHIN_S, "rows": 6, **agreed}), Clock(), {}
    app = make_app(replace(service.host, now=clock.ms))
    for name in ("bank", "lender", "auditor"):
        client = getattr(market, name)
        client.session = sessions[name] = Direct(app)
    return Silent(market=market, clock=clock, sessions=sessions)


@pytest.fixture
def silent(service: Service) -> Silent:
    return opened(service)


def replayed(market: ScoreMarket, folder: Path) -> list[str]:
    log = market.auditor.service()["log"]
    identity = LogIdentity(origin=log["origin"], key=log["key"])
    export_log(market.auditor, folder, identity)
    return [str(found) for found in replay(lambda path: (folder / path).read_bytes(), log_key(identity)).mismatches]


def test_rows_come_back_after_the_agreed_time_and_may_be_asked_for_again(silent: Silent, tmp_path: Path) -> None:
    scoring, bank = silent.ask(6), silent.market.bank
    with pytest.raises(PolicyRefused):
        silent.ask(1)
    with pytest.raises(Unavailable) as waits:
        silent.rows().read(scoring)
    silent.clock.ahead += WITHIN_S + 1
    with pytest.raises(Unavailable) as late:
        silent.rows().read(scoring)
    assert (waits.value.code, late.value.code) == ("not-answered", "owner-silent")
    assert silent.rows().take_back(scoring) == "returned"
    with pytest.raises(ReleaseWithheld) as returned:
        silent.rows().read(scoring)
    assert returned.value.code == "owner-silent"
    again = silent.ask(6)
    assert silent.owner().step() == 1
    assert len(silent.rows().read(again)) == 6
    assert silent.kinds(scoring) == ["score_decided", "score_returned"]
    receipt, agreement = bank.score_receipt(scoring), bank.signed_agreement(silent.market.agreement)
    assert isinstance(verify_score_receipt(receipt, agreement).statement, ScoreReturn)
    assert bank.verified_receipt(scoring)[1].request.rows == 6
    with pytest.raises((Tampered, Malformed)):
        verify_score_receipt(replace(receipt, statement=bank.score_receipt(again).statement), agreement)
    assert replayed(silent.market, tmp_path) == []


def test_a_receipt_of_a_return_says_so_offline_and_the_command_takes_back(silent: Silent, tmp_path: Path, service: Service) -> None:
    scoring, home = silent.ask(1), str(silent.market.bank.home.folder)
    early = CliRunner().invoke(cli, ["model", "take-back", "--home", home, scoring])
    assert isinstance(early.exception, Conflict)
    assert early.exception.code == "too-early"
    silent.clock.ahead += WITHIN_S + 1
    silent.rows().take_back(scoring)
    done = CliRunner().invoke(cli, ["model", "take-back", "--home", home, scoring, "--json"], catch_exceptions=False)
    assert '"returned"' in done.output
    file = tmp_path / "receipt.json"
    read = CliRunner().invoke(cli, ["model", "read-encrypted", "--home", home, scoring, "--receipt", str(file)])
    assert isinstance(read.exception, ReleaseWithheld)
    shown = CliRunner().invoke(cli, ["receipt", "verify", str(file), "--home", home, "--json"], catch_exceptions=False)
    assert "returned: owner-silent" in shown.output


def test_nothing_comes_back_before_the_time_is_over_or_where_none_was_agreed(silent: Silent, service: Service) -> None:
    scoring = silent.ask()
    silent.clock.ahead += WITHIN_S - 60
    with pytest.raises(Conflict) as early:
        silent.rows().take_back(scoring)
    assert early.value.code == "too-early"
    forever = opened(service, answer_s=0)
    scoring = forever.ask()
    forever.clock.ahead += 2 * LONGEST_ANSWER_S
    with pytest.raises(Conflict) as never:
        forever.rows().take_back(scoring)
    assert never.value.code == "no-return"


def test_only_the_client_takes_back_and_only_what_it_sent(silent: Silent) -> None:
    scoring, bank, lender = silent.ask(), silent.market.bank, silent.market.lender
    record = bank.scoring(scoring)
    silent.clock.ahead += WITHIN_S + 1
    request = replace(decode(ScoreRequest, record["signed"]["body"]), request_id="unsent-0001")
    unsent = str(bank.send_request(bank.sign_request(request))["id"])
    silent.clock.ahead += WITHIN_S + 1
    digest = str(next(h["ids"]["request"] for h in silent.market.service.headers() if h["ids"].get("scoring") == unsent))
    with pytest.raises(Conflict) as waits:
        bank.send_return(ScoreReturn(scoring=unsent, request=digest, reason="owner-silent"))
    assert waits.value.code == "scoring-state"
    back = ScoreReturn(scoring=scoring, request="sha256:" + "0" * 64, reason="owner-silent")
    with pytest.raises(Conflict):
        bank.send_return(back)
    with pytest.raises(NotFound):
        lender.send_return(back)
    with pytest.raises(NotFound):
        silent.market.auditor.send_return(back)
    foreign = sign_document("score-return", bank.home.participant, back, lender.home.signing)
    with pytest.raises(Forbidden):
        bank._post("/score-returns", {"signed": encode(foreign)})
    assert silent.kinds(scoring) == ["score_decided"]


def test_an_answer_that_comes_too_late_is_not_taken_and_none_is_computed(silent: Silent, monkeypatch: pytest.MonkeyPatch) -> None:
    scoring, lender = silent.ask(), silent.market.lender
    owner = silent.owner()
    with monkeypatch.context() as patch:  # its answer is on its way for an hour
        patch.setattr(type(lender), "send_answer", lambda self, statement: (_ for _ in ()).throw(Conflict("on its way")))
        with pytest.raises(Conflict):
            owner.step()
    silent.clock.ahead += WITHIN_S + 1
    with pytest.raises(Conflict) as late:
        lender.send_answer(decode(ScoreStatement, lender.home.read(f"scorings/{scoring}.stated.json")))
    assert late.value.code == "owner-late"
    other = silent.ask()
    silent.clock.ahead += WITHIN_S + 1
    monkeypatch.setattr(ModelOwner, "_scored", lambda *_: pytest.fail("scores nobody takes"))
    silent.owner().step()
    assert silent.kinds(scoring) == silent.kinds(other) == ["score_decided"]


def test_what_was_answered_in_time_stays_answered_whatever_its_client_claims(silent: Silent) -> None:
    scoring = silent.ask(6)
    silent.owner().step()
    silent.clock.ahead += WITHIN_S + 1
    assert silent.rows().take_back(scoring) == "answered"
    assert silent.kinds(scoring) == ["score_decided", "score_answered"]
    with pytest.raises(PolicyRefused):
        silent.ask(1)


@pytest.mark.parametrize("applied", [False, True], ids=["lost", "applied then lost"])
def test_a_return_whose_answer_was_lost_is_sent_again_and_counts_once(
    silent: Silent, applied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    scoring, session = silent.ask(6), silent.sessions["bank"]
    silent.clock.ahead += WITHIN_S + 1
    straight = session.request

    def cut(method: str, url: str, **arguments: Any) -> Any:
        if method == "POST" and url.endswith("/score-returns"):
            if applied:
                straight(method, url, **arguments)
            raise requests.ConnectionError("the line is cut")
        return straight(method, url, **arguments)

    with monkeypatch.context() as patch:
        patch.setattr(session, "request", cut)
        with pytest.raises(Unavailable):
            silent.rows().take_back(scoring)
    assert silent.market.bank.scoring(scoring)["state"] == ("returned" if applied else "waiting")
    assert [silent.rows().take_back(scoring) for _ in range(2)] == ["returned"] * 2
    assert silent.kinds(scoring) == ["score_decided", "score_returned"]
    silent.ask(6)
    with pytest.raises(PolicyRefused):
        silent.ask(1)


def test_a_host_that_withholds_an_answer_gains_its_client_no_further_scores(silent: Silent, monkeypatch: pytest.MonkeyPatch) -> None:
    """The host takes the answer, logs nothing, and lets the client take its rows back: the owner counts what it answered all the same."""
    scoring, lender = silent.ask(6), silent.market.lender
    with monkeypatch.context() as patch:
        patch.setattr(type(lender), "send_answer", lambda self, statement: None)
        silent.owner().step()
    silent.clock.ahead += WITHIN_S + 1
    assert silent.rows().take_back(scoring) == "returned"
    again = silent.ask(1)
    silent.owner().step()
    with pytest.raises(ReleaseWithheld) as refused:
        silent.rows().read(again)
    assert refused.value.code == "decision"


def test_an_owner_answers_no_request_whose_rows_the_log_returned(silent: Silent, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host in league with the client hands it over once more, with a clock of its own."""
    scoring = silent.ask()
    record = silent.market.lender.scoring(scoring)
    silent.clock.ahead += WITHIN_S + 1
    silent.rows().take_back(scoring)
    monkeypatch.setattr(silent.market.lender, "scorings", lambda: [{**record, "created_at": record["created_at"] + 10**9}])
    with pytest.raises(PolicyRefused) as refused:
        silent.market.owner().step()
    assert refused.value.code == "owner-late"
    assert not (silent.market.lender.home.folder / f"scorings/{scoring}.stated.json").exists()


def test_a_home_counts_rows_as_the_log_returns_them_and_folds_of_before_alike() -> None:
    ids = {"scoring": "scoring-a", "agreement": "sha256:a", "model": "lender.risk", "request": "sha256:r", "rows": "7", "allowed": "yes"}
    decided = Header(kind="score_decided", at=1000, ids=ids, commitment="sha256:" + "0" * 64)
    given = {"scoring": "scoring-a", "agreement": "sha256:a", "statement": "sha256:s", "code": "owner-silent"}
    back = Header(kind="score_returned", at=9000, ids=given, commitment="sha256:" + "0" * 64)
    fold = Followed().noted(decided, 4).noted(back, 9)

    def counted(index: int, *, answered: bool = False, of: Followed = fold) -> tuple[int, int]:
        return of.encrypted_rows_before(index, "sha256:a", "lender.risk", lambda name: answered)

    assert [counted(index) for index in (4, 5, 9, 10)] == [(0, 0), (7, 1), (7, 1), (0, 0)]
    assert counted(10, answered=True) == (7, 1)
    before = Followed(scorings={"scoring-a": {"index": 4, "ids": ids, "scores": ""}})
    assert counted(10, of=before) == (7, 1)
    assert counted(10, of=before.noted(back, 9)) == (0, 0)


def test_an_agreement_without_a_time_keeps_its_bytes_and_times_have_bounds() -> None:
    assert "answer_s" not in encode(risk_scorer())
    assert decode(Scorer, encode(risk_scorer(answer_s=60))).answer_s == 60
    for wrong in (1, 59, LONGEST_ANSWER_S + 1, -60):
        with pytest.raises(Malformed):
            risk_scorer(answer_s=wrong)
    with pytest.raises(Malformed):
        decode(Scorer, {**encode(risk_scorer()), "answer_s": 0})


def test_purposes_of_asking_and_taking_back_are_apart(silent: Silent) -> None:
    """A signature on a statement is none on a return."""
    scoring, bank = silent.ask(), silent.market.bank
    silent.clock.ahead += WITHIN_S + 1
    back = ScoreReturn(scoring=scoring, request="sha256:" + "0" * 64, reason="owner-silent")
    stated = sign_document("score-statement", bank.home.participant, back, bank.home.signing)
    with pytest.raises(Forbidden):
        bank._post("/score-returns", {"signed": encode(stated)})


def test_when_the_log_ends_what_was_answered_keeps_its_receipt_and_what_waited_keeps_its_rows(tmp_path: Path) -> None:
    with running(tmp_path / "served", "sqlite", upload_bytes=4 << 20) as service:
        silent = opened(service)
        answered, market = silent.ask(2), silent.market
        assert silent.owner().step() == 1
        waiting = silent.ask(3)
        host, epoch = open_epoch(replace(service.host, now=silent.clock.ms), {})
        app = make_app(host)
        for name in silent.sessions:
            getattr(market, name).session = Direct(app)
        assert sign_epoch(market.lender) == epoch
        assert len(silent.rows().read(answered)) == 2, "its receipt is the one of the log that ended"
        with pytest.raises(ReleaseWithheld) as lapsed:
            silent.rows().read(waiting)
        assert lapsed.value.code == "log-ended"
        silent.clock.ahead += WITHIN_S + 1
        assert silent.rows().take_back(waiting) == "lapsed"
        assert silent.owner().step() == 0
        with pytest.raises(PolicyRefused):
            silent.ask(2)
        again = silent.ask(1)
        assert silent.owner().step() == 1
        assert len(silent.rows().read(again)) == 1
        assert replayed(market, tmp_path) == []
