"""Judging how a charge is given back: every provider has signed that the grant is dead, and none has released keys for it."""

from __future__ import annotations

from enclaves.kit.acts import signed_renunciation
from policies.documents import SignedRenunciation
from sandbox.audit.folds import Entry, JobFold
from sandbox.audit.order import follow
from sandbox.audit.state import State
from sandbox.audit.totals import shown


def renounced(state: State, entry: Entry) -> None:
    """A provider's signed word that its broker released no key for this grant and never will, once, of a run that failed without keys."""
    job = follow(state, entry)
    if job is None or not _may_be_void(state, entry, job):
        return
    signed, provider = SignedRenunciation.from_ids(entry.ids), entry.ids["provider"]
    known = state.require(entry, provider in job.providers, "budgets", f"`{provider}` renounces a grant that reads nothing of it")
    once = state.require(entry, provider not in job.renounced, "order", f"`{provider}` renounces {entry.ids['job']} twice")
    same = state.require(entry, entry.ids["grant"] == job.grant_id, "budgets", "another grant is renounced than was granted")
    agreement = state.agreement(job.agreement)
    if agreement is None:
        state.cannot("signatures", "budgets")
        held = True
    else:
        key = agreement.party(provider).signing_key if agreement.has_party(provider) else None
        held = state.verify(entry, signed_renunciation(signed), "grant-renunciation", provider, key)
    if known and once and same and held:
        job.renounced.add(provider)


def voided(state: State, entry: Entry) -> None:
    """A charge that counts no more in any ledger, exactly as it was made. One that does not follow is not given back."""
    job = follow(state, entry)
    if job is None or not _may_be_void(state, entry, job):
        return
    absent = ", ".join(sorted(job.providers - job.renounced))
    all_signed = state.require(entry, not absent, "budgets", f"voided without a renunciation of {absent}")
    same = state.require(entry, entry.ids["grant"] == job.grant_id, "budgets", "another charge is voided than was made for the grant")
    what = (
        f"voids {shown(entry.header.losses)} for `{entry.ids.get('consumer', '')}`; charged were {shown(job.losses)} for `{job.consumer}`"
    )
    losses = (entry.header.losses, entry.ids.get("consumer", "")) == (job.losses, job.consumer)
    if state.require(entry, losses, "budgets", what) and all_signed and same:
        for loss in job.losses:
            state.give_back(loss, job.consumer, job.charged_at)
        state.end(entry.ids["job"], "voided")


def _may_be_void(state: State, entry: Entry, job: JobFold) -> bool:
    """Whether nobody released keys; of a job whose keys were released, nothing is known any more but that it failed."""
    dead = job.stage == "failed" and bool(job.providers) and not job.released and not job.attempts
    return state.require(entry, dead, "budgets", f"{entry.ids['job']} did not fail without keys: its charge stays")
