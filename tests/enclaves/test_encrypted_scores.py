"""Scores of encrypted rows: they are the model's, whoever cheats with ciphertexts is refused, and an answer tells no more than scores."""

from __future__ import annotations

import ast
import json
import pickle
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaves.kit import he, he_score
from enclaves.kit.child import REQUEST, Child
from policies import scorer as documents
from policies.canonical import canonical, digest_bytes
from policies.codec import encode
from policies.errors import Malformed, SandboxError
from policies.model import Model
from policies.scorer import BLOCK, CIPHERTEXT_BYTES, DATA_PRIMES, DEGREE, KEY_BYTES, Scorer, fine_weights, scorer_of
from policies.scoring import predicted
from policies.training import Encoded
from sandbox.party.encrypted_scoring import encoded_rows, predicted_of
from tests.support.scored import applicants, risk_model, risk_scorer

BOUND = ("sha256:" + "ab" * 32, "request-0001")
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def key() -> tuple[he_score.ClientKey, bytes]:
    return he_score.generate_key(*BOUND)


def file_of(half: bytes, coordinates: Any) -> bytes:
    return half + he_score.encrypt_rows(he_score.public_key(half, *BOUND), he_score.matrix(coordinates))


@pytest.fixture(scope="module")
def sent(key: tuple[he_score.ClientKey, bytes]) -> bytes:
    """Three applicants."""
    return file_of(key[1], encoded_rows(risk_scorer(), applicants(3)))


def answered(data: bytes, rows: int, scorer: Scorer | None = None, model: Model | None = None) -> bytes:
    scorer, model = scorer or risk_scorer(), model or risk_model()
    return he_score.score(scorer, fine_weights(model, scorer), data, rows, *BOUND)


def test_encrypted_scores_are_the_models_own(key: tuple[he_score.ClientKey, bytes]) -> None:
    rows, model = applicants(BLOCK + 5), risk_model()
    answer = answered(file_of(key[1], encoded_rows(risk_scorer(), rows)), len(rows))
    opened = he_score.open_scores(key[0], answer, len(rows), 1)
    assert opened.shape == (len(rows), 1)
    for row, outputs in zip(rows, opened.tolist(), strict=True):
        assert predicted_of(risk_scorer(), outputs) == pytest.approx(predicted(model, row), abs=1e-4)


def test_every_class_has_its_own_sum(key: tuple[he_score.ClientKey, bytes]) -> None:
    weights = tuple(tuple((i + 1) * (j - 2) * 2**17 for j in range(5)) for i in range(3))
    model, rows = risk_model(link="softmax", weights=weights), applicants(40, seed=2)
    scorer = scorer_of(model, "lender.risk", 100)
    answer = answered(file_of(key[1], encoded_rows(scorer, rows)), 40, scorer, model)
    for row, outputs in zip(rows, he_score.open_scores(key[0], answer, 40, 3).tolist(), strict=True):
        assert predicted_of(scorer, outputs) == pytest.approx(predicted(model, row), abs=1e-4)


