"""What the pages tell people to type is what these tests run: the shell blocks, in order, in one bash, against a real service."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.service import free_port, kill

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = ("docs/tutorial-provider.md", "docs/tutorial-consumer.md", "docs/tutorial-auditor.md")
TIMEOUT_S = 600.0


def shell_blocks(page: str) -> list[str]:
    """The shell blocks of a page."""
    return re.findall(r"^```sh\n(.*?)^```$", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def play(folder: Path, blocks: list[str]) -> tuple[int, str]:
    """Run blocks as one bash script with the port replaced by a free one; returns its exit code and all that it printed."""
    script = "set -euo pipefail\n" + "\n".join(blocks).replace("8700", str(free_port()))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SANDBOX_")}
    environment |= {"TMPDIR": str(folder), "PATH": f"{Path(sys.executable).parent}:{environment['PATH']}"}
    output = folder / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            ["bash", "-c", script], cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        try:
            code = process.wait(TIMEOUT_S)
        except subprocess.TimeoutExpired:
            code = -1
        finally:
            kill(process)
    return code, output.read_text(encoding="utf-8", errors="replace")


@pytest.fixture
def installed() -> None:
    if not (Path(sys.executable).parent / "sandbox").exists():
        pytest.skip("the `sandbox` command is not installed beside this interpreter: run make venv")


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_the_three_first_hours_run_as_they_are_written(tmp_path: Path) -> None:
    code, printed = play(tmp_path, [block for page in TUTORIALS for block in shell_blocks(page)])
    assert code == 0, printed[-6000:]
    assert printed.count("SYNTHETIC: computed on twins") == 3
    assert "nothing waits" in printed
    assert "receipt, log and enclave signature verified" in printed
    assert printed.count("the log replays") == 2
    assert printed.count("THE LOG DOES NOT REPLAY") == 1
    assert printed.count("The receipt holds") == 2


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_the_readme_runs_as_it_is_written(tmp_path: Path) -> None:
    code, printed = play(tmp_path, [block for block in shell_blocks("README.md") if "make demo" not in block])
    assert code == 0, printed[-6000:]
    assert "the log replays" in printed


def test_both_readmes_say_the_same_commands() -> None:
    assert shell_blocks("README.zh.md")[1:] == shell_blocks("README.md")[1:]


@pytest.mark.parametrize("page", ["README.md", "README.zh.md", *TUTORIALS])
def test_every_link_of_a_page_leads_to_a_file(page: str) -> None:
    folder = (ROOT / page).parent
    links = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", (ROOT / page).read_text(encoding="utf-8"))
    assert not [link for link in links if not (folder / link).exists()]
