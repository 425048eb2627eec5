"""Tables. Documents are canonical JSON text; what a query needs to find them stands beside as columns."""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
    UniqueConstraint,
)

metadata = MetaData()

settings = Table("settings", metadata, Column("name", String(40), primary_key=True), Column("value", Text, nullable=False))

participants = Table(
    "participants",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("title", Text, nullable=False),
    Column("signing_key", String(64), nullable=False, unique=True),
    Column("sealing_key", String(64), nullable=False, unique=True),
    Column("credential_digest", String(71), nullable=False, unique=True),
    Column("admitted_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger),
)

admission_codes = Table(
    "admission_codes",
    metadata,
    Column("code_digest", String(71), primary_key=True),
    Column("participant", String(40), nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("used_at", BigInteger),
)

rotations = Table(
    "rotations",
    metadata,
    Column("old_key", String(64), primary_key=True),
    Column("old_sealing_key", String(64), nullable=False, unique=True),
    Column("participant", String(40), ForeignKey("participants.id"), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("signed", Text, nullable=False),
)

revocations = Table(
    "revocations",
    metadata,
    Column("signing_key", String(64), primary_key=True),
    Column("sealing_key", String(64), nullable=False, unique=True),
    Column("participant", String(40), ForeignKey("participants.id"), nullable=False),
)

uploads = Table(
    "uploads",
    metadata,
    Column("digest", String(71), nullable=False),
    Column("participant", String(40), ForeignKey("participants.id"), nullable=False),
    Column("size", BigInteger, nullable=False),
    PrimaryKeyConstraint("digest", "participant"),
)

lost_uploads = Table("lost_uploads", metadata, Column("digest", String(71), primary_key=True))

destroyed_keys = Table("destroyed_keys", metadata, Column("digest", String(71), primary_key=True), Column("signed", Text, nullable=False))

lost_jobs = Table("lost_jobs", metadata, Column("id", String(60), primary_key=True))

datasets = Table(
    "datasets",
    metadata,
    Column("dataset", String(81), primary_key=True),
    Column("provider", String(40), ForeignKey("participants.id"), nullable=False),
    Column("signed", Text, nullable=False),
)

versions = Table(
    "versions",
    metadata,
    Column("dataset", String(81), ForeignKey("datasets.dataset"), nullable=False),
    Column("version", Integer, nullable=False),
    Column("file_digest", String(71), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("signed", Text, nullable=False),
    PrimaryKeyConstraint("dataset", "version"),
)

offers = Table(
    "offers",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("provider", String(40), ForeignKey("participants.id"), nullable=False),
    Column("signed", Text, nullable=False),
)

agreements = Table(
    "agreements",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("state", String(20), nullable=False),
    Column("proposed_by", String(40), ForeignKey("participants.id"), nullable=False),
    Column("document", Text, nullable=False),
)

agreement_parties = Table(
    "agreement_parties",
    metadata,
    Column("agreement", String(71), ForeignKey("agreements.digest"), nullable=False),
    Column("participant", String(40), nullable=False, index=True),
    Column("signed", Text),
    PrimaryKeyConstraint("agreement", "participant"),
)

acts = Table(
    "acts",
    metadata,
    Column("agreement", String(71), ForeignKey("agreements.digest"), nullable=False),
    Column("kind", String(20), nullable=False),
    Column("subject", String(81), nullable=False),
    Column("participant", String(40), nullable=False),
    Column("number", Integer, nullable=False),
    Column("place", Integer, nullable=False),
    Column("signed", Text, nullable=False),
    PrimaryKeyConstraint("agreement", "kind", "subject", "participant", "number"),
)

ledgers = Table(
    "ledgers",
    metadata,
    Column("provider", String(40), nullable=False),
    Column("id_space", String(60), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("delta0", BigInteger, nullable=False),
    Column("measure", String(10), nullable=False, server_default="pure"),
    PrimaryKeyConstraint("provider", "id_space"),
)

consumer_charges = Table(
    "consumer_charges",
    metadata,
    Column("provider", String(40), nullable=False),
    Column("id_space", String(60), nullable=False),
    Column("consumer", String(40), nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("delta0", BigInteger, nullable=False),
    PrimaryKeyConstraint("provider", "id_space", "consumer"),
)

charges = Table(
    "charges",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("provider", String(40), nullable=False),
    Column("id_space", String(60), nullable=False),
    Column("consumer", String(40), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("delta0", BigInteger, nullable=False),
    Index("ix_charges_recent", "provider", "id_space", "at"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(60), primary_key=True),
    Column("consumer", String(40), ForeignKey("participants.id"), nullable=False),
    Column("request_id", String(64), nullable=False),
    Column("request_digest", String(71), nullable=False),
    Column("agreement", String(71), ForeignKey("agreements.digest"), nullable=False, index=True),
    Column("state", String(20), nullable=False, index=True),
    Column("signed", Text, nullable=False),
    Column("plan", Text, nullable=False),
    Column("facts", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("grant_document", Text),
    Column("former", Integer, nullable=False, server_default="0"),
    Column("evidence", Text),
    Column("positions", Text, nullable=False),
    Column("code", String(40), nullable=False),
    Column("worker", String(80), nullable=False),
    Column("lease_until", Float, nullable=False),
    Column("created_at", BigInteger, nullable=False, index=True),
    Column("question", String(71), nullable=False, index=True, server_default=""),
    UniqueConstraint("consumer", "request_id"),
)

key_requests = Table(
    "key_requests",
    metadata,
    Column("job", String(60), ForeignKey("jobs.id"), nullable=False),
    Column("provider", String(40), ForeignKey("participants.id"), nullable=False, index=True),
    Column("state", String(20), nullable=False),
    Column("nonce", String(64), nullable=False),
    Column("sealed", Text, nullable=False),
    Column("reason", String(60), nullable=False),
    Column("renounced", String(128), nullable=False, server_default=""),
    PrimaryKeyConstraint("job", "provider"),
)

releases = Table(
    "releases",
    metadata,
    Column("job", String(60), ForeignKey("jobs.id"), primary_key=True),
    Column("statement", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)

joint_runs = Table(
    "joint_runs",
    metadata,
    Column("job", String(60), ForeignKey("jobs.id"), primary_key=True),
    Column("attempt", Integer, nullable=False),
    Column("contributors", Text, nullable=False),
    Column("manifest", Text),
    Column("total", String(71)),
    Column("since", BigInteger, nullable=False, server_default="0"),
)

joint_contributions = Table(
    "joint_contributions",
    metadata,
    Column("job", String(60), ForeignKey("jobs.id"), nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("participant", String(40), ForeignKey("participants.id"), nullable=False),
    Column("signed", Text, nullable=False),
    PrimaryKeyConstraint("job", "attempt", "participant"),
)

joint_releases = Table(
    "joint_releases",
    metadata,
    Column("job", String(60), ForeignKey("jobs.id"), primary_key=True),
    Column("statement", Text, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)

scorings = Table(
    "scorings",
    metadata,
    Column("id", String(60), primary_key=True),
    Column("consumer", String(40), ForeignKey("participants.id"), nullable=False, index=True),
    Column("owner", String(40), ForeignKey("participants.id"), nullable=False, index=True),
    Column("request_id", String(64), nullable=False),
    Column("request_digest", String(71), nullable=False),
    Column("agreement", String(71), ForeignKey("agreements.digest"), nullable=False, index=True),
    Column("model", String(81), nullable=False),
    Column("score_rows", BigInteger, nullable=False),
    Column("former", Integer, nullable=False, server_default="0"),
    Column("receipt", Text),
    Column("state", String(20), nullable=False),
    Column("signed", Text, nullable=False),
    Column("facts", Text, nullable=False),
    Column("decision", Text, nullable=False),
    Column("statement", Text),
    Column("decided", BigInteger, nullable=False),
    Column("ended", BigInteger),
    Column("created_at", BigInteger, nullable=False),
    UniqueConstraint("consumer", "request_id"),
)

log_state = Table("log_state", metadata, Column("id", Integer, primary_key=True), Column("size", BigInteger, nullable=False))

entries = Table(
    "entries",
    metadata,
    Column("position", BigInteger, primary_key=True, autoincrement=False),
    Column("data", LargeBinary, nullable=False),
)

openings = Table(
    "openings",
    metadata,
    Column("position", BigInteger, ForeignKey("entries.position"), primary_key=True, autoincrement=False),
    Column("agreement", String(71), index=True),
    Column("salt", String(64), nullable=False),
    Column("body", Text, nullable=False),
)

tree_nodes = Table(
    "tree_nodes",
    metadata,
    Column("level", Integer, nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    PrimaryKeyConstraint("level", "position"),
)

cosignatures = Table(
    "cosignatures",
    metadata,
    Column("size", BigInteger, nullable=False, autoincrement=False),
    Column("witness", String(71), nullable=False),
    Column("line", Text, nullable=False),
    PrimaryKeyConstraint("size", "witness"),
)

checkpoints = Table(
    "checkpoints",
    metadata,
    Column("size", BigInteger, primary_key=True, autoincrement=False),
    Column("note", Text, nullable=False),
)

log_links = Table(
    "log_links",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("link", Text, nullable=False),
)

epochs = Table(
    "epochs",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("document", Text, nullable=False),
    Column("complete", Integer, nullable=False),
)

epoch_signatures = Table(
    "epoch_signatures",
    metadata,
    Column("number", Integer, ForeignKey("epochs.number"), nullable=False),
    Column("participant", String(40), ForeignKey("participants.id"), nullable=False),
    Column("signature", String(128), nullable=False),
    Column("key", String(64), nullable=False),
    PrimaryKeyConstraint("number", "participant"),
)

former_entries = Table(
    "former_entries",
    metadata,
    Column("epoch", Integer, ForeignKey("epochs.number"), nullable=False),
    Column("position", BigInteger, nullable=False),
    Column("data", LargeBinary, nullable=False),
    Column("salt", String(64)),
    Column("body", Text),
    PrimaryKeyConstraint("epoch", "position"),
)

former_receipts = Table(
    "former_receipts",
    metadata,
    Column("job", String(60), ForeignKey("jobs.id"), primary_key=True),
    Column("receipt", Text, nullable=False),
)

workers = Table(
    "workers",
    metadata,
    Column("name", String(80), primary_key=True),
    Column("seen_at", BigInteger, nullable=False),
    Column("isolation", Text, nullable=False, server_default=""),
)

webhooks = Table(
    "webhooks",
    metadata,
    Column("participant", String(40), ForeignKey("participants.id"), primary_key=True),
    Column("url", Text, nullable=False),
    Column("failures", Integer, nullable=False),
)

notices = Table(
    "notices",
    metadata,
    Column("id", String(60), primary_key=True),
    Column("participant", String(40), ForeignKey("participants.id"), nullable=False, index=True),
    Column("kind", String(20), nullable=False),
    Column("subject", String(71), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("state", String(20), nullable=False),
    Column("attempts", Integer, nullable=False),
    Column("next_at", BigInteger, nullable=False),
    Index("ix_notices_due", "state", "next_at"),
)

exchanges = Table(
    "exchanges",
    metadata,
    Column("digest", String(71), primary_key=True),
    Column("first", String(40), ForeignKey("participants.id"), nullable=False, index=True),
    Column("second", String(40), ForeignKey("participants.id"), nullable=False, index=True),
    Column("arbiter", String(40), nullable=False),
    Column("document", Text, nullable=False),
    Column("course", Text, nullable=False),
    Column("stage", String(20), nullable=False, index=True),
    Column("closed", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
)

exchange_acts = Table(
    "exchange_acts",
    metadata,
    Column("exchange", String(71), ForeignKey("exchanges.digest"), nullable=False),
    Column("place", Integer, nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("signed", Text, nullable=False),
    PrimaryKeyConstraint("exchange", "place"),
)
