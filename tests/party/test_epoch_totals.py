"""An epoch may open a ledger with more than its provider saw charged, never with less: in amount, in delta0, or in another measure."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from policies.entries import LedgerCharge
from policies.privacy import Loss
from sandbox.party.epochs import held_against

LEDGER = ("insurer", "study-person")
AMOUNTS = st.integers(0, 1000)
LOSSES = st.builds(Loss, measure=st.sampled_from(("pure", "zcdp")), amount=AMOUNTS, delta0=AMOUNTS)


def opened(loss: Loss) -> LedgerCharge:
    """An epoch's opening of the ledger with that loss."""
    return LedgerCharge(provider=LEDGER[0], id_space=LEDGER[1], measure=loss.measure, amount=loss.amount, delta0=loss.delta0)


@given(seen=st.lists(LOSSES, max_size=3), opens=LOSSES)
def test_a_ledger_is_short_exactly_if_a_followed_log_charged_more_or_in_another_measure(seen: list[Loss], opens: Loss) -> None:
    paid = [loss for loss in seen if loss.amount or loss.delta0]
    enough = all(loss.measure == opens.measure and loss.amount <= opens.amount and loss.delta0 <= opens.delta0 for loss in paid)
    assert held_against(LEDGER, seen, opened(opens)).short is not enough


@given(loss=LOSSES.filter(lambda loss: loss.amount > 0 and loss.delta0 > 0))
def test_one_unit_less_or_the_same_number_in_another_measure_is_short(loss: Loss) -> None:
    other = "pure" if loss.measure == "zcdp" else "zcdp"
    assert not held_against(LEDGER, [loss], opened(loss)).short
    for less in (replace(loss, amount=loss.amount - 1), replace(loss, delta0=loss.delta0 - 1), replace(loss, measure=other)):
        assert held_against(LEDGER, [loss], opened(less)).short
    assert held_against(LEDGER, [loss], None).short
