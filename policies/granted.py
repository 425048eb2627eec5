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
"""All that an enclave ever says when it releases nothing. The second line is of calls of a scoring service: what the offered model is, that
its features are not the query's columns, that there are more rows than stated, that they look made to copy the model."""

FailureCode = Literal[
    "enclave-died", "out-of-memory", "worker-died", "evidence-rejected", "keys-refused", "keys-timeout", "release-mismatch", "law-retired",
    "tightened", "key-holder-timeout", "contributor-dropped", "sum-failed",
]  # fmt: skip
"""Why a host ended a run without a release."""

MAX_RELEASE = 4 << 20
"""Largest sealed release, bytes."""


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
