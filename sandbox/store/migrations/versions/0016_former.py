"""Which jobs and scorings the counts of an epoch hold: those that were charged or decided in a log before the present one."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, Integer

revision = "0016"
down_revision = "0015"
_TABLES = ("jobs", "scorings")


def upgrade() -> None:
    """An epoch that was opened before says no counts, so all that the tables have counts on. Older code would count it twice."""
    for table in _TABLES:
        with op.batch_alter_table(table) as changed:
            changed.add_column(Column("former", Integer, nullable=False, server_default="0"))
    op.execute("UPDATE settings SET value = '16' WHERE name = 'schema'")


def downgrade() -> None:
    """Older code counts what the tables have."""
    op.execute("UPDATE settings SET value = '15' WHERE name = 'schema'")
    for table in _TABLES:
        with op.batch_alter_table(table) as changed:
            changed.drop_column("former")
