"""Terms that a provider's own broker holds at home: how fresh evidence must be, and tightenings that the service has not heard of."""

from __future__ import annotations

from pathlib import Path

import pytest

from policies.errors import EvidenceRejected
from policies.tightening import SignedTightening
from sandbox.party.acts import next_tightening, tightenings_known
from sandbox.party.broker import NONCE_LIFETIME_S, nonce_lifetime
from sandbox.party.following import Followed
from sandbox.party.home import Home
from sandbox.party.nonces import challenge_for, good_nonces
from tests.support import terms
from tests.support.runs import grant_for


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.create(tmp_path / "insurer", "insurer", "The insurer", "http://host.test")


@pytest.mark.parametrize(("agreed", "most"), [(None, NONCE_LIFETIME_S), (5, 5), (86_400, NONCE_LIFETIME_S)])
def test_keys_are_not_released_to_evidence_older_than_the_terms_say(home: Home, agreed: int | None, most: int) -> None:
    signed = terms.agreement(terms=(terms.terms_insurer(evidence_age=agreed), terms.terms_clinic(evidence_age=1)))
    lifetime = nonce_lifetime(grant_for(terms.plan(terms.COUNT_SQL), signed.by_dataset), signed, "insurer")
    assert lifetime == most
    challenge_for(home, "job-1", 1000.0)
    assert good_nonces(home, "job-1", 1000.0 + most, lifetime)
    with pytest.raises(EvidenceRejected):
        good_nonces(home, "job-1", 1001.0 + most, lifetime)


def test_a_tightening_binds_the_own_broker_before_anybody_has_heard_of_it(home: Home) -> None:
    agreement, name = terms.agreement(), terms.digest_of("agreement")
    first = next_tightening(home, Followed(), name, agreement, "insurer.plans", minimum_group=50)
    second = next_tightening(home, Followed(), name, agreement, "insurer.plans", revoked=True)
    assert (first.tightening.sequence, second.tightening.sequence) == (1, 2)
    found: tuple[SignedTightening, ...] = tightenings_known(home, Followed(), name, agreement)
    assert found == (first, second)
