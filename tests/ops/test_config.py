"""Settings: one table, validated, documented."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from policies.errors import Malformed
from sandbox.config import Config, describe, read_config, read_settings

ROOT = Path(__file__).resolve().parents[2]


def written(folder: Path, text: str) -> dict[str, str]:
    path = folder / "sandbox.toml"
    path.write_text(text)
    return {"SANDBOX_CONFIG": str(path)}


def test_the_environment_wins_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    file = written(tmp_path, 'origin = "file.test/log"\nlease_s = 7\nmetrics = true\n')
    config, sources = read_settings(file | {"SANDBOX_LEASE_S": "9.5", "SANDBOX_HOME": "elsewhere"})
    assert (config.origin, config.lease_s, config.metrics, config.poll_s) == ("file.test/log", 9.5, True, 0.1)
    assert (sources["origin"], sources["lease_s"], sources["poll_s"]) == ("file", "environment", "default")


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("unknown = 1", "SANDBOX_CONFIG"),
        ("DATA = 'x'", "SANDBOX_CONFIG"),
        ("upload_bytes = 1.5", "upload_bytes"),
        ("upload_bytes = true", "upload_bytes"),
        ("upload_bytes = '5'", "upload_bytes"),
        ("metrics = 1", "metrics"),
        ("data = 1", "data"),
        ("upload_bytes = 0", "upload_bytes"),
        ("poll_s = nan", "poll_s"),
        ("log = 'xml'", "log"),
        ("not toml", "SANDBOX_CONFIG"),
    ],
)
def test_a_file_that_says_something_else_is_refused(tmp_path: Path, text: str, where: str) -> None:
    with pytest.raises(Malformed) as refused:
        read_config(written(tmp_path, text))
    assert refused.value.where == where


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("SANDBOX_UNKNOWN", "1"),
        ("SANDBOX_data", "x"),
        ("SANDBOX_METRICS", "1"),
        ("SANDBOX_PROXIES", "11"),
        ("SANDBOX_PROXIES", "-1"),
        ("SANDBOX_POLL_S", "inf"),
        ("SANDBOX_JSON_BYTES", "many"),
        ("SANDBOX_CONFIG", "no/such/file.toml"),
    ],
)
def test_an_environment_that_says_something_else_is_refused(name: str, text: str) -> None:
    with pytest.raises(Malformed):
        read_config({name: text})


def test_the_documented_table_is_the_table_of_the_code() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(SANDBOX_\w+)` \| (.*?) \| (.*?) \| (.*?) \|$", text, re.M)
    assert rows == [
        (setting.variable, f"`{_toml(setting.default)}`", setting.bounds or setting.kind, setting.meaning) for setting in describe()
    ]


def test_the_password_of_a_database_is_never_shown() -> None:
    first, second = "postgresql+psycopg://u:hidden-word@h/d", "postgresql+psycopg://u@h/d?password=hidden-word&sslpassword=hidden-word"
    for url, option in ((first, ()), (second, ("--json",))):
        done = subprocess.run(
            [sys.executable, "-m", "sandbox", "admin", "config", *option],
            env={**os.environ, "SANDBOX_DATABASE": url},
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
        assert "hidden-word" not in done.stdout + done.stderr
        assert "postgresql" in done.stdout
    assert json.loads(done.stdout)["database"]["source"] == "environment"


def test_a_config_out_of_bounds_cannot_be_made() -> None:
    with pytest.raises(Malformed):
        Config(upload_bytes=0)


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, (str, Path)) else str(value)
