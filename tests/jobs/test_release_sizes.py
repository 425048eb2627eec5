"""A job whose every release would be withheld for its size is refused before it is decided and charged."""

from __future__ import annotations

from dataclasses import replace

import pytest

from policies.errors import Malformed
from sandbox.jobs.submit import _require_releasable
from tests.support import terms

SUMS = ", ".join(f"SUM(medical_spend + {n}) AS spend_{n}" for n in range(20))
SQL = f"SELECT coinsurance, {SUMS} FROM insurer.plans GROUP BY coinsurance"


@pytest.mark.parametrize(("minimum_group", "allowed", "refused"), [(1, 4160, True), (20, 4160, False), (20, 4159, True)])
def test_the_bound_of_the_providers_counts(minimum_group: int, allowed: int, refused: bool) -> None:
    """With a minimum group, a release of suppressed cells could still leave; padded and sealed, none is smaller than 4160 bytes."""
    bounded = replace(terms.terms_insurer(minimum_group=minimum_group), output_bytes=allowed)
    agreement = terms.agreement(terms=(bounded, terms.terms_clinic(minimum_group=minimum_group)))
    plan = terms.plan(SQL, agreement)
    if not refused:
        _require_releasable(agreement, plan)
        return
    with pytest.raises(Malformed) as caught:
        _require_releasable(agreement, plan)
    assert caught.value.code == "release-too-large"
    assert str(allowed) in str(caught.value)


def test_what_the_law_refuses_is_left_to_the_law() -> None:
    """A plan that no schedule answers gets the decision's own finding."""
    agreement = terms.agreement()
    plan = terms.plan("SELECT COUNT(*) AS n FROM insurer.plans", agreement)
    _require_releasable(agreement, plan)
