"""/api/v1: participants, uploads, datasets, offers, agreements."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Blueprint, Response, request

from policies.codec import encode
from policies.errors import Malformed, NotFound
from sandbox.exchange import agreements, datasets, participants
from sandbox.web.auth import caller, host
from sandbox.web.models import AdmissionBody, SignedOnly, read_body, read_bytes
from sandbox.web.ops import within_quota
from sandbox.web.views import agreement_view, dataset_view, offer_view, participant_view, reply, version_view

api = Blueprint("exchange", __name__, url_prefix="/api/v1")

CHUNK = 1 << 20


@api.get("/service")
def service() -> Response:
    """What a participant needs to know before it joins: the log's identity and the enclave that this host would start."""
    log = host().log_identity
    return reply(
        {
            "log": {"origin": log.name, "key": log.public.hex(), "vkey": log.vkey},
            "enclave": {"kind": "simulated", "measurement": host().measurement},
        }
    )


@api.post("/participants")
def admit() -> Response:
    """Admit a participant with a one-time code."""
    body = read_body(AdmissionBody)
    participant, credential = participants.admit(host(), body.signed.document(), body.code)
    return reply({"participant": participant_view(participant), "credential": credential}, 201)


@api.get("/participants")
def list_participants() -> Response:
    """All participants with their public keys."""
    caller()
    with host().store.reading() as tx:
        return reply({"participants": [participant_view(item) for item in tx.participants()]})


@api.get("/me")
def me() -> Response:
    """The participant that the credential belongs to."""
    return reply(participant_view(caller()))


@api.post("/uploads")
def upload() -> Response:
    """Stream an encrypted file to the host."""
    who = caller()
    if request.content_length is not None and request.content_length > host().config.upload_bytes:
        raise Malformed(f"the upload is larger than {host().config.upload_bytes} bytes", code="too-large")
    digest, size = host().blobs.add(within_quota(host(), who, _chunks()))
    with host().store.transaction() as tx:
        tx.add_upload(digest, who.id, size, host().config.upload_quota_bytes)
    return reply({"digest": digest, "size": size}, 201)


def _chunks() -> Iterator[bytes]:
    received = 0
    while chunk := read_bytes(CHUNK):
        received += len(chunk)
        yield chunk
    if request.content_length is not None and received != request.content_length:
        raise Malformed("the upload ended early", code="truncated-upload")


@api.post("/datasets")
def declare() -> Response:
    """Declare a dataset."""
    return reply(dataset_view(datasets.declare(host(), caller(), read_body(SignedOnly).signed.document())), 201)


@api.get("/datasets")
def list_datasets() -> Response:
    """All declared datasets."""
    caller()
    with host().store.reading() as tx:
        return reply({"datasets": [dataset_view(item) for item in tx.datasets()]})


@api.get("/datasets/<name>")
def one_dataset(name: str) -> Response:
    """One dataset."""
    caller()
    with host().store.reading() as tx:
        dataset = tx.dataset(name)
    if dataset is None:
        raise NotFound("there is no such dataset")
    return reply(dataset_view(dataset))


@api.post("/versions")
def publish() -> Response:
    """Publish an upload as the next version of a dataset."""
    return reply(version_view(datasets.publish_version(host(), caller(), read_body(SignedOnly).signed.document())), 201)


@api.post("/offers")
def offer() -> Response:
    """Make an offer."""
    return reply(offer_view(datasets.make_offer(host(), caller(), read_body(SignedOnly).signed.document())), 201)


@api.get("/offers")
def list_offers() -> Response:
    """All offers."""
    caller()
    with host().store.reading() as tx:
        return reply({"offers": [offer_view(item) for item in tx.offers()]})


@api.post("/agreements")
def propose() -> Response:
    """Propose an agreement."""
    return reply(agreement_view(agreements.propose(host(), caller(), read_body(SignedOnly).signed.document())), 201)


@api.get("/agreements")
def list_agreements() -> Response:
    """The caller's agreements."""
    who = caller()
    with host().store.reading() as tx:
        found = [tx.agreement(digest) for digest in tx.agreements_of(who.id)]
    return reply({"agreements": [agreement_view(item) for item in found if item is not None]})


@api.get("/agreements/<digest>")
def one_agreement(digest: str) -> Response:
    """One agreement of the caller's."""
    return reply(agreement_view(agreements.read_agreement(host(), caller(), digest)))


@api.post("/agreements/signatures")
def sign() -> Response:
    """Sign an agreement."""
    return reply(agreement_view(agreements.sign(host(), caller(), read_body(SignedOnly).signed.document())))


@api.get("/ledgers")
def ledgers() -> Response:
    """What the ledgers of the caller's agreements have paid."""
    who = caller()
    with host().store.reading() as tx:
        found = [tx.agreement(digest) for digest in tx.agreements_of(who.id)]
        spent = tx.spent()
    names = {(d.provider, d.id_space) for item in found if item is not None for d in item.agreement.declarations}
    rows = [
        {"provider": provider, "id_space": id_space, "spent": encode(spent[provider, id_space])}
        for provider, id_space in sorted(names)
        if (provider, id_space) in spent
    ]
    return reply({"ledgers": rows})
