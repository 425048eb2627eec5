"""The real enclave process: what it has, what it may, and that it leaves neither words nor orphans behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from enclaves.attesters import NSM, SEV_GUEST, TSM
from enclaves.confinement import ADDRESS_SPACE_MIB, CPU_SECONDS, OPEN_FILES
from enclaves.kit.appraisal import appraise
from enclaves.kit.attestation.platform import bound_data
from enclaves.kit.frames import MAX_FRAME, read_frame, write_frame
from enclaves.kit.jail import START
from enclaves.kit.measure import checkout_root, measurement
from policies.canonical import canonical, digest_bytes, parse_json
from policies.codec import encode
from policies.errors import Malformed
from policies.odrl import agreement_document
from policies.statement import Endorsed
from sandbox.jobs.isolation import default_isolation
from sandbox.jobs.launch import EnclaveDied, EnclaveProcess
from tests.support.runs import Bench, bench, gone, replace_grant

COMMAND = [sys.executable, "-I", "-B", "-c", START.format(root=str(checkout_root()), call="main(3072)")]
"""What `EnclaveProcess` runs; here with a pipe where it has none, to see what would be said."""

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def waiting() -> Iterator[EnclaveProcess]:
    """An enclave that has limited itself and waits for its grant."""
    with EnclaveProcess() as enclave:
        ready = parse_json(enclave._receive(PATIENCE_S))
        assert ready == {"ready": measurement(checkout_root()), "isolation": own_layers()}
        yield enclave


def own_layers() -> list[str]:
    """What an enclave on this machine finds around itself; of its control group it knows nothing."""
    return [layer for layer in default_isolation().layers if layer not in ("memory", "pids")]


def proc(enclave: EnclaveProcess, name: str) -> Path:
    """A file of the kernel's about the process; skips where only root may look, since an enclave is not dumpable."""
    path = Path(f"/proc/{enclave.pid}/{name}")
    if not path.exists():
        pytest.skip("needs Linux's /proc")
    if not os.access(path, os.R_OK) or os.geteuid() != 0:
        pytest.skip("an enclave process hides from other users and from its own; run as root to look into it")
    return path


def until(condition: Callable[[], bool]) -> bool:
    """Whether a condition comes true in time."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def test_it_measures_this_checkout(waiting: EnclaveProcess) -> None:
    assert re.fullmatch(r"sha256:[0-9a-f]{64}", measurement(checkout_root()))
    assert not gone(waiting.pid)


def test_it_has_no_environment_and_an_empty_folder_of_its_own(waiting: EnclaveProcess) -> None:
    folder = Path(os.readlink(proc(waiting, "cwd")))
    assert proc(waiting, "environ").read_bytes() in (b"", f"PWD={folder}\0".encode())  # a shell or bubblewrap names it
    if default_isolation().jail == "none":
        assert list(folder.iterdir()) == []
    else:
        assert folder == Path("/"), "the root of its own mount namespace"
    assert folder not in (Path.cwd(), checkout_root())


def test_it_inherits_no_descriptor(waiting: EnclaveProcess) -> None:
    """0 is the socket in; 1 and 2 go nowhere; every other one the process opened itself: socket, pipe out and what libraries made."""
    secret = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(secret, True)
    try:
        with EnclaveProcess() as enclave:
            enclave._receive(PATIENCE_S)
            found = {int(fd.name): os.readlink(fd) for fd in proc(enclave, "fd").iterdir()}
    finally:
        os.close(secret)
    assert found[0].startswith("socket:")
    assert found[1] == found[2] == os.devnull
    rest = {fd: target for fd, target in found.items() if fd > 2}
    assert sum(target.startswith("pipe:") for target in rest.values()) == 1
    assert [target for target in rest.values() if target.startswith("socket:")] == [found[0]]
    assert all(target.startswith(("pipe:", "anon_inode:", "socket:")) for target in rest.values())


def test_its_limits_are_set(waiting: EnclaveProcess) -> None:
    limits = {}
    for line in Path(f"/proc/{waiting.pid}/limits").read_text().splitlines()[1:]:
        name, soft, hard = re.match(r"(.{26})(\S+)\s+(\S+)", line).groups()  # type: ignore[union-attr]
        limits[name.strip()] = (soft, hard)
    expected = {
        "Max core file size": 0,
        "Max file size": 0,
        "Max address space": (3072 + ADDRESS_SPACE_MIB) << 20,
        "Max cpu time": CPU_SECONDS,
        "Max open files": OPEN_FILES,
    }
    for name, most in expected.items():
        assert limits[name][0] == limits[name][1]
        assert int(limits[name][0]) <= most


def test_it_is_not_dumpable_and_leads_a_session_of_its_own(waiting: EnclaveProcess) -> None:
    assert os.getsid(waiting.pid) != os.getsid(0)
    assert Path(f"/proc/{waiting.pid}/status").stat().st_uid == 0, "files in /proc of a process that is not dumpable are root's"


def test_limited_code_cannot_write_a_file(tmp_path: Path) -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(checkout_root())!r})\n"
        "from enclaves.confinement import limit_self; limit_self(3072)\n"
        "try:\n"
        "    with open('out', 'wb', buffering=0) as file: file.write(b'x')\n"
        "except OSError as error: print(error.errno)\n"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "27"
    assert [path.stat().st_size for path in tmp_path.iterdir()] in ([], [0])


GARBAGE = (
    b"\x00\x00\x00\x02{}",
    (MAX_FRAME + 1).to_bytes(4, "big"),
    b"",
    b"\xff\xff\xff\xff" + b"x" * 100,
    b"\x00\x00\x00\x05hello",
    b"\x00\x00",
    b"\x00\x00\x00\x10" + b'{"grant": "\xff\xff"}'[:16],
)
"""Another message, one that is too large, and none; with SANDBOX_FULL=1 more of each, at an enclave's start apiece."""


