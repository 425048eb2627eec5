"""Encrypted scoring at home. The client encrypts rows under a fresh key and alone reads the answer; the owner's model never leaves.

Durable order of a client: key and request kept -> request sent -> ciphertexts sent; after a lost answer the same bytes are sent again. Of
an owner: decided again -> answer kept -> sent; there is one answer to a request, so that asking again shows no second flood.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from enclaves.kit import he_score
from enclaves.kit.child import REQUEST, Child
from enclaves.kit.envelope import Signed, document_digest, verify_document
from policies.agreement import Agreement
from policies.canonical import digest_bytes
from policies.codec import decode, encode
from policies.errors import Conflict, Malformed, PolicyRefused, ReleaseWithheld, SandboxError, Tampered, Unavailable
from policies.model import Model
from policies.scorer import Scorer, ScoreRefusal, ScoreRequest, ScoreReturn, ScoreStatement, coordinate, fine_weights, scoring_id
from policies.scoring import Value, encoded, finished
from policies.scoring_decision import ScoreFacts, decide_scoring
from sandbox.party.acts import tightenings_known
from sandbox.party.deciding import MAX_CLOCK_SKEW_S, MAX_WAIT_S
from sandbox.party.followed import Followed
from sandbox.party.home import Home
from sandbox.party.kept import kept_agreement
from sandbox.party.scoring_client import ScoringClient

RETRY_S = 1.0
DIGITS = 4
"""Digits behind the point of a score. The noise of encryption lies behind them; it belongs to the key and is shown to nobody."""

_UNUSABLE = (KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """A request that was sent: its name, and its state as the service tells it."""

    scoring: str
    state: str


@dataclass
class Rows:
    """A client's part: rows stay at home but encrypted, and so does the key."""

    client: ScoringClient
    now: Callable[[], float] = time.time

    def ask(self, agreement: str, model: str, purpose: str, rows: Sequence[Mapping[str, Value]], request_id: str) -> Asked:
        """Encrypt rows of raw values and have them scored. The same request id again sends the same bytes, whatever the rows.

        Raises:
            Malformed: a row lacks a feature's column; code `unknown-model` or `scoring-too-large`. PolicyRefused: denied, with findings.
        """
        signed, data = self._kept(agreement, model, purpose, rows, request_id)
        record = self.client.send_request(signed)
        if record["state"] == "asked":
            self.client.send_file(str(record["id"]), data)
            record = self.client.scoring(str(record["id"]))
        return Asked(scoring=str(record["id"]), state=str(record["state"]))

    def _kept(self, agreement: str, model: str, purpose: str, rows: Sequence[Mapping[str, Value]], request_id: str) -> tuple[Signed, bytes]:
        home, file = self.client.home, f"scorings/{request_id}.json"
        if not (home.folder / file).is_file():
            scorer = self.client.signed_agreement(agreement).scorer_of(model)
            key, half = he_score.generate_key(agreement, request_id)
            public = he_score.public_key(half, agreement, request_id)
            data = half + he_score.encrypt_rows(public, he_score.matrix(encoded_rows(scorer, rows)))
            request = ScoreRequest(
                request_id=request_id,
                agreement=agreement,
                consumer=home.participant,
                purpose=purpose,
                model=model,
                rows=len(rows),
                ciphertexts=digest_bytes(data),
            )
            signed = self.client.sign_request(request)
            home.write_bytes(f"scorings/{request_id}.bin", data)
            home.write_bytes(_key_file(scoring_id(document_digest(signed))), key.to_bytes())
            home.write(file, encode(signed))
        kept = decode(Signed, home.read(file))
        if (kept.body["agreement"], kept.body["model"], kept.body["purpose"]) != (agreement, model, purpose):
            raise Malformed("this request id was used for another request", code="request-id")
        path = home.folder / f"scorings/{request_id}.bin"
        return kept, path.read_bytes() if path.is_file() else b""

    def read(self, scoring: str) -> list[tuple[float, ...]]:
        """Return the predictions for the rows of an answered scoring, after its receipt was verified.

        Raises:
            Unavailable: code `not-answered`, or `owner-silent` once its time is over. ReleaseWithheld: the owner refused; code is its
                reason, `owner-silent` where the rows were taken back, or `log-ended` where the log ended before an answer. Tampered.
        """
        client = self.client
        record = client.scoring(scoring)
        if record["state"] in ("asked", "waiting"):
            if record["state"] == "waiting" and _late(self.client.home, record, self.now()):
                raise Unavailable("the owner of the model has let its time pass; take the rows back", code="owner-silent")
            raise Unavailable("the owner of the model has not answered yet", code="not-answered")
        if record["state"] == "lapsed":
            raise ReleaseWithheld("the service's log ended before the owner answered; ask again", code="log-ended")
        receipt, verified = client.verified_receipt(scoring)
        request, statement = verified.request, verified.statement
        own = decode(Signed, client.home.read(f"scorings/{request.request_id}.json"))
        if own.body != receipt.request.body or scoring_id(document_digest(own)) != scoring:
            raise Tampered("the receipt is of another request than was made", code="scoring-binding")
        if isinstance(statement, ScoreReturn):
            raise ReleaseWithheld("the owner of the model did not answer; the rows were taken back", code=statement.reason)
        if statement.scores is None:
            raise ReleaseWithheld(f"the owner of the model refused: {statement.refused}", code=str(statement.refused))
        scorer = client.signed_agreement(request.agreement).scorer_of(request.model)
        key = he_score.ClientKey(client.home.read_bytes(_key_file(scoring)))
        outputs = he_score.open_scores(key, client.fetch_file(scoring, statement.scores), request.rows, scorer.outputs)
        return [predicted_of(scorer, row) for row in outputs.round(DIGITS).tolist()]

    def take_back(self, scoring: str) -> str:
        """Take back the rows of a request whose owner has let its time pass; returns the state: `answered`, where the log was quicker.

        Raises:
            Conflict: the owner still has time (`too-early`), or the agreement gives no rows back (`no-return`).
        """
        signed = decode(Signed, self.client.scoring(scoring)["signed"])
        own = decode(Signed, self.client.home.read(f"scorings/{decode(ScoreRequest, signed.body).request_id}.json"))
        if scoring_id(document_digest(own)) != scoring:
            raise Tampered("the service names another request than was made", code="scoring-binding")
        back = ScoreReturn(scoring=scoring, request=document_digest(own), reason="owner-silent")
        try:
            return str(self.client.send_return(back)["state"])
        except Conflict as error:
            if error.code != "scoring-state":
                raise
            return str(self.client.scoring(scoring)["state"])


