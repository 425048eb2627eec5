"""One attempt at a joint total in this process, with everybody's keys at hand."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from enclaves import joint, joint_sum
from enclaves.kit import he
from enclaves.kit.appraisal import release_info
from enclaves.kit.he_masks import mask_keys
from enclaves.kit.sealing import SealingKey
from enclaves.kit.signatures import SigningKey
from policies.canonical import digest, digest_bytes, parse_json
from policies.codec import decode, encode
from policies.decide import decide
from policies.grant import entail, grant_digest
from policies.joint import Pool
from policies.joint_documents import JointManifest, JointRelease
from policies.joint_grant import JointGrant
from policies.odrl import agreement_digest
from policies.plan import parse_plan
from policies.privacy import parse_loss
from policies.training import Training
from tests.support.pool import SQL, agreement_of, pool_facts, pool_request


class Attempt:
    """One attempt with all keys at hand.

    Attributes:
        tables: by contributor, in the pool's order.
    """

    def __init__(
        self, pool: Pool, tables: Mapping[str, pa.Table], sql: str = SQL, rho: str = "0.5", training: Training | None = None, **agreed: Any
    ) -> None:
        self.tables = tables
        self.keys = {name: (SigningKey.generate(), SealingKey.generate()) for name in (*tables, "notary", "analyst")}
        self.agreement = agreement_of(tuple(tables), pool, self.keys, **agreed)
        request = pool_request(agreement_digest(self.agreement), sql, parse_loss("zcdp", rho), training=training)
        plan = parse_plan(sql, self.agreement.by_dataset, training)
        decision = decide(request, self.agreement, plan, pool_facts())
        assert decision.allowed, [f for f in decision.findings if not f.allowed]
        grant = entail(agreement_digest(self.agreement), "sha256:" + "1" * 64, request, self.agreement, plan, pool_facts(), decision)
        assert isinstance(grant, JointGrant)
        self.grant, self.declarations = grant, self.agreement.by_dataset
        self.pair = he.generate_key(grant.parameters)
        self.manifest = JointManifest(
            job=grant.job,
            grant=grant_digest(grant),
            attempt=1,
            contributors=tuple(tables),
            public_key=digest_bytes(self.pair.public),
        )

    def contribution(self, name: str, table: pa.Table | None = None) -> bytes:
        peers = {peer: self.keys[peer][1].public.hex() for peer in self.tables if peer != name}
        masks = mask_keys(self.keys[name][1], name, peers, digest(encode(self.manifest)))
        table = self.tables[name] if table is None else table
        return joint.contribute(self.grant, self.manifest, self.declarations, f"{name}.claims", table, self.pair.public, masks)

    def contributions(self) -> dict[str, bytes]:
        return {name: self.contribution(name) for name in self.tables}

    def total(self, parts: dict[str, bytes]) -> bytes:
        return joint_sum.add_up(self.grant, self.declarations, parts, self.pair.public)

    def open(self, total: bytes) -> JointRelease | str:
        sealed, withheld = joint.open_total(self.grant, self.manifest, self.declarations, total, self.pair.secret)
        if sealed is None:
            return str(withheld)
        plain = self.keys["analyst"][1].open(sealed, release_info(grant_digest(self.grant)))
        return decode(JointRelease, parse_json(plain[4 : 4 + int.from_bytes(plain[:4], "big")]))
