"""Scoring rows that stay encrypted: what an agreement says of it, how large everything is, and what the parties sign. Pure.

The encryption is CKKS (Cheon, Kim, Kim and Song 2017). Whoever sees what CKKS decrypts can compute the key from it (Li and Micciancio
2021), so the owner of the key decrypts at home and nothing in any document here holds a score: the documents name ciphertexts only.

What the answer hides. An answer is sum_j W_j c_j + encryption(bias + spread) + flood. Its second polynomial is masked by that fresh
encryption under a key half that nobody chose. Of the first, a client could subtract what it encrypted; what is left over of the noise of
its own ciphertexts, sum_j W_j e_j, is drowned by the flood: uniform integers below 2^FLOOD_BITS in every coefficient.

    statistical distance <= coefficients x |sum W e| / 2^(FLOOD_BITS + 1) <= 2^13 x 2^32 / 2^(FLOOD_BITS + 1) = 2^-40

where |W|_1 <= 2^20 and each e is 12 sigma of fresh noise below 2^12. It holds for honest ciphertexts; of others, a coefficient tells no
more than log2(modulus / flood), 35 bits. The scores themselves are not hidden from the client: enough of them give a linear model away.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from policies.codec import omitted
from policies.errors import Malformed
from policies.joint import SCORING
from policies.model import WEIGHT_BITS, Model
from policies.names import require_dataset, require_digest, require_name, require_request_id, require_slug
from policies.privacy import decimal_to_units
from policies.training import MAX_CLASSES, MAX_WIDTH, UNIT, Encoded

DEGREE = SCORING.degree
PRIMES = SCORING.primes
"""Of the key's modulus; ciphertexts leave out the last. 180 bits at degree 8192, of 218 that are 128-bit secure."""

DATA_PRIMES = SCORING.data_primes
BLOCK = DEGREE // 2
"""Rows of one ciphertext: it holds one coordinate of so many rows."""

INPUT_SCALE = 96
"""A coordinate in [-1, 1] is encrypted in units of 2^-96."""

FINE = 14
"""Weights count 2^-14, so that an answer counts 2^-(96 + 14)."""

LARGEST_WEIGHTS = 2**20
"""Most that the absolute weights of one output add up to, in 2^-14: 64. What an answer hides rests on it."""

LARGEST_BIAS = 2**22
"""Most of a bias, in 2^-14: 256. With it an answer stays below 2^9, where the modulus would wrap."""

FLOOD_BITS = 84
CIPHERTEXT_BYTES = SCORING.ciphertext_bytes
KEY_BYTES = 8 * len(PRIMES) * DEGREE
"""Of the half of a public key that its owner makes. The other half follows from the request (`enclaves.kit.he_score.common_half`)."""

MAX_CIPHERTEXTS = 4096
"""Most of one request: 1 GiB."""

MAX_ROWS = 2**20
MAX_SCORED = 10**12
MAX_STEP = 10**6
"""Largest step, in millionths."""

SHORTEST_ANSWER_S, LONGEST_ANSWER_S = 60, 30 * 24 * 3600
"""Bounds of the time within which an owner answers, where an agreement names one."""

ScoreRefusal = Literal["decision", "ciphertexts", "model"]
"""All that an owner ever says when it does not score: its own decision denies, these are no ciphertexts, or it has no such model."""

