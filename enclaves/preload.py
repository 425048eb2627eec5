"""Everything native that a run needs is loaded before the enclave denies itself new executable memory and reads its input.

Libraries load parts of themselves at first use. So each is used once, on nothing of anybody's. Whoever gives enclaves another library uses
it here; otherwise runs that need it end as `internal`.
"""

from __future__ import annotations

import io
import os

import pyarrow as pa

from enclaves.bounded import first_cells
from enclaves.kit.columns import FOOTER, KEY_BYTES, StoredColumns, decrypt_columns, encrypt_table
from enclaves.kit.expressions import Fragment
from enclaves.kit.sealing import SealingKey, seal
from enclaves.kit.signatures import SigningKey
from enclaves.kit.tables import open_database, rows
from enclaves.lines import listed_text, numbered
from enclaves.pairs import Lines, pairs_of


def preload() -> None:
    """Load what every run uses. Keys made here are dropped. Raises whatever a broken library raises."""
    key = SealingKey.generate()
    key.open(seal(key.public, b"", b""), b"")
    SigningKey.generate().sign("enclave-evidence", b"")
    table = pa.table({"c": pa.array([1, None], pa.int64()), "t": pa.array(["a", None])})
    keys = {name: os.urandom(KEY_BYTES) for name in (FOOTER, *table.column_names)}
    file = io.BytesIO()
    encrypt_table(table, file, dataset="preload", version=0, keys=keys)
    read = decrypt_columns(memoryview(file.getvalue()), dataset="preload", version=0, keys=keys, columns=table.column_names)
    stored = StoredColumns(file.getvalue(), dataset="preload", version=0, keys=keys, columns=table.column_names)
    _arrays(next(stored.parts(10)))
    with open_database(memory_mib=64, threads=2) as connection:
        connection.register("t", read)
        rows(connection, Fragment(sql="SELECT t, count(DISTINCT c), sum(c) FROM t GROUP BY t ORDER BY hash(t)"))


def _arrays(part: pa.Table) -> None:
    """What adds rows up without a database."""
    codes = numbered(part.column("t"))
    pairs = pairs_of(Lines(units=codes.values, keys=(codes,), amounts={"": codes.values}))
    first_cells(pairs, (codes,), 1)
    listed_text(part.column("t"), ("a", None))
