"""A run releases exactly what its grant entails, or says one word of the closed set and nothing else."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, get_args

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import enclaves.gate
import enclaves.run
from enclaves.evidence import attest_simulated
from enclaves.kit.appraisal import Attested, key_release_info, release_info, verify_statement
from enclaves.kit.columns import FOOTER
from enclaves.kit.sealing import ENCAPSULATED_BYTES, TAG_BYTES, SealingKey, seal
from enclaves.kit.tables import OutOfMemory
from enclaves.run import Inputs, run
from policies.canonical import canonical, digest_bytes, parse_json
from policies.codec import decode
from policies.errors import Tampered
from policies.grant import Grant, grant_digest
from policies.granted import MAX_RELEASE, PADDING, Recipient, WithheldCode
from policies.query import Join, Table
from policies.schedule import Measured, Statistic
from policies.statement import Nonce, Release, SignedStatement
from tests.support import terms
from tests.support.runs import Bench, bench, care, encrypted, plans, replace_identity

OVERHEAD = ENCAPSULATED_BYTES + TAG_BYTES
COUNT_SQL = terms.COUNT_SQL


@pytest.fixture(scope="module")
def honest() -> Bench:
    return bench()


def ended(laid: Bench, inputs: Inputs | None = None, grant: Grant | None = None, **changes: Any) -> tuple[SignedStatement, bytes | None]:
    """Run, and hold what every run owes: a signed statement about this grant, sealed or withheld, never both."""
    grant = grant or laid.grant
    statement, sealed = run(
        grant, changes.get("agreement", laid.agreement), laid.identity, inputs or laid.inputs(), memory_mib=changes.get("memory_mib", 256)
    )
    attested = Attested(evidence=laid.identity.evidence.evidence, digest=laid.identity.digest)
    verify_statement(statement, attested, grant)
    assert statement.statement.sealed == (None if sealed is None else digest_bytes(sealed))
    return statement, sealed


def code(laid: Bench, inputs: Inputs | None = None, grant: Grant | None = None, **changes: Any) -> str | None:
    """The word with which a run withheld, or None if it released."""
    statement, sealed = ended(laid, inputs, grant, **changes)
    assert (statement.statement.withheld is None) == (sealed is not None)
    assert statement.statement.withheld in (None, *get_args(WithheldCode))
    return statement.statement.withheld


def opened(laid: Bench, sealed: bytes | None) -> Release:
    """The release as its recipient reads it."""
    assert sealed is not None
    plain = laid.consumer.open(sealed, release_info(grant_digest(laid.grant)))
    length = int.from_bytes(plain[:4], "big")
    assert not any(plain[4 + length :])
    return decode(Release, parse_json(plain[4 : 4 + length]))


def test_an_honest_run_releases_to_its_recipient_alone(honest: Bench) -> None:
    statement, sealed = ended(honest)
    release = opened(honest, sealed)
    assert statement.statement.withheld is None
    assert release.statistics == honest.grant.statistics
    assert [cell.keys for cell in release.cells] == [(0,), (25,), (50,), (95,), (100,)]
    assert all([figure.name for figure in cell.figures] == ["years", "visits", "spend"] for cell in release.cells)


# A grant that the agreement does not entail


def _first_statistic(grant: Grant, **changes: Any) -> Grant:
    return replace(grant, statistics=(replace(grant.statistics[0], **changes), *grant.statistics[1:]))


def _joined_on_less(grant: Grant) -> Grant:
    join = grant.plan.source
    assert isinstance(join, Join)
    return replace(grant, plan=replace(grant.plan, source=replace(join, on=join.on[1:])))


FORGERIES: dict[str, Callable[[Grant], Grant]] = {
    "another agreement": lambda g: replace(g, agreement="sha256:" + "1" * 64),
    "less noise": lambda g: _first_statistic(g, scale=g.statistics[0].scale // 2),
    "a smaller sensitivity": lambda g: _first_statistic(g, sensitivity=1, scale=g.statistics[0].scale // 5),
    "a statistic less": lambda g: replace(g, statistics=g.statistics[1:]),
    "a statistic more": lambda g: replace(
        g, statistics=(*g.statistics, replace(g.statistics[0], name="more", measured=Measured(quantity="units")))
    ),
    "more loss than charged": lambda g: replace(g, loss=replace(g.loss, amount=g.loss.amount * 2)),
    "a smaller minimum group": lambda g: replace(g, minimum_group=g.minimum_group - 1),
    "another recipient's key": lambda g: replace(g, recipient=replace(g.recipient, sealing_key=SealingKey.generate().public.hex())),
    "another recipient": lambda g: replace(g, recipient=Recipient(id="auditor", sealing_key=g.recipient.sealing_key)),
    "a recipient who is no party": lambda g: replace(g, recipient=Recipient(id="stranger", sealing_key=g.recipient.sealing_key)),
    "a column more": lambda g: replace(g, reads=(replace(g.reads[0], columns=("admissions", *g.reads[0].columns)), *g.reads[1:])),
    "a column less": lambda g: replace(g, reads=(replace(g.reads[0], columns=g.reads[0].columns[1:]), *g.reads[1:])),
    "another provider": lambda g: replace(g, reads=(replace(g.reads[0], provider="clinic"), *g.reads[1:])),
    "a read less": lambda g: replace(g, reads=g.reads[:1]),
    "reads exchanged": lambda g: replace(g, reads=g.reads[::-1]),
    "a dataset that nobody offers": lambda g: replace(g, plan=replace(g.plan, source=Table(alias="t", dataset="clinic.other"))),
    "a join on half the key": _joined_on_less,
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_grant_that_the_agreement_does_not_entail_is_withheld(forgery: str) -> None:
    laid = bench(minimum_group=10)
    grant = FORGERIES[forgery](laid.grant)
    laid.identity = attest_simulated(grant, laid.nonces, terms.MEASUREMENT)
    assert code(laid, laid.inputs(sealed_keys=laid.sealed_keys(grant=laid.grant)), grant) == "grant-mismatch"


def test_terms_changed_after_signing_are_another_agreement(honest: Bench) -> None:
    wider = replace(honest.agreement, title="The same in other words")
    assert code(honest, agreement=wider) == "grant-mismatch"


# Keys that are not for this run

Sealed = Callable[[Bench], Mapping[str, bytes]]


def _bound_to_another_grant(laid: Bench) -> Mapping[str, bytes]:
    return laid.sealed_keys(grant=replace(laid.grant, job="job-2"))


def _to_another_enclave(laid: Bench) -> Mapping[str, bytes]:
    other = attest_simulated(laid.grant, laid.nonces, terms.MEASUREMENT)
    return replace_identity(laid, other).sealed_keys()


def _sealed_without(laid: Bench, name: str) -> Mapping[str, bytes]:
    return _sealed(laid, "insurer", {"insurer.plans": {k: v for k, v in laid.keys["insurer.plans"].items() if k != name}})


def _sealed(laid: Bench, provider: str, keys: Mapping[str, Mapping[str, bytes]]) -> dict[str, bytes]:
    """Honest keys, but those of one provider sealed over `keys`."""
    body = {dataset: {name: key.hex() for name, key in of.items()} for dataset, of in keys.items()}
    nonce = next(nonce.value for nonce in laid.nonces if nonce.provider == provider)
    info = key_release_info(nonce, grant_digest(laid.grant), laid.identity.digest)
    return {**laid.sealed_keys(), provider: seal(laid.identity.sealing.public, canonical(body), info)}


KEYS: dict[str, Sealed] = {
    "for another nonce": lambda b: b.sealed_keys(nonces={n.provider: "0" * 64 for n in b.nonces}),
    "for the other provider's nonce": lambda b: b.sealed_keys(nonces={"insurer": b.nonces[0].value, "clinic": b.nonces[1].value}),
    "for another grant": _bound_to_another_grant,
    "for other evidence": lambda b: b.sealed_keys(evidence="sha256:" + "2" * 64),
    "to another enclave": _to_another_enclave,
    "from one provider only": lambda b: {"insurer": b.sealed_keys()["insurer"]},
    "from nobody": lambda b: {},
    "under exchanged names": lambda b: dict(zip(("insurer", "clinic"), (b.sealed_keys()[n] for n in ("clinic", "insurer")), strict=True)),
    "cut short": lambda b: {name: sealed[:-1] for name, sealed in b.sealed_keys().items()},
    "empty": lambda b: dict.fromkeys(b.sealed_keys(), b""),
    "random": lambda b: dict.fromkeys(b.sealed_keys(), os.urandom(300)),
    "without a granted column": lambda b: _sealed_without(b, "medical_spend"),
    "without the footer": lambda b: _sealed_without(b, FOOTER),
    "without the dataset": lambda b: _sealed(b, "insurer", {}),
}


@pytest.mark.parametrize("kind", KEYS)
def test_keys_that_are_not_for_this_run_open_nothing(honest: Bench, kind: str) -> None:
    assert code(honest, honest.inputs(sealed_keys=KEYS[kind](honest))) == "keys-missing"


def test_keys_that_are_not_those_of_the_file_read_nothing(honest: Bench) -> None:
    wrong = {name: os.urandom(32) for name in honest.keys["insurer.plans"]}
    assert code(honest, honest.inputs(sealed_keys=_sealed(honest, "insurer", {"insurer.plans": wrong}))) == "input-unreadable"
    short = {name: key[:16] for name, key in honest.keys["insurer.plans"].items()}
    assert code(honest, honest.inputs(sealed_keys=_sealed(honest, "insurer", {"insurer.plans": short}))) == "input-unreadable"


@pytest.mark.parametrize("meddler", ["insurer", "clinic"])
def test_a_provider_cannot_replace_another_providers_keys(honest: Bench, meddler: str) -> None:
    wrong = {dataset: {name: os.urandom(32) for name in keys} for dataset, keys in honest.keys.items()}
    own = next(dataset for dataset in honest.keys if dataset.startswith(meddler))
    assert code(honest, honest.inputs(sealed_keys=_sealed(honest, meddler, {**wrong, own: honest.keys[own]}))) is None


# Files that are not the granted ones


def _other_file(laid: Bench) -> bytes:
    """A valid file of the same dataset, version and keys with other rows."""
    return encrypted(plans(41), "insurer.plans", keys=laid.keys["insurer.plans"])[0]


FILES: dict[str, Callable[[Bench], dict[str, bytes]]] = {
    "swapped": lambda b: dict(zip(b.files, reversed(b.files.values()), strict=True)),
    "missing": lambda b: {"insurer.plans": b.files["insurer.plans"]},
    "cut short": lambda b: {name: data[:-1] for name, data in b.files.items()},
    "grown": lambda b: {name: data + b"\0" for name, data in b.files.items()},
    "empty": lambda b: dict.fromkeys(b.files, b""),
    "one byte changed": lambda b: {name: data[:500] + bytes([data[500] ^ 1]) + data[501:] for name, data in b.files.items()},
    "another valid file": lambda b: {**b.files, "insurer.plans": _other_file(b)},
}


@pytest.mark.parametrize("kind", FILES)
def test_files_that_are_not_the_granted_ones_are_not_read(honest: Bench, kind: str) -> None:
    assert code(honest, honest.inputs(files=FILES[kind](honest))) == "input-tampered"


def _regranted(laid: Bench, data: bytes, **read: Any) -> tuple[Bench, Grant]:
    """A grant that names this file for `insurer.plans`, with a fresh enclave for it."""
    reads = tuple(replace(r, file_digest=digest_bytes(data), **read) if r.dataset == "insurer.plans" else r for r in laid.grant.reads)
    grant = replace(laid.grant, reads=reads)
    return replace_identity(laid, attest_simulated(grant, laid.nonces, terms.MEASUREMENT)), grant


@pytest.mark.parametrize(
    ("dataset", "version", "own_keys"), [("insurer.plans", 2, True), ("clinic.care", 1, True), ("insurer.plans", 1, False)]
)
def test_a_granted_file_of_another_version_dataset_or_key_is_unreadable(honest: Bench, dataset: str, version: int, own_keys: bool) -> None:
    data, _ = encrypted(plans(40), dataset, version=version, keys=honest.keys["insurer.plans"] if own_keys else None)
    laid, grant = _regranted(honest, data)
    inputs = laid.inputs(files={**honest.files, "insurer.plans": data}, sealed_keys=laid.sealed_keys(grant=grant))
    assert code(laid, inputs, grant) == "input-unreadable"


def test_a_granted_file_without_a_granted_column_is_unreadable(honest: Bench) -> None:
    data, keys = encrypted(plans(40).drop_columns(["medical_spend"]), "insurer.plans")
    laid, grant = _regranted(honest, data)
    laid.keys = {**honest.keys, "insurer.plans": {**keys, "medical_spend": os.urandom(32)}}
    inputs = laid.inputs(files={**honest.files, "insurer.plans": data}, sealed_keys=laid.sealed_keys(grant=grant))
    assert code(laid, inputs, grant) == "input-unreadable"


# Whatever comes in, only a closed code goes out

JUNK = st.dictionaries(st.sampled_from(["insurer", "clinic", "insurer.plans", "clinic.care", ""]), st.binary(max_size=400))


@given(sealed=JUNK, files=JUNK)
@settings(max_examples=40, deadline=None)
def test_no_input_makes_a_run_raise(honest: Bench, sealed: dict[str, bytes], files: dict[str, bytes]) -> None:
    assert code(honest, Inputs(sealed_keys={**honest.sealed_keys(), **sealed}, files={**honest.files, **files})) in (
        None, "keys-missing", "input-tampered", "input-unreadable"
    )  # fmt: skip


LEAVES = st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5)
BODIES = st.recursive(LEAVES, lambda s: st.lists(s, max_size=3) | st.dictionaries(st.text(max_size=5), s, max_size=3), max_leaves=6)


@given(body=BODIES)
@settings(max_examples=40, deadline=None)
def test_no_sealed_body_makes_a_run_raise(honest: Bench, body: Any) -> None:
    nonce = next(nonce.value for nonce in honest.nonces if nonce.provider == "insurer")
    info = key_release_info(nonce, grant_digest(honest.grant), honest.identity.digest)
    sealed = {**honest.sealed_keys(), "insurer": seal(honest.identity.sealing.public, canonical(body), info)}
    assert code(honest, honest.inputs(sealed_keys=sealed)) == "keys-missing"


def test_what_fails_inside_is_told_by_a_closed_word_only(honest: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for raised in (ValueError("row 17 says 'secret'"), MemoryError("secret"), OutOfMemory("secret"), Tampered("secret")):

        def fail(*_: Any, raised: Exception = raised, **__: Any) -> None:
            raise raised

        monkeypatch.setattr(enclaves.run, "aggregate_files", fail)
        statement, sealed = ended(honest)
        assert (statement.statement.withheld, sealed) == ("internal", None)
        assert "secret" not in repr(statement)


def test_a_database_out_of_memory_is_told_like_every_other_error() -> None:
    rows = 400_000
    table = pa.table(
        {
            "person_id": pa.array(range(rows), pa.int64()),
            "year": pa.array([1] * rows, pa.int64()),
            "coinsurance": pa.array([0] * rows, pa.int64()),
            "female": pa.array([1] * rows, pa.int64()),
            "medical_spend": pa.array([1.0] * rows, pa.float64()),
        }
    )
    sql = "SELECT AVG(s.n) AS years FROM (SELECT person_id, COUNT(*) AS n FROM insurer.plans GROUP BY person_id) AS s"
    laid = bench({"insurer.plans": table, "clinic.care": care(1)}, sql=sql)
    assert code(laid, memory_mib=8) == "internal"


def test_a_release_too_large_to_hand_out_is_withheld(honest: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enclaves.run, "pad", lambda release: bytes(MAX_RELEASE))
    assert code(honest) == "output-limit"


def test_a_nonce_of_a_provider_that_sent_none_is_no_nonce(honest: Bench) -> None:
    laid = replace_identity(honest, attest_simulated(honest.grant, (Nonce(provider="insurer", value="3" * 64),), terms.MEASUREMENT))
    assert code(laid, laid.inputs(sealed_keys=laid.sealed_keys(nonces={"insurer": "3" * 64, "clinic": "4" * 64}))) == "keys-missing"


# Size and suppression


@pytest.mark.parametrize("people", [0, 1, 40, 3_000])
@pytest.mark.parametrize("minimum_group", [1, 1_000_000])
def test_the_sealed_size_is_the_same_whatever_the_data_are(people: int, minimum_group: int) -> None:
    laid = bench({"insurer.plans": plans(people), "clinic.care": care(people)}, minimum_group=minimum_group)
    _, sealed = ended(laid)
    assert sealed is not None
    assert len(sealed) == PADDING + OVERHEAD
    assert all(cell.suppressed == (minimum_group > 1) for cell in opened(laid, sealed).cells)


def test_a_release_of_many_cells_has_one_of_few_sizes() -> None:
    sql = "SELECT year, coinsurance, COUNT(*) AS n, AVG(medical_spend) AS a FROM insurer.plans GROUP BY year, coinsurance"
    sizes = []
    for people in (0, 40):
        _, sealed = ended(bench({"insurer.plans": plans(people), "clinic.care": care(1)}, sql=sql))
        assert sealed is not None
        sizes.append(len(sealed) - OVERHEAD)
    assert [size % PADDING for size in sizes] == [0, 0]
    assert max(sizes) - min(sizes) <= PADDING


@pytest.mark.parametrize(("people", "noised_units", "suppressed"), [(400, 9, True), (0, 10, False), (400, 10, False), (0, -50, True)])
def test_a_cell_is_suppressed_on_its_noised_units_whatever_the_exact_ones_are(
    people: int, noised_units: int, suppressed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def noise(values: tuple[int, ...], statistic: Statistic) -> list[int]:
        return [noised_units if statistic.measured.quantity == "units" else 77] * len(values)

    monkeypatch.setattr(enclaves.gate, "add_noise", noise)
    laid = bench({"insurer.plans": plans(people), "clinic.care": care(people)}, minimum_group=10)
    for cell in opened(laid, ended(laid)[1]).cells:
        assert cell.suppressed == suppressed
        assert bool(cell.figures) != suppressed


def test_without_a_minimum_group_nothing_is_suppressed_and_no_units_are_counted() -> None:
    laid = bench({"insurer.plans": plans(0), "clinic.care": care(0)})
    assert "units" not in {statistic.measured.quantity for statistic in laid.grant.statistics}
    assert not any(cell.suppressed for cell in opened(laid, ended(laid)[1]).cells)
