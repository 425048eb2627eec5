"""What isolation costs and what it stops: starts of interpreters, bare and isolated; grant to attested enclave; attempts from inside.

- `overhead_ms`: median of an isolated start (control group, uid, namespaces, filter, and their removal) less that of a bare `python -I`.
- `attested_ms`: from the moment that the grant is there to the evidence, as a worker does it: one enclave stands ready that has loaded
  its libraries, has no keys and serves one run. `attested_cold_ms`: the same without it, imports included. `floor_ms`: those imports alone
  in a bare interpreter.
- `attempts`, `succeeded`: hostile code's ways out, and how many led anywhere; `control`: how many of `control_attempts` succeed from an
  ordinary process.
- `layers`: what this machine gives.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks._attempts import HARMLESS, Stage, stage
from enclaves.kit.jail import START
from enclaves.kit.measure import checkout_root, measurement
from policies.odrl import agreement_document
from sandbox.jobs import launch
from sandbox.jobs.isolation import default_isolation
from sandbox.jobs.launch import EnclaveProcess
from tests.support.runs import Bench, bench, replace_grant

PATIENCE_S = 120.0
IMPORTS = "import enclaves.run, enclaves.evidence, enclaves.preload, policies.odrl"
CONFINED = "import sys; sys.path.insert(0, {root!r}); from enclaves.main import *; limit_self(3072); confine(3072)"


def timed(act: Callable[[], object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    act()
    return (time.perf_counter() - started) * 1000


def bare(code: str = "pass") -> None:
    """One interpreter to its end."""
    subprocess.run([sys.executable, "-I", "-B", "-c", code], check=True, env={})


def isolated() -> None:
    """One interpreter between all layers, to its end."""
    launch.START = CONFINED
    try:
        with EnclaveProcess() as enclave:
            if enclave._process.wait() != 0:
                raise SystemExit("an isolated interpreter failed")
    finally:
        launch.START = START


def attested(laid: Bench, *, ready: bool) -> float:
    """Milliseconds from the grant to the evidence."""
    with ExitStack() as held:
        enclave = held.enter_context(EnclaveProcess()) if ready else None
        if enclave is not None:
            first = enclave._frames.get(timeout=PATIENCE_S)
            enclave._frames.put(first)
        started = time.perf_counter()
        enclave = enclave or held.enter_context(EnclaveProcess())
        evidence = enclave.start(laid.grant, agreement_document(laid.agreement), list(laid.nonces), PATIENCE_S)
        took = (time.perf_counter() - started) * 1000
    if evidence.evidence.isolation != default_isolation().layers:
        raise SystemExit("the evidence does not name this machine's layers")
    return took


def attacked(aimed: Stage) -> dict[str, bool]:
    """What each attempt from inside a run came to."""
    isolation = default_isolation()
    launch.START = aimed.code(checkout_root(), memory_mib=isolation.memory_mib).replace("{", "{{").replace("}", "}}")
    try:
        with EnclaveProcess(isolation) as enclave:
            found: dict[str, bool] = json.loads(enclave._receive(PATIENCE_S))
            return found
    finally:
        launch.START = START


def control(aimed: Stage) -> int:
    """How many of the harmless attempts succeed from an ordinary process."""
    code = aimed.code(checkout_root(), memory_mib=None, only=HARMLESS)
    done = subprocess.run([sys.executable, "-c", code], stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return sum(json.loads(done.stdout[4:]).values())


def main() -> None:
    """Measure and print."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--quick", action="store_true", help="fewer repetitions")
    arguments.add_argument("--repeats", type=int, help="of every start")
    chosen = arguments.parse_args()
    repeats = chosen.repeats or (8 if chosen.quick else 40)
    laid = replace_grant(bench(), measurement=measurement(checkout_root()))
    default_isolation()
    code = f"import sys; sys.path.insert(0, {str(checkout_root())!r}); {IMPORTS}"
    starts: dict[str, list[float]] = {"bare": [], "isolated": [], "attested": [], "attested_cold": [], "floor": []}
    for _ in range(repeats):  # interleaved: what else the machine does falls on all alike
        starts["bare"].append(timed(bare))
        starts["isolated"].append(timed(isolated))
    for _ in range(max(2, repeats // 4)):
        starts["attested"].append(attested(laid, ready=True))
        starts["attested_cold"].append(attested(laid, ready=False))
        starts["floor"].append(timed(lambda: bare(code)))
    medians = {name: statistics.median(values) for name, values in starts.items()}
    with tempfile.TemporaryDirectory() as folder, stage(Path(folder)) as aimed:
        outcome, usual = attacked(aimed), control(aimed)
    for name, value in medians.items():
        print(f"{name:14s} {value:8.1f} ms (least {min(starts[name]):.1f})")
    for name, succeeded in outcome.items():
        if succeeded:
            print(f"succeeded: {name}")
    found = {
        "overhead_ms": round(medians["isolated"] - medians["bare"], 1),
        "attested_ms": round(medians["attested"], 1),
        "attempts": len(outcome),
        "succeeded": sum(outcome.values()),
        "attested_cold_ms": round(medians["attested_cold"], 1),
        "floor_ms": round(medians["floor"], 1),
        "bare_ms": round(medians["bare"], 1),
        "control": usual,
        "control_attempts": len(HARMLESS),
        "layers": list(default_isolation().layers),
        "repeats": repeats,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
