"""A synthetic twin keeps every promise of its declaration, is made without data, and twins of one id space join."""

from __future__ import annotations

import json
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from enclaves.kit.sources import dropped_and_clamped, read_table, write_table
from policies.declaration import Column, Declaration
from policies.errors import Malformed, PolicyRefused
from policies.odrl import agreement_digest
from policies.privacy import SCALE_UNIT, parse_epsilon
from policies.request import JobRequest
from sandbox.cli import cli, rehearsal
from sandbox.party.kept import kept_agreement
from sandbox.party.twin import make_twin
from tests.support import market, terms
from tests.support.runs import COUNT_SQL, found_town

COLUMNS = st.sampled_from(
    [
        Column(name="value", type="integer", lower="-5", upper="9", nullable=True),
        Column(name="value", type="decimal", decimals=3, lower="-1.5", upper="2.125"),
        Column(name="value", type="decimal"),
        Column(name="value", type="text", domain=("north", "south, east", "")),
        Column(name="value", type="integer", domain=(3, 1, 4)),
        Column(name="value", type="text", nullable=True),
    ]
)
KEYS = st.sampled_from(
    [
        None,
        Column(name="wave", type="integer", domain=(1, 2, 3)),
        Column(name="wave", type="integer", lower="10", upper="13"),
        Column(name="wave", type="text"),
    ]
)


@settings(max_examples=40, deadline=None)
@given(
    value=COLUMNS, wave=KEYS, unit=st.sampled_from(["integer", "text"]), most=st.integers(1, 4), units=st.integers(1, 30), data=st.data()
)
def test_a_twin_keeps_to_its_declaration(
    tmp_path_factory: pytest.TempPathFactory, value: Column, wave: Column | None, unit: str, most: int, units: int, data: st.DataObject
) -> None:
    declared = Declaration(
        dataset="clinic.waves",
        title="Waves",
        unit="person",
        id_space="people",
        rows_per_unit=most,
        unique_key=("person",) if wave is None else ("person", "wave"),
        columns=(Column(name="person", type=unit), *([] if wave is None else [wave]), value),  # type: ignore[arg-type]
    )
    possible = (
        1 if wave is None else min(most, {"domain": 3, "bounds": 4}.get("domain" if wave.domain else "bounds" if wave.lower else "", most))
    )
    rows = data.draw(st.integers(units, units * possible))
    columns = make_twin(declared, rows=rows, seed=5, units=units)
    path = tmp_path_factory.mktemp("twin") / "twin.parquet"
    write_table(path, columns, declared)
    table = read_table(path, declared)  # holds the unique key and the types
    assert table.num_rows == rows
    assert len(set(columns["person"])) == units
    assert not any(dropped_and_clamped(table, declared).values())
    if not value.nullable:
        assert table.column("value").null_count == 0
    if value.domain is not None:
        assert set(columns["value"]) <= set(value.domain)


