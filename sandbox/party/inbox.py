"""What waits for a participant: an epoch and agreements to sign, runs that want its keys, releases that it has not read yet.

The service's lists are hints: signing, brokering and reading verify for themselves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from policies.names import require_slug
from sandbox.party.home import Home


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One thing to do.

    Attributes:
        kind: `epoch` or `agreement` (to sign), `key-request` (for the broker), `exchange` (to do the next step) or `release` (to read).
        name: origin of the epoch's log, digest of the agreement or exchange, or id of the job.
        title: what it is about, as the service states it.
        command: what to begin with, below `sandbox` and without `--home`; what is to be signed is looked at first.
    """

    kind: str
    name: str
    title: str
    command: str


def inbox(
    home: Home,
    agreements: Sequence[Mapping[str, Any]],
    key_requests: Sequence[Mapping[str, Any]],
    jobs: Sequence[Mapping[str, Any]],
    epoch: Mapping[str, Any] | None = None,
    exchanges: Sequence[Mapping[str, Any]] = (),
) -> tuple[Item, ...]:
    """Return what waits for the participant of `home`, from the service's lists of its agreements, key requests and newest jobs.

    Args:
        epoch: the newest epoch of the log and who has not signed it, where there is one. It comes first: no job is accepted before.
    """
    me = home.participant
    items = []
    if epoch is not None and me in epoch["waiting_for"]:
        found = epoch["epoch"]
        title = f"the log begins anew, epoch {found['number']}"
        items.append(Item(kind="epoch", name=str(found["log"]["origin"]), title=title, command="party epoch show"))
    items += [
        Item(kind="agreement", name=str(a["digest"]), title=str(a["document"]["sb:title"]), command=f"agreement show {a['digest']}")
        for a in agreements
        if me in a["waiting_for"]
    ]
    items += [
        Item(kind="key-request", name=str(r["job"]["id"]), title=f"{r['job']['consumer']} asks", command="party broker")
        for r in key_requests
    ]
    items += [
        Item(kind="exchange", name=str(e["digest"]), title=f"{e['signed']['body']['title']}: {w['task']}", command=_step(e, w))
        for e in exchanges
        for w in e["waiting_for"]
        if w["participant"] == me
    ]
    handed = {name for e in exchanges if e["course"]["stage"] == "handed_over" for name in _delivered(e)}
    items += [
        Item(kind="release", name=str(job["id"]), title=str(job["signed"]["body"]["sql"]), command=f"job release {job['id']}")
        for job in jobs
        if job["consumer"] == me
        and job["state"] == "released"
        and (job["id"] in handed or not _is_delivery(job))
        and not was_read(home, str(job["id"]))
    ]
    return tuple(items)


def _step(exchange: Mapping[str, Any], waiting: Mapping[str, Any]) -> str:
    """What to begin with: a proposal and a dispute are looked at first."""
    if not waiting["leg"]:
        return f"exchange status {exchange['digest']}"
    return f"exchange {waiting['task']} --leg {waiting['leg']} {exchange['digest']}"


def _delivered(exchange: Mapping[str, Any]) -> list[str]:
    """The jobs whose releases are its deliveries."""
    return [str(exchange["course"][leg]["job"]) for leg in ("first", "second")]


def _is_delivery(job: Mapping[str, Any]) -> bool:
    """Whether a job's release is held in escrow, unless it was handed over."""
    bound = job["signed"]["body"].get("exchange")
    return bound is not None and bound["form"] == "delivery"


def mark_read(home: Home, job_id: str) -> None:
    """Remember that a release was opened and verified here."""
    home.write_bytes(_mark(job_id), b"")


def was_read(home: Home, job_id: str) -> bool:
    """Whether a release was opened and verified here."""
    return (home.folder / _mark(job_id)).is_file()


def _mark(job_id: str) -> str:
    return f"read/{require_slug(job_id, 'job')}"
