"""The story: two firms that may not show each other their data get a joint statistic, and an auditor checks all of it offline."""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table

from enclaves.kit.measure import checkout_root, measurement
from enclaves.kit.sources import read_table
from policies.agreement import LogIdentity
from policies.declaration import Declaration
from policies.errors import BudgetExhausted, Malformed, PolicyRefused
from policies.isolation import LAYERS, lacking
from policies.privacy import parse_epsilon
from policies.request import JobRequest
from sandbox.audit.checkpoint import LogKey
from sandbox.audit.replay import replay
from sandbox.cli.audit import show_verdict
from sandbox.cli.market import show_agreement
from sandbox.cli.releases import statistics_table
from sandbox.cli.show import console, findings_table, table
from sandbox.demo.attacks import flip_in_charge, leaks, rewind, secrets_of, snapshot
from sandbox.demo.stage import Stage, expect
from sandbox.demo.truth import cells as true_cells
from sandbox.party.agreeing import compose
from sandbox.party.client import Client
from sandbox.party.exporting import export_log
from sandbox.party.forms import declaration_of, read_form
from sandbox.party.home import Home
from sandbox.party.publish import publish
from sandbox.party.term_forms import offer_of
from sandbox.party.verify import OpenedRelease

QUERY = """SELECT plans.coinsurance,
       COUNT(*)                 AS person_years,
       AVG(care.doctor_visits)  AS mean_visits,
       AVG(plans.medical_spend) AS mean_spending
FROM insurer.plans AS plans JOIN clinic.care AS care USING (person_id, year)
GROUP BY plans.coinsurance"""

FORBIDDEN = """SELECT plans.female, AVG(care.doctor_visits) AS mean_visits
FROM insurer.plans AS plans JOIN clinic.care AS care USING (person_id, year)
GROUP BY plans.female"""

VARIED = (
    "SELECT year, AVG(doctor_visits) AS mean_visits FROM clinic.care JOIN insurer.plans USING (person_id, year) GROUP BY year",
    "SELECT COUNT(*) AS women FROM insurer.plans JOIN clinic.care USING (person_id, year) WHERE female = 1 AND age < 40",
    "SELECT coinsurance, SUM(medical_spend) AS total FROM insurer.plans JOIN clinic.care USING (person_id, year) GROUP BY coinsurance",
    "SELECT AVG(doctor_visits) AS visits FROM clinic.care JOIN insurer.plans USING (person_id, year) WHERE coinsurance = 95",
)
MAIN_EPSILON, VARIED_EPSILON = "2.4", "0.25"
CAST = {
    "insurer": "First Mutual Insurance",
    "clinic": "Riverside Clinic Network",
    "institute": "Institute for Health Economics",
    "auditor": "Assured Audit",
}
FURTHEST = 9.0
"""Half widths of an interval: that far off noise of Laplace is with probability e^-27."""
WIDEST = {"person_years": 0.05, "mean_visits": 0.25, "mean_spending": 0.50}


