"""Operations of the log, part of the table in `sandbox/web/routes.py`."""

from __future__ import annotations

from sandbox.exchange.cosigning import Cosigned
from sandbox.web import log_api, views
from sandbox.web.models import NoteBody, RangeQuery
from sandbox.web.operation import Media, Operation, PathPart


def operations(api: str, tile: PathPart) -> tuple[Operation, ...]:
    """The operations below `api`; `tile` describes the path of a tile."""
    return (
        Operation(
            method="GET", path=f"{api}/log/checkpoint", view=log_api.checkpoint, tag="log",
            answer=Media(type="text/plain", description="A checkpoint (C2SP tlog-checkpoint) as a signed note."),
            summary="The newest checkpoint, with the cosignatures of witnesses that are kept of it.",
        ),
        Operation(
            method="GET", path=f"{api}/log/checkpoint/cosigned", view=log_api.cosigned_checkpoint, tag="log", errors=(404,),
            answer=Media(type="text/plain", description="A checkpoint (C2SP tlog-checkpoint) with cosignatures (C2SP tlog-cosignature)."),
            summary="The newest checkpoint that a quorum of the operator's witnesses has cosigned.",
        ),
        Operation(
            method="POST", path=f"{api}/log/cosignatures", view=log_api.add_cosignatures, tag="log", status=201, body=NoteBody,
            answer=Cosigned, errors=(403, 404, 409), summary="Keep cosignatures of the operator's witnesses on a checkpoint of the log.",
            description="One that does not verify, or is by nobody whom the operator names, is refused by name, and nothing is kept then.",
        ),
        Operation(
            method="GET", path=f"{api}/log/tile/<path:path>", view=log_api.tile, tag="log", parts={"path": tile},
            answer=Media(type="application/octet-stream", description="Hashes of 32 bytes, or entries with 16-bit lengths."),
            summary="A hash tile or an entry bundle (C2SP tlog-tiles).",
        ),
        Operation(
            method="GET", path=f"{api}/log/entries", view=log_api.entries, tag="log", query=RangeQuery, answer=views.Entries,
            summary="A range of entries, at most 1000.",
        ),
        Operation(
            method="GET", path=f"{api}/log/openings", view=log_api.openings, tag="log", query=RangeQuery, answer=views.Openings,
            summary="Openings of a range that the caller may read, at most 1000 entries.",
        ),
        Operation(
            method="GET", path=f"{api}/log/lineage", view=log_api.lineage, tag="log", answer=views.LineageView,
            summary="What leads from the first log of the service to the one in force.",
            description="Keys of the log, each signed by the one before it, and epochs that all providers signed.",
        ),
        Operation(
            method="GET", path=f"{api}/log/consistency", view=log_api.consistency, tag="log", query=RangeQuery, errors=(404,),
            answer=views.ConsistencyProof, summary="Proof that the tree of size `to` extends the tree of size `from`.",
        ),
    )  # fmt: skip
