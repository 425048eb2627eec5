"""Encrypted columns: keys are enforced per column, changes are detected, only one encrypted form is read."""

from __future__ import annotations

import base64
import datetime
import decimal
import gc
import io
import itertools
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyarrow.parquet.encryption as pe
import pytest
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enclaves.kit import columns as under_test
from enclaves.kit import sealing
from enclaves.kit.columns import FOOTER, StoredColumns, decrypt_columns, encrypt_table, inspect_envelope, key_context
from policies.errors import Malformed, Tampered

DATASET, VERSION = "shop-sales", 3
TABLE = pa.table(
    {
        "person": pa.array([f"SENTINEL-{n:03d}" for n in range(40)]),
        "amount": pa.array([None if n % 7 == 0 else n * 1001 for n in range(40)], pa.int64()),
        "rate": pa.array([n / 8 for n in range(40)]),
    }
)
KEYS = {name: os.urandom(32) for name in (FOOTER, *TABLE.column_names)}


def encrypted(table: pa.Table = TABLE, keys: dict[str, bytes] = KEYS) -> bytes:
    sink = io.BytesIO()
    encrypt_table(table, sink, dataset=DATASET, version=VERSION, keys=keys)
    return sink.getvalue()


def decrypted(file: Any, columns: list[str], **changed: Any) -> pa.Table:
    return decrypt_columns(file, columns=columns, **({"dataset": DATASET, "version": VERSION, "keys": KEYS} | changed))


def assert_unreadable(file: Any, columns: list[str] = TABLE.column_names, **changed: Any) -> None:
    with pytest.raises(Tampered) as caught:
        decrypted(file, columns, **changed)
    assert caught.value.code == "unreadable-columns"
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    stored = StoredColumns(file, columns=columns, **({"dataset": DATASET, "version": VERSION, "keys": KEYS} | changed))
    with pytest.raises(Tampered) as caught:
        list(stored.parts(7))
    assert (caught.value.code, caught.value.__cause__, caught.value.__context__) == ("unreadable-columns", None, None)


class Provider(pe.KmsClient):  # type: ignore[misc]
    """A provider that holds the right keys and binds them rightly, but may choose another file form."""

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        context = key_context(DATASET, VERSION, master_key_identifier)
        return base64.b64encode(sealing.wrap_key(KEYS[master_key_identifier], key_bytes, context))

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        context = key_context(DATASET, VERSION, master_key_identifier)
        return sealing.unwrap_key(KEYS[master_key_identifier], base64.b64decode(wrapped_key), context)


def otherwise_encrypted(table: pa.Table = TABLE, **changed: Any) -> bytes:
    choices: dict[str, Any] = {
        "footer_key": FOOTER,
        "column_keys": {name: [name] for name in table.column_names},
        "double_wrapping": False,
        "data_key_length_bits": 256,
    } | changed
    factory = pe.CryptoFactory(lambda _: Provider())
    configuration = pe.EncryptionConfiguration(**choices)
    sink = io.BytesIO()
    properties = factory.file_encryption_properties(pe.KmsConnectionConfig(), configuration)
    pq.write_table(table, sink, compression="zstd", encryption_properties=properties)
    return sink.getvalue()


def opened_by_pyarrow(file: bytes) -> pq.ParquetFile:
    """Open with every key: without one, pyarrow ends the process when column metadata is touched."""
    factory = pe.CryptoFactory(lambda _: Provider())
    properties = factory.file_decryption_properties(pe.KmsConnectionConfig())
    return pq.ParquetFile(pa.BufferReader(file), decryption_properties=properties)


def footer_start(file: bytes) -> int:
    return len(file) - 8 - int.from_bytes(file[-8:-4], "little")


def test_what_is_encrypted_decrypts() -> None:
    file = encrypted()
    assert decrypted(file, ["person", "amount", "rate"]).equals(TABLE)
    assert decrypted(memoryview(file), ["rate", "person"]).equals(TABLE.select(["rate", "person"]))
    assert decrypted(pa.py_buffer(file), ["amount"]).equals(TABLE.select(["amount"]))


@pytest.mark.parametrize("rows", [1, 7, 40, 1000])
def test_parts_are_the_whole_in_its_order(rows: int) -> None:
    stored = StoredColumns(encrypted(), dataset=DATASET, version=VERSION, keys=KEYS, columns=["rate", "person"])
    parts = list(stored.parts(rows))
    assert pa.concat_tables(parts).combine_chunks().equals(stored.table())
    assert max(part.num_rows for part in parts) <= rows
    assert stored.table().equals(TABLE.select(["rate", "person"]))


