"""`sandbox enclave measure` and `appraise` as people use them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from enclaves.kit.measure import MEASURED, checkout_root, measurement
from policies.errors import Malformed
from sandbox.cli import cli
from tests.support.platforms import VECTORS
from tests.support.vectors import needs

pytestmark = needs("attestation")
SNP = ("--kind", "amd-sev-snp", "--evidence", str(VECTORS / "snp/report-v2-debug.bin"))
CHAIN = (str(VECTORS / "snp/vcek.der"), str(VECTORS / "snp/ask_ark_milan.pem"))
NITRO = ("--kind", "aws-nitro", "--evidence", str(VECTORS / "nitro/valid.cbor"))
TDX = ("--kind", "intel-tdx", "--evidence", str(VECTORS / "tdx/quote-with-collateral.bin"))


def appraise(*arguments: str, exit_code: int = 0) -> Any:
    done = CliRunner().invoke(cli, ["enclave", "appraise", *arguments, "--json"])
    assert done.exit_code == exit_code, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("arguments", "genuine", "accepted", "reason"),
    [
        ((*SNP, "--chain", CHAIN[0], "--chain", CHAIN[1], "--at", "2024-01-01T00:00:00Z"), True, False, "debug"),
        ((*SNP, "--chain", *CHAIN, "--at", "1704067200"), True, False, "debug"),
        ((*SNP, "--chain", CHAIN[0], "--at", "2024-01-01T00:00:00Z"), False, False, "chain-incomplete"),
        ((*NITRO, "--at", "2022-10-13T10:00:00Z"), True, True, None),
        ((*NITRO, "--at", "2026-10-13T10:00:00Z"), False, False, "certificate-expired"),
        ((*TDX, "--collateral", str(VECTORS / "tdx/collateral.json"), "--at", "2025-06-19T11:00:00Z"), True, True, None),
        ((*TDX, "--at", "2025-06-19T11:00:00Z"), True, False, "collateral-missing"),
        ((*NITRO, "--measurement", "sha256:" + "0" * 64, "--at", "2022-10-13T10:00:00Z"), True, False, "measurement"),
        ((*NITRO, "--bound", "00", "--at", "2022-10-13T10:00:00Z"), True, False, "key-binding"),
    ],
)
def test_an_appraisal_says_whether_evidence_is_genuine_and_accepted_and_why(
    arguments: tuple[str, ...], genuine: bool, accepted: bool, reason: str | None
) -> None:
    found = appraise(*arguments)
    assert (found["genuine"], found["accepted"], found["reason"]) == (genuine, accepted, reason)
    assert bool(found["claims"]) == genuine
    if genuine:
        assert found["claims"]["submods"]["cpu0"]["ear.veraison.annotated-evidence"]["measurement"].startswith("sha256:")


def test_a_refusal_is_an_exit_code_where_one_asks_for_it() -> None:
    appraise(*NITRO, "--at", "2026-01-01T00:00:00Z", "--require", exit_code=3)
    appraise(*NITRO, "--at", "2022-10-13T10:00:00Z", "--require")
    shown = CliRunner().invoke(cli, ["enclave", "appraise", *NITRO, "--at", "2026-01-01T00:00:00Z"]).stdout
    assert shown.startswith("NOT genuine, refused: certificate-expired")


MALFORMED = [
    *(("--at", text) for text in ("yesterday", "2026-13-01T00:00:00Z", "", "nan", "inf", "-1e400", "99999999999999999999", "1e12")),
    *(("--measurement", text) for text in ("nope", "sha256:", "sha256:" + "0" * 63, "sha256:" + "G" * 64)),
    *(("--bound", text) for text in ("", "zz", "0", "0x00")),
]


@pytest.mark.parametrize("change", [("--kind", "simulated"), *MALFORMED])
def test_what_cannot_be_appraised_is_a_fault_of_the_command(change: tuple[str, str]) -> None:
    done = CliRunner().invoke(cli, ["enclave", "appraise", *NITRO, "--at", "2026-01-01T00:00:00Z", *change, "--json"])
    assert isinstance(done.exception, Malformed)


@pytest.mark.parametrize("data", [b"", b"\0" * 5000, b"{}", b"x" * (1 << 20)])
@pytest.mark.parametrize("kind", ["amd-sev-snp", "intel-tdx", "aws-nitro"])
def test_files_that_are_no_evidence_are_not_genuine(data: bytes, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "evidence"
    path.write_bytes(data)
    found = appraise("--kind", kind, "--evidence", str(path), "--chain", str(path), "--collateral", str(path), "--at", "2026-01-01")
    assert (found["genuine"], found["accepted"]) == (False, False)
    assert found["reason"]


def test_a_measurement_is_the_same_on_another_machine(tmp_path: Path) -> None:
    """Another order of files, other times, rights and line ends; byte code and hidden files beside them."""
    root, before = checkout_root(), os.umask(0o077)
    try:
        found = (path for folder in MEASURED for path in (root / folder).rglob("*") if path.is_file() and path.suffix != ".pyc")
        files = [*found, root / "requirements.txt"]
        for path in sorted(files, reverse=True):
            copy = tmp_path / path.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
            os.utime(copy, (1, 1))
    finally:
        os.umask(before)
    (tmp_path / "policies" / "__pycache__").mkdir()
    (tmp_path / "policies" / "__pycache__" / "x.pyc").write_bytes(b"x")
    (tmp_path / "policies" / ".hidden").write_bytes(b"x")
    assert measurement(tmp_path) == measurement(root)
    done = CliRunner().invoke(cli, ["enclave", "measure", "--root", str(tmp_path), "--files", "--json"])
    found = json.loads(done.stdout)
    assert found["measurement"] == measurement(root)
    assert set(found["files"]) >= {"requirements.txt", "policies/decide.py", "enclaves/run.py"}


@pytest.mark.parametrize("change", ["content", "new", "gone", "renamed"])
def test_any_other_code_has_another_measurement(tmp_path: Path, change: str) -> None:
    root = checkout_root()
    for folder in MEASURED:
        shutil.copytree(root / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(root / "requirements.txt", tmp_path)
    assert measurement(tmp_path) == measurement(root)
    victim = tmp_path / "policies" / "decide.py"
    if change == "content":
        victim.write_bytes(victim.read_bytes() + b"#")
    elif change == "new":
        (tmp_path / "enclaves" / "more.py").write_bytes(b"")
    elif change == "gone":
        victim.unlink()
    else:
        victim.rename(victim.with_name("decided.py"))
    assert measurement(tmp_path) != measurement(root)
