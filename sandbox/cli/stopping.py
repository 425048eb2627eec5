"""Commands that go on until they are told to stop."""

from __future__ import annotations

import signal
from collections.abc import Callable


def until_stopped() -> Callable[[], bool]:
    """Return what says whether a TERM or INT signal has come: from now on they end the command between two turns, not within one."""
    stopping = False

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    return lambda: stopping
