"""Tightenings: what one provider may change in an agreement alone, at once and for good. Loosening takes a new agreement that all sign.

A tightening suspends or revokes the terms of one dataset, or lowers their bounds. It is public: the header of its log entry holds all of it
and its signature, so that whoever follows the bare log obeys it and nobody can keep it back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from policies.agreement import MAX_TIME, Agreement, Terms
from policies.canonical import canonical, parse_json
from policies.codec import decode, encode, omitted
from policies.errors import Malformed
from policies.names import require_dataset, require_digest
from policies.privacy import Loss

MAX_TIGHTENINGS = 1000
"""Most tightenings of one dataset under one agreement."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Tightening:
    """What a provider signs. Bounds that are given replace those of the terms where they are stricter.

    Attributes:
        sequence: 1 for the first of this dataset under this agreement, then one more each time.
        revoked: nothing is allowed any more.
        suspended_until: nothing is allowed before that time, seconds since 1970.
        minimum_group: at least this; all other bounds: at most this.
    """

    kind: Literal["tightening/1"] = "tightening/1"
    agreement: str
    dataset: str
    sequence: int
    revoked: bool = omitted(False)
    suspended_until: int | None = omitted(None)
    not_after: int | None = omitted(None)
    minimum_group: int | None = omitted(None)
    job_loss: Loss | None = omitted(None)
    total_loss: Loss | None = omitted(None)
    consumer_loss: Loss | None = omitted(None)
    uses: int | None = omitted(None)
    output_rows: int | None = omitted(None)

    def __post_init__(self) -> None:
        require_digest(self.agreement, "agreement")
        require_dataset(self.dataset, "dataset")
        if not 1 <= self.sequence <= MAX_TIGHTENINGS:
            raise Malformed(f"must lie between 1 and {MAX_TIGHTENINGS}", where="sequence")
        if len(encode(self)) == len(_NAMES):
            raise Malformed("tightens nothing", where="tightening")
        for where in ("suspended_until", "not_after"):
            at = getattr(self, where)
            if at is not None and not 0 < at <= MAX_TIME:
                raise Malformed("must be a time in seconds since 1970", where=where)
        if self.minimum_group is not None and not 1 <= self.minimum_group <= 1_000_000:
            raise Malformed("must lie between 1 and 1000000", where="minimum_group")
        for where, least in (("uses", 0), ("output_rows", 1)):
            bound = getattr(self, where)
            if bound is not None and not least <= bound <= 10**7:
                raise Malformed(f"must lie between {least} and 10000000", where=where)

    @property
    def provider(self) -> str:
        """Who may sign it."""
        return self.dataset.partition(".")[0]


_NAMES = ("kind", "agreement", "dataset", "sequence")


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedTightening:
    """A tightening with its provider's signature (128 hex digits)."""

    tightening: Tightening
    signature: str

    def to_ids(self) -> dict[str, str]:
        """The header of its `tightened` entry."""
        return {
            "agreement": self.tightening.agreement,
            "participant": self.tightening.provider,
            "tightening": canonical(encode(self.tightening)).decode(),
            "signature": self.signature,
        }

    @classmethod
    def from_ids(cls, ids: Mapping[str, str]) -> SignedTightening:
        """The tightening that a `tightened` entry records. Raises Malformed."""
        try:
            found = cls(tightening=decode(Tightening, parse_json(ids["tightening"].encode())), signature=ids["signature"])
        except KeyError as error:
            raise Malformed("the entry of a tightening does not say all of it") from error
        if found.to_ids() != dict(ids):
            raise Malformed("the entry of a tightening says more than that")
        return found


def require_applicable(tightening: Tightening, agreement: Agreement, before: Iterable[SignedTightening]) -> None:
    """Raise Malformed unless `agreement` has the dataset and the losses' measure, and the tightening follows those `before` it."""
    terms = agreement.terms_of(tightening.dataset)
    for where in ("job_loss", "total_loss", "consumer_loss"):
        bound: Loss | None = getattr(tightening, where)
        if bound is not None and bound.measure != terms.total_loss.measure:
            raise Malformed(f"the terms are in {terms.total_loss.measure}", where=where)
    last = max((item.tightening.sequence for item in before if item.tightening.dataset == tightening.dataset), default=0)
    if tightening.sequence != last + 1:
        raise Malformed(f"must be {last + 1}, the next of this dataset", where="sequence", code="tightening-sequence")


def tightened(agreement: Agreement, tightenings: tuple[SignedTightening, ...]) -> Agreement:
    """Return the agreement with the strictest of its own bounds and those of its tightenings.

    Revocation and suspension are read off the tightenings themselves (`standing`).
    """
    if not tightenings:
        return agreement
    terms = agreement.terms
    for signed in tightenings:
        terms = tuple(_stricter(item, signed.tightening) if item.dataset == signed.tightening.dataset else item for item in terms)
    return replace(agreement, terms=terms)


def standing(dataset: str, tightenings: Iterable[SignedTightening], now: int) -> str:
    """Return why nothing is allowed on a dataset at `now`: `revoked`, `ended at` or `suspended until` seconds since 1970, or empty."""
    until = 0
    for item in (signed.tightening for signed in tightenings):
        if item.dataset != dataset:
            continue
        if item.revoked:
            return "revoked"
        if item.not_after is not None and item.not_after <= now:
            return f"ended at {item.not_after}"
        until = max(until, item.suspended_until or 0)
    return f"suspended until {until}" if until > now else ""


def worst_standing(told: Iterable[Iterable[SignedTightening]], now: int) -> Literal["in force", "suspended", "over"]:
    """Return how the worst of all terms of some agreements stands at `now`, seconds since 1970.

    Args:
        told: the tightenings of each agreement.
    """
    found = [standing(item.tightening.dataset, items, now) for items in map(tuple, told) for item in items]
    if any(why and not why.startswith("suspended") for why in found):
        return "over"
    return "suspended" if any(found) else "in force"


def _stricter(terms: Terms, change: Tightening) -> Terms:
    not_after = terms.not_after if change.not_after is None else min(terms.not_after, max(change.not_after, terms.not_before + 1))
    return replace(
        terms,
        not_after=not_after,
        minimum_group=max(terms.minimum_group, change.minimum_group or 1),
        job_loss=_lower(terms.job_loss, change.job_loss),
        total_loss=_lower(terms.total_loss, change.total_loss),
        consumer_loss=_least(terms.consumer_loss, change.consumer_loss),
        uses=_fewest(terms.uses, change.uses),
        output_rows=_fewest(terms.output_rows, change.output_rows),
    )


def _fewest(known: int | None, bound: int | None) -> int | None:
    given = [value for value in (known, bound) if value is not None]
    return min(given) if given else None


def _least(known: Loss | None, bound: Loss | None) -> Loss | None:
    if known is None or bound is None:
        return known if bound is None else bound
    return _lower(known, bound)


def _lower(known: Loss, bound: Loss | None) -> Loss:
    if bound is None:
        return known
    return replace(known, amount=min(known.amount, bound.amount), delta0=min(known.delta0, bound.delta0))
