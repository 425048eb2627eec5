"""Hooks for schemathesis: documents that it makes are signed by a participant, so that the service looks into them.

The environment variable `SIGNING_HOME` is that participant's folder; without it nothing is signed. With `EACH_BOUND=n` only every n-th of
the requests at the bounds of an operation's schema is made, of an agreement's or an offer's, which has thousands of bounds, every 4n-th.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import schemathesis

from enclaves.kit.envelope import sign_document
from policies.codec import encode
from policies.errors import SandboxError
from sandbox.party.home import Home

EACH = int(os.environ.get("EACH_BOUND", "1"))
THOUSANDS = ("/api/v1/agreements", "/api/v1/offers")
MEMBERS = {"purpose", "by", "body", "signature"}
_seen: Counter[str] = Counter()


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Whether a request is made: each that is drawn at random, and at the bounds the first and every n-th of an operation."""
    if EACH == 1 or case.meta is None or case.meta.phase.name != "coverage":
        return True
    label = case.operation.label
    _seen[label] += 1
    return (_seen[label] - 1) % (EACH * 4 if case.operation.path.startswith(THOUSANDS) else EACH) == 0


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """Sign a document whose envelope is whole. One that is not is meant to be refused as it is."""
    folder = os.environ.get("SIGNING_HOME")
    signed = case.body.get("signed") if folder and isinstance(case.body, dict) else None
    if not isinstance(signed, dict) or set(signed) != MEMBERS or not isinstance(signed["body"], dict):
        return
    whole = isinstance(signed["by"], str) and re.fullmatch("[a-z][a-z0-9_]*", signed["by"])
    if not whole or not isinstance(signed["purpose"], str) or not re.fullmatch("[0-9a-f]{128}", str(signed["signature"])):
        return
    home = Home.open(Path(str(folder)))
    try:
        case.body["signed"] = encode(sign_document(signed["purpose"], home.participant, signed["body"], home.signing))
    except (SandboxError, TypeError, ValueError):
        return  # what has no canonical form cannot be signed, and is sent as it is
