"""A table of public keys in the process that a real job has: every public value is a cell, whatever the data hold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from policies.declaration import Column, Declaration
from policies.privacy import parse_epsilon
from policies.request import JobRequest
from policies.statement import Release
from sandbox.cli.rehearsal import CONSUMER, NO_AGREEMENT, PURPOSE, open_terms, rehearse

REGIONS = Declaration(
    dataset="office.regions",
    title="Regions",
    unit="",
    id_space="",
    rows_per_unit=1,
    unique_key=("region",),
    public=True,
    columns=(Column(name="region", type="text"), Column(name="area", type="text")),
)
PEOPLE = Declaration(
    dataset="registry.people",
    title="People",
    unit="pid",
    id_space="people",
    rows_per_unit=1,
    unique_key=("pid",),
    columns=(Column(name="pid", type="integer"), Column(name="region", type="text")),
)
SQL = (
    "SELECT r.area, COUNT(*) AS n FROM registry.people AS p JOIN office.regions AS r ON p.region = r.region GROUP BY r.area ORDER BY r.area"
)


def released(folder: Path, homes: list[str], listed: list[str]) -> Release:
    """What the real enclave process draws for people of these regions, and regions that are listed."""
    folder.mkdir()
    paths = {"registry.people": folder / "people.parquet", "office.regions": folder / "regions.parquet"}
    pq.write_table(pa.table({"pid": range(len(homes)), "region": homes}), paths["registry.people"])
    areas = [name[0] for name in listed]
    pq.write_table(pa.table({"region": pa.array(listed), "area": pa.array(areas)}), paths["office.regions"])
    loss = parse_epsilon("20")
    agreement = open_terms((PEOPLE, REGIONS), loss, 1)
    request = JobRequest(request_id="request-public", agreement=NO_AGREEMENT, consumer=CONSUMER, purpose=PURPOSE, sql=SQL, loss=loss)
    return rehearse(agreement, request, paths)


def test_every_value_of_a_public_table_is_a_cell_and_nothing_that_it_lacks(tmp_path: Path) -> None:
    release = released(tmp_path / "one", ["north"] * 300 + ["nether"] * 50 + ["secret place"] * 200, ["north", "nether", "south", "east"])
    cells = {cell.keys[0]: float(cell.figures[0].value) for cell in release.cells}
    assert set(cells) == {"n", "s", "e"}, "a region where nobody lives is a cell, and one that is not public is none"
    assert cells["n"] == pytest.approx(350, abs=10)
    assert abs(cells["s"]) <= 10
    assert release.loss == replace(parse_epsilon("20"), delta0=0), "public keys cost no delta"
