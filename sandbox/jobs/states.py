"""Job states and what the host keeps of a job, as values. `ALLOWED` is the one table of transitions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from enclaves.kit.envelope import Signed
from policies.errors import Conflict
from policies.finding import Decision
from policies.grant import AnyGrant, AnyPlan
from policies.request import Facts, JobRequest
from policies.statement import SignedEvidence, SignedStatement

JobState = Literal[
    "submitted", "denied", "awaiting_approval", "charged", "running", "released", "withheld", "failed", "cancelled", "expired"
]  # fmt: skip

ALLOWED: dict[JobState, frozenset[JobState]] = {
    "submitted": frozenset({"denied", "awaiting_approval", "charged", "cancelled"}),
    "awaiting_approval": frozenset({"denied", "charged", "cancelled", "expired"}),
    "charged": frozenset({"running", "cancelled", "expired"}),
    "running": frozenset({"released", "withheld", "failed"}),
    "denied": frozenset(),
    "released": frozenset(),
    "withheld": frozenset(),
    "failed": frozenset(),
    "cancelled": frozenset(),
    "expired": frozenset(),
}

FINAL = frozenset(state for state, following in ALLOWED.items() if not following)


def require_transition(old: JobState, new: JobState) -> None:
    """Raise Conflict (code `job-state`) unless a job may go from `old` to `new`."""
    if new not in ALLOWED[old]:
        raise Conflict(f"a {old} job cannot become {new}", code="job-state")


@dataclass(frozen=True, kw_only=True, slots=True)
class Positions:
    """Indices of a job's entries in the log; -1 where there is none yet."""

    decided: int = -1
    charged: int = -1
    granted: int = -1
    attested: int = -1
    ended: int = -1


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """An accepted or denied request and how far it got.

    Attributes:
        code: why it failed or was withheld; empty otherwise.
        worker: which worker runs it; empty before.
        question: digest of what is asked of which data; empty for jobs of the first law and for those that repeat another.
    """

    id: str
    state: JobState
    request: JobRequest
    request_digest: str
    signed: Signed
    plan: AnyPlan
    facts: Facts
    decision: Decision
    grant: AnyGrant | None
    evidence: SignedEvidence | None
    positions: Positions
    code: str
    worker: str
    created_at: int
    question: str = ""


KeyState = Literal["wanted", "challenged", "attested", "released", "refused"]
"""What a provider's key request waits for: the broker's nonce, the evidence, the broker's answer; then how it ended."""

ShownKeyState = Literal[KeyState, "ended", "renounced"]
"""As it is told to brokers: besides, `ended` of a run that failed and whose grant may be renounced, and `renounced` of one that was."""

ASKED = "asked"


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyRequest:
    """The host's ask for one provider's column keys for one run. `sealed` is what the broker sealed to the enclave (hex).

    `renounced` is `ASKED` once the run failed without anybody's keys, and the broker's signature after it renounced the grant.
    """

    job: str
    provider: str
    state: KeyState
    nonce: str
    sealed: str
    reason: str
    renounced: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredRelease:
    """The signed statement of a finished run and the sealed release (empty if withheld)."""

    job: str
    statement: SignedStatement
    sealed: bytes
