"""The right to scores for an order, from the form to the scores in a table: commands, real brokers and a real enclave process."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from sandbox.cli import exchange as exchange_commands
from sandbox.cli import serving
from sandbox.cli.exchange import exchange
from sandbox.cli.models import model
from sandbox.party import exchanges
from tests.party.test_scoring_service import ROWS, call, run_next, town
from tests.support import scoring
from tests.support.market import PURPOSE
from tests.support.runs import Town
from tests.support.terms import digest_of

__all__ = ["town"]

FORM = """
title: Scores for an order
accept_by: {soon}
deadline: {later}
dispute_days: 14
legs:
  - {{kind: service, giver: insurer, receiver: institute, agreement: "{agreement}", purpose: {purpose}, jobs: 2, until: {end}}}
  - {{kind: order, giver: institute, receiver: insurer, document: "{order}"}}
"""


def said(town: Town, who: str, group: Any, *arguments: Any) -> str:
    """What a command prints for that participant."""
    with pytest.MonkeyPatch.context() as patched:
        for module in (exchange_commands, serving):
            patched.setattr(module, "client_of", lambda _: town.clients[who])
        done = CliRunner().invoke(group, [*map(str, arguments), "--home", str(town.folder)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_scores_by_a_right_from_the_form_to_the_table(town: Town, tmp_path: Path) -> None:
    now = datetime.now(UTC)
    times = {name: (now + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ") for name, days in (("soon", 1), ("later", 20), ("end", 90))}
    form = tmp_path / "exchange.yaml"
    form.write_text(FORM.format(**times, agreement=town.agreement, purpose=PURPOSE, order=digest_of("order 7")))
    name = json.loads(said(town, "institute", exchange, "open", form, "--json"))["digest"]
    assert "waits for: insurer: accept" in said(town, "insurer", exchange, "status", name)
    for who, *arguments in (
        ("insurer", "accept"), ("insurer", "give", "--leg", 1), ("institute", "give", "--leg", 2), ("institute", "acknowledge", "--leg", 1),
    ):  # fmt: skip
        said(town, who, exchange, *arguments, name)
    early = call(town, "early", exchange=exchanges.right_of(town.clients["institute"], (name, 1)))
    assert not town.clients["institute"].check(early)["allowed"]
    assert "is handed_over" in said(town, "insurer", exchange, "acknowledge", "--leg", 2, name)
    asked = call(town, "by-right", exchange=exchanges.right_of(town.clients["institute"], (name, 1)))
    town.clients["institute"].submit(asked)
    run_next(town)
    table = said(town, "institute", model, "ask", "--agreement", town.agreement, "--purpose", PURPOSE, "--model", "insurer.risk",
                 "--by", "who", "--rows", 10, "--exchange", name, 1, "--request-id", asked.request_id, scoring.SQL)  # fmt: skip
    assert len(table.splitlines()) == 1 + len(ROWS)
    assert "used 1 of 2 jobs" in said(town, "institute", exchange, "status", name)
