"""The first schema: settings, the exchange, jobs and ledgers, the log. Frozen: a later schema is a later revision."""

from __future__ import annotations

from alembic import op
from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    ForeignKey,
    Integer,
    LargeBinary,
    PrimaryKeyConstraint,
    String,
    Text,
    UniqueConstraint,
)

revision = "0001"
down_revision = None

TABLES = (
    "settings",
    "participants",
    "admission_codes",
    "uploads",
    "datasets",
    "versions",
    "offers",
    "agreements",
    "agreement_parties",
    "ledgers",
    "jobs",
    "key_requests",
    "releases",
    "log_state",
    "entries",
    "openings",
    "tree_nodes",
    "checkpoints",
)
"""In the order in which they are made: what a foreign key names comes first."""


def upgrade() -> None:
    """Make all tables."""
    _make_exchange()
    _make_jobs()
    _make_log()


def downgrade() -> None:
    """Drop all tables."""
    for table in reversed(TABLES):
        op.drop_table(table)


def _make_exchange() -> None:
    op.create_table(
        "settings",
        Column("name", String(40), primary_key=True),
        Column("value", Text, nullable=False),
    )
    op.create_table(
        "participants",
        Column("id", String(40), primary_key=True),
        Column("title", Text, nullable=False),
        Column("signing_key", String(64), nullable=False, unique=True),
        Column("sealing_key", String(64), nullable=False, unique=True),
        Column("credential_digest", String(71), nullable=False, unique=True),
        Column("admitted_at", BigInteger, nullable=False),
    )
    op.create_table(
        "admission_codes",
        Column("code_digest", String(71), primary_key=True),
        Column("participant", String(40), nullable=False),
        Column("expires_at", BigInteger, nullable=False),
        Column("used_at", BigInteger),
    )
    op.create_table(
        "uploads",
        Column("digest", String(71), nullable=False),
        Column("participant", String(40), ForeignKey("participants.id"), nullable=False),
        Column("size", BigInteger, nullable=False),
        PrimaryKeyConstraint("digest", "participant"),
    )
    op.create_table(
        "datasets",
        Column("dataset", String(81), primary_key=True),
        Column("provider", String(40), ForeignKey("participants.id"), nullable=False),
        Column("signed", Text, nullable=False),
    )
    _make_terms()


def _make_terms() -> None:
    op.create_table(
        "versions",
        Column("dataset", String(81), ForeignKey("datasets.dataset"), nullable=False),
        Column("version", Integer, nullable=False),
        Column("file_digest", String(71), nullable=False),
        Column("size", BigInteger, nullable=False),
        Column("signed", Text, nullable=False),
        PrimaryKeyConstraint("dataset", "version"),
    )
    op.create_table(
        "offers",
        Column("digest", String(71), primary_key=True),
        Column("provider", String(40), ForeignKey("participants.id"), nullable=False),
        Column("signed", Text, nullable=False),
    )
    op.create_table(
        "agreements",
        Column("digest", String(71), primary_key=True),
        Column("state", String(20), nullable=False),
        Column("proposed_by", String(40), ForeignKey("participants.id"), nullable=False),
        Column("document", Text, nullable=False),
    )
    op.create_table(
        "agreement_parties",
        Column("agreement", String(71), ForeignKey("agreements.digest"), nullable=False),
        Column("participant", String(40), nullable=False, index=True),
        Column("signed", Text),
        PrimaryKeyConstraint("agreement", "participant"),
    )


def _make_jobs() -> None:
    op.create_table(
        "ledgers",
        Column("provider", String(40), nullable=False),
        Column("id_space", String(60), nullable=False),
        Column("amount", BigInteger, nullable=False),
        Column("delta0", BigInteger, nullable=False),
        PrimaryKeyConstraint("provider", "id_space"),
    )
    op.create_table(
        "jobs",
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
        Column("evidence", Text),
        Column("positions", Text, nullable=False),
        Column("code", String(40), nullable=False),
        Column("worker", String(80), nullable=False),
        Column("lease_until", Float, nullable=False),
        Column("created_at", BigInteger, nullable=False, index=True),
        UniqueConstraint("consumer", "request_id"),
    )
    op.create_table(
        "key_requests",
        Column("job", String(60), ForeignKey("jobs.id"), nullable=False),
        Column("provider", String(40), ForeignKey("participants.id"), nullable=False, index=True),
        Column("state", String(20), nullable=False),
        Column("nonce", String(64), nullable=False),
        Column("sealed", Text, nullable=False),
        Column("reason", String(60), nullable=False),
        PrimaryKeyConstraint("job", "provider"),
    )
    op.create_table(
        "releases",
        Column("job", String(60), ForeignKey("jobs.id"), primary_key=True),
        Column("statement", Text, nullable=False),
        Column("sealed", LargeBinary, nullable=False),
    )


def _make_log() -> None:
    op.create_table(
        "log_state",
        Column("id", Integer, primary_key=True),
        Column("size", BigInteger, nullable=False),
    )
    op.create_table(
        "entries",
        Column("position", BigInteger, primary_key=True, autoincrement=False),
        Column("data", LargeBinary, nullable=False),
    )
    op.create_table(
        "openings",
        Column("position", BigInteger, ForeignKey("entries.position"), primary_key=True, autoincrement=False),
        Column("agreement", String(71), index=True),
        Column("salt", String(64), nullable=False),
        Column("body", Text, nullable=False),
    )
    op.create_table(
        "tree_nodes",
        Column("level", Integer, nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("hash", LargeBinary, nullable=False),
        PrimaryKeyConstraint("level", "position"),
    )
    op.create_table(
        "checkpoints",
        Column("size", BigInteger, primary_key=True, autoincrement=False),
        Column("note", Text, nullable=False),
    )
