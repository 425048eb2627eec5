"""Offers and agreements on the wire: ODRL 2.2 (W3C Recommendation 2018) in one fixed JSON-LD shape under our profile.

A document has exactly one spelling: parsing renders the typed value again and refuses a document that differs, so nothing in a signed
document can be ignored by the law. The subset: one permission per dataset, action `sb:aggregate`, constraints that all must hold with
the left operands of `OPERANDS`, and the duties of policies/odrl_duties.py. An unknown left operand, an unknown duty, a prohibition or
another conflict strategy is refused.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from policies.agreement import Agreement, LogIdentity, Offer, Party, Terms
from policies.canonical import canonical, digest
from policies.codec import decode, encode
from policies.declaration import Declaration
from policies.errors import Malformed
from policies.joint import Pool
from policies.odrl_duties import duty_documents, duty_fields
from policies.privacy import PARAMETERS, Loss, Measure, parse_loss, units_to_decimal
from policies.scorer import Scorer

PROFILE = "urn:sandbox:odrl-profile:1"
CONTEXT = ["http://www.w3.org/ns/odrl.jsonld", {"sb": PROFILE + "#"}]

OPERANDS = {
    ("purpose", "isAnyOf"): "purposes",
    ("dateTime", "gteq"): "not_before",
    ("dateTime", "lt"): "not_after",
    ("recipient", "isAnyOf"): "recipients",
    ("sb:minimumGroup", "gteq"): "minimum_group",
    ("sb:jobLoss", "lteq"): "job_loss",
    ("sb:totalLoss", "lteq"): "total_loss",
    ("sb:consumerLoss", "lteq"): "consumer_loss",
    ("sb:totalRefresh", "eq"): "total_refresh",
    ("sb:consumerRefresh", "eq"): "consumer_refresh",
    ("sb:enclaveKind", "isAnyOf"): "enclave_kinds",
    ("sb:measurement", "isAnyOf"): "measurements",
    ("count", "lteq"): "uses",
    ("sb:timeWindow", "isAnyOf"): "windows",
    ("sb:enclaveJurisdiction", "isAnyOf"): "enclave_jurisdictions",
    ("sb:recipientJurisdiction", "isAnyOf"): "recipient_jurisdictions",
    ("sb:noDebug", "eq"): "no_debug",
    ("sb:evidenceAge", "lteq"): "evidence_age",
    ("sb:preApproved", "isAnyOf"): "pre_approved",
    ("sb:outputKind", "isAnyOf"): "output_kinds",
    ("sb:outputRows", "lteq"): "output_rows",
    ("sb:outputBytes", "lteq"): "output_bytes",
    ("sb:approvals", "gteq"): "approvals",
    ("sb:exchangeOnly", "eq"): "exchange_only",
    ("sb:isolation", "isAllOf"): "isolation",
    ("sb:platform", "isAllOf"): "platforms",
    ("sb:scoredRows", "lteq"): "scored_rows",
    ("sb:scoreDecimals", "lteq"): "score_decimals",
    ("sb:withholdProbing", "eq"): "withhold_probing",
    ("sb:division", "eq"): "division",
    ("sb:quantum", "gteq"): "quantum",
}
"""(left operand, operator) -> field of `Terms`; each appears exactly once in a permission, those of `OPTIONAL` at most once."""

OPTIONAL = frozenset(
    {
        "consumer_loss",
        "total_refresh",
        "consumer_refresh",
        "uses",
        "windows",
        "enclave_jurisdictions",
        "recipient_jurisdictions",
        "no_debug",
        "evidence_age",
        "pre_approved",
        "output_kinds",
        "output_rows",
        "output_bytes",
        "approvals",
        "exchange_only",
        "isolation",
        "platforms",
        "scored_rows",
        "score_decimals",
        "withhold_probing",
        "division",
        "quantum",
    }
)
_LOSSES = frozenset({"job_loss", "total_loss", "consumer_loss"})


def offer_document(offer: Offer) -> dict[str, Any]:
    """Return the ODRL document of an offer."""
    return {
        "@context": CONTEXT,
        "@type": "Offer",
        "profile": PROFILE,
        "uid": f"urn:sandbox:offer:{offer.uid}",
        "sb:title": offer.title,
        "sb:declaration": encode(offer.declaration),
        "permission": [_permission(offer.terms, offer.declaration.provider)],
    }


def agreement_document(agreement: Agreement) -> dict[str, Any]:
    """Return the ODRL document of an agreement. Pools and scorers stand beside the permissions where there are any."""
    pools = {"sb:pool": [encode(pool) for pool in agreement.pools]} if agreement.pools else {}
    scorers = {"sb:scorer": [encode(scorer) for scorer in agreement.scorers]} if agreement.scorers else {}
    return (
        pools
        | scorers
        | {
            "@context": CONTEXT,
            "@type": "Agreement",
            "profile": PROFILE,
            "uid": f"urn:sandbox:agreement:{agreement.uid}",
            "conflict": "prohibit",
            "sb:title": agreement.title,
            "sb:log": encode(agreement.log),
            "sb:party": [encode(party) for party in agreement.parties],
            "sb:declaration": [encode(declaration) for declaration in agreement.declarations],
            "permission": [
                _permission(terms, declaration.provider) for terms, declaration in zip(agreement.terms, agreement.declarations, strict=True)
            ],
        }
    )


def agreement_digest(agreement: Agreement) -> str:
    """Return the digest that names an agreement."""
    return digest(agreement_document(agreement))


def parse_offer(document: Any) -> Offer:
    """Return the offer that an ODRL document spells. Raises Malformed."""
    body = _object(document, "Offer", {"sb:title", "sb:declaration", "permission"})
    permissions = _list(body["permission"], "permission")
    if len(permissions) != 1:
        raise Malformed("an offer has one permission", where="permission")
    offer = Offer(
        uid=_uid(body["uid"], "offer"),
        title=decode(str, body["sb:title"], "sb:title"),
        declaration=decode(Declaration, body["sb:declaration"], "sb:declaration"),
        terms=_terms(permissions[0], "permission[0]"),
    )
    _require_same(document, offer_document(offer))
    return offer


def parse_agreement(document: Any) -> Agreement:
    """Return the agreement that an ODRL document spells. Raises Malformed."""
    fields = {"conflict", "sb:title", "sb:log", "sb:party", "sb:declaration", "permission"}
    besides = {"sb:pool", "sb:scorer"} & set(document) if isinstance(document, dict) else set()
    body = _object(document, "Agreement", fields | besides)
    agreement = Agreement(
        uid=_uid(body["uid"], "agreement"),
        title=decode(str, body["sb:title"], "sb:title"),
        log=decode(LogIdentity, body["sb:log"], "sb:log"),
        parties=decode(tuple[Party, ...], body["sb:party"], "sb:party"),
        declarations=decode(tuple[Declaration, ...], body["sb:declaration"], "sb:declaration"),
        terms=tuple(_terms(permission, f"permission[{index}]") for index, permission in enumerate(_list(body["permission"], "permission"))),
        pools=decode(tuple[Pool, ...], body["sb:pool"], "sb:pool") if "sb:pool" in besides else (),
        scorers=decode(tuple[Scorer, ...], body["sb:scorer"], "sb:scorer") if "sb:scorer" in besides else (),
    )
    _require_same(document, agreement_document(agreement))
    return agreement


@lru_cache(maxsize=4096)
def timestamp(seconds: int) -> str:
    """Return seconds since 1970 as an RFC 3339 UTC time."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: Any, where: str) -> int:
    """Return an RFC 3339 UTC time (`2026-01-31T00:00:00Z`) as seconds since 1970. Raises Malformed."""
    try:
        return int(datetime.strptime(decode(str, text, where), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC).timestamp())
    except ValueError as error:
        raise Malformed("must be a UTC time like 2026-01-31T00:00:00Z", where=where) from error


