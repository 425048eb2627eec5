"""Joint totals: one function per operation of sandbox/web/routes.py."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Response, request

from policies.codec import decode
from policies.errors import Malformed
from policies.joint_documents import JointContribution, JointManifest, JointStatement
from sandbox.jobs import joint
from sandbox.web.answers import job_view, reply
from sandbox.web.auth import host
from sandbox.web.models import Query, SignedOnly, read_bytes
from sandbox.web.operation import Call
from sandbox.web.views import JointTaken, JointTotals, JointTotalView, Uploaded

CHUNK = 1 << 20


def list_joint_totals(call: Call[Query, None]) -> Response:
    """Joint totals that wait for the caller, and those that come to it next."""
    found, later = joint.waiting(host(), call.who)
    views = tuple(
        JointTotalView(
            task=item.task,
            attempt=item.attempt.attempt,
            contributors=item.attempt.contributors,
            manifest=item.attempt.manifest,
            contributions=item.contributions,
            total=item.attempt.total if item.task == "opening" else None,
            job=job_view(item.job),
        )
        for item in found
    )
    return reply(JointTotals(joint_totals=views, next=later))


def add_joint_file(call: Call[Query, None], job_id: str) -> Response:
    """Stream the caller's part of a joint total to the host."""
    digest, size = joint.add_file(host(), call.who, job_id, chunks())
    return reply(Uploaded(digest=digest, size=size), 201)


def chunks() -> Iterator[bytes]:
    """The body of the request. Raises Malformed (code `truncated-upload`) where it ends before its stated length."""
    received = 0
    while chunk := read_bytes(CHUNK):
        received += len(chunk)
        yield chunk
    if request.content_length is not None and received != request.content_length:
        raise Malformed("the upload ended early", code="truncated-upload")


def joint_file(call: Call[Query, None], job_id: str, name: str) -> Response:
    """A public key or a total."""
    data = joint.file_of(host(), call.who, job_id, name).read_bytes()
    return Response(data, mimetype="application/octet-stream", headers={"Cache-Control": "private, no-store"})


def accept_joint_manifest(call: Call[Query, SignedOnly]) -> Response:
    """The key holder's manifest of an attempt."""
    signed = call.body.signed.document()
    joint.accept_manifest(host(), call.who, signed)
    return reply(JointTaken(job=decode(JointManifest, signed.body).job))


def accept_joint_contribution(call: Call[Query, SignedOnly]) -> Response:
    """A contributor's ciphertexts."""
    signed = call.body.signed.document()
    joint.accept_contribution(host(), call.who, signed)
    return reply(JointTaken(job=decode(JointContribution, signed.body).job))


def accept_joint_statement(call: Call[Query, SignedOnly]) -> Response:
    """How the opening of a total ended."""
    signed = call.body.signed.document()
    joint.accept_statement(host(), call.who, signed)
    return reply(JointTaken(job=decode(JointStatement, signed.body).job))
