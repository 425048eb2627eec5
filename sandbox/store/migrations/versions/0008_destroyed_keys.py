"""Files whose keys their provider has destroyed."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, PrimaryKeyConstraint, String, Text

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """No key was destroyed before there were statements of it."""
    op.create_table(
        "destroyed_keys",
        Column("digest", String(71), nullable=False),
        Column("signed", Text, nullable=False),
        PrimaryKeyConstraint("digest"),
    )
    op.execute("UPDATE settings SET value = '8' WHERE name = 'schema'")


def downgrade() -> None:
    """Forget them; jobs on these files are accepted again and end without keys."""
    op.execute("UPDATE settings SET value = '7' WHERE name = 'schema'")
    op.drop_table("destroyed_keys")
