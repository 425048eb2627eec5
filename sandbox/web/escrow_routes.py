"""Operations of exchanges of two legs, part of the table in `sandbox/web/routes.py`."""

from __future__ import annotations

from policies.exchange import Exchange, ExchangeAct
from sandbox.web import escrow_api
from sandbox.web.escrow_views import Exchanges, ExchangeView
from sandbox.web.models import ExchangesQuery, SignedOnly
from sandbox.web.operation import Operation, PathPart
from sandbox.web.shapes import Document


def operations(api: str, digest: PathPart, again: str, pages: str) -> tuple[Operation, ...]:
    """The operations below `api`.

    Args:
        digest: describes a digest in a path.
        again: what the same document does when it is sent again. `pages`: how a listing is read to its end.
    """
    return (
        Operation(
            method="POST", path=f"{api}/exchanges", view=escrow_api.propose_exchange, tag="exchanges", status=201, body=SignedOnly,
            document=Document(purpose="exchange", body=Exchange), answer=ExchangeView, errors=(403, 404, 409),
            summary="Propose an exchange of two legs to another participant.", description=again,
        ),
        Operation(
            method="GET", path=f"{api}/exchanges", view=escrow_api.list_exchanges, tag="exchanges", query=ExchangesQuery,
            answer=Exchanges, summary="The caller's exchanges, as participant or arbiter, newest first.", description=pages,
        ),
        Operation(
            method="GET", path=f"{api}/exchanges/<digest:digest>", view=escrow_api.one_exchange, tag="exchanges", parts={"digest": digest},
            answer=ExchangeView, summary="One exchange of the caller's.",
        ),
        Operation(
            method="POST", path=f"{api}/exchanges/acts", view=escrow_api.act_on_exchange, tag="exchanges", body=SignedOnly,
            document=Document(purpose="exchange-act", body=ExchangeAct), answer=ExchangeView, errors=(403, 404, 409),
            summary="Accept, refuse or withdraw from an exchange, give, acknowledge or receive a leg, dispute or resolve.",
            description=f"The acknowledgement that makes both hands both legs over in the same transaction. {again}",
        ),
    )  # fmt: skip
