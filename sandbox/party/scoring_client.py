"""What clients and owners of models say to the service about encrypted scoring. It signs what binds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from enclaves.kit.envelope import Signed
from policies.canonical import digest_bytes
from policies.codec import decode, encode
from policies.errors import Tampered
from policies.scorer import ScoreRequest, ScoreReturn, ScoreStatement
from sandbox.audit.scoring_receipt import ScoreReceipt, VerifiedScoring, verify_score_receipt
from sandbox.party.answers import Sized
from sandbox.party.client import Client

CHUNK = 1 << 20


class ScoringClient(Client):
    """A participant that asks for scores or has a model."""

    def sign_request(self, request: ScoreRequest) -> Signed:
        """A request with this participant's signature."""
        return decode(Signed, self._signed("score-request", request))

    def send_request(self, signed: Signed) -> dict[str, Any]:
        """Ask. The same request again is the same. Raises PolicyRefused with the findings if it is denied."""
        return self._post("/scorings", {"signed": encode(signed)})

    def scorings(self) -> list[dict[str, Any]]:
        """Scorings of this participant's, as client or owner, that have not ended; oldest first."""
        return list(self._get("/scorings")["scorings"])

    def scoring(self, name: str) -> dict[str, Any]:
        """One scoring of this participant's."""
        return self._get(f"/scorings/{name}")

    def send_file(self, name: str, data: bytes) -> str:
        """Send this participant's file of a scoring; returns its digest. Raises Tampered if the service names another."""

        def chunks() -> Iterator[bytes]:
            for start in range(0, len(data), CHUNK):
                yield data[start : start + CHUNK]

        found = self._answer("POST", f"/scorings/{name}/files", data=Sized(chunks(), len(data)))
        if found["digest"] != digest_bytes(data):
            raise Tampered("the service received another file than was sent", code="upload-digest")
        return str(found["digest"])

    def fetch_file(self, name: str, digest: str) -> bytes:
        """The other side's file of a scoring. Raises Tampered if the service sends other bytes."""
        data = self._send("GET", f"/scorings/{name}/files/{digest}").content
        if digest_bytes(data) != digest:
            raise Tampered("the service sent another file", code="upload-digest")
        return data

    def send_answer(self, statement: ScoreStatement) -> None:
        """State how a scoring ended, as the model's owner."""
        self._post("/score-statements", {"signed": self._signed("score-statement", statement)})

    def send_return(self, back: ScoreReturn) -> dict[str, Any]:
        """Take back, as the client, the rows of a request whose owner let its time pass."""
        return self._post("/score-returns", {"signed": self._signed("score-return", back)})

    def score_receipt(self, name: str) -> ScoreReceipt:
        """The receipt of a scoring that has ended, not yet verified."""
        return decode(ScoreReceipt, self._get_published(f"/scorings/{name}/receipt"))

    def verified_receipt(self, name: str) -> tuple[ScoreReceipt, VerifiedScoring]:
        """The receipt of a scoring that has ended, verified against this home's copy of agreement and log.

        Raises:
            Tampered, Malformed: as `verify_score_receipt`; code `scoring-binding` for the receipt of another scoring, `not-logged`.
        """
        receipt = self.score_receipt(name)
        agreement, followed = self.followed_receipt(decode(ScoreRequest, receipt.request.body).agreement, receipt.checkpoint)
        verified = verify_score_receipt(receipt, agreement)
        if verified.statement.scoring != name:
            raise Tampered("the receipt is of another scoring", code="scoring-binding")
        if followed is None:
            return receipt, verified
        row = followed.scorings.get(name, {})
        logged = (row.get("scores", ""), row.get("back") is not None)
        if logged != (verified.statement.scores or "", isinstance(verified.statement, ScoreReturn)):
            raise Tampered("the log holds another answer", code="not-logged")
        return receipt, verified
