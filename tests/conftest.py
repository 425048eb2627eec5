"""How many examples a property is tried on where its test does not say: few in every run, many with SANDBOX_FULL=1.

The few are the same in every run, so that no change is held up by what chance turns up elsewhere; the many are new ones each time. A slow
machine is no finding: neither an example nor making one has a deadline.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

PATIENT = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("usual", max_examples=40, derandomize=True, **PATIENT)
settings.register_profile("full", max_examples=400, **PATIENT)
settings.load_profile("full" if os.environ.get("SANDBOX_FULL") else "usual")
