"""Cosignatures of witnesses on checkpoints of the log."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, PrimaryKeyConstraint, String, Text

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Older code would begin a new log and keep cosignatures on the checkpoints of the one before."""
    op.create_table(
        "cosignatures",
        Column("size", BigInteger, nullable=False, autoincrement=False),
        Column("witness", String(71), nullable=False),
        Column("line", Text, nullable=False),
        PrimaryKeyConstraint("size", "witness"),
    )
    op.execute("UPDATE settings SET value = '15' WHERE name = 'schema'")


def downgrade() -> None:
    """Forget them; witnesses give them again."""
    op.execute("UPDATE settings SET value = '14' WHERE name = 'schema'")
    op.drop_table("cosignatures")
