"""Judging what the log says of code and of data keys outside any job: measurements, and keys that were destroyed."""

from __future__ import annotations

from dataclasses import dataclass

from policies.attestation import code_measurement
from policies.codec import decode
from policies.documents import KeyDestruction
from sandbox.audit.folds import Entry
from sandbox.audit.judge_exchange import signed_body
from sandbox.audit.state import State


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredBody:
    """The body of `measured`."""

    files: dict[str, str]


def measured(state: State, entry: Entry) -> None:
    """The code that the service's enclaves run, file by file: the digest over the files is the measurement."""
    if entry.body is None:
        return
    files = decode(MeasuredBody, entry.body).files
    state.require(entry, code_measurement(files) == entry.ids["measurement"], "evidence", "the files have another measurement")


def destroyed(state: State, entry: Entry) -> None:
    """A provider's signed statement that nobody can open one version of its data any more."""
    dataset, version = entry.ids["dataset"], int(entry.ids["version"])
    newest = state.newest.get(dataset)
    state.require(entry, newest is not None and version <= newest.version, "order", "keys of a version are destroyed that is not published")
    if entry.body is None:
        return
    signed = signed_body(entry)
    state.verify(entry, signed, "key-destruction", dataset.partition(".")[0])
    body = decode(KeyDestruction, signed.body)
    named = (body.dataset, str(body.version), body.file_digest) == (dataset, entry.ids["version"], entry.ids["file"])
    state.require(entry, named, "signatures", "the header names another version or file than the provider signed")
