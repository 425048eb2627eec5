"""Offers and agreements as typed rules. Their wire form is ODRL (policies/odrl.py); an agreement is named by the digest of that form."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from policies.codec import omitted
from policies.declaration import Declaration
from policies.derive import Operation
from policies.errors import Malformed
from policies.joint import Pool
from policies.names import require_digest, require_key, require_name, require_slug
from policies.privacy import Loss

Role = Literal["provider", "consumer", "auditor", "key_holder"]
EnclaveKind = Literal["simulated"]
"""Evidence kinds that this law knows how to appraise."""

MAX_TIME = 253_402_300_799
"""9999-12-31T23:59:59Z in seconds since 1970."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Party:
    """One signatory with the keys that it is known by inside this agreement, and nowhere else: the host is not the PKI."""

    id: str
    roles: tuple[Role, ...]
    signing_key: str
    sealing_key: str

    def __post_init__(self) -> None:
        require_name(self.id, "id")
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
    """Operations allowed on one column; a column without a term allows none."""

    column: str
    operations: tuple[Operation, ...]

    def __post_init__(self) -> None:
        require_name(self.column, "column")
        if len(set(self.operations)) != len(self.operations):
            raise Malformed("lists an operation twice", where="operations")


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

    def __post_init__(self) -> None:
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
        if len({term.column for term in self.columns}) != len(self.columns):
            raise Malformed("names a column twice", where="columns")

    def operations(self, column: str) -> tuple[Operation, ...]:
        """Operations allowed on `column`; none if it has no term."""
        return next((term.operations for term in self.columns if term.column == column), ())

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
