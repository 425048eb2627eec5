"""Rightly signed documents that say what may not be said: each endpoint answers its documented error and changes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests

from policies.canonical import canonical, digest
from policies.codec import encode
from policies.documents import secret_digest
from policies.privacy import NANO, Loss
from sandbox.party.client import Client
from tests.support.doors import DOORS, Door, expect_problem, get, require_refused
from tests.support.market import Market, fresh_home
from tests.support.service import ON_ONE_DATABASE

NAMES = ("", "A", "1a", "a-b", "a b", "../a", "a/b", "a\x00b", "a\nb", "a\u202eb", "ａ", "a" * 41, "a;DROP TABLE jobs", "__proto__", "a.b")
"""Nothing of this may name a participant or a column."""

Change = Callable[[Door], dict[str, Any]]


def setting(*path: str | int, to: Any) -> Change:
    """A change of one member of the document."""
    return lambda door: door.changed(*path, to=to)


def named(name: str, role: str = "insurer") -> Change:
    """A change of the dataset to another name below a provider's."""
    return lambda door: door.changed("dataset", to=f"{door.market.name(role)}.{name}")


COLUMN = {"name": "x", "type": "integer", "lower": None, "upper": None, "decimals": 0, "domain": None, "nullable": False, "description": ""}

BAD: dict[str, dict[str, tuple[Change, int, str | None]]] = {
    "participants": {
        **{f"participant {name!r}": (setting("participant", to=name), 400, "malformed") for name in NAMES},
        "no title": (setting("title", to=""), 400, "malformed"),
        "a long title": (setting("title", to="t" * 201), 400, "malformed"),
        "a title with an escape": (setting("title", to="\x1b[2J"), 400, "malformed"),
        "a short key": (setting("sealing_key", to="ab"), 400, "malformed"),
        "a key in capitals": (setting("sealing_key", to="AB" * 32), 400, "malformed"),
        "one key for both": (lambda door: door.changed("sealing_key", to=door.document["signing_key"]), 400, "malformed"),
        "the digest of another code": (setting("code_digest", to=secret_digest("another code")), 403, "admission-code"),
        "a code that is no digest": (setting("code_digest", to="sha256:xyz"), 400, "malformed"),
    },
    "datasets": {
        **{f"name {name!r}": (named(name), 400, "malformed") for name in NAMES},
        "no provider": (setting("dataset", to="plans"), 400, "malformed"),
        "another provider's": (named("more", "clinic"), 403, "forbidden"),
        "a dataset declared otherwise": (lambda door: {**named("plans")(door), "title": "Other plans"}, 409, "conflict"),
        "no columns": (setting("columns", to=[]), 400, None),
        "a column twice": (setting("columns", to=[COLUMN, COLUMN]), 400, "malformed"),
        **{f"column {name!r}": (setting("columns", 0, "name", to=name), 400, None) for name in NAMES},
        "an unknown type": (setting("columns", 0, "type", to="float"), 400, "malformed"),
        "a bound alone": (setting("columns", 0, "lower", to="0"), 400, "malformed"),
        "bounds upside down": (lambda door: _bounds(door, "2", "1"), 400, "malformed"),
        "NaN as a bound": (lambda door: _bounds(door, "NaN", "NaN"), 400, "malformed"),
        "infinity as a bound": (lambda door: _bounds(door, "-inf", "inf"), 400, "malformed"),
        "an exponent as a bound": (lambda door: _bounds(door, "0", "1e9"), 400, "malformed"),
        "a number as a bound": (lambda door: _bounds(door, 0, 1), 400, "malformed"),
        "no rows per unit": (setting("rows_per_unit", to=0), 400, "malformed"),
        "a negative number of rows per unit": (setting("rows_per_unit", to=-1), 400, "malformed"),
        "a huge number of rows per unit": (setting("rows_per_unit", to=10**12), 400, "malformed"),
        "true rows per unit": (setting("rows_per_unit", to=True), 400, "malformed"),
        "a key without the unit": (setting("unique_key", to=["year"]), 400, "malformed"),
        "a key of nothing": (setting("unique_key", to=[]), 400, "malformed"),
        "a key of an unknown column": (setting("unique_key", to=["person_id", "month"]), 400, "unknown-column"),
        "an unknown unit": (setting("unit", to="household"), 400, "malformed"),
        "an id space with a path": (setting("id_space", to="../x"), 400, "malformed"),
        "a text value in a domain of integers": (setting("columns", 1, "domain", to=[1, "2"]), 400, "malformed"),
        "a value twice in a domain": (setting("columns", 1, "domain", to=[1, 1]), 400, "malformed"),
        "a later kind": (setting("kind", to="declaration/2"), 400, "malformed"),
    },
    "versions": {
        **{f"version {n}": (setting("version", to=n), 400, "malformed") for n in (0, -1, 10**9 + 1)},
        "the version after the next": (setting("version", to=2), 409, "version-number"),
        "a version as text": (setting("version", to="1"), 400, "malformed"),
        "an undeclared dataset": (named("undeclared"), 404, "not-found"),
        "another provider's dataset": (lambda door: door.changed("dataset", to=door.market.care), 403, "forbidden"),
        "a path for a dataset": (named("../x"), 400, "malformed"),
        "an unknown file": (setting("file_digest", to="sha256:" + "0" * 64), 404, "not-found"),
        "another provider's file": (lambda door: door.changed("file_digest", to=_file_of(door.market, door.market.care)), 404, "not-found"),
        "a path for a file": (setting("file_digest", to="sha256:../../../../etc/passwd"), 400, "malformed"),
        "a digest in capitals": (setting("file_digest", to="sha256:" + "A" * 64), 400, "malformed"),
        "another size": (setting("size", to=1), 404, "not-found"),
        "no size": (setting("size", to=0), 404, "not-found"),
        "a negative size": (setting("size", to=-5), 404, "not-found"),
        "a column short": (setting("columns", to=["person_id", "year", "coinsurance"]), 409, "version-columns"),
        "a column twice": (
            setting("columns", to=["person_id", "year", "coinsurance", "medical_spend", "year"]), 409, "version-columns",
        ),
        "an undeclared column": (setting("columns", to=["person_id", "year", "coinsurance", "female"]), 409, "version-columns"),
    },
    "offers": {
        "another provider's dataset": (lambda door: _offer_of(door, "clinic"), 403, "forbidden"),
        "a declaration that differs": (setting("sb:declaration", "title", to="Other"), 409, "offer-declaration"),
        "a looser contribution bound": (setting("sb:declaration", "rows_per_unit", to=1), 409, "offer-declaration"),
        "another profile": (setting("profile", to="urn:other"), 400, None),
        "another context": (setting("@context", to=["http://www.w3.org/ns/odrl.jsonld"]), 400, None),
        "an agreement's type": (setting("@type", to="Agreement"), 400, None),
        "a prohibition beside": (setting("prohibition", to=[]), 400, None),
        "no permission": (setting("permission", to=[]), 400, None),
        "a duty": (setting("permission", 0, "duty", to=[{"action": "delete"}]), 400, None),
        "another action": (setting("permission", 0, "action", to="use"), 400, None),
        "a constraint less": (lambda door: _constraints(door, lambda items: items[1:]), 400, None),
        "a constraint twice": (lambda door: _constraints(door, lambda items: [*items, items[0]]), 400, None),
        "an unknown constraint": (
            lambda door: _constraints(door, lambda items: [*items, {"leftOperand": "spatial", "operator": "eq", "rightOperand": "EU"}]),
            400, None,
        ),
        "a name with a path": (setting("uid", to="urn:sandbox:offer:../x"), 400, None),
    },
    "agreements": {
        "another log's key": (setting("sb:log", "key", to="0" * 64), 409, "other-log"),
        "another log's origin": (setting("sb:log", "origin", to="elsewhere.example/log"), 409, "other-log"),
        "a log origin with a space": (setting("sb:log", "origin", to="a b"), 400, None),
        "a party's other key": (setting("sb:party", 0, "signing_key", to="ab" * 32), 409, "other-keys"),
        "a stranger as a party": (lambda door: _also_party(door, "nobody_at_all"), 409, "unknown-party"),
        "a party twice": (lambda door: door.changed("sb:party", to=[*door.document["sb:party"], door.document["sb:party"][0]]), 400, None),
        "no party": (setting("sb:party", to=[]), 400, None),
        "a provider who is no party": (lambda door: _without_party(door, "clinic"), 400, None),
        "oneself left out": (lambda door: _without_institute(door), 403, "forbidden"),
        "another conflict strategy": (setting("conflict", to="perm"), 400, None),
        "a title with an escape": (setting("sb:title", to="\x1b]0;x\x07"), 400, None),
    },
    "signatures": {
        "an unknown agreement": (setting("agreement", to="sha256:" + "0" * 64), 404, "not-found"),
        "a path": (setting("agreement", to="../../etc/passwd"), 400, "malformed"),
        "a digest with a newline": (setting("agreement", to="sha256:" + "0" * 64 + "\n"), 400, "malformed"),
        "no digest": (setting("agreement", to=""), 400, "malformed"),
        "a later kind": (setting("kind", to="agreement-signature/2"), 400, "malformed"),
    },
    "jobs": {
        **{f"request id {name!r}": (setting("request_id", to=name), 400, "malformed") for name in (
            "", "short", "r-" + "x" * 63, "../../../../x", "r-with a space", "r-with\x00nul", "-starts-badly", "r-unicode-é",
        )},
        "an unknown agreement": (setting("agreement", to="sha256:" + "1" * 64), 404, "not-found"),
        "in another's name": (lambda door: door.changed("consumer", to=door.market.name("insurer")), 404, "not-found"),
        "a purpose with a path": (setting("purpose", to="../x"), 400, "malformed"),
        "a purpose with a quote": (setting("purpose", to="x' OR '1'='1"), 400, "malformed"),
        "no epsilon": (setting("loss", "amount", to=0), 400, "malformed"),
        "a negative epsilon": (setting("loss", "amount", to=-1), 400, "malformed"),
        "a huge epsilon": (setting("loss", "amount", to=100 * NANO + 1), 400, "malformed"),
        "an epsilon at the edge of JSON": (setting("loss", "amount", to=2**53 - 1), 400, "malformed"),
        "an epsilon as text": (setting("loss", "amount", to="1"), 400, "malformed"),
        "infinity as text": (setting("loss", "amount", to="Infinity"), 400, "malformed"),
        "true epsilon": (setting("loss", "amount", to=True), 400, "malformed"),
        "an unknown measure": (setting("loss", "measure", to="renyi"), 400, "malformed"),
        "a delta of one": (setting("loss", "delta0", to=10**12), 400, "malformed"),
        "a negative delta": (setting("loss", "delta0", to=-1), 400, "malformed"),
        "a later kind": (setting("kind", to="job-request/2"), 400, "malformed"),
        "a query too long": (setting("sql", to="SELECT COUNT(*) FROM x.y" + " " * 20_000), 400, "sql"),
        "a query with a NUL": (setting("sql", to="SELECT COUNT(*) FROM x.y\x00"), 400, "malformed"),
    },
}  # fmt: skip

