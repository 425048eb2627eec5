"""Operations of audit scopes, part of the table in `sandbox/web/routes.py`."""

from __future__ import annotations

from policies.audit_scope import AuditScope, SignedAuditScope
from sandbox.web import scope_api, scope_views
from sandbox.web.models import RangeQuery, SignedOnly
from sandbox.web.operation import Operation, PathPart
from sandbox.web.shapes import Document


def operations(api: str, digest: PathPart, again: str) -> tuple[Operation, ...]:
    """The operations below `api`. `digest` describes a digest in a path, `again` says what the same document does when it is sent again."""
    return (
        Operation(
            method="POST", path=f"{api}/agreements/audit-scopes", view=scope_api.give_scope, tag="agreements", status=201, body=SignedOnly,
            document=Document(purpose="audit-scope", body=AuditScope), answer=SignedAuditScope, errors=(403, 404, 409),
            summary="Say which openings of the caller's entries an auditor's credential opens, and when.",
            description=f"The newest scope of an owner for an auditor counts at once; one without kinds takes everything back. {again}",
        ),
        Operation(
            method="GET", path=f"{api}/agreements/<digest:digest>/audit-scopes", view=scope_api.list_scopes, tag="agreements",
            parts={"digest": digest}, answer=scope_views.AuditScopes,
            summary="The audit scopes under an agreement: all for its parties, its own for an auditor.",
        ),
        Operation(
            method="GET", path=f"{api}/log/opening-decisions", view=scope_api.explain_openings, tag="log", query=RangeQuery,
            answer=scope_views.OpeningDecisions, summary="Why the caller's audit scopes open the entries of a range, or do not.",
            description="With every owner's finding and the smallest change that would open an entry.",
        ),
    )  # fmt: skip