@pytest.mark.parametrize("incoming", GARBAGE if os.environ.get("SANDBOX_FULL") else GARBAGE[:3])
def test_garbage_ends_it_without_a_word(incoming: bytes) -> None:
    """Standard error is a pipe here, which it is not when the host starts an enclave."""
    ours, theirs = socket.socketpair()
    with ours, theirs, subprocess.Popen(COMMAND, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={}) as process:
        theirs.close()
        ours.sendall(incoming)
        ours.shutdown(socket.SHUT_WR)
        said, complained = process.communicate(timeout=PATIENCE_S)
    length = int.from_bytes(said[:4], "big")
    assert process.returncode == 1
    assert len(said) == 4 + length
    assert parse_json(said[4:])["ready"] == measurement(checkout_root())
    assert complained == b""


def test_the_host_takes_no_oversized_frame_and_no_frame_cut_short(tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes((MAX_FRAME + 1).to_bytes(4, "big"))
    with (tmp_path / "large").open("rb") as stream, pytest.raises(Malformed):
        read_frame(stream)
    (tmp_path / "short").write_bytes(b"\x00\x00\x00\x05abc")
    with (tmp_path / "short").open("rb") as stream, pytest.raises(EOFError):
        read_frame(stream)


def test_it_dies_with_the_process_that_started_it_even_if_its_pipe_stays_open(tmp_path: Path) -> None:
    """A fork of the parent keeps the pipe's other end: the enclave never reads an end of its input."""
    script = (
        f"import os, sys, time; sys.path.insert(0, {str(checkout_root())!r})\n"
        "from sandbox.jobs.launch import EnclaveProcess\n"
        "enclave = EnclaveProcess(); enclave._receive(60)\n"
        "fork = os.fork()\n"
        "if fork: print(enclave.pid, fork, flush=True)\n"
        "time.sleep(120)\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pid, fork = map(int, parent.stdout.readline().split())
        try:
            assert not gone(pid)
            parent.send_signal(signal.SIGKILL)
            parent.wait()
            assert until(lambda: gone(pid))
            assert not gone(fork)
        finally:
            os.kill(fork, signal.SIGKILL)


def test_leaving_the_context_leaves_nothing_behind() -> None:
    with EnclaveProcess() as enclave:
        folder, pid = Path(enclave._folder), enclave.pid
        assert folder.is_dir()
    assert gone(pid)
    assert not folder.exists()


@pytest.fixture(scope="module")
def laid(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """A bench whose grant names the measurement of this checkout."""
    return replace_grant(bench(), measurement=measurement(checkout_root()))


def test_a_whole_run_over_the_pipe(laid: Bench, tmp_path: Path) -> None:
    paths = {}
    for dataset, data in laid.files.items():
        paths[dataset] = tmp_path / dataset
        paths[dataset].write_bytes(data)
    with EnclaveProcess() as enclave:
        evidence = enclave.start(laid.grant, agreement_document(laid.agreement), list(laid.nonces), PATIENCE_S)
        pid = enclave.pid
        attested = appraise(
            evidence, grant=laid.grant, kinds=["simulated"], measurements=[measurement(checkout_root())], nonce=laid.nonces[0]
        )
        keys = laid.sealed_keys(evidence=attested.digest, to=bytes.fromhex(attested.evidence.sealing_key))
        statement, sealed = enclave.run({name: value.hex() for name, value in keys.items()}, paths, PATIENCE_S)
        assert statement.statement.withheld is None
        assert statement.statement.sealed == digest_bytes(sealed)
        assert until(lambda: gone(pid)), "one run, then the end"


def test_a_missing_file_ends_it_without_a_statement(laid: Bench, tmp_path: Path) -> None:
    with EnclaveProcess() as enclave:
        enclave.start(laid.grant, agreement_document(laid.agreement), list(laid.nonces), PATIENCE_S)
        with pytest.raises(EnclaveDied):
            enclave.run({}, {"insurer.plans": tmp_path / "nothing"}, PATIENCE_S)


def test_an_enclave_that_says_nothing_in_time_counts_as_dead(laid: Bench) -> None:
    with EnclaveProcess() as enclave:
        enclave._receive(PATIENCE_S)
        with pytest.raises(EnclaveDied):
            enclave._receive(0.05)


def test_an_enclave_that_speaks_no_frames_counts_as_dead(laid: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the child says first in place of evidence is no evidence."""
    monkeypatch.setattr("sandbox.jobs.launch.START", "import sys; sys.stdout.write('hello world'); sys.stdout.flush()")
    with EnclaveProcess() as enclave, pytest.raises(EnclaveDied):
        enclave.start(laid.grant, agreement_document(laid.agreement), list(laid.nonces), PATIENCE_S)
    lies = "import sys; w=sys.stdout.buffer; w.write(b'\\0\\0\\0\\x02{{}}' * 2); w.flush(); sys.stdin.read()"
    monkeypatch.setattr("sandbox.jobs.launch.START", lies)
    with EnclaveProcess() as enclave, pytest.raises(EnclaveDied):
        enclave.start(laid.grant, agreement_document(laid.agreement), list(laid.nonces), PATIENCE_S)


def test_frames_round_trip_through_a_real_pipe() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as incoming, os.fdopen(writing, "wb") as outgoing:
        for data in (b"", b"x" * 70, canonical(encode({"a": [1, "ä"]}))):
            write_frame(outgoing, data)
            assert read_frame(incoming) == data


def test_a_tees_evidence_is_fetched_by_the_launcher_for_the_enclaves_own_claims(laid: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between its layers an enclave reaches no device; what is signed is the digest of the very claims that it then shows."""
    asked: list[tuple[str, bytes]] = []

    class Device:
        def __init__(self, kind: str) -> None:
            self.kind = kind

        def endorse(self, bound: bytes) -> Endorsed:
            asked.append((self.kind, bound))
            return Endorsed(document="ab" * 100)

    monkeypatch.setattr("sandbox.jobs.launch.find_attester", Device)
    grant = replace(laid.grant, enclave_kind="amd-sev-snp")
    with EnclaveProcess() as enclave:
        evidence = enclave.start(grant, agreement_document(laid.agreement), list(laid.nonces), PATIENCE_S)
    assert asked == [("amd-sev-snp", bound_data(canonical(encode(evidence.evidence))))]
    assert evidence.platform == Endorsed(document="ab" * 100)


def test_a_machine_that_is_no_tee_gives_no_evidence_of_one(laid: Bench) -> None:
    if any(path.exists() for path in (SEV_GUEST, NSM, TSM)):
        pytest.skip("this machine is a TEE")
    grant = replace(laid.grant, enclave_kind="aws-nitro")
    with EnclaveProcess() as enclave, pytest.raises(EnclaveDied):
        enclave.start(grant, agreement_document(laid.agreement), list(laid.nonces), PATIENCE_S)
