"""Inserting what another transaction may be inserting at the same moment."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, Table, insert
from sqlalchemy.exc import IntegrityError


def insert_once(connection: Connection, table: Table, **values: Any) -> None:
    """Insert a row unless one of its key is there; waits for a transaction that is inserting it and then leaves its row alone."""
    try:
        with connection.begin_nested():
            connection.execute(insert(table).values(**values))
    except IntegrityError:
        pass  # whoever was first made the same row
