"""Exchanges of two legs: the document, how far it got, and what participants signed about it."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, ForeignKey, Integer, PrimaryKeyConstraint, String, Text

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Older code would hand out releases that are in escrow: it must not write to this database."""
    op.create_table(
        "exchanges",
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
    op.create_table(
        "exchange_acts",
        Column("exchange", String(71), ForeignKey("exchanges.digest"), nullable=False),
        Column("place", Integer, nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("signed", Text, nullable=False),
        PrimaryKeyConstraint("exchange", "place"),
    )
    op.execute("UPDATE settings SET value = '10' WHERE name = 'schema'")


def downgrade() -> None:
    """Forget them; what is in escrow could be handed out by older code."""
    op.execute("UPDATE settings SET value = '9' WHERE name = 'schema'")
    op.drop_table("exchange_acts")
    op.drop_table("exchanges")
