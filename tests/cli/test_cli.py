"""The command line as people use it: every step of a study, with what it prints, how it exits and what it never shows."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import click
import pytest
import yaml

from policies.codec import decode, encode
from policies.privacy import Loss, units_to_decimal
from sandbox.audit.tiles import layout, unpack_entries
from sandbox.cli import COMMANDS, cli, main
from sandbox.demo.attacks import flip_in_charge
from sandbox.party.home import SECRET_FILES, Home
from sandbox.party.publish import column_keys
from tests.support.market import care_declaration, care_table, offer_on, plans_declaration, plans_table, write_plaintext
from tests.support.service import Service, checkout, free_port, running

CAST = {"insurer": "First Mutual", "clinic": "Riverside", "institute": "Health Economics", "auditor": "Assured"}
DECLARATIONS = {"insurer": plans_declaration("insurer"), "clinic": care_declaration("clinic")}
SQL = (
    "SELECT coinsurance, COUNT(*) AS person_years, AVG(doctor_visits) AS visits "
    "FROM insurer.plans JOIN clinic.care USING (person_id, year) GROUP BY coinsurance"
)
SUCCESS, FIX_IT, REFUSED, LATER, TAMPERED = 0, 2, 3, 4, 5


@dataclass(frozen=True)
class Done:
    """What a command printed."""

    stdout: str
    stderr: str


@dataclass
class Terminal:
    """Runs `sandbox` commands, as processes of their own or through their entry point, and remembers all that they ever printed."""

    service: Service
    folder: Path
    printed: list[str] = field(default_factory=list)
    codes: dict[str, str] = field(default_factory=dict)
    agreement: str = ""
    job: str = ""

    def process(self, *arguments: str, exits: int = SUCCESS, stdin: str = "", **settings: str) -> Done:
        """Run one command as people do, and check its exit code."""
        done = subprocess.run(
            [sys.executable, "-m", "sandbox", *arguments],
            env=self.service.environment | settings, cwd=checkout(), input=stdin, capture_output=True, text=True, timeout=240, check=False,
        )  # fmt: skip
        return self._judged(arguments, done.returncode, exits, Done(done.stdout, done.stderr))

    def run(self, *arguments: str, exits: int = SUCCESS, stdin: str = "", **settings: str) -> Done:
        """Run one command through the same entry point inside this process, which saves the start of an interpreter."""
        out, err, code = io.StringIO(), io.StringIO(), SUCCESS
        with (
            mock.patch.dict(os.environ, self.service.environment | settings, clear=True),
            mock.patch.object(sys, "argv", ["sandbox", *arguments]),
            mock.patch.object(sys, "stdin", io.StringIO(stdin)),
            redirect_stdout(out),
            redirect_stderr(err),
        ):
            try:
                main()
            except SystemExit as ended:
                code = int(ended.code or SUCCESS)
        return self._judged(arguments, code, exits, Done(out.getvalue(), err.getvalue()))

    def _judged(self, arguments: tuple[str, ...], code: int, exits: int, done: Done) -> Done:
        self.printed += [done.stdout, done.stderr]
        assert code == exits, f"{arguments[:2]} exited {code}: {done.stdout[-500:]}{done.stderr[-1500:]}"
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str) -> Any:
        """Run one command with --json and return what it printed."""
        return json.loads(self.run(*arguments, "--json").stdout)

    def process_json(self, *arguments: str) -> Any:
        """Run one command as a process with --json and return what it printed."""
        return json.loads(self.process(*arguments, "--json").stdout)

    def fails(self, exits: int, code: str, *arguments: str, process: bool = False) -> dict[str, Any]:
        """Run one command with --json that must fail, and return the error that it printed on standard error."""
        done = (self.process if process else self.run)(*arguments, "--json", exits=exits)
        assert done.stdout == ""
        error: dict[str, Any] = json.loads(done.stderr)
        assert error["error"] == code, error
        assert error["message"]
        return error

    def home(self, role: str) -> str:
        """A participant's home folder."""
        return str(self.folder / role)

    def request(self, role: str = "institute", epsilon: str = "1", sql: str = SQL, purpose: str = "health-economics") -> list[str]:
        """The options of a request."""
        return ["--home", self.home(role), "--agreement", self.agreement, "--purpose", purpose, "--epsilon", epsilon, "--sql", sql]


