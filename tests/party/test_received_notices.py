"""What a receiver believes of a notice: signed by the kept key, for itself, just now; and which one came before."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from hypothesis import given
from hypothesis import strategies as st

from enclaves.kit.signatures import SigningKey
from policies.canonical import canonical
from policies.errors import Malformed, NotFound, SandboxError, Tampered
from sandbox.jobs.notices import Notice, content, notice_id, public_text, signed_headers
from sandbox.party.home import Home
from sandbox.party.webhooks import KEPT_KEY, parse_message, receive, verify_notice

NOW = 1_700_000_000
SERVICE = SigningKey.from_bytes(bytes(range(32)))
KEY = public_text(SERVICE.public)
NAME = notice_id("insurer", "agreement", "sha256:" + "ab" * 32)
NOTICE = Notice(
    id=NAME, participant="insurer", kind="agreement", subject="sha256:" + "ab" * 32, at=1, state="waiting", attempts=1, next_at=1
)
BODY = content(NOTICE, "sandbox.local/log")
HEADERS = signed_headers(NAME, BODY, NOW, SERVICE)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home that keeps the service's key."""
    found = Home.create(tmp_path / "home", "insurer", "Insurer", "http://127.0.0.1:1")
    found.write(KEPT_KEY, {"key": KEY})
    return found