@dataclass
class Story:
    """The demo's state from step to step."""

    stage: Stage
    clients: dict[str, Client] = field(default_factory=dict)
    declarations: dict[str, Declaration] = field(default_factory=dict)
    files: dict[str, str] = field(default_factory=dict)
    offers: list[str] = field(default_factory=list)
    agreement: str = ""
    log: LogIdentity = field(default_factory=lambda: LogIdentity(origin="unknown", key="0" * 64))
    release: list[dict[str, Any]] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Tell the reader what happens and why."""
        self.stage.console.print(text, highlight=False)

    def chapter(self, number: int, title: str) -> None:
        """Begin a step."""
        self.stage.console.print()
        self.stage.console.rule(f"[bold]{number}. {title}[/bold]", align="left")


def tell(*, report: Path | None, keep: Path | None) -> bool:
    """Play the whole story; returns whether every check passed. Writes the outcome to `report` and keeps all folders in `keep`."""
    folder = Path(tempfile.mkdtemp(prefix="sandbox-demo-"))
    stage = Stage(folder=folder, console=console())
    story, started = Story(stage=stage), time.monotonic()
    try:
        for step in (service, participants, datasets, agree, ask, show, forbidden, exhaust, audit):
            step(story)
    except Exception:  # noqa: BLE001 - the failed check has been shown; what remains is to clean up and report
        stage.console.print("[red]the story ends here[/red]")
    finally:
        stage.stop()
        outcome = {"ok": stage.ok, "checks": stage.checks, "release": story.release, "loss": {"epsilon": float(MAIN_EPSILON), "delta": 0.0}}
        if report is not None:
            report.write_text(json.dumps(outcome, indent=2) + "\n", encoding="utf-8")
        if keep is not None:
            shutil.copytree(folder, keep, dirs_exist_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
    passed = sum(bool(check["ok"]) for check in stage.checks)
    stage.console.print(f"\n{passed} of {len(stage.checks)} checks passed in {time.monotonic() - started:.0f} s")
    return stage.ok


def service(story: Story) -> None:
    """Step 1."""
    story.chapter(1, "The service")
    story.say(
        "An operator runs the service: gunicorn, a worker and an embedded SQLite, data in a fresh folder. It will never see plaintext."
    )
    with story.stage.check("service and worker answer on a free loopback port"):
        story.stage.start_service()


def participants(story: Story) -> None:
    """Step 2."""
    story.chapter(2, "Four participants")
    story.say("Each makes its own keys at home and is admitted with a one-time code. Private keys never leave a home; all talk HTTP only.")
    with story.stage.check("insurer, clinic, institute and auditor are admitted"):
        for name, title in CAST.items():
            code = story.stage.run("admin", "admit", name).strip()
            client = Client(home=Home.create(story.stage.folder / "homes" / name, name, title, story.stage.url))
            client.join(code)
            story.clients[name] = client
    for name in ("insurer", "clinic"):
        story.stage.start(f"broker-{name}", "party", "broker", "--home", str(story.clients[name].home.folder))
    story.say("Insurer and clinic each start a key broker at home: a process of their own that will decide about their keys.")


def datasets(story: Story) -> None:
    """Step 3."""
    story.chapter(3, "Encrypted at home, then uploaded")
    examples, data = checkout_root() / "examples" / "rand_hie", checkout_root() / "examples" / "data"
    with story.stage.check("the service refuses a plaintext upload"):
        try:
            story.clients["insurer"].upload(data / "insurer.parquet")
        except Malformed as error:
            expect(error.code == "plaintext-upload", f"refused as {error.code}")
        else:
            raise AssertionError("a plaintext file was accepted")
    rows = []
    for name in ("insurer", "clinic"):
        with story.stage.check(f"{name} declares bounds, encrypts with one fresh key per column and uploads"):
            declaration = declaration_of(read_form(examples / f"{name}.declaration.yaml"))
            version = publish(story.clients[name], declaration, read_table(data / f"{name}.parquet", declaration))
            story.declarations[name] = declaration
            story.files[declaration.dataset] = version["file_digest"]
        rows.append(
            (declaration.dataset, declaration.unit, declaration.rows_per_unit, len(declaration.columns), f"{version['size']:,} bytes")
        )
    table(("dataset", "privacy unit", "rows per unit", "columns", "encrypted"), rows)


def agree(story: Story) -> None:
    """Step 4."""
    story.chapter(4, "One agreement")
    examples = checkout_root() / "examples" / "rand_hie"
    own = measurement(checkout_root())
    with story.stage.check("insurer and clinic make signed offers"):
        for name in ("insurer", "clinic"):
            form = read_form(examples / f"{name}.offer.yaml")
            story.offers.append(story.clients[name].offer(offer_of(form, story.declarations[name], own))["digest"])
    with story.stage.check("the institute composes an agreement from both and proposes it"):
        composed = compose(story.clients["institute"], "rand-hie-study", "Coinsurance and use of care", story.offers, ["auditor"])
        story.agreement = story.clients["institute"].propose(composed)["digest"]
        story.log = composed.log
    show_agreement(composed)
    with story.stage.check("every party sees the fingerprints and signs"):
        for client in story.clients.values():
            seen, _ = client.agreement(story.agreement)
            expect(seen == composed, "a party was shown another agreement")
            state = client.sign_agreement(story.agreement)["state"]
        expect(state == "active", f"the agreement is {state}")
    snapshot(story.stage.data / "sandbox.sqlite3", story.stage.folder / "before-the-charge.sqlite3")


def request(story: Story, sql: str, epsilon: str, name: str) -> JobRequest:
    """A request of the institute's."""
    return JobRequest(
        request_id=f"demo-{name}",
        agreement=story.agreement,
        consumer="institute",
        purpose="health-economics",
        sql=sql,
        loss=parse_epsilon(epsilon),
    )


