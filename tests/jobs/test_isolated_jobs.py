"""Jobs under an agreement that requires layers, on workers that give them, do not, or lie; and runs that the machine ends."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from enclaves.kit.jail import START
from policies.errors import PolicyRefused
from policies.isolation import LAYERS, Layer
from sandbox.jobs import launch
from sandbox.jobs.isolation import default_isolation
from sandbox.jobs.launch import EnclaveProcess
from sandbox.jobs.upkeep import say_alive
from sandbox.jobs.worker import Worker
from tests.support.runs import COUNT_SQL, Town, brokers_running, found_town
from tests.support.steps import require_sound

REQUIRED: tuple[Layer, ...] = ("syscalls", "limits")
"""What every Linux machine gives, bubblewrap or not."""


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    found = found_town(tmp_path_factory.mktemp("isolated"), persons=10, total="100", queue="off", isolation=REQUIRED)
    yield found
    found.close()


def local(town: Town) -> Worker:
    """A worker whose enclaves are started as this machine can."""
    return Worker(host=town.host, layers=lambda: default_isolation().layers)


def test_jobs_run_where_workers_give_what_is_required_and_their_evidence_says_so(town: Town) -> None:
    worker = local(town)
    worker.sweep()
    job = town.charged("isolated", sql=COUNT_SQL, epsilon="0.1")
    with brokers_running(town.clients["insurer"]):
        assert worker.step()
    found = town.job(job)
    assert found.state == "released"
    assert found.evidence is not None
    assert found.evidence.evidence.isolation == default_isolation().layers
    assert found.grant is not None
    assert found.grant.isolation == REQUIRED
    require_sound(town.host)


def test_a_request_is_denied_while_a_living_worker_lacks_a_layer(town: Town) -> None:
    local(town).sweep()
    say_alive(town.host, "worker-bare", ("limits",))
    try:
        with pytest.raises(PolicyRefused) as refused:
            town.clients["institute"].submit(town.request("bare-worker", sql=COUNT_SQL, epsilon="0.1"))
        assert [finding["rule"] for finding in refused.value.findings if not finding["allowed"]] == ["isolation"]
    finally:
        say_alive(town.host, "worker-bare", LAYERS)
    require_sound(town.host)


def test_a_worker_that_claims_more_than_its_enclaves_have_gets_no_keys(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """What decides is what the enclave itself finds. The charge stays."""
    worker = Worker(host=town.host, layers=lambda: LAYERS)
    worker.sweep()
    job = town.charged("claims", sql=COUNT_SQL, epsilon="0.1")
    call = "import enclaves.main as m; m.confine_system_calls = lambda: False; {call}"
    monkeypatch.setattr(launch, "START", START.replace("{call}", call))
    with brokers_running(town.clients["insurer"]):
        assert worker.step()
    assert (town.job(job).state, town.job(job).code) == ("failed", "evidence-rejected")
    assert len(town.headers("charged", job)) == 1
    assert not town.headers("key_released", job)
    require_sound(town.host)


HOG = """
import enclaves.run
def hog(*arguments, **options):
    held = []
    while True:
        held.append(bytearray(b"x" * (16 << 20)))
enclaves.run.run = hog
{call}
"""


def test_a_run_that_wants_too_much_memory_ends_as_such_and_its_charge_stays(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its uses are counted by the kernel: a library that ignores every limit is ended all the same, and the worker goes on."""
    isolation = default_isolation()
    if "memory" not in isolation.layers:
        pytest.skip("this process may make no memory control group: run as root, or delegate one")
    small = replace(isolation, memory_mib=512)
    monkeypatch.setattr(launch, "START", START.replace("; {call}", HOG))
    local(town).sweep()
    job = town.charged("hog", sql=COUNT_SQL, epsilon="0.1")
    with brokers_running(town.clients["insurer"]):
        assert Worker(host=town.host, launch=lambda: EnclaveProcess(small), layers=lambda: isolation.layers).step()
    assert (town.job(job).state, town.job(job).code) == ("failed", "engine-error")
    assert len(town.headers("charged", job)) == 1
    monkeypatch.undo()
    after = town.charged("after-hog", sql=COUNT_SQL, epsilon="0.1")
    with brokers_running(town.clients["insurer"]):
        assert local(town).step()
    assert town.job(after).state == "released"
    require_sound(town.host)


def test_nothing_of_an_enclave_is_left(town: Town) -> None:
    isolation = default_isolation()
    with EnclaveProcess(isolation) as enclave:
        folder, group = Path(enclave._folder), enclave._group
        assert folder.is_dir()
    assert not folder.exists()
    assert group is None or not any(path.exists() for path in group.folders.values())
