"""Joint totals: attempts, what contributors signed, and how they ended."""

from __future__ import annotations

from alembic import op
from sqlalchemy import Column, ForeignKey, Integer, LargeBinary, PrimaryKeyConstraint, String, Text

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Older code knows no pools: it cannot read agreements that have them."""
    op.create_table(
        "joint_runs",
        Column("job", String(60), ForeignKey("jobs.id"), primary_key=True),
        Column("attempt", Integer, nullable=False),
        Column("contributors", Text, nullable=False),
        Column("manifest", Text),
        Column("total", String(71)),
    )
    op.create_table(
        "joint_contributions",
        Column("job", String(60), ForeignKey("jobs.id"), nullable=False),
        Column("attempt", Integer, nullable=False),
        Column("participant", String(40), ForeignKey("participants.id"), nullable=False),
        Column("signed", Text, nullable=False),
        PrimaryKeyConstraint("job", "attempt", "participant"),
    )
    op.create_table(
        "joint_releases",
        Column("job", String(60), ForeignKey("jobs.id"), primary_key=True),
        Column("statement", Text, nullable=False),
        Column("sealed", LargeBinary, nullable=False),
    )
    op.execute("UPDATE settings SET value = '9' WHERE name = 'schema'")


def downgrade() -> None:
    """Forget them; releases of joint totals are lost to their recipients."""
    op.execute("UPDATE settings SET value = '8' WHERE name = 'schema'")
    op.drop_table("joint_releases")
    op.drop_table("joint_contributions")
    op.drop_table("joint_runs")
