"""What key holders and contributors of joint totals say to the service. It signs what binds them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from enclaves.kit.envelope import Signed
from policies.canonical import digest_bytes
from policies.codec import decode, encode
from policies.errors import Tampered
from policies.joint_documents import JointContribution, JointStatement
from sandbox.party.answers import Sized
from sandbox.party.client import Client

CHUNK = 1 << 20


class JointClient(Client):
    """A participant with a part in joint totals."""

    def joint_totals(self) -> list[dict[str, Any]]:
        """Joint totals that wait for this participant."""
        return self.joint_work()[0]

    def joint_work(self) -> tuple[list[dict[str, Any]], frozenset[str]]:
        """Joint totals that wait for this participant, and the jobs of those that come to it next."""
        found = self._get("/joint-totals")
        return list(found["joint_totals"]), frozenset(map(str, found["next"]))

    def add_file(self, job_id: str, data: bytes, progress: Callable[[int], None] = lambda sent: None) -> str:
        """Send bytes as this participant's part; returns their digest. Raises Tampered if the service names another."""

        def chunks() -> Iterator[bytes]:
            for start in range(0, len(data), CHUNK):
                yield data[start : start + CHUNK]
                progress(min(len(data), start + CHUNK))

        found = self._answer("POST", f"/joint-totals/{job_id}/files", data=Sized(chunks(), len(data)))
        if found["digest"] != digest_bytes(data):
            raise Tampered("the service received another file than was sent", code="upload-digest")
        return str(found["digest"])

    def joint_file(self, job_id: str, name: str) -> bytes:
        """A public key or a total by its digest. Raises Tampered if the service sends other bytes."""
        data = self._send("GET", f"/joint-totals/{job_id}/files/{name}").content
        if digest_bytes(data) != name:
            raise Tampered("the service sent another file", code="upload-digest")
        return data

    def send_manifest(self, signed: Signed) -> None:
        """State the fresh key of an attempt."""
        self._post("/joint-totals/manifests", {"signed": encode(signed)})

    def send_contribution(self, contribution: JointContribution) -> None:
        """Contribute, with a signature."""
        self._post("/joint-totals/contributions", {"signed": self._signed("joint-contribution", contribution)})

    def send_statement(self, statement: JointStatement) -> None:
        """State how the one opening of a total ended."""
        self._post("/joint-totals/statements", {"signed": self._signed("joint-statement", statement)})

    def signed_manifest(self, manifest: Any) -> Signed:
        """A manifest with this participant's signature."""
        return decode(Signed, self._signed("joint-manifest", manifest))
