"""Reference values that a provider has pinned at home: no key goes to other code, whatever an agreement accepts besides."""

from __future__ import annotations

from policies.codec import decode
from policies.errors import EvidenceRejected, NotFound
from policies.names import require_digest
from policies.statement import Evidence
from sandbox.party.home import Home

PINS = "pins.json"


def pinned(home: Home) -> tuple[str, ...]:
    """The pinned measurements, in the order in which they were pinned; with none, the agreements alone count."""
    return decode(tuple[str, ...], home.read_or(PINS, []))


def pin(home: Home, measurement: str) -> None:
    """Release keys from now on to this code and to what was pinned before only. Raises Malformed."""
    require_digest(measurement, "measurement")
    with home.locked("pins"):
        home.write(PINS, list(dict.fromkeys([*pinned(home), measurement])))
    home.note("pinned", measurement=measurement)


def unpin(home: Home, measurement: str) -> None:
    """Take a pin back. Raises NotFound."""
    with home.locked("pins"):
        kept = pinned(home)
        if measurement not in kept:
            raise NotFound("this measurement is not pinned")
        home.write(PINS, [item for item in kept if item != measurement])
    home.note("unpinned", measurement=measurement)


def require_pinned(home: Home, evidence: Evidence) -> None:
    """Raise EvidenceRejected (code `not-pinned`) where there are pins and the evidence is of none of them."""
    kept = pinned(home)
    if kept and evidence.measurement not in kept:
        raise EvidenceRejected("the measurement is not among those that this home has pinned", code="not-pinned")
