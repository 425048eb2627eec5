"""Joint totals over HTTP with everybody's own code: a release that nobody saw in the clear, and what becomes of whoever cheats."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from enclaves.kit import he
from enclaves.kit.envelope import Signed, sign_document
from policies.agreement import LogIdentity
from policies.canonical import digest_bytes
from policies.codec import decode, encode
from policies.errors import Conflict, Forbidden, Malformed, NotFound, PolicyRefused, ReleaseWithheld, SandboxError, Tampered
from policies.joint import PARAMETERS
from policies.joint_documents import JointContribution, JointManifest, JointRelease, JointStatement, manifest_digest
from sandbox.audit.joint_receipt import JointReceipt, verify_joint_receipt
from sandbox.audit.receipt import log_key
from sandbox.audit.replay import replay
from sandbox.host import Host
from sandbox.party.connection import Connection
from sandbox.party.exporting import export_log
from sandbox.party.joint import JointPart
from tests.support.pool import BANDS, REGIONS, distributed
from tests.support.pooled import PoolMarket, finish_without, open_pool, until, work_in_this_process
from tests.support.service import Service, running


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service without a worker: tests run their own, so that they decide who is slow."""
    with running(tmp_path_factory.mktemp("joint"), "sqlite") as found:
        yield found


@pytest.fixture(scope="module")
def pooled(alone: Service) -> PoolMarket:
    """Three insurers with two-sided noise; a job goes on without who drops out."""
    return open_pool(alone)


@pytest.fixture(scope="module")
def done(pooled: PoolMarket) -> str:
    """A job that was released."""
    job = pooled.submit(rho="2")
    with pooled.working():
        assert pooled.finish(job, pooled.parts())["state"] == "released"
    return job


@pytest.fixture
def _in_this_process(monkeypatch: pytest.MonkeyPatch, done: str) -> None:
    """Children's work without children, once a whole job has been through with them: starting one costs a second."""
    work_in_this_process(monkeypatch)


pytestmark = pytest.mark.usefixtures("_in_this_process")


def truth(market: PoolMarket) -> dict[tuple[str, str], int]:
    found = dict.fromkeys(itertools.product(REGIONS, BANDS), 0)
    for table in market.tables.values():
        for row in table.to_pylist():
            found[row["region"], row["age_band"]] += 1
    return found


def replayed(market: PoolMarket, tmp_path: Any) -> Any:
    client = market.clients[market.analyst]
    folder = tmp_path / "export"
    log = client.service()["log"]
    identity = LogIdentity(origin=log["origin"], key=log["key"])
    export_log(client, folder, identity)
    return replay(lambda path: (folder / path).read_bytes(), log_key(identity))


def kinds(market: PoolMarket, job: str) -> list[str]:
    return [header["kind"] for header in market.service.headers() if header["ids"].get("job") == job]


def test_the_release_verifies_and_lies_near_the_truth(pooled: PoolMarket, done: str) -> None:
    release, receipt = pooled.clients[pooled.analyst].release(done)
    assert isinstance(release, JointRelease)
    assert isinstance(receipt, JointReceipt)
    assert release.contributors == pooled.insurers
    counts = truth(pooled)
    assert [cell.keys for cell in release.cells] == list(counts)
    for cell in release.cells:
        figure = cell.figures[0]
        assert abs(float(figure.value) - counts[tuple(cell.keys)]) < 60, "ten sigmas"  # type: ignore[index]
        assert float(figure.low) < float(figure.value) < float(figure.high)


def test_the_log_tells_the_whole_way_in_the_durable_order(pooled: PoolMarket, done: str) -> None:
    contributed = ["joint_contributed"] * 3
    assert kinds(pooled, done) == [
        "decided",
        "charged",
        "granted",
        "running",
        "joint_keyed",
        *contributed,
        "joint_summed",
        "joint_released",
    ]


def test_every_party_verifies_the_receipt_and_only_the_consumer_opens(pooled: PoolMarket, done: str) -> None:
    for name, client in pooled.clients.items():
        receipt = decode(JointReceipt, client.receipt(done))
        verified = verify_joint_receipt(receipt, client.signed_agreement(pooled.agreement))
        assert verified.statement.key_destroyed
        if name != pooled.analyst:
            with pytest.raises(NotFound):
                client.release(done)


