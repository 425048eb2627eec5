"""A call of a scoring service is a job: decided, metered by row, run in an enclave that alone reads the model, and replayed."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from enclaves.kit.appraisal import release_info
from enclaves.kit.offered import model_table
from policies.canonical import parse_json
from policies.codec import decode
from policies.conditions import RowQuota
from policies.errors import Malformed
from policies.grant import Grant, grant_digest
from policies.lint import lint_terms
from policies.plan import parse_plan
from policies.privacy import parse_epsilon
from policies.scoring import predicted
from policies.statement import Release, Statement
from sandbox.exchange.paging import Page
from sandbox.jobs.states import Job
from tests.audit.test_trained_jobs import TRAINING
from tests.support import scoring, terms
from tests.support.forge import Draft, drafts, find, forged, replayed
from tests.support.scoring import MODEL, NOTHING, PEOPLE, ROLES, SCORING, SQL, call
from tests.support.story import Story, begin, export

ROWS: list[tuple[int, int, int | None]] = [(7, 0, 0), (3, 25, 4), (12, 95, 20), (5, 0, None), (9, 25, 11), (1, 95, 2)]
GRID: list[tuple[int, int, int | None]] = [(10 * p + v, plan, v) for p, plan in enumerate((0, 25, 95)) for v in range(6)]
DAY_MS = 86_400_000


def told_story(folder: Path, **model: Any) -> tuple[Story, str]:
    """Everybody admitted, the model and the rows published, the agreement signed; returns its digest."""
    story = begin(folder)
    agreement = scoring.market(**model)
    story.agreement = story.sealed_agreement(parties=ROLES, declarations=agreement.declarations, terms=agreement.terms)
    for declaration, table in zip(agreement.declarations, (model_table(scoring.risk_model()), scoring.people_table(ROWS)), strict=True):
        story.declare(declaration)
        story.publish(declaration, table, 1)
    return story, story.agree(story.agreement)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A quota of 20 rows in 7 days: calls that fit, that do not, that are late enough to fit again, and that fail inside."""
    story, agreement = told_story(tmp_path_factory.mktemp("scored"), scored_rows=RowQuota(rows=20, days=7), score_decimals=3)

    def ask(label: str, sql: str = SQL, **changes: Any) -> None:
        request = {"scoring": SCORING, **changes}
        story.ask(label, agreement=agreement, sql=sql, loss=NOTHING, **request)

    ask("first", scoring=call(rows=12))
    ask("again", scoring=call(rows=12))
    ask("beyond", scoring=call(rows=9))
    ask("fewer", sql=f"{SQL} WHERE visits < 5", scoring=call(rows=3))
    ask("exact", scoring=call(rows=1, decimals=4))
    ask("others", scoring=call(rows=1), consumer="clinic")
    ask("too-many", scoring=call(rows=5))
    story.clock.at += 7 * DAY_MS
    ask("later", scoring=call(rows=20))
    story.clock.at += 7 * DAY_MS
    ask("mismatch", sql="SELECT person_id AS who, visits FROM institute.people", scoring=call(rows=6))
    return story


@pytest.fixture
def told(house: Story) -> list[Draft]:
    return drafts(house.host)


def released(story: Story, job: Job) -> Release:
    """What the asker opens."""
    assert isinstance(job.grant, Grant)
    with story.host.store.reading() as tx:
        found = tx.release(job.id)
    assert found is not None
    opened = story.firms[job.grant.recipient.id].sealing.open(found.sealed, release_info(grant_digest(job.grant)))
    return decode(Release, parse_json(opened[4 : 4 + int.from_bytes(opened[:4], "big")]))


def failed(job: Job) -> set[str]:
    return {finding.rule for finding in job.decision.findings if not finding.allowed}


def test_the_asker_gets_what_the_model_says_of_every_row_rounded_as_agreed(house: Story) -> None:
    release = released(house, house.jobs["first"])
    assert release.scores is not None
    assert release.scores.output == "probability"
    assert release.cells == ()
    model = scoring.risk_model()
    expected = {who: f"{predicted(model, {'plan': plan, 'visits': visits})[0]:.3f}" for who, plan, visits in ROWS}
    assert {score.row: score.values[0] for score in release.scores.scores} == expected
    assert [score.row for score in release.scores.scores] == sorted(expected)


