"""Signed documents: what binds a firm carries its Ed25519 signature over canonical JSON, purpose and signer inside the signed bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from enclaves.kit import signatures
from enclaves.kit.signatures import SigningKey
from policies.canonical import canonical, digest
from policies.codec import encode
from policies.errors import Tampered
from policies.names import require_name

Purpose = Literal[
    "admission", "declaration", "version", "offer", "agreement", "agreement-signature", "job-request", "key-release", "key-refusal",
    "key-rotation", "key-revocation", "epoch", "key-destruction",
    "tightening", "job-approval", "job-cancellation", "duty-done",
    "joint-manifest", "joint-contribution", "joint-statement", "grant-renunciation",
    "exchange", "exchange-act",
    "score-request", "score-statement",
    "audit-scope",
    "score-return",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class Signed:
    """A document, who signed it and for what. `signature` is 128 hex digits."""

    purpose: Purpose
    by: str
    body: dict[str, Any]
    signature: str

    def __post_init__(self) -> None:
        require_name(self.by, "by")


def sign_document(purpose: Purpose, by: str, body: Any, key: SigningKey) -> Signed:
    """Return `body` (a JSON value or a typed document) signed by participant `by` for one purpose."""
    plain = encode(body)
    return Signed(purpose=purpose, by=by, body=plain, signature=key.sign(purpose, _message(by, plain)).hex())


def verify_document(signed: Signed, purpose: Purpose, by: str, public: str, text: bytes | None = None) -> dict[str, Any]:
    """Return the body if `by` signed it for `purpose` with the key `public` (hex).

    Args:
        text: the canonical bytes of the body, where the caller has them already.

    Raises:
        Tampered: code `bad-signature` for another purpose, another signer or a signature that does not verify.
    """
    if signed.purpose != purpose or signed.by != by:
        raise Tampered(f"this is not `{by}`'s signature on a {purpose}", code="bad-signature")
    try:
        signatures.verify(bytes.fromhex(public), purpose, _message(by, signed.body, text), bytes.fromhex(signed.signature))
    except (Tampered, ValueError) as error:
        raise Tampered(f"`{by}`'s signature on this {purpose} is wrong", code="bad-signature") from error
    return signed.body


def document_digest(signed: Signed) -> str:
    """Return the digest of the signed body, which names the document whoever signs it."""
    return digest(signed.body)


def _message(by: str, body: dict[str, Any], text: bytes | None = None) -> bytes:
    if text is not None:
        return b'{"body":%b,"by":%b}' % (text, canonical(by))
    return canonical({"by": by, "body": body})
