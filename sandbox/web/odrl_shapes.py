"""Schemas of offers and agreements on the wire: the fixed ODRL shape around the law's own dataclasses (policies/odrl.py)."""

from __future__ import annotations

from typing import Any

from policies.agreement import ColumnTerm, LogIdentity, Party
from policies.conditions import Approvals, Window
from policies.declaration import Declaration
from policies.joint import Pool
from policies.names import PATTERNS
from policies.odrl import CONTEXT, OPERANDS, OPTIONAL, PROFILE
from policies.scorer import Scorer

_NAME = {"type": "string", "pattern": f"^{PATTERNS['require_name']}$"}
_DATASET = {"type": "string", "pattern": f"^{PATTERNS['require_dataset']}$"}


def _object(properties: dict[str, Any], **others: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False, **others}


_TEXTS = {"type": "array", "items": {"type": "string"}}
_RIGHT: dict[str, Any] = {
    **dict.fromkeys(("purposes", "recipients", "enclave_kinds", "measurements", "pre_approved", "output_kinds", "isolation"), _TEXTS),
    **dict.fromkeys(("enclave_jurisdictions", "recipient_jurisdictions"), _TEXTS),
    **{key: {"type": "integer"} for key in ("minimum_group", "uses", "evidence_age", "output_rows", "output_bytes", "quantum")},
    **{key: {"type": "string", "pattern": "^[0-9-]{10}T[0-9:]{8}Z$"} for key in ("not_before", "not_after")},
    "no_debug": {"const": True},
    "exchange_only": {"const": True},
    "windows": {"type": "array", "items": Window},
    "approvals": Approvals,
}
"""Field of `Terms` -> schema of its right operand; losses and whatever is not named are described by their rule only."""


def _duty(action: str, **members: Any) -> dict[str, Any]:
    return _object({"action": {"const": action}, **members})


_DUTIES = [
    _duty(
        "compensate",
        **{
            "sb:before": {"const": True},
            "sb:amount": {"type": "string"},
            "sb:currency": {"type": "string", "pattern": "^[A-Z]{3}$"},
            "sb:per": {"enum": ["agreement", "job"]},
        },
    ),
    _duty("inform", **{"sb:informed": {"type": "array", "items": _NAME}}),
    _duty("attribute", **{"sb:text": {"type": "string"}}),
    _duty("delete", **{"sb:afterDays": {"type": "integer"}}),
    _duty("nextPolicy", **{"sb:recipients": {"type": "array", "items": _NAME}, "sb:purposes": _TEXTS}),
]

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
                    _object({"leftOperand": {"const": left}, "operator": {"const": operator}, "rightOperand": _RIGHT.get(field, {})})
                    for (left, operator), field in OPERANDS.items()
                ]
            },
        },
        "sb:column": {"type": "array", "items": ColumnTerm},
    }
)
_PERMISSION["properties"]["duty"] = {"type": "array", "minItems": 1, "maxItems": len(_DUTIES), "items": {"anyOf": _DUTIES}}


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

_BESIDES = {name: {"type": "array", "items": item, "minItems": 1} for name, item in (("sb:pool", Pool), ("sb:scorer", Scorer))}
AGREEMENT = {**_AGREEMENT, "properties": {**_AGREEMENT["properties"], **_BESIDES}}
"""Pools and scorers stand in it where there are any."""
