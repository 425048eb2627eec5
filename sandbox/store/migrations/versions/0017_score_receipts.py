"""Receipts of encrypted scorings outlive the log in which these ended."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    """No receipt was kept so far."""
    with op.batch_alter_table("scorings") as changed:
        changed.add_column(Column("receipt", Text))
    op.execute("UPDATE settings SET value = '17' WHERE name = 'schema'")


def downgrade() -> None:
    """Older code makes receipts anew, and cannot of a former log."""
    op.execute("UPDATE settings SET value = '16' WHERE name = 'schema'")
    with op.batch_alter_table("scorings") as changed:
        changed.drop_column("receipt")
