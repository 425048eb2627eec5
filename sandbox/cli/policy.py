"""`sandbox policy`: what terms mean, what is wrong with them, and what would change."""

from __future__ import annotations

import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from policies.errors import Malformed
from sandbox.cli.show import json_option, print_json, table

if TYPE_CHECKING:
    from policies.agreement import Agreement, Offer

_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_DAY = click.DateTime(formats=["%Y-%m-%d"])
_FOLDER = click.Path(path_type=Path, exists=True, file_okay=False)


@click.group()
def policy() -> None:
    """Terms of agreements: what they mean, what is wrong with them, what would change."""


@policy.command("terms")
@json_option
def policy_terms(as_json: bool) -> None:
    """List every term of the vocabulary with what enforces it.

    \b
    Example: sandbox policy terms
    """
    from policies.codec import encode
    from policies.vocabulary import TERMS

    if as_json:
        print_json([encode(term) for term in TERMS])
        return
    table(("term", "value", "holds if"), [(f"{term.name} {term.operator}".strip(), term.value, term.meaning) for term in TERMS])


@policy.command("profile")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def policy_profile(folder: Path) -> None:
    """Write the published profile into FOLDER: context, JSON Schema, the table of terms and a page for each.

    \b
    Example: sandbox policy profile policies/profile
    """
    from sandbox.web.profile import profile_files

    for name, text in profile_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


@policy.command("odrl-suite")
@click.argument("folder", type=_FOLDER)
@json_option
def policy_odrl_suite(folder: Path, as_json: bool) -> None:
    """Evaluate the test cases of FOLDER, laid out like the ODRL-Test-Suite: policies, requests, sotw, cases, in Turtle.

    `activation_ok` counts cases in which exactly the expected rules are active, `report_ok` those whose whole report is the expected one.

    \b
    Example: sandbox policy odrl-suite ODRL-Test-Suite/data --json
    """
    from policies.codec import encode
    from sandbox.audit.odrl_suite import parse_turtle, run_suite

    files = {part.name: [(p.name, _text(p)) for p in sorted(part.rglob("*.ttl"))] for part in sorted(folder.iterdir()) if part.is_dir()}
    outcome = run_suite(files, parse_turtle)
    if as_json:
        print_json(encode(outcome))
        return
    for failure in outcome.failures:
        click.echo(f"{failure['case']}: {failure['what']}", err=True)
    click.echo(
        f"{outcome.cases} cases; rules active as expected in {outcome.activation_ok}; whole report as expected in {outcome.report_ok}"
    )


@policy.command("lint")
@click.argument("terms", type=_FILE)
@json_option
def policy_lint(terms: Path, as_json: bool) -> None:
    """Say what is suspicious in TERMS, an agreement or offer as YAML or ODRL JSON: rules that can never decide, contradictions, terms that
    admit everything. Exit code 3 if something is.

    \b
    Example: sandbox policy lint study.yaml
    """
    from policies.agreement import Agreement
    from policies.codec import encode
    from policies.lint import lint, lint_terms

    found = _terms(terms)
    remarks = lint(found) if isinstance(found, Agreement) else lint_terms(found.terms, found.declaration)
    if as_json:
        print_json([encode(remark) for remark in remarks])
    elif remarks:
        table(("remark", "terms on", "term", ""), [(r.kind, r.dataset or "several", r.term, r.message) for r in remarks])
    else:
        click.echo("nothing is suspicious, which proves nothing")
    if remarks:
        sys.exit(3)


@policy.command("diff")
@click.argument("before", type=_FILE)
@click.argument("after", type=_FILE)
@json_option
def policy_diff(before: Path, after: Path, as_json: bool) -> None:
    """Say which requests two agreements, BEFORE and AFTER, decide otherwise; requests are tried at every boundary that either draws.

    \b
    Example: sandbox policy diff study.yaml study-2.yaml
    """
    from policies.codec import encode
    from policies.contrast import contrast

    tried, changed = contrast(_agreement(before), _agreement(after))
    if as_json:
        print_json({"tried": tried, "changed": [encode(item) for item in changed]})
        return
    words = {True: "allowed", False: "denied"}
    rows = [(item.request, words[item.before], words[item.after], ", ".join(item.rules)) for item in changed]
    if rows:
        table(("request", "before", "after", "denied by"), rows)
    click.echo(f"{len(changed)} of {tried} requests are decided otherwise; requests that were not tried may be, too")


@policy.command("backtest")
@click.argument("candidate", type=_FILE)
@click.argument("log", type=_FOLDER)
@click.option("--agreement", "name", help="Digest of the agreement that CANDIDATE replaces; by default those with its uid.")
@click.option("--key", "vkey", help="Verifier key of the log; by default the one in the export.")
@json_option
def policy_backtest(candidate: Path, log: Path, name: str | None, vkey: str | None, as_json: bool) -> None:
    """Decide the history in LOG, an exported folder, anew under the agreement CANDIDATE, and list every decision that would differ.

    Ledgers and uses are carried forward as they would have become. Exit code 3 if a decision differs.

    \b
    Example: sandbox policy backtest stricter.yaml ~/export
    """
    from policies.codec import encode
    from sandbox.audit.backtest import history_under
    from sandbox.audit.checkpoint import LogKey
    from sandbox.audit.export import Export

    export = Export(read=lambda path: (log / path).read_bytes())
    found = history_under(export, LogKey.parse(vkey) if vkey else export.log_key(), _agreement(candidate), name)
    if as_json:
        print_json(encode(found))
    else:
        words = {True: "allowed", False: "denied"}
        rows = [(str(d.index), d.job, words[d.logged], words[d.candidate], "; ".join(d.why)) for d in found.differ]
        if rows:
            table(("entry", "job", "logged", "candidate", "denied by"), rows)
        click.echo(f"{len(found.differ)} of {found.decisions} decisions differ; {found.unopened} are unopened, {len(found.unread)} unread")
    if found.differ:
        sys.exit(3)


