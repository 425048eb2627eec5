"""`sandbox scope` and an auditor's export under what was granted; every party finds a scope that its owner never signed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from policies.agreement import MAX_TIME
from policies.audit_scope import OPENABLE, AuditScope, SignedAuditScope
from policies.entries import parse_header
from policies.errors import Malformed, NotFound, Tampered
from sandbox.cli import cli
from sandbox.exchange.participants import issue_code
from sandbox.jobs.worker import Worker
from sandbox.party.exporting import export_log
from sandbox.party.home import Home
from sandbox.party.scopes import give_scope, scopes_under, take_back
from tests.support.runs import COUNT_SQL, Town, brokers_running, found_town


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    folder = tmp_path_factory.mktemp("scopes")
    found = found_town(folder)
    examiner = found.client(Home.create(folder / "homes" / "examiner", "examiner", "The examiner", "http://host.test"))
    examiner.join(issue_code(found.host, "examiner"))
    found.clients["examiner"] = examiner
    yield found
    found.close()


def said(monkeypatch: pytest.MonkeyPatch, town: Town, who: str, *words: str, code: int = 0) -> Any:
    """What `sandbox scope ... --json` prints for a participant."""
    monkeypatch.setattr("sandbox.cli.scopes.client_of", lambda folder: town.clients[who])
    done = CliRunner().invoke(cli, ["scope", words[0], "--home", "home", *words[1:], "--json"])
    assert done.exit_code == code, (done.output, done.exception)
    return json.loads(done.output)


def test_an_auditor_outside_of_the_agreement_opens_what_both_providers_granted(
    town: Town, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scope(who: str, *words: str, code: int = 0) -> Any:
        return said(monkeypatch, town, who, *words, code=code)

    examiner, name = town.clients["examiner"], town.agreement
    town.charged("seen")
    with town.host.store.reading() as tx:
        index = next(at for at, data in enumerate(tx.entries(0, tx.log_size())) if parse_header(data).kind == "decided")
    assert scope("examiner", "explain", str(index), code=3) == {"index": index, "decision": None}
    with pytest.raises(NotFound):
        scopes_under(examiner, name)
    scope("insurer", "grant", name, "--auditor", "examiner", "--until", "2099-01-01")
    closed = scope("examiner", "explain", str(index), code=3)["decision"]
    assert [(item["owner"], item["allowed"]) for item in closed["findings"]] == [("clinic", False), ("insurer", True)]
    scope("clinic", "grant", name, "--auditor", "examiner", "--until", "2099-01-01", "--openings", "proposed,signed,agreed,decided")
    assert scope("examiner", "explain", str(index))["decision"]["allowed"]
    listed = scope("institute", "list", name)["scopes"]
    assert [item["scope"]["owner"] for item in listed] == ["insurer", "clinic"]
    assert scope("examiner", "list", name)["scopes"] == listed

    folder, page = tmp_path / "out", tmp_path / "report.html"
    assert town.composed is not None
    export_log(examiner, folder, town.composed.log)
    done = CliRunner().invoke(cli, ["audit", "replay", str(folder), "--processes", "1", "--html", str(page)])
    assert done.exit_code == 1, done.output
    assert "read by examiner" in done.output
    assert "scope 1 of `clinic` does not open `charged`" in page.read_text(encoding="utf-8")

    taken = scope("clinic", "revoke", name, "--auditor", "examiner")["scopes"][0]["scope"]
    assert (taken["sequence"], taken["openings"]) == (2, [])
    assert not scope("examiner", "explain", str(index), code=3)["decision"]["allowed"]
    monkeypatch.setattr("sandbox.cli.scopes.client_of", lambda folder: town.clients["insurer"])
    words = [name, "--auditor", "examiner", "--until", "2099-01-01", "--openings", "decided,salaries"]
    wrong = CliRunner().invoke(cli, ["scope", "grant", "--home", "home", *words])
    assert isinstance(wrong.exception, Malformed)
    assert "`salaries`" in wrong.exception.message


def test_a_scope_that_its_owner_never_signed_is_found_by_every_party(town: Town) -> None:
    forged = SignedAuditScope(
        scope=AuditScope(
            agreement=town.agreement, owner="insurer", auditor="auditor", sequence=1, openings=OPENABLE, not_before=0, not_after=MAX_TIME
        ),
        signature="00" * 64,
    )
    with town.host.store.transaction() as tx:
        tx.append("audit_scoped", at=town.host.now(), ids=forged.to_ids(), body={})
    town.host.publish()
    for who in ("insurer", "institute"):
        with pytest.raises(Tampered) as caught:
            scopes_under(town.clients[who], town.agreement)
        assert caught.value.code == "bad-signature"


def test_a_narrowed_auditor_sees_no_more_of_jobs_than_of_the_log_and_parties_see_what_is_theirs(tmp_path: Path) -> None:
    town = found_town(tmp_path / "town")
    job = run_to_release(town)
    auditor, name = town.clients["auditor"], town.agreement

    def seen(who: str) -> tuple[bool, bool, bool]:
        client = town.clients[who]
        listed = any(item["id"] == job for item in client.jobs())
        answers = []
        for look in (client.job, client.receipt):
            try:
                answers.append(bool(look(job)))
            except NotFound:
                answers.append(False)
        return listed, answers[0], answers[1]

    assert seen("auditor") == (True, True, True), "by all signatures"
    give_scope(town.clients["clinic"], name, "auditor", ("charged",))
    assert seen("auditor") == (False, False, False)
    give_scope(town.clients["clinic"], name, "auditor", ("decided",))
    assert seen("auditor") == (True, True, False)
    give_scope(town.clients["clinic"], name, "auditor", ("decided", "granted", "attested", "released"))
    assert seen("auditor") == (True, True, False), "a receipt's kinds are given together"
    give_scope(town.clients["clinic"], name, "auditor", OPENABLE)
    assert seen("auditor") == (True, True, True)
    take_back(town.clients["insurer"], name, "auditor")
    assert seen("auditor") == (False, False, False)
    assert scopes_under(auditor, name), "what it has signed, and who narrows it, it still sees"
    for who in ("insurer", "clinic", "institute"):
        assert seen(who) == (True, True, True)
    with pytest.raises(Malformed):
        give_scope(town.clients["clinic"], name, "institute", ())
    town.close()


def run_to_release(town: Town) -> str:
    """One job from request to release; returns its id."""
    job = town.charged("shown", sql=COUNT_SQL, epsilon="0.1")
    with brokers_running(town.clients["insurer"]):
        assert Worker(host=town.host).step()
    return job
