"""Where the wrapping key lies: a file, a file under a passphrase, a token; and replacing it without touching the data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from enclaves.kit import sealing
from policies.errors import Conflict, Malformed, SandboxError, Tampered, Unauthenticated, Unavailable
from sandbox.party import home as home_module
from sandbox.party.home import NEXT_WRAPPING, PROTECTED, WRAPPING, Home
from sandbox.party.publish import column_keys, keep_keys
from sandbox.party.rewrapping import move_to_token, protect, rewrap, unprotect
from sandbox.party.token import TokenKey
from sandbox.party.wrapping import Either, HeldKey, no_passphrase, open_key, protect_key

SECRET = bytes(range(32))
PASSPHRASE = "correct horse battery staple"
FILES = {
    ("insurer.plans", 1): "sha256:" + "11" * 32,
    ("insurer.plans", 2): "sha256:" + "22" * 32,
    ("insurer.care", 1): "sha256:" + "33" * 32,
}
COLUMNS = ("age", "income")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A home with keys of three files."""
    made = Home.create(tmp_path / "home", "insurer", "The insurer", "http://host.test")
    made = Home.open(made.folder, lambda: PASSPHRASE)
    for (dataset, version), file in FILES.items():
        keep_keys(made, dataset, version, file, {name: os.urandom(32) for name in ("_footer", *COLUMNS)})
    return made


def all_keys(home: Home) -> dict[tuple[str, int], dict[str, bytes]]:
    return {place: column_keys(home, *place, file, COLUMNS) for place, file in FILES.items()}


def test_a_key_under_a_passphrase_opens_with_that_passphrase_only() -> None:
    protected = protect_key(SECRET, PASSPHRASE, n=1 << 10)
    assert open_key(protected, lambda: PASSPHRASE) == SECRET
    assert SECRET.hex() not in json.dumps(protected)
    for wrong in (PASSPHRASE + " ", "", PASSPHRASE.upper()):
        with pytest.raises(Unauthenticated) as caught:
            open_key(protected, lambda given=wrong: given)  # type: ignore[misc]
        assert caught.value.code == "passphrase"


def test_the_same_passphrase_never_makes_the_same_file() -> None:
    first, second = (protect_key(SECRET, PASSPHRASE, n=1 << 10) for _ in range(2))
    assert first["salt"] != second["salt"]
    assert first["wrapped"] != second["wrapped"]


@pytest.mark.parametrize("passphrase", ["", "short", "elevenchars"])
def test_a_weak_passphrase_is_refused(passphrase: str) -> None:
    with pytest.raises(Malformed) as caught:
        protect_key(SECRET, passphrase)
    assert caught.value.code == "weak-passphrase"


@pytest.mark.parametrize(
    "change",
    [{"kdf": "pbkdf2"}, {"n": 3}, {"n": 1 << 40}, {"n": "x"}, {"r": 1}, {"salt": "zz"}, {"wrapped": None}, {"p": -1}],
)
def test_a_changed_file_is_refused_before_anybody_is_asked(change: dict[str, object]) -> None:
    with pytest.raises(Malformed):
        open_key(protect_key(SECRET, PASSPHRASE, n=1 << 10) | change, no_passphrase)


def test_a_flipped_bit_of_the_wrapped_key_is_a_wrong_passphrase() -> None:
    protected = protect_key(SECRET, PASSPHRASE, n=1 << 10)
    wrapped = bytearray.fromhex(protected["wrapped"])
    wrapped[-1] ^= 1
    with pytest.raises(Unauthenticated):
        open_key(protected | {"wrapped": wrapped.hex()}, lambda: PASSPHRASE)


def test_a_protected_home_keeps_no_wrapping_key_as_it_is(home: Home) -> None:
    before, secret = all_keys(home), home.wrapping
    protect(home, PASSPHRASE)
    assert not (home.folder / WRAPPING).exists()
    assert all(secret not in path.read_bytes() for path in home.folder.rglob("*") if path.is_file())
    assert all_keys(home) == before
    locked = Home.open(home.folder)
    with pytest.raises(Unauthenticated):
        all_keys(locked)
    assert "passphrase" not in repr(locked)
    unprotect(home)
    assert all_keys(Home.open(home.folder)) == before


def test_another_passphrase_replaces_the_first(home: Home) -> None:
    before = all_keys(home)
    protect(home, PASSPHRASE)
    protect(home, "another passphrase")
    with pytest.raises(Unauthenticated):
        all_keys(home)
    assert all_keys(Home.open(home.folder, lambda: "another passphrase")) == before


@pytest.mark.parametrize("protected", [False, True])
def test_a_fresh_wrapping_key_opens_what_the_one_before_wrapped_and_the_one_before_opens_nothing(home: Home, protected: bool) -> None:
    before, former = all_keys(home), HeldKey(home.wrapping)
    if protected:
        protect(home, PASSPHRASE)
    assert rewrap(home, home.passphrase) == len(FILES)
    assert home.wrapping != former.secret
    assert (home.folder / PROTECTED).exists() == protected
    assert not (home.folder / NEXT_WRAPPING).exists()
    assert all_keys(home) == before
    for (dataset, version), file in FILES.items():
        kept = home.read(home_file(dataset, file))
        with pytest.raises(Tampered):
            former.unwrap(bytes.fromhex(kept["keys"]["age"]), b"any")
        assert version == kept["version"]


def home_file(dataset: str, file: str) -> str:
    return f"keys/{dataset}/{file.removeprefix('sha256:')}.json"


