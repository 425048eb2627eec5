"""Every endpoint that takes a write, with a request that it would accept: what tests bend, one thing at a time."""

from __future__ import annotations

import copy
import dataclasses
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import requests

from enclaves.kit.envelope import Purpose, sign_document
from enclaves.kit.sealing import SealingKey
from enclaves.kit.signatures import SigningKey
from policies.canonical import canonical, digest, digest_bytes
from policies.codec import encode
from policies.documents import (
    Admission,
    AgreementSignature,
    GrantRenunciation,
    KeyDestruction,
    KeyRefusalStatement,
    KeyReleaseStatement,
    KeyRevocation,
    KeyRotation,
    VersionManifest,
    secret_digest,
)
from policies.odrl import agreement_document, offer_document
from sandbox.party.client import Client
from sandbox.party.publish import publish
from sandbox.store.schema import key_requests, versions
from tests.support.market import Market, fresh_home, offer_on, plans_declaration, plans_table
from tests.support.service import Service

PROBLEM_MEMBERS = {"type", "status", "code", "title", "where", "findings"}
SESSION = requests.Session()


@dataclass(frozen=True, kw_only=True)
class Door:
    """One write endpoint with an acceptable request.

    Attributes:
        caller: whose credential the request carries; None where none is needed.
        signer: whose key signs; None for a request that is not signed.
        document: the signed body, or for an unsigned request the whole body.
        beside: members of the request beside `signed`.
        accepted: status of the acceptable request.
    """

    path: str
    market: Market
    caller: Client | None
    document: dict[str, Any]
    signer: Client | None = None
    purpose: Purpose | None = None
    beside: dict[str, Any] = field(default_factory=dict)
    accepted: int = 201

    def request(self, document: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        """The request's JSON with `document` signed as the endpoint wants it, or with another purpose, signer or key."""
        document = self.document if document is None else document
        if self.signer is None or self.purpose is None:
            return document
        purpose: Purpose = changes.get("purpose", self.purpose)
        by: str = changes.get("by", self.signer.home.participant)
        key: SigningKey = changes.get("key", self.signer.home.signing)
        return {"signed": encode(sign_document(purpose, by, document, key)), **self.beside}

    def changed(self, *path: str | int, to: Any) -> dict[str, Any]:
        """A copy of the document with one member replaced, added or (`to` is ...) removed."""
        document = copy.deepcopy(self.document)
        target: Any = document
        for step in path[:-1]:
            target = target[step]
        if to is ...:
            del target[path[-1]]
        else:
            target[path[-1]] = to
        return document

    def post(self, body: Any, *, credential: str | None = "own", content_type: str | None = "application/json") -> requests.Response:
        """Send `body` (bytes as they are, everything else as canonical JSON)."""
        data = body if isinstance(body, bytes) else canonical(body)
        return post(self.market.service.api + self.path, data, self._credential(credential), content_type)

    def _credential(self, credential: str | None) -> str | None:
        if credential == "own":
            return None if self.caller is None else f"Bearer {self.caller.home.credential}"
        return credential


def post(url: str, data: bytes, authorization: str | None, content_type: str | None) -> requests.Response:
    """POST raw bytes."""
    headers = {} if authorization is None else {"Authorization": authorization}
    if content_type is not None:
        headers["Content-Type"] = content_type
    return SESSION.post(url, data=data, headers=headers, timeout=60)


def get(client: Client, path: str, below: str = "/api/v1") -> requests.Response:
    """GET a path of the API as a participant, exactly as it is spelled."""
    request = requests.Request("GET", client.home.url, headers={"Authorization": f"Bearer {client.home.credential}"}).prepare()
    request.url = f"{client.home.url}{below}{path}"
    return SESSION.send(request, timeout=60, allow_redirects=False)


def flaws(response: requests.Response, status: int | set[int], code: str | None = None) -> str:
    """What is wrong with an answer that should be a problem document of this status and code; empty if nothing is."""
    wanted = {status} if isinstance(status, int) else status
    if response.status_code not in wanted:
        return f"answered {response.status_code}, not {status}: {response.text[:300]}"
    if response.headers.get("Content-Type") != "application/problem+json":
        return f"is {response.headers.get('Content-Type')}: {response.text[:300]}"
    if response.status_code == 401 and response.headers.get("WWW-Authenticate") != "Bearer":
        return "does not say how to authenticate"
    problem = response.json()
    if not {"type", "status", "code", "title"} <= set(problem) <= PROBLEM_MEMBERS:
        return f"has the members {sorted(problem)}"
    if problem["status"] != response.status_code or problem["type"] != f"urn:sandbox:problem:{problem['code']}" or not problem["title"]:
        return f"does not fit together: {problem}"
    if code is not None and problem["code"] != code:
        return f"has the code {problem['code']}, not {code}: {problem['title'][:300]}"
    if "Traceback" in response.text or "sqlalchemy" in response.text or ".py" in response.text:
        return f"tells of the program: {response.text[:300]}"
    return ""


def require_refused(service: Service, answers: Iterable[tuple[str, requests.Response, int | set[int], str | None]]) -> None:
    """Every answer, a (name, response, status, code), is the problem that it should be, and all of them left everything as it was."""
    wrong, before, counted = [], service.state(), service.counts()
    for name, response, status, code in answers:
        found = flaws(response, status, code)
        counts = service.counts()
        if counts != counted:
            found += f"; changed {[table for table in counts if counts[table] != counted[table]]}"
        if found:
            wrong.append(f"{name}: {found}")
        counted = counts
    assert not wrong, "\n".join(wrong)
    assert service.state() == before


def expect_problem(response: requests.Response, status: int | set[int], code: str | None = None) -> None:
    """Fail unless the answer is a problem document of this status and code."""
    assert not (wrong := flaws(response, status, code)), wrong


def admission(market: Market) -> Door:
    """A participant with a fresh code."""
    name = f"newcomer_{market.service.next_tag()}"
    client, code = Client(home=fresh_home(market.service, name)), market.service.code(name)
    body = Admission(
        participant=name,
        title="A newcomer",
        signing_key=client.home.signing.public.hex(),
        sealing_key=client.home.sealing.public.hex(),
        code_digest=secret_digest(code),
        credential_digest=secret_digest(client.home.drafted_credential()),
    )
    return Door(
        path="/participants",
        market=market,
        caller=None,
        signer=client,
        purpose="admission",
        document=encode(body),
        beside={"code": code},
    )


def rotation(market: Market) -> Door:
    """New keys of a participant that nobody needs otherwise."""
    client = newcomer(market)
    signing, sealing = SigningKey.generate(), SealingKey.generate()
    body = KeyRotation(
        participant=client.home.participant,
        sequence=1,
        old_key=client.home.signing.public.hex(),
        signing_key=signing.public.hex(),
        sealing_key=sealing.public.hex(),
    )
    return Door(
        path="/participants/rotations",
        market=market,
        caller=client,
        signer=client,
        purpose="key-rotation",
        document=encode(body),
        beside={"countersignature": sign_document("key-rotation", client.home.participant, body, signing).signature},
        accepted=200,
    )


def revocation(market: Market) -> Door:
    """The end of the keys of a participant that nobody needs otherwise."""
    client = newcomer(market)
    body = KeyRevocation(participant=client.home.participant, signing_key=client.home.signing.public.hex())
    return Door(
        path="/participants/revocations",
        market=market,
        caller=client,
        signer=client,
        purpose="key-revocation",
        document=encode(body),
        accepted=200,
    )


def newcomer(market: Market) -> Client:
    """A participant that was just admitted."""
    name = f"newcomer_{market.service.next_tag()}"
    client = Client(home=fresh_home(market.service, name))
    client.join(market.service.code(name))
    return client


def declaration(market: Market) -> Door:
    """A dataset of a fresh name."""
    provider = market.clients["insurer"]
    body = plans_declaration(provider.home.participant, f"plans_{market.service.next_tag()}")
    return Door(path="/datasets", market=market, caller=provider, signer=provider, purpose="declaration", document=encode(body))


def version(market: Market) -> Door:
    """The first version of a fresh dataset, of a file that was uploaded before."""
    provider, name = market.clients["insurer"], f"plans_{market.service.next_tag()}"
    provider.declare(plans_declaration(provider.home.participant, name))
    known = next(v for v in market.service.rows(versions) if v["dataset"] == market.plans)
    body = VersionManifest(
        dataset=f"{provider.home.participant}.{name}",
        version=1,
        file_digest=known["file_digest"],
        size=known["size"],
        columns=("person_id", "year", "coinsurance", "medical_spend"),
    )
    return Door(path="/versions", market=market, caller=provider, signer=provider, purpose="version", document=encode(body))


def offer(market: Market) -> Door:
    """An offer of a fresh name."""
    provider = market.clients["insurer"]
    terms = market.composed.terms_of(market.plans)
    body = offer_on(
        market.composed.by_dataset[market.plans],
        market.name("institute"),
        terms.measurements[0],
        total="5",
        per_job="1",
        uid=f"offer-{market.service.next_tag()}",
    )
    return Door(path="/offers", market=market, caller=provider, signer=provider, purpose="offer", document=offer_document(body))


def agreement(market: Market) -> Door:
    """An agreement of a fresh name."""
    proposer = market.clients["institute"]
    body = dataclasses.replace(market.composed, uid=f"study-{market.service.next_tag()}")
    return Door(path="/agreements", market=market, caller=proposer, signer=proposer, purpose="agreement", document=agreement_document(body))


def signature(market: Market) -> Door:
    """A signature of the insurer's under a freshly proposed agreement."""
    proposed, signer = agreement(market), market.clients["insurer"]
    assert proposed.post(proposed.request()).status_code == 201
    return Door(
        path="/agreements/signatures",
        market=market,
        caller=signer,
        signer=signer,
        purpose="agreement-signature",
        document=encode(AgreementSignature(agreement=digest(proposed.document))),
        accepted=200,
    )


def check(market: Market) -> Door:
    """A request that is decided without charge."""
    return Door(
        path="/jobs:check",
        market=market,
        caller=market.clients["institute"],
        document={"request": encode(market.request())},
        accepted=200,
    )


def job(market: Market) -> Door:
    """A job."""
    consumer = market.clients["institute"]
    return Door(path="/jobs", market=market, caller=consumer, signer=consumer, purpose="job-request", document=encode(market.request()))


def challenge(market: Market, job_id: str) -> Door:
    """The nonce that the insurer's broker sent to a run."""
    broker = market.clients["insurer"]
    kept = next(r for r in market.service.rows(key_requests) if (r["job"], r["provider"]) == (job_id, broker.home.participant))
    return Door(path=f"/key-requests/{job_id}/challenge", market=market, caller=broker, document={"nonce": kept["nonce"]}, accepted=200)


def keys(market: Market, job_id: str) -> Door:
    """Keys of the insurer's for a run that waits for them; what they are sealed to, only the enclave can tell."""
    broker = market.clients["insurer"]
    record = broker.job(job_id)
    sealed = b"sealed to nobody"
    body = KeyReleaseStatement(
        job=job_id,
        grant=record["grant_digest"],
        evidence=digest(record["evidence"]),
        sealed=digest_bytes(sealed),
    )
    return Door(
        path="/key-requests/keys",
        market=market,
        caller=broker,
        signer=broker,
        purpose="key-release",
        document=encode(body),
        beside={"sealed": sealed.hex()},
        accepted=200,
    )


def refusal(market: Market, job_id: str) -> Door:
    """A refusal of the insurer's to a run that waits for keys."""
    broker = market.clients["insurer"]
    body = KeyRefusalStatement(job=job_id, grant=broker.job(job_id)["grant_digest"], reason="policy-refused")
    return Door(
        path="/key-requests/refusals",
        market=market,
        caller=broker,
        signer=broker,
        purpose="key-refusal",
        document=encode(body),
        accepted=200,
    )


def renunciation(market: Market, job_id: str) -> Door:
    """The insurer gives up the grant of a run that failed without keys."""
    broker = market.clients["insurer"]
    body = GrantRenunciation(job=job_id, grant=broker.job(job_id)["grant_digest"])
    return Door(
        path="/key-requests/renunciations",
        market=market,
        caller=broker,
        signer=broker,
        purpose="grant-renunciation",
        document=encode(body),
        accepted=200,
    )


def destruction(market: Market) -> Door:
    """The end of the keys of a version that no job reads: of a dataset of its own."""
    client = market.clients["insurer"]
    declared = plans_declaration(market.name("insurer"), f"gone_{secrets.token_hex(4)}")
    published = publish(client, declared, plans_table(2))
    body = KeyDestruction(dataset=declared.dataset, version=1, file_digest=published["file_digest"])
    return Door(
        path="/versions/destructions",
        market=market,
        caller=client,
        signer=client,
        purpose="key-destruction",
        document=encode(body),
        accepted=200,
    )


DOORS: dict[str, Callable[[Market], Door]] = {
    "participants": admission,
    "rotations": rotation,
    "revocations": revocation,
    "datasets": declaration,
    "versions": version,
    "destructions": destruction,
    "offers": offer,
    "agreements": agreement,
    "signatures": signature,
    "jobs:check": check,
    "jobs": job,
}
KEY_DOORS: dict[str, Callable[[Market, str], Door]] = {"challenge": challenge, "keys": keys, "refusals": refusal}