def message(headers: dict[str, str], body: bytes, end: str = "\r\n", first: str = "POST /hook HTTP/1.1") -> bytes:
    lines = [*([first] if first else []), *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    return end.join(lines).encode() + body


def test_the_signature_is_that_of_standard_webhooks() -> None:
    """Checked without this project: `v1a`, Ed25519 over `id.timestamp.body`, key in base64 behind `whpk_`."""
    public = Ed25519PublicKey.from_public_bytes(base64.b64decode(KEY.removeprefix("whpk_")))
    version, _, signature = HEADERS["webhook-signature"].partition(",")
    assert version == "v1a"
    public.verify(base64.b64decode(signature), f"{HEADERS['webhook-id']}.{HEADERS['webhook-timestamp']}.".encode() + BODY)


def test_a_notice_signed_elsewhere_by_the_book_is_verified() -> None:
    private = Ed25519PrivateKey.generate()
    key = "whpk_" + base64.b64encode(private.public_key().public_bytes_raw()).decode()
    signature = base64.b64encode(private.sign(f"{NAME}.{NOW}.".encode() + BODY)).decode()
    headers = {"Webhook-Id": NAME, "Webhook-Timestamp": str(NOW), "Webhook-Signature": f"v1,abc v1a,AAAA v1a,{signature}"}
    assert verify_notice(headers, BODY, key, NOW).subject == NOTICE.subject


@pytest.mark.parametrize("away", [-300, 0, 300])
def test_a_notice_of_the_last_five_minutes_is_believed(away: int) -> None:
    assert verify_notice(HEADERS, BODY, KEY, NOW + away, "insurer").id == NAME


@pytest.mark.parametrize("away", [-301, 301, 10**6])
def test_an_old_notice_played_again_is_refused(away: int) -> None:
    with pytest.raises(Tampered) as refused:
        verify_notice(HEADERS, BODY, KEY, NOW + away)
    assert refused.value.code == "webhook-time"


def test_a_fresh_time_on_an_old_notice_is_refused() -> None:
    with pytest.raises(Tampered) as refused:
        verify_notice(HEADERS | {"webhook-timestamp": str(NOW + 999)}, BODY, KEY, NOW + 999)
    assert refused.value.code == "webhook-signature"


@pytest.mark.parametrize("name", list(HEADERS))
def test_every_header_is_needed(name: str) -> None:
    with pytest.raises(Malformed):
        verify_notice({key: value for key, value in HEADERS.items() if key != name}, BODY, KEY, NOW)


@given(st.integers(0, len(BODY) - 1), st.integers(1, 255))
def test_no_changed_byte_of_the_body_is_believed(index: int, change: int) -> None:
    body = bytearray(BODY)
    body[index] ^= change
    with pytest.raises(Tampered):
        verify_notice(HEADERS, bytes(body), KEY, NOW)


def test_another_id_key_or_receiver_is_refused() -> None:
    other = signed_headers("notice_other", BODY, NOW, SERVICE)
    with pytest.raises(Tampered, match="id"):
        verify_notice(other, BODY, KEY, NOW)
    with pytest.raises(Tampered):
        verify_notice(HEADERS | {"webhook-id": "notice_other"}, BODY, KEY, NOW)
    with pytest.raises(Tampered):
        verify_notice(HEADERS, BODY, public_text(SigningKey.generate().public), NOW)
    with pytest.raises(Tampered, match="participant"):
        verify_notice(HEADERS, BODY, KEY, NOW, "clinic")


@pytest.mark.parametrize("key", ["", "whpk_", "whpk_AAAA", "whsk_" + "A" * 43 + "=", "whpk_" + "A" * 42 + "é="])
def test_what_is_no_public_key_is_refused(key: str) -> None:
    with pytest.raises(SandboxError):
        verify_notice(HEADERS, BODY, key, NOW)


@pytest.mark.parametrize("signature", ["", "v1a", "v1a,", "v1a,é", "v1a,====", "v1," + "A" * 88, "v1a," + "A" * 86 + "==", " v1a,x" * 20])
def test_what_is_no_signature_is_refused(signature: str) -> None:
    with pytest.raises(Tampered) as refused:
        verify_notice(HEADERS | {"webhook-signature": signature}, BODY, KEY, NOW)
    assert refused.value.code == "webhook-signature"


def test_a_signed_body_that_is_no_notice_is_refused() -> None:
    for body in (b"", b"[]", canonical({"type": "agreement"}), BODY[:-1] + b',"sql":"SELECT 1"}'):
        with pytest.raises(Malformed):
            verify_notice(signed_headers(NAME, body, NOW, SERVICE), body, KEY, NOW)


@pytest.mark.parametrize("end", ["\r\n", "\n"])
@pytest.mark.parametrize("first", ["POST /hook HTTP/1.1", ""])
def test_a_repeated_id_is_told_apart_from_a_new_one(home: Home, end: str, first: str) -> None:
    notice, repeated = receive(home, message(HEADERS, BODY, end, first), NOW)
    assert (notice.subject, repeated) == (NOTICE.subject, False)
    again = signed_headers(NAME, BODY, NOW + 20, SERVICE)
    assert receive(home, message(again, BODY, end, first), NOW + 20)[1]


def test_a_refused_notice_is_not_remembered(home: Home) -> None:
    with pytest.raises(Tampered):
        receive(home, message(HEADERS | {"webhook-signature": "v1a," + "A" * 86 + "=="}, BODY), NOW)
    assert not receive(home, message(HEADERS, BODY), NOW)[1]


def test_without_a_kept_key_nothing_is_believed(home: Home) -> None:
    (home.folder / KEPT_KEY).unlink()
    with pytest.raises(NotFound):
        receive(home, message(HEADERS, BODY), NOW)


@pytest.mark.parametrize(
    "text", [b"", b"a: b", b"a: b\r\nA: c\r\n\r\n", b"POST / HTTP/1.1\r\nno header\r\n\r\n", b"x: " + b"a" * 70_000 + b"\r\n\r\n"]
)
def test_what_is_no_message_is_refused(text: bytes) -> None:
    with pytest.raises(Malformed):
        parse_message(text)


@given(st.binary(max_size=300))
def test_no_bytes_make_the_parser_fail_otherwise(data: bytes) -> None:
    try:
        headers, body = parse_message(data)
        verify_notice(headers, body, KEY, NOW)
    except SandboxError:
        return
    pytest.fail("random bytes are no notice")


def test_a_body_with_empty_lines_stays_whole() -> None:
    assert parse_message(b"a: b\n\nfirst\r\n\r\nsecond\n\n")[1] == b"first\r\n\r\nsecond\n\n"
