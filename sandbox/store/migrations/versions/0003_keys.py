"""Keys of participants that were replaced or revoked, and what a restore could not bring back."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, String, Text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Add `rotations`, `revocations`, `lost_uploads`, `lost_jobs` and when a participant was revoked."""
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
    op.execute("UPDATE settings SET value = '3' WHERE name = 'schema'")


def downgrade() -> None:
    """Forget which keys were replaced or revoked and what was lost."""
    op.execute("UPDATE settings SET value = '2' WHERE name = 'schema'")
    op.drop_table("lost_jobs")
    op.drop_table("lost_uploads")
    op.drop_table("revocations")
    op.drop_table("rotations")
    op.execute("ALTER TABLE participants DROP COLUMN revoked_at")
