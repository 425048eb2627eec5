"""Four insurers total their claims by region and age band without showing them to anybody: see README.md beside this file."""

from __future__ import annotations

import argparse
import json
import random
import secrets
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from policies.joint_documents import JointRelease
from policies.privacy import parse_loss
from policies.request import JobRequest
from policies.training import Training
from sandbox.audit.joint_receipt import AnyReceipt
from sandbox.party.agreeing import compose
from sandbox.party.contributing import Contributor
from sandbox.party.forms import declaration_of, pool_of, read_form
from sandbox.party.home import Home
from sandbox.party.joint_client import JointClient
from sandbox.party.key_holding import KeyHolder
from sandbox.party.modelling import card_of, read_training
from sandbox.party.term_forms import offer_of

HERE = Path(__file__).parent
INSURERS = ("north_mutual", "harbour_life", "castle_re", "meadow")
NAMES = (*INSURERS, "notary", "analyst")
SQL = (
    "SELECT region, age_band, COUNT(*) AS claims, SUM(amount) AS paid, AVG(amount) AS mean "
    "FROM pool.claims GROUP BY region, age_band ORDER BY region, age_band"
)


def main(url: str, codes: Mapping[str, str], work: Path, people: int = 2000) -> tuple[JointRelease, dict[str, Any]]:
    """Do everything that the six parties do, one after the other, and return totals and model card as the analyst gets them."""
    clients = {name: JointClient(home=Home.create(work / name, name, name.replace("_", " ").title(), url)) for name in NAMES}
    for name, client in clients.items():
        client.join(codes[name])
    files = {name: _claims(work / name / "claims.parquet", people, seed) for seed, name in enumerate(INSURERS)}
    agreement = _agree(clients)
    ended = threading.Event()
    parts = [KeyHolder(client=clients["notary"])]
    parts += [Contributor(client=clients[name], tables={f"{name}.claims": (files[name], {})}) for name in INSURERS]
    threads = [threading.Thread(target=part.serve, args=(ended.is_set,)) for part in parts]
    for thread in threads:
        thread.start()
    try:
        totals, _ = _asked(clients["analyst"], agreement, SQL)
        learned, receipt = _asked(clients["analyst"], agreement, *read_training(HERE / "claims.model.yaml", "pool.claims"))
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    return totals, card_of(learned, receipt, clients["analyst"].signed_agreement(agreement))


def _asked(analyst: JointClient, agreement: str, sql: str, training: Training | None = None) -> tuple[JointRelease, AnyReceipt]:
    """Submit a request, wait, and return the verified release."""
    request = JobRequest(
        request_id="claims-" + secrets.token_hex(6),
        agreement=agreement,
        consumer="analyst",
        purpose="claims-statistics",
        sql=sql,
        loss=parse_loss("zcdp", "0.5"),
        training=training,
    )
    job = analyst.submit(request)["id"]
    analyst.wait(job, timeout=300)
    release, receipt = analyst.release(job)
    assert isinstance(release, JointRelease)
    return release, receipt


def _agree(clients: Mapping[str, JointClient]) -> str:
    """Declare, offer, propose and sign; each party looks at what it signs. Returns the agreement's digest."""
    offers = []
    for name in INSURERS:
        form = read_form(HERE / "claims.declaration.yaml")
        declaration = declaration_of({**form, "dataset": f"{name}.claims", "id_space": f"{name.replace('_', '-')}-people"})
        clients[name].declare(declaration)
        measurement = clients[name].service()["enclave"]["measurement"]
        terms = {**read_form(HERE / "claims.offer.yaml"), "dataset": declaration.dataset}
        offers.append(clients[name].offer(offer_of(terms, declaration, measurement))["digest"])
    pool = pool_of(read_form(HERE / "claims.pool.yaml"))
    composed = compose(clients["analyst"], "claims", "Claims by region and age band", offers, [], (pool,))
    agreement = str(clients["analyst"].propose(composed)["digest"])
    for client in clients.values():
        client.sign_agreement(agreement)
    return agreement


def _claims(path: Path, people: int, seed: int) -> Path:
    """Made-up claims of one insurer."""
    draw, rows, bands = random.Random(seed), [], ("0-39", "40-64", "65+")
    for person in range(people):
        band = draw.randrange(len(bands))
        for claim in range(draw.randint(1, 3)):
            paid = round(min(5000.0, draw.lognormvariate(4.5 + band / 2, 1)), 2)
            rows.append((person, claim, draw.choice(("north", "south")), bands[band], paid))
    columns: dict[str, list[Any]] = {
        name: [row[index] for row in rows] for index, name in enumerate(("person", "claim", "region", "age_band", "amount"))
    }
    pq.write_table(pa.table(columns), path)
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("url")
    parser.add_argument("--codes", type=Path, required=True, help="JSON file: one-time code by participant")
    parser.add_argument("--work", type=Path, required=True, help="new folder for the six homes")
    asked = parser.parse_args()
    release, card = main(asked.url, json.loads(asked.codes.read_text(encoding="utf-8")), asked.work)
    for cell in release.cells:
        print(*cell.keys, *(f"{figure.name} {figure.value} [{figure.low}, {figure.high}]" for figure in cell.figures))
    for found in card["coefficients"]:
        print(found["column"] or "constant", found["category"] or "", f"{found['value']} [{found['low']}, {found['high']}]")
