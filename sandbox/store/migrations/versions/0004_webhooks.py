"""Webhooks of participants, and the outbox of notices to them."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, String, Text

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Add `webhooks` and `notices`; older code refuses the database from here on."""
    op.create_table(
        "webhooks",
        Column("participant", String(40), ForeignKey("participants.id"), primary_key=True),
        Column("url", Text, nullable=False),
        Column("failures", Integer, nullable=False),
    )
    op.create_table(
        "notices",
        Column("id", String(60), primary_key=True),
        Column("participant", String(40), ForeignKey("participants.id"), nullable=False),
        Column("kind", String(20), nullable=False),
        Column("subject", String(71), nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("state", String(20), nullable=False),
        Column("attempts", Integer, nullable=False),
        Column("next_at", BigInteger, nullable=False),
    )
    op.create_index("ix_notices_participant", "notices", ["participant"])
    op.create_index("ix_notices_due", "notices", ["state", "next_at"])
    op.execute("UPDATE settings SET value = '4' WHERE name = 'schema'")


def downgrade() -> None:
    """Forget webhooks and notices."""
    op.execute("UPDATE settings SET value = '3' WHERE name = 'schema'")
    op.drop_table("notices")
    op.drop_table("webhooks")
