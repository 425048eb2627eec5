"""The `sandbox` command. Tables for people, `--json` for programs; errors on standard error, exit codes from the error table."""

from __future__ import annotations

import json
import sys

import click

from policies.errors import Refused, SandboxError, Unavailable, outcome
from sandbox.cli.lazy import Lazy, LazyGroup

COMMANDS = {
    "serve": Lazy("sandbox.cli.service", "serve", "Run the service under gunicorn."),
    "worker": Lazy("sandbox.cli.service", "worker", "Take charged jobs and run them in enclaves, until stopped."),
    "demo": Lazy("sandbox.cli.service", "demo", "Tell the whole story once on real data: from encrypted upload to audited release."),
    "admin": Lazy("sandbox.cli.operator", "admin", "What the operator does, on the service's machine."),
    "enclave": Lazy("sandbox.cli.service", "enclave", "What runs inside."),
    "party": Lazy("sandbox.cli.participant", "party", "What a participant runs at home: keys, publishing, the key broker."),
    "offer": Lazy("sandbox.cli.market", "offer", "A provider's terms on a dataset."),
    "agreement": Lazy("sandbox.cli.market", "agreement", "Terms that all parties sign."),
    "job": Lazy("sandbox.cli.jobs", "job", "Ask for a release."),
    "model": Lazy("sandbox.cli.models", "model", "Models: train them on what one may not see, and use them."),
    "exchange": Lazy("sandbox.cli.exchange", "exchange", "Exchanges: data for a model, an order, a right or money, both or neither."),
    "policy": Lazy("sandbox.cli.policy", "policy", "Terms of agreements: what they mean, what is wrong with them, what would change."),
    "sql": Lazy("sandbox.cli.sql", "sql", "Queries, before any data are asked."),
    "log": Lazy("sandbox.cli.audit", "log", "The log that participants and auditors keep copies of."),
    "scope": Lazy("sandbox.cli.scopes", "scope", "What an auditor's credential opens of a provider's entries."),
    "audit": Lazy("sandbox.cli.audit", "audit", "What an auditor does, offline."),
    "witness": Lazy(
        "sandbox.cli.witness", "witness", "Cosign checkpoints that extend what was seen, so that nobody can be shown another log."
    ),
    "receipt": Lazy("sandbox.cli.receipts", "receipt", "Receipts: of releases, joint totals and encrypted scorings."),
    "completion": Lazy("sandbox.cli.completion", "completion", "Print the script that makes SHELL complete `sandbox`."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def cli() -> None:
    """Trusted computation jobs between firms: policy, privacy budgets, and a log that auditors replay offline."""


def main() -> None:
    """Entry point. Exit codes: 0 done, 2 fix the request, 3 refused by a rule, 4 try again later, 5 something was tampered with."""
    try:
        cli.main(prog_name="sandbox", standalone_mode=False)
    except SandboxError as error:
        _show(error)
        sys.exit(outcome(error)[1])
    except OSError as error:
        # Only of files that the command line names or the settings do: what a request meets in the service is typed there.
        if error.filename is None:
            raise
        failure = Unavailable(f"{error.filename}: {error.strerror}", code="file")
        _show(failure)
        sys.exit(outcome(failure)[1])
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)


def _show(error: SandboxError) -> None:
    if "--json" in sys.argv:
        findings = list(error.findings) if isinstance(error, Refused) else []
        body = {"error": error.code, "message": error.message, "where": error.where, "findings": findings}
        click.echo(json.dumps(body, ensure_ascii=False), err=True)
        return
    click.echo(f"error ({error.code}): {error}", err=True)
