"""A rehearsal: plan, decide, schedule and run a query on synthetic twins, in the very enclave process that a real run has.

Everything is as in a real run but the people and the keys: the twins are encrypted with column keys of the moment, the keys are sealed to
the attested enclave, and the release is sealed to a consumer's key of the moment. No service takes part, and nothing is charged.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from enclaves.kit.appraisal import Attested, appraise, key_release_info, release_info, verify_statement
from enclaves.kit.columns import FOOTER, KEY_BYTES, encrypt_table
from enclaves.kit.measure import checkout_root, measurement
from enclaves.kit.sealing import SealingKey, seal
from enclaves.kit.signatures import SigningKey
from enclaves.kit.sources import read_table
from policies.agreement import Agreement, ColumnTerm, LogIdentity, Party, Terms
from policies.budgets import periods
from policies.canonical import canonical, digest, digest_bytes, parse_json
from policies.codec import decode, encode
from policies.decide import decide
from policies.declaration import Declaration
from policies.derive import OPERATIONS
from policies.errors import Malformed, ReleaseWithheld, Unavailable
from policies.finding import refusal
from policies.grant import Grant, grant_digest, make_grant
from policies.odrl import agreement_digest, agreement_document
from policies.plan import plan_of
from policies.privacy import Loss
from policies.request import Facts, JobRequest, RecentFact, VersionFact
from policies.statement import Nonce, Release
from sandbox.jobs.launch import EnclaveDied, EnclaveProcess
from sandbox.party.forms import declaration_of, read_form

CONSUMER = PURPOSE = "rehearsal"
NO_AGREEMENT = "sha256:" + "0" * 64
"""Stands in a request until `rehearse` knows the agreement's digest."""

RUN_TIMEOUT_S = 600.0
_VERSION = 1
_YEAR_S = 366 * 86_400


def open_terms(declarations: Sequence[Declaration], loss: Loss, minimum_group: int) -> Agreement:
    """Return an agreement of the moment that allows a consumer called `rehearsal` every use of every declared column. Raises Malformed."""
    now = int(time.time())
    terms = tuple(
        Terms(
            dataset=declaration.dataset,
            assignees=(CONSUMER,),
            recipients=(CONSUMER,),
            purposes=(PURPOSE,),
            not_before=now - _YEAR_S,
            not_after=now + _YEAR_S,
            minimum_group=minimum_group,
            job_loss=loss,
            total_loss=loss,
            enclave_kinds=("simulated",),
            measurements=(measurement(checkout_root()),),
            columns=tuple(ColumnTerm(column=column.name, operations=OPERATIONS) for column in declaration.columns),
        )
        for declaration in declarations
    )
    providers = dict.fromkeys(declaration.provider for declaration in declarations)
    parties = [_party(name, "provider") for name in providers if name != CONSUMER] + [_party(CONSUMER, "consumer")]
    log = LogIdentity(origin="rehearsal/log", key=SigningKey.generate().public.hex())
    return Agreement(uid="rehearsal", title="Rehearsal", log=log, parties=tuple(parties), declarations=tuple(declarations), terms=terms)


def declarations(forms: Sequence[Path]) -> tuple[Declaration, ...]:
    """Return the declarations of YAML forms. Raises Malformed."""
    return tuple(declaration_of(read_form(form)) for form in forms)


def by_dataset(agreement: Agreement, twins: Sequence[str]) -> dict[str, Path]:
    """Return twins by dataset: `DATASET=FILE` as it says, a plain FILE for the declaration at its place. Raises Malformed."""
    found: dict[str, Path] = {}
    for position, text in enumerate(twins):
        dataset, separator, file = text.partition("=")
        if not separator or dataset not in agreement.by_dataset:
            if position >= len(agreement.declarations):
                raise Malformed("there are more twins than datasets", where="twin")
            dataset, file = agreement.declarations[position].dataset, text
        if not Path(file).is_file():
            raise Malformed(f"there is no file {file}", where="twin")
        found[dataset] = Path(file)
    return found


