"""Keys that were replaced or revoked, what a restore could not bring back, and epochs of the log."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, LargeBinary, PrimaryKeyConstraint, String, Text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add `rotations`, `revocations`, `lost_uploads`, `lost_jobs`, tables of epochs and when a participant was revoked."""
    op.add_column("participants", Column("revoked_at", BigInteger))
    op.create_table(
        "rotations",
        Column("old_key", String(64), primary_key=True),
        Column("old_sealing_key", String(64), nullable=False, unique=True),
        Column("participant", String(40), ForeignKey("participants.id"), nullable=False),
        Column("sequence", Integer, nullable=False),
        Column("signed", Text, nullable=False),
    )
    op.create_table(
        "revocations",
        Column("signing_key", String(64), primary_key=True),
        Column("sealing_key", String(64), nullable=False, unique=True),
        Column("participant", String(40), ForeignKey("participants.id"), nullable=False),
    )
    op.create_table("lost_uploads", Column("digest", String(71), primary_key=True))
    op.create_table("lost_jobs", Column("id", String(60), primary_key=True))
    op.create_table(
        "log_links",
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("link", Text, nullable=False),
    )
    op.create_table(
        "epochs",
        Column("number", Integer, primary_key=True, autoincrement=False),
        Column("document", Text, nullable=False),
        Column("complete", Integer, nullable=False),
    )
    op.create_table(
        "epoch_signatures",
        Column("number", Integer, ForeignKey("epochs.number"), nullable=False),
        Column("participant", String(40), ForeignKey("participants.id"), nullable=False),
        Column("signature", String(128), nullable=False),
        Column("key", String(64), nullable=False),
        PrimaryKeyConstraint("number", "participant"),
    )
    op.create_table(
        "former_entries",
        Column("epoch", Integer, ForeignKey("epochs.number"), nullable=False),
        Column("position", BigInteger, nullable=False),
        Column("data", LargeBinary, nullable=False),
        Column("salt", String(64)),
        Column("body", Text),
        PrimaryKeyConstraint("epoch", "position"),
    )
    op.create_table(
        "former_receipts",
        Column("job", String(60), ForeignKey("jobs.id"), primary_key=True),
        Column("receipt", Text, nullable=False),
    )
    op.execute("UPDATE settings SET value = '3' WHERE name = 'schema'")


def downgrade() -> None:
    """Forget which keys were replaced or revoked, what was lost, and former logs."""
    op.execute("UPDATE settings SET value = '2' WHERE name = 'schema'")
    for table in ("former_receipts", "former_entries", "epoch_signatures", "epochs", "log_links", "lost_jobs"):
        op.drop_table(table)
    op.drop_table("lost_uploads")
    op.drop_table("revocations")
    op.drop_table("rotations")
    op.execute("ALTER TABLE participants DROP COLUMN revoked_at")
