"""Where vectors that others published lie: beside the checkout, with a README that says from where. Tests that miss them are skipped."""

from __future__ import annotations

from pathlib import Path

import pytest

PUBLISHED = Path(__file__).resolve().parents[2] / "../shared/vectors"


def needs(folder: str) -> pytest.MarkDecorator:
    """Skip a test where one folder of published vectors is missing."""
    return pytest.mark.skipif(not (PUBLISHED / folder).is_dir(), reason=f"published test vectors ../shared/vectors/{folder} are missing")