def rehearse(agreement: Agreement, request: JobRequest, twins: Mapping[str, Path]) -> Release:
    """Return the release that the real enclave draws from twins (by dataset) for a request under `agreement`.

    The decision counts no earlier charges: budgets are with the ledgers of a real service.

    Raises:
        Malformed: a query or twin that does not fit. PolicyRefused: the agreement does not allow the request. ReleaseWithheld: the gate
            kept it. Unavailable: the enclave process ended.
    """
    opening = SealingKey.generate()
    agreement = _with_key(agreement, request.consumer, opening)
    request = replace(request, agreement=agreement_digest(agreement))
    plan = plan_of(request, agreement.by_dataset)
    with tempfile.TemporaryDirectory(prefix="rehearsal-") as name:
        files, keys = {}, {}
        for dataset in plan.sources:
            if dataset not in twins:
                raise Malformed(f"the query reads `{dataset}`, and no twin of it is given", where="twin")
            files[dataset] = Path(name) / f"{dataset}.parquet"
            keys[dataset] = _encrypt(agreement.by_dataset[dataset], twins[dataset], files[dataset])
        grant = _grant(agreement, request, files)
        try:
            return _run(grant, agreement, keys, files, opening)
        except EnclaveDied as error:
            raise Unavailable("the enclave process ended without a release", code="enclave-died") from error


def _with_key(agreement: Agreement, consumer: str, opening: SealingKey) -> Agreement:
    parties = (replace(p, sealing_key=opening.public.hex()) if p.id == consumer else p for p in agreement.parties)
    return replace(agreement, parties=tuple(parties))


def _encrypt(declaration: Declaration, twin: Path, file: Path) -> dict[str, bytes]:
    table = read_table(twin, declaration)
    keys = {name: os.urandom(KEY_BYTES) for name in (FOOTER, *table.column_names)}
    encrypt_table(table, file, dataset=declaration.dataset, version=_VERSION, keys=keys)
    return keys


def _grant(agreement: Agreement, request: JobRequest, files: Mapping[str, Path]) -> Grant:
    plan = plan_of(request, agreement.by_dataset)
    facts = Facts(
        now=int(time.time()),
        enclave_kind="simulated",
        measurement=measurement(checkout_root()),
        versions=tuple(
            VersionFact(dataset=dataset, version=_VERSION, file_digest=digest_bytes(path.read_bytes())) for dataset, path in files.items()
        ),
        spent=(),
        recent=tuple(
            RecentFact(provider=provider, id_space=id_space, days=days, spent=Loss(amount=0), own=Loss(amount=0))
            for provider, id_space, days in periods(agreement, plan.sources)
        ),
    )
    decision = decide(request, agreement, plan, facts)
    if not decision.allowed:
        raise refusal(decision)
    return make_grant(request.agreement, digest(encode(request)), request, agreement, plan, facts, decision)


def _run(
    grant: Grant, agreement: Agreement, keys: Mapping[str, Mapping[str, bytes]], files: Mapping[str, Path], opening: SealingKey
) -> Release:
    nonces = [Nonce(provider=provider, value=os.urandom(32).hex()) for provider in sorted({read.provider for read in grant.reads})]
    with EnclaveProcess() as enclave:
        evidence = enclave.start(grant, agreement_document(agreement), nonces, RUN_TIMEOUT_S)
        attested = appraise(evidence, grant=grant, kinds=("simulated",), measurements=(grant.measurement,), nonce=nonces[0])
        sealed_keys = {nonce.provider: _sealed(grant, keys, nonce, attested).hex() for nonce in nonces}
        signed, sealed = enclave.run(sealed_keys, files, RUN_TIMEOUT_S)
    statement = verify_statement(signed, attested, grant)
    if statement.withheld is not None:
        raise ReleaseWithheld(f"the gate withheld the release: {statement.withheld}", code=statement.withheld)
    plain = opening.open(sealed, release_info(grant_digest(grant)))
    return decode(Release, parse_json(plain[4 : 4 + int.from_bytes(plain[:4], "big")], limit=16 << 20))


def _sealed(grant: Grant, keys: Mapping[str, Mapping[str, bytes]], nonce: Nonce, attested: Attested) -> bytes:
    own = [read for read in grant.reads if read.provider == nonce.provider]
    released = {read.dataset: {name: keys[read.dataset][name].hex() for name in (FOOTER, *read.columns)} for read in own}
    info = key_release_info(nonce.value, grant_digest(grant), attested.digest)
    return seal(bytes.fromhex(attested.evidence.sealing_key), canonical(released), info)


def _party(name: str, role: str) -> Party:
    signing, sealing = SigningKey.generate().public.hex(), SealingKey.generate().public.hex()
    return Party(id=name, roles=(role,), signing_key=signing, sealing_key=sealing)  # type: ignore[arg-type]
