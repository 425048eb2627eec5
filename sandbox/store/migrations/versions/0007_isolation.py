"""The layers of isolation that each worker gives its enclaves."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Text

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Workers so far have said nothing, which counts as no layer."""
    op.add_column("workers", Column("isolation", Text, nullable=False, server_default=""))
    op.execute("UPDATE settings SET value = '7' WHERE name = 'schema'")


def downgrade() -> None:
    """Forget them; agreements that require layers are unknown to older code anyway."""
    op.execute("UPDATE settings SET value = '6' WHERE name = 'schema'")
    with op.batch_alter_table("workers") as table:
        table.drop_column("isolation")
