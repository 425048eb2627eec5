"""The `sandbox` command. Tables for people, `--json` for programs; errors on standard error, exit codes from the error table."""

from __future__ import annotations

import json
import sys

import click

from policies.errors import Refused, SandboxError, outcome
from sandbox.cli.audit import audit, log, receipt
from sandbox.cli.jobs import job
from sandbox.cli.market import agreement, offer
from sandbox.cli.operator import admin
from sandbox.cli.participant import party
from sandbox.cli.service import demo, enclave, serve, worker


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
def cli() -> None:
    """Trusted computation jobs between firms: policy, privacy budgets, and a log that auditors replay offline."""


for command in (serve, worker, demo, admin, enclave, party, offer, agreement, job, log, audit, receipt):
    cli.add_command(command)


def main() -> None:
    """Entry point. Exit codes: 0 done, 2 fix the request, 3 refused by a rule, 4 try again later, 5 something was tampered with."""
    try:
        cli.main(standalone_mode=False)
    except SandboxError as error:
        _show(error)
        sys.exit(outcome(error)[1])
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
