"""Tables larger than an enclave's memory: parts of the units, one after another, add up to what one pass gives, within the memory."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaves import parts
from enclaves.aggregate import Exact, aggregate
from enclaves.kit.appraisal import evidence_digest
from enclaves.kit.arrays import places_of_part
from enclaves.kit.columns import StoredColumns
from enclaves.kit.measure import checkout_root, measurement
from enclaves.kit.tables import OutOfMemory, open_database, rows_of_units
from enclaves.parts import aggregate_files, in_parts, merged
from enclaves.run import run
from policies.errors import Tampered
from policies.odrl import agreement_document
from sandbox.jobs.isolation import default_isolation
from sandbox.jobs.launch import EnclaveProcess
from tests.support import terms
from tests.support.runs import Bench, bench, replace_grant

QUERIES = [
    terms.JOIN_SQL,
    "SELECT COUNT(*) AS n FROM insurer.plans",
    "SELECT coinsurance, COUNT(*) AS n, SUM(medical_spend) AS s, AVG(medical_spend) AS a FROM insurer.plans GROUP BY coinsurance",
]


def opened(laid: Bench) -> dict[str, StoredColumns]:
    """The files of a bench with the keys of the columns that its grant reads."""
    return {
        read.dataset: StoredColumns(
            laid.files[read.dataset], dataset=read.dataset, version=read.version, keys=laid.keys[read.dataset], columns=read.columns
        )
        for read in laid.grant.reads
    }


def whole(laid: Bench) -> Exact:
    """One pass over everything."""
    tables = {dataset: file.table() for dataset, file in opened(laid).items()}
    return aggregate(laid.grant, laid.agreement.by_dataset, tables, memory_mib=512)


@pytest.mark.parametrize("sql", QUERIES)
def test_parts_add_up_to_one_pass(sql: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "ROWS", 31)
    laid = bench(sql=sql)
    assert in_parts(laid.grant, laid.agreement.by_dataset, opened(laid), 3, memory_mib=256) == whole(laid)


def test_every_row_of_a_unit_is_in_one_part_and_rows_without_a_unit_in_none() -> None:
    laid = bench()
    declaration = laid.agreement.by_dataset["insurer.plans"]
    file = opened(laid)["insurer.plans"]
    found = [parts._part(file, declaration, part, 5).column("person_id").to_pylist() for part in range(5)]
    assert sorted(person for part in found for person in part) == sorted(file.table().column("person_id").to_pylist())
    assert not any(set(a) & set(b) for i, a in enumerate(found) for b in found[:i])


@pytest.mark.parametrize("kind", [pa.int32(), pa.float64(), pa.string()])
def test_a_unit_is_in_the_same_part_of_every_table_however_it_is_stored(kind: pa.DataType) -> None:
    """Rows of one person in two tables that fell into different parts would never meet in a join."""
    laid = bench()
    declaration = laid.agreement.by_dataset["insurer.plans"]
    people = [1, 2, 3, 70_000, 2**31 - 1, *range(1000, 1200)]
    plain = pa.table({"person_id": pa.array(people, pa.int64())})
    other = pa.table({"person_id": pa.array([*people, None], pa.int64()).cast(kind)})
    with open_database(memory_mib=64, threads=1) as connection:
        for part in range(7):
            first, second = (rows_of_units(connection, table, declaration, part, 7) for table in (plain, other))
            assert second.column("person_id").cast(pa.int64()).to_pylist() == first.column("person_id").to_pylist()


@pytest.mark.parametrize("step", [1, 2, 1000, 2**20, -3])
@pytest.mark.parametrize("parts_", [1, 2, 41, 256])
def test_parts_are_of_about_one_size_whatever_the_units_are_called(step: int, parts_: int) -> None:
    units = np.arange(100_000, dtype=np.int64) * step
    found = [places_of_part(units, part, parts_) for part in range(parts_)]
    assert np.array_equal(np.sort(np.concatenate(found)), np.arange(len(units))), "each in one"
    assert max(map(len, found)) < 1.3 * len(units) / parts_


@settings(max_examples=50)
@given(st.lists(st.dictionaries(st.integers(0, 5), st.integers(-(2**62), 2**62), max_size=4), min_size=1, max_size=4))
def test_merging_adds_key_by_key(found: list[dict[int, int]]) -> None:
    exacts = [Exact(keys=tuple((key,) for key in sorted(part)), vectors={"n": tuple(part[key] for key in sorted(part))}) for part in found]
    total = merged(exacts)
    keys = sorted({key for part in found for key in part})
    assert total.keys == tuple((key,) for key in keys)
    assert total.vectors["n"] == tuple(max(-(2**62), min(2**62, sum(part.get(key, 0) for part in found))) for key in keys)


def test_a_table_too_large_for_its_share_is_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    laid = bench()
    counts: list[int] = []
    real = parts.in_parts

    def counted(grant: object, declarations: object, files: object, count: int, *, memory_mib: int) -> Exact:
        counts.append(count)
        return real(grant, declarations, files, count, memory_mib=memory_mib)  # type: ignore[arg-type]

    monkeypatch.setattr(parts, "in_parts", counted)
    assert aggregate_files(laid.grant, laid.agreement.by_dataset, opened(laid), memory_mib=512) == whole(laid)
    assert counts == []
    monkeypatch.setattr(parts, "SHARE", 1 << 18)  # 2 KiB of 512 MiB
    assert aggregate_files(laid.grant, laid.agreement.by_dataset, opened(laid), memory_mib=512) == whole(laid)
    assert counts[0] > 1
    monkeypatch.setattr(parts, "MAX_PARTS", 1)
    with pytest.raises(OutOfMemory):
        aggregate_files(laid.grant, laid.agreement.by_dataset, opened(laid), memory_mib=512)
    statement, sealed = run(laid.grant, laid.agreement, laid.identity, laid.inputs(), memory_mib=512)
    assert (statement.statement.withheld, sealed) == ("internal", None)


def test_what_a_damaged_file_would_take_is_not_told() -> None:
    laid = bench()
    (read,) = [read for read in laid.grant.reads if read.dataset == "insurer.plans"]
    keys = laid.keys["insurer.plans"]
    wrong = StoredColumns(laid.files["insurer.plans"], dataset="insurer.plans", version=2, keys=keys, columns=read.columns)
    with pytest.raises(Tampered):
        wrong.decoded_bytes()
    file = opened(laid)["insurer.plans"]
    assert 0.9 < file.decoded_bytes() / file.table().nbytes < 1.1


def large(rows: int) -> pa.Table:
    """`insurer.plans` of so many rows, two per person."""
    index = np.arange(rows, dtype=np.int64)
    return pa.table(
        {
            "person_id": index // 2,
            "year": index % 2 + 1,
            "coinsurance": np.array([0, 25, 50, 95, 100])[index // 2 % 5],
            "female": index // 2 % 2,
            "medical_spend": (index * 7919 % 700).astype(np.float64),
        }
    )


@pytest.mark.skipif(not os.environ.get("SANDBOX_FULL"), reason="set SANDBOX_FULL=1: it takes minutes")
def test_a_table_larger_than_all_memory_of_its_enclave_is_aggregated_within_it(tmp_path: Path) -> None:
    """512 MiB for everything, and 34 million rows of 16 bytes. The kernel counts."""
    isolation = replace(default_isolation(), memory_mib=512)
    if "memory" not in isolation.layers:
        pytest.skip("this process may make no memory control group: run as root, or delegate one")
    tables = {"insurer.plans": large(34_000_000), "clinic.care": bench().tables["clinic.care"]}
    laid = replace_grant(bench(tables, sql=QUERIES[1]), measurement=measurement(checkout_root()))
    assert opened(laid)["insurer.plans"].decoded_bytes() > isolation.memory_mib << 20
    path = tmp_path / "plans"
    path.write_bytes(laid.files["insurer.plans"])
    with EnclaveProcess(isolation) as enclave:
        evidence = enclave.start(laid.grant, agreement_document(laid.agreement), list(laid.nonces), 60)
        keys = laid.sealed_keys(evidence=evidence_digest(evidence), to=bytes.fromhex(evidence.evidence.sealing_key))
        statement, _ = enclave.run({name: value.hex() for name, value in keys.items()}, {"insurer.plans": path}, 900)
        assert enclave._group is not None
        assert not enclave._group.ran_out_of_memory()
    assert statement.statement.withheld is None
