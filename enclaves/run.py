"""One run, readable top to bottom: verify grant -> unseal -> check file digests -> bound and compute -> gate -> sign."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from enclaves.aggregate import TooManyCells
from enclaves.evidence import Identity
from enclaves.gate import pad, pass_gate, scores_release
from enclaves.kit.appraisal import STATEMENT_PURPOSE, key_release_info, release_info
from enclaves.kit.columns import FOOTER, StoredColumns
from enclaves.kit.rotation import keys_in_force
from enclaves.kit.sealing import seal
from enclaves.parts import aggregate_files
from policies.acceptance import Verdict
from policies.agreement import Agreement
from policies.canonical import canonical, digest_bytes, parse_json
from policies.codec import decode, encode
from policies.errors import SandboxError, Tampered
from policies.grant import Grant, grant_digest, isolation_required
from policies.granted import MAX_RELEASE, PADDING_FOR_SEAL, WithheldCode
from policies.isolation import lacking
from policies.model import passes
from policies.odrl import agreement_digest
from policies.query import columns_read
from policies.schedule import schedule
from policies.service import Probing
from policies.statement import Release, SignedStatement, Statement


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What the statement of a run says besides: whether a model passed its test; of a scoring service's call, the word about its rows."""

    accepted: Verdict | None = None
    probing: Probing | None = None


NOTHING_SAID = Said()


class Withhold(Exception):
    """Ends a run without a release. Carries words of closed sets and nothing else."""

    def __init__(self, code: WithheldCode, said: Said = NOTHING_SAID) -> None:
        super().__init__(code)
        self.code: WithheldCode = code
        self.said = said


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What a run gets after attestation: per provider the keys sealed to this enclave, per dataset the encrypted file."""

    sealed_keys: Mapping[str, bytes]
    files: Mapping[str, bytes | memoryview]


def run(grant: Grant, agreement: Agreement, identity: Identity, inputs: Inputs, *, memory_mib: int) -> tuple[SignedStatement, bytes | None]:
    """Return the signed statement and the sealed release, or a statement of withholding and None. Never raises for what data hold."""
    try:
        verify_grant(grant, agreement)
        if lacking(grant.isolation, identity.evidence.evidence.isolation):
            raise Withhold("grant-mismatch")
        keys = unseal_keys(grant, identity, inputs.sealed_keys)
        tables = {read.dataset: _open_columns(grant, read.dataset, keys, inputs.files) for read in grant.reads}
        release, said = _computed(grant, agreement, tables, memory_mib)
        if len(release) > most_bytes(grant, agreement) - PADDING_FOR_SEAL:
            raise Withhold("output-limit")
        sealed = seal(bytes.fromhex(grant.recipient.sealing_key), release, release_info(grant_digest(grant)))
    except Withhold as reason:
        return _sign(grant, identity, None, reason.code, reason.said), None
    except TooManyCells:
        return _sign(grant, identity, None, "output-limit"), None
    except Exception:  # noqa: BLE001 - an error is an output: one word for all that may depend on what the data hold
        return _sign(grant, identity, None, "internal"), None
    return _sign(grant, identity, digest_bytes(sealed), None, said), sealed


def most_bytes(grant: Grant, agreement: Agreement) -> int:
    """Return the most bytes that a sealed release may have: the least that any provider of the grant allows."""
    bounds = (agreement.terms_of(read.dataset).output_bytes for read in grant.reads)
    return min([MAX_RELEASE, *(bound for bound in bounds if bound is not None)])


def verify_grant(grant: Grant, agreement: Agreement) -> None:
    """Withhold unless the grant is exactly what the agreement entails for its plan and loss."""
    declarations = agreement.by_dataset
    try:
        if agreement_digest(agreement) != grant.agreement:
            raise Withhold("grant-mismatch")
        columns = columns_read(grant.plan, declarations)
        minimum = max(agreement.terms_of(dataset).minimum_group for dataset in grant.plan.sources)
        faithful = (
            [read.dataset for read in grant.reads] == list(grant.plan.sources)
            and all(read.columns == columns[read.dataset] for read in grant.reads)
            and all(read.provider == declarations[read.dataset].provider for read in grant.reads)
            and grant.minimum_group >= minimum  # a tightening may have raised it
            and grant.isolation == isolation_required(agreement, grant.plan)
            and grant.statistics == schedule(grant.plan, declarations, grant.loss, grant.minimum_group)
            and grant.recipient.sealing_key == keys_in_force(agreement.party(grant.recipient.id), grant.recipient.rotations)[1]
        )
    except (SandboxError, KeyError) as error:
        raise Withhold("grant-mismatch") from error
    if not faithful:
        raise Withhold("grant-mismatch")


def unseal_keys(grant: Grant, identity: Identity, sealed_keys: Mapping[str, bytes]) -> dict[str, dict[str, bytes]]:
    """Return the column keys per dataset that the brokers sealed to this run; each provider's for its own datasets only."""
    keys: dict[str, dict[str, bytes]] = {}
    for provider in {read.provider for read in grant.reads}:
        own = {read.dataset for read in grant.reads if read.provider == provider}
        info = key_release_info(identity.nonce_of(provider), grant_digest(grant), identity.digest)
        try:
            opened = parse_json(identity.sealing.open(sealed_keys[provider], info))
            released = decode(dict[str, dict[str, str]], opened)
            keys |= {dataset: {name: bytes.fromhex(key) for name, key in released[dataset].items()} for dataset in own}
        except (SandboxError, KeyError, ValueError) as error:
            raise Withhold("keys-missing") from error
    return keys


