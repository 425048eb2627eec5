"""An exchange: one document with two legs that two participants sign, and what they sign while it runs. Shapes only.

What either gives is handed over together with what the other gives, or not at all (`policies.escrow`). A leg is fulfilled in one of three
forms. A *delivery* is the release of one job, which stays sealed at the service until the hand-over. A *right* is to ask jobs under an
agreement from the hand-over on. A *promise* is fulfilled outside: its giver signs that it gave what a document says.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

from policies.canonical import digest
from policies.codec import encode, omitted
from policies.errors import Malformed
from policies.names import require_digest, require_name, require_slug
from policies.privacy import Loss
from policies.query import MAX_SQL
from policies.training import Training

LegKind = Literal["model", "data", "service", "scenario", "order", "money"]
"""`model` and `data` (derived statistics) are deliveries, `service` and `scenario` rights, `order` and `money` promises."""

Form = Literal["delivery", "right", "promise"]
FORMS: dict[LegKind, Form] = {
    "model": "delivery",
    "data": "delivery",
    "service": "right",
    "scenario": "right",
    "order": "promise",
    "money": "promise",
}

LegNumber = Literal[1, 2]
MAX_JOBS = 1000
MAX_DISPUTE_DAYS = 365
MAX_TIME = 253_402_300_799
"""9999-12-31T23:59:59Z in seconds since 1970."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Bound:
    """Which leg of which exchange a job is part of: its delivery, or one use of its right."""

    exchange: str
    leg: LegNumber
    form: Literal["delivery", "right"] = "delivery"

    def __post_init__(self) -> None:
        require_digest(self.exchange, "exchange")

    def to_ids(self) -> dict[str, str]:
        """What the header of the job's decision says of it."""
        return {"exchange": self.exchange, "leg": str(self.leg)}


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """What the one job of a delivery asks, word for word. A test on held-out persons stands in `training`."""

    sql: str
    loss: Loss
    training: Training | None = omitted(None)

    def __post_init__(self) -> None:
        if len(self.sql) > MAX_SQL:
            raise Malformed(f"is longer than {MAX_SQL} characters", where="sql", code="sql")
        if self.loss.amount <= 0:
            raise Malformed("must be above 0", where="loss.amount")

    @property
    def parts(self) -> tuple[str, Loss, Training | None]:
        """What a request must hold to ask the same. One for scores, which cost no loss, asks nothing of the kind."""
        return self.sql, self.loss, self.training


@dataclass(frozen=True, kw_only=True, slots=True)
class Leg:
    """What one participant gives the other.

    Attributes:
        agreement, purpose: under which the job of a delivery, or the jobs of a right, are asked.
        ask: of a delivery: what its job asks.
        jobs: most jobs that are charged for this leg. Of a delivery, every one that failed, was withheld or did not pass its test counts.
        until: of a right: seconds since 1970 at which it ends.
        document: of a promise: digest of what was agreed outside, such as a signed order or an invoice.
    """

    kind: LegKind
    giver: str
    receiver: str
    agreement: str | None = omitted(None)
    purpose: str | None = omitted(None)
    ask: Asked | None = omitted(None)
    jobs: int = omitted(1)
    until: int | None = omitted(None)
    document: str | None = omitted(None)

    def __post_init__(self) -> None:
        require_name(self.giver, "giver")
        require_name(self.receiver, "receiver")
        if self.giver == self.receiver:
            raise Malformed("giver and receiver must differ", where="receiver")
        wanted = {
            "delivery": {"agreement", "purpose", "ask"},
            "right": {"agreement", "purpose", "until"},
            "promise": {"document"},
        }[self.form]
        given = {name for name in ("agreement", "purpose", "ask", "until", "document") if getattr(self, name) is not None}
        if given != wanted:
            raise Malformed(f"a leg of kind `{self.kind}` has exactly {', '.join(sorted(wanted))}", where="kind", code="leg-fields")
        if self.agreement is not None:
            require_digest(self.agreement, "agreement")
            require_slug(str(self.purpose), "purpose")
        if self.document is not None:
            require_digest(self.document, "document")
        if self.until is not None and not 0 < self.until <= MAX_TIME:
            raise Malformed("must be a time", where="until")
        if not 1 <= self.jobs <= (1 if self.form == "promise" else MAX_JOBS):
            raise Malformed(f"must lie between 1 and {MAX_JOBS}, and be 1 of a promise", where="jobs")
        if self.ask is not None and (self.ask.training is not None) != (self.kind == "model"):
            raise Malformed("a model is trained, and derived statistics are not", where="ask")

    @property
    def form(self) -> Form:
        """How the leg is fulfilled."""
        return FORMS[self.kind]

    @property
    def thing(self) -> str:
        """Digest of what is given where no job is: the document of a promise, the agreement of a right. Empty for a delivery."""
        return self.document or (str(self.agreement) if self.form == "right" else "")

    @property
    def tested(self) -> bool:
        """Whether the job of the leg must pass an acceptance test inside the enclave."""
        return self.ask is not None and self.ask.training is not None and self.ask.training.test is not None


