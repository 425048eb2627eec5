"""From submission to verified release of a 1,000-row job, by step, on the embedded default.

The floor is what isolation costs anyway: one fresh `python -I` that imports what an enclave imports and ends.
Steps come from the times of the job's own log entries; `hand_out` is the client's fetch, verification and opening.
"""

from __future__ import annotations

import argparse
import json
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from enclaves.kit.measure import checkout_root, measurement
from policies.canonical import parse_json
from policies.codec import decode
from policies.entries import Header
from policies.privacy import parse_epsilon
from policies.request import JobRequest
from sandbox.demo.stage import Stage
from sandbox.party.agreeing import compose
from sandbox.party.client import Client
from sandbox.party.forms import declaration_of
from sandbox.party.home import Home
from sandbox.party.publish import publish
from sandbox.party.term_forms import offer_of

ROWS = 1000
QUERY = """SELECT n.region, COUNT(*) AS people, AVG(spending) AS spending, AVG(visits) AS visits
FROM north.people n JOIN south.people s USING (person_id) GROUP BY n.region"""
IMPORTS = "import enclaves.run, enclaves.evidence"


def declaration(dataset: str, value: str) -> dict[str, Any]:
    """Form of a one-value dataset."""
    return {
        "kind": "declaration/1",
        "dataset": dataset,
        "title": "Benchmark",
        "unit": "person_id",
        "id_space": "bench",
        "rows_per_unit": 1,
        "unique_key": ["person_id"],
        "columns": {
            "person_id": {"type": "integer"},
            "region": {"type": "integer", "domain": [0, 1, 2, 3]},
            value: {"type": "integer", "lower": 0, "upper": 100},
        },
    }


def offer(dataset: str, value: str) -> dict[str, Any]:
    """Form of terms that allow many small jobs."""
    terms = {
        "assignees": ["consumer"],
        "purposes": ["benchmark"],
        "from": date(2020, 1, 1),
        "until": date(2099, 1, 1),
        "minimum_group": 5,
        "epsilon_per_job": 1,
        "epsilon_total": 100,
        "enclaves": ["simulated"],
        "columns": {"person_id": ["join_key"], "region": ["group_by", "output"], value: ["avg"]},
    }
    return {"uid": dataset.replace(".", "-"), "title": "Benchmark", "dataset": dataset, "terms": terms}


def set_up(stage: Stage) -> tuple[Client, str]:
    """Start everything and return the consumer's client and the agreement."""
    stage.start_service()
    clients = {}
    for name in ("north", "south", "consumer"):
        code = stage.run("admin", "admit", name).strip()
        clients[name] = Client(home=Home.create(stage.folder / "homes" / name, name, name, stage.url))
        clients[name].join(code)
    offers = []
    for name, value in (("north", "spending"), ("south", "visits")):
        declared = declaration_of(declaration(f"{name}.people", value))
        columns = {"person_id": range(ROWS), "region": [i % 4 for i in range(ROWS)], value: [i % 100 for i in range(ROWS)]}
        publish(clients[name], declared, pa.table({key: pa.array(of) for key, of in columns.items()}))
        offers.append(clients[name].offer(offer_of(offer(f"{name}.people", value), declared, measurement(checkout_root())))["digest"])
        stage.start(f"broker-{name}", "party", "broker", "--home", str(clients[name].home.folder))
    agreement = clients["consumer"].propose(compose(clients["consumer"], "bench", "Benchmark", offers, []))["digest"]
    for client in clients.values():
        client.sign_agreement(agreement)
    return clients["consumer"], agreement


def unasked(sql: str) -> str:
    """A query that selects COUNT(*) as a question of its own: one that was answered before would be answered without a run."""
    return f"{sql} HAVING COUNT(*) > -{10**9 + secrets.randbelow(10**12)}"


def one_job(consumer: Client, agreement: str) -> dict[str, float]:
    """Seconds by step of one job, and in all."""
    request = JobRequest(
        request_id="bench-" + secrets.token_hex(8),
        agreement=agreement,
        consumer="consumer",
        purpose="benchmark",
        sql=unasked(QUERY),
        loss=parse_epsilon("0.5"),
    )
    started = time.perf_counter()
    job = consumer.submit(request)
    submitted = time.perf_counter()
    job = consumer.wait(job["id"], 60.0)
    ended = time.perf_counter()
    consumer.release(job["id"])
    total = time.perf_counter()
    if job["state"] != "released":
        raise SystemExit(f"a job ended {job['state']} ({job['code']})")
    positions = job["positions"]
    texts = parse_json(consumer.log_bytes(f"entries?from={positions['decided']}&to={positions['ended'] + 1}"))["entries"]
    at = {
        header.kind: header.at
        for header in (decode(Header, parse_json(text.encode())) for text in texts)
        if header.ids.get("job") == job["id"]
    }
    return {
        "submit": submitted - started,
        "wait_for_worker": (at["running"] - at["granted"]) / 1000,
        "start_and_attest": (at["attested"] - at["running"]) / 1000,
        "key_release": (at["key_released"] - at["attested"]) / 1000,
        "run": (at["released"] - at["key_released"]) / 1000,
        "notice": max(0.0, ended - started - (submitted - started) - (at["released"] - at["granted"]) / 1000),
        "hand_out": total - ended,
        "total": total - started,
    }


def floor() -> float:
    """Seconds of a fresh isolated interpreter with an enclave's imports."""
    code = f"import sys; sys.path.insert(0, {str(checkout_root())!r}); {IMPORTS}"
    started = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-B", "-c", code], check=True)
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--quick", action="store_true", help="fewer jobs")
    jobs = 5 if arguments.parse_args().quick else 25
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        stage = Stage(folder=Path(folder), console=Console(stderr=True))
        try:
            consumer, agreement = set_up(stage)
            one_job(consumer, agreement)
            runs, floors = [], []
            for _ in range(jobs):
                runs.append(one_job(consumer, agreement))
                floors.append(floor())
        finally:
            stage.stop()
    medians = {step: statistics.median(run[step] for run in runs) for step in runs[0]}
    for step, seconds in medians.items():
        print(f"{step:18s} {seconds * 1000:8.0f} ms")
    base = statistics.median(floors)
    print(f"{'floor':18s} {base * 1000:8.0f} ms")
    steps = {step: round(seconds, 4) for step, seconds in medians.items() if step != "total"}
    print(
        json.dumps(
            {
                "steps": steps,
                "total_s": round(medians["total"], 4),
                "floor_s": round(base, 4),
                "ratio_to_floor": round(medians["total"] / base, 3),
                "jobs": jobs,
            }
        )
    )


if __name__ == "__main__":
    main()
