"""Witnesses over HTTP: k of n cosign, none cosigns two histories, not even at once or after a restart; homes accept by policy."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests

from policies.canonical import canonical
from policies.errors import Conflict, Malformed, NotFound, Tampered
from sandbox.audit.checkpoint import LogKey, open_checkpoint
from sandbox.audit.cosignature import cosignatures
from sandbox.audit.merkle import completed_nodes, consistency_proof, leaf_hash
from sandbox.audit.witness import MAX_REQUEST, Submission
from sandbox.audit.witness_policy import parse_policy
from sandbox.party.cosigning import POLICY, collect, cosigned_note, following
from sandbox.party.home import Home
from sandbox.party.witness import Witness, server
from tests.party.test_following import Log, charge, filler


@contextmanager
def served(witness: Witness) -> Iterator[str]:
    """A witness at an address of its own."""
    with server(witness, "127.0.0.1", 0) as door:
        thread = threading.Thread(target=door.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{door.server_address[1]}/any/prefix"
        finally:
            door.shutdown()
            thread.join()


@pytest.fixture
def log() -> Log:
    return Log(entries=[filler(number) for number in range(12)])


@pytest.fixture
def witnesses(tmp_path: Path, log: Log) -> list[Witness]:
    key = LogKey(name=log.origin, public=log.key.public)
    return [Witness.create(tmp_path / name, f"{name}.example", [key]) for name in ("wa", "wb", "wc")]


def prover(log: Log) -> Callable[[int, int], tuple[bytes, ...]]:
    def prove(old: int, new: int) -> tuple[bytes, ...]:
        nodes: dict[tuple[int, int], bytes] = {}
        for at, draft in enumerate(log.entries):
            for level, position, value in completed_nodes(at, leaf_hash(draft.data), lambda *place: nodes[place]):
                nodes[level, position] = value
        return consistency_proof(old, new, lambda *place: nodes[place])

    return prove


def policy_of(witnesses: list[Witness], urls: list[str], quorum: str = "group q 2 wa wb wc\nquorum q\n") -> str:
    lines = (f"witness {w.folder.name} {w.key.vkey} {url}\n" for w, url in zip(witnesses, urls, strict=True))
    return "".join(lines) + quorum


def test_two_of_three_cosign_and_the_third_may_be_away(log: Log, witnesses: list[Witness]) -> None:
    with ExitStack() as stack:
        urls = [stack.enter_context(served(witness)) for witness in witnesses[:2]]
        policy = parse_policy(policy_of(witnesses, [*urls, "http://127.0.0.1:9"]))
        for size in (5, 5, 9, 12):
            note = log.note(size)
            done = collect(note, open_checkpoint(note, LogKey(name=log.origin, public=log.key.public)), policy, prover(log))
            assert set(policy.require(done)) == {"wa", "wb"}
            assert open_checkpoint(done, LogKey(name=log.origin, public=log.key.public)).size == size
    assert [witness.newest()[log.origin].size for witness in witnesses[:2]] == [12, 12]


def test_too_few_witnesses_are_an_error_that_says_what_each_answered(log: Log, witnesses: list[Witness]) -> None:
    with served(witnesses[0]) as url, served(Witness.create(witnesses[0].folder / "x", "wb.example", [])) as stranger:
        policy = parse_policy(policy_of(witnesses, [url, stranger, "http://127.0.0.1:9"]))
        note = log.note(5)
        with pytest.raises(Tampered) as caught:
            collect(note, open_checkpoint(note, LogKey(name=log.origin, public=log.key.public)), policy, prover(log))
    assert caught.value.code == "witness-quorum"
    assert "wb: it answered 404" in caught.value.message
    assert "wc: it cannot be reached" in caught.value.message


def test_a_fork_gets_no_quorum_and_its_proof_is_kept(log: Log, witnesses: list[Witness]) -> None:
    fork = Log(entries=[*log.entries[:4], filler(99), *log.entries[5:]], key=log.key)
    key = LogKey(name=log.origin, public=log.key.public)
    with ExitStack() as stack:
        urls = [stack.enter_context(served(witness)) for witness in witnesses]
        policy = parse_policy(policy_of(witnesses, urls))
        collect(log.note(9), open_checkpoint(log.note(9), key), policy, prover(log))
        for size in (9, 12):
            with pytest.raises(Tampered) as caught:
                collect(fork.note(size), open_checkpoint(fork.note(size), key), policy, prover(fork))
            assert "it has seen another history" in caught.value.message
        with pytest.raises(Tampered) as caught:
            collect(log.note(5), open_checkpoint(log.note(5), key), policy, prover(log))
        assert "it has seen a longer log" in caught.value.message
    assert all(witness.newest()[log.origin].size == 9 for witness in witnesses[:2])
    assert witnesses[0].conflicts()
    kept = witnesses[0].conflicts()[0].read_text()
    assert open_checkpoint(kept.partition("\n\n")[2], key), "the log's own signature stands under its second history"


def test_of_two_histories_submitted_at_once_one_is_cosigned(log: Log, witnesses: list[Witness]) -> None:
    witness, key = witnesses[0], LogKey(name=log.origin, public=log.key.public)
    forks = [Log(entries=[*log.entries[:4], filler(100 + number), *log.entries[5:]], key=log.key) for number in range(8)]
    answers: list[tuple[int, str]] = []
    with served(witness) as url:

        def submit(fork: Log) -> None:
            body = Submission(old=0, proof=(), note=fork.note(12)).render()
            answer = requests.post(f"{url}/add-checkpoint", data=body.encode(), timeout=60)
            answers.append((answer.status_code, fork.note(12) + answer.text if answer.status_code == 200 else answer.text))

        threads = [threading.Thread(target=submit, args=(fork,)) for fork in forks]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(status for status, _ in answers) == [200] + [409] * 7
    won = next(text for status, text in answers if status == 200)
    assert witness.key in cosignatures(won, [witness.key])
    assert witness.newest()[log.origin] == open_checkpoint(won, key)


def test_a_restarted_witness_remembers_and_its_folder_is_its_identity(log: Log, witnesses: list[Witness], tmp_path: Path) -> None:
    witness = witnesses[0]
    assert witness.add_checkpoint(Submission(old=0, proof=(), note=log.note(9)).render()).status == 200
    again = Witness(folder=witness.folder)
    assert again.key == witness.key
    assert again.add_checkpoint(Submission(old=0, proof=(), note=log.note(5)).render()).body == "9\n"
    proof = prover(log)(9, 12)
    assert again.add_checkpoint(Submission(old=9, proof=proof, note=log.note(12)).render()).status == 200
    with pytest.raises(Conflict):
        Witness.create(witness.folder, "other.example", [])
    with pytest.raises(NotFound):
        _ = Witness(folder=tmp_path / "none").key
    with pytest.raises(Malformed):
        Witness.create(tmp_path / "bad", "two words", [])


def test_a_cosignature_is_on_disk_before_it_leaves(log: Log, witnesses: list[Witness], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Home, name: str, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Home, "write_bytes", full)
    with pytest.raises(OSError, match="No space"):
        witnesses[0].add_checkpoint(Submission(old=0, proof=(), note=log.note(9)).render())
    assert witnesses[0].newest() == {}


def test_the_door_answers_what_is_no_submission(witnesses: list[Witness]) -> None:
    with served(witnesses[0]) as url:
        assert requests.get(f"{url}/vkey", timeout=60).text == witnesses[0].key.vkey + "\n"
        assert requests.get(f"{url}/other", timeout=60).status_code == 404
        assert requests.post(f"{url}/other", data=b"", timeout=60).status_code == 404
        for body in (b"", b"\xff\xfe", b"old 0\n\n", b"old 0\n\nlog\n"):
            assert requests.post(f"{url}/add-checkpoint", data=body, timeout=60).status_code == 400, body
        assert requests.post(f"{url}/add-checkpoint", data=b"x" * (MAX_REQUEST + 1), timeout=60).status_code == 400


def test_a_home_with_a_policy_follows_only_what_witnesses_cosigned(log: Log, witnesses: list[Witness], tmp_path: Path) -> None:
    home = Home.create(tmp_path / "home", "insurer", "First Insurance", "http://host.test")
    fork = Log(entries=[*log.entries[:4], charge("job-1"), *log.entries[5:]], key=log.key)

    def fetch(of: Log) -> Callable[[str], str]:
        def answer(path: str) -> str:
            if not path.startswith("consistency"):
                return of.fetch(path)
            old, new = (int(part.partition("=")[2]) for part in path.partition("?")[2].split("&"))
            return canonical({"proof": [item.hex() for item in prover(of)(old, new)]}).decode()

        return answer

    with ExitStack() as stack:
        urls = [stack.enter_context(served(witness)) for witness in witnesses[:2]]
        home.write_bytes(POLICY, policy_of(witnesses, [*urls, "http://127.0.0.1:9"]).encode())
        followed = following(home, fetch(log)).follow(log.note(5), log.identity)
        assert followed.frontier.size == 5
        kept = cosigned_note(home, log.note(5))
        assert set(parse_policy(home.read_bytes(POLICY).decode()).require(kept)) == {"wa", "wb"}
        # Another home is shown another history: the witnesses do not go along.
        other = Home.create(tmp_path / "other", "clinic", "Clinic", "http://host.test")
        other.write_bytes(POLICY, home.read_bytes(POLICY))
        with pytest.raises(Tampered) as caught:
            following(other, fetch(fork)).follow(fork.note(12), fork.identity)
        assert caught.value.code == "witness-quorum"
        assert not (other.folder / "logs").exists(), "nothing is kept of a checkpoint that was not accepted"
    # The same checkpoint again needs no witness; a newer one does.
    assert following(home, fetch(log)).follow(log.note(5), log.identity).frontier.size == 5
    with pytest.raises(Tampered):
        following(home, fetch(log)).follow(log.note(9), log.identity)
