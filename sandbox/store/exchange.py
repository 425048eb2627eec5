"""Stored participants, datasets, offers and agreements."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar, cast

from sqlalchemy import Connection, bindparam, func, insert, select, update

from enclaves.kit.envelope import Signed
from policies.agreement import Agreement, Offer
from policies.canonical import canonical, parse_json
from policies.codec import decode, encode
from policies.declaration import Declaration
from policies.errors import Forbidden
from policies.odrl import parse_agreement, parse_offer
from sandbox.exchange.records import Dataset, Participant, StoredAgreement, StoredOffer, Version
from sandbox.store.once import insert_once
from sandbox.store.schema import (
    admission_codes,
    agreement_parties,
    agreements,
    datasets,
    destroyed_keys,
    offers,
    participants,
    revocations,
    rotations,
    uploads,
    versions,
)


def to_text(document: Any) -> str:
    """A typed or plain document as stored text."""
    return canonical(encode(document)).decode()


def from_text(text: str) -> Any:
    """The plain value of a stored document."""
    return parse_json(text.encode(), limit=64 << 20)


T = TypeVar("T")


def parsed(kind: type[T], text: str) -> T:
    """A stored document as its type. Keyed by the whole text, so a row that was changed is parsed anew; the value must not be changed."""
    return cast(T, _parsed(cast(Any, kind), text))


@lru_cache(maxsize=4096)
def _parsed(kind: Any, text: str) -> Any:
    return decode(kind, from_text(text))


@lru_cache(maxsize=256)
def _parsed_agreement(text: str) -> tuple[Agreement, dict[str, Any]]:
    document = from_text(text)
    return parse_agreement(document), document


@lru_cache(maxsize=256)
def _parsed_offer(text: str) -> tuple[Offer, Signed]:
    signed = _signed(text)
    return parse_offer(signed.body), signed


@lru_cache(maxsize=256)
def _parsed_declaration(text: str) -> tuple[Declaration, Signed]:
    signed = _signed(text)
    return decode(Declaration, signed.body), signed


def _signed(text: str) -> Signed:
    return parsed(Signed, text)


# Statements of every request, built once: building one costs as much as running it on SQLite.
_BY_CREDENTIAL = select(participants).where(participants.c.credential_digest == bindparam("digest"))
_AGREEMENT = select(agreements).where(agreements.c.digest == bindparam("digest"))
_SIGNATURES_OF = (
    select(agreement_parties.c.agreement, agreement_parties.c.signed)
    .where(agreement_parties.c.agreement.in_(bindparam("digests", expanding=True)), agreement_parties.c.signed.is_not(None))
    .order_by(agreement_parties.c.participant)
)
_AGREEMENTS_OF = select(agreement_parties.c.agreement).where(agreement_parties.c.participant == bindparam("participant"))
_TERMS = select(agreements.c.document).where(agreements.c.digest == bindparam("digest"))
_TERMS_OF = select(agreements.c.document).where(agreements.c.digest.in_(_AGREEMENTS_OF))
DATASETS = select(
    datasets.c.dataset,
    datasets.c.signed,
    func.coalesce(select(func.max(versions.c.version)).where(versions.c.dataset == datasets.c.dataset).scalar_subquery(), 0).label(
        "newest"
    ),
)
"""Rows that `dataset_of` reads."""
_DATASET = DATASETS.where(datasets.c.dataset == bindparam("name"))


class ExchangeTables:
    """Verbs on what the exchange knows, inside one transaction."""

    connection: Connection

    def add_admission_code(self, code_digest: str, participant: str, expires_at: int) -> None:
        """Store the digest of a one-time code for one participant id."""
        self.connection.execute(insert(admission_codes).values(code_digest=code_digest, participant=participant, expires_at=expires_at))

    def use_admission_code(self, code_digest: str, participant: str, now: int) -> bool:
        """Mark a code used; False if it is unknown, for another participant, used or expired."""
        done = self.connection.execute(
            update(admission_codes)
            .where(
                admission_codes.c.code_digest == code_digest,
                admission_codes.c.participant == participant,
                admission_codes.c.used_at.is_(None),
                admission_codes.c.expires_at > now,
            )
            .values(used_at=now)
        )
        return done.rowcount == 1

    def code_was_used(self, code_digest: str, participant: str) -> bool:
        """Whether this code admitted that participant id."""
        found = self.connection.execute(
            select(func.count()).where(
                admission_codes.c.code_digest == code_digest,
                admission_codes.c.participant == participant,
                admission_codes.c.used_at.is_not(None),
            )
        )
        return bool(found.scalar_one())

    def add_participant(self, participant: Participant, credential_digest: str, admitted_at: int) -> None:
        """Store an admitted participant."""
        self.connection.execute(
            insert(participants).values(
                id=participant.id,
                title=participant.title,
                signing_key=participant.signing_key,
                sealing_key=participant.sealing_key,
                credential_digest=credential_digest,
                admitted_at=admitted_at,
            )
        )

    def participant(self, name: str) -> Participant | None:
        """The participant of that id."""
        return self._one_participant(participants.c.id == name)

    def participant_by_credential(self, credential_digest: str) -> Participant | None:
        """The participant whose credential has that digest."""
        row = self.connection.execute(_BY_CREDENTIAL, {"digest": credential_digest}).one_or_none()
        return None if row is None else participant_of(row)

    def key_is_known(self, *keys: str) -> bool:
        """Whether one of these public keys is or was a participant's."""
        columns = (
            (participants.c.signing_key, participants.c.sealing_key),
            (rotations.c.old_key, rotations.c.old_sealing_key),
            (revocations.c.signing_key, revocations.c.sealing_key),
        )
        counts = (self.connection.execute(select(func.count()).where(one.in_(keys) | other.in_(keys))) for one, other in columns)
        return any(found.scalar_one() for found in counts)

    def _one_participant(self, condition: Any) -> Participant | None:
        row = self.connection.execute(select(participants).where(condition)).one_or_none()
        return None if row is None else participant_of(row)

    def add_upload(self, digest: str, participant: str, size: int, quota: int = 0) -> None:
        """Remember who uploaded a blob; again is the same.

        Args:
            quota: most bytes that the participant's uploads may take together; 0 means no limit.

        Raises:
            Forbidden: code `upload-quota`; nothing is remembered once the transaction is rolled back.
        """
        if quota:
            self.connection.execute(select(participants.c.id).where(participants.c.id == participant).with_for_update())
        insert_once(self.connection, uploads, digest=digest, participant=participant, size=size)
        if quota and self.uploaded_bytes(participant) > quota:
            raise Forbidden(f"your uploads may take {quota} bytes together", code="upload-quota")

    def uploaded_bytes(self, participant: str) -> int:
        """Bytes that a participant's uploads take together."""
        total = select(func.coalesce(func.sum(uploads.c.size), 0)).where(uploads.c.participant == participant)
        return int(self.connection.execute(total).scalar_one())

    def has_upload(self, digest: str, participant: str) -> int:
        """Size of the blob if `participant` uploaded it, else 0."""
        found = self.connection.execute(
            select(uploads.c.size).where(uploads.c.digest == digest, uploads.c.participant == participant)
        ).scalar_one_or_none()
        return int(found or 0)

    def add_dataset(self, declaration: Declaration, signed: Signed) -> None:
        """Store a declared dataset."""
        self.connection.execute(insert(datasets).values(dataset=declaration.dataset, provider=declaration.provider, signed=to_text(signed)))

    def dataset(self, name: str) -> Dataset | None:
        """The dataset of that name."""
        row = self.connection.execute(_DATASET, {"name": name}).one_or_none()
        return None if row is None else dataset_of(row)

    def add_version(self, version: Version) -> None:
        """Store a published version."""
        self.connection.execute(
            insert(versions).values(
                dataset=version.dataset,
                version=version.version,
                file_digest=version.file_digest,
                size=version.size,
                signed=to_text(version.signed),
            )
        )

    def newest_version(self, dataset: str) -> Version | None:
        """The newest version of a dataset."""
        row = self.connection.execute(
            select(versions).where(versions.c.dataset == dataset).order_by(versions.c.version.desc()).limit(1)
        ).one_or_none()
        if row is None:
            return None
        return Version(dataset=row.dataset, version=row.version, file_digest=row.file_digest, size=row.size, signed=_signed(row.signed))

    def version_of_file(self, dataset: str, digest: str) -> Version | None:
        """The version of a dataset whose encrypted file has this digest."""
        row = self.connection.execute(
            select(versions).where(versions.c.dataset == dataset, versions.c.file_digest == digest).limit(1)
        ).one_or_none()
        if row is None:
            return None
        return Version(dataset=row.dataset, version=row.version, file_digest=row.file_digest, size=row.size, signed=_signed(row.signed))

    def destroy_keys(self, digest: str, signed: Signed) -> None:
        """Store a provider's statement that nobody can open a file any more; the first one counts."""
        insert_once(self.connection, destroyed_keys, digest=digest, signed=to_text(signed))

    def destruction(self, digest: str) -> Signed | None:
        """The statement that nobody can open a file any more, if there is one."""
        found = self.connection.execute(select(destroyed_keys.c.signed).where(destroyed_keys.c.digest == digest)).scalar_one_or_none()
        return None if found is None else _signed(found)

    def add_offer(self, digest: str, provider: str, signed: Signed) -> None:
        """Store an offer; again is the same."""
        if self.offer(digest) is None:
            self.connection.execute(insert(offers).values(digest=digest, provider=provider, signed=to_text(signed)))

    def offer(self, digest: str) -> StoredOffer | None:
        """The offer of that digest."""
        row = self.connection.execute(select(offers).where(offers.c.digest == digest)).one_or_none()
        return None if row is None else offer_of(row)

    def add_agreement(self, digest: str, document: dict[str, Any], parties: list[str], proposed_by: str) -> None:
        """Store a proposed agreement without signatures."""
        self.connection.execute(
            insert(agreements).values(digest=digest, state="proposed", proposed_by=proposed_by, document=to_text(document))
        )
        self.connection.execute(
            insert(agreement_parties), [{"agreement": digest, "participant": party, "signed": None} for party in parties]
        )

    def sign_agreement(self, digest: str, signed: Signed) -> None:
        """Store one party's signature."""
        self.connection.execute(
            update(agreement_parties)
            .where(agreement_parties.c.agreement == digest, agreement_parties.c.participant == signed.by)
            .values(signed=to_text(signed))
        )

    def activate_agreement(self, digest: str) -> None:
        """Mark an agreement as signed by all."""
        self.connection.execute(update(agreements).where(agreements.c.digest == digest).values(state="active"))

    def lock_agreement(self, digest: str) -> None:
        """Hold the agreement against concurrent signatures until the transaction ends."""
        self.connection.execute(select(agreements.c.digest).where(agreements.c.digest == digest).with_for_update())

    def agreement(self, digest: str) -> StoredAgreement | None:
        """The agreement of that digest."""
        return next(iter(self.signed_by(self.connection.execute(_AGREEMENT, {"digest": digest}).all())), None)

    def signed_by(self, rows: Sequence[Any]) -> tuple[StoredAgreement, ...]:
        """The agreements that rows hold, with their signatures."""
        signatures: dict[str, list[Signed]] = {row.digest: [] for row in rows}
        if rows:
            for found in self.connection.execute(_SIGNATURES_OF, {"digests": list(signatures)}):
                signatures[found.agreement].append(_signed(found.signed))
        return tuple(_agreement_of(row, tuple(signatures[row.digest])) for row in rows)

    def terms(self, digest: str) -> Agreement | None:
        """What the agreement of that digest says, without its signatures."""
        text = self.connection.execute(_TERMS, {"digest": digest}).scalar_one_or_none()
        return None if text is None else _parsed_agreement(text)[0]

    def terms_of(self, participant: str) -> list[Agreement]:
        """What the agreements that name a participant say."""
        rows = self.connection.execute(_TERMS_OF, {"participant": participant})
        return [_parsed_agreement(row.document)[0] for row in rows]

    def agreements_of(self, participant: str) -> list[str]:
        """Digests of the agreements that name a participant."""
        rows = self.connection.execute(_AGREEMENTS_OF, {"participant": participant})
        return sorted(row.agreement for row in rows)


def dataset_of(row: Any) -> Dataset:
    """The dataset that a row of `DATASETS` holds."""
    declaration, signed = _parsed_declaration(row.signed)
    return Dataset(declaration=declaration, signed=signed, newest=int(row.newest))


def _agreement_of(row: Any, signatures: tuple[Signed, ...]) -> StoredAgreement:
    agreement, document = _parsed_agreement(row.document)
    return StoredAgreement(
        digest=row.digest, agreement=agreement, document=document, state=row.state, proposed_by=row.proposed_by, signatures=signatures
    )


def participant_of(row: Any) -> Participant:
    """The participant that a row holds."""
    return Participant(
        id=row.id, title=row.title, signing_key=row.signing_key, sealing_key=row.sealing_key, revoked=row.revoked_at is not None
    )


def offer_of(row: Any) -> StoredOffer:
    """The offer that a row holds."""
    offer, signed = _parsed_offer(row.signed)
    return StoredOffer(digest=row.digest, offer=offer, signed=signed)