def _permission(terms: Terms, provider: str) -> dict[str, Any]:
    right: dict[str, Any] = {
        "not_before": timestamp(terms.not_before),
        "not_after": timestamp(terms.not_after),
    }
    right |= {field: _loss_document(loss) for field in _LOSSES if (loss := getattr(terms, field)) is not None}
    return {
        "target": terms.dataset,
        "assigner": provider,
        "assignee": list(terms.assignees),
        "action": "sb:aggregate",
        "constraint": [
            {"leftOperand": left, "operator": operator, "rightOperand": right.get(field, encode(getattr(terms, field)))}
            for (left, operator), field in OPERANDS.items()
            if field not in OPTIONAL or getattr(terms, field) not in (None, False, ())
        ],
        **({"duty": duties} if (duties := duty_documents(terms)) else {}),
        "sb:column": [encode(term) for term in terms.columns],
    }


def _terms(value: Any, where: str) -> Terms:
    if not isinstance(value, dict):
        raise Malformed("must be an object", where=where)
    fields: dict[str, Any] = {
        "dataset": value.get("target"),
        "assignees": value.get("assignee"),
        "columns": value.get("sb:column"),
        **duty_fields(_list(value.get("duty", []), f"{where}.duty"), f"{where}.duty"),
    }
    for index, constraint in enumerate(_list(value.get("constraint"), f"{where}.constraint")):
        at = f"{where}.constraint[{index}]"
        if not isinstance(constraint, dict):
            raise Malformed("must be an object", where=at)
        left, operator = constraint.get("leftOperand"), constraint.get("operator")
        field = OPERANDS.get((left, operator)) if isinstance(left, str) and isinstance(operator, str) else None
        if field is None:
            raise Malformed(f"unknown constraint {str(left)[:40]!r} {str(operator)[:20]!r}", where=at, code="unknown-term")
        if field in fields:
            raise Malformed(f"`{left} {operator}` appears twice", where=at)
        fields[field] = _right_operand(field, constraint.get("rightOperand"), f"{at}.rightOperand")
    missing = [f"{left} {operator}" for (left, operator), field in OPERANDS.items() if field not in fields and field not in OPTIONAL]
    if missing:
        raise Malformed(f"constraint `{missing[0]}` is missing", where=f"{where}.constraint")
    return decode(Terms, fields, where)


