"""Settings of the service: one frozen value, read once from the environment by whoever composes the service."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

from policies.errors import Malformed

PREFIX = "SANDBOX_"
FOREIGN = frozenset({"SANDBOX_HOME"})
"""Variables of the same prefix that belong to a participant's command line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings. Environment variable: `SANDBOX_` and the name in capitals.

    Attributes:
        data: folder of database, encrypted uploads and the log's key.
        database: SQLAlchemy URL; empty means SQLite inside `data`.
        origin: name of the log in its checkpoints; fixed at the first start.
        upload_bytes: largest upload.
        json_bytes: largest JSON request.
        keys_timeout_s: how long a run waits for its brokers.
        run_timeout_s: how long an enclave may compute.
        lease_s: a worker that has not renewed its lease for so long counts as dead.
        poll_s: how often a worker looks for work while no queue hints reach it.
        queue: where hints that wake workers go: `sqlite` (a file inside `data`), `redis://...`, `postgresql://...` or `off`.
    """

    data: Path = field(default_factory=lambda: Path("sandbox-data"))
    database: str = ""
    origin: str = "sandbox.local/log"
    upload_bytes: int = 2 << 30
    json_bytes: int = 1 << 20
    keys_timeout_s: float = 60.0
    run_timeout_s: float = 600.0
    lease_s: float = 30.0
    poll_s: float = 0.1
    queue: str = "sqlite"

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database or f"sqlite:///{(self.data / 'sandbox.sqlite3').resolve()}"


def read_config(environment: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration that the environment spells.

    Raises:
        Malformed: an unknown `SANDBOX_` variable or a value of the wrong type.
    """
    known = {PREFIX + item.name.upper(): item for item in fields(Config)}
    values: dict[str, object] = {}
    for name, text in environment.items():
        if not name.startswith(PREFIX) or name in FOREIGN:
            continue
        if name not in known:
            raise Malformed(f"unknown setting `{name}`; known: {', '.join(sorted(known))}")
        convert = {"Path": Path, "int": int, "float": float}.get(str(known[name].type), str)
        try:
            values[known[name].name] = convert(text)
        except ValueError as error:
            raise Malformed(f"`{text}` is no {known[name].type}", where=name) from error
    return Config(**values)  # type: ignore[arg-type]
