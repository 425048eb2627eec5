"""One run of the product on a benchmark's tables: plan, agreement, the grant that they entail, and the enclave's own steps on it."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import pyarrow as pa

from enclaves.aggregate import aggregate
from enclaves.evidence import attest_simulated
from enclaves.gate import pass_gate
from enclaves.kit.appraisal import key_release_info
from enclaves.kit.columns import FOOTER, encrypt_table
from enclaves.kit.sealing import SealingKey, seal
from enclaves.kit.signatures import SigningKey
from enclaves.run import Inputs, run
from policies.agreement import Agreement, ColumnTerm, LogIdentity, Party, Role, Terms
from policies.canonical import canonical, digest_bytes
from policies.declaration import Declaration
from policies.derive import OPERATIONS
from policies.expression import Call, Constant, Ref
from policies.grant import Grant, Read, Recipient, grant_digest
from policies.odrl import agreement_digest
from policies.privacy import parse_epsilon
from policies.query import AggregateOutput, Equality, Join, Key, KeyOutput, Plan, Table, columns_read
from policies.schedule import schedule
from policies.statement import Nonce, Release

MEMORY_MIB = 12_000
MEASUREMENT = "sha256:" + "0" * 64


def _plan(source: Table | Join, where: Call | None = None) -> Plan:
    amount, cost = Ref(table="v", column="amount"), Ref(table="v", column="cost")
    return Plan(
        source=source,
        where=where,
        group_by=(Key(expression=Ref(table="v", column="region"), source="declared"),),
        outputs=(
            KeyOutput(name="region", key=0),
            AggregateOutput(name="n", function="COUNT"),
            AggregateOutput(name="amount", function="SUM", arguments=(amount,)),
            AggregateOutput(name="cost", function="SUM", arguments=(cost,)),
        ),
    )


VISITS_TABLE = Table(alias="v", dataset="north.visits")
ONE = _plan(VISITS_TABLE)
"""SELECT region, COUNT(*), SUM(amount), SUM(cost) FROM north.visits GROUP BY region"""

JOINED = _plan(
    Join(
        left=VISITS_TABLE,
        right=Table(alias="p", dataset="south.people"),
        on=(Equality(left=Ref(table="v", column="person"), right=Ref(table="p", column="person")),),
    ),
    Call(function="<", arguments=(Ref(table="p", column="plan"), Constant(value=10, type="integer"))),
)
"""The same over north.visits v JOIN south.people p ON v.person = p.person WHERE p.plan < 10."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """A grant under an agreement, over plaintext tables by dataset."""

    agreement: Agreement
    grant: Grant
    tables: Mapping[str, pa.Table]

    def release(self) -> Release:
        """From tables in memory to noised cells: bound, aggregate, gate. No cryptography."""
        declarations = self.agreement.by_dataset
        read = {read.dataset: self.tables[read.dataset].select(list(read.columns)) for read in self.grant.reads}
        return pass_gate(aggregate(self.grant, declarations, read, memory_mib=MEMORY_MIB), self.grant, declarations)

    def encrypted(self) -> tuple[dict[str, bytes], dict[str, dict[str, bytes]]]:
        """Every table as an encrypted Parquet file, and its column keys."""
        files, keys = {}, {}
        for dataset, table in self.tables.items():
            keys[dataset] = {name: os.urandom(32) for name in (FOOTER, *table.column_names)}
            sink = io.BytesIO()
            encrypt_table(table, sink, dataset=dataset, version=1, keys=keys[dataset])
            files[dataset] = sink.getvalue()
        return files, keys

    def attested(self, files: Mapping[str, bytes], keys: Mapping[str, Mapping[str, bytes]]) -> Callable[[], bytes]:
        """A run whose grant names the files, with keys sealed to it as brokers would: from encrypted Parquet to the sealed release."""
        reads = tuple(replace(read, file_digest=digest_bytes(files[read.dataset])) for read in self.grant.reads)
        grant = replace(self.grant, reads=reads)
        nonces = tuple(Nonce(provider=name, value=os.urandom(32).hex()) for name in sorted({read.provider for read in reads}))
        identity = attest_simulated(grant, nonces, MEASUREMENT)
        sealed = {}
        for nonce in nonces:
            own = [read for read in reads if read.provider == nonce.provider]
            held = {read.dataset: {name: keys[read.dataset][name].hex() for name in (FOOTER, *read.columns)} for read in own}
            info = key_release_info(nonce.value, grant_digest(grant), identity.digest)
            sealed[nonce.provider] = seal(identity.sealing.public, canonical(held), info)

        def sealed_release() -> bytes:
            statement, release = run(grant, self.agreement, identity, Inputs(sealed_keys=sealed, files=files), memory_mib=MEMORY_MIB)
            assert release is not None, statement.statement.withheld
            return release

        return sealed_release


def stage(plan: Plan, declarations: tuple[Declaration, ...], tables: Mapping[str, pa.Table], epsilon: str = "1") -> Stage:
    """Lay out a run of `plan` with `epsilon` under terms that allow everything."""
    agreement = _agreement(declarations)
    loss = parse_epsilon(epsilon)
    columns = columns_read(plan, agreement.by_dataset)
    reads = tuple(
        Read(dataset=d, provider=d.partition(".")[0], version=1, file_digest=MEASUREMENT, columns=columns[d]) for d in plan.sources
    )
    grant = Grant(
        job="job-1",
        agreement=agreement_digest(agreement),
        request=MEASUREMENT,
        plan=plan,
        reads=reads,
        statistics=schedule(plan, agreement.by_dataset, loss, 1),
        loss=loss,
        minimum_group=1,
        recipient=Recipient(id="asker", sealing_key=agreement.party("asker").sealing_key),
        enclave_kind="simulated",
        measurement=MEASUREMENT,
    )
    return Stage(agreement=agreement, grant=grant, tables=tables)


def _agreement(declarations: tuple[Declaration, ...]) -> Agreement:
    roles: dict[str, tuple[Role, ...]] = {declaration.provider: ("provider",) for declaration in declarations} | {"asker": ("consumer",)}
    loss = parse_epsilon("100")
    return Agreement(
        uid="bench",
        title="Benchmark",
        log=LogIdentity(origin="bench.example/log", key=SigningKey.generate().public.hex()),
        parties=tuple(
            Party(id=name, roles=of, signing_key=SigningKey.generate().public.hex(), sealing_key=SealingKey.generate().public.hex())
            for name, of in roles.items()
        ),
        declarations=declarations,
        terms=tuple(
            Terms(
                dataset=declaration.dataset,
                assignees=("asker",),
                purposes=("benchmark",),
                not_before=0,
                not_after=4_000_000_000,
                columns=tuple(ColumnTerm(column=column.name, operations=OPERATIONS) for column in declaration.columns),
                minimum_group=1,
                job_loss=loss,
                total_loss=loss,
                recipients=("asker",),
                enclave_kinds=("simulated",),
                measurements=(MEASUREMENT,),
            )
            for declaration in declarations
        ),
    )