QUERIES: dict[str, tuple[str, str | None]] = {
    "": ("sql", None),
    ";": ("sql", None),
    "SELECT": ("sql", None),
    "SELEC COUNT(*) FROM {plans}": ("sql", None),
    "-- only a comment": ("sql", None),
    "SELECT COUNT(*)": ("sql", "FROM"),
    "SELECT 1": ("sql", None),
    "SELECT * FROM {plans}": ("sql", "aggregates"),
    "SELECT p.* FROM {plans} AS p": ("sql", "aggregates"),
    "SELECT COUNT(*), * FROM {plans}": ("sql", "aggregates"),
    "SELECT medical_spend FROM {plans}": ("raw-column", "never leave"),
    "SELECT COUNT(*) FROM {plans}; SELECT COUNT(*) FROM {plans}": ("sql", "one statement"),
    "SELECT COUNT(*) FROM {plans}; DROP TABLE jobs": ("sql", "SELECT"),
    "DROP TABLE {plans}": ("sql", "SELECT"),
    "DELETE FROM {plans}": ("sql", "SELECT"),
    "UPDATE {plans} SET year = 1": ("sql", "SELECT"),
    "INSERT INTO {plans} VALUES (1)": ("sql", "SELECT"),
    "CREATE TABLE x.y AS SELECT COUNT(*) FROM {plans}": ("sql", "SELECT"),
    "ALTER TABLE {plans} ADD COLUMN x INT": ("sql", "SELECT"),
    "TRUNCATE {plans}": ("sql", None),
    "COPY {plans} TO '/etc/passwd'": ("sql", None),
    "ATTACH '/etc/passwd' AS x": ("sql", None),
    "INSTALL httpfs": ("sql", None),
    "LOAD httpfs": ("sql", None),
    "PRAGMA database_list": ("sql", None),
    "SET memory_limit = '1GB'": ("sql", None),
    "CALL pragma_version()": ("sql", None),
    "EXPLAIN SELECT COUNT(*) FROM {plans}": ("sql", None),
    "WITH x AS (SELECT 1) SELECT COUNT(*) FROM {plans}": ("sql", None),
    "SELECT COUNT(*) FROM (SELECT * FROM {plans})) AS p": ("sql", None),
    "SELECT COUNT(*) FROM {plans} UNION SELECT COUNT(*) FROM {plans}": ("sql", None),
    "SELECT COUNT(*) FROM {plans} ORDER BY medical_spend": ("sql", None),
    "SELECT COUNT(*) FROM {plans} LIMIT 1": ("sql", None),
    "SELECT DISTINCT COUNT(*) FROM {plans}": ("sql", None),
    "SELECT COUNT(*) FROM {plans} HAVING MAX(year) > 1": ("sql", None),
    "SELECT COUNT(*) FROM {plans} WHERE year = (SELECT 1)": ("sql", None),
    "SELECT COUNT(*) FROM {plans} WHERE EXISTS (SELECT 1)": ("sql", None),
    "SELECT COUNT(*) FILTER (WHERE COUNT(*) = 1) FROM {plans}": ("sql", None),
    "SELECT COUNT(*) OVER () FROM {plans}": ("sql", None),
    "SELECT KURTOSIS(medical_spend) FROM {plans}": ("sql", "KURTOSIS"),
    "SELECT MAX(MAX(medical_spend)) FROM {plans}": ("sql", None),
    "SELECT MODE(medical_spend) FROM {plans}": ("sql", None),
    "SELECT LIST(medical_spend) FROM {plans}": ("sql", None),
    "SELECT STRING_AGG(person_id, ',') FROM {plans}": ("sql", None),
    "SELECT SUM(medical_spend ** 1000) FROM {plans}": ("sql", None),
    "SELECT SUM(person_id) FROM {plans}": ("bounds-missing", "bounds"),
    "SELECT VERSION() FROM {plans}": ("sql", None),
    "SELECT GETENV('HOME'), COUNT(*) FROM {plans}": ("sql", None),
    "SELECT COUNT(*) FROM READ_CSV('/etc/passwd')": ("sql", None),
    "SELECT COUNT(*) FROM READ_PARQUET('uploads/*')": ("sql", None),
    "SELECT COUNT(*) FROM '/etc/passwd'": ("malformed", None),
    "SELECT COUNT(*) FROM plans": ("sql", "provider"),
    "SELECT COUNT(*) FROM {plans}_2": ("unknown-dataset", "no dataset"),
    "SELECT COUNT(*) FROM nobody.plans": ("unknown-dataset", "no dataset"),
    "SELECT COUNT(*) FROM information_schema.tables": ("unknown-dataset", "no dataset"),
    "SELECT COUNT(*) FROM a.b.c": ("sql", None),
    'SELECT COUNT(*) FROM "../x"."plans"': ("malformed", None),
    'SELECT COUNT(*) FROM {plans} WHERE "year\n" = 1': ("malformed", None),
    "SELECT COUNT(*) FROM {plans} WHERE weight = 1": ("unknown-column", "weight"),
    "SELECT SUM(weight) FROM {plans}": ("unknown-column", "weight"),
    "SELECT COUNT(*) FROM {plans} WHERE year = 1.5": ("bounds-missing", None),
    "SELECT COUNT(*) FROM {plans} WHERE year = '1'": ("sql", "integer and text"),
    "SELECT COUNT(*) FROM {plans} WHERE year = 1e400": ("sql", "1e400"),
    "SELECT COUNT(*) FROM {plans} WHERE year = 99999999999999999999": ("sql", "2^53"),
    "SELECT COUNT(*) FROM {plans} WHERE year": ("sql", None),
    "SELECT COUNT(*) FROM {plans} WHERE year + 1 = 2": ("bounds-missing", None),
    "SELECT COUNT(*) FROM {plans} WHERE RANDOM() < 0.5": ("sql", None),
    "SELECT COUNT(*) FROM {plans} WHERE year IN (SELECT 1)": ("sql", None),
    "SELECT COUNT(*) FROM {plans} WHERE year LIKE '1'": ("sql", None),
    "SELECT COUNT(*) FROM {plans}, {care}": ("sql", "USING"),
    "SELECT COUNT(*) FROM {plans} LEFT JOIN {care} USING (person_id, year)": ("sql", "inner"),
    "SELECT COUNT(*) FROM {plans} JOIN {care} USING (year)": ("join-unit", "privacy unit"),
    "SELECT COUNT(*) FROM {plans} JOIN {plans} USING (person_id, year)": ("sql", "alias"),
    "SELECT COUNT(*) AS a, COUNT(*) AS a FROM {plans}": ("sql", "distinct"),
    'SELECT COUNT(*) AS "../a" FROM {plans}': ("malformed", None),
    "SELECT coinsurance FROM {plans} GROUP BY coinsurance": ("sql", "aggregate"),
    "SELECT COUNT(*) FROM {plans} GROUP BY ROLLUP (year)": ("sql", None),
    "SELECT COUNT(*) FROM {plans} TABLESAMPLE 10%": ("sql", None),
    "SELECT COUNT(*) FROM {plans} WHERE " + "(" * 60 + "year = 1" + ")" * 60: ("sql", "levels"),
    "SELECT COUNT(*) FROM {plans} WHERE " + "NOT " * 400 + "year = 1": ("sql", None),
    "SELECT COUNT(*) FROM {plans} WHERE " + " OR ".join(f"year = {year}" for year in range(600)): ("sql", None),
}


