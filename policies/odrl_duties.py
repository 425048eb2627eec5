"""Duties of a permission on the wire: actions of the ODRL 2.2 vocabulary with what they need, each at most once, in one order.

`compensate` must be fulfilled before use (ODRL leaves the moment open; `sb:before` says it), the others after a release.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from policies.codec import encode
from policies.errors import Malformed

if TYPE_CHECKING:
    from policies.agreement import Terms

DUTIES = {
    "compensate": "payment",
    "inform": "notify",
    "attribute": "attribution",
    "delete": "delete_after",
    "nextPolicy": "onward",
}
"""ODRL action -> field of `Terms`."""

_MEMBER = {"inform": "sb:informed", "attribute": "sb:text", "delete": "sb:afterDays"}
"""Member that holds the one value of a duty; the other duties spread the members of theirs."""


def duty_documents(terms: Terms) -> list[dict[str, Any]]:
    """Return the duties of a permission."""
    return [_document(action, value) for action, field in DUTIES.items() if (value := getattr(terms, field)) not in (None, ())]


def duty_fields(duties: list[Any], where: str) -> dict[str, Any]:
    """Return the fields of `Terms` that the duties spell, as plain values. Raises Malformed (code `unknown-term`)."""
    fields: dict[str, Any] = {}
    for index, duty in enumerate(duties):
        at = f"{where}[{index}]"
        action = duty.get("action") if isinstance(duty, dict) else None
        if not isinstance(action, str) or action not in DUTIES:
            raise Malformed(f"unknown duty {str(action)[:40]!r}", where=at, code="unknown-term")
        if DUTIES[action] in fields:
            raise Malformed(f"duty `{action}` appears twice", where=at)
        fields[DUTIES[action]] = _value(action, duty)
    return fields


def _document(action: str, value: Any) -> dict[str, Any]:
    if action in _MEMBER:
        return {"action": action, _MEMBER[action]: encode(value)}
    before = {"sb:before": True} if action == "compensate" else {}
    return {"action": action, **before, **{f"sb:{name}": item for name, item in encode(value).items()}}


def _value(action: str, duty: Mapping[str, Any]) -> Any:
    if action in _MEMBER:
        return duty.get(_MEMBER[action])
    return {name.removeprefix("sb:"): item for name, item in duty.items() if name not in ("action", "sb:before")}
