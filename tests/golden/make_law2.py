"""Makes `tests/golden/law2/`: the export of a log of `law/2` with its first features, and the receipts of its releases.

Run once, with the code whose log it freezes: `python -m tests.golden.make_law2 FOLDER`. A golden folder is never made again: newer code
must keep replaying what older code logged, and a folder remade by newer code would test nothing.
"""

from __future__ import annotations

import random
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from enclaves.kit.envelope import sign_document
from enclaves.kit.sealing import SealingKey
from enclaves.kit.signatures import SigningKey
from policies.canonical import canonical
from policies.codec import encode
from policies.documents import KeyRotation
from policies.privacy import parse_epsilon, parse_loss
from sandbox.exchange.rotation import rotate
from sandbox.jobs import handout
from tests.audit.test_measures import REGIONS, _labelled
from tests.support import terms
from tests.support.story import Story, begin, export, tables

COUNT = "SELECT COUNT(*) AS people FROM insurer.plans"
SPEND = "SELECT coinsurance, AVG(medical_spend) AS spend, COUNT(*) AS years FROM insurer.plans WHERE year <= 3 GROUP BY coinsurance"


def tell(folder: Path) -> Story:
    """One agreement over a ledger in rho and one in epsilon; a public table; every outcome; a repetition; a rotation of the consumer."""
    story = begin(folder, others=("bureau", "office"))
    story.declare(REGIONS)
    story.publish(REGIONS, pa.table({"coinsurance": [0, 25, 50, 95, 100], "label": ["free", "low", "half", "high", "none"]}), 1)
    asking = ("institute", "bureau")
    both: dict[str, Any] = {"assignees": asking, "recipients": asking}
    parties: dict[str, Any] = {"insurer": ("provider",), "clinic": ("provider",), "office": ("provider",)}
    parties |= dict.fromkeys(asking, ("consumer",)) | {"auditor": ("auditor",)}
    declarations = (terms.declaration_insurer(), terms.declaration_clinic(), REGIONS)
    rho = {"job_loss": parse_loss("zcdp", "0.3", "0.00001"), "total_loss": parse_loss("zcdp", "0.5", "0.00001")}
    insurer = terms.terms_open(terms.declaration_insurer(), **both, **rho, consumer_loss=parse_loss("zcdp", "0.4", "0.00001"))
    clinic = terms.terms_clinic(**both, total_loss=parse_epsilon("1"), consumer_loss=parse_epsilon("0.5"))
    story.agreement = story.sealed_agreement(
        parties=parties, declarations=declarations, terms=(insurer, clinic, terms.terms_open(REGIONS, **both))
    )
    agreement = story.agree(story.agreement)
    visits = "SELECT COUNT(*) AS rows_, AVG(doctor_visits) AS visits FROM clinic.care"

    def ask(label: str, sql: str, loss: Any, **more: Any) -> None:
        story.ask(label, agreement=agreement, sql=sql, loss=loss, **more)

    ask("counted", COUNT, parse_loss("zcdp", "0.1"))
    ask("again", COUNT.lower(), parse_loss("zcdp", "0.1"))
    ask("labelled", _labelled(), parse_loss("zcdp", "0.1"))
    ask("too-much", COUNT + " WHERE female = 1", parse_loss("zcdp", "0.25"))
    ask("visits", visits, parse_epsilon("0.25"), consumer="bureau")
    ask("refused", visits + " WHERE year = 1", parse_epsilon("0.125"), spoil=True)
    plans, _ = tables(random.Random(2026))
    story.publish(terms.declaration_insurer(), plans.slice(0, 200), 2)
    _rotate(story, "institute")
    ask("rotated", SPEND, parse_loss("zcdp", "0.05"))
    ask("failed", COUNT + " WHERE year = 2", parse_loss("zcdp", "0.01"), refuse=True)
    return story


def _rotate(story: Story, name: str) -> None:
    firm = story.firms[name]
    new = replace(firm, signing=SigningKey.generate(), sealing=SealingKey.generate())
    rotation = KeyRotation(
        participant=name,
        sequence=1,
        old_key=firm.signing.public.hex(),
        signing_key=new.signing.public.hex(),
        sealing_key=new.sealing.public.hex(),
    )
    signed = firm.sign("key-rotation", rotation)
    rotate(story.host, story.member(name), signed, sign_document("key-rotation", name, rotation, new.signing).signature)
    story.firms[name] = new


def main(folder: Path) -> None:
    """Tell the story and keep its export and its receipts in `folder`."""
    if folder.exists():
        raise SystemExit(f"{folder} exists; golden folders are never regenerated")
    with tempfile.TemporaryDirectory() as scratch:
        story = tell(Path(scratch) / "data")
        files = {f"export/{path}": data for path, data in export(story.host, "auditor").items()}
        for label, job in story.jobs.items():
            if job.state in ("released", "withheld"):
                with story.host.store.reading() as tx:
                    files[f"receipts/{label}.json"] = canonical(encode(handout.release(tx, job)[0]))
        story.host.store.close()
    for path, contents in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(contents)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
