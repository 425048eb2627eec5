"""Rate limits: token buckets in the memory of one web process.

A service of n processes lets through up to n times the rate, since requests spread over processes that share nothing.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from policies.errors import TooMany

BURST_S = 10.0
"""A bucket holds the tokens of so many seconds."""
MAX_KEYS = 20_000


@dataclass
class Buckets:
    """One bucket per key, full at first. The key used longest ago is forgotten when there are too many.

    Attributes:
        rate: tokens per second; 0 means that nothing is limited.
        clock: seconds, monotonic.
    """

    rate: float
    clock: Callable[[], float] = time.monotonic
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _held: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, key: str) -> None:
        """Take a token. Raises TooMany with the seconds until there is one again."""
        if not self.rate:
            return
        most = max(1.0, self.rate * BURST_S)
        with self._lock:
            now = self.clock()
            tokens, since = self._held.pop(key, (most, now))
            tokens = min(most, tokens + (now - since) * self.rate)
            allowed = tokens >= 1.0
            self._held[key] = (tokens - 1.0 if allowed else tokens, now)
            if len(self._held) > MAX_KEYS:
                self._held.popitem(last=False)
        if not allowed:
            wait = max(1, math.ceil((1.0 - tokens) / self.rate))
            raise TooMany(f"too many requests; try again in {wait} s", retry_after=wait)
