"""Notices to participants' webhooks, as values: what is sent, how it is signed, when it is tried again, and where it may go.

A notice names what waits and nothing else: no data, no query, no figure. The form is that of Standard Webhooks with Ed25519 signatures
(`v1a`): https://www.standardwebhooks.com, section "Signature scheme".
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from enclaves.kit.signatures import SigningKey
from policies.canonical import canonical
from policies.errors import Malformed

NoticeKind = Literal["agreement", "key-request", "release", "epoch", "approval", "use", "exchange", "probing"]
"""What waits: an agreement for a signature, a run for keys, a release for its recipient, a new epoch of the log for a signature,
a job for an approval; `use` tells a party to be informed that a release was made, `exchange` a participant that one moved on, `probing` the
owner of a model that the rows of a call look made to copy it."""

NoticeState = Literal["waiting", "delivered", "settled", "dead"]
"""`settled`: what it was about no longer waits, so that it is not sent. `dead`: given up after so many attempts."""

PUBLIC_PREFIX = "whpk_"
MAX_URL = 500
GROWTH = 4.0
LONGEST_PAUSE_S = 6 * 3600.0
NAT64 = ipaddress.ip_network("64:ff9b::/96")
NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """One entry of the outbox.

    Attributes:
        id: the same however often it is sent; receivers act once per id.
        subject: digest of the agreement or epoch, or id of the job.
        at, next_at: milliseconds since 1970: when it came to wait, and when it is sent next.
        attempts: how often it was tried.
    """

    id: str
    participant: str
    kind: NoticeKind
    subject: str
    at: int
    state: NoticeState
    attempts: int
    next_at: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhook:
    """Where a participant wants its notices; `failures` counts attempts since the last one that succeeded."""

    participant: str
    url: str
    failures: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Target:
    """A parsed webhook URL."""

    tls: bool
    host: str
    port: int
    path: str


def notice_id(participant: str, kind: NoticeKind, subject: str) -> str:
    """The one id of a notice, so that it is stored once however often its cause is repeated."""
    text = "\n".join(("sandbox/v1/notice", participant, kind, subject))
    return "notice_" + hashlib.sha256(text.encode()).hexdigest()[:32]


def content(notice: Notice, origin: str) -> bytes:
    """The body that is sent: canonical JSON with the log's origin, so that a receiver of several services can tell them apart."""
    return canonical(
        {
            "type": notice.kind,
            "id": notice.id,
            "participant": notice.participant,
            "subject": notice.subject,
            "at": notice.at,
            "service": origin,
        }
    )


def public_text(public: bytes) -> str:
    """A public key as Standard Webhooks writes it."""
    return PUBLIC_PREFIX + base64.b64encode(public).decode()


def signed_headers(name: str, body: bytes, seconds: int, key: SigningKey) -> dict[str, str]:
    """The three headers of an attempt made at `seconds` since 1970: a signature over `id.timestamp.body`."""
    signature = key.sign_raw(f"{name}.{seconds}.".encode() + body)
    return {
        "webhook-id": name,
        "webhook-timestamp": str(seconds),
        "webhook-signature": "v1a," + base64.b64encode(signature).decode(),
    }


def pause_s(attempt: int, first_s: float, draw: float) -> float:
    """Seconds from failed attempt number `attempt` (from 1) to the next: growing fourfold, scattered by a fifth by `draw` in [0, 1)."""
    return min(first_s * GROWTH ** (attempt - 1), LONGEST_PAUSE_S) * (0.8 + 0.4 * draw)


def parse_target(url: str, *, plain: bool = False, private: bool = False) -> Target:
    """Return the parts of a webhook URL.

    Args:
        plain: whether `http` is accepted.
        private: whether an address that is not public is accepted where one is spelled out.

    Raises:
        Malformed: code `webhook-url`.
    """
    if not (url.isascii() and url.isprintable()) or " " in url or len(url) > MAX_URL or "\\" in url:
        raise _bad(f"must be printable ASCII of at most {MAX_URL} characters")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise _bad("is no URL") from error
    if parts.scheme not in (("https", "http") if plain else ("https",)):
        raise _bad("must begin with https://")
    if not parts.hostname or parts.username is not None or parts.password is not None or parts.fragment or "#" in url:
        raise _bad("must have a host, and neither user, password nor fragment")
    try:
        spelled = [str(ipaddress.ip_address(parts.hostname))]
    except ValueError:
        spelled = []
    if not private and (not all(map(is_public, spelled)) or parts.hostname.rstrip(".").rpartition(".")[2] == "localhost"):
        raise _bad("must not name a private address")
    tls = parts.scheme == "https"
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(tls=tls, host=parts.hostname, port=port or (443 if tls else 80), path=path)


def is_public(address: str) -> bool:
    """Whether an IP address belongs to the public internet: neither loopback, private, link-local, multicast nor a way to one of those."""
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour or (found.teredo[1] if found.teredo else None)
        if inner is None and found in NAT64:
            inner = ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
        if found.is_site_local or found.is_reserved or found in NAT64_LOCAL:
            return False
    return found.is_global and not found.is_multicast


def choose(addresses: Sequence[str], *, private: bool) -> str | None:
    """The address to connect to: the first, or None if there is none or one of them is not public; a name that has both is refused."""
    if not addresses or not (private or all(map(is_public, addresses))):
        return None
    return addresses[0]


def _bad(what: str) -> Malformed:
    return Malformed(f"a webhook's URL {what}", where="url", code="webhook-url")
