"""When each worker was last seen, idle or not: a lease tells it only of a worker that runs a job."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, String

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add `workers`; code that knows only the first schema refuses the database from here on."""
    op.create_table("workers", Column("name", String(80), primary_key=True), Column("seen_at", BigInteger, nullable=False))
    op.execute("UPDATE settings SET value = '2' WHERE name = 'schema'")


def downgrade() -> None:
    """Forget the workers."""
    op.execute("UPDATE settings SET value = '1' WHERE name = 'schema'")
    op.drop_table("workers")
