"""The receipt of a joint total, and its offline verification from nothing but the agreement and the receipt."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Literal, TypeAlias

from enclaves.kit.envelope import Purpose, Signed, document_digest, verify_document
from enclaves.kit.lineage import follow_lineage
from enclaves.kit.rotation import keys_in_force
from policies.agreement import Agreement
from policies.canonical import digest_bytes
from policies.codec import decode, omitted
from policies.documents import SignedRotation
from policies.entries import parse_header
from policies.errors import Malformed, SandboxError, Tampered
from policies.grant import grant_digest
from policies.joint_documents import JointContribution, JointManifest, JointStatement, contributions_digest, manifest_digest
from policies.joint_grant import JointGrant
from policies.lineage import LogLink
from policies.odrl import agreement_digest
from sandbox.audit.checkpoint import Checkpoint, open_checkpoint
from sandbox.audit.merkle import leaf_hash, verify_inclusion
from sandbox.audit.receipt import Receipt, log_key


@dataclass(frozen=True, kw_only=True, slots=True)
class JointReceipt:
    """What proves offline how a joint total ended.

    Attributes:
        manifest: signed by the key holder; `contributions`: by every contributor, in the manifest's order; `statement`: by the key holder.
        entry: the log entry that recorded the outcome, as canonical JSON; `index`, `proof`, `checkpoint`: its place in the log.
        lineage: what leads from the log that the agreement names to the one that signed; nothing where that is the same.
        rotations: of signers' keys, where there were any.
    """

    kind: Literal["joint-receipt/1"] = "joint-receipt/1"
    grant: JointGrant
    manifest: Signed
    contributions: tuple[Signed, ...]
    statement: Signed
    entry: str
    index: int
    proof: tuple[str, ...]
    checkpoint: str
    lineage: tuple[LogLink, ...] = omitted(())
    rotations: tuple[SignedRotation, ...] = omitted(())


AnyReceipt: TypeAlias = Receipt | JointReceipt
"""A receipt of whatever kind of job."""


@dataclass(frozen=True, kw_only=True, slots=True)
class VerifiedJoint:
    """A receipt that holds: all of this total signed for it, and its outcome is in the log under `checkpoint`."""

    receipt: JointReceipt
    manifest: JointManifest
    statement: JointStatement
    checkpoint: Checkpoint


def verify_joint_receipt(receipt: JointReceipt, agreement: Agreement, sealed: bytes | None = None) -> VerifiedJoint:
    """Return the verified receipt. The caller has made sure of `agreement` (its digest and signatures).

    Checks checkpoint signature and inclusion; that the grant is of a pool of this agreement; that the key holder signed the manifest and
    the statement, and every contributor of the manifest its contribution to it; that the statement is of these contributions and keeps to
    the grant in statistics and loss; the entry's digests; and, if given, the sealed release.

    Raises:
        Tampered, Malformed: what failed.
    """
    checkpoint = open_checkpoint(receipt.checkpoint, log_key(follow_lineage(agreement, receipt.lineage).log))
    entry = _require_included(receipt, checkpoint)
    grant = receipt.grant
    _require_grant(grant, agreement)
    manifest = decode(JointManifest, _signed(receipt, agreement, receipt.manifest, "joint-manifest", grant.pool.key_holder))
    statement = decode(JointStatement, _signed(receipt, agreement, receipt.statement, "joint-statement", grant.pool.key_holder))
    contributions = _contributions(receipt, agreement, manifest)
    require_kept(grant, manifest, contributions, statement)
    expected = {
        "job": grant.job,
        "agreement": grant.agreement,
        "grant": grant_digest(grant),
        "manifest": statement.manifest,
        "total": statement.total,
        "statement": document_digest(receipt.statement),
    }
    expected |= {"sealed": statement.sealed} if statement.sealed is not None else {"code": str(statement.withheld)}
    header = parse_header(entry)
    if header.kind != ("joint_released" if statement.sealed else "joint_withheld") or header.ids != expected:
        raise Tampered("the log entry records another outcome", code="receipt-entry")
    if sealed is not None and (digest_bytes(sealed) if sealed else None) != statement.sealed:
        raise Tampered("the sealed release is not the one that the key holder signed", code="receipt-sealed")
    return VerifiedJoint(receipt=receipt, manifest=manifest, statement=statement, checkpoint=checkpoint)


def require_kept(
    grant: JointGrant, manifest: JointManifest, contributions: tuple[JointContribution, ...], statement: JointStatement
) -> None:
    """Raise Tampered (code `joint-binding`) unless manifest, contributions and statement are of one total that keeps to the grant."""
    name, granted = manifest_digest(manifest), grant_digest(grant)
    own = [contributor for contributor in grant.pool.contributors if contributor in manifest.contributors]
    kept = (
        (manifest.job, manifest.grant, list(manifest.contributors)) == (grant.job, granted, own)
        and len(own) >= grant.pool.fewest
        and (grant.pool.dropout == "rerun" or (len(own) == len(grant.pool.members) and manifest.attempt == 1))
        and all((item.job, item.manifest) == (grant.job, name) for item in contributions)
        and (statement.job, statement.grant, statement.manifest) == (grant.job, granted, name)
        and statement.contributions == contributions_digest(contributions)
        and (statement.statistics, statement.loss) == (grant.statistics, grant.loss)
    )
    if not kept:
        raise Tampered("what was signed is not of one total that keeps to the grant", code="joint-binding")


def _require_included(receipt: JointReceipt, checkpoint: Checkpoint) -> bytes:
    try:
        proof = [bytes.fromhex(item) for item in receipt.proof]
    except ValueError as error:
        raise Malformed("the proof is not hexadecimal", where="proof") from error
    entry = receipt.entry.encode()
    verify_inclusion(leaf_hash(entry), receipt.index, checkpoint.size, proof, checkpoint.root)
    return entry


def _require_grant(grant: JointGrant, agreement: Agreement) -> None:
    if grant.agreement != agreement_digest(agreement):
        raise Tampered("the receipt is under another agreement", code="receipt-agreement")
    try:
        _, sealing_key = keys_in_force(agreement.party(grant.recipient.id), grant.recipient.rotations)
    except SandboxError as error:
        raise Tampered("the grant names what the agreement does not", code="receipt-grant") from error
    if grant.pool not in agreement.pools or sealing_key != grant.recipient.sealing_key:
        raise Tampered("the grant names what the agreement does not", code="receipt-grant")


def _contributions(receipt: JointReceipt, agreement: Agreement, manifest: JointManifest) -> tuple[JointContribution, ...]:
    if len(receipt.contributions) != len(manifest.contributors):
        raise Tampered("not every contributor signed", code="joint-binding")
    return tuple(
        decode(JointContribution, _signed(receipt, agreement, signed, "joint-contribution", name))
        for name, signed in zip(manifest.contributors, receipt.contributions, strict=True)
    )


def _signed(receipt: JointReceipt, agreement: Agreement, signed: Signed, purpose: Purpose, by: str) -> dict[str, object]:
    return signed_under(receipt.rotations, agreement, signed, purpose, by)


def signed_under(
    rotations: tuple[SignedRotation, ...], agreement: Agreement, signed: Signed, purpose: Purpose, by: str
) -> dict[str, object]:
    """Return the body that a party signed with its key of the agreement, or with one to which its rotations lead. Raises Tampered."""
    party = agreement.party(by)
    chain = tuple(item for item in rotations if item.rotation.participant == by)
    for length in range(len(chain), 0, -1):
        with suppress(Tampered):
            return verify_document(signed, purpose, by, keys_in_force(party, chain[:length])[0])
    return verify_document(signed, purpose, by, party.signing_key)
