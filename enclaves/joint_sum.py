"""The host's part of a joint total, run in a child process: it adds ciphertexts that it cannot read.

With two-sided noise it adds an encryption of its own noise; without, an encryption of zeros, so that the sum does not tell from which
ciphertexts it was made. It needs no engine for tables, so a host that waits for a sum does not wait for one to load.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from enclaves.dp import add_noise
from enclaves.kit import he
from policies.declaration import Declaration
from policies.errors import Malformed
from policies.joint_grant import JointGrant, value_count, widths_of

Declarations = Mapping[str, Declaration]


class Rejected(Exception):
    """A contribution that is no ciphertexts of this job: whose it is and a code word."""

    def __init__(self, contributor: str, code: str) -> None:
        super().__init__(contributor, code)
        self.contributor = contributor
        self.code = code


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
    widths = widths_of(grant, declarations)
    drawn = [add_noise([0] * width, statistic) for statistic, width in zip(grant.statistics, widths, strict=True)]
    return np.array([value for part in drawn for value in part], dtype=np.int64)