@dataclass(frozen=True, kw_only=True, slots=True)
class Exchange:
    """Two legs in opposite directions between two participants.

    Attributes:
        accept_by: seconds since 1970: until when the other participant may accept.
        deadline: from when on everything returns that was not handed over.
        dispute_days: days that a dispute may stand before everything returns.
        arbiter: a party of the first agreement that may resolve a dispute alone.
    """

    kind: Literal["exchange/1"] = "exchange/1"
    uid: str
    title: str
    accept_by: int
    deadline: int
    dispute_days: int
    legs: tuple[Leg, ...]
    arbiter: str | None = omitted(None)

    def __post_init__(self) -> None:
        require_slug(self.uid, "uid")
        if not 1 <= len(self.title) <= 200:
            raise Malformed("must have 1 to 200 characters", where="title")
        if not 0 < self.accept_by <= self.deadline <= MAX_TIME:
            raise Malformed("an exchange is accepted before its deadline", where="deadline")
        if not 1 <= self.dispute_days <= MAX_DISPUTE_DAYS:
            raise Malformed(f"must lie between 1 and {MAX_DISPUTE_DAYS}", where="dispute_days")
        if len(self.legs) != 2:
            raise Malformed("an exchange has two legs", where="legs")
        first, second = self.legs
        if (first.giver, first.receiver) != (second.receiver, second.giver):
            raise Malformed("the legs go in opposite directions between the same two participants", where="legs")
        if not self.agreements:
            raise Malformed("one leg at least is a job's or a right under an agreement", where="legs", code="no-computed-leg")
        for leg in self.legs:
            if leg.until is not None and leg.until <= self.deadline:
                raise Malformed("a right begins with the hand-over and must outlast the deadline", where="until")
        if self.arbiter is not None:
            require_name(self.arbiter, "arbiter")
            if self.arbiter in self.participants:
                raise Malformed("the arbiter is neither participant", where="arbiter")

    @property
    def participants(self) -> tuple[str, str]:
        """The two, the giver of the first leg first."""
        return self.legs[0].giver, self.legs[0].receiver

    @property
    def agreements(self) -> tuple[str, ...]:
        """Digests of the agreements that its legs name, each once; the first one's parties may read the document."""
        return tuple(dict.fromkeys(leg.agreement for leg in self.legs if leg.agreement is not None))

    def other(self, participant: str) -> str:
        """The other participant."""
        first, second = self.participants
        return second if participant == first else first

    def leg(self, number: int) -> Leg:
        """The leg of a number. Raises Malformed."""
        if number not in (1, 2):
            raise Malformed("legs are numbered 1 and 2", where="leg")
        return self.legs[number - 1]


def exchange_digest(exchange: Exchange) -> str:
    """Return the digest that names an exchange."""
    return digest(encode(exchange))


Act = Literal["accept", "refuse", "withdraw", "give", "acknowledge", "dispute", "resolve", "received"]
"""What participants sign. `acknowledge`: before the hand-over, that its leg is there as agreed; `received`: that it holds it."""

ACTS: tuple[Act, ...] = get_args(Act)
WHOLE: frozenset[Act] = frozenset({"accept", "refuse", "withdraw", "dispute", "resolve"})
"""Acts on the exchange as a whole; the others are on a leg."""

Outcome = Literal["continue", "return"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ExchangeAct:
    """What a participant, or the arbiter, signs about an exchange.

    Attributes:
        leg: 1 or 2; 0 for an act on the whole.
        about: of `give`, `acknowledge` and `received` the digest of what is given (the sealed release, the document, the agreement); of
            `dispute` the digest of the reasons; of `resolve` the outcome; else empty.
        number: of `dispute` and `resolve`, which dispute; else 1.
    """

    kind: Literal["exchange-act/1"] = "exchange-act/1"
    exchange: str
    act: Act
    leg: Literal[0, 1, 2] = 0
    about: str = ""
    number: int = 1

    def __post_init__(self) -> None:
        require_digest(self.exchange, "exchange")
        if (self.leg == 0) != (self.act in WHOLE):
            raise Malformed("an act is on the whole exchange or on a leg, as its kind says", where="leg")
        if self.act in ("give", "acknowledge", "received", "dispute"):
            require_digest(self.about, "about")
        elif self.about not in (get_args(Outcome) if self.act == "resolve" else ("",)):
            raise Malformed("must be `continue` or `return` of a resolution, and empty otherwise", where="about")
        if not 1 <= self.number <= (10**6 if self.act in ("dispute", "resolve") else 1):
            raise Malformed("must count disputes from 1", where="number")


@dataclass(frozen=True, kw_only=True, slots=True)
class SignedExchangeAct:
    """An act with who signed it and the signature (128 hex digits), as the log's headers carry it."""

    item: ExchangeAct
    by: str
    signature: str

    def to_ids(self) -> dict[str, str]:
        """The header of its `exchange_act` entry: whoever follows the bare log can verify it."""
        item = self.item
        return {
            "exchange": item.exchange,
            "act": item.act,
            "leg": str(item.leg),
            "about": item.about,
            "number": str(item.number),
            "participant": self.by,
            "signature": self.signature,
        }

    @classmethod
    def from_ids(cls, ids: Mapping[str, str]) -> SignedExchangeAct:
        """The act that an `exchange_act` entry records. Raises Malformed."""
        act: Act | None = next((known for known in ACTS if known == ids.get("act")), None)
        leg: Literal[0, 1, 2] | None = {"0": 0, "1": 1, "2": 2}.get(ids.get("leg", ""))  # type: ignore[assignment]
        if act is None or leg is None or not ids.get("number", "").isascii() or not ids["number"].isdigit():
            raise Malformed("the entry of an act on an exchange does not say all of it")
        item = ExchangeAct(exchange=ids["exchange"], act=act, leg=leg, about=ids["about"], number=int(ids["number"]))
        found = cls(item=item, by=ids["participant"], signature=ids["signature"])
        if found.to_ids() != dict(ids):
            raise Malformed("the entry of an act on an exchange says more than it may")
        return found
