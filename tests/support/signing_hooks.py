"""Hooks for schemathesis: documents that it makes are signed by a participant, so that the service looks into them.

`HOME` in the environment variable `SIGNING_HOME` is that participant's folder; without it nothing is signed.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import schemathesis

from enclaves.kit.envelope import sign_document
from policies.codec import encode
from policies.errors import SandboxError
from sandbox.party.home import Home

MEMBERS = {"purpose", "by", "body", "signature"}


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
