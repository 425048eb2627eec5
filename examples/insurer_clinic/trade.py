"""An insurer and a clinic exchange figures for a model: see README.md beside this file."""

from __future__ import annotations

import argparse
import json
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from policies.declaration import Declaration
from policies.statement import Release
from sandbox.audit.receipt import Receipt
from sandbox.party import exchanges
from sandbox.party.agreeing import compose
from sandbox.party.broker import Broker
from sandbox.party.client import Client
from sandbox.party.forms import declaration_of, read_form
from sandbox.party.home import Home
from sandbox.party.modelling import card_of
from sandbox.party.publish import publish
from sandbox.party.term_forms import offer_of

HERE = Path(__file__).parent
NAMES = ("insurer", "clinic", "auditor")
PROVIDERS = ("insurer", "clinic")


def main(url: str, codes: Mapping[str, str], work: Path, persons: int | None = None) -> dict[str, Any]:
    """Do everything that both do, one after the other, and return the card of the model as the clinic holds it.

    Args:
        persons: how many take part; None for all.
    """
    clients = {name: Client(home=Home.create(work / name, name, name.title(), url)) for name in NAMES}
    for name, client in clients.items():
        client.join(codes[name])
    name = _exchange(clients, _agree(clients, persons), work)
    insurer, clinic = clients["insurer"], clients["clinic"]
    ended = threading.Event()
    threads = [threading.Thread(target=_broker, args=(clients[who], ended)) for who in PROVIDERS]
    for thread in threads:
        thread.start()
    try:
        for client, leg in ((insurer, 1), (clinic, 2)):
            client.wait(exchanges.run(client, name, leg)["id"], timeout=600)
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    exchanges.acknowledge(insurer, name, 1)
    exchanges.acknowledge(clinic, name, 2)
    exchanges.receive(insurer, name, 1)
    exchanges.receive(clinic, name, 2)
    course = exchanges.known(clinic, name).course
    release, receipt = clinic.release(course.second.job)
    assert isinstance(release, Release)
    assert isinstance(receipt, Receipt)
    return card_of(release, receipt, clinic.signed_agreement(receipt.grant.agreement))


def _agree(clients: Mapping[str, Client], persons: int | None) -> str:
    """Declare, publish, offer, propose and sign; returns the agreement's digest."""
    offers = []
    for name in PROVIDERS:
        declaration = declaration_of(_declaration(name))
        publish(clients[name], declaration, _table(name, declaration, persons))
        measurement = clients[name].service()["enclave"]["measurement"]
        offers.append(clients[name].offer(offer_of(read_form(HERE / f"{name}.offer.yaml"), declaration, measurement))["digest"])
    composed = compose(clients["clinic"], "insurer-clinic", "Insurer and clinic, for exchanges only", offers, ["auditor"])
    agreement = str(clients["clinic"].propose(composed)["digest"])
    for client in clients.values():
        client.sign_agreement(agreement)
    return agreement


def _declaration(name: str) -> dict[str, Any]:
    form = read_form(HERE.parent / "rand_hie" / f"{name}.declaration.yaml")
    if name == "insurer":
        form["columns"]["medical_spend"]["upper"] = 20000
    return form


def _table(name: str, declaration: Declaration, persons: int | None) -> pa.Table:
    table = pq.read_table(HERE.parent / "data" / f"{name}.parquet", columns=[column.name for column in declaration.columns])
    if persons is None:
        return table
    chosen = pc.unique(table["person_id"]).slice(0, persons)
    return table.filter(pc.is_in(table["person_id"], value_set=chosen))


def _exchange(clients: Mapping[str, Client], agreement: str, work: Path) -> str:
    """Propose and accept the exchange of `exchange.yaml` under the agreement; returns its digest."""
    form, now = read_form(HERE / "exchange.yaml"), datetime.now(UTC)
    for name, days in (("accept_by", 7), ("deadline", 30)):
        form[name] = f"{now + timedelta(days=days):%Y-%m-%dT%H:%M:%SZ}"
    for leg in form["legs"]:
        leg["agreement"] = agreement
    path = work / "exchange.yaml"
    path.write_text(yaml.safe_dump(form), encoding="utf-8")
    (work / "high-spending.yaml").write_bytes((HERE / "high-spending.yaml").read_bytes())
    name = str(exchanges.propose(clients["clinic"], exchanges.read_exchange(path))["digest"])
    exchanges.accept(clients["insurer"], name)
    return name


def _broker(client: Client, ended: threading.Event) -> None:
    broker = Broker(client=client)
    while not ended.wait(0.1):
        broker.step()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--codes", type=Path, required=True, help="JSON file: one-time code by participant")
    parser.add_argument("--work", type=Path, required=True, help="new folder for the three homes")
    asked = parser.parse_args()
    card = main(asked.url, json.loads(asked.codes.read_text(encoding="utf-8")), asked.work)
    print(json.dumps(card, ensure_ascii=False, indent=2))
