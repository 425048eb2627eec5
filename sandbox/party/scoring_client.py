"""What clients and owners of models say to the service about encrypted scoring. It signs what binds them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from enclaves.kit.envelope import Signed
from policies.canonical import digest_bytes
from policies.codec import decode, encode
from policies.errors import Tampered
from policies.scorer import ScoreRequest, ScoreStatement
from sandbox.audit.scoring_receipt import ScoreReceipt
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

    def score_receipt(self, name: str) -> ScoreReceipt:
        """The receipt of a scoring that has ended, not yet verified."""
        return decode(ScoreReceipt, self._get(f"/scorings/{name}/receipt"))
