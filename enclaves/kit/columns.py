"""Encrypted columns in Parquet files; the one owner of `pyarrow.parquet.encryption`.

The format is Parquet Modular Encryption (Encryption.md of the Parquet format).

Every dataset version has one 32-byte key per column and one for the footer. Inside the file a fresh 256-bit
data key encrypts each column and the footer with ``AES_GCM_V1``; the data keys travel in the file, wrapped by
the version's keys under `key_context`, so a file presented as another dataset, version or column does not
open. Nothing lies outside the file.

Who sees what:

- without keys: the file size and, since each encrypted module carries its length, the compressed size of
  every page;
- with the footer key alone: column names, types, which may hold NULL, row counts, column sizes, and which
  keys are needed; no value and no column statistic (those would be encrypted with the column's key, and are not written at all);
- with a column's key too: that column.

``AES_GCM_CTR_V1`` does not authenticate pages, and pyarrow ends the whole process when column metadata is
asked for without its key. Therefore pyarrow is given only files whose envelope names ``AES_GCM_V1`` and an
encrypted footer, and nothing here touches the metadata of a single column.
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe

from enclaves.kit import sealing
from enclaves.kit.encodings import encodings
from policies.errors import Malformed, Tampered

FOOTER = "_footer"
"""Name of the footer's key. No column can have it: a column's name starts with a letter."""

KEY_BYTES = 32

_COLUMN = re.compile(r"[a-z][a-z0-9_]*")
_ENCRYPTED_MAGIC = b"PARE"
_PLAIN_MAGIC = b"PAR1"
_TAIL_BYTES = 8

_KEY_MATERIAL = (
    rb'\{"keyMaterialType":"PKMT1","internalStorage":true,"isFooterKey":true,'
    rb'"kmsInstanceID":"DEFAULT","kmsInstanceURL":"DEFAULT",'
    rb'"masterKeyID":"_footer","wrappedDEK":"[A-Za-z0-9+/]{80}","doubleWrapping":false\}'
)
_CRYPTO_METADATA = re.compile(rb"\x1c\x1c\x28\x08.{8}\x12\x00\x00\x18\x89\x02" + _KEY_MATERIAL + rb"\x00", re.DOTALL)
"""FileCryptoMetaData (Thrift compact protocol) before the footer: algorithm AES_GCM_V1, 8 bytes of unique
file id, no AAD prefix, 265 bytes of key material with a 60-byte wrapped key. It is the only part of a file
that no key authenticates, so it is held to the one form that `encrypt_table` writes."""

_SMALLEST_FOOTER = 12 + 265 + 1 + 4 + sealing.NONCE_BYTES + sealing.TAG_BYTES
_SMALLEST_FILE = len(_ENCRYPTED_MAGIC) + _SMALLEST_FOOTER + _TAIL_BYTES

_FLAT_TYPES = (
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_decimal,
    pa.types.is_date,
    pa.types.is_time,
    pa.types.is_timestamp,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_fixed_size_binary,
)
"""A nested column has leaves with names of their own, and a leaf without a key would be written in the
clear."""


def encrypt_table(
    table: pa.Table,
    sink: str | os.PathLike[str] | IO[bytes],
    *,
    dataset: str,
    version: int,
    keys: Mapping[str, bytes],
) -> None:
    """Write `table` as an encrypted, compressed Parquet file.

    Schema and field metadata (pandas writes index values there) are dropped; no statistics, page index or
    bloom filter are written.

    Args:
        sink: a local path, or a file open for writing bytes.
        table: at least one column; flat types only; names ``[a-z][a-z0-9_]*``, each once.
        dataset: dataset id that the keys are bound to.
        version: dataset version, 0 or more, that the keys are bound to.
        keys: one 32-byte key for `FOOTER` and for every column, all different and nothing else.

    Raises:
        Malformed: code ``bad-column`` for the table, ``bad-keys`` for the keys, ``bad-dataset`` for dataset
            or version.
        OSError: `sink` could not be written; it may then hold a partial file.
    """
    _check_table(table)
    _check_keys(table.column_names, keys)
    custodian = _Custodian(dataset, version, keys)
    configuration = pe.EncryptionConfiguration(
        footer_key=FOOTER,
        column_keys={name: [name] for name in table.column_names},
        encryption_algorithm="AES_GCM_V1",
        plaintext_footer=False,
        double_wrapping=False,
        internal_key_material=True,
        data_key_length_bits=8 * KEY_BYTES,
        cache_lifetime=timedelta(0),
    )
    try:
        factory = pe.CryptoFactory(lambda _: custodian)
        properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), configuration)
        if isinstance(sink, (str, os.PathLike)):
            # pyarrow would take a path such as "s3://..." for a remote one.
            with pa.OSFile(os.fspath(sink), "wb") as file:
                _write(_without_metadata(table), file, properties)
        else:
            _write(_without_metadata(table), sink, properties)
    finally:
        custodian.forget()


def decrypt_columns(
    file: bytes | memoryview | pa.Buffer,
    *,
    dataset: str,
    version: int,
    keys: Mapping[str, bytes],
    columns: Sequence[str],
) -> pa.Table:
    """Return `columns`, in this order, of the whole encrypted Parquet file held in memory.

    Only the keys of the footer and of `columns` are used; without columns the table has none, but its row
    count. What is not read is not authenticated: that the file is the granted one is for its digest to show.

    Raises:
        Tampered: code ``unreadable-columns`` on any failure: another dataset or version, a wrong or missing
            key, a changed byte, an unknown or repeated column, a column not encrypted with its own key, a
            file that `encrypt_table` did not write.
    """
    table = None
    try:
        table = _read(pa.py_buffer(file), dataset, version, keys, list(columns))
    except Exception:  # noqa: BLE001 - whatever went wrong, the answer is the same
        table = None
    # Raised out here so that no inner error, which may quote file contents, hangs on to this one.
    if table is None:
        raise Tampered("The columns cannot be read from this file with these keys.", code="unreadable-columns")
    return table


class StoredColumns:
    """Columns of an encrypted file held in memory, decrypted as a whole or a part at a time, each as `decrypt_columns` would.

    Parts are decrypted when they are asked for, so that memory need not hold all of them.
    """

    def __init__(
        self, file: bytes | memoryview | pa.Buffer, *, dataset: str, version: int, keys: Mapping[str, bytes], columns: Sequence[str]
    ) -> None:
        self._file, self._dataset, self._version = pa.py_buffer(file), dataset, version
        self._keys, self._columns = keys, tuple(columns)

    def only(self, columns: Sequence[str]) -> StoredColumns:
        """Some of the columns."""
        return StoredColumns(self._file, dataset=self._dataset, version=self._version, keys=self._keys, columns=columns)

    def table(self) -> pa.Table:
        """All of it. Raises Tampered (code ``unreadable-columns``)."""
        return decrypt_columns(self._file, dataset=self._dataset, version=self._version, keys=self._keys, columns=self._columns)

    def decoded_bytes(self) -> int:
        """About what all of it takes in memory, by the footer alone. Raises Tampered (code ``unreadable-columns``)."""
        found = None
        try:
            with _opened(self._file, self._dataset, self._version, self._keys, list(self._columns)) as (parquet, _):
                found = _decoded_bytes(parquet, self._columns)
        except Exception:  # noqa: BLE001 - whatever went wrong, the answer is the same
            found = None
        if found is None:
            raise Tampered("The columns cannot be read from this file with these keys.", code="unreadable-columns")
        return found

    def parts(self, rows: int) -> Iterator[pa.Table]:
        """Parts of at most so many rows, in their order. Raises Tampered (code ``unreadable-columns``), which may be after some parts."""
        found = _parts(self._file, self._dataset, self._version, self._keys, list(self._columns), rows)
        while True:
            part, failed = None, False
            try:
                part = next(found, None)
            except Exception:  # noqa: BLE001 - whatever went wrong, the answer is the same
                failed = True
            if failed:
                raise Tampered("The columns cannot be read from this file with these keys.", code="unreadable-columns")
            if part is None:
                return
            yield part


def inspect_envelope(head: bytes, tail: bytes, size: int) -> None:
    """Check the ends of an upload: both magics of an encrypted footer, and a footer length that fits.

    Nothing is parsed.

    Args:
        head: the first 4 bytes (fewer if the file is shorter).
        tail: the last 8 bytes (fewer if the file is shorter).
        size: the file's size in bytes.

    Raises:
        Malformed: code ``empty-upload``, ``plaintext-upload`` (a Parquet file with a readable footer),
            ``not-parquet`` or ``truncated-upload`` (begins as an encrypted Parquet file but does not end as
            one).
    """
    if size <= 0:
        raise Malformed("The upload is empty.", code="empty-upload")
    if _PLAIN_MAGIC in head or _PLAIN_MAGIC in tail:
        raise Malformed("The upload is not encrypted; encrypt every column and the footer first.", code="plaintext-upload")
    if head != _ENCRYPTED_MAGIC:
        raise Malformed("The upload is not an encrypted Parquet file.", code="not-parquet")
    whole = size >= _SMALLEST_FILE and len(tail) == _TAIL_BYTES and tail.endswith(_ENCRYPTED_MAGIC)
    room = size - len(_ENCRYPTED_MAGIC) - _TAIL_BYTES
    if not whole or not _SMALLEST_FOOTER <= int.from_bytes(tail[:4], "little") <= room:
        raise Malformed("The upload ends before the Parquet file does.", code="truncated-upload")


def key_context(dataset: str, version: int, name: str) -> bytes:
    """Return the bytes that bind a wrapped data key to dataset, version and key name.

    No two triples share them: the dataset's UTF-8 follows its length, and the version has 8 bytes.

    Raises:
        Malformed: code ``bad-dataset`` if `dataset` is empty or not text, or `version` is below 0 or above
            2^64 - 1.
    """
    if not dataset or not 0 <= version < 2**64:
        raise Malformed("A dataset has a name and a version number of 0 or more.", code="bad-dataset")
    try:
        label = dataset.encode("utf-8")
    except UnicodeEncodeError:
        raise Malformed("A dataset's name is text.", code="bad-dataset") from None
    return b"sandbox/v1/column-key\n" + len(label).to_bytes(8, "big") + label + version.to_bytes(8, "big") + name.encode("utf-8")


class _Custodian(pe.KmsClient):  # type: ignore[misc]
    """Wraps and unwraps data keys for one file.

    pyarrow never frees a client, so whoever makes one calls `forget` after use. That drops the references;
    Python offers no way to overwrite the bytes.
    """

    def __init__(self, dataset: str, version: int, keys: Mapping[str, bytes]) -> None:
        super().__init__()
        self._contexts = {name: key_context(dataset, version, name) for name in keys}
        self._keys = dict(keys)
        self._opened: dict[tuple[str, str], bytes] = {}
        self.unwrapped: set[str] = set()

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        context = self._contexts[master_key_identifier]
        return base64.b64encode(sealing.wrap_key(self._keys[master_key_identifier], key_bytes, context))

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        # The reader asks again for every column of every row group.
        known = self._opened.get((wrapped_key, master_key_identifier))
        if known is not None:
            return known
        context = self._contexts[master_key_identifier]
        wrapped = base64.b64decode(wrapped_key, validate=True)
        key = sealing.unwrap_key(self._keys[master_key_identifier], wrapped, context)
        self.unwrapped.add(master_key_identifier)
        self._opened[wrapped_key, master_key_identifier] = key
        return key

    def forget(self) -> None:
        self._keys.clear()
        self._opened.clear()


@contextmanager
def _opened(
    file: pa.Buffer, dataset: str, version: int, keys: Mapping[str, bytes], columns: list[str]
) -> Iterator[tuple[pq.ParquetFile, _Custodian]]:
    _check_envelope(memoryview(file))
    if len(set(columns)) != len(columns) or not all(map(_COLUMN.fullmatch, columns)):
        raise ValueError("a column is named twice, or by no name")
    custodian = _Custodian(dataset, version, {name: keys[name] for name in (FOOTER, *columns)})
    try:
        factory = pe.CryptoFactory(lambda _: custodian)
        configuration = pe.DecryptionConfiguration(cache_lifetime=timedelta(0), read_kms_url=False)
        properties = factory.file_decryption_properties(pe.KmsConnectionConfig(), configuration)
        with pq.ParquetFile(pa.BufferReader(file), decryption_properties=properties, arrow_extensions_enabled=False) as parquet:
            yield parquet, custodian
    finally:
        custodian.forget()


_TEXT_BYTES = 32
"""Least that a text is taken to need: a column of few distinct ones is far smaller in its file."""


def _decoded_bytes(parquet: pq.ParquetFile, columns: Sequence[str]) -> int:
    metadata, schema = parquet.metadata, parquet.schema_arrow
    kinds = [schema.field(name).type for name in columns]
    fixed = sum(_TEXT_BYTES if not _has_width(kind) else -(-kind.bit_width // 8) for kind in kinds)
    encoded = 0 if all(map(_has_width, kinds)) else sum(metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups))
    return max(int(metadata.num_rows) * fixed, int(encoded))


def _has_width(kind: pa.DataType) -> bool:
    try:
        return int(kind.bit_width) > 0
    except ValueError:
        return False


def _require_own_keys(table: pa.Table, custodian: _Custodian, columns: list[str]) -> pa.Table:
    # A column in the clear, or encrypted with the footer's key, reads well without a key of its own.
    if custodian.unwrapped != {FOOTER, *columns} or set(table.column_names) != set(columns):
        raise ValueError("a column was read without a key of its own")
    # Selecting no column would lose the row count.
    table = _without_metadata(table.select(columns) if columns else table)
    if not all(map(_is_flat, table.schema.types)):
        raise ValueError("a column is not flat")
    return table


def _read(file: pa.Buffer, dataset: str, version: int, keys: Mapping[str, bytes], columns: list[str]) -> pa.Table:
    with _opened(file, dataset, version, keys, columns) as (parquet, custodian):
        table = parquet.read(columns=columns)
        return _require_own_keys(table, custodian, columns)


def _parts(file: pa.Buffer, dataset: str, version: int, keys: Mapping[str, bytes], columns: list[str], rows: int) -> Iterator[pa.Table]:
    with _opened(file, dataset, version, keys, columns) as (parquet, custodian):
        known: pa.Schema | None = None
        own: pa.Schema | None = None
        for batch in parquet.iter_batches(rows, columns=columns, use_threads=False):
            if known is None or not columns or not batch.schema.equals(known, check_metadata=True):
                part = _require_own_keys(pa.Table.from_batches([batch]), custodian, columns)
                known, own = batch.schema, part.schema
                yield part
            else:
                # As before: keys that were used stay used, and what the schema says has been looked at.
                yield pa.Table.from_arrays([batch.column(name) for name in columns], schema=own)


def _check_envelope(file: memoryview) -> None:
    inspect_envelope(bytes(file[:4]), bytes(file[-_TAIL_BYTES:]), file.nbytes)
    length = int.from_bytes(file[-_TAIL_BYTES:-4], "little")
    if not _CRYPTO_METADATA.match(file[-_TAIL_BYTES - length : -_TAIL_BYTES]):
        raise Malformed("The file is not encrypted with AES_GCM_V1 in the expected form.", code="not-parquet")


def _write(table: pa.Table, sink: Any, properties: Any) -> None:
    pq.write_table(table, sink, **encodings(table), write_statistics=False, write_page_index=False, encryption_properties=properties)


def _check_table(table: pa.Table) -> None:
    names = table.column_names
    if not names or len(set(names)) != len(names):
        raise Malformed("A table has at least one column, and each name once.", code="bad-column")
    for field, column in zip(table.schema, table.columns, strict=True):
        if not _COLUMN.fullmatch(field.name):
            message = "A column's name is a lower-case letter, then lower-case letters, digits and '_'."
            raise Malformed(message, code="bad-column", where=field.name)
        if column.null_count and not field.nullable:
            raise Malformed("A column declared without nulls has some.", code="bad-column", where=field.name)
        if not _is_flat(field.type):
            message = "A column is boolean, number, decimal, date, time, timestamp, text or bytes."
            raise Malformed(message, code="bad-column", where=field.name)


def _check_keys(names: Sequence[str], keys: Mapping[str, bytes]) -> None:
    if set(keys) != {FOOTER, *names}:
        raise Malformed("There is one key for the footer and one for each column.", code="bad-keys")
    if any(len(key) != KEY_BYTES for key in keys.values()):
        raise Malformed(f"A column key has {KEY_BYTES} bytes.", code="bad-keys")
    if len({bytes(key) for key in keys.values()}) != len(keys):
        raise Malformed("Two names share a key; whoever gets one would have both.", code="bad-keys")


def _is_flat(kind: pa.DataType) -> bool:
    return any(is_kind(kind) for is_kind in _FLAT_TYPES)


def _without_metadata(table: pa.Table) -> pa.Table:
    fields = [pa.field(field.name, field.type, nullable=field.nullable) for field in table.schema]
    return pa.Table.from_arrays(table.columns, schema=pa.schema(fields)) if fields else table