def test_the_same_seed_gives_the_same_twin_and_another_seed_another() -> None:
    declared = terms.declaration_clinic()
    first, again, other = (make_twin(declared, rows=50, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_twins_of_one_id_space_have_the_same_units_and_keys() -> None:
    plans, care = (make_twin(d, rows=900, seed=3, units=300) for d in (terms.declaration_insurer(), terms.declaration_clinic()))
    keys = [set(zip(twin["person_id"], twin["year"], strict=True)) for twin in (plans, care)]
    assert keys[0] == keys[1]
    fewer = make_twin(terms.declaration_clinic(), rows=400, seed=3, units=300)
    assert len(keys[0] & set(zip(fewer["person_id"], fewer["year"], strict=True))) >= 300


@pytest.mark.parametrize(("rows", "units"), [(10, 11), (51, 10), (1, 0)])
def test_a_table_that_the_declaration_rules_out_is_refused(rows: int, units: int) -> None:
    with pytest.raises(Malformed):
        make_twin(terms.declaration_clinic(), rows=rows, seed=1, units=units)


def test_a_decimal_is_drawn_in_its_own_unit() -> None:
    spend = make_twin(terms.declaration_insurer(), rows=200, seed=1)["medical_spend"]
    assert all(isinstance(cell, Decimal) and cell.as_tuple().exponent == -2 and 0 <= cell <= 2000 for cell in spend)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, made = tmp_path_factory.mktemp("twins"), {}
    for declared in (terms.declaration_insurer(), terms.declaration_clinic()):
        made[declared.dataset] = folder / f"{declared.dataset}.parquet"
        write_table(made[declared.dataset], make_twin(declared, rows=3000, seed=9, units=1000), declared)
    return made


def request(**changes: str) -> JobRequest:
    asked = {"consumer": rehearsal.CONSUMER, "purpose": rehearsal.PURPOSE, "sql": terms.JOIN_SQL, **changes}
    return JobRequest(request_id="r-rehearsal", agreement=rehearsal.NO_AGREEMENT, loss=parse_epsilon("2"), **asked)


def test_a_rehearsal_runs_the_real_enclave_with_the_noise_of_a_real_job(twins: dict[str, Path]) -> None:
    declared = (terms.declaration_insurer(), terms.declaration_clinic())
    release = rehearsal.rehearse(rehearsal.open_terms(declared, parse_epsilon("2"), 20), request(), twins)
    assert [cell.keys[0] for cell in release.cells] == [0, 25, 50, 95, 100]
    # By hand: r = 5 rows, one tenth for the units, equal shares for rows and both sums, which are taken around the middle of their bounds.
    expected = {"units": 5 / 0.2, "rows": 5 / 0.6, "sum:visits": 50 / 0.6, "sum:spend": 5e5 / 0.6}
    assert {s.name: s.scale / SCALE_UNIT for s in release.statistics} == pytest.approx(expected)
    plans, care = (read_table(twins[d.dataset], d) for d in declared)
    women = {
        (p, y): c
        for p, y, c, f in zip(*(plans.column(n).to_pylist() for n in ("person_id", "year", "coinsurance", "female")), strict=True)
        if f
    }
    joined = [women[key] for key in zip(care.column("person_id").to_pylist(), care.column("year").to_pylist(), strict=True) if key in women]
    for cell in release.cells:
        years = next(figure for figure in cell.figures if figure.name == "years")
        assert abs(int(years.value) - joined.count(cell.keys[0])) < 14 * 20


def test_a_rehearsal_under_an_agreement_is_held_to_its_terms(twins: dict[str, Path]) -> None:
    declared = (terms.declaration_insurer(), terms.declaration_clinic())
    agreement = rehearsal.open_terms(declared, parse_epsilon("1"), 1)
    with pytest.raises(PolicyRefused, match="job_loss"):
        rehearsal.rehearse(agreement, request(), twins)
    assert agreement_digest(agreement) != rehearsal.NO_AGREEMENT


def test_a_rehearsal_needs_a_twin_of_every_dataset_it_reads(twins: dict[str, Path]) -> None:
    declared = (terms.declaration_insurer(), terms.declaration_clinic())
    with pytest.raises(Malformed, match=r"clinic\.care"):
        rehearsal.rehearse(rehearsal.open_terms(declared, parse_epsilon("2"), 1), request(), {"insurer.plans": twins["insurer.plans"]})


def test_decimals_of_a_csv_file_reach_the_sum_unrounded(tmp_path: Path) -> None:
    declared = terms.declaration_clinic(
        columns=(
            Column(name="person_id", type="integer"),
            Column(name="year", type="integer"),
            Column(name="cost", type="decimal", decimals=2, lower="0", upper="1"),
        )
    )
    costs = [Decimal("0.07"), Decimal("0.29")] * 4000
    file = tmp_path / "care.csv"
    write_table(file, {"person_id": list(range(8000)), "year": [1] * 8000, "cost": costs}, declared)
    agreement = rehearsal.open_terms((declared,), parse_epsilon("100"), 1)
    asked = replace(request(sql="SELECT SUM(cost) AS cost FROM clinic.care"), loss=parse_epsilon("100"))
    figure = rehearsal.rehearse(agreement, asked, {"clinic.care": file}).cells[0].figures[0]
    # Sensitivity 5 * 100 cents at epsilon 100 is a scale of 5 cents; cut to whole tenths the sum would be 640 or 1600 off.
    assert abs(Decimal(figure.value) - sum(costs)) < Decimal("2.00")


def test_the_command_rehearses_under_the_agreement_that_a_home_signed(tmp_path: Path, twins: dict[str, Path]) -> None:
    town = found_town(tmp_path / "town")
    try:
        home = town.clients["institute"].home
        agreement = kept_agreement(home, town.agreement)
        command = ["job", "dry-run", "--home", str(home.folder), "--agreement", town.agreement, "--sql", COUNT_SQL, "--json"]
        for dataset in ("clinic.care", "insurer.plans"):
            declared = agreement.by_dataset[dataset]
            write_table(tmp_path / f"{dataset}.csv", make_twin(declared, rows=90, seed=2, units=30), declared)
            command += ["--twin", f"{dataset}={tmp_path / dataset}.csv"]
        done = CliRunner().invoke(cli, [*command, "--purpose", market.PURPOSE, "--epsilon", "1"])
        said = json.loads(done.stdout)
        assert said["synthetic"] is True
        assert said["release"]["loss"]["amount"] == 10**9
        assert town.spent() == {}
        for purpose, epsilon in (("gossip", "1"), (market.PURPOSE, "1.5")):
            assert isinstance(CliRunner().invoke(cli, [*command, "--purpose", purpose, "--epsilon", epsilon]).exception, PolicyRefused)
    finally:
        town.close()


def test_a_rehearsal_says_that_it_is_synthetic(twins: dict[str, Path], tmp_path: Path) -> None:
    form = Path(__file__).resolve().parents[2] / "examples" / "rand_hie" / "clinic.declaration.yaml"
    file = tmp_path / "twin.parquet"
    made = CliRunner().invoke(cli, ["party", "twin", "--declaration", str(form), "--rows", "60", "--seed", "4", str(file)])
    assert "60 synthetic rows" in made.stdout
    done = CliRunner().invoke(
        cli,
        [
            "job",
            "dry-run",
            "--declaration",
            str(form),
            "--twin",
            str(file),
            "--epsilon",
            "1",
            "--sql",
            "SELECT COUNT(*) AS n FROM clinic.care",
        ],
    )
    assert done.exit_code == 0
    assert done.stdout.startswith("SYNTHETIC")
    assert done.stdout.splitlines()[-1].startswith("SYNTHETIC")
