"""Sums of encrypted integers beside TenSEAL's own vectors, python-paillier and HEU's Okamoto-Uchiyama.

Everything runs in one process after another on the same machine, rounds interleaved, the smallest of all rounds counts: a shared machine
only ever adds time. Times of one core are processor times of one process; `seconds` are of the wall, with all cores.

`ratio_to_phe` and `ratio_to_heu` are at equal security: 128 bits, which is a modulus of 3072 bits there (NIST SP 800-57, table 2) and these
parameters here (HomomorphicEncryption.org standard, table 1). `peers_us` has 2048 bits, too, and HEU's packing of two values into one.
Own time includes packing and serialising, theirs encoding only. Both peers run on one core, in an environment of their own.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.peers.environments import install
from benchmarks.peers.environments import measure as measure_peer
from enclaves.kit import he
from policies.joint import NARROW, PARAMETERS, SCORING, WIDE

PEER_VALUES = 4000


def core_seconds(act: Callable[[], Any], rounds: int) -> float:
    """Smallest processor time of one call."""
    found = []
    for _ in range(rounds):
        began = time.process_time()
        act()
        found.append(time.process_time() - began)
    return min(found)


def tenseal_encrypt(values: list[int], name: str) -> Callable[[], object]:
    """TenSEAL's own vector for totals of as many bits, encrypted and serialised in vectors of the degree.

    It chooses the primes itself, the largest of 60 bits, so that SEAL divides the last one away, whichever plain modulus is left.
    """
    import tenseal

    modulus = SCORING.plain_modulus if name == WIDE.name else PARAMETERS[name].plain_modulus
    bits = [prime.bit_length() for prime in SCORING.primes]
    context = tenseal.context(tenseal.SCHEME_TYPE.BFV, SCORING.degree, modulus, coeff_mod_bit_sizes=bits, n_threads=1)
    width = SCORING.degree
    return lambda: [tenseal.bfv_vector(context, values[i : i + width]).serialize() for i in range(0, len(values), width)]


def peers_us(values: list[int]) -> dict[str, float]:
    """Core microseconds of one value by python-paillier and HEU, as `benchmarks.peers.additive` prints them; nothing if not installed."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "values.json"
        file.write_text(json.dumps({"values": values[:PEER_VALUES]}))
        found = measure_peer("additive", file, core=max(os.sched_getaffinity(0)))
    return {} if "failed" in found else found


def whole(name: str, values: np.ndarray[Any, Any], contributors: int, processes: int) -> tuple[float, float]:
    """Wall seconds to encrypt for and to add up all contributors. Checks the total."""
    parameters = PARAMETERS[name]
    key, bound = he.generate_key(name), parameters.largest // contributors
    began = time.perf_counter()
    files = [
        he.write_ciphertexts(he.encrypt(name, key.public, he.pack(name, values, bound), processes=processes)) for _ in range(contributors)
    ]
    encrypted = time.perf_counter()
    total = he.read_ciphertexts(name, files[0], parameters.ciphertexts(len(values))).copy()
    for data in files[1:]:
        he.add_into(name, total, he.read_ciphertexts(name, data, len(total)))
    added = time.perf_counter()
    opened = he.unpack(name, he.decrypt(name, key.secret, total), len(values), np.full(len(values), parameters.largest))
    assert (opened == values * contributors).all(), "the total is exact"
    return encrypted - began, added - encrypted


def measure(name: str, count: int, contributors: int, rounds: int, *, peers: bool) -> dict[str, Any]:
    """All figures for one set of parameters."""
    parameters = PARAMETERS[name]
    bound = parameters.largest // contributors
    values = np.random.default_rng(1).integers(-bound, bound, count)
    key = he.generate_key(name)
    he.encrypt(name, key.public, he.pack(name, values[: parameters.slots], bound))
    sample = values[: min(count, 16 * parameters.slots)]
    peer = tenseal_encrypt(sample.tolist(), name)
    own_s, peer_s = [], []
    for _ in range(rounds):
        own_s.append(core_seconds(lambda: he.write_ciphertexts(he.encrypt(name, key.public, he.pack(name, sample, bound))), 1))
        peer_s.append(core_seconds(peer, 1))
    own = min(own_s) / len(sample)
    data = he.write_ciphertexts(he.encrypt(name, key.public, he.pack(name, sample, bound)))
    chunks = parameters.ciphertexts(len(sample))
    total = he.read_ciphertexts(name, data, chunks).copy()
    host = core_seconds(lambda: he.add_into(name, total, he.read_ciphertexts(name, data, chunks)), max(3, rounds))
    others = peers_us(sample.tolist()) if peers else {}
    return {
        "encrypt_us_per_value": round(own * 1e6, 4),
        "ratio_to_tenseal": round(min(peer_s) / len(sample) / own, 2),
        "ratio_to_phe": round(others["phe_3072"] / own / 1e6) if others else None,
        "ratio_to_heu": round(others["heu_3072"] / own / 1e6) if others else None,
        "peers_us": others,
        "bytes_per_value": round(len(data) / len(sample), 2),
        "host_ns_per_value": round(host / len(sample) * 1e9, 1),
    }


def main() -> None:
    """Print one line per part and one JSON object at the end."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--values", type=int, default=1_000_000)
    parser.add_argument("--contributors", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it runs")
    asked = parser.parse_args()
    count, contributors, rounds = (30_000, 3, 1) if asked.quick else (asked.values, asked.contributors, asked.rounds)
    if not asked.quick and (failed := install("additive")):
        print(f"peers are not installed: {failed}")
    wide, narrow = (measure(name, count, contributors, rounds, peers=not asked.quick) for name in (WIDE.name, NARROW.name))
    print("59-bit totals", wide)
    print("40-bit totals", narrow)
    values = np.random.default_rng(2).integers(-(2**40), 2**40, count)
    processes = os.cpu_count() or 1
    seconds = [whole(WIDE.name, part, contributors, processes) for part in (values[: count // 4], values)]
    print(f"{count} values x {contributors} contributors on {processes} cores: encrypt {seconds[1][0]:.1f} s, add {seconds[1][1]:.2f} s")
    linear = sum(seconds[1]) / sum(seconds[0])
    print(json.dumps({**wide, "linear": round(linear, 2), "narrow": narrow, "values": count, "contributors": contributors}))


if __name__ == "__main__":
    main()
