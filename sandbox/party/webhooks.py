"""The receiver's side of notices: a POST is believed only if the service signed it, for this participant, just now.

The form is that of Standard Webhooks with Ed25519 (`v1a`). A notice says "look": whoever gets it reads what waits from the service.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from enclaves.kit.signatures import verify_raw
from policies.canonical import parse_json
from policies.codec import decode
from policies.errors import Malformed, NotFound, Tampered
from sandbox.party.home import Home

TOLERANCE_S = 300
"""How far the time of an attempt may be from the receiver's clock."""

MAX_BYTES = 64 << 10
KEPT_KEY = "webhook.json"
SEEN = "webhook-seen.json"
MAX_SEEN = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """A verified notice.

    Attributes:
        type: `agreement` or `epoch` (to sign), `key-request` (for the broker) or `release` (to read).
        id: the same however often it is sent.
        subject: digest of the agreement or epoch, or id of the job.
        at: when it came to wait, milliseconds since 1970, as the service says.
        service: origin of the service's log.
    """

    type: Literal["agreement", "key-request", "release", "epoch"]
    id: str
    participant: str
    subject: str
    at: int
    service: str


def verify_notice(headers: Mapping[str, str], body: bytes, key: str, now: float, participant: str | None = None) -> Notice:
    """Return the notice of a POST.

    Args:
        key: the service's public key, `whpk_` and base64.
        now: seconds since 1970.
        participant: who receives; None accepts a notice to anybody.

    Raises:
        Malformed: a header is missing, or the body is no notice.
        Tampered: code `webhook-signature`, `webhook-time` (not within 300 s), `webhook-id` or `webhook-participant`.
    """
    found = {name.lower(): value.strip() for name, value in headers.items()}
    for name in ("webhook-id", "webhook-timestamp", "webhook-signature"):
        if name not in found:
            raise Malformed("is missing", where=name)
    stamp = found["webhook-timestamp"]
    if not re.fullmatch("[0-9]{1,12}", stamp, re.ASCII):
        raise Malformed("must be seconds since 1970", where="webhook-timestamp")
    _require_signed(f"{found['webhook-id']}.{stamp}.".encode() + body, found["webhook-signature"], _public(key))
    if abs(now - int(stamp)) > TOLERANCE_S:
        raise Tampered(f"the notice was sent more than {TOLERANCE_S} s from now", code="webhook-time")
    notice = decode(Notice, parse_json(body, limit=MAX_BYTES))
    if notice.id != found["webhook-id"]:
        raise Tampered("the notice has another id than its header", code="webhook-id")
    if participant is not None and notice.participant != participant:
        raise Tampered("the notice is for another participant", code="webhook-participant")
    return notice


def receive(home: Home, message: bytes, now: float) -> tuple[Notice, bool]:
    """Verify a POST as it came over the wire (headers, empty line, body) with the kept key; also whether its id came before.

    An id that came before is a repetition after a lost answer, or somebody's replay: either way it is to be answered and not acted upon.

    Raises:
        NotFound: no key is kept here; set the webhook first. Malformed, Tampered: as `verify_notice`.
    """
    headers, body = parse_message(message)
    kept = home.read_or(KEPT_KEY, None)
    if kept is None:
        raise NotFound("this home keeps no webhook key; set the webhook first (`sandbox party webhook`)")
    notice = verify_notice(headers, body, str(kept["key"]), now, home.participant)
    with home.locked("webhook"):
        seen: dict[str, int] = home.read_or(SEEN, {})
        repeated = notice.id in seen
        if not repeated:
            newest = sorted({**seen, notice.id: int(now)}.items(), key=lambda item: item[1])[-MAX_SEEN:]
            home.write(SEEN, dict(newest))
    return notice, repeated


def parse_message(message: bytes) -> tuple[dict[str, str], bytes]:
    """Headers and body of an HTTP message, with or without its request line. Raises Malformed."""
    if len(message) > MAX_BYTES:
        raise Malformed(f"the message is larger than {MAX_BYTES} bytes")
    end = re.search(rb"\r?\n\r?\n", message)
    if end is None:
        raise Malformed("the message has no empty line between headers and body")
    headers: dict[str, str] = {}
    for index, line in enumerate(message[: end.start()].decode("latin-1").split("\n")):
        name, colon, value = line.partition(":")
        if index == 0 and (not colon or " " in name):
            continue  # the request line
        if not colon or name.lower() in headers:
            raise Malformed("a header is no header, or there twice", where=name[:40])
        headers[name.lower()] = value.strip()
    return headers, message[end.end() :]


def _public(key: str) -> bytes:
    try:
        public = base64.b64decode(key.removeprefix("whpk_"), validate=True)
    except ValueError as error:
        raise Malformed("must be `whpk_` and base64", where="key") from error
    if not key.startswith("whpk_") or len(public) != 32:
        raise Malformed("must be `whpk_` and the base64 of 32 bytes", where="key")
    return public


def _require_signed(message: bytes, signatures: str, public: bytes) -> None:
    """Raise Tampered unless one of the space-separated `v1a` signatures is the key's: a service that changes its key sends two."""
    for item in signatures.split(" ")[:8]:
        version, _, text = item.partition(",")
        if version != "v1a":
            continue
        try:
            verify_raw(public, message, base64.b64decode(text, validate=True))
        except (Tampered, Malformed, ValueError):
            continue
        return
    raise Tampered("the service's key did not sign this notice", code="webhook-signature")


def shown(notice: Notice, *, repeated: bool) -> dict[str, Any]:
    """A verified notice as JSON."""
    return {"type": notice.type, "id": notice.id, "subject": notice.subject, "at": notice.at, "repeated": repeated}
