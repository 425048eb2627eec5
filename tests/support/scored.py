"""A lender with a model, a bank with applicants and an auditor: an agreement on scoring encrypted rows, on a running service."""

from __future__ import annotations

import random
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from enclaves.kit.sealing import SealingKey
from enclaves.kit.signatures import SigningKey
from policies.agreement import Agreement, LogIdentity, Offer, Party, Terms
from policies.declaration import Column, Declaration
from policies.model import WEIGHT_BITS, Model
from policies.privacy import parse_loss
from policies.scorer import Scorer, ScoreRequest, scorer_of
from policies.scoring import Value
from policies.training import Encoded
from sandbox.party.agreeing import compose
from sandbox.party.encrypted_scoring import ModelOwner, Rows
from sandbox.party.scoring_client import ScoringClient
from tests.support.market import fresh_home
from tests.support.service import Service

PURPOSE = "credit-risk"
FEATURES = (
    Encoded(column="age", encoding="scaled", lower=18, upper=98, centre=40),
    Encoded(column="income", encoding="log", lower=0, upper=1_000_000, centre=20_000),
    Encoded(column="home", encoding="categories", categories=("rented", "owned", "other")),
)
ONE = 1 << WEIGHT_BITS


def risk_model(**changes: Any) -> Model:
    """A logistic model over age, income and home: bias, and one weight for every coordinate."""
    weights = ((ONE // 2, 3 * ONE, -5 * ONE + 777_777, ONE // 3, -ONE // 7),)
    return replace(Model(link="logistic", features=FEATURES, label=None, weights=weights), **changes)


def risk_scorer(owner: str = "lender", **changes: Any) -> Scorer:
    """What the agreement says of it."""
    return replace(scorer_of(risk_model(), f"{owner}.risk", rows=10_000), **changes)


def risk_declaration(owner: str = "lender") -> Declaration:
    """The rows that the model reads."""
    return Declaration(
        dataset=f"{owner}.risk",
        title="Applicants, as the risk model reads them",
        unit="applicant",
        id_space=f"{owner.replace('_', '-')}-applicants",
        rows_per_unit=1,
        unique_key=("applicant",),
        columns=(
            Column(name="applicant", type="integer"),
            Column(name="age", type="integer", lower="18", upper="98"),
            Column(name="income", type="integer", lower="0", upper="1000000"),
            Column(name="home", type="text", domain=("rented", "owned", "other")),
        ),
    )


def risk_terms(owner: str = "lender", client: str = "bank", **changes: Any) -> Terms:
    """Who may ask, for what, until when. Losses have no meaning here, as no data of the owner's are read."""
    terms = Terms(
        dataset=f"{owner}.risk",
        assignees=(client,),
        purposes=(PURPOSE,),
        not_before=1_600_000_000,
        not_after=4_000_000_000,
        columns=(),
        minimum_group=1,
        job_loss=parse_loss("zcdp", "0.01"),
        total_loss=parse_loss("zcdp", "0.01"),
        recipients=(client,),
        enclave_kinds=(),
        measurements=(),
    )
    return replace(terms, **changes)


def risk_agreement(keys: Mapping[str, tuple[SigningKey, SealingKey]] | None = None, **changes: Any) -> Agreement:
    """The agreement of lender and bank."""
    made = dict(keys or {name: (SigningKey.generate(), SealingKey.generate()) for name in ("lender", "bank")})
    roles: dict[str, tuple[Any, ...]] = {"lender": ("provider",), "bank": ("consumer",)}
    agreement = Agreement(
        uid="risk",
        title="Scores of applicants",
        log=LogIdentity(origin="log.example/risk", key="0b" * 32),
        parties=tuple(
            Party(id=name, roles=roles[name], signing_key=signing.public.hex(), sealing_key=sealing.public.hex())
            for name, (signing, sealing) in made.items()
        ),
        declarations=(risk_declaration(),),
        terms=(risk_terms(),),
        scorers=(risk_scorer(),),
    )
    return replace(agreement, **changes)


def risk_request(agreement: str, **changes: Any) -> ScoreRequest:
    """The bank's request."""
    request = ScoreRequest(
        request_id="request-0001",
        agreement=agreement,
        consumer="bank",
        purpose=PURPOSE,
        model="lender.risk",
        rows=100,
        ciphertexts="sha256:" + "c1" * 32,
    )
    return replace(request, **changes)


def applicants(count: int, seed: int = 1) -> list[dict[str, Value]]:
    """Raw rows at random, some of them with missing or unheard-of values."""
    draw = random.Random(seed)
    return [
        {
            "age": draw.choice([draw.randint(10, 110), None]),
            "income": draw.choice([draw.randint(0, 200_000), float("nan")]),
            "home": draw.choice(["rented", "owned", "other", "tent"]),
        }
        for _ in range(count)
    ]


@dataclass(frozen=True, kw_only=True)
class ScoreMarket:
    """One agreement on one service."""

    service: Service
    lender: ScoringClient
    bank: ScoringClient
    auditor: ScoringClient
    agreement: str

    @property
    def model(self) -> str:
        """The model's name in the agreement."""
        return f"{self.lender.home.participant}.risk"

    def owner(self, model: Model | None = None, **changes: Any) -> ModelOwner:
        """The lender's part."""
        return ModelOwner(client=self.lender, models={self.model: model or risk_model()}, **changes)

    def ask(self, rows: list[dict[str, Value]], request_id: str | None = None, purpose: str = PURPOSE) -> str:
        """The bank asks; the scoring's id."""
        named = request_id or "r-" + secrets.token_hex(8)
        return Rows(client=self.bank).ask(self.agreement, self.model, purpose, rows, named).scoring


def open_scoring(service: Service, *, step: str = "0", rows: int = 10_000, answer_s: int = 0, **terms: Any) -> ScoreMarket:
    """Admit everybody and agree."""
    tag = service.next_tag()
    clients = {}
    for name in (f"lender_{tag}", f"bank_{tag}", f"auditor_{tag}"):
        clients[name] = ScoringClient(home=fresh_home(service, name))
        clients[name].join(service.code(name))
    lender, bank, auditor = clients
    declaration = risk_declaration(lender)
    clients[lender].declare(declaration)
    offer = Offer(uid="risk", title="Risk", declaration=declaration, terms=risk_terms(lender, bank, **terms))
    digest = clients[lender].offer(offer)["digest"]
    scorer = risk_scorer(lender, step=step, rows=rows, answer_s=answer_s)
    composed = compose(clients[bank], f"risk-{tag}", "Scores", [digest], [auditor], scorers=(scorer,))
    agreement = clients[bank].propose(composed)["digest"]
    for client in clients.values():
        client.sign_agreement(agreement)
    return ScoreMarket(service=service, lender=clients[lender], bank=clients[bank], auditor=clients[auditor], agreement=agreement)
