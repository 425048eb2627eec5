"""The measure of a ledger, what each consumer was charged, and which question a job asked."""

from __future__ import annotations

from alembic import op
from sqlalchemy import BigInteger, Column, PrimaryKeyConstraint, String

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Ledgers so far are `pure`; charges so far are for no consumer in particular and count to each; old questions are not repeated."""
    op.add_column("ledgers", Column("measure", String(10), nullable=False, server_default="pure"))
    op.add_column("jobs", Column("question", String(71), nullable=False, server_default=""))
    op.create_index("ix_jobs_question", "jobs", ["question"])
    op.create_table(
        "consumer_charges",
        Column("provider", String(40), nullable=False),
        Column("id_space", String(60), nullable=False),
        Column("consumer", String(40), nullable=False),
        Column("amount", BigInteger, nullable=False),
        Column("delta0", BigInteger, nullable=False),
        PrimaryKeyConstraint("provider", "id_space", "consumer"),
    )
    op.execute("UPDATE settings SET value = '5' WHERE name = 'schema'")


def downgrade() -> None:
    """Forget them; older code would charge ledgers of another measure wrongly, so nobody should go back with such ledgers."""
    op.execute("UPDATE settings SET value = '4' WHERE name = 'schema'")
    op.drop_table("consumer_charges")
    op.drop_index("ix_jobs_question", "jobs")
    with op.batch_alter_table("jobs") as table:
        table.drop_column("question")
    with op.batch_alter_table("ledgers") as table:
        table.drop_column("measure")
