"""Tightenings, approvals and duties done under agreements."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, ForeignKey, Integer, PrimaryKeyConstraint, String, Text

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """No agreement has any of them so far."""
    op.create_table(
        "acts",
        Column("agreement", String(71), ForeignKey("agreements.digest"), nullable=False),
        Column("kind", String(20), nullable=False),
        Column("subject", String(81), nullable=False),
        Column("participant", String(40), nullable=False),
        Column("number", Integer, nullable=False),
        Column("place", Integer, nullable=False),
        Column("signed", Text, nullable=False),
        PrimaryKeyConstraint("agreement", "kind", "subject", "participant", "number"),
    )
    op.execute("UPDATE settings SET value = '6' WHERE name = 'schema'")


def downgrade() -> None:
    """Forget them. Older code would not obey tightenings, so nobody should go back with any."""
    op.execute("UPDATE settings SET value = '5' WHERE name = 'schema'")
    op.drop_table("acts")
