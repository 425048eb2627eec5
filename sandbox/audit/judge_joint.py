"""Judging a joint total: whose key, whose ciphertexts, which sum, and what its key holder stated. Nothing of it can be decrypted here.

That a key holder decrypted once and destroyed its key, and that host, key holder or contributors drew the noise that the agreement names,
rests on them: replay says so.
"""

from __future__ import annotations

from enclaves.kit.envelope import Signed, document_digest
from policies.codec import decode
from policies.joint_documents import JointContribution, JointManifest, JointStatement, contributions_digest, manifest_digest
from policies.joint_grant import JointGrant
from sandbox.audit.folds import Entry, JobFold, JointFold
from sandbox.audit.judge_exchange import signed_body
from sandbox.audit.judge_policy import note_release, require_standing
from sandbox.audit.order import follow
from sandbox.audit.state import State


def keyed(state: State, entry: Entry) -> None:
    """A fresh key for an attempt that the agreement allows, stated by the key holder of the pool."""
    job = follow(state, entry)
    if job is None:
        return
    job.attempts += 1
    job.joint = JointFold(name=entry.ids["manifest"])
    if entry.body is None:
        return
    signed = signed_body(entry)
    manifest = job.joint.manifest = decode(JointManifest, signed.body)
    _verify(state, entry, job, signed, _key_holder(job))
    same = (manifest.job, manifest_digest(manifest)) == (entry.ids["job"], entry.ids["manifest"])
    state.require(entry, same, "signatures", "the header names another job or manifest than the key holder signed")
    grant = _grant(state, entry, job)
    if grant is None:
        return
    left = tuple(name for name in grant.pool.contributors if name not in job.gone)
    fits = (manifest.grant, manifest.attempt, manifest.contributors) == (job.grant_id, job.attempts, left)
    allowed = len(left) >= grant.pool.fewest and (not job.gone or grant.pool.dropout == "rerun")
    state.require(entry, fits and allowed, "evidence", "the attempt is not one that grant and agreement allow")


def contributed(state: State, entry: Entry) -> None:
    """One contributor's ciphertexts for the present attempt, once, signed by it."""
    job = follow(state, entry)
    if job is None or job.joint is None:
        return
    name, joint = entry.ids["participant"], job.joint
    state.require(entry, name not in joint.ciphertexts, "order", f"`{name}` contributes twice to one attempt")
    state.require(entry, entry.ids["manifest"] == joint.name, "order", f"`{name}` contributes to another attempt than the present one")
    joint.ciphertexts.setdefault(name, entry.ids["ciphertexts"])
    if joint.manifest is not None:
        wanted = name in joint.manifest.contributors
        state.require(entry, wanted, "order", f"`{name}` is no contributor of this attempt")
    if entry.body is None:
        return
    signed = signed_body(entry)
    contribution = decode(JointContribution, signed.body)
    _verify(state, entry, job, signed, name)
    named = (contribution.job, contribution.manifest, contribution.ciphertexts)
    same = named == (entry.ids["job"], entry.ids["manifest"], entry.ids["ciphertexts"])
    state.require(entry, same, "signatures", "the header names another job, manifest or ciphertexts than were signed")
    joint.signed.setdefault(name, contribution)


def dropped(state: State, entry: Entry) -> None:
    """A contributor without which there is another attempt, or none; never after a sum was made, as that may have been opened."""
    job = follow(state, entry)
    if job is None:
        return
    name, again = entry.ids["participant"], entry.ids["rerun"] == "yes"
    state.require(entry, name not in job.gone, "order", f"`{name}` drops out twice")
    job.gone.add(name)
    job.stage, job.joint = "running", None
    if isinstance(job.grant, JointGrant):
        pool = job.grant.pool
        state.require(entry, name in pool.contributors, "order", f"`{name}` is no contributor of the pool")
        state.require(entry, not again or pool.dropout == "rerun", "order", "another attempt where the agreement wants a failure")


def summed(state: State, entry: Entry) -> None:
    """The sum of all contributions of the attempt, of which there is one."""
    job = follow(state, entry)
    if job is None or job.joint is None:
        return
    joint = job.joint
    state.require(entry, entry.ids["manifest"] == joint.name, "releases", "the sum is of another attempt")
    joint.total = entry.ids["total"]
    if joint.manifest is not None:
        absent = [name for name in joint.manifest.contributors if name not in joint.ciphertexts]
        state.require(entry, not absent, "releases", f"summed without {', '.join(absent)}")


def ended(state: State, entry: Entry) -> None:
    """What the key holder stated of the one total that it opened, within its grant."""
    job = follow(state, entry)
    if job is None:
        return
    if entry.header.kind == "joint_released":
        state.found.released += 1
        require_standing(state, entry, job)
        note_release(state, entry, job)
    try:
        if job.joint is not None:
            _judge_end(state, entry, job, job.joint)
    finally:
        state.end(entry.ids["job"], entry.header.kind)


def _judge_end(state: State, entry: Entry, job: JobFold, joint: JointFold) -> None:
    ids = entry.ids
    same = (ids["grant"], ids["manifest"], ids["total"]) == (job.grant_id, joint.name, joint.total)
    state.require(entry, same, "releases", "the outcome is of another grant, attempt or total")
    if entry.body is None:
        return
    signed = signed_body(entry)
    statement = decode(JointStatement, signed.body)
    _verify(state, entry, job, signed, _key_holder(job))
    outcome = ids["sealed"] if entry.header.kind == "joint_released" else ids["code"]
    stated = statement.sealed if entry.header.kind == "joint_released" else statement.withheld
    named = (statement.job, statement.grant, statement.manifest, statement.total, stated, document_digest(signed))
    fits = named == (ids["job"], ids["grant"], ids["manifest"], ids["total"], outcome, ids["statement"])
    state.require(entry, fits, "releases", "the header names another outcome or statement than the body")
    grant = _grant(state, entry, job)
    if grant is None:
        return
    kept = (statement.statistics, statement.loss) == (grant.statistics, grant.loss)
    state.require(entry, kept, "releases", "the statement does not keep to the grant")
    if joint.manifest is None or set(joint.signed) != set(joint.manifest.contributors):
        state.cannot("releases")
        return
    of = contributions_digest([joint.signed[name] for name in joint.manifest.contributors])
    state.require(entry, statement.contributions == of, "releases", "the statement is of other contributions than were logged")


def _grant(state: State, entry: Entry, job: JobFold) -> JointGrant | None:
    if job.grant is None:
        state.cannot("releases", "evidence")
        return None
    if not isinstance(job.grant, JointGrant):
        state.report(entry, "order", "a step of a joint total in a job that an enclave runs")
        return None
    return job.grant


def _key_holder(job: JobFold) -> str | None:
    return job.grant.pool.key_holder if isinstance(job.grant, JointGrant) else None


def _verify(state: State, entry: Entry, job: JobFold, signed: Signed, by: str | None) -> None:
    agreement = state.agreement(job.agreement)
    purpose = {"joint_keyed": "joint-manifest", "joint_contributed": "joint-contribution"}.get(entry.header.kind, "joint-statement")
    if by is None or agreement is None:
        state.cannot("signatures")
        return
    if not agreement.has_party(by):
        state.report(entry, "signatures", f"`{by}` is no party of the agreement")
        return
    state.verify(entry, signed, purpose, by, agreement.party(by).signing_key)  # type: ignore[arg-type]