@pytest.mark.parametrize("step", range(9))
def test_rewrapping_may_be_interrupted_at_any_write_and_goes_on(home: Home, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    before, real, count = all_keys(home), home_module.Home.write_bytes, 0

    def failing(self: Home, name: str, data: bytes) -> None:
        nonlocal count
        count += 1
        if count == step + 1:
            raise Unavailable("the disk is full", code="home")
        real(self, name, data)

    with monkeypatch.context() as patched:
        patched.setattr(home_module.Home, "write_bytes", failing)
        try:
            rewrap(home, home.passphrase)
        except Unavailable:
            assert all_keys(home) == before, "whatever was interrupted, every key can be unwrapped"
    assert rewrap(home, home.passphrase) == len(FILES)
    assert all_keys(home) == before
    assert not (home.folder / NEXT_WRAPPING).exists()


def test_two_keys_unwrap_while_one_replaces_the_other() -> None:
    old, new = HeldKey(b"o" * 32), HeldKey(b"n" * 32)
    both = Either(first=new, second=old)
    assert both.unwrap(old.wrap(SECRET, b"c"), b"c") == SECRET
    assert new.unwrap(both.wrap(SECRET, b"c"), b"c") == SECRET
    with pytest.raises(Tampered):
        both.unwrap(HeldKey(b"x" * 32).wrap(SECRET, b"c"), b"c")
    assert "6f6f" not in repr(old)


# A token


def softhsm() -> str | None:
    """SoftHSM's library, where it and its binding are installed."""
    try:
        import pkcs11  # noqa: F401
    except ImportError:
        return None
    paths = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so")
    return next((path for path in paths if os.path.exists(path)), None) if shutil.which("softhsm2-util") else None


MODULE = softhsm()
needs_token = pytest.mark.skipif(MODULE is None, reason="needs SoftHSM: apt-get install softhsm2, pip install python-pkcs11")


@pytest.fixture(scope="module")
def token(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TokenKey]:
    """A key in a token of this module's own."""
    folder = tmp_path_factory.mktemp("softhsm")
    (folder / "tokens").mkdir()
    (folder / "softhsm2.conf").write_text(f"directories.tokendir = {folder}/tokens\nobjectstore.backend = file\n")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SOFTHSM2_CONF", str(folder / "softhsm2.conf"))
        command = ["softhsm2-util", "--init-token", "--free", "--label", "insurer", "--so-pin", "987654", "--pin", "123456"]
        subprocess.run(command, check=True, capture_output=True)
        assert MODULE is not None
        made = TokenKey(module=MODULE, token="insurer", key="sandbox", pin=lambda: "123456")
        made.make()
        yield made


@needs_token
def test_a_token_wraps_as_a_file_does_and_gives_its_key_to_nobody(token: TokenKey) -> None:
    wrapped = token.wrap(SECRET, b"column")
    assert len(wrapped) == len(sealing.wrap_key(SECRET, SECRET, b"column"))
    assert token.unwrap(wrapped, b"column") == SECRET
    assert token.wrap(SECRET, b"column") != wrapped
    import pkcs11

    with token._opened() as (_, held), pytest.raises(pkcs11.PKCS11Error):
        held[pkcs11.Attribute.VALUE]


@needs_token
def test_what_a_token_did_not_wrap_so_it_does_not_unwrap(token: TokenKey) -> None:
    wrapped = token.wrap(SECRET, b"column")
    for changed, context in (
        (wrapped, b"other"),
        (wrapped[:-1] + bytes([wrapped[-1] ^ 1]), b"column"),
        (wrapped[:20], b"column"),
        (b"", b"c"),
    ):
        with pytest.raises(Tampered):
            token.unwrap(changed, context)


@needs_token
def test_wrong_pins_tokens_and_keys_are_named(token: TokenKey) -> None:
    for changed, kind in (
        ({"pin": lambda: "000000"}, Unauthenticated),
        ({"token": "nobody"}, Unavailable),
        ({"module": "/nowhere.so"}, Unavailable),
        ({"key": "none"}, SandboxError),
    ):
        values = {"module": token.module, "token": token.token, "key": token.key, "pin": token.pin} | changed
        with pytest.raises(kind):
            TokenKey(**values).wrap(SECRET, b"column")  # type: ignore[arg-type]


@needs_token
def test_a_home_moves_its_wrapping_key_into_a_token(home: Home, token: TokenKey) -> None:
    before, secret = all_keys(home), home.wrapping
    home = Home.open(home.folder, lambda: "123456")
    assert move_to_token(home, token) == len(FILES)
    assert all_keys(home) == before
    assert not (home.folder / WRAPPING).exists()
    assert all(secret not in path.read_bytes() for path in home.folder.rglob("*") if path.is_file())
    assert move_to_token(home, token) == len(FILES), "again is the same"
    for act in (lambda: protect(home, PASSPHRASE), lambda: unprotect(home), lambda: rewrap(home, home.passphrase)):
        with pytest.raises(Conflict):
            act()
    with pytest.raises(Unauthenticated):
        all_keys(Home.open(home.folder, lambda: "000000"))


def test_without_the_extra_a_token_is_refused_by_name(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins
    from typing import Any

    real = builtins.__import__

    def without(name: str, *arguments: Any, **named: Any) -> Any:
        if name == "pkcs11":
            raise ImportError(name)
        return real(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(Malformed) as caught:
        TokenKey(module="x", token="y", key="z", pin=lambda: "").wrap(SECRET, b"c")
    assert caught.value.code == "no-pkcs11"