@given(st.lists(st.integers(-(2**20), 2**20), min_size=1, max_size=6), st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_weighted_sums_of_residues_are_exact(weights: list[int], seed: int) -> None:
    """Against whole numbers of any size, at the largest and the smallest residues and at random ones."""
    weights = [weight // len(weights) for weight in weights]
    draw = np.random.default_rng(seed)
    block = np.empty((len(weights), 2, 2, DEGREE), dtype=np.uint64)
    for index, prime in enumerate(DATA_PRIMES):
        block[:, :, index] = draw.integers(0, prime, (len(weights), 2, DEGREE), dtype=np.uint64)
        block[:, :, index, :2] = [0, prime - 1]
    found = he_score._combine(np.array([weights], dtype=np.float64), block)[0]
    for place in [(0, 0, 0), (0, 0, 1), (1, 1, 1), (1, 1, 0), (0, 1, 77), (1, 0, DEGREE - 1)]:
        wanted = sum(w * int(block[(j, *place)]) for j, w in enumerate(weights)) % DATA_PRIMES[place[1]]
        assert int(found[place]) == wanted


def test_the_step_makes_scores_coarse_and_not_wrong(key: tuple[he_score.ClientKey, bytes]) -> None:
    rows, model = [applicants(1)[0]] * 2000, risk_model()
    scorer = risk_scorer(step="0.5")
    answer = answered(file_of(key[1], encoded_rows(scorer, rows)), len(rows), scorer)
    opened = he_score.open_scores(key[0], answer, len(rows), 1)[:, 0]
    exact = he_score.open_scores(key[0], answered(file_of(key[1], encoded_rows(risk_scorer(), rows[:1])), 1, model=model), 1, 1)[0, 0]
    assert np.abs(opened - exact).max() <= 0.2501
    assert np.abs(opened - exact).max() > 0.24
    assert abs(opened.mean() - exact) < 7 * 0.5 / np.sqrt(12 * 2000)


def noise_of_inputs(key: he_score.ClientKey, data: bytes, width: int) -> he_score.Reals:
    """What a client knows of its own ciphertexts of zeros: the noise of their encryption, (rows, width), as an answer's scale reads it."""
    words = np.frombuffer(data[KEY_BYTES:], dtype=np.uint8).reshape(width, CIPHERTEXT_BYTES)
    return np.stack([he_score.open_scores(key, bytes(one), BLOCK, 1)[:, 0] for one in words], axis=1)


@pytest.mark.parametrize("flooded", [True, False])
def test_rows_of_zeros_tell_no_weights(key: tuple[he_score.ClientKey, bytes], flooded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The noise of its own ciphertexts is known to a client. Without the flood, least squares on it gives the model from empty rows."""
    if not flooded:
        monkeypatch.setattr(he_score, "_flood", lambda: [np.zeros(DEGREE, dtype=np.uint64)] * 2)
    model = risk_model(weights=((0, *risk_model().weights[0][1:]),))
    data = file_of(key[1], np.zeros((BLOCK, 4)))
    opened = he_score.open_scores(key[0], answered(data, BLOCK, model=model), BLOCK, 1)[:, 0]
    guessed = np.linalg.lstsq(noise_of_inputs(key[0], data, 4), opened, rcond=None)[0]
    actual = np.array(fine_weights(model, risk_scorer())[0][1:])
    found = bool((np.abs(guessed - actual) < 0.01 * np.abs(actual)).all())
    assert found is not flooded


def test_a_clients_half_of_the_key_cannot_unmask_an_answer(key: tuple[he_score.ClientKey, bytes], sent: bytes) -> None:
    """With a half of zeros, the second polynomials are still masked by the half that nobody chose: no two answers share one."""
    data = bytes(KEY_BYTES) + sent[KEY_BYTES:]
    first, second = (np.frombuffer(answered(data, 3), dtype="<u8").reshape(2, 2, DEGREE)[1] for _ in range(2))
    assert (first != second).mean() > 0.99
    assert (he_score.common_half(*BOUND) != he_score.common_half(BOUND[0], "request-0002")).mean() > 0.99


MADE: dict[str, Any] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[:-1],
    "longer": lambda data: data + bytes(8),
    "key beyond its primes": lambda data: b"\xff" * KEY_BYTES + data[KEY_BYTES:],
    "residue beyond its prime": lambda data: data[:-8] + b"\xff" * 8,
    "transparent": lambda data: data[: -CIPHERTEXT_BYTES // 2] + bytes(CIPHERTEXT_BYTES // 2),
    "a protobuf": lambda data: (b"\x0a\x02\x08\x01" + data)[: len(data) - 1],
}


@pytest.mark.parametrize("what", MADE)
def test_what_is_no_ciphertexts_is_refused_before_seal_sees_it(what: str, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(he, "loaded", lambda *_: pytest.fail("SEAL was handed what was not checked"))
    with pytest.raises(Malformed):
        answered(MADE[what](sent), 3)


def test_an_answer_opens_under_its_own_key_alone(key: tuple[he_score.ClientKey, bytes], sent: bytes) -> None:
    answer = answered(sent, 3)
    other, _ = he_score.generate_key(*BOUND)
    right, wrong = (he_score.open_scores(one, answer, 3, 1) for one in (key[0], other))
    assert np.abs(right - wrong).min() > 1
    with pytest.raises(Malformed):
        he_score.open_scores(key[0], answer[:-1], 3, 1)
    with pytest.raises(Malformed):
        he_score.ClientKey(b"short")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1.0001, -2.0])
def test_coordinates_out_of_range_are_refused_and_never_clipped(value: float, key: tuple[he_score.ClientKey, bytes]) -> None:
    public = he_score.public_key(key[1], *BOUND)
    with pytest.raises(Malformed):
        he_score.encrypt_rows(public, np.array([[0.0, value]]))
    with pytest.raises(Malformed):
        he_score.encrypt_rows(public, np.array([[1, 0]]))  # type: ignore[arg-type]


def test_weights_that_would_break_the_flood_or_the_modulus_are_refused() -> None:
    one = 1 << 20
    for weights in ((0, 65 * one, 0, 0, 0), (0, 33 * one, -32 * one, 0, 0), (257 * one, 0, 0, 0, 0)):
        with pytest.raises(Malformed) as refused:
            fine_weights(risk_model(weights=(weights,)), risk_scorer())
        assert refused.value.code == "scoring-model"
    other = Encoded(column="age", encoding="scaled", lower=0, upper=98, centre=40)
    with pytest.raises(Malformed, match="describes"):
        fine_weights(risk_model(features=(other, *risk_model().features[1:])), risk_scorer())


def test_the_child_process_scores_and_says_what_is_wrong(tmp_path: Path, key: tuple[he_score.ClientKey, bytes], sent: bytes) -> None:
    path, output = tmp_path / "request", tmp_path / "answer"
    path.write_bytes(sent)
    question = {
        "verb": "score",
        "scorer": encode(risk_scorer()),
        "weights": [list(row) for row in fine_weights(risk_model(), risk_scorer())],
        "ciphertexts": digest_bytes(sent),
        "rows": 3,
        "agreement": BOUND[0],
        "request_id": BOUND[1],
    }
    assert Child("score").ask(question, {REQUEST: path}, output)["digest"] == digest_bytes(output.read_bytes())
    assert he_score.open_scores(key[0], output.read_bytes(), 3, 1).shape == (3, 1)
    with pytest.raises(Malformed) as refused:
        Child("score").ask({**question, "rows": 5000}, {REQUEST: path})
    assert refused.value.code == "he-size"
    with pytest.raises(SandboxError) as tampered:
        Child("score").ask({**question, "ciphertexts": "sha256:" + "0" * 64}, {REQUEST: path})
    assert tampered.value.code == "upload-digest"


# --- what CKKS decrypts goes to the owner of the key and to nobody else


def test_only_the_owner_of_a_key_decrypts_what_is_approximate() -> None:
    """One function decrypts CKKS, it wants the key itself, and one module calls it: the client's part at home."""
    callers, makers = set(), set()
    for path in (*ROOT.glob("policies/**/*.py"), *ROOT.glob("enclaves/**/*.py"), *ROOT.glob("sandbox/**/*.py"), ROOT / "app.py"):
        name, text = path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")
        words = ("open_scores", "ClientKey", "decode_", "CKKS", "ckks")
        for node in ast.walk(ast.parse(text)) if any(word in text for word in words) else ():
            called = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
            if called in ("open_scores", "ClientKey"):
                callers.add(name)
            if called in ("decode_double", "decode_complex", "CKKSEncoder", "ckks_vector", "ckks_vector_from"):
                makers.add(name)
    assert callers == {"enclaves/kit/he_score.py", "sandbox/party/encrypted_scoring.py"}
    assert makers == {"enclaves/kit/he_score.py"}


def test_no_document_can_hold_a_score_or_a_key(key: tuple[he_score.ClientKey, bytes]) -> None:
    for document in (documents.ScoreRequest, documents.ScoreStatement, documents.ScoreReturn):
        assert {field.type for field in fields(document)} <= {"str", "int", "str | None", "ScoreRefusal | None"} | {
            f"Literal['{word}']" for word in ("score-request/1", "score-statement/1", "score-return/1", "owner-silent")
        }
    for send in (lambda: canonical(encode(key[0])), lambda: json.dumps(encode(key[0])), lambda: pickle.dumps(key[0])):
        with pytest.raises((Malformed, TypeError)):
            send()
    assert "ClientKey()" == repr(key[0]) == str(key[0])
