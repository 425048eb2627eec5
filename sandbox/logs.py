"""What processes of the service write to standard error: lines of text or of JSON.

A line holds a fixed set of fields that the code names. No exception text is written, only its type and where it was raised: the text of
a database error, for one, carries the statement with its values.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback

FIELDS = ("request_id", "method", "route", "status", "code", "ms", "step", "worker")
"""What a line may carry besides time, level and event."""


class TextFormatter(logging.Formatter):
    """One line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        shown = " ".join(f"{name}={value}" for name, value in facts(record).items() if name not in ("at", "level", "event"))
        return f"{_time(record)} {record.levelname.lower()} {record.getMessage()} {shown}".rstrip()


class JsonFormatter(logging.Formatter):
    """One JSON object for programs."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record."""
        return json.dumps(facts(record), ensure_ascii=False, separators=(",", ":"))


def facts(record: logging.LogRecord) -> dict[str, object]:
    """What a line says."""
    found: dict[str, object] = {"at": _time(record), "level": record.levelname.lower(), "event": record.getMessage()}
    found |= {name: value for name in FIELDS if (value := getattr(record, name, None)) not in (None, "")}
    if record.exc_info and record.exc_info[0] is not None:
        found["error"] = record.exc_info[0].__name__
        frames = traceback.extract_tb(record.exc_info[2])
        found["raised"] = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[-12:]]
    return found


def formatter(kind: str) -> logging.Formatter:
    """The formatter of `text` or `json`."""
    return JsonFormatter() if kind == "json" else TextFormatter()


def write_logs(kind: str) -> None:
    """Write what the service logs to standard error as `text` or `json`; again replaces the form."""
    logger = logging.getLogger("sandbox")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(kind))
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)
    logger.propagate = False


def _time(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
