"""Small documents that participants sign, besides offers, agreements and job requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policies.canonical import digest_bytes
from policies.errors import Malformed
from policies.names import require_dataset, require_digest, require_key, require_name, require_slug


@dataclass(frozen=True, kw_only=True, slots=True)
class Admission:
    """What a participant signs to be admitted: its public keys, and the digests of its one-time code and of the credential that it chose.

    The credential itself (32 random bytes or more) is never sent with an admission. Its digest is public; a lookup hashes what is sent, so
    the digest opens nothing. Admissions of the first logs name none; no service admits by such a one any more.
    """

    participant: str
    title: str
    signing_key: str
    sealing_key: str
    code_digest: str
    credential_digest: str | None = None

    def __post_init__(self) -> None:
        require_name(self.participant, "participant")
        require_key(self.signing_key, "signing_key")
        require_key(self.sealing_key, "sealing_key")
        require_digest(self.code_digest, "code_digest")
        if self.credential_digest is not None:
            require_digest(self.credential_digest, "credential_digest")
        if not 1 <= len(self.title) <= 200:
            raise Malformed("must have 1 to 200 characters", where="title")
        if self.signing_key == self.sealing_key:
            raise Malformed("signing and sealing key must differ", where="sealing_key")
        if self.code_digest == self.credential_digest:
            raise Malformed("the code cannot be the credential", where="credential_digest")


@dataclass(frozen=True, kw_only=True, slots=True)
class VersionManifest:
    """What a provider signs for one encrypted file: dataset and version, digest, size in bytes and the encrypted columns."""

    kind: Literal["version/1"] = "version/1"
    dataset: str
    version: int
    file_digest: str
    size: int
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        require_dataset(self.dataset, "dataset")
        require_digest(self.file_digest, "file_digest")
        if not 1 <= self.version <= 10**9:
            raise Malformed("must be at least 1", where="version")


@dataclass(frozen=True, kw_only=True, slots=True)
class AgreementSignature:
    """What a party signs to agree."""

    kind: Literal["agreement-signature/1"] = "agreement-signature/1"
    agreement: str

    def __post_init__(self) -> None:
        require_digest(self.agreement, "agreement")


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyReleaseStatement:
    """What a broker signs when it seals keys to one attested enclave for one grant; `sealed` is the digest of the ciphertext."""

    kind: Literal["key-release/1"] = "key-release/1"
    job: str
    grant: str
    evidence: str
    sealed: str

    def __post_init__(self) -> None:
        for name in ("grant", "evidence", "sealed"):
            require_digest(getattr(self, name), name)


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRefusalStatement:
    """What a broker signs when it refuses: which job and grant, and a code word."""

    kind: Literal["key-refusal/1"] = "key-refusal/1"
    job: str
    grant: str
    reason: str

    def __post_init__(self) -> None:
        require_digest(self.grant, "grant")
        require_slug(self.reason, "reason")


def secret_digest(secret: str) -> str:
    """Digest under which a random code or credential (at least 24 random bytes) is stored and looked up."""
    return digest_bytes(b"sandbox/v1/secret\n" + secret.encode())