def test_rows_are_counted_as_stated_within_the_time_that_counts_and_repeated_calls_are_free(house: Story) -> None:
    states = {label: job.state for label, job in house.jobs.items()}
    assert states == {
        "first": "released",
        "beyond": "denied",
        "fewer": "released",
        "exact": "denied",
        "others": "denied",
        "too-many": "withheld",
        "later": "released",
        "mismatch": "withheld",
        "again": "released",
    }
    assert house.jobs["again"].facts.repeats == house.jobs["first"].id
    assert failed(house.jobs["beyond"]) == {"scored_rows"}
    assert failed(house.jobs["exact"]) == {"score_decimals"}
    assert [house.jobs[label].facts.scored[0].rows for label in ("first", "beyond", "fewer", "too-many", "later")] == [0, 12, 12, 15, 0]
    assert (house.jobs["too-many"].code, house.jobs["mismatch"].code) == ("rows-exceeded", "model-mismatch")


def test_rows_are_scored_for_nobody_but_whom_they_belong_to(house: Story) -> None:
    assert "scoring" in failed(house.jobs["others"])


def test_a_model_that_may_be_asked_without_end_is_remarked() -> None:
    agreement = scoring.market()
    remarks = {remark.term for remark in lint_terms(agreement.terms[0], agreement.declarations[0])}
    assert "scored_rows" in remarks
    counted = replace(agreement.terms[0], scored_rows=RowQuota(rows=100))
    assert "scored_rows" not in {remark.term for remark in lint_terms(counted, agreement.declarations[0])}


def test_nothing_is_charged_to_any_ledger(house: Story) -> None:
    with house.host.store.reading() as tx:
        assert tx.spent() == {}


@pytest.mark.parametrize("party", ["insurer", "institute", "auditor"])
def test_the_log_replays(house: Story, party: str) -> None:
    verdict = replayed(export(house.host, party), house)
    assert verdict.ok, verdict.mismatches


@pytest.mark.parametrize("rows", ["1", None])
def test_a_charge_that_meters_other_rows_is_found(house: Story, told: list[Draft], rows: str | None) -> None:
    at = find(told, "charged")
    header = told[at].header
    ids = {name: value for name, value in {**header.ids, "rows": rows}.items() if value is not None}
    told[at] = replace(told[at], header=replace(header, ids=ids))
    verdict = forged(told, house)
    assert verdict.mismatches[0].index == at


@pytest.mark.parametrize("stated", [[], [{"dataset": MODEL, "rows": 0}], [{"dataset": PEOPLE, "rows": 12}]])
def test_a_decision_that_states_other_scored_rows_is_found(house: Story, told: list[Draft], stated: list[Any]) -> None:
    at = next(i for i, draft in enumerate(told) if draft.header.kind == "decided" and draft.header.ids["job"] == house.jobs["fewer"].id)
    told[at] = told[at].edited(lambda body: body["facts"].update(scored=stated))
    verdict = forged(told, house)
    assert verdict.mismatches[0].index == at


@pytest.mark.parametrize(
    "sql",
    ["SELECT COUNT(*) AS n FROM insurer.risk", "SELECT model AS n, COUNT(*) AS c FROM insurer.risk GROUP BY model"],
)
def test_the_model_is_read_by_no_query(sql: str) -> None:
    with pytest.raises(Malformed):
        parse_plan(sql, scoring.market().by_dataset)


def test_a_table_that_is_no_model_scores_nothing(tmp_path: Path) -> None:
    story = begin(tmp_path / "none")
    agreement = scoring.market()
    other = replace(agreement.declarations[0], columns=(*agreement.declarations[0].columns, terms.declaration_insurer().columns[1]))
    story.agreement = story.sealed_agreement(parties=ROLES, declarations=(other, agreement.declarations[1]), terms=agreement.terms)
    for declaration, table in ((other, None), (agreement.declarations[1], scoring.people_table(ROWS))):
        story.declare(declaration)
        if table is not None:
            story.publish(declaration, table, 1)
    job = story.ask("none", agreement=story.agree(story.agreement), sql=SQL, loss=NOTHING, scoring=SCORING)
    assert failed(job) == {"scoring", "version"}


