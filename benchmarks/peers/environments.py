"""Each peer's own environment below `.cache`, and one run of a peer inside it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
CACHE = HERE / ".cache"
PEERS = ("opendp_polars", "smartnoise", "tumult")
INSTALL_S, RUN_S = 900, 600


def interpreter(peer: str) -> Path:
    """Where a peer's Python is once it is installed."""
    return CACHE / peer / "bin" / "python"


def install(peer: str) -> str | None:
    """Build a peer's environment, unless there is one. Returns why it could not be built."""
    if interpreter(peer).exists():
        return None
    if peer == "tumult" and shutil.which("java") is None:
        return "needs Java 17"
    folder = CACHE / peer
    try:
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True, capture_output=True, timeout=INSTALL_S)
        pip = [str(interpreter(peer)), "-m", "pip", "install", "--quiet", "-r", str(HERE / f"{peer}.requirements.txt")]
        subprocess.run(pip, check=True, capture_output=True, timeout=INSTALL_S)
    except (subprocess.SubprocessError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        return _last_line(getattr(error, "stderr", None)) or type(error).__name__
    return None


def measure(peer: str, parquet: Path, *, core: int | None = None, seconds: float = RUN_S) -> dict[str, Any]:
    """What a peer printed about its run on a file: `seconds`, `errors` per statistic; or `failed` with the reason.

    A run that was cut short has `longer_than_s` as well.
    """
    if not interpreter(peer).exists():
        return {"failed": "not installed"}
    command = [str(interpreter(peer)), str(HERE / f"{peer}.py"), str(parquet.resolve())]
    environment = os.environ | {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1"}
    pinned = [] if core is None or shutil.which("taskset") is None else ["taskset", "-c", str(core)]
    child = subprocess.Popen(
        [*pinned, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, text=True, start_new_session=True, cwd=CACHE
    )
    try:
        out, err = child.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        # Spark has children of its own.
        os.killpg(child.pid, 9)
        child.communicate()
        return {"failed": f"not done after {seconds:.0f} s", "longer_than_s": seconds}
    lines = [line for line in out.splitlines() if line.startswith("{")]
    if child.returncode or not lines:
        return {"failed": _last_line(err) or f"exit {child.returncode}"}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def _last_line(text: str | bytes | None) -> str:
    shown = text.decode(errors="replace") if isinstance(text, bytes) else text or ""
    return shown.strip().splitlines()[-1][:200] if shown.strip() else ""
