"""Declared datasets, published versions and offers."""

from __future__ import annotations

from enclaves.kit.envelope import Signed, document_digest
from policies.codec import decode, encode
from policies.declaration import Declaration
from policies.documents import VersionManifest
from policies.errors import Conflict, Forbidden, NotFound
from policies.odrl import parse_offer
from sandbox.exchange.records import Dataset, Participant, StoredOffer, Version
from sandbox.exchange.rotation import require_in_force
from sandbox.exchange.signed import require_signed
from sandbox.host import Host


def declare(host: Host, caller: Participant, signed: Signed) -> Dataset:
    """Store a provider's declaration. The same declaration again is the same dataset; another one under its name is a Conflict."""
    require_signed(signed, "declaration", caller.id, caller.signing_key)
    declaration = decode(Declaration, signed.body)
    if declaration.provider != caller.id:
        raise Forbidden(f"`{caller.id}` cannot declare a dataset of `{declaration.provider}`")
    with host.store.transaction() as tx:
        tx.hold_log()
        known = tx.dataset(declaration.dataset)
        if known is not None:
            if known.declaration != declaration:
                raise Conflict(f"`{declaration.dataset}` is declared otherwise; use a new name")
            return known
        require_in_force(tx, caller)
        tx.add_dataset(declaration, signed)
        ids = {"dataset": declaration.dataset, "declaration": document_digest(signed)}
        tx.append("declared", at=host.now(), ids=ids, body={"signed": encode(signed)})
    host.publish()
    return Dataset(declaration=declaration, signed=signed, newest=0)


def publish_version(host: Host, caller: Participant, signed: Signed) -> Version:
    """Make an upload the next version of a dataset. The same manifest again is the same version.

    Raises:
        Forbidden: another participant's dataset.
        NotFound: the dataset is not declared or the file was not uploaded by the caller.
        Conflict: not the next version number, or columns that are not the declared ones.
    """
    require_signed(signed, "version", caller.id, caller.signing_key)
    manifest = decode(VersionManifest, signed.body)
    if manifest.dataset.partition(".")[0] != caller.id:
        raise Forbidden(f"`{caller.id}` cannot publish `{manifest.dataset}`")
    with host.store.transaction() as tx:
        tx.hold_log()
        dataset = tx.dataset(manifest.dataset)
        if dataset is None:
            raise NotFound(f"dataset `{manifest.dataset}` is not declared")
        newest = tx.newest_version(manifest.dataset)
        if newest is not None and newest.signed.body == signed.body:
            return newest
        if manifest.version != dataset.newest + 1:
            raise Conflict(f"the next version of `{manifest.dataset}` is {dataset.newest + 1}", code="version-number")
        if sorted(manifest.columns) != sorted(column.name for column in dataset.declaration.columns):
            raise Conflict("the encrypted columns are not the declared ones", code="version-columns")
        if tx.has_upload(manifest.file_digest, caller.id) != manifest.size:
            raise NotFound("no upload of yours has this digest and size")
        require_in_force(tx, caller)
        version = Version(
            dataset=manifest.dataset,
            version=manifest.version,
            file_digest=manifest.file_digest,
            size=manifest.size,
            signed=signed,
        )
        tx.add_version(version)
        ids = {"dataset": version.dataset, "version": str(version.version), "file": version.file_digest}
        tx.append("published", at=host.now(), ids=ids, body={"signed": encode(signed)})
    host.publish()
    return version


def make_offer(host: Host, caller: Participant, signed: Signed) -> StoredOffer:
    """Store a provider's offer on its own declared dataset. The same offer again is the same."""
    require_signed(signed, "offer", caller.id, caller.signing_key)
    offer, digest = parse_offer(signed.body), document_digest(signed)
    if offer.declaration.provider != caller.id:
        raise Forbidden(f"`{caller.id}` cannot offer `{offer.declaration.dataset}`")
    with host.store.transaction() as tx:
        tx.hold_log()
        if tx.offer(digest) is None:
            dataset = tx.dataset(offer.declaration.dataset)
            if dataset is None or dataset.declaration != offer.declaration:
                raise Conflict("the offer carries another declaration than the declared one", code="offer-declaration")
            require_in_force(tx, caller)
            tx.add_offer(digest, caller.id, signed)
            ids = {"offer": digest, "provider": caller.id}
            tx.append("offered", at=host.now(), ids=ids, body={"signed": encode(signed)})
    host.publish()
    return StoredOffer(digest=digest, offer=offer, signed=signed)