ScoreLink = Literal["identity", "logistic", "softmax"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Scorer:
    """A linear or logistic model that its owner applies to encrypted rows. The owner's terms on `dataset` hold for every request.

    Attributes:
        dataset: `owner.name`, declared in the agreement with the raw columns of the features; it needs no published version.
        features: how a client encodes raw values before it encrypts them; `label` and `link` say how it reads an answer.
        outputs: numbers that a row's answer has: one, or one for each of more than two classes.
        rows: most rows of all requests under the agreement.
        step: decimal string: the owner adds to every number of an answer one that is uniform in [-step/2, step/2], so that what the
            client gets is as coarse as a rounding to the step, whatever software it uses.
        answer_s: seconds from the decision on within which the owner answers; after them the client may have the rows of a request back
            that has no answer in the log. 0: rows are used up whether or not the owner answers.
    """

    dataset: str
    features: tuple[Encoded, ...]
    label: Encoded | None = None
    link: ScoreLink
    outputs: int
    rows: int
    step: str = "0"
    answer_s: int = omitted(0)

    def __post_init__(self) -> None:
        require_dataset(self.dataset, "dataset")
        names = [feature.column for feature in self.features]
        if not names or len(set(names)) != len(names) or not 1 <= self.width < MAX_WIDTH:
            raise Malformed(f"needs distinct features with at most {MAX_WIDTH - 1} coordinates", where="features")
        if any(feature.encoding != "categories" and not feature.lower < feature.upper for feature in self.features):
            raise Malformed("every number needs bounds that differ", where="features")
        wanted = 1 < self.outputs <= MAX_CLASSES if self.link == "softmax" else self.outputs == 1
        if not wanted:
            raise Malformed(f"softmax has 2 to {MAX_CLASSES} outputs, every other link has one", where="outputs")
        if self.link == "identity" and (self.label is None or self.label.encoding == "categories"):
            raise Malformed("what predicts a number says of which label", where="label")
        if not 1 <= self.rows <= MAX_SCORED:
            raise Malformed(f"must lie between 1 and {MAX_SCORED}", where="rows")
        if not 0 <= self.step_units <= MAX_STEP:
            raise Malformed("must lie between 0 and 1", where="step")
        if self.answer_s and not SHORTEST_ANSWER_S <= self.answer_s <= LONGEST_ANSWER_S:
            raise Malformed(f"must be 0, or lie between {SHORTEST_ANSWER_S} and {LONGEST_ANSWER_S}", where="answer_s")

    @property
    def owner(self) -> str:
        """Who has the model."""
        return self.dataset.partition(".")[0]

    @property
    def width(self) -> int:
        """Coordinates of an encoded row, without the constant."""
        return sum(feature.width for feature in self.features)

    @property
    def step_units(self) -> int:
        """The step in millionths."""
        return decimal_to_units(self.step, 6, "step")

    def answered_until(self, decided: int) -> int | None:
        """Until when a request that was decided then is answered (both milliseconds since 1970); None where the agreement names no time."""
        return decided + 1000 * self.answer_s if self.answer_s else None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreRequest:
    """What a client signs: which model is to score how many rows, and the file that it will send (`request_bytes`), by digest."""

    kind: Literal["score-request/1"] = "score-request/1"
    request_id: str
    agreement: str
    consumer: str
    purpose: str
    model: str
    rows: int
    ciphertexts: str

    def __post_init__(self) -> None:
        require_request_id(self.request_id, "request_id")
        require_digest(self.agreement, "agreement")
        require_name(self.consumer, "consumer")
        require_slug(self.purpose, "purpose")
        require_dataset(self.model, "model")
        require_digest(self.ciphertexts, "ciphertexts")
        if not 1 <= self.rows <= MAX_ROWS:
            raise Malformed(f"must lie between 1 and {MAX_ROWS}", where="rows")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreStatement:
    """What an owner signs of one request: the file of its answer by digest, or why there is none."""

    kind: Literal["score-statement/1"] = "score-statement/1"
    scoring: str
    request: str
    scores: str | None
    refused: ScoreRefusal | None

    def __post_init__(self) -> None:
        require_slug(self.scoring, "scoring")
        require_digest(self.request, "request")
        if (self.scores is None) == (self.refused is None):
            raise Malformed("says either what was scored or why nothing was", where="scores")
        if self.scores is not None:
            require_digest(self.scores, "scores")


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreReturn:
    """What a client signs of a request whose owner has let its time pass: it has no answer, and takes its rows back."""

    kind: Literal["score-return/1"] = "score-return/1"
    scoring: str
    request: str
    reason: Literal["owner-silent"]

    def __post_init__(self) -> None:
        require_slug(self.scoring, "scoring")
        require_digest(self.request, "request")

    @property
    def scores(self) -> None:
        """There are none."""
        return

    @property
    def refused(self) -> str:
        """Why there are none."""
        return self.reason


def scoring_id(request_digest: str) -> str:
    """Return the id of the scoring that a request asks for."""
    return "scoring-" + request_digest.removeprefix("sha256:")[:20]


def blocks(rows: int) -> int:
    """Return how many ciphertexts hold one coordinate of so many rows."""
    return -(-rows // BLOCK)


def request_bytes(scorer: Scorer, rows: int) -> int:
    """Return the size of a client's file: half a public key, then the ciphertexts, block after block, coordinate after coordinate.

    Raises:
        Malformed: code `scoring-too-large`.
    """
    count = blocks(rows) * scorer.width
    if count > MAX_CIPHERTEXTS:
        raise Malformed(f"{rows} rows of {scorer.width} coordinates are too many for one request", code="scoring-too-large")
    return KEY_BYTES + count * CIPHERTEXT_BYTES


def answer_bytes(scorer: Scorer, rows: int) -> int:
    """Return the size of an owner's file: ciphertexts block after block, output after output."""
    return blocks(rows) * scorer.outputs * CIPHERTEXT_BYTES


def scorer_of(model: Model, dataset: str, rows: int, step: str = "0") -> Scorer:
    """Return what an agreement says of a model. Raises Malformed for a model that is neither linear nor logistic."""
    if model.trees or model.link == "nearest":
        raise Malformed("only linear and logistic models score encrypted rows", code="scoring-model")
    return Scorer(
        dataset=dataset,
        features=model.features,
        label=model.label,
        link=model.link,
        outputs=len(model.weights),
        rows=rows,
        step=step,
    )


def fine_weights(model: Model, scorer: Scorer) -> tuple[tuple[int, ...], ...]:
    """Return a model's weights per output, bias first, in 2^-14.

    Raises:
        Malformed: code `scoring-model`, if the model is not the one that the agreement describes, or has weights that are too large.
    """
    described = scorer_of(model, scorer.dataset, scorer.rows, scorer.step)
    if replace(described, answer_s=scorer.answer_s) != scorer:
        raise Malformed("the model is not the one that the agreement describes", code="scoring-model")
    half = 1 << (WEIGHT_BITS - FINE - 1)
    rounded = tuple(tuple((weight + half) >> (WEIGHT_BITS - FINE) for weight in row) for row in model.weights)
    for bias, *weights in rounded:
        if sum(map(abs, weights)) > LARGEST_WEIGHTS or abs(bias) > LARGEST_BIAS:
            raise Malformed("the weights of an output add up to more than 64, or its bias is beyond 256", code="scoring-model")
    return rounded


def coordinate(value: int) -> float:
    """Return an encoded coordinate, in 2^-10, as the real number that is encrypted."""
    return value / UNIT
