"""Whether a person, or a standing approval, lets a run have keys. It is asked besides the agreement, and never instead of it.

A person approves one grant, by digest, before the enclave is challenged: evidence stays fresh however long the person takes.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any, Literal

from policies.codec import decode, encode, omitted
from policies.errors import Conflict, Malformed, NotFound, PolicyRefused
from policies.names import require_dataset, require_digest, require_name, require_slug
from policies.privacy import Loss
from policies.request import JobRequest
from sandbox.party.home import Home

STANDING = "approvals.json"

Answer = Literal["waiting", "approved", "refused"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """A standing approval: every condition that it states must hold. One that states none approves all.

    Attributes:
        datasets: the run reads none of one's own but these.
        loss: most that the run costs, in the measure of the request.
        until: seconds since 1970, exclusive.
    """

    id: str
    agreement: str | None = omitted(None)
    consumer: str | None = omitted(None)
    purpose: str | None = omitted(None)
    datasets: tuple[str, ...] = omitted(())
    loss: Loss | None = omitted(None)
    until: int | None = omitted(None)

    def __post_init__(self) -> None:
        require_slug(self.id, "id")
        if self.agreement is not None:
            require_digest(self.agreement, "agreement")
        if self.consumer is not None:
            require_name(self.consumer, "consumer")
        if self.purpose is not None:
            require_slug(self.purpose, "purpose")
        for dataset in self.datasets:
            require_dataset(dataset, "datasets")

    def covers(self, request: JobRequest, datasets: frozenset[str], now: float) -> bool:
        """Whether a request that reads these datasets of one's own is approved at `now`."""
        return (
            self.agreement in (None, request.agreement)
            and self.consumer in (None, request.consumer)
            and self.purpose in (None, request.purpose)
            and (not self.datasets or datasets <= set(self.datasets))
            and (self.loss is None or request.loss.within(self.loss))
            and (self.until is None or now < self.until)
        )


def standing_approvals(home: Home) -> tuple[Standing, ...]:
    """All standing approvals of this home. Raises Malformed if the file is none."""
    return decode(tuple[Standing, ...], home.read_or(STANDING, []))


def add_standing(home: Home, **conditions: Any) -> Standing:
    """Keep a standing approval with the conditions that are given."""
    approval = Standing(id=f"approval-{secrets.token_hex(4)}", **conditions)
    with home.locked("approvals"):
        home.write(STANDING, encode((*standing_approvals(home), approval)))
    home.note("approval-added", approval=encode(approval))
    return approval


def remove_standing(home: Home, name: str) -> None:
    """Take a standing approval back. Raises NotFound."""
    with home.locked("approvals"):
        kept = standing_approvals(home)
        left = tuple(item for item in kept if item.id != name)
        if len(left) == len(kept):
            raise NotFound(f"there is no standing approval `{name[:80]}`")
        home.write(STANDING, encode(left))
    home.note("approval-removed", approval=name)


def standing_for(home: Home, request: JobRequest, datasets: frozenset[str], now: float) -> str | None:
    """Id of the first standing approval that covers a request; None if a person has to be asked."""
    return next((item.id for item in standing_approvals(home) if item.covers(request, datasets, now)), None)


def hold(home: Home, job_id: str, grant: str, shown: dict[str, Any]) -> None:
    """Hold a request for a person, who sees `shown`; once for each grant."""
    with home.locked("approvals"):
        kept = home.read_or(_file(job_id), None)
        if kept is None:
            home.write(_file(job_id), {"grant": grant, "answer": "waiting", "shown": shown})
            home.note("asked", job=job_id, grant=grant)
        elif kept["grant"] != grant:
            raise PolicyRefused("the service asks for keys under another grant than the one that a person was shown", code="grant-replaced")


def held(home: Home, answer: Answer | None = None) -> dict[str, dict[str, Any]]:
    """What was held for a person, by job, with the answer."""
    found = {path.name.removesuffix(".ask.json"): home.read(f"broker/{path.name}") for path in (home.folder / "broker").glob("*.ask.json")}
    return {job: kept for job, kept in sorted(found.items()) if answer in (None, kept["answer"])}


def answer_held(home: Home, job_id: str, answer: Literal["approved", "refused"]) -> None:
    """Keep what a person says. Raises NotFound, and Conflict if a person said otherwise before."""
    with home.locked("approvals"):
        kept = home.read_or(_file(require_slug(job_id, "job")), None)
        if kept is None:
            raise NotFound(f"nothing is held of `{job_id[:80]}`")
        if kept["answer"] not in ("waiting", answer):
            raise Conflict(f"{job_id} was {kept['answer']} before", code="answered")
        home.write(_file(job_id), kept | {"answer": answer})
    home.note(answer, job=job_id, grant=kept["grant"])


def answer_for(home: Home, job_id: str, grant: str) -> Answer | None:
    """What a person said of exactly this grant; None if nobody was asked."""
    kept = home.read_or(_file(job_id), None)
    if kept is None or kept["grant"] != grant:
        return None
    found: Answer = kept["answer"]
    if found not in ("waiting", "approved", "refused"):
        raise Malformed("the kept answer is none", where=_file(job_id))
    return found


def _file(job_id: str) -> str:
    return f"broker/{job_id}.ask.json"