def _right_operand(field: str, value: Any, where: str) -> Any:
    if field in ("not_before", "not_after"):
        return parse_timestamp(value, where)
    if field in _LOSSES:
        return encode(_loss(value, where))
    return value


def _loss(value: Any, where: str) -> Loss:
    measure = value.get("sb:measure") if isinstance(value, dict) else None
    if not isinstance(measure, str) or measure not in PARAMETERS:
        raise Malformed("must be an object with sb:measure `pure` and sb:epsilon, or `zcdp` and sb:rho", where=where)
    known: Measure = measure
    name = f"sb:{PARAMETERS[known]}"
    delta0 = decode(str, value.get("sb:delta0", "0"), f"{where}.sb:delta0")
    return parse_loss(known, decode(str, value.get(name), f"{where}.{name}"), delta0, f"{where}.{name}")


def _loss_document(loss: Loss) -> dict[str, str]:
    found = {"sb:measure": loss.measure, f"sb:{PARAMETERS[loss.measure]}": loss.epsilon}
    return found | ({"sb:delta0": units_to_decimal(loss.delta0, 12)} if loss.delta0 else {})


def _object(document: Any, kind: str, fields: set[str]) -> dict[str, Any]:
    if not isinstance(document, dict) or document.get("@type") != kind:
        raise Malformed(f"must be an ODRL {kind} (@type)", where="@type")
    if document.get("@context") != CONTEXT or document.get("profile") != PROFILE:
        raise Malformed(f"must use our context and profile {PROFILE}", where="profile")
    expected = fields | {"@context", "@type", "profile", "uid"}
    for name in sorted(expected ^ set(decode(dict[str, Any], document))):
        problem = "unknown field" if name in document else "missing field"
        raise Malformed(f"{problem} `{name[:60]}`", code="unknown-field" if name in document else "malformed")
    return document


def _uid(value: Any, kind: str) -> str:
    text, prefix = decode(str, value, "uid"), f"urn:sandbox:{kind}:"
    if not text.startswith(prefix):
        raise Malformed(f"must begin with {prefix}", where="uid")
    return text.removeprefix(prefix)


def _list(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list) or len(value) > 1000:
        raise Malformed("must be a list of at most 1000", where=where)
    return value


def _require_same(document: Any, rendered: Any) -> None:
    if canonical(document) != canonical(rendered):
        raise Malformed("the document says more than the law reads, or says it in another form", code="not-canonical")
