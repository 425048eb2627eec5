"""Additively homomorphic schemes on one core: a JSON file with `values`, whole numbers, to encrypt.

Printed is the processor time of one value in microseconds, encoding included, for moduli of 2048 bits (112 bits of security by NIST
SP 800-57, table 2) and 3072 bits (128): python-paillier; HEU's Okamoto-Uchiyama through its arrays, one value to a plaintext, and two to
one, which is as many as its encoder packs. Ciphertexts are not serialised, and keys are not part of it.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from heu import numpy as heu_numpy
from heu import phe as heu
from phe import generate_paillier_keypair

BITS = (2048, 3072)
ROUNDS = 5
PAILLIER_VALUES = 5


def microseconds(act: Callable[[], Any], count: int) -> float:
    """Least processor time of a call, by value."""
    found = []
    for _ in range(ROUNDS):
        began = time.process_time()
        act()
        found.append(time.process_time() - began)
    return round(min(found) / count * 1e6, 2)


def measured(values: list[int]) -> dict[str, float]:
    """All figures, by scheme and bits of the modulus."""
    found, array = {}, np.array(values, dtype=np.int64)
    for bits in BITS:
        kit = heu_numpy.setup(heu.SchemaType.OU, bits)
        encryptor, pairs = kit.encryptor(), kit.batch_integer_encoder()
        single = heu.BigintEncoderParams()
        found[f"heu_{bits}"] = microseconds(lambda k=kit, e=encryptor, s=single: e.encrypt(k.array(array, s)), len(values))
        packed = array[: len(array) // 2 * 2].reshape(-1, 2)
        found[f"heu_pairs_{bits}"] = microseconds(lambda k=kit, e=encryptor, p=pairs, a=packed: e.encrypt(k.array(a, p)), packed.size)
        public, _ = generate_paillier_keypair(n_length=bits)
        few = values[:PAILLIER_VALUES]
        found[f"phe_{bits}"] = microseconds(lambda p=public, f=few: [p.encrypt(value) for value in f], len(few))
    return found


if __name__ == "__main__":
    print(json.dumps(measured(json.loads(Path(sys.argv[1]).read_text())["values"])))
