"""The parties' parts of a joint total, each run in a child process by the party whose part it is: contribute, open.

A contributor computes its exact vectors as an enclave would, bounds included, checks them, masks and encrypts them. The key holder
decrypts once, believes nothing that is out of its window, adds its noise and passes the result through the same gate as an enclave's. The
host's part between the two is `enclaves.joint_sum`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from enclaves.aggregate import aggregate_plan
from enclaves.dp import add_noise, draw_share
from enclaves.gate import key_names, pad, released_cells
from enclaves.kit import he
from enclaves.kit.appraisal import release_info
from enclaves.kit.he_masks import MaskKey, add_mask, expand
from enclaves.kit.sealing import seal
from enclaves.learn.release import from_moments, moments_at_home
from policies.canonical import digest
from policies.codec import encode
from policies.declaration import Declaration
from policies.errors import Malformed, SandboxError, Tampered
from policies.grant import grant_digest
from policies.granted import MAX_RELEASE
from policies.joint import share_scale
from policies.joint_documents import JointManifest, JointRelease, JointWithheld
from policies.joint_grant import JointGrant, as_read_by, cells_of, widths_of, windows_of
from policies.model import ModelRelease
from policies.privacy import SCALE_UNIT
from policies.query import Plan, columns_read
from policies.schedule import TRAINED, Statistic, task_of
from policies.shape import shape

if TYPE_CHECKING:
    import pyarrow as pa

MEMORY_MIB = 2048
SEAL_BYTES = 64
"""HPKE adds a 32-byte encapsulated key and a 16-byte tag."""

Declarations = Mapping[str, Declaration]


def contribute(
    grant: JointGrant,
    manifest: JointManifest,
    declarations: Declarations,
    member: str,
    table: pa.Table,
    public: bytes,
    masks: Sequence[MaskKey],
) -> bytes:
    """Return a contributor's ciphertexts.

    Args:
        member: its dataset; `table` has the declared columns and types.
        public: the public key that the manifest names.

    Raises:
        Malformed: code `pool-rows`, for a table with more rows than the pool allows or totals beyond the bounds: nothing is clipped.
    """
    if table.num_rows > grant.pool.rows:
        raise Malformed(f"the pool allows {grant.pool.rows} rows of one contributor", code="pool-rows")
    plan = as_read_by(grant.plan, grant.pool, member)
    exact = _exact(grant, plan, declarations, member, table)
    parts = []
    for statistic, bound in zip(grant.statistics, grant.bounds, strict=True):
        vector = exact[statistic.name]
        if len(vector) and int(np.abs(vector).max()) > bound:
            raise Malformed("a total lies beyond what the pool allows one contributor", code="pool-rows")
        if grant.pool.noise == "distributed":
            honest = len(manifest.contributors) - grant.pool.coalition
            vector = vector + np.array(draw_share(len(vector), share_scale(statistic.scale, honest)), dtype=np.int64)
        parts.append(vector)
    values = np.concatenate(parts)
    slots = he.pack(grant.parameters, values, grant.scheme.largest)
    masked = add_mask(slots, expand(masks, grant.scheme, len(values)), grant.scheme, len(values))
    return he.write_ciphertexts(he.encrypt(grant.parameters, public, masked))


def _exact(grant: JointGrant, plan: Plan, declarations: Declarations, member: str, table: pa.Table) -> dict[str, he.Integers]:
    """Every statistic's exact vector over one member's rows."""
    columns, files = columns_read(plan, declarations), {member: table}
    aggregated = [statistic for statistic in grant.statistics if statistic.measured.quantity not in TRAINED]
    found = aggregate_plan(plan, aggregated, columns, declarations, files, memory_mib=MEMORY_MIB)
    if found.keys != cells_of(grant, declarations):
        raise Malformed("the cells are not those of the pool", code="joint-cells")
    exact = {name: np.array(vector, dtype=np.int64) for name, vector in found.vectors.items()}
    if plan.training is not None:
        exact["moments"] = moments_at_home(plan, declarations, columns, files, memory_mib=MEMORY_MIB)
    return exact


def open_total(
    grant: JointGrant, manifest: JointManifest, declarations: Declarations, total: bytes, secret: bytes, *, most: int = MAX_RELEASE
) -> tuple[bytes | None, JointWithheld | None]:
    """Return the sealed release, or why there is none. Never raises for what the total holds.

    Args:
        total: ciphertexts of the sum, from the host.
        secret: the job's secret key, which the caller destroys whatever comes of it.
        most: bytes of a sealed release that the terms of all members allow.
    """
    try:
        release = pad(_opened(grant, manifest, declarations, total, secret))
    except (SandboxError, RuntimeError, ValueError):
        return None, "aborted"
    if len(release) > min(most, MAX_RELEASE) - SEAL_BYTES:
        return None, "output-limit"
    return seal(bytes.fromhex(grant.recipient.sealing_key), release, release_info(grant_digest(grant))), None


def _opened(grant: JointGrant, manifest: JointManifest, declarations: Declarations, total: bytes, secret: bytes) -> JointRelease:
    cells, contributors = cells_of(grant, declarations), len(manifest.contributors)
    windows = windows_of(grant, declarations, contributors)
    words = he.read_ciphertexts(grant.parameters, total, grant.scheme.ciphertexts(len(windows)))
    values = he.unpack(
        grant.parameters, he.decrypt(grant.parameters, secret, words), len(windows), np.array(windows, dtype=np.int64)
    ).tolist()
    noised: dict[str, Sequence[int]] = {}
    taken = 0
    for statistic, width in zip(grant.statistics, widths_of(grant, declarations), strict=True):
        part = values[taken : taken + width]
        taken += width
        noised[statistic.name] = add_noise(part, statistic) if grant.pool.noise == "two-sided" else part
    if taken != len(values):
        raise Tampered("the total has another length")
    statistics = grant.released_statistics(contributors)
    shown = released_cells(grant.plan, declarations, statistics, grant.minimum_group, cells, noised)
    return JointRelease(
        grant=grant_digest(grant),
        manifest=digest(encode(manifest)),
        noise=grant.pool.noise,
        contributors=manifest.contributors,
        key_names=key_names(grant.plan),
        cells=shown,
        minimum_group=grant.minimum_group,
        statistics=grant.statistics,
        loss=grant.loss,
        model=None if grant.plan.training is None or shown[0].suppressed else _model(grant, declarations, statistics, noised["moments"]),
    )


def _model(grant: JointGrant, declarations: Declarations, statistics: Sequence[Statistic], noised: Sequence[int]) -> ModelRelease:
    """The model that noised moments make. The moments themselves are not released: terms allow a model."""
    (drawn,) = (statistic for statistic in statistics if statistic.measured.quantity == "moments")
    return from_moments(task_of(grant.plan, shape(grant.plan.source, declarations)), noised, drawn.scale / SCALE_UNIT)
