"""How a participant reaches the service: requests that carry its credential, typed errors, pages, and the stream of hints."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from threading import Lock
from typing import Any
from urllib.parse import urlsplit

import requests

from enclaves.kit.envelope import Purpose, sign_document
from policies.canonical import parse_json
from policies.codec import encode
from policies.errors import Tampered, Unavailable
from sandbox.party.answers import error_of
from sandbox.party.home import Home

TIMEOUT_S = 60.0
PUBLISHED_AGAIN_S = 0.1

IDLE_S = 8.0
"""A connection unused for so long is not used again: the service, or what stands in front of it, may be closing it at that moment."""


class Session(requests.Session):
    """A session that asks the environment once per host for proxies and authorities: asking takes longer than all else of a request."""

    def __init__(self) -> None:
        super().__init__()
        self._environment: dict[tuple[str, str], dict[str, Any]] = {}
        self._used, self._using = time.monotonic(), Lock()

    def request(self, *arguments: Any, **named: Any) -> requests.Response:
        """Send a request, over a connection that has not been idle for long."""
        with self._using:
            idle, self._used = time.monotonic() - self._used, time.monotonic()
            if idle > IDLE_S:
                self.close()  # only those that wait; what is under way goes on
        return super().request(*arguments, **named)

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        """What a request goes by: its own settings before those of the environment."""
        host = urlsplit(url)[:2]
        if host not in self._environment:
            self._environment[host] = dict(super().merge_environment_settings(url, {}, None, None, None))
        found = self._environment[host]
        own = {"stream": stream, "verify": verify, "cert": cert}
        return found | {"proxies": found["proxies"] | (proxies or {})} | {name: value for name, value in own.items() if value is not None}


@dataclass
class Connection:
    """One participant's way to the service.

    Raises, from everything: the typed error that the service answered; Unavailable if it cannot be reached.
    """

    home: Home
    session: requests.Session = field(default_factory=Session)
    published_within_s: float = 60.0

    def checkpoint(self) -> str:
        """The newest checkpoint (a signed note)."""
        return self.log_text("checkpoint")

    def log_text(self, path: str) -> str:
        """A text file or JSON answer of the log."""
        return self.log_bytes(path).decode()

    def log_bytes(self, path: str) -> bytes:
        """A file of the log by its tlog-tiles path below the log's prefix."""
        return self._send("GET", f"/log/{path}").content

    def events(self, stopping: Callable[[], bool] = lambda: False) -> Iterator[tuple[str, str]]:
        """("job" or "key-request", id) whenever something is to be looked at again; ("connected", "") after every new connection.

        What the service says here is a hint only. After "connected" everything is to be looked at once. A stream that ends or fails is
        opened again; where the service cannot be reached or takes no more streams, that is tried every other second until `stopping`.
        """
        seen, new = "", True
        while not stopping():
            try:
                with self._send("GET", "/events", stream=True, headers={"Last-Event-ID": seen} if seen else {}) as response:
                    if new:
                        yield "connected", ""
                    new, kind = False, ""
                    for line in response.iter_lines(chunk_size=1, decode_unicode=True):
                        name, _, value = str(line).partition(": ")
                        kind = value if name == "event" else kind
                        seen = value if name == "id" else seen
                        if name == "data":
                            yield kind, value
                        if stopping():
                            return
            except (Unavailable, requests.RequestException):
                new = True
                time.sleep(2.0)

    def _pages(self, path: str, member: str, **filters: str | None) -> list[dict[str, Any]]:
        """Items of all pages of a listing. Raises Tampered if a page does not lead on."""
        query = {name: value for name, value in filters.items() if value is not None} | {"limit": "200"}
        found: list[dict[str, Any]] = []
        cursors: set[str] = set()
        while True:
            page = self._answer("GET", path, params=query)
            found += page[member]
            following = page.get("next")
            if following is None:
                return found
            if following in cursors:
                raise Tampered("the service's pages go round in a circle", code="paging")
            cursors.add(following)
            query["cursor"] = following

    def _signed(self, purpose: Purpose, body: Any) -> dict[str, Any]:
        return dict(encode(sign_document(purpose, self.home.participant, body, self.home.signing)))

    def _get(self, path: str, *, anonymous: bool = False) -> dict[str, Any]:
        return self._answer("GET", path, anonymous=anonymous)

    def _get_published(self, path: str) -> dict[str, Any]:
        """An answer that the service gives as soon as a checkpoint covers what it is about.

        An end is committed before its checkpoint is signed, and whoever looks in between is told `not-published`: that is asked again for
        `published_within_s` seconds. Raises Unavailable, code `not-published`, after them.
        """
        deadline = time.monotonic() + self.published_within_s
        while True:
            try:
                return self._get(path)
            except Unavailable as error:
                if error.code != "not-published" or time.monotonic() > deadline:
                    raise
            time.sleep(PUBLISHED_AGAIN_S)

    def _post(self, path: str, body: Mapping[str, Any], *, anonymous: bool = False) -> dict[str, Any]:
        return self._answer("POST", path, json=body, anonymous=anonymous)

    def _answer(self, method: str, path: str, *, anonymous: bool = False, **arguments: Any) -> dict[str, Any]:
        return dict(parse_json(self._send(method, path, anonymous=anonymous, **arguments).content, limit=256 << 20))

    def _send(
        self, method: str, path: str, *, anonymous: bool = False, headers: Mapping[str, str] | None = None, **arguments: Any
    ) -> requests.Response:
        headers = dict(headers or {}) | ({} if anonymous else {"Authorization": f"Bearer {self.home.credential}"})
        try:
            response = self.session.request(method, f"{self.home.url}/api/v1{path}", headers=headers, timeout=TIMEOUT_S, **arguments)
        except requests.RequestException as error:
            raise Unavailable(f"{self.home.url} cannot be reached", code="unreachable") from error
        if response.status_code >= 400:
            raise error_of(response.status_code, response.content)
        return response
