"""Every version of the law that a logged decision may name, with what it decides and grants. Old versions are never taken away."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from policies import decide as law2_decide
from policies import grant as law2_grant
from policies import query as law2_query
from policies.agreement import Agreement
from policies.errors import Malformed
from policies.finding import Decision
from policies.grant import AnyGrant, AnyPlan
from policies.law1 import decide as law1_decide
from policies.law1 import grant as law1_grant
from policies.law1 import query as law1_query
from policies.request import Facts, JobRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class Law:
    """One version of the law, over plans of its own kind."""

    plan: type[Any]
    decides: Callable[[JobRequest, Agreement, Any, Facts], Decision]
    grants: Callable[[str, str, JobRequest, Agreement, Any, Facts, Decision], AnyGrant]

    def decide(self, request: JobRequest, agreement: Agreement, plan: AnyPlan, facts: Facts) -> Decision:
        """The decision under this law. Raises Malformed for a plan of another law."""
        if not isinstance(plan, self.plan):
            raise Malformed("the plan is of another law than the decision")
        return self.decides(request, agreement, plan, facts)


LAWS: dict[str, Law] = {
    law1_decide.VERSION: Law(plan=law1_query.Plan, decides=law1_decide.decide, grants=law1_grant.make_grant),
    law2_decide.LAW_VERSION: Law(plan=law2_query.Plan, decides=law2_decide.decide, grants=law2_grant.entail),
}


def law_of(name: str) -> Law:
    """Return the law of that version. Raises Malformed."""
    if name not in LAWS:
        raise Malformed(f"decided under `{name[:40]}`, a law that this code does not have")
    return LAWS[name]