@pytest.fixture(scope="module")
def terminal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    """A study from admission to release, every step by a command of its own."""
    folder = tmp_path_factory.mktemp("cli")
    with running(folder / "service", worker=True) as service:
        found = Terminal(service=service, folder=folder)
        _admit(found)
        _publish(found)
        _agree(found)
        for role in ("insurer", "clinic"):
            service.start(f"broker-{role}", "party", "broker", "--home", found.home(role))
        record = found.process_json("job", "submit", *found.request(), "--request-id", "r-by-command-line", "--timeout", "180")
        found.job = record["job"]
        yield found


def _admit(terminal: Terminal) -> None:
    answer = terminal.json("admin", "admit", "insurer")
    terminal.codes = {"insurer": answer["code"]} | {role: terminal.service.code(role) for role in CAST if role != "insurer"}
    terminal.printed.clear()  # the one command whose purpose is to print a secret
    for role, title in CAST.items():
        named = ("--home", terminal.home(role), "--name", role, "--title", title, "--url", terminal.service.url + "/")
        answer = terminal.json("party", "init", *named, "--code", terminal.codes[role])
        assert answer["participant"] == role
        assert set(answer["fingerprints"]) == {"signing", "sealing"}


def _publish(terminal: Terminal) -> None:
    tables = {"insurer": plans_table(200), "clinic": care_table(200)}
    for role, declaration in DECLARATIONS.items():
        form = encode(declaration)
        form["columns"] = {column.pop("name"): column for column in form["columns"]}
        (terminal.folder / f"{role}.yaml").write_text(yaml.safe_dump(form), encoding="utf-8")
        table = write_plaintext(tables[role], terminal.folder / f"{role}.parquet")
        form_file = str(terminal.folder / f"{role}.yaml")
        answer = terminal.json("party", "publish", "--home", terminal.home(role), "--declaration", form_file, str(table))
        assert (answer["version"]["dataset"], answer["version"]["version"]) == (declaration.dataset, 1)
        assert "rows beyond the contribution bound" in answer["changed_by_bounds"], role


