"""What the host's verbs work with: store, uploads, log key, clock and measurement, composed once and passed on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from enclaves.kit.signatures import SigningKey
from policies.attestation import EnclaveKind
from policies.errors import Unavailable
from sandbox.audit.checkpoint import Checkpoint, LogKey, sign
from sandbox.audit.merkle import root_from_nodes
from sandbox.config import Config
from sandbox.jobs.queue import Hints

if TYPE_CHECKING:
    from sandbox.store.blobs import Blobs
    from sandbox.store.database import Store


@dataclass(frozen=True, kw_only=True, slots=True)
class Host:
    """The composed service.

    Attributes:
        now: milliseconds since 1970.
        webhook_key: signs notices to participants' webhooks, and nothing else.
        enclave_kind, measurement: of the enclave that this host would start.
        hints: wake a worker when a job was charged.
        on_step: told the name of every step of the durable order as it is reached; the place for tracing and fault injection.
    """

    config: Config
    store: Store
    blobs: Blobs
    log_key: SigningKey
    webhook_key: SigningKey
    now: Callable[[], int]
    measurement: str
    enclave_kind: EnclaveKind = "simulated"
    hints: Hints = field(default_factory=Hints)
    on_step: Callable[[str], None] = lambda step: None

    @property
    def log_identity(self) -> LogKey:
        """Origin and public key of this host's log."""
        return LogKey(name=self.config.origin, public=self.log_key.public)

    def publish(self) -> str:
        """Sign and store a checkpoint over all entries, and return the note. Safe to repeat and to run in several processes at once.

        Raises:
            Unavailable: code `log-key-replaced`, if the log has another key or is another one since this process started.
        """
        with self.store.reading() as tx:
            newest = tx.newest_checkpoint()
            size = tx.log_size()
            if newest is not None and newest[0] == size:
                return newest[1]
            root = tx.over_nodes(lambda node: root_from_nodes(size, node))
        note = sign(Checkpoint(origin=self.config.origin, size=size, root=root), self.log_key)
        with self.store.transaction() as tx:
            if tx.setting("log_key") != self.log_key.public.hex() or tx.setting("log_origin") not in (None, self.config.origin):
                raise Unavailable("the log has another key by now; this process has to be started anew", code="log-key-replaced")
            tx.add_checkpoint(size, note)
        return note