@pytest.mark.parametrize("name", list(BAD))
def test_a_signed_document_that_says_what_it_may_not_is_refused(market: Market, name: str) -> None:
    door = DOORS[name](market)
    answers = ((case, door.post(door.request(change(door))), status, code) for case, (change, status, code) in BAD[name].items())
    require_refused(market.service, answers)


@ON_ONE_DATABASE
@pytest.mark.parametrize("name", ["jobs", "jobs:check"])
def test_a_query_outside_the_language_is_refused_by_name_and_costs_nothing(market: Market, name: str) -> None:
    door, path = DOORS[name](market), ("request", "sql") if name == "jobs:check" else ("sql",)
    titles: dict[str, str] = {}

    def answers() -> Iterator[tuple[str, requests.Response, int, str | None]]:
        for query, (code, _) in QUERIES.items():
            sql = query.format(plans=market.plans, care=market.care)
            response = door.post(door.request(door.changed(*path, to=sql)))
            titles[query] = response.json().get("title", "")
            yield sql[:70], response, 400, code

    require_refused(market.service, answers())
    silent = {query: titles[query] for query, (_, word) in QUERIES.items() if word is not None and word not in titles[query]}
    assert not silent, "an error names what is wrong"


@pytest.mark.parametrize(
    ("changes", "code", "rules"),
    [
        ({"purpose": "marketing"}, "policy-refused", "purpose"),
        ({"sql": "SELECT COUNT(*) AS n FROM {care} WHERE remark = 'x'"}, "policy-refused", "columns"),
        ({"sql": "SELECT COUNT(remark) AS n FROM {care}"}, "policy-refused", "columns"),
        ({"sql": "SELECT person_id, COUNT(*) AS n FROM {plans} GROUP BY person_id"}, "policy-refused", "columns schedule"),
        ({"loss": Loss(measure="zcdp", amount=NANO // 10)}, "policy-refused", "job_loss total_loss"),
        ({"loss": Loss(amount=NANO // 10, delta0=1)}, "policy-refused", "job_loss schedule total_loss"),
        ({"epsilon": "2.000000001"}, "policy-refused", "job_loss"),
        ({"epsilon": "0.000000001", "sql": "SELECT SUM(medical_spend) AS s FROM {plans}"}, "policy-refused", "schedule"),
    ],
)
def test_a_denied_request_is_logged_and_costs_nothing(market: Market, changes: dict[str, Any], code: str, rules: str) -> None:
    service, door = market.service, DOORS["jobs"](market)
    sql = changes.get("sql", market.count_sql).format(plans=market.plans, care=market.care)
    document = encode(market.request(**(changes | {"sql": sql})))
    first, spent = len(service.headers()), {role: service.spent(market.name(role)) for role in ("insurer", "clinic")}
    response = door.post(door.request(document))
    expect_problem(response, 403, code)
    findings = response.json()["findings"]
    assert findings
    assert {finding["rule"] for finding in findings} == set(rules.split())
    assert [(header["kind"], header["ids"]["allowed"]) for header in service.headers()[first:]] == [("decided", "no")]
    assert {role: service.spent(market.name(role)) for role in spent} == spent
    again = door.post(door.request(document))
    assert again.json() == response.json(), "the same id gets the same answer"
    assert len(service.headers()) == first + 1


def test_a_used_expired_or_foreign_admission_code_admits_nobody(market: Market) -> None:
    service = market.service
    expired, foreign = DOORS["participants"](market), DOORS["participants"](market)
    service.expire_code(expired.beside["code"])
    others = service.code(f"somebody_else_{service.next_tag()}")
    before = service.state()
    expect_problem(expired.post(expired.request()), 403, "admission-code")
    stolen = foreign.request(foreign.changed("code_digest", to=secret_digest(others))) | {"code": others}
    expect_problem(foreign.post(stolen), 403, "admission-code")
    for code in ("", "short", "x" * 201, 12345678, None):
        expect_problem(foreign.post(foreign.request() | {"code": code}), 400, "malformed")
    expect_problem(foreign.post(foreign.request() | {"code": "never-issued-by-anybody"}), 403, "admission-code")
    unknown = foreign.changed("code_digest", to=secret_digest("never-issued-by-anybody"))
    expect_problem(foreign.post(foreign.request(unknown) | {"code": "never-issued-by-anybody"}), 403, "admission-code")
    assert service.state() == before
    used = foreign.request()
    assert foreign.post(used).status_code == 201
    before = service.state()
    for member, to in (("title", "Another title"), ("credential_digest", secret_digest("another credential"))):
        expect_problem(foreign.post(foreign.request(foreign.changed(member, to=to))), 403, "admission-code")
    assert service.state() == before


def test_an_admission_whose_answer_was_lost_is_repeated_with_the_same_answer(market: Market) -> None:
    service, door = market.service, DOORS["participants"](market)
    assert door.signer is not None
    own = door.request(door.changed("title", to=door.signer.home.read("identity.json")["title"]))
    first = door.post(own)
    assert first.status_code == 201
    before = service.state()
    service.expire_code(door.beside["code"])
    again = door.post(own)
    assert (again.status_code, again.content) == (201, first.content)
    assert {**service.state(), "admission_codes": None} == {**before, "admission_codes": None}
    door.signer.join(door.beside["code"])
    assert door.signer.agreements() == []
    assert not (door.signer.home.folder / "credential.draft").exists()


def test_a_credential_is_in_no_admission_and_its_digest_opens_nothing(market: Market) -> None:
    door = DOORS["participants"](market)
    assert door.signer is not None
    credential = door.signer.home.drafted_credential()
    assert credential not in canonical(door.request()).decode()
    response = door.post(door.request())
    assert response.status_code == 201
    assert credential not in response.text
    assert get(market.clients["auditor"], "/me").status_code == 200
    for guess in (door.document["credential_digest"], door.document["credential_digest"].removeprefix("sha256:")):
        answer = requests.get(market.service.api + "/me", headers={"Authorization": f"Bearer {guess}"}, timeout=60)
        expect_problem(answer, 401, "unauthenticated")


def test_a_credential_belongs_to_one_participant(market: Market) -> None:
    first, second = DOORS["participants"](market), DOORS["participants"](market)
    assert first.post(first.request()).status_code == 201
    taken = second.changed("credential_digest", to=first.document["credential_digest"])
    expect_problem(second.post(second.request(taken)), 409, "conflict")


def test_an_admitted_name_or_key_is_not_admitted_again(market: Market) -> None:
    door = DOORS["participants"](market)
    known = market.clients["auditor"].home
    before = market.service.state()
    for member, key in (("sealing_key", known.sealing.public), ("sealing_key", known.signing.public)):
        expect_problem(door.post(door.request(door.changed(member, to=key.hex()))), 409, "conflict")
    stolen = Client(home=fresh_home(market.service, door.document["participant"]))
    taken = door.changed("signing_key", to=known.signing.public.hex())
    expect_problem(door.post(door.request(taken, key=stolen.home.signing)), 403, "bad-signature")
    assert market.service.state() == before
    assert door.post(door.request()).status_code == 201, "none of this used the code up"


def test_what_belongs_to_others_is_answered_as_if_it_did_not_exist(market: Market, stranger: Market) -> None:
    job = market.clients["institute"].submit(market.request())["id"]
    outsider, absent = stranger.clients["institute"], "job-00000000000000000000"
    before = market.service.state()
    for path in ("/jobs/{}", "/jobs/{}/release", "/jobs/{}/receipt"):
        foreign, missing = get(outsider, path.format(job)), get(outsider, path.format(absent))
        expect_problem(foreign, 404, "not-found")
        assert foreign.content == missing.content
    foreign, missing = get(outsider, f"/agreements/{market.agreement}"), get(outsider, "/agreements/sha256:" + "0" * 64)
    expect_problem(foreign, 404, "not-found")
    assert foreign.content == missing.content
    request = DOORS["jobs"](stranger)
    asked = request.post(request.request(request.changed("agreement", to=market.agreement)))
    unknown = request.post(request.request(request.changed("agreement", to="sha256:" + "0" * 64)))
    expect_problem(asked, 404, "not-found")
    assert asked.content == unknown.content
    proposal = DOORS["signatures"](stranger)
    before = market.service.state()
    foreign = proposal.post(proposal.request(proposal.changed("agreement", to=market.agreement)))
    missing = proposal.post(proposal.request(proposal.changed("agreement", to="sha256:" + "0" * 64)))
    expect_problem(foreign, 404, "not-found")
    assert foreign.content == missing.content
    assert market.service.state() == before
    assert not {record["digest"] for record in outsider.agreements()} & {market.agreement}
    assert job not in {record["id"] for record in outsider.jobs()}


def test_a_party_who_did_not_ask_gets_no_release(market: Market) -> None:
    job = market.clients["institute"].submit(market.request())["id"]
    for role in ("insurer", "clinic", "auditor"):
        expect_problem(get(market.clients[role], f"/jobs/{job}/release"), 404, "not-found")
    expect_problem(get(market.clients["institute"], f"/jobs/{job}/release"), 409, "not-ready")
    expect_problem(get(market.clients["auditor"], f"/jobs/{job}/receipt"), 409, "not-ready")


def test_an_agreement_that_somebody_has_not_signed_allows_nothing(market: Market) -> None:
    proposal, request = DOORS["signatures"](market), DOORS["jobs"](market)
    before = market.service.state()
    document = request.changed("agreement", to=proposal.document["agreement"])
    expect_problem(request.post(request.request(document)), 409, "agreement-not-active")
    check = DOORS["jobs:check"](market)
    expect_problem(check.post(check.changed("request", "agreement", to=proposal.document["agreement"])), 409, "agreement-not-active")
    assert market.service.state() == before


def test_a_request_id_answers_the_same_request_and_no_other(market: Market) -> None:
    door = DOORS["jobs"](market)
    first = door.post(door.request())
    assert first.status_code == 201
    before = market.service.state()
    again = door.post(door.request())
    assert (again.status_code, again.json()) == (201, first.json())
    for change in (("sql", market.join_sql), ("purpose", "marketing"), ("loss", {"measure": "pure", "amount": 1, "delta0": 0})):
        expect_problem(door.post(door.request(door.changed(change[0], to=change[1]))), 409, "request-id")
    assert market.service.state() == before, "one charge"


def test_a_check_in_anothers_name_or_of_anothers_agreement_is_not_answered(market: Market, stranger: Market) -> None:
    door = DOORS["jobs:check"](market)
    before = market.service.state()
    expect_problem(door.post(door.changed("request", "consumer", to=market.name("insurer"))), 404, "not-found")
    expect_problem(door.post(door.changed("request", "agreement", to=stranger.agreement)), 404, "not-found")
    for amount in (0, -1, 100 * NANO + 1, "NaN", None):
        expect_problem(door.post(door.changed("request", "loss", "amount", to=amount)), 400, "malformed")
    for changes in ({"purpose": "marketing"}, {"epsilon": "50"}):
        answer = door.post({"request": encode(market.request(**changes))}).json()
        assert not answer["allowed"]
        assert answer["grant"] is None
    assert market.service.state() == before


@pytest.mark.parametrize(
    "name", ["x", "..", "%2e%2e%2fx", "a%00b", "a%0ab", "%ff", "a" * 3000, "x.y.z", "insurer_001.absent", "'; DROP TABLE jobs"]
)
def test_names_in_paths_that_name_nothing_are_not_found(market: Market, name: str) -> None:
    before = market.service.state()
    for path in ("/datasets/{}", "/agreements/{}", "/jobs/{}", "/jobs/{}/release", "/jobs/{}/receipt"):
        expect_problem(get(market.clients["institute"], path.format(name)), 404)
    challenge = Door(path=f"/key-requests/{name}/challenge", market=market, caller=market.clients["insurer"], document={"nonce": "ab" * 32})
    expect_problem(challenge.post(challenge.document), 404)
    assert market.service.state() == before


@pytest.mark.parametrize("path", ["/", "/api", "/api/v1", "/api/v1/", "/api/v1/jobs/", "/api/v1//jobs", "/api/v2/jobs", "/%00"])
def test_an_unknown_path_is_a_problem_too(market: Market, path: str) -> None:
    client = market.clients["institute"]
    expect_problem(get(client, path, below=""), 404)


def _bounds(door: Door, lower: Any, upper: Any) -> dict[str, Any]:
    document = door.changed("columns", 3, "lower", to=lower)
    document["columns"][3]["upper"] = upper
    return document


def _file_of(market: Market, dataset: str) -> str:
    from sandbox.store.schema import versions

    return str(next(row for row in market.service.rows(versions) if row["dataset"] == dataset)["file_digest"])


def _offer_of(door: Door, role: str) -> dict[str, Any]:
    digest_of = door.market.offers[1 if role == "clinic" else 0]
    offers = {record["digest"]: record for record in door.market.clients[role].offers()}
    return dict(offers[digest_of]["signed"]["body"])


def _constraints(door: Door, change: Callable[[list[Any]], list[Any]]) -> dict[str, Any]:
    permission = door.document["permission"][0]
    member = next(name for name, value in permission.items() if name == "constraint")
    held = permission[member]
    changed = change(held) if isinstance(held, list) else {**held, "and": change(held["and"])}
    return door.changed("permission", 0, member, to=changed)


def _also_party(door: Door, name: str) -> dict[str, Any]:
    party = {"id": name, "roles": ["auditor"], "signing_key": "ab" * 32, "sealing_key": "cd" * 32}
    return door.changed("sb:party", to=[*door.document["sb:party"], party])


def _without_party(door: Door, role: str) -> dict[str, Any]:
    name = door.market.name(role)
    return door.changed("sb:party", to=[party for party in door.document["sb:party"] if party["id"] != name])


def _without_institute(door: Door) -> dict[str, Any]:
    """An agreement of the insurer's dataset for another institute, handed in by one that is no party."""
    import copy

    document, name = copy.deepcopy(door.document), door.market.name("institute")
    text = _replace(document, name, door.market.name("auditor"))
    parties = {party["id"]: party for party in text["sb:party"]}
    auditor = next(p for p in door.document["sb:party"] if p["id"] == door.market.name("auditor"))
    parties[auditor["id"]] = {**auditor, "roles": ["consumer"]}
    text["sb:party"] = list(parties.values())
    assert digest(text) != digest(door.document)
    return text


def _replace(value: Any, old: str, new: str) -> Any:
    if isinstance(value, dict):
        return {key: _replace(item, old, new) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, old, new) for item in value]
    return new if value == old else value