def ask(story: Story) -> None:
    """Step 5."""
    story.chapter(5, "The job")
    institute, stage = story.clients["institute"], story.stage
    story.say(QUERY)
    with stage.check("decided, charged on both ledgers, run in an enclave"):
        job = institute.submit(request(story, QUERY, MAIN_EPSILON, "main-question"))
        job = institute.wait(job["id"], 60.0)
        expect(job["state"] == "released", f"the job is {job['state']} ({job['code']})")
    findings_table(job["decision"]["findings"])
    statistics_table(job["grant"]["statistics"])
    for ledger in institute.ledgers():
        story.say(f"  charge: ledger {ledger['provider']}/{ledger['id_space']} has paid epsilon {ledger['spent']['amount'] / 1e9:g} of 3")
    evidence = job["evidence"]["evidence"]
    story.say(f"  evidence: {evidence['kind']} ({job['trust']});")
    story.say(f"            measurement {evidence['measurement'][:26]}..., bound to the grant and to both brokers' nonces")
    story.say(f"  isolation: {', '.join(evidence.get('isolation', ()))}{_missing(evidence)}")
    with stage.check("both brokers released only the granted columns' keys, each from its own process"):
        for name in ("insurer", "clinic"):
            notes = [json.loads(line) for line in (story.clients[name].home.folder / "journal.jsonl").read_text().splitlines()]
            released = [note for note in notes if note["event"] == "released" and note["job"] == job["id"]]
            granted = {read["dataset"]: sorted([*read["columns"], "_footer"]) for read in job["grant"]["reads"] if read["provider"] == name}
            expect(len(released) == 1 and released[0]["columns"] == granted, f"{name}'s broker released {released}")
            story.say(f"  key release by {name}: {', '.join(c for c in released[0]['columns'][next(iter(granted))] if c != '_footer')}")


def show(story: Story) -> None:
    """Step 6."""
    story.chapter(6, "The release")
    institute = story.clients["institute"]
    job = next(job for job in institute.jobs() if job["signed"]["body"]["request_id"] == "demo-main-question")
    with story.stage.check("the institute's client verified log, receipt and enclave signature, then opened the release"):
        release, receipt = institute.release(job["id"])
    data = checkout_root() / "examples" / "data"
    truth = true_cells((data / "insurer.parquet", story.declarations["insurer"]), (data / "clinic.parquet", story.declarations["clinic"]))
    shown = Table(header_style="bold", title="True values are shown only because this data set is public", title_justify="left")
    for column in ("coinsurance", "cell", "value", "95 % interval", "truth on bounds", "inside", "clamping bias"):
        shown.add_column(column, justify="left" if column == "cell" else "right")
    for rate, name, value, low, high in figures(release):
        true = truth[rate, name]
        hit = low <= true.bounded <= high
        story.release.append({"coinsurance": rate, "cell": name, "value": value, "low": low, "high": high, "truth": true.bounded})
        shown.add_row(
            f"{rate} %", name, f"{value:,.2f}", f"{low:,.2f} to {high:,.2f}", f"{true.bounded:,.2f}", "yes" if hit else "no",
            f"{true.bounded - true.raw:+,.2f}",
        )  # fmt: skip
    story.stage.console.print(shown)
    story.say(f"  entry {receipt.index} of the log; loss epsilon {release.loss.epsilon}, delta 0, privacy unit: a person")
    with story.stage.check("no cell lies further from the truth than nine times the half width of its interval"):
        for row in story.release:
            half = max(row["high"] - row["value"], row["value"] - row["low"])
            expect(abs(row["value"] - row["truth"]) <= FURTHEST * half, f"{row['cell']} at {row['coinsurance']} %: {row['value']:.2f}")
        expect(len(story.release) == 15, f"{len(story.release)} cells")
    with story.stage.check("intervals are at most 5 % (counts), 25 % (visits) and 50 % (spending) wide to each side"):
        for row in story.release:
            half = (row["high"] - row["low"]) / 2
            expect(half <= WIDEST[row["cell"]] * row["truth"], f"{row['cell']} at {row['coinsurance']} %: {half:.2f}")
    with story.stage.check("the host's disk holds no plaintext cell, data key or private key"):
        spending = [
            v for v in read_table(data / "insurer.parquet", story.declarations["insurer"]).column("medical_spend").to_pylist() if v
        ][:600]
        known = [
            s for name in CAST for s in secrets_of(story.clients[name].home, [(d, f) for d, f in story.files.items() if d.startswith(name)])
        ]
        expect(not (found := leaks(story.stage.data, known, spending)), f"found in {found}")