def _agree(terminal: Terminal) -> None:
    offers = []
    for role, declaration in DECLARATIONS.items():
        terms = offer_on(declaration, "institute", "sha256:" + "0" * 64, total="3", per_job="2").terms
        form = {
            "uid": f"{role}-research",
            "title": "Aggregates",
            "dataset": declaration.dataset,
            "terms": {
                "assignees": ["institute"], "purposes": ["health-economics"], "minimum_group": 5,
                "epsilon_per_job": 2, "epsilon_total": 3, "enclaves": ["simulated"],
                "columns": {term.column: list(term.operations) for term in terms.columns},
            },
        }  # fmt: skip
        path = terminal.folder / f"{role}.offer.yaml"
        dates = "  from: 2020-01-01\n  until: 2090-01-01T00:00:00Z\n"
        path.write_text(yaml.safe_dump(form, sort_keys=False).replace("terms:\n", "terms:\n" + dates), encoding="utf-8")
        offers.append(terminal.json("offer", "make", "--home", terminal.home(role), str(path))["digest"])
    proposed = terminal.json(
        "agreement", "propose", "--home", terminal.home("institute"), "--uid", "study", "--title", "Coinsurance and visits",
        "--offer", offers[0], "--offer", offers[1], "--auditor", "auditor",
    )  # fmt: skip
    terminal.agreement = proposed["digest"]
    assert sorted(proposed["waiting_for"]) == sorted(CAST)
    for number, role in enumerate(CAST):
        answer = terminal.json("agreement", "sign", "--home", terminal.home(role), terminal.agreement)
        assert answer["state"] == ("active" if number == len(CAST) - 1 else "proposed")


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command that does something, with the words that call it."""
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from commands(inner, (*path, name))
    else:
        yield path, command


def test_the_commands_that_are_looked_at_are_all() -> None:
    assert {path[0] for path, _ in commands(cli)} == set(COMMANDS)


@pytest.mark.parametrize(("path", "command"), list(commands(cli)), ids=lambda value: " ".join(value) if isinstance(value, tuple) else "")
def test_every_command_explains_itself_with_an_example_that_it_understands(path: tuple[str, ...], command: click.Command) -> None:
    text = command.get_help(click.Context(command, info_name=" ".join(path)))
    assert "Example:" in text
    example = command.help.partition("Example:")[2].strip() if command.help else ""
    assert f"sandbox {' '.join(path)}" in example
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, f"{parameter.opts[0]} is not explained"
        if isinstance(parameter, click.Option) and parameter.required:
            assert parameter.opts[0] in example, f"the example lacks {parameter.opts[0]}"
    for word in example.replace('"', " ").split():
        if word.startswith("--"):
            assert any(word in parameter.opts for parameter in command.params), f"there is no option {word}"


def test_help_needs_no_service_and_an_unknown_word_is_the_callers_to_fix(terminal: Terminal) -> None:
    assert "Example: sandbox job submit" in terminal.process("job", "submit", "--help").stdout
    assert "Commands:" in terminal.run("-h").stdout
    assert "Error" in terminal.process("job", "submit", exits=FIX_IT).stderr
    for arguments in (["fly"], ["job", "submit"], ["job", "show"], ["party", "init", "--name"], ["serve", "--processes", "0"]):
        assert "Error" in terminal.run(*arguments, exits=FIX_IT).stderr


def test_the_agreement_is_shown_with_what_to_compare_before_signing(terminal: Terminal) -> None:
    shown = terminal.json("agreement", "show", "--home", terminal.home("clinic"), terminal.agreement)
    assert shown["state"] == "active"
    assert [row["party"] for row in shown["fingerprints"]][-1] == terminal.service.config.origin
    text = terminal.run("agreement", "show", "--home", terminal.home("clinic"), terminal.agreement).stdout
    for group in shown["fingerprints"][0]["signing"].split("-"):
        assert group in text
    assert "simulated evidence proves nothing about the machine" in " ".join(text.split())
    listed = terminal.json("agreement", "list", "--home", terminal.home("auditor"))
    assert [row["digest"] for row in listed] == [terminal.agreement]
    assert "Aggregates" in terminal.run("offer", "list", "--home", terminal.home("institute")).stdout


def test_a_check_says_what_would_be_charged_and_charges_nothing(terminal: Terminal) -> None:
    before = terminal.service.spent("insurer")
    allowed = terminal.json("job", "check", *terminal.request(epsilon="0.5"))
    assert allowed["accepted"] is True
    assert {item["measured"]["quantity"] for item in allowed["grant"]["statistics"]} == {"units", "rows", "sum"}
    text = terminal.run("job", "check", *terminal.request(sql="-"), stdin="SELECT COUNT(*) FROM clinic.care WHERE remark = 'x'").stdout
    assert "DENY" in text
    assert "denied; nothing was charged" in text
    assert terminal.service.spent("insurer") == before


def test_the_release_is_shown_with_intervals_after_it_was_verified(terminal: Terminal) -> None:
    receipt = terminal.folder / "receipt.json"
    text = terminal.run("job", "release", "--home", terminal.home("institute"), terminal.job, "--receipt", str(receipt)).stdout
    assert "person_years" in text
    assert "receipt, log and enclave signature verified" in " ".join(text.split())
    release = terminal.json("job", "release", "--home", terminal.home("institute"), terminal.job)["release"]
    assert [cell["keys"] for cell in release["cells"]] == [[0], [25], [95]]
    again = terminal.json("job", "submit", *terminal.request(), "--request-id", "r-by-command-line")
    assert again["job"] == terminal.job
    assert again["release"] == release, "the same id gets the same release"


def test_a_job_is_shown_to_every_party(terminal: Terminal) -> None:
    assert terminal.json("job", "show", "--home", terminal.home("auditor"), terminal.job)["state"] == "released"
    assert terminal.job in {record["id"] for record in terminal.json("job", "show", "--home", terminal.home("insurer"))}
    text = terminal.run("job", "show", "--home", terminal.home("clinic"), terminal.job).stdout
    assert SQL in text.replace("\n", " ")
    assert "released" in text


def test_a_receipt_is_verified_offline_and_a_changed_one_is_noticed(terminal: Terminal) -> None:
    receipt = terminal.folder / "receipt.json"
    terminal.run("job", "release", "--home", terminal.home("institute"), terminal.job, "--receipt", str(receipt))
    verify = ["receipt", "verify", str(receipt), "--home"]
    offline = terminal.folder / "offline"
    shutil.copytree(terminal.home("auditor"), offline, dirs_exist_ok=True)
    identity = json.loads((offline / "identity.json").read_text())
    (offline / "identity.json").write_text(json.dumps(identity | {"url": f"http://127.0.0.1:{free_port()}"}))
    answer = terminal.json(*verify, str(offline))
    assert (answer["ok"], answer["job"], answer["outcome"], answer["epsilon"]) == (True, terminal.job, "released", "1")
    document = terminal.folder / "agreement.json"
    document.write_text(json.dumps(terminal.json("agreement", "show", "--home", terminal.home("clinic"), terminal.agreement)["document"]))
    assert terminal.json("receipt", "verify", str(receipt), "--agreement", str(document))["ok"]
    text = receipt.read_text()
    changed = terminal.folder / "changed.json"
    changed.write_text(text.replace('"index": ', '"index": 1', 1))
    terminal.fails(TAMPERED, "inclusion-proof", "receipt", "verify", str(changed), "--home", str(offline))
    changed.write_text(text.replace('"amount": 1000000000', '"amount": 1000000001'))
    terminal.run("receipt", "verify", str(changed), "--home", str(offline), exits=REFUSED)
    changed.write_text(text[:-20])
    terminal.fails(FIX_IT, "malformed", "receipt", "verify", str(changed), "--home", str(offline))
    terminal.fails(FIX_IT, "malformed", "receipt", "verify", str(receipt))


def test_the_log_is_exported_and_replays_and_one_changed_byte_does_not(terminal: Terminal) -> None:
    export = terminal.folder / "export"
    answer = terminal.json("log", "export", "--home", terminal.home("auditor"), str(export))
    assert answer["entries"] == len(terminal.service.headers())
    read = [
        entry
        for file in layout(answer["entries"])
        if file.kind == "entries"
        for entry in unpack_entries((export / file.path).read_bytes(), file.width)
    ]
    assert len(read) == answer["entries"]
    verdict = terminal.json("audit", "replay", str(export))
    assert (verdict["ok"], verdict["mismatches"]) == (True, [])
    assert "the log replays" in terminal.run("audit", "replay", str(export), "--since", str(export / "checkpoint")).stdout
    forged = terminal.folder / "forged"
    shutil.copytree(export, forged)
    charge = flip_in_charge(forged, answer["entries"])
    done = terminal.run("audit", "replay", str(forged), "--json", exits=TAMPERED)
    assert charge in {mismatch["index"] for mismatch in json.loads(done.stdout)["mismatches"]}
    (forged / "log.vkey").unlink()
    terminal.fails(FIX_IT, "malformed", "audit", "replay", str(forged))


@pytest.mark.parametrize("epsilon", ["0", "NaN", "inf", "1e-3", "101", "0.0000000000", "١", "1,5", "", "1 ", "-1"])
def test_an_epsilon_that_is_no_plain_positive_decimal_is_the_callers_to_fix(terminal: Terminal, epsilon: str) -> None:
    before = terminal.service.state()
    terminal.fails(FIX_IT, "malformed", "job", "submit", *terminal.request(epsilon=epsilon))
    assert terminal.service.state() == before


def test_what_the_caller_must_fix_exits_2(terminal: Terminal) -> None:
    terminal.fails(FIX_IT, "sql", "job", "submit", *terminal.request(sql="DROP TABLE insurer.plans"))
    terminal.fails(FIX_IT, "not-found", "job", "show", "--home", terminal.home("institute"), "job-00000000000000000000")
    terminal.fails(FIX_IT, "not-found", "job", "release", "--home", terminal.home("insurer"), terminal.job)
    terminal.fails(FIX_IT, "not-found", "job", "show", "--home", str(terminal.folder / "nobody"))
    terminal.fails(FIX_IT, "request-id", "job", "submit", *terminal.request(epsilon="0.1"), "--request-id", "r-by-command-line")
    terminal.fails(FIX_IT, "conflict", "party", "init", "--home", terminal.home("clinic"), "--name", "clinic", "--title", "x",
                   "--url", terminal.service.url, "--code", "x" * 30)  # fmt: skip
    error = terminal.run("job", "show", "--home", terminal.home("institute"), "job-00000000000000000000", exits=FIX_IT)
    assert error.stderr.startswith("error (not-found): ")


def test_a_check_of_what_has_no_plan_says_why_on_both_ways_out(terminal: Terminal) -> None:
    before = terminal.service.state()
    done = terminal.run("job", "check", *terminal.request(sql="SELECT medical_spend FROM insurer.plans"), "--json", exits=FIX_IT)
    error, verdict = json.loads(done.stderr), json.loads(done.stdout)
    assert error["error"] == "raw-column"
    assert verdict["accepted"] is False
    assert verdict["reason"] == f"{error['message']} (at line 1, column 8)"
    assert verdict["outputs"] == verdict["remaining"] == []
    assert terminal.service.state() == before


def test_what_accuracy_costs_is_told_before_and_what_is_left_after(terminal: Terminal) -> None:
    """`--half-width` names the smallest loss that would do; asked with that loss, the output is as accurate as was wanted."""
    counted = "SELECT COUNT(*) AS years FROM insurer.plans"
    found = terminal.json("job", "check", *terminal.request(sql=counted, epsilon="0.1"), "--half-width", "years=6")
    assert found["accepted"]
    needed = decode(Loss, found["needed"])
    assert float(found["outputs"][0]["half_width"]) > 6
    again = terminal.json("job", "check", *terminal.request(sql=counted, epsilon=units_to_decimal(needed.amount, 9)))
    assert 5.0 <= float(again["outputs"][0]["half_width"]) <= 6
    shown = terminal.run("job", "check", *terminal.request(sql=counted, epsilon="0.1"), "--half-width", "years=6").stdout
    assert f"these half-widths need {needed.text}" in shown
    terminal.fails(FIX_IT, "malformed", "job", "check", *terminal.request(sql=counted), "--half-width", "years")
    (ledger,) = [row for row in terminal.json("job", "budget", "--home", terminal.home("institute")) if row["provider"] == "insurer"]
    left = next(row for row in found["remaining"] if row["provider"] == "insurer")
    assert decode(Loss, ledger["spent"]).amount + decode(Loss, left["loss"]).amount <= 3 * 10**9
    assert f"insurer/{ledger['id_space']}" in terminal.run("job", "budget", "--home", terminal.home("institute")).stdout


def test_a_loss_in_rho_is_read_and_refused_where_epsilon_was_agreed(terminal: Terminal) -> None:
    options = terminal.request()
    at = options.index("--epsilon")
    options[at : at + 2] = ["--rho", "0.1"]
    found = terminal.json("job", "check", *options)
    assert (found["accepted"], found["loss"]["measure"]) == (False, "zcdp")
    error = terminal.fails(REFUSED, "policy-refused", "job", "submit", *options)
    assert "job_loss" in {finding["rule"] for finding in error["findings"]}
    terminal.fails(FIX_IT, "malformed", "job", "check", *terminal.request(), "--rho", "0.1")


def test_files_that_are_not_what_they_should_be_exit_2(terminal: Terminal) -> None:
    insurer, declaration = terminal.home("insurer"), str(terminal.folder / "insurer.yaml")
    broken = terminal.folder / "broken"
    broken.write_bytes(b"\x00: [")
    terminal.fails(FIX_IT, "unreadable", "party", "publish", "--home", insurer, "--declaration", declaration, str(broken))
    table = str(terminal.folder / "insurer.parquet")
    terminal.fails(FIX_IT, "malformed", "party", "publish", "--home", insurer, "--declaration", str(broken), table)
    clinic = str(terminal.folder / "clinic.parquet")
    terminal.fails(FIX_IT, "unknown-column", "party", "publish", "--home", insurer, "--declaration", declaration, clinic)
    terminal.fails(FIX_IT, "malformed", "offer", "make", "--home", insurer, str(broken))
    terminal.fails(FIX_IT, "malformed", "receipt", "verify", str(broken), "--home", insurer)


def test_what_a_rule_refuses_exits_3_and_names_the_smallest_change(terminal: Terminal) -> None:
    error = terminal.fails(REFUSED, "policy-refused", "job", "submit", *terminal.request(purpose="marketing"), process=True)
    assert {finding["rule"] for finding in error["findings"]} == {"purpose"}
    error = terminal.fails(REFUSED, "policy-refused", "job", "submit", *terminal.request(epsilon="2.1"))
    assert {finding["remedy"] for finding in error["findings"]} >= {"ask for epsilon 2 or less"}
    terminal.json("job", "submit", *terminal.request(epsilon="2"), "--no-wait")
    error = terminal.fails(REFUSED, "budget-exhausted", "job", "submit", *terminal.request(epsilon="0.1"))
    assert "no budget is left" in error["message"]


def test_what_cannot_be_reached_now_exits_4(terminal: Terminal) -> None:
    away = terminal.folder / "away"
    shutil.copytree(terminal.home("institute"), away)
    identity = json.loads((away / "identity.json").read_text())
    (away / "identity.json").write_text(json.dumps(identity | {"url": f"http://127.0.0.1:{free_port()}"}))
    terminal.fails(LATER, "unreachable", "job", "show", "--home", str(away), process=True)
    error = terminal.run("agreement", "list", "--home", str(away), exits=LATER)
    assert "cannot be reached" in error.stderr


def test_a_file_that_cannot_be_written_exits_4_and_is_named(terminal: Terminal, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    error = terminal.fails(LATER, "file", "admin", "backup", str(tmp_path / "file" / "backup"))
    assert str(tmp_path / "file") in error["message"]
    error = terminal.fails(LATER, "file", "log", "export", "--home", terminal.home("institute"), str(tmp_path / "file" / "export"))
    assert str(tmp_path / "file") in error["message"]


def test_a_changed_home_exits_5(terminal: Terminal) -> None:
    """The consumer's kept agreement was changed on its own disk: no release is shown on it."""
    changed = terminal.folder / "changed-home"
    shutil.copytree(terminal.home("institute"), changed)
    path = next((changed / "agreements").iterdir())
    path.write_text(path.read_text().replace("Coinsurance and visits", "Something else"))
    terminal.fails(TAMPERED, "agreement-digest", "job", "release", "--home", str(changed), terminal.job)