def test_a_changed_receipt_is_noticed(pooled: PoolMarket, done: str) -> None:
    client = pooled.clients[pooled.analyst]
    agreement, receipt = client.signed_agreement(pooled.agreement), decode(JointReceipt, client.receipt(done))
    other = sign_document("joint-statement", pooled.notary, {**receipt.statement.body, "total": "sha256:" + "0" * 64},
                          pooled.clients[pooled.notary].home.signing)  # fmt: skip
    for changed in (
        replace(receipt, contributions=receipt.contributions[:-1]),
        replace(receipt, contributions=receipt.contributions[::-1]),
        replace(receipt, statement=other),
        replace(receipt, statement=replace(receipt.statement, by=pooled.insurers[0])),
        replace(receipt, manifest=replace(receipt.manifest, signature="0" * 128)),
        replace(receipt, grant=replace(receipt.grant, job="job-00000000000000000000")),
        replace(receipt, grant=replace(receipt.grant, pool=replace(receipt.grant.pool, rows=1))),
        replace(receipt, index=receipt.index - 1),
    ):
        with pytest.raises((Tampered, Malformed)):
            verify_joint_receipt(changed, agreement)
    with pytest.raises(Tampered):
        verify_joint_receipt(receipt, agreement, b"another release")


def test_secrets_of_the_job_are_gone_and_none_was_ever_at_the_host(pooled: PoolMarket, done: str) -> None:
    home = pooled.clients[pooled.notary].home.folder
    assert not list(home.glob("joint/*.secret"))
    assert not list(home.glob("joint-*"))
    # What the host has of it are public keys, ciphertexts, the sum and the sealed release.
    amounts = {str(row["amount"]).encode() for table in pooled.tables.values() for row in table.to_pylist() if row["amount"] > 1000}
    for name in pooled.service.uploads():
        data = (pooled.service.config.data / "uploads" / name).read_bytes()
        assert not any(amount in data for amount in amounts)


def test_the_log_replays(pooled: PoolMarket, done: str, tmp_path: Any) -> None:
    verdict = replayed(pooled, tmp_path)
    assert verdict.mismatches == ()
    assert verdict.promises["releases"] in ("ok", "unopened")


def test_asking_again_runs_and_charges_again(pooled: PoolMarket, done: str) -> None:
    """Nobody knows whether contributors' tables are still the same."""
    before = pooled.service.spent(pooled.insurers[0])
    assert pooled.clients[pooled.analyst].check(pooled.request(rho="2"))["facts"].get("repeats") is None
    assert pooled.service.spent(pooled.insurers[0]) == before


# --- drop-outs


def test_a_contributor_that_drops_out_leads_to_another_attempt_without_it(pooled: PoolMarket) -> None:
    job, gone = pooled.submit(), pooled.insurers[1]
    record = finish_without(pooled, job, gone)
    assert record["state"] == "released"
    assert pooled.clients[pooled.analyst].joint_progress(job) is None
    release, _ = pooled.clients[pooled.analyst].release(job)
    assert isinstance(release, JointRelease)
    assert release.contributors == tuple(name for name in pooled.insurers if name != gone)
    steps = kinds(pooled, job)
    assert steps.count("charged") == 1, "a rerun before any opening is free"
    assert steps.count("joint_keyed") == 2
    dropped = [h["ids"] for h in pooled.service.headers() if h["kind"] == "joint_dropped" and h["ids"]["job"] == job]
    assert [(ids["participant"], ids["reason"], ids["rerun"]) for ids in dropped] == [(gone, "no-contribution", "yes")]


def test_with_distributed_noise_a_drop_out_is_a_named_failure(alone: Service) -> None:
    market = open_pool(alone, pool=lambda members, holder: distributed(members, key_holder=holder))
    job, gone = market.submit(), market.insurers[2]
    record = finish_without(market, job, gone)
    assert (record["state"], record["code"]) == ("failed", "contributor-dropped")
    assert [h["ids"]["participant"] for h in market.service.headers() if h["kind"] == "joint_dropped"][-1] == gone
    again = market.submit()
    with market.working():
        assert market.finish(again, market.parts())["state"] == "released"
    release, _ = market.clients[market.analyst].release(again)
    assert isinstance(release, JointRelease)
    assert release.noise == "distributed"


def test_a_key_holder_that_does_not_come_is_a_named_failure(pooled: PoolMarket) -> None:
    job = pooled.submit()
    with pooled.working(keys_timeout_s=0.5):
        record = pooled.finish(job, [])
    assert (record["state"], record["code"]) == ("failed", "key-holder-timeout")


# --- whoever cheats


