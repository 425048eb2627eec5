"""Offers and agreements as typed rules. Their wire form is ODRL (policies/odrl.py); an agreement is named by the digest of that form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from policies import attestation
from policies.attestation import PlatformFloor
from policies.codec import omitted
from policies.conditions import (
    MAX_DELETE_DAYS,
    MAX_EVIDENCE_AGE_S,
    MAX_QUANTUM_S,
    MAX_REFRESH_DAYS,
    MAX_USES,
    SMALLEST_OUTPUT,
    Approvals,
    Division,
    Onward,
    OutputKind,
    Payment,
    RowQuota,
    Window,
    require_country,
    require_distinct,
)
from policies.declaration import Declaration
from policies.derive import Operation
from policies.errors import Malformed
from policies.isolation import Layer, require_in_order
from policies.joint import Pool
from policies.names import require_digest, require_key, require_name, require_slug
from policies.privacy import Loss
from policies.scorer import Scorer

Role = Literal["provider", "consumer", "auditor", "key_holder"]
EnclaveKind = attestation.EnclaveKind
MAX_TIME = 253_402_300_799
"""9999-12-31T23:59:59Z in seconds since 1970."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Party:
    """One signatory with the keys that it is known by inside this agreement, and nowhere else: the host is not the PKI.

    Attributes:
        jurisdiction: ISO 3166-1 alpha-2 code of the law that the party is under, which all parties sign; None where nobody asks.
    """

    id: str
    roles: tuple[Role, ...]
    signing_key: str
    sealing_key: str
    jurisdiction: str | None = omitted(None)

    def __post_init__(self) -> None:
        require_name(self.id, "id")
        if self.jurisdiction is not None:
            require_country(self.jurisdiction, "jurisdiction")
        require_key(self.signing_key, "signing_key")
        require_key(self.sealing_key, "sealing_key")
        if not self.roles or len(set(self.roles)) != len(self.roles):
            raise Malformed("needs distinct roles", where="roles")


@dataclass(frozen=True, kw_only=True, slots=True)
class LogIdentity:
    """The log that must hold this agreement's charges and releases: origin of its checkpoints and its Ed25519 key."""

    origin: str
    key: str

    def __post_init__(self) -> None:
        require_key(self.key, "key")
        if not self.origin or len(self.origin) > 200 or any(c.isspace() or c == "+" for c in self.origin):
            raise Malformed("must be 1 to 200 characters without spaces and +", where="origin")


@dataclass(frozen=True, kw_only=True, slots=True)
class ColumnTerm:
    """Operations allowed on one column; a column without a term allows none.

    Attributes:
        recipients: for whose releases only; empty for everybody's. What several terms of one column allow a recipient adds up.
    """

    column: str
    operations: tuple[Operation, ...]
    recipients: tuple[str, ...] = omitted(())

    def __post_init__(self) -> None:
        require_name(self.column, "column")
        if len(set(self.operations)) != len(self.operations):
            raise Malformed("lists an operation twice", where="operations")
        for name in self.recipients:
            require_name(name, "recipients")
        require_distinct(self.recipients, "recipients")


