"""Where the wrapping key lies, and replacing it: every column key is wrapped anew, and the data stay as they are.

Durable order: next key kept -> every file of column keys wrapped with it -> next key made the present one. Readers try both meanwhile
(`Home.wrapping_key`), and the same call again finishes what was interrupted.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from enclaves.kit.columns import key_context
from policies.errors import Conflict
from sandbox.party.home import NEXT_WRAPPING, PROTECTED, TOKEN, WRAPPING, Home
from sandbox.party.token import TokenKey
from sandbox.party.wrapping import KEY_BYTES, protect_key


def protect(home: Home, passphrase: str) -> None:
    """Put the wrapping key under a passphrase, or under another one. The key itself stays: use `rewrap` where it may be known.

    Raises:
        Malformed: the passphrase is too short. Conflict: a token holds the key.
        Unauthenticated: the key is under another passphrase than the home was opened with.
    """
    with home.locked("keys"):
        _require_no_token(home)
        home.write(PROTECTED, protect_key(home.wrapping, passphrase))
        home.remove(WRAPPING)
    home.note("protected")


def unprotect(home: Home) -> None:
    """Keep the wrapping key in a file without a passphrase again. Raises Unauthenticated, Conflict."""
    with home.locked("keys"):
        _require_no_token(home)
        home.write_bytes(WRAPPING, home.wrapping)
        home.remove(PROTECTED)
    home.note("unprotected")


def rewrap(home: Home, passphrase: Callable[[], str]) -> int:
    """Replace the wrapping key by a fresh one; returns how many files of column keys were wrapped anew.

    Args:
        passphrase: under which the fresh key is put, where the present one is under one.

    Raises:
        Conflict: a token holds the key; make another one there and use `move_to_token`.
    """
    with home.locked("keys"), home.locked("release"):
        _require_no_token(home)
        if not (home.folder / NEXT_WRAPPING).is_file():
            home.write_bytes(NEXT_WRAPPING, os.urandom(KEY_BYTES))
        count = _wrap_all(home)
        if (home.folder / PROTECTED).is_file():
            home.write(PROTECTED, protect_key(home.read_bytes(NEXT_WRAPPING), passphrase()))
        else:
            home.write_bytes(WRAPPING, home.read_bytes(NEXT_WRAPPING))
        home.remove(NEXT_WRAPPING)
    home.note("rewrapped", files=count)
    return count


def move_to_token(home: Home, token: TokenKey) -> int:
    """Make a key in a token, unless it is there, wrap every column key with it, and forget the one of this home. Returns how many files.

    Raises:
        Conflict: another token holds the key already.
        Unavailable, Unauthenticated, NotFound: the token cannot be used so.
    """
    with home.locked("keys"), home.locked("release"):
        present = home.token()
        if present is not None and present != token:
            raise Conflict("another token holds the wrapping key", code="other-token")
        token.make()
        home.write(TOKEN, {"module": token.module, "token": token.token, "key": token.key})
        count = _wrap_all(home)
        for name in (WRAPPING, PROTECTED, NEXT_WRAPPING):
            home.remove(name)
    home.note("moved-to-token", token=token.token, key=token.key, files=count)
    return count


def _wrap_all(home: Home) -> int:
    """Wrap every column key with the first of `Home.wrapping_key`; what was wrapped so before is wrapped again."""
    wrapping, files = home.wrapping_key(), sorted((home.folder / "keys").glob("*/*.json"))
    for path in files:
        name = str(path.relative_to(home.folder))
        kept = home.read(name)
        contexts = {column: key_context(kept["dataset"], kept["version"], column) for column in kept["keys"]}
        keys = {column: wrapping.unwrap(bytes.fromhex(kept["keys"][column]), context) for column, context in contexts.items()}
        home.write(name, kept | {"keys": {column: wrapping.wrap(key, contexts[column]).hex() for column, key in keys.items()}})
    return len(files)


def _require_no_token(home: Home) -> None:
    if home.token() is not None:
        raise Conflict("a token holds the wrapping key", code="in-token")
