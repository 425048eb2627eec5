"""The order of a job's steps, judged from public headers alone."""

from __future__ import annotations

from policies.entries import EntryKind
from sandbox.audit.folds import Entry, JobFold
from sandbox.audit.state import ENDS, State

STEPS: tuple[str, ...] = ("nothing", "decided", "denied", "charged", "granted", "running", "attested", "joint_keyed", "joint_summed")
"""Stages before the end, in their order."""

FOLLOWS: dict[EntryKind, frozenset[str]] = {
    "decided": frozenset({"nothing"}),
    "charged": frozenset({"decided"}),
    "granted": frozenset({"charged"}),
    "repeated": frozenset({"decided"}),
    "running": frozenset({"granted"}),
    "attested": frozenset({"running"}),
    "key_released": frozenset({"attested"}),
    "key_refused": frozenset({"running", "attested"}),
    "released": frozenset({"attested"}),
    "withheld": frozenset({"attested"}),
    "failed": frozenset({"running", "attested", "joint_keyed", "joint_summed"}),
    "joint_keyed": frozenset({"running"}),
    "joint_contributed": frozenset({"joint_keyed"}),
    "joint_dropped": frozenset({"running", "joint_keyed"}),
    "joint_summed": frozenset({"joint_keyed"}),
    "joint_released": frozenset({"joint_summed"}),
    "joint_withheld": frozenset({"joint_summed"}),
    "renounced": frozenset({"failed"}),
    "voided": frozenset({"failed"}),
}
"""Entry kind -> stages of a job that it may follow."""


def follow(state: State, entry: Entry) -> JobFold | None:
    """Move the entry's job on and return it, or None where the entry repeats a step or comes after the end.

    A missing step is reported once: the job goes on from where the entry puts it.
    """
    kind, job_id = entry.header.kind, entry.ids["job"]
    job = state.job(job_id, entry.ids.get("agreement", ""))
    job.at.append(entry.index)
    if job.stage not in FOLLOWS[kind]:
        wanted = " or ".join(sorted(FOLLOWS[kind]))
        state.report(entry, "order", f"{job_id}: `{kind}` follows `{job.stage}`, not `{wanted}`")
        if job.stage in ENDS or (kind in STEPS and STEPS.index(kind) <= STEPS.index(job.stage)):
            return None
    if entry.ids.get("agreement", job.agreement) != job.agreement:
        state.report(entry, "order", f"{job_id}: `{kind}` names another agreement than its decision")
    if kind in STEPS:
        job.stage = kind
    if kind in ("key_released", "key_refused"):
        _answer(state, entry, job)
    if kind in ("released", "withheld") and not job.providers <= job.released:
        # An enclave computes, or withholds, only once it has every provider's answer.
        absent = ", ".join(sorted(job.providers - job.released))
        state.report(entry, "order", f"{job_id}: {kind} without a key release of {absent}")
    return job


def _answer(state: State, entry: Entry, job: JobFold) -> None:
    provider = entry.ids["provider"]
    if provider in job.answered:
        state.report(entry, "order", f"`{provider}` answered twice for the keys of {entry.ids['job']}")
    if provider not in job.providers:
        state.report(entry, "order", f"`{provider}` answered for keys of {entry.ids['job']}, which charged nothing to it")
    job.answered.add(provider)
    if entry.header.kind == "key_released":
        job.released.add(provider)
