"""Small documents that participants sign, besides offers, agreements and job requests."""

from __future__ import annotations

from collections.abc import Mapping
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
class KeyRotation:
    """What a participant signs, with its old and with its new signing key, to replace both its keys.

    Attributes:
        sequence: 1 for the first rotation of the keys that it was admitted with, then one more each time.
        old_key: the signing key in force until now; `signing_key` and `sealing_key` are in force from the entry on.
    """

    kind: Literal["key-rotation/1"] = "key-rotation/1"
    participant: str
    sequence: int
    old_key: str
    signing_key: str
    sealing_key: str

    def __post_init__(self) -> None:
        require_name(self.participant, "participant")
        require_key(self.old_key, "old_key")
        require_key(self.signing_key, "signing_key")
        require_key(self.sealing_key, "sealing_key")
        if not 1 <= self.sequence <= 10**9:
            raise Malformed("must be at least 1", where="sequence")
        if len({self.old_key, self.signing_key, self.sealing_key}) != 3:
            raise Malformed("old and new keys must differ", where="signing_key")


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedRotation:
    """A rotation with the signatures of the old and of the new signing key (128 hex digits each), as the log's headers carry it."""

    rotation: KeyRotation
    old_signature: str
    new_signature: str

    def to_ids(self) -> dict[str, str]:
        """The header of its `rotated` entry: whoever follows the bare log can verify it, and no opening can be kept back."""
        rotation = self.rotation
        return {
            "participant": rotation.participant,
            "sequence": str(rotation.sequence),
            "old": rotation.old_key,
            "signing": rotation.signing_key,
            "sealing": rotation.sealing_key,
            "old_signature": self.old_signature,
            "new_signature": self.new_signature,
        }

    @classmethod
    def from_ids(cls, ids: Mapping[str, str]) -> SignedRotation:
        """The rotation that a `rotated` entry records. Raises Malformed."""
        try:
            rotation = KeyRotation(
                participant=ids["participant"],
                sequence=int(ids["sequence"]),
                old_key=ids["old"],
                signing_key=ids["signing"],
                sealing_key=ids["sealing"],
            )
            found = cls(rotation=rotation, old_signature=ids["old_signature"], new_signature=ids["new_signature"])
        except (KeyError, ValueError) as error:
            raise Malformed("the entry of a rotation does not say all of it") from error
        if found.to_ids() != dict(ids):
            raise Malformed("the entry of a rotation says more than that")
        return found


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRevocation:
    """What a participant signs to revoke its own keys: nothing that they sign counts from the entry on, and there is no way back."""

    kind: Literal["key-revocation/1"] = "key-revocation/1"
    participant: str
    signing_key: str

    def __post_init__(self) -> None:
        require_name(self.participant, "participant")
        require_key(self.signing_key, "signing_key")


def follow_rotations(participant: str, keys: tuple[str, str], rotations: tuple[SignedRotation, ...]) -> tuple[str, str]:
    """Return the (signing, sealing) keys to which `rotations` lead a participant from `keys`.

    Who relies on it verifies the signatures too (`enclaves.kit.rotation`).

    Raises:
        Malformed: code `rotation-chain`, unless each begins with the key at which the one before ended.
    """
    before: int | None = None
    for item in (signed.rotation for signed in rotations):
        if item.participant != participant or item.old_key != keys[0] or before not in (None, item.sequence - 1):
            raise Malformed("the rotations do not lead on from one another", code="rotation-chain")
        keys, before = (item.signing_key, item.sealing_key), item.sequence
    return keys


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
class KeyDestruction:
    """What a provider signs once it has no key of one version any more: whoever holds the file can never open it."""

    kind: Literal["key-destruction/1"] = "key-destruction/1"
    dataset: str
    version: int
    file_digest: str

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


@dataclass(frozen=True, kw_only=True, slots=True)
class GrantRenunciation:
    """What a broker signs of a grant that is dead: it has released no key for it, and never will."""

    kind: Literal["grant-renunciation/1"] = "grant-renunciation/1"
    job: str
    grant: str

    def __post_init__(self) -> None:
        require_slug(self.job, "job")
        require_digest(self.grant, "grant")


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedRenunciation:
    """A renunciation, whose broker signed it, and the signature (128 hex digits): the header of its `renounced` entry."""

    renunciation: GrantRenunciation
    provider: str
    signature: str

    def to_ids(self) -> dict[str, str]:
        """The header of its entry."""
        found = self.renunciation
        return {"job": found.job, "grant": found.grant, "provider": self.provider, "signature": self.signature}

    @classmethod
    def from_ids(cls, ids: Mapping[str, str]) -> SignedRenunciation:
        """The renunciation that an entry records. Raises Malformed."""
        try:
            found = GrantRenunciation(job=ids["job"], grant=ids["grant"])
            return cls(renunciation=found, provider=ids["provider"], signature=ids["signature"])
        except KeyError as error:
            raise Malformed("the entry of a renunciation does not say all of it") from error


def secret_digest(secret: str) -> str:
    """Digest under which a random code or credential (at least 24 random bytes) is stored and looked up."""
    return digest_bytes(b"sandbox/v1/secret\n" + secret.encode())
