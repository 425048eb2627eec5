"""A job has ended before a checkpoint covers its end: who asks for the release in that moment gets it a moment later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from policies.errors import Unavailable
from sandbox.jobs.worker import Worker
from sandbox.party.client import Client
from tests.support.runs import COUNT_SQL, Town, brokers_running, found_town


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Town]:
    found = found_town(tmp_path_factory.mktemp("town"))
    yield found
    found.close()


class Asking(Client):
    """A client that keeps what it was told of releases and receipts."""

    def _get(self, path: str, *, anonymous: bool = False) -> dict[str, Any]:
        told = self.__dict__.setdefault("told", [])
        try:
            answer = super()._get(path, anonymous=anonymous)
        except Unavailable as error:
            told.append(error.code)
            raise
        told.append("answered")
        return answer


def test_a_release_asked_for_before_its_checkpoint_is_waited_for(town: Town) -> None:
    job = town.charged("early", sql=COUNT_SQL)
    home, session = town.clients["institute"].home, town.client(town.clients["institute"].home).session
    patient = Asking(home=home, session=session)
    hasty = replace(town.again("institute"), published_within_s=0.0)
    asked: list[Future[Any]] = []
    with ThreadPoolExecutor() as pool:

        def between(step: str) -> None:
            if step != "stored":
                return
            assert hasty.job(job)["state"] == "released"
            for ask in (hasty.release, hasty.receipt):
                with pytest.raises(Unavailable) as early:
                    ask(job)
                assert early.value.code == "not-published"
            asked.append(pool.submit(patient.release, job))
            while "not-published" not in patient.__dict__.get("told", ()):
                assert not asked[0].done()
                time.sleep(0.01)

        worker = Worker(host=replace(town.host, on_step=between))
        with brokers_running(town.clients["insurer"], town.clients["clinic"]):
            assert worker.step()
        release, _ = asked[0].result(timeout=120)
    assert release.loss == town.request("early", sql=COUNT_SQL).loss
    assert hasty.release(job)[0] == release
    assert hasty.receipt(job)
