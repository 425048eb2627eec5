"""The web server's worker with all its patience shortened, so that a test need not wait for it."""

from __future__ import annotations

from sandbox.web.server_worker import Worker as PatientWorker


class Worker(PatientWorker):
    """As the service's, within seconds."""

    head_s = 1.0
    body_s = 2.0
    upload_s = 3.0
    stall_s = 2
