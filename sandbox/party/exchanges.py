"""A participant's part in exchanges: proposing, accepting, asking the job of a leg, acknowledging what is in escrow, receiving.

Nothing is acknowledged that was not verified here: the receipt of the other leg's release, or the very document that was agreed.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from enclaves.kit.envelope import Signed, verify_document
from policies.canonical import digest
from policies.codec import decode, encode
from policies.errors import Conflict, Malformed, NotFound, PolicyRefused, Tampered
from policies.escrow import Course, begin
from policies.exchange import Asked, Bound, Exchange, ExchangeAct, Leg, Outcome, exchange_digest
from policies.plan import plan_of
from policies.privacy import Loss, parse_loss
from policies.request import JobRequest
from policies.statement import verdict_of
from sandbox.audit.receipt import Receipt, verify_receipt
from sandbox.party.client import Client
from sandbox.party.courses import exchange_file
from sandbox.party.forms import read_form
from sandbox.party.modelling import read_training
from sandbox.party.verify import OpenedRelease


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """An exchange as the service shows it, its document held against its digest and its proposer's signature."""

    name: str
    exchange: Exchange
    course: Course
    record: dict[str, Any]


def known(client: Client, name: str) -> Known:
    """Return one exchange. Raises Tampered unless the document is the one that `name` names, and its proposer signed it."""
    record = client.fetch(f"/exchanges/{name}")
    signed = decode(Signed, record["signed"])
    if digest(signed.body) != name:
        raise Tampered("the service sent another exchange", code="exchange-digest")
    exchange = decode(Exchange, signed.body)
    agreement, followed = client.followed_agreement(exchange.agreements[0])
    party = agreement.party(signed.by)
    keys = {party.signing_key, followed.keyring.signing_key(party.signing_key)} - {None}
    for key in sorted(str(item) for item in keys):
        try:
            verify_document(signed, "exchange", begin(exchange, signed.by).proposer, key)
            break
        except Tampered:
            continue
    else:
        raise Tampered(f"`{signed.by}` did not sign this exchange", code="bad-signature")
    return Known(name=name, exchange=exchange, course=decode(Course, record["course"]), record=record)


def propose(client: Client, exchange: Exchange) -> dict[str, Any]:
    """Propose an exchange under agreements that this home has signed. Raises NotFound for others."""
    for name in exchange.agreements:
        client.signed_agreement(name)
    _keep(client, exchange)
    return client.send("/exchanges", "exchange", exchange)


def accept(client: Client, name: str) -> dict[str, Any]:
    """Accept an exchange that somebody proposed, under agreements that this home has signed; look at it first (`exchange status`)."""
    found = known(client, name)
    for agreement in found.exchange.agreements:
        client.signed_agreement(agreement)
    _keep(client, found.exchange)
    return act(client, ExchangeAct(exchange=name, act="accept"))


def run(client: Client, name: str, number: int, request_id: str | None = None) -> dict[str, Any]:
    """Ask the job of a delivery that this participant receives."""
    leg = kept(client, name).leg(number)
    if leg.ask is None:
        raise Malformed("this leg is given without a job", where="leg")
    return client.submit(
        JobRequest(
            request_id=request_id or "r-" + secrets.token_hex(12),
            agreement=str(leg.agreement),
            consumer=client.home.participant,
            purpose=str(leg.purpose),
            sql=leg.ask.sql,
            loss=leg.ask.loss,
            training=leg.ask.training,
            exchange=bound(kept(client, name), number),
        )
    )


def bound(exchange: Exchange, number: int) -> Bound:
    """Return what binds a request to a leg. Raises Malformed for a promise."""
    leg = exchange.leg(number)
    if leg.form == "promise" or number not in (1, 2):
        raise Malformed("this leg is fulfilled outside, by no job", where="leg")
    return Bound(exchange=exchange_digest(exchange), leg=1 if number == 1 else 2, form="delivery" if leg.form == "delivery" else "right")


def use(client: Client, name: str, number: int, sql: str, loss: Loss, request_id: str | None = None) -> dict[str, Any]:
    """Ask a job by a right that was handed over. Its release is handed out like any other. Raises Malformed for a leg that is no right."""
    exchange = kept(client, name)
    leg = exchange.leg(number)
    if leg.form != "right":
        raise Malformed("this leg is no right", where="leg")
    return client.submit(
        JobRequest(
            request_id=request_id or "r-" + secrets.token_hex(12),
            agreement=str(leg.agreement),
            consumer=client.home.participant,
            purpose=str(leg.purpose),
            sql=sql,
            loss=loss,
            exchange=bound(exchange, number),
        )
    )


