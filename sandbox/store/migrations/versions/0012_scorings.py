"""Requests to score encrypted rows, and how they ended."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, String, Text, UniqueConstraint

revision = "0012"
down_revision = "0010"


def upgrade() -> None:
    """Older code knows no scorers: it cannot read agreements that have them."""
    op.create_table(
        "scorings",
        Column("id", String(60), primary_key=True),
        Column("consumer", String(40), ForeignKey("participants.id"), nullable=False, index=True),
        Column("owner", String(40), ForeignKey("participants.id"), nullable=False, index=True),
        Column("request_id", String(64), nullable=False),
        Column("request_digest", String(71), nullable=False),
        Column("agreement", String(71), ForeignKey("agreements.digest"), nullable=False, index=True),
        Column("model", String(81), nullable=False),
        Column("score_rows", BigInteger, nullable=False),
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
    op.execute("UPDATE settings SET value = '12' WHERE name = 'schema'")


def downgrade() -> None:
    """Forget them: rows that were used up count no more, and answers are lost to those who asked."""
    op.execute("UPDATE settings SET value = '10' WHERE name = 'schema'")
    op.drop_table("scorings")