@pytest.mark.parametrize("withheld", [False, True])
def test_rows_made_to_copy_the_model_are_told_of_and_withheld_where_agreed(tmp_path: Path, withheld: bool) -> None:
    story, agreement = told_story(tmp_path / "grid", withhold_probing=withheld)
    with story.host.store.transaction() as tx:
        for name in ("insurer", "institute", "auditor"):
            tx.set_webhook(name, "https://hooks.example/notices", 0)
    honest = story.ask("honest", agreement=agreement, sql=SQL, loss=NOTHING, scoring=SCORING)
    story.publish(scoring.people_declaration(), scoring.people_table(GRID), 2)
    job = story.ask("grid", agreement=agreement, sql=SQL, loss=NOTHING, scoring=SCORING)
    assert (job.state, job.code) == (("withheld", "probing") if withheld else ("released", ""))
    with story.host.store.reading() as tx:
        found = {}
        for asked in (honest, job):
            stored = tx.release(asked.id)
            assert stored is not None
            assert isinstance(stored.statement.statement, Statement)
            found[asked.id] = stored.statement.statement.probing
    assert found == {honest.id: "few", job.id: "suspected"}
    with story.host.store.reading() as tx:
        told = {
            name: {(n.kind, n.subject) for n in tx.notices(name, Page(limit=100)).items} for name in ("insurer", "institute", "auditor")
        }
    assert {name: ("probing", job.id) in kinds for name, kinds in told.items()} == {"insurer": True, "institute": False, "auditor": False}
    assert ("probing", honest.id) not in told["insurer"]
    assert replayed(export(story.host, "auditor"), story).ok


@pytest.mark.parametrize(
    "change",
    [{"scoring": call(rows=7), "loss": parse_epsilon("0.1")}, {"scoring": call(rows=7), "loss": NOTHING, "training": "any"}],
)
def test_a_call_asks_for_no_loss_and_trains_nothing(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        terms.request(sql=SQL, **{**change, **({"training": TRAINING} if "training" in change else {})})


@pytest.mark.parametrize("change", [{"rows": 0}, {"rows": 50_001}, {"decimals": -1}, {"decimals": 7}, {"model": "risk"}, {"by": "no name"}])
def test_calls_without_sense_are_refused(change: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        call(**change)


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT plan, visits FROM institute.people",
        "SELECT person_id AS who FROM institute.people",
        "SELECT person_id AS who, COUNT(*) AS visits FROM institute.people",
        f"{SQL} ORDER BY visits",
    ],
)
def test_queries_that_name_no_rows_or_no_features_are_refused(sql: str) -> None:
    with pytest.raises(Malformed):
        parse_plan(sql, scoring.market().by_dataset, scoring=SCORING)


def test_a_grid_cut_into_many_small_calls_is_found_at_the_first_and_ordinary_rows_are_not(tmp_path: Path) -> None:
    """Each call has fewer rows than anything could be said of; what is told apart is the version that they are cut from."""
    story, agreement = told_story(tmp_path, scored_rows=RowQuota(rows=100), score_decimals=2)
    draw = random.Random(7)
    ordinary = [(who, draw.choice((0, 0, 0, 25, 95)), draw.choice((0, 0, 0, 1, 1, 2, 3, 5, 8))) for who in range(300)]

    def words(label: str, cuts: list[str]) -> set[str]:
        found = set()
        for number, cut in enumerate(cuts):
            sql = f"{SQL} WHERE person_id < {cut}"
            job = story.ask(f"{label}-{number}", agreement=agreement, sql=sql, loss=NOTHING, scoring=call(rows=7, decimals=2))
            assert job.state == "released"
            with story.host.store.reading() as tx:
                release = tx.release(job.id)
            assert release is not None
            assert isinstance(release.statement.statement, Statement)
            found.add(str(release.statement.statement.probing))
        return found

    story.publish(scoring.people_declaration(), scoring.people_table(ordinary), 2)
    assert words("ordinary", ["5", "6", "7"]) == {"none"}
    story.publish(scoring.people_declaration(), scoring.people_table(GRID), 3)
    assert words("grid", ["3 OR person_id > 24", "4", "2 OR person_id = 12"]) == {"suspected"}
    story.host.store.close()
