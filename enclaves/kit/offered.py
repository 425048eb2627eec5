"""An offered model as the table that its owner publishes: parts of text in their order."""

from __future__ import annotations

import pyarrow as pa

from policies.model import Model
from policies.service import MODEL_COLUMN, PART_COLUMN, model_parts


def model_table(model: Model) -> pa.Table:
    """Return the table of a model, declared as `policies.service.model_declaration` says. Raises Malformed for one that is too large."""
    parts = model_parts(model)
    return pa.table({PART_COLUMN: pa.array(range(len(parts)), pa.int64()), MODEL_COLUMN: pa.array(parts, pa.string())})
