"""The town that the tests of this folder begin with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.runs import Town, copy_town, found_town


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A town's folder at rest, right after everybody signed. Nobody changes it: tests take copies."""
    folder = tmp_path_factory.mktemp("town") / "template"
    found_town(folder).close()
    return folder


@pytest.fixture
def town(template: Path, tmp_path: Path) -> Iterator[Town]:
    """A town of the test's own."""
    found = copy_town(template, tmp_path / "town")
    yield found
    found.close()
