"""A participant's home folder: its keys, its credential, its datasets' wrapped column keys, agreements it signed and checkpoints it saw.

Nothing in it is ever sent: the wrapping key and the private keys stay here. Files are written whole and synced before they count.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import secrets
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enclaves.kit.sealing import SealingKey
from enclaves.kit.signatures import SigningKey
from policies.canonical import canonical, parse_json
from policies.errors import Conflict, NotFound, Unavailable
from sandbox.party.token import TokenKey
from sandbox.party.wrapping import Either, HeldKey, WrappingKey, no_passphrase, open_key

NEXT, FORMER, SEQUENCE = "next-keys.json", "former-keys.json", "rotations.json"
"""Files of a home whose keys are being replaced, or were."""

WRAPPING, PROTECTED, TOKEN, NEXT_WRAPPING = "wrapping.key", "wrapping.sealed.json", "token.json", "wrapping.next.key"
"""Where the wrapping key lies: as it is, under a passphrase, or in a token; and the one that is about to replace it."""

SECRET_FILES = ("signing.key", "sealing.key", "wrapping.key", "credential")


@dataclass(frozen=True, kw_only=True, slots=True)
class NextKeys:
    """Keys that are about to replace a participant's present ones.

    Attributes:
        sequence: of the rotation; 0 where the participant is admitted anew.
        old: public signing key (hex) that they replace.
    """

    signing: SigningKey
    sealing: SealingKey
    sequence: int
    old: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """One participant's folder.

    Attributes:
        passphrase: asked for where the wrapping key is under one, or a token wants its PIN.
    """

    folder: Path
    passphrase: Callable[[], str] = field(default=no_passphrase, repr=False, compare=False)

    @classmethod
    def create(cls, folder: Path, participant: str, title: str, url: str) -> Home:
        """Make a home with fresh keys. Raises Conflict if there is one."""
        home = cls(folder=folder)
        _make_private(folder)
        if (folder / "identity.json").exists():
            raise Conflict(f"{folder} is a home already")
        folder.chmod(0o700)
        home.write_bytes("signing.key", SigningKey.generate().to_bytes())
        home.write_bytes("sealing.key", SealingKey.generate().to_bytes())
        home.write_bytes("wrapping.key", os.urandom(32))
        home.write("identity.json", {"participant": participant, "title": title, "url": url})
        return home

    @classmethod
    def open(cls, folder: Path, passphrase: Callable[[], str] = no_passphrase) -> Home:
        """Open an existing home. Raises NotFound."""
        if not (folder / "identity.json").is_file():
            raise NotFound(f"{folder} is no participant's home; make one with `sandbox party init`")
        return cls(folder=folder, passphrase=passphrase)

    @property
    def participant(self) -> str:
        """Id of the participant."""
        return str(self.read("identity.json")["participant"])

    @property
    def url(self) -> str:
        """Address of the service."""
        return str(self.read("identity.json")["url"])

    @property
    def signing(self) -> SigningKey:
        """The Ed25519 key that binds the firm."""
        return SigningKey.from_bytes(self.read_bytes("signing.key"))

    @property
    def sealing(self) -> SealingKey:
        """The X25519 key that opens releases."""
        return SealingKey.from_bytes(self.read_bytes("sealing.key"))

    def former(self) -> tuple[tuple[SigningKey, SealingKey], ...]:
        """The keys that this participant had before, oldest first. The sealing keys still open what was sealed to them."""
        kept = self.read_or(FORMER, {"keys": []})["keys"]
        return tuple(
            (SigningKey.from_bytes(bytes.fromhex(pair["signing"])), SealingKey.from_bytes(bytes.fromhex(pair["sealing"]))) for pair in kept
        )

    def sealing_of(self, public: str) -> SealingKey:
        """The sealing key, of now or before, whose public part (hex) is this one. Raises NotFound."""
        for key in (self.sealing, *(sealing for _, sealing in self.former())):
            if key.public.hex() == public:
                return key
        raise NotFound("this was sealed to a key that is not in this home")

    def signing_publics(self) -> tuple[str, ...]:
        """The public signing keys (hex) of this participant: the one in force first, then those before it."""
        return (self.signing.public.hex(), *(signing.public.hex() for signing, _ in self.former()))

    def next_keys(self) -> NextKeys | None:
        """The keys that are about to replace the present ones; None if there are none."""
        kept = self.read_or(NEXT, None)
        if kept is None:
            return None
        return NextKeys(
            signing=SigningKey.from_bytes(bytes.fromhex(kept["signing"])),
            sealing=SealingKey.from_bytes(bytes.fromhex(kept["sealing"])),
            sequence=int(kept["sequence"]),
            old=str(kept["old"]),
        )

    def draft_keys(self, sequence: int) -> NextKeys:
        """Make the keys that are to replace the present ones; they are on disk before anybody is told of them."""
        draft = NextKeys(signing=SigningKey.generate(), sealing=SealingKey.generate(), sequence=sequence, old=self.signing.public.hex())
        pair = _pair(draft.signing, draft.sealing)
        self.write(NEXT, {**pair, "sequence": sequence, "old": draft.old})
        return draft

    def adopt_keys(self, following: NextKeys) -> None:
        """Make the next keys the present ones and keep the present among the former. Whatever it was interrupted at, again finishes it."""
        if self.signing.public != following.signing.public:
            self.keep_former(self.signing, self.sealing)
            self.write(SEQUENCE, {"rotations": following.sequence})
            self.write_bytes("sealing.key", following.sealing.to_bytes())
            self.write_bytes("signing.key", following.signing.to_bytes())  # last: with it the change is made

    def keep_former(self, signing: SigningKey, sealing: SealingKey) -> None:
        """Keep a pair of keys among the former ones; a signing key that is there already keeps its sealing key."""
        kept = self.read_or(FORMER, {"keys": []})["keys"]
        if not any(pair["signing"] == signing.to_bytes().hex() for pair in kept):
            self.write(FORMER, {"keys": [*kept, _pair(signing, sealing)]})

    def forget_next(self) -> None:
        """Remove the draft of keys that were adopted."""
        (self.folder / NEXT).unlink(missing_ok=True)

    @property
    def rotations(self) -> int:
        """How often the keys of this admission have been rotated."""
        return int(self.read_or(SEQUENCE, {"rotations": 0})["rotations"])

    @property
    def wrapping(self) -> bytes:
        """The 32-byte key that wraps column keys. Raises NotFound where it lies in a token, Unauthenticated for a wrong passphrase."""
        protected = self.read_or(PROTECTED, None)
        return self.read_bytes(WRAPPING) if protected is None else open_key(protected, self.passphrase)

    def wrapping_key(self) -> WrappingKey:
        """What wraps column keys, wherever it lies; while it is being replaced, the next one, and the present one for the rest."""
        token = self.token()
        if (self.folder / NEXT_WRAPPING).is_file() and token is None:
            return Either(first=HeldKey(self.read_bytes(NEXT_WRAPPING)), second=HeldKey(self.wrapping))
        if token is None:
            return HeldKey(self.wrapping)
        has_file = (self.folder / WRAPPING).is_file() or (self.folder / PROTECTED).is_file()
        return Either(first=token, second=HeldKey(self.wrapping)) if has_file else token

    def token(self) -> TokenKey | None:
        """The key in a token that wraps column keys; None if a file holds it."""
        found = self.read_or(TOKEN, None)
        return None if found is None else TokenKey(module=found["module"], token=found["token"], key=found["key"], pin=self.passphrase)

    def remove(self, name: str) -> None:
        """Overwrite a file and remove it, for good. What a disk or a backup keeps besides, nobody can promise.

        Raises:
            Unavailable: code `home`.
        """
        path = self.folder / name
        with writable(self.folder):
            if not path.exists():
                return
            with path.open("r+b") as file:
                file.write(os.urandom(path.stat().st_size))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
            _sync_folder(path.parent)

    @property
    def credential(self) -> str:
        """The bearer credential. Raises NotFound before admission."""
        return self.read_bytes("credential").decode()

    def drafted_credential(self) -> str:
        """The credential that this participant asks to be admitted with; made once, so that a repeated admission is the very same."""
        path = self.folder / "credential.draft"
        if not path.is_file():
            self.write_bytes(path.name, secrets.token_urlsafe(32).encode())
        return self.read_bytes(path.name).decode()

    def has_drafted_credential(self) -> bool:
        """Whether there is a credential that the service may have admitted and that does not count yet."""
        return (self.folder / "credential.draft").is_file()

    def keep_credential(self) -> None:
        """Make the drafted credential the one that counts, once the service has admitted it."""
        self.write_bytes("credential", self.read_bytes("credential.draft"))
        (self.folder / "credential.draft").unlink()

    def read(self, name: str) -> Any:
        """A JSON file of this home. Raises NotFound."""
        return parse_json(self.read_bytes(name), limit=256 << 20)

    def read_or(self, name: str, default: Any) -> Any:
        """A JSON file of this home, or `default` if there is none."""
        return self.read(name) if (self.folder / name).is_file() else default

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file whole."""
        self.write_bytes(name, canonical(value))

    def read_bytes(self, name: str) -> bytes:
        """A file of this home. Raises NotFound."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError as error:
            raise NotFound(f"{self.folder} has no {name}") from error

    def write_bytes(self, name: str, data: bytes) -> None:
        """Write a file readable by its owner only; it is there whole and on disk, or as it was.

        Raises:
            Unavailable: code `home`, if the disk is full or the home cannot be written.
        """
        with writable(self.folder):
            self._write_bytes(self.folder / name, data)

    def _write_bytes(self, path: Path, data: bytes) -> None:
        _make_private(path.parent)
        handle, draft = tempfile.mkstemp(prefix=".draft-", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, path)
        except BaseException:
            Path(draft).unlink(missing_ok=True)
            raise
        _sync_folder(path.parent)

    @contextmanager
    def locked(self, what: str = "log") -> Iterator[None]:
        """Hold one thing of this home against other processes of the same participant: what they have seen of a `log`, say.

        Raises:
            Unavailable: code `home`.
        """
        with writable(self.folder):
            handle = os.open(self.folder / f".{what}.lock", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def note(self, event: str, **details: Any) -> None:
        """Append one line to this home's journal, whole or not at all: what was released or refused, and why.

        Raises:
            Unavailable: code `home`.
        """
        line = json.dumps({"event": event, **details}, sort_keys=True).encode() + b"\n"
        with writable(self.folder):
            handle = os.open(self.folder / "journal.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
                end = os.fstat(handle).st_size
                _write_line(handle, line, end)
            finally:
                os.close(handle)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def writable(folder: Path) -> Iterator[None]:
    """Turn errors of the file system into Unavailable (code `home`)."""
    try:
        yield
    except OSError as error:
        raise Unavailable(f"{folder} cannot be written now: {error}", code="home") from error


def _write_line(handle: int, line: bytes, end: int) -> None:
    """Write a line at the end of a file; where the disk takes only a part of it, none of it stays."""
    try:
        if os.write(handle, line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    except OSError:
        os.ftruncate(handle, end)
        raise


def _pair(signing: SigningKey, sealing: SealingKey) -> dict[str, str]:
    return {"signing": signing.to_bytes().hex(), "sealing": sealing.to_bytes().hex()}


def _make_private(folder: Path) -> None:
    """Make a folder and the missing ones above it for their owner only; `mkdir(parents=True)` leaves those above open to all."""
    if not folder.exists():
        _make_private(folder.parent)
        folder.mkdir(mode=0o700, exist_ok=True)
