"""The options of a request for a release, and the request that they name."""

from __future__ import annotations

import secrets
import sys
from typing import Any

import click

from policies.errors import Malformed
from policies.privacy import Loss, parse_loss
from policies.request import JobRequest

_LOSS_OPTIONS = (
    click.option("--epsilon", help="Privacy loss to spend, a decimal number; where ledgers pay in epsilon."),
    click.option("--rho", help="Privacy loss to spend in zero-concentrated differential privacy; where ledgers pay in rho."),
    click.option("--delta", default="0", show_default=True, help="Paid for group keys that are discovered in the data (delta0)."),
)


def loss_options(function: Any) -> Any:
    """The options --epsilon, --rho and --delta."""
    for option in reversed(_LOSS_OPTIONS):
        function = option(function)
    return function


def loss_of(epsilon: str | None, rho: str | None, delta: str = "0") -> Loss:
    """The loss that exactly one of --epsilon and --rho names. Raises Malformed."""
    if epsilon is not None and rho is None:
        return parse_loss("pure", epsilon, delta, "epsilon")
    if rho is not None and epsilon is None:
        return parse_loss("zcdp", rho, delta, "rho")
    raise Malformed("give either --epsilon or --rho", where="epsilon")


def request_options(function: Any) -> Any:
    """The options that name a request: agreement, purpose, query and loss."""
    options = (
        click.option("--agreement", "agreement_name", required=True, help="Digest of the agreement."),
        click.option("--purpose", required=True, help="What the answer is for: a purpose that the agreement names."),
        click.option("--sql", required=True, help="The query; - reads it from standard input."),
        *_LOSS_OPTIONS,
    )
    for option in reversed(options):
        function = option(function)
    return function


def request_of(consumer: str, agreement_name: str, purpose: str, sql: str, loss: Loss, request_id: str | None = None) -> JobRequest:
    """The request that the options name; its id is made up if it has none. A query of `-` is read from standard input."""
    return JobRequest(
        request_id=request_id or "r-" + secrets.token_hex(12),
        agreement=agreement_name,
        consumer=consumer,
        purpose=purpose,
        sql=sys.stdin.read() if sql == "-" else sql,
        loss=loss,
    )
