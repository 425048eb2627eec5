"""Reference values in the log: which code an enclave of this host would run, file by file, for providers to compare with their own."""

from __future__ import annotations

from policies.attestation import code_measurement
from policies.canonical import digest
from policies.errors import Conflict
from sandbox.host import Host


def publish_measurement(host: Host, files: dict[str, str]) -> int:
    """Append `measured` and return its index; the same again is the entry that stands there.

    Args:
        files: path to hex SHA-256 of every measured file.

    Raises:
        Conflict: the files are not those of the enclave that this host would start.
    """
    value = code_measurement(files)
    if value != host.measurement:
        raise Conflict("the enclaves of this service run other code", code="other-measurement")
    with host.store.transaction() as tx:
        tx.hold_log()
        name = "measured-" + digest([host.config.origin, value]).removeprefix("sha256:")[:30]  # a new epoch is another log
        known = tx.setting(name)
        if known is not None:
            return int(known)
        ids = {"kind": host.enclave_kind, "measurement": value}
        index = tx.append("measured", at=host.now(), ids=ids, body={"files": files})
        tx.fix_setting(name, str(index))
    host.publish()
    return index
