"""The web server's own messages in the form of the service's log."""

from __future__ import annotations

from typing import Any

from gunicorn.glogging import Logger

from sandbox.logs import JsonFormatter


class JsonLogger(Logger):  # type: ignore[misc]
    """gunicorn's logger, writing JSON lines."""

    def setup(self, cfg: Any) -> None:
        """Set up as gunicorn does, then replace the form of the lines."""
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(JsonFormatter())