@dataclass(frozen=True, kw_only=True, slots=True)
class Terms:
    """One provider's conditions on one dataset: an ODRL permission. Every condition must hold; there are no others.

    Attributes:
        purposes: the purposes a request may state.
        not_before, not_after: validity, seconds since 1970, half open.
        minimum_group: fewest distinct privacy units of a published cell, tested on a noised count; 1 means no test.
        job_loss, total_loss: most that one job may cost, and most that all charges on this provider's ledger of the dataset's id space
            may reach, whatever agreement they came from. Of a public dataset both are without meaning: it charges nothing.
        consumer_loss: most that all charges of one consumer on that ledger may reach, whatever agreement they came from; None for no
            bound but the total. All bounds of one term are in one measure.
        recipients: who may receive a release.
        enclave_kinds, measurements: which evidence a run needs.

    A permission need not have the following; each is a further condition where it stands.

    Attributes:
        total_refresh, consumer_refresh: days after which a charge counts no more against `total_loss` and `consumer_loss`: these
            bounds are renewed, and what a unit loses in all is bounded by time alone.
        platforms: what the firmware of a kind of TEE must show besides; AMD's needs one, Intel's is up to date without.
        isolation: layers that must separate a run from its machine, all of them.
        uses: most jobs under this agreement that this provider's keys are released for.
        windows: times of the week at which requests are decided.
        enclave_jurisdictions, recipient_jurisdictions: where the enclave must run, and what law the recipient must be under.
        no_debug: whether the enclave must be shown not to be debuggable.
        evidence_age: oldest evidence that keys are released to, seconds.
        quantum: least time, seconds, at whose multiples after a run began its end may be told.
        pre_approved: digests of the plans, or of the plans without their constants, that may be asked.
        scored_rows, score_decimals, withhold_probing: of a model: most rows that it scores for a consumer, most decimals of a score, and
            whether scores of rows that look made to copy it are withheld.
        division: how what a trained model is worth is divided; the only division that a training may ask for.
        output_kinds, output_rows, output_bytes: what a release may be, most rows, and most bytes of the sealed release.
        approvals: who must approve each job.
        exchange_only: whether every job must be part of an exchange.
        payment, notify, attribution, delete_after, onward: duties. Paid before use; parties that learn of each release; words that
            stand by each release; days after which it is deleted; whom it may be passed on to.
    """

    dataset: str
    assignees: tuple[str, ...]
    purposes: tuple[str, ...]
    not_before: int
    not_after: int
    columns: tuple[ColumnTerm, ...]
    minimum_group: int
    job_loss: Loss
    total_loss: Loss
    recipients: tuple[str, ...]
    enclave_kinds: tuple[EnclaveKind, ...]
    measurements: tuple[str, ...]
    consumer_loss: Loss | None = omitted(None)
    uses: int | None = omitted(None)
    windows: tuple[Window, ...] | None = omitted(None)
    enclave_jurisdictions: tuple[str, ...] | None = omitted(None)
    recipient_jurisdictions: tuple[str, ...] | None = omitted(None)
    no_debug: bool = omitted(False)
    evidence_age: int | None = omitted(None)
    pre_approved: tuple[str, ...] | None = omitted(None)
    output_kinds: tuple[OutputKind, ...] | None = omitted(None)
    output_rows: int | None = omitted(None)
    output_bytes: int | None = omitted(None)
    approvals: Approvals | None = omitted(None)
    payment: Payment | None = omitted(None)
    notify: tuple[str, ...] = omitted(())
    attribution: str | None = omitted(None)
    delete_after: int | None = omitted(None)
    onward: Onward | None = omitted(None)
    isolation: tuple[Layer, ...] = omitted(())
    platforms: tuple[PlatformFloor, ...] = omitted(())
    total_refresh: int | None = omitted(None)
    consumer_refresh: int | None = omitted(None)
    exchange_only: bool = omitted(False)
    scored_rows: RowQuota | None = omitted(None)
    score_decimals: int | None = omitted(None)
    withhold_probing: bool = omitted(False)
    division: Division | None = omitted(None)
    quantum: int | None = omitted(None)

    def __post_init__(self) -> None:
        require_in_order(self.isolation, "isolation")
        bounds = [self.job_loss, self.total_loss, *([self.consumer_loss] if self.consumer_loss is not None else [])]
        if len({bound.measure for bound in bounds}) != 1:
            raise Malformed("all losses of one dataset's terms are in one measure", where="total_loss")
        for where, names in (("assignees", self.assignees), ("recipients", self.recipients)):
            for name in names:
                require_name(name, where)
        for purpose in self.purposes:
            require_slug(purpose, "purposes")
        for measurement in self.measurements:
            require_digest(measurement, "measurements")
        if not 0 <= self.not_before < self.not_after <= MAX_TIME:
            raise Malformed("validity must begin before it ends", where="not_after")
        if not 1 <= self.minimum_group <= 1_000_000:
            raise Malformed("must lie between 1 and 1000000", where="minimum_group")
        if len({(term.column, term.recipients) for term in self.columns}) != len(self.columns):
            raise Malformed("names a column twice", where="columns")
        self._require_platforms()
        self._require_conditions()

    def _require_platforms(self) -> None:
        """One floor at most of a kind, of agreed kinds only; without one, no AMD firmware would be too old."""
        floors = [floor.kind for floor in self.platforms]
        if len(set(floors)) != len(floors) or not set(floors) <= set(self.enclave_kinds):
            raise Malformed("needs one floor at most for each agreed kind of enclave", where="platforms")
        if "amd-sev-snp" in self.enclave_kinds and "amd-sev-snp" not in floors:
            raise Malformed("`amd-sev-snp` needs the lowest patch levels that its firmware may report", where="platforms")

    def _require_conditions(self) -> None:
        for where in ("enclave_jurisdictions", "recipient_jurisdictions"):
            for country in getattr(self, where) or ():
                require_country(country, where)
        for wanted in self.pre_approved or ():
            require_digest(wanted, "pre_approved")
        for name in self.notify:
            require_name(name, "notify")
        listed = ("windows", "enclave_jurisdictions", "recipient_jurisdictions", "pre_approved", "output_kinds", "notify")
        for where in listed:
            require_distinct(getattr(self, where) or (), where)
        bounds = {
            "uses": (0, MAX_USES),
            "evidence_age": (1, MAX_EVIDENCE_AGE_S),
            "output_rows": (1, 10_000_000),
            "output_bytes": (SMALLEST_OUTPUT, 2**40),
            "delete_after": (1, MAX_DELETE_DAYS),
            "total_refresh": (1, MAX_REFRESH_DAYS),
            "consumer_refresh": (1, MAX_REFRESH_DAYS),
            "score_decimals": (0, 6),
            "quantum": (1, MAX_QUANTUM_S),
        }
        for where, (least, most) in bounds.items():
            value = getattr(self, where)
            if value is not None and not least <= value <= most:
                raise Malformed(f"must lie between {least} and {most}", where=where)
        if self.consumer_refresh is not None and self.consumer_loss is None:
            raise Malformed("renews a bound for one consumer that the terms do not have", where="consumer_refresh")
        if self.attribution is not None and not 1 <= len(self.attribution) <= 500:
            raise Malformed("must have 1 to 500 characters", where="attribution")

    def operations(self, column: str, recipient: str | None = None) -> tuple[Operation, ...]:
        """Operations allowed on `column` in a release to `recipient`; none if no term says so."""
        allowed = (
            term.operations for term in self.columns if term.column == column and (not term.recipients or recipient in term.recipients)
        )
        return tuple(dict.fromkeys(operation for operations in allowed for operation in operations))

    def strictly_within(self, declaration: Declaration) -> None:
        """Raise Malformed unless the terms speak of the declared dataset and only of its columns."""
        if self.dataset != declaration.dataset:
            raise Malformed(f"terms of `{self.dataset}` cannot cover `{declaration.dataset}`", where="dataset")
        for term in self.columns:
            declaration.column(term.column)


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """A provider's declaration and its terms, open to the named assignees."""

    uid: str
    title: str
    declaration: Declaration
    terms: Terms

    def __post_init__(self) -> None:
        require_slug(self.uid, "uid")
        self.terms.strictly_within(self.declaration)


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """Terms that all parties signed; immutable, named by digest.

    Attributes:
        pools: datasets of several contributors that queries name as one, added up under encryption. By signing, a contributor allows that
            its terms are applied to them; no enclave sees their data.
    """

    uid: str
    title: str
    log: LogIdentity
    parties: tuple[Party, ...]
    declarations: tuple[Declaration, ...]
    terms: tuple[Terms, ...]
    pools: tuple[Pool, ...] = omitted(())
    scorers: tuple[Scorer, ...] = omitted(())

    def __post_init__(self) -> None:
        require_slug(self.uid, "uid")
        ids = [party.id for party in self.parties]
        if len(set(ids)) != len(ids) or not 2 <= len(ids) <= 100:
            raise Malformed("needs 2 to 100 distinct parties", where="parties")
        keys = [key for party in self.parties for key in (party.signing_key, party.sealing_key)]
        if len(set(keys)) != len(keys):
            raise Malformed("every key must belong to one party and one use", where="parties")
        if not self.declarations or [d.dataset for d in self.declarations] != [t.dataset for t in self.terms]:
            raise Malformed("needs one permission per declared dataset, in the same order", where="terms")
        if len({d.dataset for d in self.declarations}) != len(self.declarations):
            raise Malformed("declares a dataset twice", where="declarations")
        for declaration, terms in zip(self.declarations, self.terms, strict=True):
            terms.strictly_within(declaration)
            self._require_roles(declaration.provider, terms)
        if len({pool.dataset for pool in self.pools}) != len(self.pools):
            raise Malformed("declares a pool twice", where="pools")
        for pool in self.pools:
            self._require_pool(pool)
        if len({scorer.dataset for scorer in self.scorers}) != len(self.scorers):
            raise Malformed("names a model twice", where="scorers")
        for scorer in self.scorers:
            self._require_scorer(scorer)

    def _require_scorer(self, scorer: Scorer) -> None:
        """Its features are raw columns of a declared dataset, each within the declared bounds or domain."""
        declared = next((declaration for declaration in self.declarations if declaration.dataset == scorer.dataset), None)
        if declared is None:
            raise Malformed(f"`{scorer.dataset}` must name a declared dataset", where="scorers")
        for feature in scorer.features:
            column = declared.column(feature.column)
            if feature.encoding == "categories" and not set(feature.categories) <= set(column.domain or feature.categories):
                raise Malformed(f"`{feature.column}` has categories outside of its domain", where="scorers")

    def _require_pool(self, pool: Pool) -> None:
        declared = {declaration.dataset: declaration for declaration in self.declarations}
        if pool.dataset in declared or any(member not in declared for member in pool.members):
            raise Malformed(f"`{pool.dataset}` must name declared datasets and be none itself", where="pools")
        if "key_holder" not in self.party(pool.key_holder).roles:
            raise Malformed(f"`{pool.key_holder}` holds a key but is no key holder here", where="parties")
        members = [declared[member] for member in pool.members]
        if any(_shared_part(member) != _shared_part(members[0]) or member.public for member in members):
            raise Malformed(f"the members of `{pool.dataset}` must be declared alike, but for name, title and id space", where="pools")
        if len({member.id_space for member in members}) != len(members):
            raise Malformed(f"the members of `{pool.dataset}` share an id space: a unit's rows lie with one contributor", where="pools")

    def _require_roles(self, provider: str, terms: Terms) -> None:
        if "provider" not in self.party(provider).roles:
            raise Malformed(f"`{provider}` provides a dataset but is no provider here", where="parties")
        for name in (*terms.assignees, *terms.recipients):
            if "consumer" not in self.party(name).roles:
                raise Malformed(f"`{name}` may ask or receive but is no consumer here", where="parties")
        onward = terms.onward.recipients if terms.onward else ()
        approvers = terms.approvals.of if terms.approvals else ()
        for name in (*approvers, *terms.notify, *onward, *(name for term in terms.columns for name in term.recipients)):
            self.party(name)

    def party(self, name: str) -> Party:
        """Return the party of that id. Raises Malformed (code `unknown-party`)."""
        for party in self.parties:
            if party.id == name:
                return party
        raise Malformed(f"`{name[:40]}` is no party of agreement `{self.uid}`", code="unknown-party", where="parties")

    def has_party(self, name: str) -> bool:
        """Whether a party of that id has signed."""
        return any(party.id == name for party in self.parties)

    @property
    def by_dataset(self) -> dict[str, Declaration]:
        """Declarations by dataset name; a pool is declared as its members are."""
        found = {declaration.dataset: declaration for declaration in self.declarations}
        return found | {pool.dataset: replace(found[pool.members[0]], dataset=pool.dataset) for pool in self.pools}

    def scorer_of(self, dataset: str) -> Scorer:
        """The model of that name. Raises Malformed (code `unknown-model`)."""
        for scorer in self.scorers:
            if scorer.dataset == dataset:
                return scorer
        raise Malformed(f"no model `{dataset[:80]}` in agreement `{self.uid}`", code="unknown-model")

    def pool_of(self, sources: Iterable[str]) -> Pool | None:
        """The first pool that is among these datasets."""
        named = set(sources)
        return next((pool for pool in self.pools if pool.dataset in named), None)

    def members(self, sources: Iterable[str]) -> tuple[str, ...]:
        """These datasets, with the members of a pool in its place."""
        pools = {pool.dataset: pool.members for pool in self.pools}
        return tuple(member for dataset in sources for member in pools.get(dataset, (dataset,)))

    def needed(self, sources: Iterable[str]) -> tuple[str, ...]:
        """The parties without whose keys nothing can be read of these datasets: providers, and key holders of pools; sorted."""
        named = tuple(sources)
        holders = {pool.key_holder for pool in self.pools if pool.dataset in named}
        return tuple(sorted({member.partition(".")[0] for member in self.members(named)} | holders))

    def terms_of(self, dataset: str) -> Terms:
        """Return the terms of a dataset. Raises Malformed (code `unknown-dataset`)."""
        for terms in self.terms:
            if terms.dataset == dataset:
                return terms
        raise Malformed(f"no dataset `{dataset[:80]}` in agreement `{self.uid}`", code="unknown-dataset")


def _shared_part(declaration: Declaration) -> Declaration:
    """What members of a pool have in common."""
    columns = tuple(replace(column, description="") for column in declaration.columns)
    return replace(declaration, dataset="pool.member", title="", id_space="pool", columns=columns)
