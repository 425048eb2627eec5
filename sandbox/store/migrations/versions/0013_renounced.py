"""Whether a provider was asked to renounce a grant of which no key was released, or its signature on that."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, String

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    """Of runs that failed before, nobody is asked."""
    op.add_column("key_requests", Column("renounced", String(128), nullable=False, server_default=""))
    op.execute("UPDATE settings SET value = '13' WHERE name = 'schema'")


def downgrade() -> None:
    """Forget who renounced what; the log and the ledgers stay."""
    op.execute("UPDATE settings SET value = '12' WHERE name = 'schema'")
    with op.batch_alter_table("key_requests") as table:
        table.drop_column("renounced")
