"""A run that had its keys and gave nothing ends in one way only: no participant learns whether memory, time or a value ended it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest

import enclaves.run
from enclaves.kit.tables import OutOfMemory
from policies.errors import SandboxError, Tampered
from sandbox.jobs.launch import EnclaveDied, EnclaveOutOfMemory, EnclaveProcess
from tests.support.runs import JOIN_SQL, Town, found_town
from tests.support.steps import Line, require_sound
from tests.support.story import EnclaveHere

PEOPLE = ("institute", "insurer", "clinic", "auditor")
SAYS_INSIDE: dict[str, Exception] = {
    "a value": ValueError("person 17"),
    "memory of the tables": OutOfMemory("person 17"),
    "memory of the process": MemoryError("person 17"),
    "a column that cannot be decoded": Tampered("person 17"),
}
ENDS_OUTSIDE: dict[str, Exception] = {"the kernel": EnclaveOutOfMemory(), "death, or time": EnclaveDied()}


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    found = found_town(tmp_path_factory.mktemp("ends"), persons=10, total="100", queue="off")
    yield found
    require_sound(found.host)
    found.close()


@dataclass
class Ending(EnclaveHere):
    """An enclave that ends as it is told once it has its keys."""

    outside: Exception | None = None

    def run(self, *arguments: Any) -> Any:
        """Run, or die."""
        if self.outside is not None:
            raise self.outside
        return super().run(*arguments)


def ended(town: Town, label: str, monkeypatch: pytest.MonkeyPatch, error: Exception) -> str:
    """A job whose run ended by an error."""
    inside = error not in ENDS_OUTSIDE.values()

    def fail(*_: Any, **__: Any) -> None:
        raise error

    launch: Callable[[], EnclaveProcess] = lambda: cast(  # noqa: E731
        EnclaveProcess, Ending(town.host.measurement, [], outside=None if inside else error)
    )
    line = Line(host=town.host, brokers=[town.broker("insurer"), town.broker("clinic")])
    line.worker.launch = launch
    job = town.charged(label, sql=JOIN_SQL, epsilon="0.1")
    with monkeypatch.context() as broken:
        if inside:
            broken.setattr(enclaves.run, "aggregate_files", fail)
        line.finish(job)
    return job


def refused(ask: Callable[[str], Any], job: str) -> tuple[str, str]:
    with pytest.raises(SandboxError) as raised:
        ask(job)
    return raised.value.code, raised.value.message.replace(job, "JOB")


def seen(town: Town, job: str) -> dict[str, Any]:
    """All that participants can see of a job, without what is its own in every job: ids, digests, keys, times."""
    entries = [
        (header["kind"], sorted(header["ids"]), header["ids"].get("code"))
        for kind in ("running", "attested", "key_released", "released", "withheld", "failed", "renounced", "voided")
        for header in town.headers(kind, job)
    ]
    found: dict[str, Any] = {"entries": entries}
    for name in PEOPLE:
        client = town.clients[name]
        shown = client.job(job)
        notices = sorted((notice["kind"], notice.get("code")) for notice in client.notices() if notice.get("subject") == job)
        found[name] = (sorted(shown), shown["state"], shown["code"], notices, refused(client.release, job), refused(client.receipt, job))
    return found


def test_whatever_ended_a_run_that_had_its_keys_all_participants_see_the_same(
    town: Town, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known: dict[str, dict[str, Any]] = {}
    told: dict[str, str] = {}
    for number, (cause, error) in enumerate({**SAYS_INSIDE, **ENDS_OUTSIDE}.items()):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger="sandbox.runs"):
            job = ended(town, f"ends-{number}", monkeypatch, error)
        known[cause] = seen(town, job)
        assert (town.job(job).state, town.job(job).code) == ("failed", "engine-error")
        assert len(town.headers("charged", job)) == 1
        assert not town.headers("voided", job), "the charge stays"
        told[cause] = next(record.getMessage() for record in caplog.records if record.name == "sandbox.runs")
        assert job in told[cause]
        assert "person 17" not in caplog.text
    assert len({repr(view) for view in known.values()}) == 1, known
    assert "the kernel" in told["the kernel"], "the operator sees what it measures itself"
    assert "died" in told["death, or time"]
    assert len({told[cause].partition(": ")[2].partition(";")[0] for cause in SAYS_INSIDE}) == 1, "and no more: the enclave told it nothing"


def test_an_enclave_that_dies_before_it_has_any_key_may_say_so(town: Town) -> None:
    line = Line(host=town.host, brokers=[town.broker("insurer"), town.broker("clinic")])

    class Unborn(EnclaveHere):
        def start(self, *_: Any) -> Any:
            raise EnclaveDied

    line.worker.launch = lambda: cast(EnclaveProcess, Unborn(town.host.measurement, []))
    job = town.charged("unborn", sql=JOIN_SQL, epsilon="0.1")
    line.finish(job)
    assert (town.job(job).state, town.job(job).code) == ("failed", "enclave-died")
