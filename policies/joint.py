"""Joint totals of several contributors by homomorphic encryption: parameters, bounds and noise. Pure; what SEAL does is in the kit.

Noise is two-sided or distributed. Two-sided: host and key holder each draw the full noise that the loss asks for, so each party's own
knowledge leaves one of them; nothing is left if both collude. Distributed: every contributor draws a share, and the shares of those
outside a coalition pay for the loss. A sum of discrete Gaussians is none, so the loss is that of Kairouz, Liu and Steinke 2021, theorem 1:
with k shares of sigma >= 1/2 over d numbers, eps^2/2-zCDP for eps = Delta / (sqrt(k) sigma) + tau sqrt(d), where
tau = 10 sum_{i=1}^{k-1} exp(-2 pi^2 sigma^2 i / (i + 1)) <= 10 k exp(-pi^2 sigma^2).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from policies.errors import Malformed
from policies.names import require_dataset, require_name
from policies.privacy import SCALE_UNIT

GUARD_SLOTS = 64
"""Slots at the end of every ciphertext that every contributor leaves at zero: of a ciphertext that is no honest sum they are not."""

MAX_CONTRIBUTORS = 16
MAX_ROWS = 10**9

SMALLEST_SHARE = 4 * SCALE_UNIT
"""Smallest sigma of a share, in units of 2^-20: from here on tau is below 10^-63 and no loss that can be written notices it."""

TAIL_SIGMAS = 12
"""A total may lie so many sigmas of its noise outside of what contributors may hold: more happens with probability below 10^-31."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Parameters:
    """One pinned set of BFV parameters, 128-bit secure by the tables of the Homomorphic Encryption Standard (2018), which SEAL enforces.

    Attributes:
        degree: of the polynomials; as many slots has a ciphertext.
        primes: of the key's modulus; where the others suffice for the plain modulus, ciphertexts leave out the last.
        plain_modulus: a prime that is 1 modulo twice the degree; slots count modulo it.
        additions: most ciphertexts that may be added before the noise of encryption could change a slot.
        largest: most that a total may be, in absolute value.
        formerly: name of the parameters that were granted in place of these until these came.
    """

    name: str
    degree: int
    primes: tuple[int, ...]
    plain_modulus: int
    additions: int
    largest: int
    formerly: str = ""

    @property
    def data_primes(self) -> tuple[int, ...]:
        """The primes of a ciphertext's modulus. SEAL divides the last one away where the others exceed the plain modulus."""
        left = self.primes[:-1]
        return left if math.prod(left) > self.plain_modulus else self.primes

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of a ciphertext's coefficients: polynomials, primes, degree."""
        return 2, len(self.data_primes), self.degree

    @property
    def slots(self) -> int:
        """Slots of a ciphertext that hold values."""
        return self.degree - GUARD_SLOTS

    @property
    def ciphertext_bytes(self) -> int:
        """Bytes of one ciphertext."""
        return 16 * len(self.data_primes) * self.degree

    @property
    def public_key_bytes(self) -> int:
        """Bytes of a public key."""
        return 16 * len(self.primes) * self.degree

    @property
    def secret_key_bytes(self) -> int:
        """Bytes of a secret key."""
        return 8 * len(self.primes) * self.degree

    def ciphertexts(self, values: int) -> int:
        """How many ciphertexts hold so many values."""
        return -(-values // self.slots)


NARROW = Parameters(
    name="bfv-4096-40",
    degree=4096,
    primes=(1152921504606830593,),
    plain_modulus=1099511480321,
    additions=32,
    largest=2**38,
)
"""Totals of 40 bits with 16 bytes a value. 9 bits of noise budget after encryption: 32 additions take 5."""

WIDE = Parameters(
    name="bfv-8192-60",
    degree=8192,
    primes=(1152921504606683137, 1152921504606748673),
    plain_modulus=1152921504606830593,
    additions=2**20,
    largest=2**57,
    formerly="bfv-8192-59",
)
"""Totals of 59 bits with 32 bytes a value. 47 bits of noise budget after encryption: 2^20 additions take 20. The plain modulus is larger
than each prime, so that ciphertexts keep both and nothing is divided away."""

SCORING = Parameters(
    name="bfv-8192-59",
    degree=8192,
    primes=(1152921504606683137, 1152921504606748673, 1152921504606830593),
    plain_modulus=576460752303210497,
    additions=2**20,
    largest=2**57,
)
"""The ring in which rows are scored (`policies.scorer`), and totals of 59 bits as they were granted before `WIDE`. 53 bits of noise budget
after encryption."""

PARAMETERS: dict[str, Parameters] = {parameters.name: parameters for parameters in (NARROW, WIDE, SCORING)}

Noise = Literal["two-sided", "distributed"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Pool:
    """Datasets of one schema that several contributors hold rows of, added up under encryption and never put together.

    Attributes:
        dataset: `pool.name`, under which queries name it.
        members: the datasets, each of another provider and with an id space of its own: all rows of one unit lie with one contributor.
        key_holder: makes the key, opens one total and destroys it. It contributes nothing.
        rows: most rows of one member.
        noise: who draws it; `coalition` is the largest number of contributors against whom the distributed noise must hold.
        dropout: what becomes of a job of which a contributor drops out: another attempt without it, or a failure that names it. With
            distributed noise it fails: a second attempt is a second draw of the shares, which a key holder in league with the host sees.
        fewest: contributors without which there is no attempt.
    """

    dataset: str
    members: tuple[str, ...]
    key_holder: str
    rows: int
    noise: Noise
    coalition: int
    dropout: Literal["rerun", "fail"]
    fewest: int

    def __post_init__(self) -> None:
        require_dataset(self.dataset, "dataset")
        require_name(self.key_holder, "key_holder")
        if not self.dataset.startswith("pool."):
            raise Malformed("must be called `pool.` and a name", where="dataset")
        providers = [member.partition(".")[0] for member in self.members]
        if not 2 <= len(self.members) <= MAX_CONTRIBUTORS or len(set(providers)) != len(providers):
            raise Malformed(f"needs 2 to {MAX_CONTRIBUTORS} datasets of distinct providers", where="members")
        if self.key_holder in providers:
            raise Malformed("the key holder contributes nothing", where="key_holder")
        if not 1 <= self.rows <= MAX_ROWS:
            raise Malformed(f"must lie between 1 and {MAX_ROWS}", where="rows")
        if not 2 <= self.fewest <= len(self.members):
            raise Malformed("must lie between 2 and the number of members", where="fewest")
        if self.noise == "two-sided" and self.coalition:
            raise Malformed("two-sided noise does not depend on contributors: the coalition is 0", where="coalition")
        if self.noise == "distributed" and not 0 <= self.coalition < len(self.members):
            raise Malformed("a contributor must be left outside the coalition", where="coalition")
        if self.noise == "distributed" and self.dropout != "fail":
            raise Malformed("with distributed noise a job fails where a contributor drops out", where="dropout")

    @property
    def contributors(self) -> tuple[str, ...]:
        """Providers of the members, in their order."""
        return tuple(member.partition(".")[0] for member in self.members)

    def member_of(self, provider: str) -> str:
        """The dataset of a contributor. Raises Malformed (code `unknown-party`)."""
        for member in self.members:
            if member.partition(".")[0] == provider:
                return member
        raise Malformed(f"`{provider[:40]}` contributes nothing to `{self.dataset}`", code="unknown-party")


def share_scale(scale: int, honest: int) -> int:
    """Return the sigma of one contributor's share such that `honest` shares cost no more than one draw of `scale`.

    All in units of 2^-20. A millionth more variance than the plain sum needs pays for tau, as the test against theorem 1 shows.

    Raises:
        Malformed: fewer than one honest contributor.
    """
    if honest < 1:
        raise Malformed("a contributor must be left outside the coalition", where="coalition")
    return max(SMALLEST_SHARE, math.isqrt(scale * scale * (2**20 + 1) // (2**20 * honest)) + 1)


def total_scale(scale: int, noise: Noise, contributors: int, coalition: int) -> int:
    """Return sigma of all noise in a release, in units of 2^-20, rounded up: intervals are computed from it."""
    if noise == "two-sided":
        return math.isqrt(2 * scale * scale) + 1
    return math.isqrt(contributors * share_scale(scale, contributors - coalition) ** 2) + 1


def distributed_loss(squared: int, sigma: float, honest: int, numbers: int) -> float:
    """Return rho of `honest` shares of discrete Gaussian noise of `sigma` on so many numbers (Kairouz, Liu and Steinke 2021, theorem 1).

    Args:
        squared: square of the L2 sensitivity.
    """
    tau = 10.0 * sum(math.exp(-2.0 * math.pi**2 * sigma**2 * i / (i + 1)) for i in range(1, honest))
    epsilon = math.sqrt(squared) / (math.sqrt(honest) * sigma) + tau * math.sqrt(numbers)
    return epsilon * epsilon / 2.0


def window(bound: int, sigma: int, contributors: int) -> int:
    """Return most that a total may be: what all contributors may hold, and the tail of its noise (`sigma` in units of 2^-20)."""
    return contributors * bound + -(-TAIL_SIGMAS * sigma // SCALE_UNIT)


def parameters_for(largest: int, contributors: int) -> Parameters:
    """Return the smallest parameters for totals up to `largest` of so many contributors and the host.

    Raises:
        Malformed: code `pool-too-large`, where no parameters hold the totals or allow so many additions.
    """
    for parameters in (NARROW, WIDE):
        if largest <= parameters.largest and contributors + 1 <= parameters.additions:
            return parameters
    raise Malformed("bounds and rows of the pool allow totals beyond 57 bits", code="pool-too-large")
