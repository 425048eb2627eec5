"""Operations of encrypted scoring, part of the table in `sandbox/web/routes.py`."""

from __future__ import annotations

from policies.scorer import ScoreRequest, ScoreReturn, ScoreStatement
from sandbox.audit.scoring_receipt import ScoreReceipt
from sandbox.web import scoring_api, scoring_views, views
from sandbox.web.models import SignedOnly
from sandbox.web.operation import Media, Operation, PathPart
from sandbox.web.shapes import Document

SCORING = PathPart(pattern="^scoring-[0-9a-f]{20}$", description="Id of an encrypted scoring.")


def operations(api: str, digest: PathPart, again: str) -> tuple[Operation, ...]:
    """The operations below `api`. `digest` describes a digest in a path, `again` says what the same document does when it is sent again."""
    return (
        Operation(
            method="POST", path=f"{api}/scorings", view=scoring_api.ask, tag="encrypted scoring", status=201, body=SignedOnly,
            document=Document(purpose="score-request", body=ScoreRequest), answer=scoring_views.ScoringView, errors=(403, 404, 409),
            summary="Ask for scores of encrypted rows.", description=f"A denied request answers 403 with the findings. {again}",
        ),
        Operation(
            method="GET", path=f"{api}/scorings", view=scoring_api.list_scorings, tag="encrypted scoring", answer=scoring_views.Scorings,
            summary="Scorings of the caller's, as client or as owner of the model, that have not ended.",
        ),
        Operation(
            method="GET", path=f"{api}/scorings/<scoring_id>", view=scoring_api.one_scoring, tag="encrypted scoring",
            parts={"scoring_id": SCORING}, answer=scoring_views.ScoringView, summary="One scoring of the caller's.",
        ),
        Operation(
            method="POST", path=f"{api}/scorings/<scoring_id>/files", view=scoring_api.add_score_file, tag="encrypted scoring", status=201,
            parts={"scoring_id": SCORING}, answer=views.Uploaded, errors=(403, 409),
            body=Media(type="application/octet-stream", description="Half a public key and ciphertexts, or an answer, as bare bytes."),
            summary="Upload the caller's part of a scoring.", description="It has exactly the size that follows from the request.",
        ),
        Operation(
            method="GET", path=f"{api}/scorings/<scoring_id>/files/<digest:name>", view=scoring_api.score_file, tag="encrypted scoring",
            parts={"scoring_id": SCORING, "name": digest},
            answer=Media(type="application/octet-stream", description="The client's ciphertexts for the owner, the answer for the client."),
            summary="The other side's file of a scoring. It is kept for a day.",
        ),
        Operation(
            method="POST", path=f"{api}/score-statements", view=scoring_api.accept_score_statement, tag="encrypted scoring",
            body=SignedOnly, document=Document(purpose="score-statement", body=ScoreStatement), answer=scoring_views.ScoringView,
            errors=(403, 404, 409), summary="State, as the model's owner, how a scoring ended.", description=again,
        ),
        Operation(
            method="POST", path=f"{api}/score-returns", view=scoring_api.accept_score_return, tag="encrypted scoring",
            body=SignedOnly, document=Document(purpose="score-return", body=ScoreReturn), answer=scoring_views.ScoringView,
            errors=(403, 404, 409), summary="Take back, as the client, the rows of a request that its owner let pass.", description=again,
        ),
        Operation(
            method="GET", path=f"{api}/scorings/<scoring_id>/receipt", view=scoring_api.score_receipt, tag="encrypted scoring",
            parts={"scoring_id": SCORING}, answer=ScoreReceipt, summary="The receipt of a scoring that has ended.",
        ),
    )  # fmt: skip