@policy.command("compile")
@click.argument("form", type=_FILE)
def policy_compile(form: Path) -> None:
    """Print the ODRL document that FORM, an offer or agreement as YAML, spells; unsigned.

    \b
    Example: sandbox policy compile study.yaml > study.json
    """
    from sandbox.party.term_forms import compiled

    print_json(compiled(_read(form)))


@policy.command("form")
@click.argument("document", type=_FILE)
def policy_form(document: Path) -> None:
    """Print DOCUMENT, an offer or agreement in ODRL JSON, as compact YAML; `policy compile` gives the same document back.

    \b
    Example: sandbox policy form study.json
    """
    from sandbox.party.term_forms import form_of, to_yaml

    click.echo(to_yaml(form_of(_read(document))), nl=False)


@policy.command("digest")
@click.argument("terms", type=_FILE)
@click.option("--sql", required=True, help="The query.")
@json_option
def policy_digest(terms: Path, sql: str, as_json: bool) -> None:
    """Print the digests under which TERMS can pre-approve a query: of its plan, and of the plan without its constants.

    \b
    Example: sandbox policy digest offer.yaml --sql "SELECT COUNT(*) AS n FROM insurer.plans WHERE year = 1"
    """
    from policies.agreement import Agreement
    from policies.plan import parse_plan
    from policies.questions import plan_digest, template_digest

    found = _terms(terms)
    declarations = found.by_dataset if isinstance(found, Agreement) else {found.declaration.dataset: found.declaration}
    plan = parse_plan(sql, declarations)
    digests = {"plan": plan_digest(plan), "template": template_digest(plan)}
    if as_json:
        print_json(digests)
        return
    for kind, digest in digests.items():
        click.echo(f"{kind} {digest}")


@policy.command("templates")
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="Of what people read.")
@json_option
def policy_templates(language: str, as_json: bool) -> None:
    """List the templates of terms for common cases.

    \b
    Example: sandbox policy templates --language zh
    """
    from sandbox.party.term_templates import TEMPLATES

    rows = [(template.name, template.title[language], template.about[language]) for template in TEMPLATES.values()]
    if as_json:
        print_json([{"name": name, "title": title, "about": about} for name, title, about in rows])
    else:
        table(("template", "title", ""), rows)


@policy.command("fill")
@click.argument("template")
@click.option("--declaration", type=_FILE, help="YAML form of the declaration.")
@click.option("--model", help="Instead of a declaration: the dataset under which a model is to be offered, for `scoring-service`.")
@click.option("--uid", required=True, help="Short name of the offer: a-z, 0-9, _ and -.")
@click.option("--consumer", "consumers", multiple=True, required=True, help="Who may ask and receive; repeat for several.")
@click.option("--purpose", "purposes", multiple=True, required=True, help="Repeat for several.")
@click.option("--from", "begins", type=_DAY, required=True, help="The day (UTC) from whose beginning the terms hold.")
@click.option("--until", "ends", type=_DAY, required=True, help="The day (UTC) at whose beginning they end.")
@click.option("--pre-approved", "digests", multiple=True, help="For templates that ask fixed queries only: digests (`policy digest`).")
@click.option("--language", type=click.Choice(["en", "zh"]), default="en", show_default=True, help="Of what people read.")
def policy_fill(
    template: str,
    declaration: Path | None,
    model: str | None,
    uid: str,
    consumers: tuple[str, ...],
    purposes: tuple[str, ...],
    begins: datetime,
    ends: datetime,
    digests: tuple[str, ...],
    language: str,
) -> None:
    """Print an offer form for `sandbox offer make` from TEMPLATE, with a comment on each term. Look at every line before you sign.

    \b
    Example: sandbox policy fill report --declaration plans.yaml --uid report --consumer institute --purpose research
               --from 2026-01-01 --until 2027-01-01
             sandbox policy fill scoring-service --model insurer.risk --uid risk --consumer institute --purpose research
               --from 2026-01-01 --until 2027-01-01 > risk.yaml   # the terms for `sandbox model offer`
    """
    from policies.service import model_declaration
    from sandbox.party.forms import declaration_of, read_form
    from sandbox.party.term_templates import Wanted, filled

    wanted = Wanted(uid=uid, consumers=consumers, purposes=purposes, begins=begins.date(), ends=ends.date(), pre_approved=digests)
    if (declaration is None) == (model is None):
        raise Malformed("give either --declaration or, for a model, --model")
    table = model_declaration(str(model), str(model)) if declaration is None else declaration_of(read_form(declaration))
    click.echo(filled(template, table, wanted, language), nl=False)


def _read(path: Path) -> Any:
    from sandbox.party.forms import read_form

    return read_form(path)


def _terms(path: Path) -> Agreement | Offer:
    """An agreement or offer, as YAML or as ODRL JSON. Raises Malformed."""
    from policies.odrl import parse_agreement, parse_offer
    from sandbox.party.term_forms import compiled

    value = _read(path)
    document = value if "@type" in value else compiled(value)
    return parse_offer(document) if document["@type"] == "Offer" else parse_agreement(document)


def _agreement(path: Path) -> Agreement:
    from policies.agreement import Agreement

    found = _terms(path)
    if not isinstance(found, Agreement):
        raise Malformed(f"{path.name} must be an agreement")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Malformed(f"{path.name} is not readable text") from error
