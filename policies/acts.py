"""What a party signs under an agreement that is in force, besides requests: approvals of a job, and duties that were done.

Like tightenings they are public: the header of the entry holds all of them with the signature, so that whoever follows the bare log can
count them and nobody can keep one back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

from policies.agreement import Agreement, Terms
from policies.errors import Malformed
from policies.names import require_digest, require_name, require_slug

Duty = Literal["payment", "deletion"]
"""`payment`: the provider was paid. `deletion`: the consumer deleted a release."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JobApproval:
    """What an approver signs: this very request, under this agreement."""

    kind: Literal["job-approval/1"] = "job-approval/1"
    agreement: str
    job: str
    request: str

    def __post_init__(self) -> None:
        require_digest(self.agreement, "agreement")
        require_slug(self.job, "job")
        require_digest(self.request, "request")


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedApproval:
    """An approval with who gave it and the signature (128 hex digits)."""

    approval: JobApproval
    by: str
    signature: str

    def to_ids(self) -> dict[str, str]:
        """The header of its `approved` entry."""
        found = self.approval
        return {
            "agreement": found.agreement,
            "job": found.job,
            "request": found.request,
            "participant": self.by,
            "signature": self.signature,
        }

    @classmethod
    def from_ids(cls, ids: Mapping[str, str]) -> SignedApproval:
        """The approval that an `approved` entry records. Raises Malformed."""
        try:
            approval = JobApproval(agreement=ids["agreement"], job=ids["job"], request=ids["request"])
            found = cls(approval=approval, by=ids["participant"], signature=ids["signature"])
        except KeyError as error:
            raise Malformed("the entry of an approval does not say all of it") from error
        return _same(found, ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class JobCancellation:
    """What a consumer signs to take back a request of its own that waits; nothing was decided or charged for it."""

    kind: Literal["job-cancellation/1"] = "job-cancellation/1"
    agreement: str
    job: str
    request: str

    def __post_init__(self) -> None:
        require_digest(self.agreement, "agreement")
        require_slug(self.job, "job")
        require_digest(self.request, "request")


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedCancellation:
    """A cancellation with who signed it and the signature (128 hex digits)."""

    cancellation: JobCancellation
    by: str
    signature: str

    def to_ids(self) -> dict[str, str]:
        """The header of its `cancelled` entry."""
        found = self.cancellation
        named = {"agreement": found.agreement, "job": found.job, "request": found.request}
        return named | {"participant": self.by, "signature": self.signature}

    @classmethod
    def from_ids(cls, ids: Mapping[str, str]) -> SignedCancellation:
        """The cancellation that a `cancelled` entry records. Raises Malformed."""
        try:
            cancellation = JobCancellation(agreement=ids["agreement"], job=ids["job"], request=ids["request"])
            found = cls(cancellation=cancellation, by=ids["participant"], signature=ids["signature"])
        except KeyError as error:
            raise Malformed("the entry of a cancellation does not say all of it") from error
        return _same(found, ids)


@dataclass(frozen=True, kw_only=True, slots=True)
class DutyDone:
    """What is signed when a duty is done: by the provider that was paid, by the consumer that deleted a release.

    Attributes:
        about: the consumer that paid, or the job whose release was deleted.
        number: 1 for the first payment of that consumer under the agreement, then one more each time; 1 for a deletion.
    """

    kind: Literal["duty-done/1"] = "duty-done/1"
    agreement: str
    duty: Duty
    about: str
    number: int

    def __post_init__(self) -> None:
        require_digest(self.agreement, "agreement")
        if self.duty == "payment":
            require_name(self.about, "about")
        else:
            require_slug(self.about, "about")
        if not 1 <= self.number <= (10**9 if self.duty == "payment" else 1):
            raise Malformed("must count from 1", where="number")


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedDuty:
    """A duty that was done, who says so, and the signature (128 hex digits)."""

    done: DutyDone
    by: str
    signature: str

    def to_ids(self) -> dict[str, str]:
        """The header of its `duty_done` entry."""
        done = self.done
        return {
            "agreement": done.agreement,
            "duty": done.duty,
            "about": done.about,
            "number": str(done.number),
            "participant": self.by,
            "signature": self.signature,
        }

    @classmethod
    def from_ids(cls, ids: Mapping[str, str]) -> SignedDuty:
        """The duty that a `duty_done` entry records. Raises Malformed."""
        try:
            duty: Duty = "payment" if ids["duty"] == "payment" else "deletion"
            done = DutyDone(agreement=ids["agreement"], duty=duty, about=ids["about"], number=int(ids["number"]))
            found = cls(done=done, by=ids["participant"], signature=ids["signature"])
        except (KeyError, ValueError) as error:
            raise Malformed("the entry of a duty does not say all of it") from error
        return _same(found, ids)


S = TypeVar("S", SignedApproval, SignedCancellation, SignedDuty)


def _same(found: S, ids: Mapping[str, str]) -> S:
    if found.to_ids() != dict(ids):
        raise Malformed("the entry says more than it may")
    return found


def _terms_on(agreement: Agreement, sources: tuple[str, ...]) -> list[Terms]:
    """The terms on these datasets, and on the members of pools among them."""
    read = agreement.members(sources)
    return [terms for terms in agreement.terms if terms.dataset in read]


def deletion_days(agreement: Agreement, sources: tuple[str, ...]) -> int | None:
    """Return the fewest days after which a release on these datasets is to be deleted; None where no terms ask for it."""
    days = [terms.delete_after for terms in _terms_on(agreement, sources) if terms.delete_after is not None]
    return min(days) if days else None


def informed_of(agreement: Agreement, sources: tuple[str, ...]) -> tuple[str, ...]:
    """Return the parties that learn of each release on these datasets, sorted."""
    return tuple(sorted({name for terms in _terms_on(agreement, sources) for name in terms.notify}))


def attributions_of(agreement: Agreement, sources: tuple[str, ...]) -> tuple[str, ...]:
    """Return the words that stand by each release on these datasets."""
    found = (terms.attribution for terms in _terms_on(agreement, sources) if terms.attribution is not None)
    return tuple(dict.fromkeys(found))


def approvers_of(agreement: Agreement, sources: tuple[str, ...]) -> frozenset[str]:
    """Return the parties whose approval of a job on these datasets counts."""
    return frozenset(n for terms in _terms_on(agreement, sources) if terms.approvals for n in terms.approvals.of)
