"""A broker's challenges: 32 random bytes, on disk before they are sent, good for 60 s and for one release."""

from __future__ import annotations

import os
from typing import Any

from policies.errors import EvidenceRejected
from policies.statement import Nonce
from sandbox.party.home import Home

NONCE_LIFETIME_S = 60
RENEW_S = 20
"""A challenge that is asked for again is the same for so long: evidence must still reach the broker while it is good."""


def challenge_for(home: Home, job_id: str, now: float) -> str:
    """Return the nonce for a job, a fresh one where there is none or the newest is older than `RENEW_S`; it is on disk."""
    kept = _good(home, job_id, now)
    if kept and now - kept[-1]["at"] <= RENEW_S:
        return str(kept[-1]["nonce"])
    nonce = os.urandom(32).hex()
    home.write(nonce_file(job_id), {"nonces": [*kept, {"nonce": nonce, "at": int(now)}]})
    return nonce


def good_nonces(home: Home, job_id: str, now: float, lifetime_s: int = NONCE_LIFETIME_S) -> tuple[Nonce, ...]:
    """Return the challenges of a job that evidence may still answer. Raises EvidenceRejected (code `nonce-expired`) if there is none."""
    kept = _good(home, job_id, now, lifetime_s)
    if not kept:
        raise EvidenceRejected("the challenge is unknown or too old", code="nonce-expired")
    return tuple(Nonce(provider=home.participant, value=item["nonce"]) for item in kept)


def use_up(home: Home, job_id: str) -> None:
    """Forget every challenge of a job: each is good for one answer."""
    home.write(nonce_file(job_id), {"nonces": []})


def nonce_file(job_id: str) -> str:
    """Where a job's challenges are kept."""
    return f"broker/{job_id}.nonce.json"


def _good(home: Home, job_id: str, now: float, lifetime_s: int = NONCE_LIFETIME_S) -> list[dict[str, Any]]:
    kept = home.read_or(nonce_file(job_id), {"nonces": []})
    rows = kept.get("nonces", [kept])  # older code kept one
    return [row for row in rows if 0 <= now - row["at"] <= lifetime_s]