def right_of(client: Client, right: tuple[str, int] | None) -> Bound | None:
    """Return what binds a request to the right that (exchange, leg) gives; None for a request that is part of no exchange."""
    if right is None:
        return None
    return bound(kept(client, right[0]), right[1])


def give(client: Client, name: str, number: int) -> dict[str, Any]:
    """Sign that a right or a promise is given. Raises Malformed for a leg that its job gives."""
    leg = kept(client, name).leg(number)
    if leg.form == "delivery":
        raise Malformed("this leg is given by its job alone", where="leg")
    return act(client, ExchangeAct(exchange=name, act="give", leg=_number(number), about=leg.thing))


def acknowledge(client: Client, name: str, number: int) -> dict[str, Any]:
    """Sign that a leg is there as agreed. Of a delivery, its receipt is verified first: the enclave's signature, the job, its test.

    Raises:
        Conflict: nothing is in escrow yet. Tampered, EvidenceRejected: it is not what was agreed.
    """
    exchange = kept(client, name)
    found, leg = known(client, name), exchange.leg(number)
    held = found.course.held(number)
    if not held.given:
        raise Conflict(f"leg {number} is not given yet", code="exchange-state")
    about = leg.thing
    if leg.form == "delivery":
        about = _verified(client, exchange, number, held.job)
    return act(client, ExchangeAct(exchange=name, act="acknowledge", leg=_number(number), about=about))


def _verified(client: Client, exchange: Exchange, number: int, job: str) -> str:
    """The digest of the sealed release that an attested enclave made for the very job of a leg, and that passed its test."""
    leg = exchange.leg(number)
    receipt = decode(Receipt, client.fetch(f"/jobs/{job}/receipt"))
    agreement, _ = client.followed_agreement(str(leg.agreement), receipt.checkpoint)
    request = client.own_request(job)
    verified = verify_receipt(receipt, agreement)
    statement, ask = receipt.statement.statement, leg.ask
    same = ask is not None and (request.sql, request.loss, request.training) == (ask.sql, ask.loss, ask.training)
    mine = (request.exchange, receipt.grant.request) == (bound(exchange, number), digest(encode(request)))
    if verified.job != job or not same or not mine or receipt.grant.plan != plan_of(request, agreement.by_dataset):
        raise Tampered("what is in escrow is another job's release", code="receipt-request")
    if statement.sealed is None or (leg.tested and verdict_of(statement) != "yes"):
        raise Tampered("what is in escrow did not pass its test", code="release-test")
    return statement.sealed


def receive(client: Client, name: str, number: int) -> tuple[OpenedRelease, dict[str, Any]]:
    """Open the release of a leg that was handed over, verified as every release is, and sign that it is here."""
    found = known(client, name)
    held = found.course.held(number)
    if found.course.stage != "handed_over" or not held.job:
        raise Conflict(f"the exchange is {found.course.stage}: no release of this leg is handed over", code="in-escrow")
    release, _ = client.release(held.job)
    record = act(client, ExchangeAct(exchange=name, act="received", leg=_number(number), about=held.given))
    return release, record


def withdraw(client: Client, name: str) -> dict[str, Any]:
    """Withdraw from an exchange: what is in escrow returns, to both, and this home's broker releases no keys for its jobs any more."""
    record = act(client, ExchangeAct(exchange=name, act="withdraw"))
    client.home.write(_withdrawn(name), True)
    return record


def require_under_way(client: Client, bound: Bound | None) -> None:
    """Raise PolicyRefused (code `exchange-over`) for the job of a delivery whose exchange has ended: nobody would get what it gives.

    That this home withdrew it knows by itself. Of other ends the service tells, as it does of the stage at which the job was decided.
    """
    if bound is None or bound.form != "delivery":
        return
    over = bool(client.home.read_or(_withdrawn(bound.exchange), False))
    try:
        over = over or known(client, bound.exchange).course.final
    except NotFound:
        pass  # providers that take no part in it see no exchange
    if over:
        raise PolicyRefused("the exchange of this job has ended: its release would be deleted", code="exchange-over")