def test_an_admission_that_fails_can_be_tried_again_in_the_same_home(terminal: Terminal) -> None:
    home = str(terminal.folder / "late")
    command = ["party", "init", "--home", home, "--name", "late", "--title", "Late", "--url", terminal.service.url]
    terminal.fails(FIX_IT, "admission-code", *command, "--code", "not-a-code-of-anybody")
    keys = (Path(home) / "signing.key").read_bytes()
    code = terminal.service.code("late")
    assert terminal.json(*command, "--code", code)["participant"] == "late"
    assert (Path(home) / "signing.key").read_bytes() == keys


def test_an_unknown_setting_of_the_service_is_refused_by_name(terminal: Terminal) -> None:
    done = terminal.run("admin", "admit", "somebody", exits=FIX_IT, SANDBOX_DATABSE="x")
    assert "SANDBOX_DATABSE" in done.stderr
    terminal.fails(FIX_IT, "malformed", "admin", "admit", "../x")
    terminal.fails(FIX_IT, "conflict", "admin", "admit", "insurer")


def test_the_measurement_is_the_one_that_the_service_states(terminal: Terminal) -> None:
    stated = terminal.service.host.measurement
    assert terminal.json("enclave", "measure") == {"measurement": stated}
    terminal.fails(FIX_IT, "malformed", "enclave", "measure", "--root", str(terminal.folder))


