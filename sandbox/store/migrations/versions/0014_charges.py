"""When ledgers were charged, for bounds that are renewed; of charges of before, read from the entries of the log."""

from __future__ import annotations

import json

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String, column, insert, select, table

revision = "0014"
down_revision = "0013"

_BATCH = 1000


def upgrade() -> None:
    """Older code would not note when it charges a ledger: a bound that is renewed would forget those charges."""
    charges = op.create_table(
        "charges",
        Column("number", Integer, primary_key=True),
        Column("provider", String(40), nullable=False),
        Column("id_space", String(60), nullable=False),
        Column("consumer", String(40), nullable=False),
        Column("at", BigInteger, nullable=False),
        Column("amount", BigInteger, nullable=False),
        Column("delta0", BigInteger, nullable=False),
    )
    op.create_index("ix_charges_recent", "charges", ["provider", "id_space", "at"])
    op.execute("UPDATE settings SET value = '14' WHERE name = 'schema'")
    connection = op.get_bind()
    entries = table("entries", column("position", BigInteger), column("data", LargeBinary))
    end = -1
    while True:
        rows = connection.execute(select(entries).where(entries.c.position > end).order_by(entries.c.position).limit(_BATCH)).all()
        if not rows:
            return
        end = rows[-1].position
        found = [values for row in rows for values in dated(bytes(row.data))]
        if found:
            connection.execute(insert(charges), found)


def dated(data: bytes) -> list[dict[str, object]]:
    """Return the rows of the charges that an entry of a log makes."""
    if b'"kind":"charged"' not in data and b'"kind":"epoch_opened"' not in data:
        return []
    header = json.loads(data)
    named = {"consumer": header["ids"].get("consumer", ""), "at": header["at"]}
    return [{name: loss[name] for name in ("provider", "id_space", "amount", "delta0")} | named for loss in header["losses"]]


def downgrade() -> None:
    """Forget when ledgers were charged."""
    op.execute("UPDATE settings SET value = '13' WHERE name = 'schema'")
    op.drop_table("charges")
