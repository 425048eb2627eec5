"""A witness: keeps the newest checkpoint of each log that it knows and cosigns what extends it. Anybody can run one.

Its folder holds `witness.json` (name and the verifier keys of its logs), `witness.key`, `seen/` (per log the newest checkpoint that was
cosigned, on disk before the cosignature leaves) and `conflicts/` (submissions that prove that a log signed two histories).
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from enclaves.kit.signatures import SigningKey
from policies.canonical import digest_bytes
from policies.errors import Conflict, Malformed, NotFound
from sandbox.audit.checkpoint import Checkpoint, LogKey, parse_text
from sandbox.audit.cosignature import WitnessKey, cosign
from sandbox.audit.witness import MAX_REQUEST, Answer, judge_submission
from sandbox.party.home import Home

CONFIG, KEY = "witness.json", "witness.key"
MAX_CONFLICTS = 1000
"""Submissions kept as proof; whoever sends them owns a log's key, and fills no disk with them."""

TIMEOUT_S = 10


@dataclass(frozen=True, kw_only=True)
class Witness:
    """A witness's folder.

    Args:
        now: seconds since 1970.
    """

    folder: Path
    now: Callable[[], int] = field(default=lambda: int(time.time()))

    @classmethod
    def create(cls, folder: Path, name: str, logs: Iterable[LogKey]) -> Witness:
        """Make a witness with a fresh key. Raises Conflict if there is one, Malformed for a name that no key can have."""
        files = Home(folder=folder)
        if (folder / CONFIG).exists():
            raise Conflict(f"{folder} is a witness already")
        key = SigningKey.generate()
        WitnessKey(name=name, public=key.public)
        files.write_bytes(KEY, key.to_bytes())
        files.write(CONFIG, {"name": name, "logs": [log.vkey for log in logs]})
        return cls(folder=folder)

    @property
    def key(self) -> WitnessKey:
        """What verifies its cosignatures. Raises NotFound."""
        return WitnessKey(name=self._config()["name"], public=self._signing.public)

    def logs(self) -> list[LogKey]:
        """Keys of the logs that it knows."""
        return [LogKey.parse(vkey) for vkey in self._config()["logs"]]

    def trust(self, log: LogKey) -> None:
        """Add a log, or a new key of one."""
        config = self._config()
        if log.vkey not in config["logs"]:
            self._files.write(CONFIG, {**config, "logs": [*config["logs"], log.vkey]})

    def newest(self) -> dict[str, Checkpoint]:
        """By origin, the newest checkpoint that was cosigned."""
        found = {}
        for log in self.logs():
            text = self._files.read_or(_seen(log.name), {"text": ""})["text"]
            if text:
                found[log.name] = parse_text(text, log.name)
        return found

    def add_checkpoint(self, body: str) -> Answer:
        """Judge a submission; if it extends what was seen, keep it and answer with the cosignature.

        Comparing and keeping are one step: two submissions at once never get cosignatures on two histories.
        """
        with self._files.locked("witness"):
            keys: defaultdict[str, list[LogKey]] = defaultdict(list)
            for log in self.logs():
                keys[log.name].append(log)
            answer = judge_submission(body, keys, self.newest())
            if answer.conflict:
                self._keep_conflict(body)
            if answer.checkpoint is None:
                return answer
            self._files.write(_seen(answer.checkpoint.origin), {"text": answer.checkpoint.text()})
            return Answer(status=200, body=cosign(answer.text, self.key.name, self._signing, self.now()))

    def conflicts(self) -> Sequence[Path]:
        """Submissions that prove that a log signed two histories."""
        return sorted((self.folder / "conflicts").glob("*.txt"))

    def _keep_conflict(self, body: str) -> None:
        if len(self.conflicts()) < MAX_CONFLICTS:
            self._files.write_bytes(f"conflicts/{digest_bytes(body.encode()).removeprefix('sha256:')}.txt", body.encode())

    @property
    def _files(self) -> Home:
        return Home(folder=self.folder)

    @property
    def _signing(self) -> SigningKey:
        return SigningKey.from_bytes(self._files.read_bytes(KEY))

    def _config(self) -> dict[str, Any]:
        if not (self.folder / CONFIG).is_file():
            raise NotFound(f"{self.folder} is no witness; make one with `sandbox witness init`")
        found: dict[str, Any] = self._files.read(CONFIG)
        return found


def server(witness: Witness, host: str, port: int) -> ThreadingHTTPServer:
    """An HTTP server for add-checkpoint below any prefix, to be started by the caller. `GET /vkey` answers with the verifier key."""

    class Door(BaseHTTPRequestHandler):
        timeout = TIMEOUT_S
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if not self.path.endswith("/add-checkpoint"):
                self._answer(404, "there is add-checkpoint\n")
            elif not length.isdecimal() or int(length) > MAX_REQUEST:
                self.close_connection = True
                self._answer(400, "the request has no length, or is too long\n")
            else:
                self._submit(self.rfile.read(int(length)))

        def do_GET(self) -> None:
            known = self.path.endswith("/vkey")
            self._answer(200 if known else 404, witness.key.vkey + "\n" if known else "there is vkey\n")

        def _submit(self, body: bytes) -> None:
            try:
                answer = witness.add_checkpoint(body.decode())
            except UnicodeDecodeError:
                self._answer(400, "the request is not UTF-8\n")
            except Malformed as error:
                self._answer(400, f"{error}\n")
            else:
                self._answer(answer.status, answer.body)

        def _answer(self, status: int, body: str) -> None:
            data = body.encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/x.tlog.size" if status == 409 else "text/plain; charset=utf-8")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            with suppress(OSError):
                self.wfile.write(data)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing: a witness keeps no record of who asks."""

    return ThreadingHTTPServer((host, port), Door)


def _seen(origin: str) -> str:
    return f"seen/{digest_bytes(origin.encode()).removeprefix('sha256:')}.json"
