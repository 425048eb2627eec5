"""One's own witness cosigns the newest checkpoint of a service and sends the cosignature there."""

from __future__ import annotations

from typing import Any

from policies.errors import NotFound, Tampered
from sandbox.audit.checkpoint import parse_text, signature_lines
from sandbox.audit.witness import Submission
from sandbox.party.client import Client
from sandbox.party.witness import Witness


def submit(witness: Witness, client: Client) -> dict[str, Any]:
    """Have one's own witness cosign the newest checkpoint of a service and send it the cosignature; returns the service's answer.

    Raises:
        Tampered: code `split-view`, where the witness has seen another history. NotFound: it does not know the log.
        Forbidden: the operator does not name this witness.
    """
    note = client.checkpoint()
    text, _ = signature_lines(note)
    seen = witness.newest().get(text.partition("\n")[0])
    size = parse_text(text, text.partition("\n")[0]).size
    if seen is not None and seen.size > size:
        raise Tampered("it has seen a longer log", code="rolled-back")
    old = 0 if seen is None else seen.size
    proof = tuple(bytes.fromhex(item) for item in client.consistency(old, size)) if 0 < old < size else ()
    answer = witness.add_checkpoint(Submission(old=old, proof=proof, note=note).render())
    if answer.status == 404:
        raise NotFound(answer.body.strip())
    if answer.status != 200:
        raise Tampered(f"the witness refuses: {answer.body.strip()}", code="split-view" if answer.conflict else "witness")
    return client.add_cosignatures(f"{text}\n{answer.body}")