def encoded_rows(scorer: Scorer, rows: Sequence[Mapping[str, Value]]) -> list[list[float]]:
    """Return rows of raw values as coordinates, in [-1, 1] each. Raises Malformed for no rows, or a row without a feature's column."""
    for row in rows:
        missing = [feature.column for feature in scorer.features if feature.column not in row]
        if missing:
            raise Malformed(f"a row has no `{missing[0]}`", code="unknown-column")
    if not rows:
        raise Malformed("there are no rows to score")
    return [[coordinate(z) for feature in scorer.features for z in encoded(row[feature.column], feature)] for row in rows]


def predicted_of(scorer: Scorer, outputs: Sequence[float]) -> tuple[float, ...]:
    """Return what the outputs of one row mean: the label's value, the chance of the second class, or of each class."""
    return finished(scorer.link, scorer.label, outputs)


@dataclass
class ModelOwner:
    """An owner's part: it decides again on its own copy of agreement and log, and scores in a child process.

    Attributes:
        models: by the name that agreements give them.
    """

    client: ScoringClient
    models: Mapping[str, Model]
    now: Callable[[], float] = time.time
    child: Child = field(default_factory=lambda: Child("score"))

    def serve(self, stopping: Callable[[], bool] = lambda: False, poll_s: float = 0.5) -> None:
        """Answer what waits until told to stop; what goes wrong stands in the journal."""
        try:
            while not stopping():
                self.child.ready()
                try:
                    self.step()
                except (SandboxError, *_UNUSABLE) as error:
                    code = error.code if isinstance(error, SandboxError) else "malformed-answer"
                    if code != "unreachable":
                        self.client.home.note("error", code=code, message=str(error) if isinstance(error, SandboxError) else "")
                    time.sleep(RETRY_S)
                time.sleep(poll_s)
        finally:
            self.child.close()

    def step(self) -> int:
        """Answer everything that waits once; returns how much that was. The first failure is raised after all were tried."""
        me = self.client.home.participant
        mine = [item for item in self.client.scorings() if item["owner"] == me and item["state"] == "waiting"]
        failures: list[Exception] = []
        for item in mine:
            try:
                if not _late(self.client.home, item, self.now()):
                    with self.client.home.locked("scorings"):
                        self._answer(item)
            except (SandboxError, *_UNUSABLE) as error:
                if isinstance(error, Unavailable) and error.code in ("unreachable", "home"):
                    raise
                failures.append(error)
        if failures:
            raise failures[0]
        return len(mine)

    def _answer(self, item: dict[str, Any]) -> None:
        client, home = self.client, self.client.home
        signed = decode(Signed, item["signed"])
        request, name = decode(ScoreRequest, signed.body), document_digest(signed)
        scoring = scoring_id(name)
        stated, kept = f"scorings/{scoring}.stated.json", f"scorings/{scoring}.answer"
        if not (home.folder / stated).is_file():
            home.write(stated, encode(self._statement(signed, request, name, item, kept)))
        statement = decode(ScoreStatement, home.read(stated))
        if statement.scores is not None and (home.folder / kept).is_file():
            client.send_file(scoring, home.read_bytes(kept))
        client.send_answer(statement)
        home.note("scored" if statement.scores else "refused", scoring=scoring, rows=request.rows, by=request.consumer)
        (home.folder / kept).unlink(missing_ok=True)

    def _statement(self, signed: Signed, request: ScoreRequest, name: str, item: dict[str, Any], kept: str) -> ScoreStatement:
        """The one answer to a request, its file kept, or the refusal. A second answer would have another flood, and two tell more."""
        scoring = scoring_id(name)
        refused: ScoreRefusal | None = None
        try:
            data = self._scored(signed, request, name, item)
        except Malformed as error:
            refused = "model" if error.code == "scoring-model" else "ciphertexts"
        except PolicyRefused as error:
            if error.code in ("clock", "owner-late"):
                raise  # a clock may be put right, and what is over is answered by nothing at all
            refused = "decision"
        if refused is not None:
            return ScoreStatement(scoring=scoring, request=name, scores=None, refused=refused)
        self.client.home.write_bytes(kept, data)
        return ScoreStatement(scoring=scoring, request=name, scores=digest_bytes(data), refused=None)

    def _scored(self, signed: Signed, request: ScoreRequest, name: str, item: dict[str, Any]) -> bytes:
        agreement, followed = self.client.followed_agreement(request.agreement)
        scorer = self._decided(signed, request, name, item, agreement, followed)
        if request.model not in self.models:
            raise Malformed(f"no file is named for `{request.model}`", code="scoring-model")
        weights = fine_weights(self.models[request.model], scorer)
        data = self.client.fetch_file(scoring_id(name), request.ciphertexts)
        with tempfile.TemporaryDirectory(prefix="score-", dir=self.client.home.folder) as folder:
            sent, output = Path(folder) / "request", Path(folder) / "answer"
            sent.write_bytes(data)
            found = self.child.ask(
                {
                    "verb": "score",
                    "scorer": encode(scorer),
                    "weights": [list(row) for row in weights],
                    "ciphertexts": request.ciphertexts,
                    "rows": request.rows,
                    "agreement": request.agreement,
                    "request_id": request.request_id,
                },
                {REQUEST: sent},
                output,
            )
            answer = output.read_bytes()
        if found["digest"] != digest_bytes(answer):
            raise Tampered("the answer changed on its way", code="upload-digest")
        return answer

    def _decided(
        self, signed: Signed, request: ScoreRequest, name: str, item: dict[str, Any], agreement: Agreement, followed: Followed
    ) -> Scorer:
        """Decide again: own agreement, own count of rows and own clock; the log holds this decision. Raises PolicyRefused, Tampered."""
        logged = followed.scorings.get(scoring_id(name))
        wanted = {"scoring": scoring_id(name), "agreement": request.agreement, "model": request.model, "request": name}
        if logged is None or logged["ids"] != wanted | {"rows": str(request.rows), "allowed": "yes"}:
            raise Tampered("the log holds no such decision", code="not-logged")
        consumer = agreement.party(request.consumer)
        key = followed.keyring.signing_key(consumer.signing_key)
        if key is None:
            raise PolicyRefused(f"the keys of `{consumer.id}` were revoked", code="party-revoked")
        verify_document(signed, "score-request", request.consumer, key)
        now, stated = self.now(), decode(ScoreFacts, item["facts"])
        if not -MAX_CLOCK_SKEW_S <= now - stated.now <= MAX_WAIT_S:
            raise PolicyRefused("the host decided at another time than now", code="clock")
        until = agreement.scorer_of(request.model).answered_until(int(logged.get("at", 1000 * stated.now)))
        if logged.get("back") is not None or (until is not None and 1000 * now >= until):
            raise PolicyRefused("the time to answer this request is over", code="owner-late")
        rows, requests = followed.encrypted_rows_before(int(logged["index"]), request.agreement, request.model, self._scored_before)
        tightenings = tightenings_known(self.client.home, followed, request.agreement, agreement)
        decision = decide_scoring(request, agreement, ScoreFacts(now=int(now), rows=rows, requests=requests, tightenings=tightenings))
        if not decision.allowed:
            failed = next(finding for finding in decision.findings if not finding.allowed)
            raise PolicyRefused(f"own decision denies: {failed.rule}: {failed.message}", code="policy-refused")
        return agreement.scorer_of(request.model)

    def _scored_before(self, scoring: str) -> bool:
        """Whether this home made scores for a request. They count though the log says that the rows were returned: a host that withheld the
        answer from the log may have given it to the client all the same.
        """
        kept = self.client.home.read_or(f"scorings/{scoring}.stated.json", None)
        return kept is not None and decode(ScoreStatement, kept).scores is not None


def _late(home: Home, item: Mapping[str, Any], now: float) -> bool:
    """Whether the time to answer a request is over: the owner computes nothing then, and the client may take its rows back."""
    request = decode(ScoreRequest, decode(Signed, item["signed"]).body)
    until = kept_agreement(home, request.agreement).scorer_of(request.model).answered_until(int(item["created_at"]))
    return until is not None and now * 1000 >= until


def _key_file(scoring: str) -> str:
    return f"scorings/{scoring}.secret"
