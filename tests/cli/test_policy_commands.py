"""`sandbox policy`: files in, files out, exit codes; every template makes an offer that draws no remark but what it says."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result

from policies.decide import decide
from policies.lint import lint_terms
from policies.odrl import agreement_document, offer_document, parse_offer
from policies.plan import plan_of
from policies.privacy import parse_loss
from policies.request import UsesFact
from policies.service import model_declaration
from policies.training import Input, Linear, Training
from sandbox.cli import cli
from sandbox.party.term_forms import declaration_form, form_of, offer_of, to_yaml
from sandbox.party.term_templates import TEMPLATES, Wanted, filled
from tests.support import terms as standard
from tests.support.story import Story, export, tell


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, ["policy", *map(str, arguments)], catch_exceptions=True)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(to_yaml(form_of(agreement_document(standard.agreement()))), encoding="utf-8")
    return path


def test_a_form_compiles_to_the_document_and_back(study: Path, tmp_path: Path) -> None:
    document = tmp_path / "study.json"
    document.write_text(run("compile", study).stdout, encoding="utf-8")
    assert json.loads(document.read_text(encoding="utf-8")) == agreement_document(standard.agreement())
    assert run("form", document).stdout == study.read_text(encoding="utf-8")


def test_lint_says_nothing_or_ends_with_3(study: Path) -> None:
    assert run("lint", study).exit_code == 0
    study.write_text(study.read_text(encoding="utf-8").replace("minimum_group: 10", "minimum_group: 1"), encoding="utf-8")
    found = run("lint", study, "--json")
    assert found.exit_code == 3
    assert [remark["term"] for remark in json.loads(found.stdout)] == ["minimum_group"]


def test_diff_names_requests(study: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(study.read_text(encoding="utf-8").replace("- actuarial-review", "- audit"), encoding="utf-8")
    found = json.loads(run("diff", study, other, "--json").stdout)
    assert found["changed"]
    assert run("diff", study, study).stdout.startswith("0 of ")


def test_digests_of_a_query_forget_its_constants(study: Path) -> None:
    def digests(year: int) -> dict[str, str]:
        sql = f"SELECT COUNT(*) AS n FROM insurer.plans WHERE year = {year}"
        found: dict[str, str] = json.loads(run("digest", study, "--sql", sql, "--json").stdout)
        return found

    assert digests(1)["template"] == digests(2)["template"]
    assert digests(1)["plan"] != digests(2)["plan"]


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Story:
    return tell(tmp_path_factory.mktemp("host"))


def test_backtest_lists_what_differs_and_ends_with_3(told: Story, tmp_path: Path) -> None:
    assert told.agreement is not None
    for path, data in export(told.host, "insurer").items():
        (tmp_path / "log" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "log" / path).write_bytes(data)
    same, stricter = tmp_path / "same.yaml", tmp_path / "stricter.yaml"
    text = to_yaml(form_of(agreement_document(told.agreement)))
    same.write_text(text, encoding="utf-8")
    stricter.write_text(text.replace("epsilon_per_job: 1", "epsilon_per_job: 0.3"), encoding="utf-8")
    assert run("backtest", same, tmp_path / "log").exit_code == 0
    found = run("backtest", stricter, tmp_path / "log", "--json")
    assert found.exit_code == 3
    assert [item["job"] for item in json.loads(found.stdout)["differ"]] == [told.jobs["released"].id]


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_every_template_makes_an_offer_that_means_what_it_says(name: str, language: str, tmp_path: Path) -> None:
    public = {"public": True, "unit": "", "id_space": "", "rows_per_unit": 1} if name == "public-data" else {}
    declaration = standard.declaration_insurer(**public)
    form = tmp_path / "declaration.yaml"
    form.write_text(to_yaml(declaration_form(declaration)), encoding="utf-8")
    on = ("--declaration", str(form))
    if TEMPLATES[name].model:
        declaration, on = model_declaration("insurer.risk", "Risk"), ("--model", "insurer.risk")
    fixed = ("--pre-approved", standard.digest_of("a query")) if TEMPLATES[name].fixed else ()
    who = ("--uid", "offer", "--consumer", "institute", "--purpose", "research", "--from", "2026-01-01", "--until", "2027-01-01")
    done = run("fill", name, *on, *who, *fixed, "--language", language)
    assert done.exit_code == 0, done.output
    offer = offer_of(yaml.safe_load(done.stdout), declaration, standard.MEASUREMENT)
    assert parse_offer(json.loads(json.dumps(offer_document(offer)))) == offer
    assert lint_terms(offer.terms, declaration) == ()
    assert all(line.startswith("  #") or ":" in line or line.startswith("#") for line in done.stdout.splitlines())
    assert run("templates", "--language", language).exit_code == 0


def test_terms_of_the_training_template_allow_a_training_and_no_figures_and_those_for_figures_no_training(tmp_path: Path) -> None:
    declaration = standard.declaration_insurer()
    wanted = Wanted(uid="offer", consumers=("institute",), purposes=("research",), begins=date(2026, 1, 1), ends=date(2027, 1, 1))
    sql = "SELECT coinsurance AS plan, medical_spend AS spend FROM insurer.plans WHERE female = 1"
    plan_input, spend = Input(column="plan", encoding="categories"), Input(column="spend", encoding="scaled")
    training = Training(learner=Linear(clip="1"), features=(plan_input,), label=spend)
    asked = standard.request(purpose="research", sql=sql, loss=parse_loss("zcdp", "0.1"), training=training)
    count = replace(asked, sql=standard.COUNT_SQL, training=None)
    denied = {}
    for name in ("model-training", "model-from-moments"):
        offer = offer_of(yaml.safe_load(filled(name, declaration, wanted, "en")), declaration, standard.MEASUREMENT)
        agreement = standard.agreement(terms=(offer.terms, standard.terms_clinic()))
        for label, request in (("training", asked), ("count", count)):
            uses = (UsesFact(provider="insurer", jobs=0, own=0),)
            facts = standard.facts(approved_by=("insurer",), uses=uses)
            decision = decide(request, agreement, plan_of(request, agreement.by_dataset), facts)
            denied[name, label] = {finding.rule for finding in decision.findings if not finding.allowed}
    assert denied == {
        ("model-training", "training"): set(),
        ("model-training", "count"): {"output_kinds"},
        ("model-from-moments", "training"): {"output_kinds", "columns"},
        ("model-from-moments", "count"): set(),
    }


def test_a_template_for_the_other_kind_of_table_is_refused(tmp_path: Path) -> None:
    form = tmp_path / "declaration.yaml"
    form.write_text(to_yaml(declaration_form(standard.declaration_insurer())), encoding="utf-8")
    who = ("--uid", "offer", "--consumer", "institute", "--purpose", "research", "--from", "2026-01-01", "--until", "2027-01-01")
    for name, more in (
        ("public-data", ()),
        ("nothing", ()),
        ("report", ()),
        ("aggregate-statistics", ("--pre-approved", standard.digest_of("q"))),
    ):
        assert run("fill", name, "--declaration", form, *who, *more).exception is not None