class Cheat(JointPart):
    """An insurer that does as a test says when a contribution is wanted."""

    tasks = frozenset({"contribution"})

    def __init__(self, market: PoolMarket, name: str, act: Any) -> None:
        super().__init__(client=market.clients[name])
        self.act = act

    def _do(self, item: dict[str, Any], grant: Any) -> None:
        self.act(self, item, grant)


def contribution_of(cheat: Cheat, item: dict[str, Any], name: str) -> JointContribution:
    manifest = decode(JointManifest, decode(Signed, item["manifest"]).body)
    return JointContribution(job=manifest.job, manifest=manifest_digest(manifest), ciphertexts=name)


def send(cheat: Cheat, item: dict[str, Any], data: bytes) -> None:
    name = cheat.client.add_file(item["job"]["id"], data)
    cheat.client.send_contribution(contribution_of(cheat, item, name))


def crafted(parameters: Any) -> bytes:
    """The ciphertext whose decryption is the secret key: c0 = 0 and c1 = floor(q / t)."""
    words = np.zeros((1, *parameters.shape), dtype=np.uint64)
    for index, prime in enumerate(parameters.data_primes):
        words[0, 1, index, 0] = (int(np.prod([int(p) for p in parameters.data_primes], dtype=object)) // parameters.plain_modulus) % prime
    return he.write_ciphertexts(words)


@pytest.mark.parametrize("byte", [b"\xff", b"\0"], ids=["no residues", "transparent"])
def test_bytes_that_are_no_ciphertexts_name_their_contributor_and_the_service_lives(pooled: PoolMarket, byte: bytes) -> None:
    job, bad = pooled.submit(), pooled.insurers[0]
    parameters = PARAMETERS[pooled.clients[pooled.analyst].job(job)["grant"]["parameters"]]
    cheat = Cheat(pooled, bad, lambda self, item, grant: send(self, item, byte * parameters.ciphertext_bytes))
    with pooled.working():
        record = pooled.finish(job, [*pooled.parts(without=[bad]), cheat])
    dropped = [h["ids"] for h in pooled.service.headers() if h["kind"] == "joint_dropped" and h["ids"]["job"] == job]
    assert [(ids["participant"], ids["rerun"]) for ids in dropped] == [(bad, "yes")]
    assert dropped[0]["reason"].startswith("he-")
    assert record["state"] == "released"


def test_the_key_extracting_ciphertext_is_an_abort_of_one_bit(pooled: PoolMarket) -> None:
    job, bad = pooled.submit(), pooled.insurers[0]
    parameters = PARAMETERS[pooled.clients[pooled.analyst].job(job)["grant"]["parameters"]]
    cheat = Cheat(pooled, bad, lambda self, item, grant: send(self, item, crafted(parameters)))
    with pooled.working():
        record = pooled.finish(job, [*pooled.parts(without=[bad]), cheat])
    assert (record["state"], record["code"]) == ("withheld", "aborted")
    with pytest.raises(ReleaseWithheld) as withheld:
        pooled.clients[pooled.analyst].release(job)
    assert withheld.value.code == "aborted"
    assert not list(pooled.clients[pooled.notary].home.folder.glob("joint/*.secret"))


def test_uploads_of_another_size_are_refused_at_the_door(pooled: PoolMarket) -> None:
    job = pooled.submit()
    with pooled.working():
        holder, name = pooled.holder(), pooled.insurers[0]
        until(lambda: (holder.step() and False) or bool(pooled.clients[name].joint_totals()))
        for data in (b"", b"x" * 65535, b"x" * 65537, b"\x0a\x02\x80\x20", b"\x5e\xa1\x10\x04\x03\x02" + b"\x28\xb5\x2f\xfd" * 10):
            with pytest.raises(Malformed):
                pooled.clients[name].add_file(job, data)
        with pytest.raises(NotFound):
            pooled.clients[pooled.analyst].add_file(job, b"x" * 65536)
        pooled.finish(job, pooled.parts())


def test_contributions_count_once_and_only_by_their_own_signer(pooled: PoolMarket) -> None:
    job, first, second = pooled.submit(), pooled.insurers[0], pooled.insurers[1]
    seen: list[Exception] = []

    def act(self: Cheat, item: dict[str, Any], grant: Any) -> None:
        manifest = decode(JointManifest, decode(Signed, item["manifest"]).body)
        data = pooled.contributor(first)._computed(self._checked(item, grant), manifest, f"{first}.claims")
        name = self.client.add_file(job, data)
        mine = contribution_of(self, item, name)
        for wrong, raised in (
            (replace(mine, manifest="sha256:" + "1" * 64), Conflict),
            (replace(mine, ciphertexts="sha256:" + "2" * 64), NotFound),
            (replace(mine, job="job-00000000000000000000"), NotFound),
        ):
            with pytest.raises(raised):
                self.client.send_contribution(wrong)
        stolen = sign_document("joint-contribution", second, mine, pooled.clients[first].home.signing)
        with pytest.raises(Forbidden):
            pooled.clients[second]._post("/joint-totals/contributions", {"signed": encode(stolen)})
        with pytest.raises(Forbidden):
            self.client._post("/joint-totals/contributions", {"signed": encode(stolen)})
        self.client.send_contribution(mine)
        self.client.send_contribution(mine)  # the same again changes nothing
        other = self.client.add_file(job, he.write_ciphertexts(he.read_ciphertexts(grant.parameters, data, 1)[:, ::-1].copy()))
        with pytest.raises(Conflict) as once:
            self.client.send_contribution(replace(mine, ciphertexts=other))
        seen.append(once.value)

    with pooled.working():
        record = pooled.finish(job, [*pooled.parts(without=[first]), Cheat(pooled, first, act)])
    assert record["state"] == "released"
    assert [error.code for error in seen if isinstance(error, SandboxError)] == ["joint-once"]
    assert kinds(pooled, job).count("joint_contributed") == 3


def test_what_is_sent_twice_counts_once(pooled: PoolMarket, monkeypatch: pytest.MonkeyPatch) -> None:
    once, paths = Connection._send, set()

    def twice(self: Connection, method: str, path: str, **arguments: Any) -> Any:
        if "data" in arguments:
            arguments["data"] = b"".join(arguments["data"])
        answer = once(self, method, path, **arguments)
        if method == "POST" and path.startswith("/joint-totals"):
            again = once(self, method, path, **arguments)
            assert (again.status_code, again.content) == (answer.status_code, answer.content), path
            paths.add(path.rpartition("/")[2])
        return answer

    monkeypatch.setattr(Connection, "_send", twice)
    job = pooled.submit()
    with pooled.working():
        assert pooled.finish(job, pooled.parts())["state"] == "released"
    assert paths == {"manifests", "files", "contributions", "statements"}
    counted = Counter(kinds(pooled, job))
    assert [counted[kind] for kind in ("joint_keyed", "joint_contributed", "joint_summed", "joint_released")] == [1, 3, 1, 1]


def test_a_total_that_was_recorded_and_not_yet_published_is_no_other_total(pooled: PoolMarket, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the worker died, or only took its time, between the two: its host never publishes, and the key holder finds all in the log."""
    job = pooled.submit()
    monkeypatch.setattr(Host, "publish", lambda self: "")
    with pooled.working():
        assert pooled.finish(job, pooled.parts())["state"] == "released"


def test_a_host_that_substitutes_the_key_gets_no_contribution(pooled: PoolMarket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own key under the key holder's name: bytes that are not those signed, a manifest that nobody signed, one that is not logged."""
    job, name = pooled.submit(), pooled.insurers[0]
    with pooled.working():
        holder = pooled.holder()
        until(lambda: (holder.step() and False) or bool(pooled.clients[name].joint_totals()))
        (item,) = pooled.clients[name].joint_totals()
        part = pooled.contributor(name)
        evil = he.generate_key(item["job"]["grant"]["parameters"]).public
        with monkeypatch.context() as patched:
            real = part.client._send
            patched.setattr(part.client, "_send", lambda method, path, **k: Answer(evil) if "/files/" in path else real(method, path, **k))
            with pytest.raises(Tampered):
                part.step()
        manifest = decode(JointManifest, item["manifest"]["body"])
        forged = replace(manifest, public_key=digest_bytes(evil))
        for by, key in ((pooled.notary, pooled.clients[name].home.signing), (pooled.notary, pooled.clients[pooled.notary].home.signing)):
            signed = sign_document("joint-manifest", by, forged, key)
            with pytest.raises(Tampered) as refused:
                part._manifest({**item, "manifest": encode(signed)}, part._checked(item, decode_grant(item)))
            assert refused.value.code in ("bad-signature", "not-logged")
        assert pooled.finish(job, pooled.parts())["state"] == "released"


class Answer:
    """An answer with these bytes."""

    def __init__(self, content: bytes) -> None:
        self.content = content


def decode_grant(item: dict[str, Any]) -> Any:
    from policies.joint_grant import JointGrant

    return decode(JointGrant, item["job"]["grant"])


@pytest.mark.parametrize("change", ["contributors", "attempt", "grant"])
def test_a_contributor_refuses_an_attempt_that_the_agreement_does_not_allow(pooled: PoolMarket, change: str) -> None:
    from sandbox.party.joint import require_manifest

    client = pooled.clients[pooled.analyst]
    grant = decode_grant({"job": client.check(pooled.request(rho="0.01"))})
    from policies.grant import grant_digest

    good = JointManifest(job=grant.job, grant=grant_digest(grant), attempt=1, contributors=pooled.insurers, public_key="sha256:" + "0" * 64)
    require_manifest(good, grant)
    wrong = {
        "contributors": replace(good, contributors=pooled.insurers[:2]),
        "attempt": replace(good, attempt=3),
        "grant": replace(good, grant="sha256:" + "0" * 64),
    }[change]
    with pytest.raises(PolicyRefused):
        require_manifest(wrong, grant)


def test_a_key_holder_opens_one_total_and_answers_once(pooled: PoolMarket, done: str) -> None:
    """Asked again, it has no key and one kept answer; another answer is a conflict at the host."""
    notary = pooled.clients[pooled.notary]
    kept = notary.home.read(f"joint/{done}.opened.json")
    statement = decode(JointStatement, kept["statement"])
    notary.send_statement(statement)  # the same again is the same
    with pytest.raises(Conflict):
        notary.send_statement(replace(statement, sealed=None, withheld="aborted"))
    item = {"task": "key", "attempt": 2, "contributors": list(pooled.insurers), "job": notary.job(done)}
    with pytest.raises(PolicyRefused) as refused:
        pooled.holder()._do(item, decode_grant(item))
    assert refused.value.code == "joint-opened"


def test_a_key_holder_that_died_while_it_opened_aborts(pooled: PoolMarket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether it had decrypted nobody knows, so nothing is decrypted again."""
    job = pooled.submit()

    class Died(BaseException):
        pass

    def die(*_: Any, **__: Any) -> None:
        raise Died

    with pooled.working():
        holder = pooled.holder()
        others = [pooled.contributor(name) for name in pooled.insurers]
        with monkeypatch.context() as patched:
            patched.setattr(holder, "_decrypted", die)
            with pytest.raises(Died):
                pooled.finish(job, [holder, *others])
        record = pooled.finish(job, [pooled.holder()])
    assert (record["state"], record["code"]) == ("withheld", "aborted")


def test_a_host_that_sums_something_else_is_noticed_before_anything_is_opened(pooled: PoolMarket) -> None:
    job = pooled.submit()
    with pooled.working():
        pooled.holder()
        parts = pooled.parts()
        waiting: list[dict[str, Any]] = []

        def look() -> bool:
            for part in parts[1:]:
                part.step()
            items = pooled.clients[pooled.notary].joint_totals()
            if items and items[0]["task"] == "key":
                parts[0].step()
                return False
            waiting[:] = items
            return bool(items)

        until(look)
        (item,) = waiting
        holder = pooled.holder()
        for changed in (
            {**item, "total": "sha256:" + "0" * 64},
            {**item, "contributions": item["contributions"][::-1]},
            {**item, "contributions": item["contributions"][:2]},
        ):
            with pytest.raises((SandboxError, ValueError)):
                holder._open(changed, decode_grant(changed))
        assert not (holder.client.home.folder / "joint" / f"{job}.opened.json").exists()
        assert pooled.finish(job, [holder])["state"] == "released"


def test_only_parties_of_a_running_total_reach_its_files(pooled: PoolMarket, done: str) -> None:
    for client in pooled.clients.values():
        assert client.joint_totals() == []
    receipt = decode(JointReceipt, pooled.clients[pooled.analyst].receipt(done))
    total = decode(JointStatement, receipt.statement.body).total
    public = decode(JointManifest, receipt.manifest.body).public_key
    for name in (*pooled.insurers, pooled.analyst):
        with pytest.raises(NotFound):
            pooled.clients[name].joint_file(done, total)
    with pytest.raises(NotFound):
        pooled.clients[pooled.analyst].joint_file(done, public)
    single = decode(JointContribution, receipt.contributions[0].body).ciphertexts
    with pytest.raises(NotFound):
        pooled.clients[pooled.notary].joint_file(done, single)
