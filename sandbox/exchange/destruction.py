"""Data keys that their provider has destroyed: the version stays in the log, and no job reads it any more."""

from __future__ import annotations

from enclaves.kit.envelope import Signed
from policies.codec import decode, encode
from policies.documents import KeyDestruction
from policies.errors import Forbidden, NotFound
from sandbox.exchange.records import Participant
from sandbox.exchange.rotation import require_in_force
from sandbox.exchange.signed import require_signed
from sandbox.host import Host


def destroy_keys(host: Host, caller: Participant, signed: Signed) -> Signed:
    """Store and log that nobody can open one version any more. The same statement again is the same.

    Raises:
        Forbidden: another participant's dataset. NotFound: no such version is published.
    """
    require_signed(signed, "key-destruction", caller.id, caller.signing_key)
    statement = decode(KeyDestruction, signed.body)
    if statement.dataset.partition(".")[0] != caller.id:
        raise Forbidden(f"`{caller.id}` has no keys of `{statement.dataset}`")
    with host.store.transaction() as tx:
        tx.hold_log()
        version = tx.version_of_file(statement.dataset, statement.file_digest)
        if version is None or version.version != statement.version:
            raise NotFound(f"`{statement.dataset}` has no version {statement.version} with this file")
        known = tx.destruction(statement.file_digest)
        if known is not None:
            return known
        require_in_force(tx, caller)
        tx.destroy_keys(statement.file_digest, signed)
        ids = {"dataset": statement.dataset, "version": str(statement.version), "file": statement.file_digest}
        tx.append("destroyed", at=host.now(), ids=ids, body={"signed": encode(signed)})
    host.publish()
    return signed
