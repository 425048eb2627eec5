"""Participants, uploads, datasets, offers, agreements: one function per operation of sandbox/web/routes.py."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Response, request, send_file

from policies.errors import Malformed, NotFound, TooLarge
from sandbox.exchange import agreements, datasets, destruction, epochs, participants, rotation, tightening
from sandbox.jobs import duties
from sandbox.jobs.notices import public_text
from sandbox.web.answers import agreement_view, dataset_view, offer_view, reply, version_view
from sandbox.web.auth import host
from sandbox.web.models import AdmissionBody, AgreementsQuery, OfProvider, Paged, Query, RotationBody, SignedOnly, cursor_of, read_bytes
from sandbox.web.operation import Call
from sandbox.web.ops import within_quota
from sandbox.web.views import (
    Admitted,
    Agreements,
    Datasets,
    DestructionView,
    EnclaveView,
    LogView,
    Offers,
    Participants,
    ServiceView,
    Tightenings,
    Uploaded,
)

CHUNK = 1 << 20


def service(_call: Call[Query, None]) -> Response:
    """The log's identity and the enclave that this host would start."""
    log = host().log_identity
    return reply(
        ServiceView(
            log=LogView(origin=log.name, key=log.public.hex(), vkey=log.vkey),
            enclave=EnclaveView(kind=host().enclave_kind, measurement=host().measurement),
            webhook_key=public_text(host().webhook_key.public),
        )
    )


def admit(call: Call[Query, AdmissionBody]) -> Response:
    """Admit a participant with a one-time code."""
    return reply(Admitted(participant=participants.admit(host(), call.body.signed.document(), call.body.code)), 201)


def rotate(call: Call[Query, RotationBody]) -> Response:
    """Replace the caller's keys."""
    return reply(rotation.rotate(host(), call.who, call.body.signed.document(), call.body.countersignature))


def revoke(call: Call[Query, SignedOnly]) -> Response:
    """Revoke the caller's keys."""
    return reply(rotation.revoke_own(host(), call.who, call.body.signed.document()))


def epoch(_call: Call[Query, None]) -> Response:
    """The newest epoch and who has not signed it."""
    return reply(epochs.epoch_state(host()))


def sign_epoch(call: Call[Query, SignedOnly]) -> Response:
    """Add a provider's signature to the newest epoch."""
    return reply(epochs.sign_epoch(host(), call.who, call.body.signed.document()))


def list_participants(call: Call[Paged, None]) -> Response:
    """Participants with their public keys."""
    with host().store.reading() as tx:
        found = tx.participants(call.query.page(str))
    return reply(Participants(participants=found.items, next=cursor_of(found.next)))


def me(call: Call[Query, None]) -> Response:
    """The participant that the credential belongs to."""
    return reply(call.who)


def upload(call: Call[Query, None]) -> Response:
    """Stream an encrypted file to the host."""
    if request.content_length is not None and request.content_length > host().config.upload_bytes:
        raise TooLarge(f"the upload is larger than {host().config.upload_bytes} bytes")
    digest, size = host().blobs.add(within_quota(host(), call.who, _chunks()))
    with host().store.transaction() as tx:
        tx.add_upload(digest, call.who.id, size, host().config.upload_quota_bytes)
        tx.find_upload(digest)
    return reply(Uploaded(digest=digest, size=size), 201)


def download(call: Call[Query, None], digest: str) -> Response:
    """An encrypted file of the caller's own."""
    with host().store.reading() as tx:
        if not tx.has_upload(digest, call.who.id):
            raise NotFound("no upload of yours has this digest")
    return send_file(host().blobs.path(digest), mimetype="application/octet-stream")


def _chunks() -> Iterator[bytes]:
    received = 0
    while chunk := read_bytes(CHUNK):
        received += len(chunk)
        yield chunk
    if request.content_length is not None and received != request.content_length:
        raise Malformed("the upload ended early", code="truncated-upload")


def declare(call: Call[Query, SignedOnly]) -> Response:
    """Declare a dataset."""
    return reply(dataset_view(datasets.declare(host(), call.who, call.body.signed.document())), 201)


def list_datasets(call: Call[OfProvider, None]) -> Response:
    """Declared datasets."""
    with host().store.reading() as tx:
        found = tx.datasets(call.query.page(str), call.query.provider)
    return reply(Datasets(datasets=tuple(map(dataset_view, found.items)), next=cursor_of(found.next)))


def one_dataset(_call: Call[Query, None], name: str) -> Response:
    """One dataset."""
    with host().store.reading() as tx:
        dataset = tx.dataset(name)
    if dataset is None:
        raise NotFound("there is no such dataset")
    return reply(dataset_view(dataset))


def publish(call: Call[Query, SignedOnly]) -> Response:
    """Publish an upload as the next version of a dataset."""
    return reply(version_view(datasets.publish_version(host(), call.who, call.body.signed.document())), 201)


def destroy(call: Call[Query, SignedOnly]) -> Response:
    """State that no key of a version exists any more."""
    return reply(DestructionView(signed=destruction.destroy_keys(host(), call.who, call.body.signed.document())))


def offer(call: Call[Query, SignedOnly]) -> Response:
    """Make an offer."""
    return reply(offer_view(datasets.make_offer(host(), call.who, call.body.signed.document())), 201)


def list_offers(call: Call[OfProvider, None]) -> Response:
    """Offers."""
    with host().store.reading() as tx:
        found = tx.offers(call.query.page(str, str), call.query.provider)
    return reply(Offers(offers=tuple(map(offer_view, found.items)), next=cursor_of(found.next)))


def propose(call: Call[Query, SignedOnly]) -> Response:
    """Propose an agreement."""
    return reply(agreement_view(agreements.propose(host(), call.who, call.body.signed.document())), 201)


def list_agreements(call: Call[AgreementsQuery, None]) -> Response:
    """The caller's agreements."""
    with host().store.reading() as tx:
        found = tx.agreements(call.who.id, call.query.page(str), call.query.state)
    return reply(Agreements(agreements=tuple(map(agreement_view, found.items)), next=cursor_of(found.next)))


def one_agreement(call: Call[Query, None], digest: str) -> Response:
    """One agreement of the caller's."""
    return reply(agreement_view(agreements.read_agreement(host(), call.who, digest)))


def sign(call: Call[Query, SignedOnly]) -> Response:
    """Sign an agreement."""
    return reply(agreement_view(agreements.sign(host(), call.who, call.body.signed.document())))


def tighten(call: Call[Query, SignedOnly]) -> Response:
    """Tighten the terms of the caller's dataset."""
    return reply(tightening.tighten(host(), call.who, call.body.signed.document()), 201)


def list_tightenings(call: Call[Query, None], digest: str) -> Response:
    """The tightenings of an agreement of the caller's."""
    return reply(Tightenings(tightenings=tightening.tightenings_of(host(), call.who, digest)))


def report_duty(call: Call[Query, SignedOnly]) -> Response:
    """Say that a duty was done."""
    return reply(duties.report_duty(host(), call.who, call.body.signed.document()), 201)
