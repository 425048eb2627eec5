"""The gate keeps to what the agreement says of the size of a release and of the smallest group, inside the enclave."""

from __future__ import annotations

from dataclasses import replace

from enclaves.run import most_bytes, run
from policies.odrl import agreement_digest
from policies.schedule import schedule
from tests.support.runs import bench, replace_grant


def test_a_release_above_the_agreed_bytes_is_withheld() -> None:
    laid = bench()
    tight = tuple(replace(item, output_bytes=4096) for item in laid.agreement.terms)
    agreement = replace(laid.agreement, terms=tight)
    assert most_bytes(laid.grant, agreement) == 4096
    other = replace_grant(laid, agreement=agreement_digest(agreement))
    statement, sealed = run(other.grant, agreement, other.identity, other.inputs(), memory_mib=256)
    assert (statement.statement.withheld, sealed) == ("output-limit", None)


def test_a_raised_minimum_group_is_kept_to_and_a_lowered_one_is_refused() -> None:
    laid = bench(minimum_group=5)
    for group, withheld in ((9, None), (4, "grant-mismatch")):
        statistics = schedule(laid.grant.plan, laid.agreement.by_dataset, laid.grant.loss, group)
        other = replace_grant(laid, minimum_group=group, statistics=statistics)
        statement, _ = run(other.grant, laid.agreement, other.identity, other.inputs(), memory_mib=256)
        assert statement.statement.withheld == withheld
