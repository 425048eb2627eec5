"""What grants of every law share: reads, recipient, job ids, and the closed set of words that an enclave or a host may answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policies.codec import omitted
from policies.documents import SignedRotation
from policies.names import require_dataset, require_digest, require_key, require_name

WithheldCode = Literal[
    "grant-mismatch", "keys-missing", "input-tampered", "input-unreadable", "resource-limit", "output-limit", "internal",
    "model-unreadable", "model-mismatch", "rows-exceeded", "probing",
]  # fmt: skip
"""All that an enclave ever says when it releases nothing. Whatever fails once it computes on the data is `internal`: which of memory,
time or values it was would tell of them. `input-unreadable`: keys do not open a file's footer. `resource-limit` is of logs of before. The
second line is of calls of a scoring service: what the offered model is, that
its features are not the query's columns, that there are more rows than stated, that they look made to copy the model."""

FailureCode = Literal[
    "enclave-died", "out-of-memory", "worker-died", "evidence-rejected", "keys-refused", "keys-timeout", "release-mismatch", "law-retired",
    "tightened", "key-holder-timeout", "contributor-dropped", "sum-failed", "engine-error",
]  # fmt: skip
"""Why a host ended a run without a release. `engine-error` is the one word for every run that had its keys and gave nothing: that the
enclave said `internal`, died, wanted too much memory or took too long, no participant can tell apart."""

MAX_RELEASE = 4 << 20
"""Largest sealed release, bytes."""

PADDING = 4096
"""A release is framed by 4 bytes of length and filled up to a multiple of so many bytes before it is sealed."""

PADDING_FOR_SEAL = 64
"""HPKE adds a 32-byte encapsulated key and a 16-byte tag."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Read:
    """The columns of one file that a run may read; the file is named by digest."""

    dataset: str
    provider: str
    version: int
    file_digest: str
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        require_dataset(self.dataset, "dataset")
        require_digest(self.file_digest, "file_digest")


@dataclass(frozen=True, kw_only=True, slots=True)
class Recipient:
    """Who gets the release, with the sealing key from the agreement, or the one to which `rotations` lead from there."""

    id: str
    sealing_key: str
    rotations: tuple[SignedRotation, ...] = omitted(())

    def __post_init__(self) -> None:
        require_name(self.id, "id")
        require_key(self.sealing_key, "sealing_key")


def job_id(request_digest: str) -> str:
    """Return the only job id that a request can have, so that one signed request never makes two jobs."""
    return "job-" + require_digest(request_digest, "request").removeprefix("sha256:")[:20]