def test_a_path_and_a_file_object_are_written_alike(tmp_path: Path) -> None:
    encrypt_table(TABLE, tmp_path / "offer.parquet", dataset=DATASET, version=VERSION, keys=KEYS)
    assert decrypted((tmp_path / "offer.parquet").read_bytes(), TABLE.column_names).equals(TABLE)
    with pytest.raises(OSError):
        encrypt_table(TABLE, "s3://bucket/offer", dataset=DATASET, version=VERSION, keys=KEYS)


@settings(deadline=None, max_examples=20)
@given(
    whole=st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=20),
    text=st.text(max_size=20),
    names=st.sets(st.from_regex(r"[a-z][a-z0-9_]{0,12}", fullmatch=True), min_size=2, max_size=2),
)
def test_any_flat_table_survives(whole: list[int | None], text: str, names: set[str]) -> None:
    first, second = names
    table = pa.table({first: pa.array(whole, pa.int64()), second: pa.array([text] * len(whole), pa.string())})
    keys = {name: os.urandom(32) for name in (FOOTER, *names)}
    assert decrypted(encrypted(table, keys), [first, second], keys=keys).equals(table)


def test_every_flat_type_survives() -> None:
    table = pa.table(
        {
            "flag": pa.array([True, None]),
            "small": pa.array([-1, None], pa.int8()),
            "count": pa.array([2**64 - 1, 0], pa.uint64()),
            "price": pa.array([decimal.Decimal("1.23"), None], pa.decimal128(12, 2)),
            "day": pa.array([datetime.date(2024, 2, 29), None]),
            "at": pa.array([1, 2], pa.timestamp("ns", "UTC")),
            "hour": pa.array([1, 2], pa.time64("us")),
            "blob": pa.array([b"\0\xff", None], pa.large_binary()),
            "digest": pa.array([b"1234", b"5678"], pa.binary(4)),
        }
    )
    keys = {name: os.urandom(32) for name in (FOOTER, *table.column_names)}
    assert decrypted(encrypted(table, keys), table.column_names, keys=keys).equals(table)


def test_an_empty_table_and_an_empty_choice_keep_their_row_counts() -> None:
    nothing = decrypted(encrypted(TABLE.slice(0, 0)), TABLE.column_names)
    assert (nothing.num_rows, nothing.schema) == (0, TABLE.schema)
    counted = decrypted(encrypted(), [], keys={FOOTER: KEYS[FOOTER]})
    assert (counted.num_rows, counted.num_columns) == (40, 0)


def test_a_column_opens_with_its_own_key_and_the_footers_only() -> None:
    file = encrypted()
    granted = {name: KEYS[name] for name in (FOOTER, "rate")}
    assert decrypted(file, ["rate"], keys=granted).equals(TABLE.select(["rate"]))
    assert_unreadable(file, ["person"], keys=granted)
    assert_unreadable(file, ["rate", "person"], keys=granted)
    assert_unreadable(file, ["rate"], keys={"rate": KEYS["rate"]})


@pytest.mark.parametrize("name", KEYS)
def test_a_wrong_key_is_refused(name: str) -> None:
    file = encrypted()
    assert_unreadable(file, keys=KEYS | {name: os.urandom(32)})
    assert_unreadable(file, keys=KEYS | {name: b"short"})
    assert_unreadable(file, keys=KEYS | {name: KEYS["amount" if name != "amount" else "rate"]})


@pytest.mark.parametrize("columns", [["absent"], ["rate", "rate"], ["Rate"], [FOOTER], ["rate.x"]])
def test_an_unknown_or_repeated_column_is_refused(columns: list[str]) -> None:
    assert_unreadable(encrypted(), columns, keys=KEYS | {"absent": os.urandom(32)})


@pytest.mark.parametrize("changed", [{"version": 4}, {"version": -1}, {"dataset": "shop-sale"}, {"dataset": ""}])
def test_a_file_presented_as_another_dataset_or_version_is_refused(changed: dict[str, Any]) -> None:
    assert_unreadable(encrypted(), **changed)