def refuse(client: Client, name: str) -> dict[str, Any]:
    """Refuse a proposal."""
    return act(client, ExchangeAct(exchange=name, act="refuse"))


def dispute(client: Client, name: str, reasons: str) -> dict[str, Any]:
    """Freeze an exchange; `reasons` is the digest of what the other participant and the arbiter are to read."""
    course = known(client, name).course
    return act(client, ExchangeAct(exchange=name, act="dispute", about=reasons, number=course.disputes + 1))


def resolve(client: Client, name: str, outcome: Outcome) -> dict[str, Any]:
    """Say how the present dispute is to end."""
    course = known(client, name).course
    return act(client, ExchangeAct(exchange=name, act="resolve", about=outcome, number=max(1, course.disputes)))


def act(client: Client, item: ExchangeAct) -> dict[str, Any]:
    """Sign an act and send it."""
    return client.send("/exchanges/acts", "exchange-act", item)


def listed(client: Client, stage: str | None = None) -> list[dict[str, Any]]:
    """All exchanges of this participant, newest first; at one stage if given."""
    return client.listed("/exchanges", "exchanges", stage=stage)


def kept(client: Client, name: str) -> Exchange:
    """The document that this home proposed or accepted. Raises NotFound, Tampered."""
    exchange = decode(Exchange, client.home.read(exchange_file(name)))
    if exchange_digest(exchange) != name:
        raise Tampered("the kept exchange was changed", code="exchange-digest")
    return exchange


def _keep(client: Client, exchange: Exchange) -> None:
    client.home.write(exchange_file(exchange_digest(exchange)), encode(exchange))


def _withdrawn(name: str) -> str:
    return f"exchanges/{name.removeprefix('sha256:')}.withdrawn.json"


def _number(number: int) -> Any:
    if number not in (1, 2):
        raise Malformed("legs are numbered 1 and 2", where="leg")
    return number


# --- forms


def read_exchange(path: Path) -> Exchange:
    """Return the exchange that a YAML or JSON form asks for.

    Times are UTC, as 2026-12-31T12:00:00Z. `ask` of a leg holds `sql` and `epsilon` or `rho`, or `form`, the file of a training beside it.

    Raises:
        Malformed: what is wrong with the form.
    """
    form = dict(read_form(path))
    legs = form.pop("legs", None)
    if not isinstance(legs, list) or not all(isinstance(leg, dict) for leg in legs):
        raise Malformed("needs a list of two legs", where="legs")
    times = {name: seconds(form.pop(name, None), name) for name in ("accept_by", "deadline")}
    form.setdefault("uid", "exchange-" + secrets.token_hex(6))
    read = [encode(_leg(dict(leg), path.parent, f"legs[{place}]")) for place, leg in enumerate(legs)]
    return decode(Exchange, {"kind": "exchange/1", "dispute_days": 14, **form, **times, "legs": read})


def _leg(form: dict[str, Any], folder: Path, where: str) -> Leg:
    if "until" in form:
        form["until"] = seconds(form["until"], f"{where}.until")
    if form.get("jobs") == 1:
        del form["jobs"]  # documents leave it out
    ask = form.pop("ask", None)
    if ask is not None:
        form["ask"] = encode(_asked(ask, folder, f"{where}.ask"))
    return decode(Leg, form, where)


def _asked(form: Any, folder: Path, where: str) -> Asked:
    measures = [name for name in ("epsilon", "rho") if isinstance(form, dict) and name in form]
    if len(measures) != 1 or set(form) - {"sql", "form", "epsilon", "rho"} or ("sql" in form) == ("form" in form):
        raise Malformed("holds `sql`, or `form` of a training, and either `epsilon` or `rho`", where=where)
    loss = parse_loss("pure" if measures == ["epsilon"] else "zcdp", str(form[measures[0]]), where=f"{where}.{measures[0]}")
    if "sql" in form:
        return Asked(sql=str(form["sql"]), loss=loss)
    sql, training = read_training(folder / str(form["form"]))
    return Asked(sql=sql, loss=loss, training=training)


def seconds(value: Any, where: str) -> int:
    """Return a UTC time of a form in seconds since 1970. Raises Malformed."""
    try:
        found = value if isinstance(value, datetime) else datetime.strptime(str(value), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise Malformed("must be a UTC time like 2026-12-31T12:00:00Z", where=where) from error
    return int(found.replace(tzinfo=found.tzinfo or UTC).timestamp())
