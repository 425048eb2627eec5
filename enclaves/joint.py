"""Parts of a joint total, each run in a child process by the party whose part it is: contribute, add up, open.

A contributor computes its exact vectors as an enclave would, bounds included, checks them, masks and encrypts them. The host adds
ciphertexts that it cannot read, and with two-sided noise an encryption of its own noise; without, an encryption of zeros, so that the sum
does not tell from which ciphertexts it was made. The key holder decrypts once, believes nothing that is out of its window, adds its noise
and passes the result through the same gate as an enclave's.
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
from policies.canonical import digest
from policies.codec import encode
from policies.declaration import Declaration
from policies.errors import Malformed, SandboxError, Tampered
from policies.grant import grant_digest
from policies.granted import MAX_RELEASE
from policies.joint import share_scale
from policies.joint_documents import JointManifest, JointRelease, JointWithheld
from policies.joint_grant import JointGrant, as_read_by, cells_of, value_count
from policies.query import columns_read

if TYPE_CHECKING:
    import pyarrow as pa

MEMORY_MIB = 2048
SEAL_BYTES = 64
"""HPKE adds a 32-byte encapsulated key and a 16-byte tag."""

Declarations = Mapping[str, Declaration]


class Rejected(Exception):
    """A contribution that is no ciphertexts of this job: whose it is and a code word."""

    def __init__(self, contributor: str, code: str) -> None:
        super().__init__(contributor, code)
        self.contributor = contributor
        self.code = code


def contribute(
    grant: JointGrant,
    manifest: JointManifest,
    declarations: Declarations,
    member: str,
    table: pa.Table,
    public: bytes,
    masks: Sequence[MaskKey],
    *,
    processes: int = 1,
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
    columns = columns_read(plan, declarations)
    exact = aggregate_plan(plan, grant.statistics, columns, declarations, {member: table}, memory_mib=MEMORY_MIB)
    if exact.keys != cells_of(grant, declarations):
        raise Malformed("the cells are not those of the pool", code="joint-cells")
    parts = []
    for statistic, bound in zip(grant.statistics, grant.bounds, strict=True):
        vector = np.array(exact.vectors[statistic.name], dtype=np.int64)
        if len(vector) and int(np.abs(vector).max()) > bound:
            raise Malformed("a total lies beyond what the pool allows one contributor", code="pool-rows")
        if grant.pool.noise == "distributed":
            honest = len(manifest.contributors) - grant.pool.coalition
            vector = vector + np.array(draw_share(len(vector), share_scale(statistic.scale, honest)), dtype=np.int64)
        parts.append(vector)
    values = np.concatenate(parts)
    slots = he.pack(grant.parameters, values, grant.scheme.largest)
    masked = add_mask(slots, expand(masks, grant.scheme, len(values)), grant.scheme, len(values))
    return he.write_ciphertexts(he.encrypt(grant.parameters, public, masked, processes=processes))


def add_up(grant: JointGrant, declarations: Declarations, contributions: Mapping[str, bytes | memoryview], public: bytes) -> bytes:
    """Return the ciphertexts of the sum of all contributions and of the host's own noise.

    Raises:
        Rejected: naming the first contributor whose bytes are no ciphertexts of this job.
    """
    count = value_count(grant, declarations)
    total = he.encrypt(grant.parameters, public, he.pack(grant.parameters, _host_noise(grant, declarations), grant.scheme.largest))
    assert len(total) == grant.scheme.ciphertexts(count)
    for contributor, data in contributions.items():
        try:
            words = he.read_ciphertexts(grant.parameters, data, len(total))
        except Malformed as error:
            raise Rejected(contributor, error.code) from error
        he.add_into(grant.parameters, total, words)
    return he.write_ciphertexts(total)


def _host_noise(grant: JointGrant, declarations: Declarations) -> he.Integers:
    if grant.pool.noise != "two-sided":
        return np.zeros(value_count(grant, declarations), dtype=np.int64)
    cells = len(cells_of(grant, declarations))
    drawn = [add_noise([0] * (cells * max(1, s.measured.bins)), s) for s in grant.statistics]
    return np.array([value for part in drawn for value in part], dtype=np.int64)


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
    windows = grant.windows(len(cells), contributors)
    words = he.read_ciphertexts(grant.parameters, total, grant.scheme.ciphertexts(len(windows)))
    values = he.unpack(
        grant.parameters, he.decrypt(grant.parameters, secret, words), len(windows), np.array(windows, dtype=np.int64)
    ).tolist()
    noised: dict[str, Sequence[int]] = {}
    taken = 0
    for statistic in grant.statistics:
        width = len(cells) * max(1, statistic.measured.bins)
        part = values[taken : taken + width]
        taken += width
        noised[statistic.name] = add_noise(part, statistic) if grant.pool.noise == "two-sided" else part
    if taken != len(values):
        raise Tampered("the total has another length")
    return JointRelease(
        grant=grant_digest(grant),
        manifest=digest(encode(manifest)),
        noise=grant.pool.noise,
        contributors=manifest.contributors,
        key_names=key_names(grant.plan),
        cells=released_cells(grant.plan, declarations, grant.released_statistics(contributors), grant.minimum_group, cells, noised),
        minimum_group=grant.minimum_group,
        statistics=grant.statistics,
        loss=grant.loss,
    )
