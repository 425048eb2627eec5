"""The service as its settings say, for commands that act on its machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sandbox.config import read_config

if TYPE_CHECKING:
    from enclaves.kit.signatures import SigningKey
    from sandbox.host import Host


def composed(on_step: Callable[[str], None] = lambda step: None, *, lost_log_key: bool = False) -> Host:
    """The composed service; `on_step` hears of each of its steps by name.

    Malformed: a setting is wrong. Tampered: the log's key is missing or not the one that the log began with.
    """
    from app import compose

    return compose(read_config(), on_step, lost_log_key=lost_log_key)


def next_key(host: Host) -> SigningKey:
    """The key that is to replace the log's; on disk before it is used."""
    from app import next_log_key

    return next_log_key(host.config.data)