def figures(release: OpenedRelease) -> list[tuple[int, str, float, float, float]]:
    """(coinsurance, name, value, low, high) of every figure."""
    return [
        (int(str(cell.keys[0])), figure.name, float(figure.value), float(figure.low), float(figure.high))
        for cell in release.cells
        for figure in cell.figures
    ]


def forbidden(story: Story) -> None:
    """Step 7."""
    story.chapter(7, "A question that the agreement forbids")
    story.say(FORBIDDEN)
    with story.stage.check("refused, naming the rule, the column and the smallest change that would pass"):
        try:
            story.clients["institute"].submit(request(story, FORBIDDEN, "0.5", "forbidden-column"))
        except PolicyRefused as error:
            failed = error.findings
        else:
            raise AssertionError("the forbidden question was allowed")
        expect(all(f["column"] == "insurer.plans.female" and f["remedy"] for f in failed), "the refusal does not explain itself")
    findings_table(failed)


def exhaust(story: Story) -> None:
    """Step 8."""
    story.chapter(8, "Until the budget is exhausted")
    institute = story.clients["institute"]
    with story.stage.check(f"varied questions at epsilon {VARIED_EPSILON} each are answered until the ledgers cannot pay, then refused"):
        answered, refusal = 0, None
        for number, sql in enumerate(VARIED):
            before = institute.ledgers()
            try:
                job = institute.submit(request(story, sql, VARIED_EPSILON, f"varied-{number}"))
            except BudgetExhausted as error:
                refusal = error
                expect(institute.ledgers() == before, "the refusal charged a ledger")
                break
            state = institute.wait(job["id"], 60.0)["state"]
            expect(state == "released", f"question {number + 1} is {state}")
            institute.release(job["id"])
            answered += 1
        expect(refusal is not None and answered == 2, f"{answered} questions were answered")
    assert refusal is not None
    findings_table(refusal.findings)
    story.say(f"  {answered} more questions were answered; the refused one was logged and charged nothing")


def audit(story: Story) -> None:
    """Step 9."""
    story.chapter(9, "The auditor, offline")
    stage, auditor = story.stage, story.clients["auditor"]
    export, key = stage.folder / "export", LogKey(name=story.log.origin, public=bytes.fromhex(story.log.key))
    with stage.check("the auditor exports the log"):
        size = export_log(auditor, export, story.log)
    with stage.check("replay re-derives every decision and charge from export and openings alone"):
        verdict = replay(lambda path: (export / path).read_bytes(), key)
        expect(verdict.ok, f"{len(verdict.mismatches)} mismatches, first {verdict.mismatches[:1]}")
    show_verdict(verdict)
    with stage.check("one flipped byte in a copy: the replay names the broken entry"):
        forged = stage.folder / "forged"
        shutil.copytree(export, forged)
        index = flip_in_charge(forged, size)
        broken = replay(lambda path: (forged / path).read_bytes(), key)
        expect(not broken.ok and any(m.index == index for m in broken.mismatches), "the flipped byte was not found")
    story.say(f"  {broken.mismatches[0].kind} entry {broken.mismatches[0].index}: {broken.mismatches[0].what}")
    with stage.check("the host rewinds its database to before the charge: the brokers refuse"):
        stage.stop("web", "worker")
        rewind(stage.data / "sandbox.sqlite3", stage.folder / "before-the-charge.sqlite3")
        stage.start_service()
        job = story.clients["institute"].submit(request(story, QUERY, MAIN_EPSILON, "after-the-rewind"))
        job = story.clients["institute"].wait(job["id"], 60.0)
        expect(job["state"] == "failed" and job["code"] == "keys-refused", f"the job is {job['state']} ({job['code']})")
    for name in ("insurer", "clinic"):
        notes = [json.loads(line) for line in (story.clients[name].home.folder / "journal.jsonl").read_text().splitlines()]
        refusals = [note for note in notes if note["event"] == "refused"]
        story.say(f"  {name}'s broker: {refusals[-1]['message'] if refusals else 'was not asked again'}")


def _missing(evidence: dict[str, Any]) -> str:
    """In words, the layers that this machine does not give."""
    missing = lacking(LAYERS, evidence.get("isolation", ()))
    return f"; missing here: {', '.join(missing)} (install bubblewrap)" if missing else ""