def _counting(grant: Grant) -> Grant:
    """The grant without the rows of a test: the cells of a release are of the rows that a model is trained on."""
    tested = grant.plan.tested_tables
    if not tested:
        return grant
    return replace(grant, plan=grant.plan.parts[0], reads=tuple(read for read in grant.reads if read.dataset not in tested))


def _open_columns(grant: Grant, dataset: str, keys: dict[str, dict[str, bytes]], files: Mapping[str, bytes | memoryview]) -> StoredColumns:
    read = next(read for read in grant.reads if read.dataset == dataset)
    if dataset not in files or digest_bytes(files[dataset]) != read.file_digest:
        raise Withhold("input-tampered")
    held = keys.get(dataset, {})
    if not {FOOTER, *read.columns} <= set(held):
        raise Withhold("keys-missing")
    stored = StoredColumns(files[dataset], dataset=dataset, version=read.version, keys=held, columns=read.columns)
    try:
        stored.decoded_bytes()
    except Tampered as error:
        raise Withhold("input-unreadable") from error
    return stored


def _computed(grant: Grant, agreement: Agreement, tables: Mapping[str, StoredColumns], memory_mib: int) -> tuple[bytes, Said]:
    """The release, padded, and what is said of it."""
    if grant.plan.scoring is not None:
        return _scored(grant, agreement, tables, grant.plan.scoring.model, memory_mib)
    counted = {dataset: stored for dataset, stored in tables.items() if dataset not in grant.plan.tested_tables}
    exact = aggregate_files(_counting(grant), agreement.by_dataset, counted, memory_mib=memory_mib)
    passed = pass_gate(exact, grant, agreement.by_dataset)
    found = _with_model(passed, grant, agreement, tables, memory_mib=memory_mib)
    return pad(found), Said(accepted=_verdict(found, grant))


def _scored(grant: Grant, agreement: Agreement, tables: Mapping[str, StoredColumns], model: str, memory_mib: int) -> tuple[bytes, Said]:
    from enclaves.learn.service import Unscored, score

    try:
        found = score(grant, agreement.by_dataset, tables, memory_mib=memory_mib)
    except Unscored as error:
        raise Withhold(error.code) from error
    if found.probing == "suspected" and agreement.terms_of(model).withhold_probing:
        raise Withhold("probing", Said(probing=found.probing))
    return pad(scores_release(grant, found.scores)), Said(probing=found.probing)


def _with_model(release: Release, grant: Grant, agreement: Agreement, files: Mapping[str, StoredColumns], *, memory_mib: int) -> Release:
    """The release with what its plan trains. Below the minimum group, by the noised number of units, nothing is trained."""
    if grant.plan.training is None or release.cells[0].suppressed:
        return release
    # Only a run that trains reads the code for it.
    from enclaves.learn.release import learn

    return replace(release, model=learn(grant, agreement.by_dataset, files, memory_mib=memory_mib))


def _verdict(release: Release, grant: Grant) -> Verdict | None:
    """Whether what was trained passes its test, from the noised metrics in the release. What was not trained does not."""
    test = grant.plan.training.test if grant.plan.training is not None else None
    if test is None:
        return None
    return "yes" if release.model is not None and passes(release.model.metrics, test) else "no"


def _sign(
    grant: Grant, identity: Identity, sealed: str | None, withheld: WithheldCode | None, said: Said = NOTHING_SAID
) -> SignedStatement:
    statement = Statement(
        grant=grant_digest(grant),
        evidence=identity.digest,
        sealed=sealed,
        withheld=withheld,
        statistics=grant.statistics,
        loss=grant.loss,
        accepted=said.accepted,
        probing=said.probing,
    )
    message = canonical(encode(statement))
    return SignedStatement(statement=statement, signature=identity.signing.sign(STATEMENT_PURPOSE, message).hex())
