"""Reference values in the log: what the service says that its enclaves run can be compared file by file, and is judged by a replay."""

from __future__ import annotations

from typing import Any

import pytest

from enclaves.kit.measure import checkout_root, file_digests
from policies.attestation import code_measurement
from policies.codec import encode
from policies.documents import KeyDestruction
from policies.errors import Conflict
from sandbox.audit.verdict import Promise
from sandbox.exchange.destruction import destroy_keys
from sandbox.exchange.measuring import publish_measurement
from tests.support.forge import Draft, Forgery, drafts, find, forged, require_named
from tests.support.story import Story, tell

FILES = file_digests(checkout_root())


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """A history with a measurement and a destruction at its end."""
    found = tell(tmp_path_factory.mktemp("story"))
    publish_measurement(found.host, FILES)
    with found.host.store.reading() as tx:
        version = tx.newest_version("insurer.plans")
    assert version is not None
    statement = KeyDestruction(dataset="insurer.plans", version=version.version, file_digest=version.file_digest)
    destroy_keys(found.host, found.member("insurer"), found.firms["insurer"].sign("key-destruction", statement))
    return found


@pytest.fixture
def history(told: Story) -> list[Draft]:
    """Its entries, to be forged."""
    return drafts(told.host)


def test_the_honest_history_replays(told: Story, history: list[Draft]) -> None:
    assert forged(history, told).mismatches == ()
    at = find(history, "measured")
    assert history[at].header.ids == {"kind": "simulated", "measurement": told.host.measurement}


def test_a_measurement_is_written_once(told: Story) -> None:
    with told.host.store.reading() as tx:
        before = tx.log_size()
    first = publish_measurement(told.host, FILES)
    assert first == publish_measurement(told.host, FILES)
    with told.host.store.reading() as tx:
        assert tx.log_size() == before


def test_other_code_than_the_enclaves_is_not_written(told: Story) -> None:
    with pytest.raises(Conflict) as caught:
        publish_measurement(told.host, FILES | {"policies/decide.py": "0" * 64})
    assert caught.value.code == "other-measurement"


def _another_measurement(story: Story, history: list[Draft]) -> int:
    at = find(history, "measured")
    history[at] = history[at].edited(measurement=code_measurement({}))
    return at


def _another_file(story: Story, history: list[Draft]) -> int:
    at = find(history, "measured")
    history[at] = history[at].edited(lambda body: body["files"].update({"enclaves/backdoor.py": "0" * 64}))
    return at


def _destroyed_by_another(story: Story, history: list[Draft]) -> int:
    at = find(history, "destroyed")
    signed = story.firms["clinic"].sign("key-destruction", history[at].body["signed"]["body"])
    history[at] = history[at].edited(lambda body: body.update(signed=encode(signed)))
    return at


def _destroyed_another_file(story: Story, history: list[Draft]) -> int:
    at = find(history, "destroyed")
    history[at] = history[at].edited(file="sha256:" + "0" * 64)
    return at


def _destroyed_before_it_was_published(story: Story, history: list[Draft]) -> int:
    at = find(history, "destroyed")
    statement: dict[str, Any] = history[at].body["signed"]["body"] | {"version": 9}
    signed = story.firms["insurer"].sign("key-destruction", statement)
    history[at] = history[at].edited(lambda body: body.update(signed=encode(signed)), version="9")
    return at


@pytest.mark.parametrize(
    ("forge", "promise"),
    [
        (_another_measurement, "evidence"),
        (_another_file, "evidence"),
        (_destroyed_by_another, "signatures"),
        (_destroyed_another_file, "signatures"),
        (_destroyed_before_it_was_published, "order"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_forged_entry_is_caught_and_named(told: Story, history: list[Draft], forge: Forgery, promise: Promise) -> None:
    require_named(told, history, forge, promise)
