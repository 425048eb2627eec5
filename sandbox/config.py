"""Settings of the service: one frozen value, read once from a file and the environment by whoever composes the service."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast, get_args

from policies.attestation import EnclaveKind
from policies.conditions import require_country
from policies.errors import Malformed
from policies.names import require_digest

PREFIX = "SANDBOX_"
CONFIG_FILE = "SANDBOX_CONFIG"
FOREIGN = frozenset({"SANDBOX_HOME", "SANDBOX_PASSPHRASE_FILE", CONFIG_FILE})
"""Variables of the same prefix that are no settings: a participant's home and passphrase, and the name of the file of settings."""

Value = Path | str | int | float | bool


def _setting(default: Value, meaning: str, *, low: float | None = None, high: float | None = None, words: tuple[str, ...] = ()) -> Any:
    return field(default=default, metadata={"meaning": meaning, "low": low, "high": high, "words": words})


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """All settings. Environment variable: `SANDBOX_` and the name in capitals; key in the file: the name. `describe` lists them.

    Raises:
        Malformed: a value out of its bounds.
    """

    data: Path = _setting(Path("sandbox-data"), "folder of database, encrypted uploads and the log's key")
    database: str = _setting("", "SQLAlchemy URL; empty means SQLite inside `data`")
    origin: str = _setting("sandbox.local/log", "name of the log in its checkpoints; fixed at the first start")
    upload_bytes: int = _setting(2 << 30, "largest upload", low=1, high=1_000_000_000_000_000)
    upload_quota_bytes: int = _setting(
        64 << 30, "most that one participant's uploads may take together; 0 means no limit", low=0, high=1_000_000_000_000_000_000
    )
    json_bytes: int = _setting(1 << 20, "largest JSON request", low=1 << 10, high=64 << 20)
    enclave: str = _setting("simulated", "kind of evidence that this service's enclaves give", words=get_args(EnclaveKind))
    enclave_measurement: str = _setting("", "reference value of the TEE that runs the enclaves; empty for this checkout's own measurement")
    keys_timeout_s: float = _setting(60.0, "how long a run waits for its brokers, once for nonces and once for keys", low=0.01, high=86_400)
    run_timeout_s: float = _setting(600.0, "how long an enclave may compute", low=0.01, high=7 * 86_400)
    lease_s: float = _setting(30.0, "a worker that has not renewed its lease for so long counts as dead", low=0.01, high=86_400)
    runs: int = _setting(
        16, "most runs that one worker begins while their brokers keep it waiting; 1: one after the other", low=1, high=1000
    )
    poll_s: float = _setting(0.1, "how often a worker looks for work while no queue hints reach it, seconds", low=0.001, high=60)
    enclave_memory_mib: int = _setting(3072, "memory of one enclave, MiB; a run that needs more ends", low=512, high=4 << 20)
    enclave_first_uid: int = _setting(
        70_000,
        "first of the 4096 uids of which each enclave takes one, if the worker runs as root; 0: none",
        low=0,
        high=1 << 31,
    )
    enclave_address: str = _setting("", "host:port of the enclave server that runs this host's jobs; empty: the worker's machine does")
    enclave_ca: Path = _setting(Path("enclave-ca.pem"), "certificates by which the worker knows that enclave server")
    enclave_cert: Path = _setting(Path("worker.pem"), "certificate by which that enclave server knows the worker")
    enclave_key: Path = _setting(Path("worker.key"), "private key of the worker's certificate")
    enclave_cgroup: str = _setting(
        "", "folder of cgroup version 2 for enclaves; `delegated`: below the worker's own group; empty: one is looked for"
    )
    queue: str = _setting(
        "sqlite", "where hints that wake workers go: `sqlite` (a file inside `data`), `redis://...`, `postgresql://...` or `off`"
    )
    credential_rate: float = _setting(100.0, "requests per second of one credential, per web process; 0 means any", low=0, high=1_000_000)
    address_rate: float = _setting(200.0, "requests per second of one address, per web process; 0 means any", low=0, high=1_000_000)
    webhook_http: bool = _setting(False, "whether notices may go to `http` URLs, unencrypted")
    webhook_private: bool = _setting(False, "whether notices may go to addresses that are not public: this machine, its own network")
    webhook_attempts: int = _setting(10, "how often a notice is tried before it is given up", low=1, high=50)
    webhook_retry_s: float = _setting(5.0, "pause after the first failed attempt at a notice; grows fourfold, to 6 h", low=0.01, high=3600)
    quantum_s: float = _setting(
        0.0, "the end of a run is recorded, and seen, only at multiples of so many seconds after it began; 0: at once", low=0, high=86400
    )
    proxies: int = _setting(0, "trusted proxies before the service that set X-Forwarded-For and -Proto", low=0, high=10)
    jurisdiction: str = _setting("", "country (ISO 3166-1 alpha-2) in which enclaves run, stated in every decision; empty: not stated")
    metrics: bool = _setting(False, "whether `/metrics` is served")
    log: str = _setting("text", "form of the log on standard error", words=("text", "json"))

    def __post_init__(self) -> None:
        for item in fields(self):
            _require_within(item.name, getattr(self, item.name), item.metadata)
        if self.enclave != "simulated" or self.enclave_measurement:
            require_digest(self.enclave_measurement, "enclave_measurement")
        if self.jurisdiction:
            require_country(self.jurisdiction, "jurisdiction")

    @property
    def enclave_kind(self) -> EnclaveKind:
        """`enclave`, as the law's type."""
        return cast(EnclaveKind, self.enclave)

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database or f"sqlite:///{(self.data / 'sandbox.sqlite3').resolve()}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Setting:
    """One row of the table of settings.

    Attributes:
        variable: name in the environment.
        kind: `path`, `text`, `integer`, `number` or `boolean`.
        bounds: accepted values in words, or empty.
    """

    name: str
    variable: str
    kind: str
    default: Value
    bounds: str
    meaning: str