def test_a_home_is_for_its_owner_only(terminal: Terminal) -> None:
    for role in CAST:
        folder = Path(terminal.home(role))
        assert folder.stat().st_mode & 0o077 == 0
        for name in SECRET_FILES:
            assert (folder / name).stat().st_mode & 0o077 == 0, name


def test_no_command_ever_printed_a_secret(terminal: Terminal) -> None:
    """Last on purpose: looks through all that the commands above printed, and through the logs of all processes."""
    printed = "\n".join(terminal.printed).encode() + b"".join(path.read_bytes() for path in terminal.service.folder.glob("*.log"))
    assert len(terminal.printed) > 10
    secrets = {f"the code of {role}": code.encode() for role, code in terminal.codes.items()}
    for role in CAST:
        home = Home.open(Path(terminal.home(role)))
        secrets |= {f"{name} of {role}": home.read_bytes(name) for name in SECRET_FILES}
        if role in DECLARATIONS:
            declaration = DECLARATIONS[role]
            (published,) = (home.folder / "keys" / declaration.dataset).iterdir()
            kept = json.loads(published.read_text())
            keys = column_keys(home, declaration.dataset, 1, kept["file"], tuple(column.name for column in declaration.columns))
            secrets |= {f"key of {name} of {role}": key for name, key in keys.items()}
    assert len(secrets) == 4 * 5 + 10
    for name, secret in secrets.items():
        assert secret not in printed, name
        assert secret.hex().encode() not in printed, name
