"""Schemas of offers and agreements on the wire: the fixed ODRL shape around the law's own dataclasses (policies/odrl.py)."""

from __future__ import annotations

from typing import Any

from policies.agreement import ColumnTerm, LogIdentity, Party
from policies.declaration import Declaration
from policies.joint import Pool
from policies.names import PATTERNS
from policies.odrl import CONTEXT, OPERANDS, OPTIONAL, PROFILE

_NAME = {"type": "string", "pattern": f"^{PATTERNS['require_name']}$"}
_DATASET = {"type": "string", "pattern": f"^{PATTERNS['require_dataset']}$"}


def _object(properties: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False, **others}


_PERMISSION = _object(
    {
        "target": _DATASET,
        "assigner": _NAME,
        "assignee": {"type": "array", "items": _NAME},
        "action": {"const": "sb:aggregate"},
        "constraint": {
            "type": "array",
            "minItems": len(OPERANDS) - len(OPTIONAL),
            "maxItems": len(OPERANDS),
            "items": {
                "anyOf": [
                    _object({"leftOperand": {"const": left}, "operator": {"const": operator}, "rightOperand": {}})
                    for left, operator in OPERANDS
                ]
            },
        },
        "sb:column": {"type": "array", "items": ColumnTerm},
    }
)


def _uid(kind: str) -> dict[str, str]:
    return {"type": "string", "pattern": f"^urn:sandbox:{kind}:{PATTERNS['require_slug']}$"}


OFFER = _object(
    {
        "@context": {"const": CONTEXT},
        "@type": {"const": "Offer"},
        "profile": {"const": PROFILE},
        "uid": _uid("offer"),
        "sb:title": {"type": "string"},
        "sb:declaration": Declaration,
        "permission": {"type": "array", "items": _PERMISSION, "minItems": 1, "maxItems": 1},
    },
    title="odrl.Offer",
    description="A provider's terms on one dataset, in ODRL 2.2 under our profile. It has one spelling; another is refused.",
)

_AGREEMENT = _object(
    {
        "@context": {"const": CONTEXT},
        "@type": {"const": "Agreement"},
        "profile": {"const": PROFILE},
        "uid": _uid("agreement"),
        "conflict": {"const": "prohibit"},
        "sb:title": {"type": "string"},
        "sb:log": LogIdentity,
        "sb:party": {"type": "array", "items": Party, "minItems": 2, "maxItems": 100},
        "sb:declaration": {"type": "array", "items": Declaration, "minItems": 1},
        "permission": {"type": "array", "items": _PERMISSION, "minItems": 1},
    },
    title="odrl.Agreement",
    description="Terms of all providers with the keys of all parties, in ODRL 2.2 under our profile. Named by its digest.",
)

_POOLS = {"sb:pool": {"type": "array", "items": Pool, "minItems": 1}}
AGREEMENT = {**_AGREEMENT, "properties": {**_AGREEMENT["properties"], **_POOLS}}
"""Pools stand in it where there are any."""