_KINDS: dict[str, tuple[str, type]] = {
    "Path": ("path", Path),
    "str": ("text", str),
    "int": ("integer", int),
    "float": ("number", float),
    "bool": ("boolean", bool),
}


def describe() -> list[Setting]:
    """The table of all settings, which is all that documents and `sandbox admin config` show."""
    return [
        Setting(
            name=item.name,
            variable=PREFIX + item.name.upper(),
            kind=_KINDS[str(item.type)][0],
            default=cast(Value, item.default),
            bounds=_bounds(item.metadata),
            meaning=item.metadata["meaning"],
        )
        for item in fields(Config)
    ]


def read_config(environment: Mapping[str, str] = os.environ) -> Config:
    """Return the configuration of the file that `SANDBOX_CONFIG` names, where there is one, and of the environment, which wins.

    Raises:
        Malformed: the file cannot be read, an unknown setting, a value of the wrong type or out of bounds.
    """
    return read_settings(environment)[0]


def read_settings(environment: Mapping[str, str] = os.environ) -> tuple[Config, dict[str, str]]:
    """As `read_config`, and where each setting came from: `default`, `file` or `environment`."""
    table = {setting.name: setting for setting in describe()}
    values: dict[str, Any] = {}
    sources = dict.fromkeys(table, "default")
    if environment.get(CONFIG_FILE):
        for name, value in _read_file(Path(environment[CONFIG_FILE])).items():
            _known(name, table, CONFIG_FILE)
            values[name] = _from_file(table[name], value)
            sources[name] = "file"
    for variable, text in environment.items():
        if variable.startswith(PREFIX) and variable not in FOREIGN:
            name = _known(variable.removeprefix(PREFIX).lower(), table, variable)
            values[name] = _from_text(table[name], text)
            sources[name] = "environment"
    return Config(**values), sources


def _known(name: str, table: Mapping[str, Setting], where: str) -> str:
    if name not in table or (where != CONFIG_FILE and table[name].variable != where):
        raise Malformed(f"unknown setting `{name if where == CONFIG_FILE else where}`; known: {', '.join(sorted(table))}", where=where)
    return name


def _read_file(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Malformed(f"the file of settings {path} cannot be read", where=CONFIG_FILE) from error
    except ValueError as error:
        raise Malformed(f"the file of settings {path} is no TOML: {error}", where=CONFIG_FILE) from error


def _from_file(setting: Setting, value: Any) -> Value:
    python = next(python for word, python in _KINDS.values() if word == setting.kind)
    accepted: Any = {Path: str, float: (int, float)}.get(python, python)
    if not isinstance(value, accepted) or (isinstance(value, bool) and python is not bool):
        raise Malformed(f"`{value}` is no {setting.kind}", where=setting.name)
    found: Value = python(value)
    return found


def _from_text(setting: Setting, text: str) -> Value:
    if setting.kind == "boolean":
        if text not in ("true", "false"):
            raise Malformed(f"`{text}` is neither true nor false", where=setting.variable)
        return text == "true"
    python = next(python for word, python in _KINDS.values() if word == setting.kind)
    try:
        found: Value = python(text)
    except ValueError as error:
        raise Malformed(f"`{text}` is no {setting.kind}", where=setting.variable) from error
    return found


def _require_within(name: str, value: Value, metadata: Mapping[str, Any]) -> None:
    low, high, words = metadata["low"], metadata["high"], metadata["words"]
    if words and value not in words:
        raise Malformed(f"`{value}` is none of {', '.join(words)}", where=name)
    if low is not None and not low <= value <= high:
        raise Malformed(f"`{value}` is not {_bounds(metadata)}", where=name)


def _bounds(metadata: Mapping[str, Any]) -> str:
    if metadata["words"]:
        return " or ".join(f"`{word}`" for word in metadata["words"])
    return "" if metadata["low"] is None else f"from {metadata['low']} to {metadata['high']}"