@given(
    first=st.tuples(st.text(min_size=1, max_size=8), st.integers(0, 300), st.text(max_size=8)),
    second=st.tuples(st.text(min_size=1, max_size=8), st.integers(0, 300), st.text(max_size=8)),
)
@example(first=("d", 1, "\0" * 7 + "\2rate"), second=("d" + "\0" * 7 + "\1", 2, "rate"))
def test_no_two_keys_share_a_context(first: tuple[str, int, str], second: tuple[str, int, str]) -> None:
    assert (key_context(*first) == key_context(*second)) == (first == second)


@pytest.mark.parametrize("part", range(60))
def test_a_flipped_byte_anywhere_is_detected(part: int) -> None:
    file = encrypted()
    position = min(part * len(file) // 59, len(file) - 1)
    changed = bytearray(file)
    changed[position] ^= 1 + part % 255
    assert_unreadable(bytes(changed))


def test_a_flipped_byte_in_the_part_that_no_key_authenticates_is_detected() -> None:
    file = encrypted()
    start = footer_start(file)
    for position in range(start, start + 282):
        changed = bytearray(file)
        changed[position] ^= 0x01
        assert_unreadable(bytes(changed))


def modules(file: bytes) -> list[tuple[int, int]]:
    """(begin, end) of every encrypted module before the footer: each begins with its own length (Encryption.md 5.1)."""
    found, at = [], 4
    while at < footer_start(file):
        end = at + 4 + int.from_bytes(file[at : at + 4], "little")
        found.append((at, end))
        at = end
    return found


def test_pages_moved_within_a_file_or_from_another_of_the_same_keys_are_refused() -> None:
    """Their AAD names file, column and ordinal: even the same keys make no page fit elsewhere."""
    first, second = encrypted(), encrypted()
    places = modules(first)
    assert places[-1][1] == footer_start(first)
    assert [end - begin for begin, end in places] == [end - begin for begin, end in modules(second)]
    for begin, end in places:
        assert_unreadable(first[:begin] + second[begin:end] + first[end:])
    for (begin, end), (other, until) in itertools.combinations(places, 2):
        if end - begin == until - other:
            assert_unreadable(first[:begin] + first[other:until] + first[end:other] + first[begin:end] + first[until:])


class DataKeys(pe.KmsClient):  # type: ignore[misc]
    """A reader that takes the given data keys, whichever the file names, and unwraps and notes those that are not given."""

    def __init__(self, version: int, given: dict[str, bytes]) -> None:
        super().__init__()
        self.version, self.taken = version, dict(given)

    def wrap_key(self, key_bytes: bytes, master_key_identifier: str) -> bytes:
        raise AssertionError("it reads only")

    def unwrap_key(self, wrapped_key: str, master_key_identifier: str) -> bytes:
        context = key_context(DATASET, self.version, master_key_identifier)
        wrapped = base64.b64decode(wrapped_key)
        return self.taken.setdefault(master_key_identifier, sealing.unwrap_key(KEYS[master_key_identifier], wrapped, context))


def read_by_pyarrow(file: bytes, version: int, given: dict[str, bytes]) -> tuple[pa.Table, dict[str, bytes]]:
    """A file of `KEYS` read with given data keys, and all data keys that were used."""
    client = DataKeys(version, given)
    factory = pe.CryptoFactory(lambda _: client)
    table = pq.ParquetFile(pa.BufferReader(file), decryption_properties=factory.file_decryption_properties(pe.KmsConnectionConfig())).read()
    return table, client.taken


def test_no_page_of_one_version_stands_in_for_the_same_page_of_another_under_the_same_data_key() -> None:
    """A provider may use one column key twice, and a data key may leak: what keeps the pages apart then is their AAD alone."""
    sink = io.BytesIO()
    encrypt_table(TABLE, sink, dataset=DATASET, version=VERSION + 1, keys=KEYS)
    first, second = encrypted(), sink.getvalue()
    (read, ours), (_, theirs) = (read_by_pyarrow(file, version, {}) for file, version in ((first, VERSION), (second, VERSION + 1)))
    assert read.equals(TABLE)
    places = modules(first)
    assert [end - begin for begin, end in places] == [end - begin for begin, end in modules(second)]
    each = len(places) // len(TABLE.column_names)
    for number, name in enumerate(TABLE.column_names):
        begin, end = places[number * each][0], places[(number + 1) * each - 1][1]
        moved = first[:begin] + second[begin:end] + first[end:]
        assert_unreadable(moved)
        with pytest.raises(OSError, match="Failed decryption"):
            read_by_pyarrow(moved, VERSION, ours | {name: theirs[name]})


PAGE_MODULES = {"dictionary header": 5, "dictionary": 3, "header": 4, "data": 2}
"""Module types of a column chunk in the order of the file; those of data pages name the page, too (Encryption.md 4.4.2)."""


def test_the_aad_of_each_page_names_its_file_column_and_page() -> None:
    """An independent reader, by the format's specification: id of the file, type, row group, column and page, in little endian."""
    file, other = encrypted(), encrypted()
    _, keys = read_by_pyarrow(file, VERSION, {})
    own, foreign = (data[footer_start(data) + 4 :][:8] for data in (file, other))
    whole = [file[begin + 4 : end] for begin, end in modules(file)]
    assert len(whole) == len(PAGE_MODULES) * len(TABLE.column_names)

    def opens(module: bytes, key: bytes, file_id: bytes, kind: int, column: int, page: int) -> bool:
        places = [0, column, page] if kind in (2, 4) else [0, column]
        aad = file_id + bytes([kind]) + b"".join(place.to_bytes(2, "little") for place in places)
        try:
            return AESGCM(key).decrypt(module[:12], module[12:], aad) is not None
        except InvalidTag:
            return False

    for number, module in enumerate(whole):
        column, place = divmod(number, len(PAGE_MODULES))
        key, kind = keys[TABLE.column_names[column]], list(PAGE_MODULES.values())[place]
        assert opens(module, key, own, kind, column, 0)
        assert not opens(module, key, foreign, kind, column, 0)
        assert not any(opens(module, key, own, kind, elsewhere, 0) for elsewhere in range(3) if elsewhere != column)
        assert not any(opens(module, key, own, another, column, 0) for another in PAGE_MODULES.values() if another != kind)
        assert kind in (3, 5) or not opens(module, key, own, kind, column, 1)


def test_a_footer_of_another_file_of_the_same_keys_is_refused() -> None:
    first, second = encrypted(), encrypted(TABLE.slice(0, 39))
    assert_unreadable(first[: footer_start(first)] + second[footer_start(second) :])
    assert_unreadable(second[: footer_start(second)] + first[footer_start(first) :])


def test_a_truncated_file_is_refused() -> None:
    file = encrypted()
    for length in [*range(0, 16), *range(16, len(file), 97), len(file) - 1]:
        assert_unreadable(file[:length])
        assert_unreadable(file[len(file) - length :])


def test_a_plaintext_file_is_refused() -> None:
    sink = io.BytesIO()
    pq.write_table(TABLE, sink)
    assert_unreadable(sink.getvalue())
    disguised = b"PARE" + sink.getvalue()[4:-4] + b"PARE"
    assert_unreadable(disguised)


def test_a_file_with_a_plaintext_footer_is_refused() -> None:
    file = otherwise_encrypted(plaintext_footer=True)
    assert file[-4:] == b"PAR1"
    assert opened_by_pyarrow(file).read().equals(TABLE)
    assert_unreadable(file)


def test_a_file_with_unauthenticated_pages_is_refused() -> None:
    file = otherwise_encrypted(encryption_algorithm="AES_GCM_CTR_V1")
    assert opened_by_pyarrow(file).read().equals(TABLE)
    assert_unreadable(file)
    start = footer_start(file)
    assert file[start : start + 2] == b"\x1c\x2c"
    assert_unreadable(file[: start + 1] + b"\x1c" + file[start + 2 :])


def test_an_authenticated_file_relabelled_as_unauthenticated_is_refused() -> None:
    file = encrypted()
    start = footer_start(file)
    assert_unreadable(file[: start + 1] + b"\x2c" + file[start + 2 :])


@pytest.mark.parametrize("form", [{"double_wrapping": True}, {"data_key_length_bits": 128}])
def test_other_forms_of_key_material_are_refused(form: dict[str, Any]) -> None:
    file = otherwise_encrypted(**form)
    assert opened_by_pyarrow(file).read().equals(TABLE)
    assert_unreadable(file)


def test_a_column_left_in_the_clear_is_refused() -> None:
    table = TABLE.select(["person", "rate"])
    file = otherwise_encrypted(table, column_keys={"rate": ["rate"]})
    assert opened_by_pyarrow(file).read().equals(table)
    assert decrypted(file, ["rate"]).equals(table.select(["rate"]))
    assert_unreadable(file, ["person"])


def test_a_column_under_another_columns_key_is_refused() -> None:
    table = TABLE.select(["person", "rate"])
    file = otherwise_encrypted(table, column_keys={"rate": ["rate", "person"]})
    assert_unreadable(file, ["person"])
    assert_unreadable(file, ["person", "rate"])


def test_a_file_under_the_footer_key_alone_is_refused() -> None:
    file = otherwise_encrypted(column_keys=None, uniform_encryption=True)
    assert opened_by_pyarrow(file).read().equals(TABLE)
    assert_unreadable(file)


def test_a_nested_column_is_refused_on_reading_too() -> None:
    table = pa.table({"rate": pa.array([[1.0], [2.0]])})
    file = otherwise_encrypted(table, column_keys={"rate": ["rate.list.element"]})
    assert opened_by_pyarrow(file).read().equals(table)
    assert_unreadable(file, ["rate"])


def has_statistics(file: bytes) -> list[bool]:
    # The file stays open meanwhile: column metadata of a closed encrypted file reads freed memory.
    with opened_by_pyarrow(file) as parquet:
        row_group = parquet.metadata.row_group(0)
        chunks = [row_group.column(at) for at in range(row_group.num_columns)]
        return [one.is_stats_set or one.has_column_index or one.has_offset_index for one in chunks]


def test_no_column_statistics_are_written() -> None:
    assert has_statistics(encrypted()) == [False] * 3
    assert has_statistics(otherwise_encrypted()) == [True] * 3


def plain_footer(file: bytes) -> bytes:
    """Decrypt FileMetaData with the footer's key only (module = length, nonce, ciphertext, tag)."""
    envelope = file[footer_start(file) : -8]
    # The eight random bytes may hold a brace.
    unique, start = envelope[4:12], envelope.index(b"{", 12)
    end = envelope.index(b"}\0", start)
    material = json.loads(envelope[start : end + 1])
    wrapped = base64.b64decode(material["wrappedDEK"])
    data_key = sealing.unwrap_key(KEYS[FOOTER], wrapped, key_context(DATASET, VERSION, FOOTER))
    module = envelope[end + 2 :]
    assert int.from_bytes(module[:4], "little") == len(module) - 4
    return AESGCM(data_key).decrypt(module[4:16], module[16:], unique + b"\0")


def test_the_footer_key_shows_names_but_no_value() -> None:
    for file in (encrypted(), otherwise_encrypted()):
        footer = plain_footer(file)
        assert b"person" in footer
        assert b"SENTINEL" not in footer


def test_nothing_readable_is_left_outside_encryption() -> None:
    file = encrypted()
    for word in (b"SENTINEL", b"person", b"amount", b"rate", b"ARROW:schema", DATASET.encode()):
        assert word not in file


def test_pandas_and_field_metadata_are_dropped() -> None:
    noted = pa.field("rate", pa.float64(), metadata={"note": "private"})
    table = pa.table([TABLE["rate"]], schema=pa.schema([noted], metadata={"pandas": '{"index": "private"}'}))
    keys = {name: KEYS[name] for name in (FOOTER, "rate")}
    file = encrypted(table, keys)
    assert b"pandas" not in plain_footer(file)
    with opened_by_pyarrow(encrypted(table, keys)) as parquet:
        assert b"private" not in base64.b64decode(parquet.metadata.metadata[b"ARROW:schema"])
    schema = decrypted(file, ["rate"]).schema
    assert (schema.metadata, schema.field("rate").metadata) == (None, None)


def test_each_file_has_fresh_data_keys() -> None:
    assert encrypted()[4:200] != encrypted()[4:200]


def test_keys_are_not_kept_after_use() -> None:
    file = encrypted()
    decrypted(file, ["rate"])
    assert_unreadable(file, keys=KEYS | {"rate": os.urandom(32)})
    gc.collect()
    kept = [getattr(one, "_keys", {}) for one in gc.get_objects() if type(one) is under_test._Custodian]
    assert not any(kept)
    assert_unreadable(file, ["rate"], keys={FOOTER: KEYS[FOOTER]})


def without(name: str) -> dict[str, bytes]:
    return {other: key for other, key in KEYS.items() if other != name}


@pytest.mark.parametrize(
    "keys",
    [
        {},
        without(FOOTER),
        without("rate"),
        KEYS | {"extra": bytes(32)},
        KEYS | {"rate": bytes(16)},
        KEYS | {"rate": KEYS["person"]},
        KEYS | {"rate": KEYS[FOOTER]},
    ],
)
def test_a_table_needs_one_distinct_key_for_the_footer_and_each_column(keys: dict[str, bytes]) -> None:
    with pytest.raises(Malformed) as caught:
        encrypted(keys=keys)
    assert caught.value.code == "bad-keys"


@pytest.mark.parametrize(
    "table",
    [
        pa.table({}),
        pa.table({"Rate": [1]}),
        pa.table({FOOTER: [1]}),
        pa.table({"a:b;c,d": [1]}),
        pa.table([pa.array([1]), pa.array([2])], names=["rate", "rate"]),
        pa.table({"rate": [{"x": 1}]}),
        pa.table({"rate": [[1]]}),
        pa.table({"rate": pa.array(["x"]).dictionary_encode()}),
        pa.table({"rate": pa.nulls(1)}),
        pa.table([pa.array([None], pa.int8())], schema=pa.schema([pa.field("rate", pa.int8(), nullable=False)])),
    ],
    ids=[
        "empty",
        "upper",
        "reserved",
        "separators",
        "twice",
        "struct",
        "list",
        "dictionary",
        "null",
        "not-null",
    ],
)
def test_a_table_that_could_not_be_kept_column_by_column_is_refused(table: pa.Table) -> None:
    with pytest.raises(Malformed) as caught:
        encrypted(table, {name: os.urandom(32) for name in (FOOTER, *table.column_names)})
    assert caught.value.code == "bad-column"


@pytest.mark.parametrize(("dataset", "version"), [("", 1), ("d", -1), ("d", 2**64), ("\ud800", 1)])
def test_a_dataset_without_name_or_version_is_refused(dataset: str, version: int) -> None:
    with pytest.raises(Malformed) as caught:
        encrypt_table(TABLE, io.BytesIO(), dataset=dataset, version=version, keys=KEYS)
    assert caught.value.code == "bad-dataset"


def envelope_code(file: bytes, size: int | None = None) -> str:
    try:
        inspect_envelope(file[:4], file[-8:], len(file) if size is None else size)
    except Malformed as error:
        return error.code
    return "accepted"


def test_the_host_tells_uploads_apart_by_their_ends() -> None:
    file = encrypted()
    plain = io.BytesIO()
    pq.write_table(TABLE, plain)
    assert envelope_code(file) == "accepted"
    assert envelope_code(b"") == "empty-upload"
    assert envelope_code(plain.getvalue()) == "plaintext-upload"
    assert envelope_code(otherwise_encrypted(plaintext_footer=True)) == "plaintext-upload"
    assert envelope_code(file[:-4] + b"PAR1") == "plaintext-upload"
    assert envelope_code(b"PAR1") == "plaintext-upload"
    assert envelope_code(b"id,amount\n1,2\n") == "not-parquet"
    assert envelope_code(b"P") == "not-parquet"
    assert envelope_code(b"PARE") == "truncated-upload"
    assert envelope_code(file[:-1]) == "truncated-upload"
    assert envelope_code(file[:-8] + (2**32 - 1).to_bytes(4, "little") + b"PARE") == "truncated-upload"
    assert envelope_code(file[:-8] + bytes(4) + b"PARE") == "truncated-upload"
    assert envelope_code(b"PARE" * 3) == "truncated-upload"


@given(head=st.binary(max_size=4), tail=st.binary(max_size=8), size=st.integers(0, 2**40))
def test_an_envelope_without_both_magics_is_never_accepted(head: bytes, tail: bytes, size: int) -> None:
    for ends in ((head, b"\0\2\0\0PARE"), (b"PARE", tail), (head, tail)):
        if ends[0] != b"PARE" or ends[1][4:] != b"PARE":
            with pytest.raises(Malformed) as caught:
                inspect_envelope(*ends, size)
            assert caught.value.code in {
                "empty-upload",
                "plaintext-upload",
                "not-parquet",
                "truncated-upload",
            }


@given(footer=st.integers(0, 2**32 - 1), size=st.integers(0, 2**33))
def test_an_accepted_footer_fits_into_the_file(footer: int, size: int) -> None:
    if footer + 12 > size:
        with pytest.raises(Malformed):
            inspect_envelope(b"PARE", footer.to_bytes(4, "little") + b"PARE", size)
    elif footer > 1000:
        inspect_envelope(b"PARE", footer.to_bytes(4, "little") + b"PARE", size)
