"""A provider's own file: Parquet, Arrow or CSV by content, numbers exact, and an error that says where."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaves.kit.sources import read_table, write_table
from policies.declaration import Column, Declaration
from policies.errors import Malformed

VISITS = Declaration(
    dataset="clinic.visits",
    title="Visits",
    unit="person",
    id_space="people",
    rows_per_unit=3,
    unique_key=("person", "year"),
    columns=(
        Column(name="person", type="text"),
        Column(name="year", type="integer"),
        Column(name="cost", type="decimal", decimals=2, lower="0", upper="100", nullable=True),
    ),
)
ROWS = {
    "person": ["ann", "ann", "bob, the elder", 'c"d', ""],
    "year": [1, 2, 1, 1, -9223372036854775808],
    "cost": [Decimal("0.10"), None, Decimal("90071992547409.91"), Decimal("-3.00"), Decimal("0.00")],
}


def csv_file(folder: Path, text: str | bytes) -> Path:
    path = folder / "visits.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet", "arrow", "feather"])
def test_each_format_gives_back_exactly_what_was_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"visits.{suffix}"
    write_table(path, ROWS, VISITS)
    assert read_table(path, VISITS).to_pydict() == ROWS


@pytest.mark.parametrize("suffix", ["csv", "parquet", "arrow"])
def test_the_content_decides_and_not_the_name(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"visits.{suffix}"
    write_table(path, ROWS, VISITS)
    assert read_table(path.rename(tmp_path / "visits.dat"), VISITS).to_pydict() == ROWS


def test_pandas_categories_in_an_arrow_file_are_text(tmp_path: Path) -> None:
    table = pa.table({"person": pa.array(["a", "b", "a"]).dictionary_encode(), "year": [1, 1, 2], "cost": [1.5, 2.0, None]})
    feather.write_feather(table, str(tmp_path / "visits"))
    assert read_table(tmp_path / "visits", VISITS).column("person").to_pylist() == ["a", "b", "a"]


def test_a_csv_cell_is_null_only_if_it_has_no_characters_and_no_quotes(tmp_path: Path) -> None:
    path = csv_file(tmp_path, '\ufeffperson,year,cost\r\n"",1,\r\n" x",2,7\r\n')
    assert read_table(path, VISITS).to_pylist() == [
        {"person": "", "year": 1, "cost": None},
        {"person": " x", "year": 2, "cost": Decimal("7.00")},
    ]


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), max_size=8), st.integers(-(2**53), 2**53)), max_size=12
    )
)
def test_any_text_and_any_amount_survive_csv(tmp_path_factory: pytest.TempPathFactory, cells: list[tuple[str, int]]) -> None:
    rows = {
        "person": [text for text, _ in cells],
        "year": list(range(len(cells))),
        "cost": [Decimal(amount).scaleb(-2) for _, amount in cells],
    }
    path = tmp_path_factory.mktemp("csv") / "visits.csv"
    write_table(path, rows, VISITS)
    assert read_table(path, VISITS).to_pydict() == rows


@pytest.mark.parametrize(
    ("text", "code", "place"),
    [
        ("person,year,cost\na,1,1\nb,one,1\n", "column-type", "line 3"),
        ('person,year,cost\n"a\nb",1,1\nb,1,1.005\n', "column-type", "line 4"),
        ("person,year,cost\na,1,1e3\n", "column-type", "line 2"),
        ("person,year,cost\na,9223372036854775808,1\n", "column-type", "line 2"),
        ("person,year,cost\na,1,NaN\n", "column-type", "line 2"),
        ("person,year,cost\n\na,1,1\n\na,1\n", "unreadable", "line 5"),
        ('person,year,cost\na,1,1\n"b,1,1\nc,1,1\n', "unreadable", "line 3"),
        (b"person,year,cost\na,1,1\n\xff,1,1\n", "unreadable", "line 3"),
        ("person;year;cost\na;1;1\n", "unreadable", "line 1"),
        ("person,year,cost\na,1,1\n,1,1\n", "unit-missing", "line 3"),
        ("person,year,cost\na,1,1\nb,1,1\na,1,2\n", "key-not-unique", "line 4"),
    ],
)
def test_an_error_in_a_csv_file_names_the_line(tmp_path: Path, text: str | bytes, code: str, place: str) -> None:
    with pytest.raises(Malformed) as caught:
        read_table(csv_file(tmp_path, text), VISITS)
    assert caught.value.code == code
    assert f"visits.csv, {place}" in caught.value.message


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"PARE1234",
        b"PAR1junk",
        b"ARROW1\x00\x00junk",
        b"\x1f\x8b\x08\x00",
        b"PK\x03\x04....",
        "person".encode("utf-16"),
        b"a\x00b,c\n",
    ],
)
def test_what_is_no_table_is_refused_as_unreadable(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(Malformed) as caught:
        read_table(csv_file(tmp_path, data), VISITS)
    assert caught.value.code == "unreadable"


@pytest.mark.parametrize("suffix", ["csv", "parquet", "arrow"])
def test_a_file_beyond_the_memory_is_refused_before_it_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"visits.{suffix}"
    write_table(path, ROWS, VISITS)
    with pytest.raises(Malformed) as caught:
        read_table(path, VISITS, memory=64)
    assert caught.value.code == "too-large"
    assert "memory" in caught.value.message


@pytest.mark.parametrize(
    ("header", "found"), [("person,year,price", "no column `cost`"), ("person,year,cost,cost", "more than one column `cost`")]
)
def test_a_missing_or_repeated_column_is_named(tmp_path: Path, header: str, found: str) -> None:
    width = header.count(",") + 1
    with pytest.raises(Malformed, match=found):
        read_table(csv_file(tmp_path, header + "\n" + ",".join(["1"] * width) + "\n"), VISITS)


def test_a_column_with_another_name_in_the_file_is_found_by_its_source(tmp_path: Path) -> None:
    pq.write_table(pa.table({"Person ID": ["a"], "year": [1], "cost": [1.0], "unused": [None]}), tmp_path / "f")
    assert read_table(tmp_path / "f", VISITS, {"person": "Person ID"}).column_names == ["person", "year", "cost"]


def bomb(path: Path, kind: str) -> Path:
    """A Parquet file of a few KB whose rows take a hundred times as much."""
    rows = 1_000_000
    tables = {
        "run-length": pa.table({"person": pa.array(["a"]).take(pa.array([0] * rows)), "year": pa.array([7] * rows), "cost": [None] * rows}),
        "long-text": pa.table({"person": pa.array(["x" * 100_000]).take(pa.array([0] * 300)), "year": [1] * 300, "cost": [None] * 300}),
        "zeros": pa.table({"person": pa.array(["x"] * rows), "year": [1] * rows, "cost": [None] * rows}),
    }
    table = tables[kind].set_column(2, "cost", pa.nulls(tables[kind].num_rows, pa.float64()))
    pq.write_table(table, path, compression="zstd", use_dictionary=kind != "zeros")
    return path


@pytest.mark.parametrize("kind", ["run-length", "long-text", "zeros"])
def test_a_file_whose_rows_do_not_fit_is_refused_before_they_take_the_room(tmp_path: Path, kind: str) -> None:
    path = bomb(tmp_path / "bomb.parquet", kind)
    assert path.stat().st_size < 500_000
    before = pa.total_allocated_bytes()
    with pytest.raises(Malformed) as caught:
        read_table(path, VISITS, memory=8 << 20)
    assert caught.value.code == "too-large"
    assert pa.total_allocated_bytes() - before < 8 << 20


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("region", ["head", "first-quarter", "middle", "third-quarter", "footer", "tail"])
def test_a_damaged_file_is_unreadable_or_another_table_and_never_ends_the_process(tmp_path: Path, suffix: str, region: str) -> None:
    path = tmp_path / f"visits.{suffix}"
    write_table(path, {name: values * 50 for name, values in ROWS.items()}, VISITS)
    whole = path.read_bytes()
    at = {"head": 0, "first-quarter": len(whole) // 4, "middle": len(whole) // 2, "third-quarter": 3 * len(whole) // 4}.get(region)
    at = at if at is not None else len(whole) - (40 if region == "footer" else 8)
    codes = set()
    for damage in (b"\x00" * 8, b"\xff" * 8, b""):
        path.write_bytes(whole[:at] + damage + whole[at + 8 :] if damage else whole[:at])
        try:
            read_table(path, VISITS)
        except Malformed as error:
            codes.add(error.code)
    assert codes <= {"unreadable", "too-large", "unknown-column", "column-type", "unit-missing", "key-not-unique"}
